//! Questions about a recording.
use std::time::Duration;

use intelliproxy_core::PolicyKind;

/// A question about a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The files of one recording, in any order.
    pub files: Vec<String>,
    /// The question about it.
    pub question: Question,
    /// The file of a report, for [`Question::Check`] and [`Question::Decide`].
    pub html: Option<String>,
}

/// The kinds of questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Whether every decision is the same again.
    Check,
    /// The reasons for this decision.
    Explain(Which),
    /// The decisions of other rules.
    Decide {
        /// Another policy than the recorded one.
        policy: Option<PolicyKind>,
        /// A file with other rules.
        rules: Option<String>,
    },
    /// A scenario with backends as recorded.
    Fit {
        /// The scenario's file.
        file: String,
    },
}

/// One decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// The first decision at or after this time since the start.
    At(Duration),
    /// The request with this number.
    Request(u64),
}
