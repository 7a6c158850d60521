//! The state of a backend, a word in /stats.
use serde_json::Value;

use crate::cli::top::line::Style;

/// The states that a proxy reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Maintained,
    Drained,
    Down,
    Ejected,
    Held,
    Probation,
    Full,
    Warming,
    Current,
    Backup,
    Unknown,
    Up,
}

impl State {
    const ALL: [Self; 12] = [
        Self::Maintained,
        Self::Drained,
        Self::Down,
        Self::Ejected,
        Self::Held,
        Self::Probation,
        Self::Full,
        Self::Warming,
        Self::Current,
        Self::Backup,
        Self::Unknown,
        Self::Up,
    ];

    /// Returns the state in a row of /stats. A word from another version is unknown.
    pub(crate) fn of(row: &Value) -> Self {
        let word = row["state"].as_str();
        let found = Self::ALL.into_iter().find(|state| word == Some(state.word()));
        found.unwrap_or(Self::Unknown)
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Maintained => "maintained",
            Self::Drained => "drained",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Held => "held",
            Self::Probation => "probation",
            Self::Full => "full",
            Self::Warming => "warming",
            Self::Current => "current",
            Self::Backup => "backup",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }

    pub(crate) const fn style(self) -> Style {
        match self {
            Self::Down | Self::Ejected => Style::Bad,
            Self::Held | Self::Probation | Self::Full | Self::Warming => Style::Warning,
            Self::Current => Style::Accent,
            Self::Up => Style::Good,
            Self::Maintained | Self::Drained | Self::Backup | Self::Unknown => Style::Dim,
        }
    }

    /// Whether the backend may get requests.
    pub(crate) const fn is_usable(self) -> bool {
        !matches!(self, Self::Maintained | Self::Drained | Self::Down | Self::Ejected)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each state is found by its word. Other words and a missing word are unknown.
    #[test]
    fn states_by_their_words() {
        for state in State::ALL {
            assert_eq!(State::of(&json!({"state": state.word()})), state);
        }
        for row in [json!({"state": "new"}), json!({"state": 1}), json!({})] {
            assert_eq!(State::of(&row), State::Unknown, "{row}");
        }
    }
}
