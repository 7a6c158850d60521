//! Reads the last decisions from /explain.
use serde_json::Value;

use crate::cli::top::http::json;

/// A decision of the router.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) ago_ms: f64,
    /// The chosen backend; `None` if no backend was chosen.
    pub(crate) backend: Option<String>,
    pub(crate) rule: String,
    pub(crate) why: String,
}

/// Parses the body of /explain; `None` if the body is not from /explain.
pub(crate) fn parse(body: &[u8]) -> Option<Vec<Decision>> {
    let json = json(body)?;
    let rows = json["decisions"].as_array()?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let decisions = rows.map(|row| Decision {
        ago_ms: row["agoMs"].as_f64().unwrap_or(f64::NAN),
        backend: row["backend"].as_str().map(str::to_owned),
        rule: text(&row["rule"]),
        why: text(&row["why"]),
    });
    Some(decisions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions are parsed in their order, and any other page is refused.
    #[test]
    fn decisions_are_parsed() {
        let body = br#"{"decisions": [
            {"request": 2, "agoMs": 12.5, "backend": "A", "rule": "policy", "why": "A is best"},
            {"request": null, "agoMs": 20, "backend": null, "rule": "none", "why": "x"}]}"#;
        let decisions = parse(body).expect("decisions");
        let first = &decisions[0];
        assert_eq!((first.ago_ms, first.backend.as_deref()), (12.5, Some("A")));
        assert_eq!((&*first.rule, &*first.why), ("policy", "A is best"));
        assert_eq!(decisions[1].backend, None);
        assert_eq!(parse(b"Hello from backend"), None);
        assert_eq!(parse(b"{}"), None);
    }
}
