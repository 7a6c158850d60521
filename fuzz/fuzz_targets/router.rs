//! See `intelliproxy::fuzzing::router`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy::fuzzing::router(data));
