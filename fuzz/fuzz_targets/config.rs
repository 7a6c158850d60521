//! See `intelliproxy::fuzzing::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy::fuzzing::config(data));
