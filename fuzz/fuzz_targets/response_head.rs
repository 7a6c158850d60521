//! See `intelliproxy_fuzzing::response_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::response_head(data));
