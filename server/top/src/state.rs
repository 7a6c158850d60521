//! The state of a backend as one word.
use serde_json::Value;

use crate::line::Style;

/// The first of these that applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Maintained,
    Drained,
    Down,
    Ejected,
    /// It requested a pause with Retry-After.
    Held,
    Probation,
    Full,
    /// It is new or back, and gets fewer requests for now.
    Warming,
    Current,
    /// It gets requests only while no other backend can take them.
    Backup,
    Unknown,
    Up,
}

impl State {
    /// Returns the state of a row of /stats.
    pub(crate) fn of(row: &Value) -> Self {
        let standing = &row["standing"];
        let has = |key: &str| standing.get(key).is_some();
        let number = |value: &Value| value.as_f64();
        let is_full = number(&row["policy"]["fullAt"])
            .is_some_and(|full| number(&row["workingRequests"]).is_some_and(|at| at >= full));
        match (row["mode"].as_str(), row["health"].as_str()) {
            (Some("maintain"), _) => Self::Maintained,
            (Some("drain"), _) => Self::Drained,
            _ if number(&row["weight"]) == Some(0.0) => Self::Drained,
            (_, Some("down")) => Self::Down,
            _ if has("ejectedForMs") => Self::Ejected,
            _ if number(&row["heldForMs"]).is_some_and(|left| left > 0.0) => Self::Held,
            _ if has("probation") => Self::Probation,
            _ if is_full => Self::Full,
            _ if has("slowStart") => Self::Warming,
            _ if row["current"] == true => Self::Current,
            _ if row["backup"] == true => Self::Backup,
            (_, Some("up")) => Self::Up,
            _ => Self::Unknown,
        }
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

    /// Whether requests may go there.
    pub(crate) const fn is_usable(self) -> bool {
        !matches!(self, Self::Maintained | Self::Drained | Self::Down | Self::Ejected)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each state by the fields that make it; the first that applies wins.
    #[test]
    fn states_by_their_fields() {
        let rows = [
            (json!({"mode": "maintain", "health": "down"}), "maintained"),
            (json!({"mode": "drain", "health": "up", "current": true}), "drained"),
            (json!({"mode": "ready", "weight": 0, "health": "up"}), "drained"),
            (json!({"health": "down", "standing": {"ejectedForMs": 1}}), "down"),
            (json!({"health": "up", "standing": {"ejectedForMs": 1}}), "ejected"),
            (json!({"health": "up", "heldForMs": 4, "standing": "in"}), "held"),
            (json!({"health": "up", "standing": {"probation": 1, "needed": 3}}), "probation"),
            (json!({"workingRequests": 4, "policy": {"fullAt": 4}, "current": true}), "full"),
            (json!({"health": "up", "standing": {"slowStart": 3}}), "warming"),
            (json!({"health": "up", "current": true, "heldForMs": null}), "current"),
            (json!({"health": "up", "standing": "in", "policy": {"fullAt": null}}), "up"),
            (json!({"health": "up", "backup": true}), "backup"),
            (json!({"health": "up", "backup": true, "current": true}), "current"),
            (json!({"health": "up", "backup": false}), "up"),
            (json!({"health": "unknown"}), "unknown"),
            (json!({}), "unknown"),
        ];
        for (row, word) in rows {
            assert_eq!(State::of(&row).word(), word, "{row}");
        }
    }
}
