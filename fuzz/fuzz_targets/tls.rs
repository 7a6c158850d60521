//! See `intelliproxy_fuzzing::tls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intelliproxy_fuzzing::tls(data));
