//! The last events of the pool, for the live page.
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use intelliproxy_core::Instant;

/// The maximum number of events kept. Most are holds and switches, a few a minute in a restless
/// pool.
pub(super) const EVENTS_MAX: usize = 300;
/// The maximum length of an event's text, in bytes.
const TEXT_MAX: usize = 400;

/// The kind of an event, which the page shows by a shape and a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Switch,
    Hold,
    Ejection,
    Return,
    Up,
    Down,
    Reload,
    Refusal,
    Command,
    Guard,
    Warning,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Hold => "hold",
            Self::Ejection => "ejection",
            Self::Return => "return",
            Self::Up => "up",
            Self::Down => "down",
            Self::Reload => "reload",
            Self::Refusal => "refusal",
            Self::Command => "command",
            Self::Guard => "guard",
            Self::Warning => "warning",
        }
    }
}

/// An event, with its reason and its numbers in words.
#[derive(Clone, Debug)]
struct Event {
    number: u64,
    at: Instant,
    kind: Kind,
    text: String,
}

/// The last events, the oldest one first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    last: VecDeque<Event>,
    count: u64,
}

impl Events {
    pub(crate) fn add(&mut self, now: Instant, kind: Kind, mut text: String) {
        if text.len() > TEXT_MAX {
            let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        if self.last.len() == EVENTS_MAX {
            self.last.pop_front();
        }
        self.count += 1;
        self.last.push_back(Event { number: self.count, at: now, kind, text });
    }

    /// Returns the number of events so far.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Appends the events with these numbers as a JSON array, the oldest one first.
    pub(crate) fn write(&self, numbers: RangeInclusive<u64>, text: &mut String) {
        text.push('[');
        for event in self.last.iter().filter(|event| numbers.contains(&event.number)) {
            let comma = if text.ends_with('[') { "" } else { "," };
            let Event { number, at, kind, text: words } = event;
            let (at, kind) = (at.as_nanos() / 1_000_000, kind.name());
            let words = serde_json::Value::from(words.as_str());
            let _ = write!(text, "{comma}[{number},{at},\"{kind}\",{words}]");
        }
        text.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last 300 events are kept with their numbers. Texts are cut to a maximum length, and any
    /// text becomes valid JSON.
    #[test]
    fn events_are_bounded() {
        let mut events = Events::default();
        for second in 0..310 {
            let text = format!("\"</script>\u{e9}\n{second}{}", "é".repeat(300));
            events.add(Instant::from_millis(1000 * second), Kind::Switch, text);
        }
        let mut text = String::new();
        events.write(1..=310, &mut text);
        let all: Vec<(u64, u64, String, String)> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all.len(), EVENTS_MAX);
        assert_eq!((all[0].0, all[0].1, all[0].2.as_str()), (11, 10_000, "switch"));
        assert!(all[0].3.starts_with("\"</script>\u{e9}\n10é"), "{}", all[0].3);
        assert!(all[0].3.len() <= TEXT_MAX + "…".len());
        let mut text = String::new();
        events.write(310..=310, &mut text);
        assert!(text.starts_with("[[310,309000,") && text.ends_with("]]"), "{text}");
        let mut text = String::new();
        events.write(311..=311, &mut text);
        assert_eq!(text, "[]");
        assert_eq!(events.count(), 310);
    }
}
