//! The state of a backend in a row of /stats, and its colour in a terminal.
use serde_json::Value;

use crate::cli::top::line::Style;
use crate::pages::state::State;

/// Returns the state of a row. A word from another version is unknown.
pub(crate) fn of(row: &Value) -> State {
    let word = row["state"].as_str();
    let found = State::ALL.into_iter().find(|state| word == Some(state.name()));
    found.unwrap_or(State::Unknown)
}

pub(crate) const fn style(state: State) -> Style {
    match state {
        State::Down | State::Ejected => Style::Bad,
        State::Held | State::Probation | State::Full | State::Warming => Style::Warning,
        State::Current => Style::Accent,
        State::Up => Style::Good,
        State::Maintained | State::Drained | State::Backup | State::Unknown => Style::Dim,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each state by its word; other words, and none, are unknown.
    #[test]
    fn states_by_their_words() {
        for state in State::ALL {
            assert_eq!(of(&json!({"state": state.name()})), state);
        }
        for row in [json!({"state": "new"}), json!({"state": 1}), json!({})] {
            assert_eq!(of(&row), State::Unknown, "{row}");
        }
    }
}
