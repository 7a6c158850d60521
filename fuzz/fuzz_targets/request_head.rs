//! See `intelliproxy::fuzzing::request_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy::fuzzing::request_head(data));
