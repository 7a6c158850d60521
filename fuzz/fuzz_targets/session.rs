//! See `intelliproxy::fuzzing::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy::fuzzing::session(data));
