//! The whole window as lines: head, table, the selected backend, and the keys.
use std::cmp::Ordering;
use std::time::Duration;

use intelliproxy_core::sorting::sort_by;

use crate::cli::top::detail;
use crate::cli::top::history::{History, Rates};
use crate::cli::top::keys::Key;
use crate::cli::top::line::{Line, Style};
use crate::cli::top::reading::Reading;
use crate::cli::top::table::{Layout, error_style};
use crate::cli::top::text::{number, span};

/// The order of the rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    Configured,
    Name,
    Share,
    Rate,
    P99,
    Errors,
    Score,
    InFlight,
}

impl Order {
    const fn word(self) -> &'static str {
        match self {
            Self::Configured => "configuration",
            Self::Name => "name",
            Self::Share => "share",
            Self::Rate => "requests/s",
            Self::P99 => "p99",
            Self::Errors => "errors",
            Self::Score => "score",
            Self::InFlight => "in flight",
        }
    }
}

/// The contents of the window.
#[derive(Debug)]
pub(crate) struct Screen {
    address: String,
    reading: Option<Reading>,
    rates: Rates,
    history: History,
    /// The time of the last reading, and the error of the last attempt, if it failed.
    read_at: Duration,
    gone: Option<String>,
    order: Order,
    is_reversed: bool,
    /// The name of the selected backend.
    selected: Option<String>,
    /// Number of rows above the window.
    above: usize,
    /// Number of rows in the window when it was last drawn.
    page: usize,
}

impl Screen {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            reading: None,
            rates: Rates::default(),
            history: History::default(),
            read_at: Duration::ZERO,
            gone: None,
            order: Order::Configured,
            is_reversed: false,
            selected: None,
            above: 0,
            page: 10,
        }
    }

    /// Applies a reading, or the error of an attempt.
    pub(crate) fn handle_reading(&mut self, now: Duration, reading: Result<Reading, String>) {
        match reading {
            Ok(reading) => {
                self.history.add(now, &reading);
                self.rates = self.history.rates(&reading);
                (self.read_at, self.gone) = (now, None);
                self.reading = Some(reading);
            }
            Err(wrong) => self.gone = Some(wrong),
        }
    }

    pub(crate) const fn has_selection(&self) -> bool {
        self.selected.is_some()
    }

    /// Applies a key.
    pub(crate) fn handle_key(&mut self, key: Key) {
        let rows = self.reading.as_ref().map_or(0, |reading| reading.rows.len());
        match key {
            Key::Letter(letter) => {
                if let Some(order) = order_of(letter) {
                    self.is_reversed = self.order == order && !self.is_reversed;
                    self.order = order;
                    self.above = 0;
                }
            }
            Key::Up => self.select(|at| at.saturating_sub(1), rows.saturating_sub(1)),
            Key::Down => self.select(|at| at + 1, 0),
            Key::PageUp => self.above = self.above.saturating_sub(self.page),
            // `draw` limits the value.
            Key::PageDown => self.above += self.page,
            Key::Home => self.above = 0,
            Key::End => self.above = rows,
            Key::Escape => self.selected = None,
        }
        if matches!(key, Key::PageUp | Key::PageDown | Key::Home | Key::End) {
            self.selected = None;
        }
    }

    /// Moves the selection to the index that `next` returns for the current one, or to `first` if
    /// no row is selected.
    fn select(&mut self, next: impl Fn(usize) -> usize, first: usize) {
        let Some(reading) = &self.reading else { return };
        let order = self.sorted(reading);
        let place = self
            .selected
            .as_ref()
            .and_then(|name| order.iter().position(|row| reading.rows[*row].name == *name));
        let at = place.map_or(first, next).min(order.len().saturating_sub(1));
        self.selected = order.get(at).map(|row| reading.rows[*row].name.clone());
    }

    /// Returns the rows in their order.
    fn sorted(&self, reading: &Reading) -> Vec<usize> {
        let mut order: Vec<usize> = (0..reading.rows.len()).collect();
        let figure = |row: usize| {
            let traffic = self.rates.rows.get(row).copied().unwrap_or_default();
            match self.order {
                Order::Configured | Order::Name => None,
                Order::Share => traffic.share,
                Order::Rate => traffic.per_second,
                Order::P99 => traffic.p99_ms,
                Order::Errors => traffic.error_percent,
                Order::Score => reading.rows[row].score,
                Order::InFlight => reading.rows[row].in_flight,
            }
        };
        sort_by(&mut order, |one, other| {
            let by = match self.order {
                Order::Configured => one.cmp(other),
                Order::Name => reading.rows[*one].name.cmp(&reading.rows[*other].name),
                // The largest comes first. Unknown figures come last in either direction.
                _ => match (figure(*one), figure(*other)) {
                    (Some(a), Some(b)) => b.total_cmp(&a),
                    (a, b) => {
                        let last = b.is_some().cmp(&a.is_some());
                        if self.is_reversed { last.reverse() } else { last }
                    }
                },
            };
            let by = if self.is_reversed { by.reverse() } else { by };
            if by == Ordering::Equal { one.cmp(other) } else { by }
        });
        order
    }

    /// Returns the lines of a window of this size, at most `high`.
    pub(crate) fn draw(&mut self, now: Duration, wide: usize, high: usize) -> Vec<Line> {
        let mut lines = self.head(now, wide);
        let keys = Line::default().and(
            Style::Dim,
            "q quit  sort: n name s share r req/s p p99 e err c score f flight  j k select",
        );
        let Some(reading) = self.reading.take() else {
            lines.push(keys);
            return finish(lines, wide, high);
        };
        let order = self.sorted(&reading);
        let selected = self.selected.as_ref();
        let place =
            selected.and_then(|name| order.iter().position(|row| reading.rows[*row].name == *name));
        let detail = place.map_or_else(Vec::new, |place| {
            detail::lines(&reading.rows[order[place]], reading.decisions.as_deref(), wide)
        });
        // Reserved for the heading of the table, a line about hidden rows, and the keys.
        let room = high.saturating_sub(lines.len() + 3);
        let least = order.len().min(ROWS_MIN).min(room);
        let detail_room = detail.len().min(room - least);
        let page = room - detail_room;
        if let Some(place) = place {
            self.above = self.above.min(place).max((place + 1).saturating_sub(page));
        }
        self.above = self.above.min(order.len().saturating_sub(page));
        self.page = page.max(1);
        let layout = Layout::new(&reading, wide);
        lines.push(layout.heading());
        let shown = order.iter().enumerate().skip(self.above).take(page);
        for (at, row) in shown {
            let traffic = self.rates.rows.get(*row).copied().unwrap_or_default();
            let line = layout.row(&reading.rows[*row], &traffic, place == Some(at));
            lines.push(if self.gone.is_some() { line.all(Style::Dim) } else { line });
        }
        let below = order.len().saturating_sub(self.above + page);
        let hidden = match (self.above, below) {
            (0, 0) => String::new(),
            (0, below) => format!("  {below} more below"),
            (above, 0) => format!("  {above} more above"),
            (above, below) => format!("  {above} more above, {below} below"),
        };
        lines.push(Line::default().and(Style::Dim, &hidden));
        lines.extend(detail.into_iter().take(detail_room));
        self.reading = Some(reading);
        while lines.len() + 1 < high {
            lines.push(Line::default());
        }
        lines.push(keys);
        finish(lines, wide, high)
    }

    /// Returns the lines above the table. If the first line has no room for the policy, it gets its
    /// own line.
    fn head(&self, now: Duration, wide: usize) -> Vec<Line> {
        let mut first = Line::default().and(Style::Bold, "IntelliProxy");
        first.push(Style::Plain, &format!("  {}", self.address));
        let Some(reading) = &self.reading else {
            let text = self.gone.as_ref().map_or_else(
                || Line::plain("connecting"),
                |wrong| Line::default().and(Style::Bad, &format!("no proxy: {wrong}")),
            );
            return vec![first, text, Line::default()];
        };
        let usable = reading.rows.iter().filter(|row| row.state.is_usable()).count();
        first.push(Style::Plain, &format!("  {usable} of {} usable", reading.rows.len()));
        let mut lines = Vec::new();
        if let Some(policy) = reading.policy() {
            let with_policy = first.clone().and(Style::Plain, &format!("  policy {policy}"));
            if with_policy.columns() <= wide {
                first = with_policy;
            } else {
                lines.push(Line::plain(&format!("policy {policy}")));
            }
        }
        lines.insert(0, first);
        let all = &self.rates.all;
        let mut second = Line::default();
        let rate = all.per_second.map_or_else(|| "-".to_owned(), number);
        let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), span);
        second.push(Style::Plain, &format!("{rate} requests/s"));
        second.push(Style::Plain, &format!("  p50 {}  p99 {}", time(all.p50_ms), time(all.p99_ms)));
        let percent = all.error_percent.map_or_else(|| "-".to_owned(), number);
        second.push(error_style(all.error_percent), &format!("  {percent} % failed"));
        let flight: f64 = reading.rows.iter().filter_map(|row| row.in_flight).sum();
        second
            .push(Style::Plain, &format!("  {} in flight", number(flight).trim_end_matches(".0")));
        if self.order != Order::Configured || self.is_reversed {
            let direction = if self.is_reversed { ", reversed" } else { "" };
            second.push(Style::Dim, &format!("  by {}{direction}", self.order.word()));
        }
        let third = match &self.gone {
            Some(wrong) => {
                let age = span(now.saturating_sub(self.read_at).as_secs_f64() * 1e3);
                let text = format!("no proxy for {age}, trying again: {wrong}");
                Line::default().and(Style::Bad, &text)
            }
            None => {
                let counts = reading.counts.iter();
                let counts =
                    counts.map(|(name, value)| format!("{}: {value}", name.replace('-', " ")));
                Line::default().and(Style::Dim, &counts.collect::<Vec<_>>().join("; "))
            }
        };
        lines.extend([second, third]);
        lines
    }
}

fn finish(mut lines: Vec<Line>, wide: usize, high: usize) -> Vec<Line> {
    lines.truncate(high);
    lines.into_iter().map(|line| line.cut(wide)).collect()
}

const fn order_of(letter: char) -> Option<Order> {
    Some(match letter {
        'o' => Order::Configured,
        'n' => Order::Name,
        's' => Order::Share,
        'r' => Order::Rate,
        'p' => Order::P99,
        'e' => Order::Errors,
        'c' => Order::Score,
        'f' => Order::InFlight,
        _ => return None,
    })
}

/// Number of rows that remain visible when a backend is selected in a low window.
const ROWS_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::reading::tests::reading;

    fn text(screen: &mut Screen, wide: usize, high: usize) -> Vec<String> {
        let lines = screen.draw(Duration::from_secs(9), wide, high);
        assert!(lines.len() <= high, "{} of {high}", lines.len());
        let written = lines.iter().map(|line| {
            assert!(line.columns() <= wide, "{} of {wide}", line.columns());
            let mut text = String::new();
            line.write(&mut text, false);
            assert!(!text.contains(char::is_control), "{text:?}");
            text
        });
        written.collect()
    }

    /// A screen with `count` backends of 1, 2, 3 ... requests a second.
    fn screen(count: u64) -> Screen {
        let names: Vec<String> = (0..count).map(|at| format!("b{at}")).collect();
        let mut screen = Screen::new("h:3003".to_owned());
        for second in 0..3 {
            let rows: Vec<_> = names
                .iter()
                .zip(1..)
                .map(|(name, each)| (name.as_str(), each * second, each * second))
                .collect();
            screen.handle_reading(Duration::from_secs(second), Ok(reading(&rows)));
        }
        screen
    }

    fn names(lines: &[String]) -> Vec<&str> {
        let rows = lines.iter().filter(|line| line.contains(" up "));
        rows.filter_map(|line| line.trim_start_matches(['>', '*', ' ']).split(' ').next()).collect()
    }

    /// The rows fit every window, and the hidden ones are counted.
    #[test]
    fn rows_fit_the_window() {
        let mut screen = screen(200);
        let lines = text(&mut screen, 80, 24);
        assert_eq!(lines.len(), 24);
        assert_eq!(names(&lines).len(), 18);
        assert!(lines.contains(&"  182 more below".to_owned()), "{lines:#?}");
        screen.handle_key(Key::PageDown);
        let lines = text(&mut screen, 80, 24);
        assert_eq!(names(&lines)[0], "b18");
        assert!(lines.contains(&"  18 more above, 164 below".to_owned()), "{lines:#?}");
        screen.handle_key(Key::End);
        assert!(text(&mut screen, 80, 24).contains(&"  182 more above".to_owned()));
        for (wide, high) in [(1, 1), (10, 3), (20, 5), (40, 8), (300, 100), (80, 0)] {
            text(&mut screen, wide, high);
        }
        screen.handle_key(Key::Down);
        for high in 0..60 {
            text(&mut screen, 80, high);
        }
    }

    /// Keys sort the rows, and the same key again reverses the order. Unknown figures stay last.
    #[test]
    fn keys_sort() {
        let mut screen = screen(4);
        for (keys, expected) in [
            ("s", ["b3", "b2", "b1", "b0"]),
            ("s", ["b0", "b1", "b2", "b3"]),
            ("n", ["b0", "b1", "b2", "b3"]),
            ("n", ["b3", "b2", "b1", "b0"]),
            ("o", ["b0", "b1", "b2", "b3"]),
            ("r", ["b3", "b2", "b1", "b0"]),
        ] {
            keys.chars().for_each(|key| screen.handle_key(Key::Letter(key)));
            assert_eq!(names(&text(&mut screen, 80, 24)), expected, "{keys}");
        }
        if let Some(reading) = &mut screen.reading {
            reading.rows[1].score = None;
        }
        for _ in 0..2 {
            screen.handle_key(Key::Letter('c'));
            assert_eq!(names(&text(&mut screen, 80, 24))[3], "b1");
        }
    }

    /// A selected backend is marked, stays selected when the order changes, and stays in the
    /// window.
    #[test]
    fn a_backend_is_selected() {
        let mut screen = screen(50);
        screen.handle_key(Key::Up);
        let lines = text(&mut screen, 80, 24);
        let marked: Vec<_> = lines.iter().filter(|line| line.starts_with(">")).collect();
        assert!(marked.len() == 1 && marked[0].starts_with(">  b49 "), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("score 1.5")), "{lines:#?}");
        screen.handle_key(Key::Letter('s'));
        let lines = text(&mut screen, 80, 24);
        assert_eq!(names(&lines)[0], "b49");
        assert!(lines.iter().any(|line| line.starts_with(">  b49 ")), "{lines:#?}");
        screen.handle_key(Key::Escape);
        assert!(!screen.has_selection());
    }

    /// The learner's gain is shown in full in 80 columns, and beside the address if there is room.
    #[test]
    fn the_gain_is_whole() {
        let mut last = reading(&[("A", 1, 1)]);
        last.rows[0].json["policy"] = serde_json::json!({
            "kind": "learned",
            "guard": {"inCharge": "least_request", "costRatio": 0.934, "interval95": [0.9, 0.97]},
        });
        let mut screen = Screen::new("127.0.0.1:3003".to_owned());
        screen.handle_reading(Duration::ZERO, Ok(last));
        let policy = "policy learned, least_request decides, cost x0.93 (0.90 to 0.97)";
        let lines = text(&mut screen, 80, 24);
        assert_eq!((lines[1].as_str(), names(&lines)), (policy, vec!["A"]));
        assert!(text(&mut screen, 120, 24)[0].ends_with(policy));
        for (wide, high) in [(30, 2), (80, 1), (80, 5)] {
            text(&mut screen, wide, high);
        }
    }

    /// A lost connection to the proxy is shown with the last figures until the proxy is back.
    #[test]
    fn a_lost_proxy_is_shown() {
        let mut screen = Screen::new("h".to_owned());
        assert!(text(&mut screen, 80, 24)[1].contains("connecting"));
        screen.handle_reading(Duration::ZERO, Err("h: connection refused\u{1b}".to_owned()));
        assert_eq!(text(&mut screen, 80, 24)[1], "no proxy: h: connection refused\\u{1b}");
        screen.handle_reading(Duration::from_secs(1), Ok(reading(&[("A", 1, 1)])));
        screen.handle_reading(Duration::from_secs(2), Err("h: connection refused".to_owned()));
        let lines = text(&mut screen, 80, 24);
        assert_eq!(lines[2], "no proxy for 8.0 s, trying again: h: connection refused");
        assert_eq!(names(&lines), ["A"]);
        screen.handle_reading(Duration::from_secs(3), Ok(reading(&[("A", 1, 1)])));
        assert_eq!(text(&mut screen, 80, 24)[2], "");
    }
}
