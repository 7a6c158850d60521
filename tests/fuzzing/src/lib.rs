//! The bodies of the fuzz targets: functions of bytes that panic if a rule is broken. `fuzz/`
//! passes them libFuzzer's inputs. `tests/corpus.rs` passes them those in `fuzz/corpus/`, so that
//! they run with every `cargo test` and on stable.
//!
//! The targets of this crate use public interfaces only. Those that need the codec's private parts
//! are in `intelliproxy::fuzzing`, and so is the strict reader that they compare it with.
mod config;
mod router;
mod session;

pub use intelliproxy::fuzzing::{chunked, report, request_head, response_head, tls};

pub use self::config::config;
pub use self::router::router;
pub use self::session::session;

/// The body of a target. It panics on a finding.
pub type Target = fn(&[u8]);

/// The targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("session", session),
    ("router", router),
    ("config", config),
    ("tls", tls),
    ("report", report),
];
