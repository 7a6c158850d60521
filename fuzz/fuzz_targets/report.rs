//! See `intelliproxy_fuzzing::report`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::report(data));
