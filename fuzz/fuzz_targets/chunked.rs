//! See `intelliproxy_fuzzing::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::chunked(data));
