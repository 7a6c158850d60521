//! All figures of the selected backend.
use intelliproxy_core::sorting::sort_by;
use serde_json::Value;

use crate::cli::top::decisions::Decision;
use crate::cli::top::line::{Line, Style};
use crate::cli::top::reading::Row;
use crate::cli::top::text::{bar, columns, left, number, span, visible, whole};
use crate::pages::state::State;

/// Returns the lines about a backend for a window of `wide` columns.
pub(crate) fn lines(row: &Row, decisions: Option<&[Decision]>, wide: usize) -> Vec<Line> {
    let json = &row.json;
    let mut lines = Vec::new();
    let url = json["url"].as_str().unwrap_or("-");
    lines.push(Line::default().and(Style::Bold, &visible(&format!("{}  {url}", row.name), wide)));
    let weight = json["weight"].as_f64().map_or_else(String::new, |w| format!("weight {w:.0} %; "));
    // The standing is an object unless it is "in", which the state before already says.
    let standing = match &json["standing"] {
        Value::Object(_) => format!("{}; ", words(&json["standing"])),
        _ => String::new(),
    };
    let is_current = json["current"] == true && row.state != State::Current;
    let current = if is_current { ", current" } else { "" };
    wrap(
        &mut lines,
        "state",
        &[
            format!("{}{current}; {weight}{standing}", row.state.name()).trim_end().to_owned(),
            format!("{} ejections;", json["ejections"].as_u64().unwrap_or(0)),
            format!("{} requests,", whole(row.requests as f64)),
            format!("{} errors,", whole(row.errors as f64)),
            format!("{} refused", whole(row.refused as f64)),
        ],
        wide,
    );
    let score = row.score.map_or_else(|| "-".to_owned(), number);
    let most = row.parts.iter().map(|(_, points)| *points).fold(0.0, f64::max);
    let mut parts: Vec<_> = row.parts.iter().filter(|(_, points)| *points != 0.0).collect();
    sort_by(&mut parts, |one, other| other.1.total_cmp(&one.1));
    let parts = parts.into_iter().map(|(name, points)| {
        let share = if most > 0.0 { points / most } else { 0.0 };
        format!("{name} {} {} ", number(*points), bar(share, FACTOR))
    });
    let head = format!("score {score}");
    wrap(&mut lines, &head, &parts.collect::<Vec<_>>(), wide);
    let age = |key: &str| json[key].as_f64().map_or_else(|| "-".to_owned(), span);
    wrap(
        &mut lines,
        "ages",
        &[
            format!("ping {},", age("pingAgeMs")),
            format!("report {},", age("reportAgeMs")),
            format!("request {}", age("requestAgeMs")),
        ],
        wide,
    );
    let known = |key: &str| json[key].as_f64().map_or_else(|| "-".to_owned(), number);
    wrap(
        &mut lines,
        "signals",
        &[
            format!("pings {} on average,", age("latencyEwma")),
            format!("{} % lost;", known("lossPercent")),
            format!("responses {} on average;", age("responseEwma")),
            format!("reported queue {},", known("queue")),
            format!("CPU {} ms,", known("cpu")),
            format!(
                "memory {} MB",
                json["memory"].as_f64().map_or_else(|| "-".to_owned(), |b| number(b / 1e6))
            ),
        ],
        wide,
    );
    let policy = json["policy"].as_object().into_iter().flatten();
    let reason = policy.filter(|(key, _)| !matches!(key.as_str(), "guard" | "kind"));
    let reason: Vec<String> =
        reason.map(|(key, value)| format!("{key} {};", words(value))).collect();
    let kind = json["policy"]["kind"].as_str().unwrap_or_default();
    let reason: Vec<String> = [format!("{kind}:")].into_iter().chain(reason).collect();
    wrap(&mut lines, "policy", &reason, wide);
    if let Some(decisions) = decisions {
        lines.extend(last(row, decisions, wide));
    }
    lines
}

/// Returns the last decisions for or about a backend.
fn last(row: &Row, decisions: &[Decision], wide: usize) -> Vec<Line> {
    let is_about = |decision: &&Decision| {
        let why = &decision.why;
        decision.backend.as_ref() == Some(&row.name) || why.contains(&row.name)
    };
    let about = decisions.iter().filter(is_about).take(DECISIONS_MAX);
    let mut lines: Vec<Line> = about
        .map(|decision| {
            let ago = span(decision.ago_ms);
            let text =
                format!("{} ago  {}  {}", left(&ago, 7), left(&decision.rule, 10), decision.why);
            Line::plain(&visible(&text, wide))
        })
        .collect();
    let title = match lines.len() {
        0 => format!("none of the last {} decisions is about it", decisions.len()),
        _ => "last decisions".to_owned(),
    };
    lines.insert(0, Line::default().and(Style::Dim, &title));
    lines
}

/// Returns JSON as short text: numbers rounded, no quotes.
fn words(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if number.fract() == 0.0 {
                whole(number)
            } else {
                crate::cli::top::text::number(number)
            }
        }
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key} {}", words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Bool(is) => is.to_string(),
    }
}

/// Adds pieces after a heading, breaking lines between pieces.
fn wrap(lines: &mut Vec<Line>, heading: &str, pieces: &[String], wide: usize) {
    let heading = left(heading, HEADING.max(columns(heading) + 1));
    let mut text = heading.clone();
    let indent = " ".repeat(columns(&heading));
    for piece in pieces {
        let piece = visible(piece, wide.saturating_sub(indent.len()));
        if columns(&text) > indent.len() && columns(&text) + columns(&piece) > wide {
            lines.push(Line::plain(text.trim_end()));
            text.clone_from(&indent);
        }
        text.push_str(&piece);
        text.push(' ');
    }
    lines.push(Line::plain(text.trim_end()));
}

/// Columns of the headings.
const HEADING: usize = 9;
/// Columns of the largest factor's bar.
const FACTOR: usize = 8;
/// Decisions that are listed.
const DECISIONS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::reading::tests::reading;

    fn texts(row: &Row, decisions: Option<&[Decision]>, wide: usize) -> Vec<String> {
        let lines = lines(row, decisions, wide);
        let written = lines.iter().map(|line| {
            let mut text = String::new();
            line.write(&mut text, false);
            assert!(line.columns() <= wide, "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
            text
        });
        written.collect()
    }

    /// Shows score by factor, ages, the policy's reason and the decisions about the backend. All
    /// lines fit.
    #[test]
    fn a_backend_in_full() {
        let mut row = reading(&[("A", 100, 100)]).rows.remove(0);
        row.json["pingAgeMs"] = 1500.into();
        let decision = |backend: &str, why: &str| Decision {
            ago_ms: 12.0,
            backend: Some(backend.to_owned()),
            rule: "policy".to_owned(),
            why: why.to_owned(),
        };
        let decisions =
            [decision("A", "best\u{1b}[2J"), decision("B", "C"), decision("B", "A full")];
        let text = texts(&row, Some(&decisions), 80);
        for expected in [
            "A  http://u",
            "state    up; weight 100 %; 0 ejections; 100 requests, 10 errors, 0 refused",
            "score 1.5 latency 1.0 ████████  loss 0.5 ████",
            "ages     ping 1.5 s, report -, request -",
            "policy   score: fullAt 4;",
            "last decisions",
            "12.0 ms ago  policy      best\\u{1b}[2J",
            "12.0 ms ago  policy      A full",
        ] {
            assert!(text.iter().any(|line| line == expected), "{expected}: {text:#?}");
        }
        assert!(!text.iter().any(|line| line.ends_with(" C")), "{text:#?}");
        texts(&row, Some(&decisions), 30);
        let none = texts(&row, Some(&decisions[1..2]), 80);
        assert_eq!(none.last().expect("a line"), "none of the last 1 decisions is about it");
    }

    /// Figures of any JSON type are shown as short text.
    #[test]
    fn any_figure_is_shown() {
        let value = serde_json::json!({"state": {"quarantinedForMs": 12.3456}, "list": [1, 2.55], "x": null});
        assert_eq!(words(&value), "list 1 2.5, state quarantinedForMs 12.3, x -");
    }
}
