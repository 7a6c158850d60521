//! See `intelliproxy::fuzzing::response_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy::fuzzing::response_head(data));
