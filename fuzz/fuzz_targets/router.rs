//! See `intelliproxy_fuzzing::router`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::router(data));
