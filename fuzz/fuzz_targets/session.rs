//! See `intelliproxy_fuzzing::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::session(data));
