//! The backends as a table.
use crate::cli::top::history::{Rates, Traffic, since_start};
use crate::cli::top::line::{Line, Style};
use crate::cli::top::reading::{Reading, Row};
use crate::cli::top::state;
use crate::cli::top::text::{bar, columns, left, number, right, span, whole};

/// A column of the live table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Column {
    State,
    Share,
    Bar,
    Rate,
    P50,
    P99,
    Errors,
    InFlight,
    Score,
}

/// The columns in their order, each with its heading and width.
const COLUMNS: [(Column, &str, usize); 9] = [
    (Column::State, "STATE", 10),
    (Column::Share, "SHARE", 6),
    (Column::Bar, "", 6),
    (Column::Rate, "REQ/S", 6),
    (Column::P50, "P50 MS", 6),
    (Column::P99, "P99 MS", 6),
    (Column::Errors, "ERR %", 5),
    (Column::InFlight, "FLIGHT", 6),
    (Column::Score, "SCORE", 6),
];
/// Columns to leave out in a narrow window, in this order.
const LEAVING: [Column; 7] = [
    Column::Bar,
    Column::P50,
    Column::Score,
    Column::InFlight,
    Column::Errors,
    Column::Share,
    Column::State,
];
/// Width of the marks before the selected and the current backend.
const MARK: usize = 3;
const NAME_MIN: usize = 11;
const NAME_MAX: usize = 40;
/// The longest name that a configuration allows: lines in a file have whole names.
const NAME_WHOLE: usize = 64;
const BAR_MAX: usize = 30;

/// The columns that fit a window.
#[derive(Debug)]
pub(crate) struct Layout {
    name: usize,
    columns: Vec<(Column, &'static str, usize)>,
}

impl Layout {
    /// Returns the layout for a window of `wide` columns.
    pub(crate) fn new(reading: &Reading, wide: usize) -> Self {
        let mut chosen = COLUMNS.to_vec();
        let used = |chosen: &[(Column, &str, usize)]| -> usize {
            MARK + chosen.iter().map(|(.., own)| own + 1).sum::<usize>()
        };
        for leaving in LEAVING {
            if used(&chosen) + NAME_MIN > wide {
                chosen.retain(|(column, ..)| *column != leaving);
            }
        }
        let longest = reading.rows.iter().map(|row| columns(&row.name)).max().unwrap_or(0);
        let room = wide.saturating_sub(used(&chosen));
        let name = room.min(longest.clamp(NAME_MIN, NAME_MAX));
        if let Some((.., own)) = chosen.iter_mut().find(|(column, ..)| *column == Column::Bar) {
            *own = (*own + room - name).min(BAR_MAX);
        }
        Self { name, columns: chosen }
    }

    /// Returns a layout without bars, for lines in a file. The states have the columns that they
    /// need here, or needed in the layout before. Names are whole: a program reads them. With the
    /// time, which has nine columns, lines whose longest state is `current` have 80 columns with
    /// names of 12.
    pub(crate) fn of_lines(reading: &Reading, earlier: Option<&Self>) -> Self {
        let longest = reading.rows.iter().map(|row| columns(&row.name)).max().unwrap_or(0);
        let states = reading.rows.iter().map(|row| columns(row.state.name()));
        let known = earlier.map_or("STATE".len(), |earlier| earlier.columns[0].2);
        let mut columns = COLUMNS.to_vec();
        columns.retain(|(column, ..)| *column != Column::Bar);
        columns[0].2 = states.max().unwrap_or(0).max(known);
        Self { name: longest.clamp("BACKEND".len(), NAME_WHOLE), columns }
    }

    pub(crate) fn heading(&self) -> Line {
        let mut text = " ".repeat(MARK) + &left("BACKEND", self.name);
        for (column, heading, wide) in &self.columns {
            text.push(' ');
            text.push_str(&match column {
                Column::State | Column::Bar => left(heading, *wide),
                _ => right(heading, *wide),
            });
        }
        Line::default().and(Style::Bold, &text)
    }

    pub(crate) fn row(&self, row: &Row, traffic: &Traffic, is_selected: bool) -> Line {
        let selected = if is_selected { ">" } else { " " };
        let current = if row.json["current"] == true { "* " } else { "  " };
        let mut line = Line::plain(selected)
            .and(Style::Accent, current)
            .and(Style::Plain, &left(&row.name, self.name));
        for (column, _, wide) in &self.columns {
            line.push(Style::Plain, " ");
            let (style, text) = cell(*column, *wide, row, traffic);
            line.push(style, &text);
        }
        if is_selected { line.all(Style::Reverse) } else { line }
    }
}

fn cell(column: Column, wide: usize, row: &Row, traffic: &Traffic) -> (Style, String) {
    let known = |value: Option<f64>| right(&value.map_or_else(|| "-".to_owned(), number), wide);
    match column {
        Column::State => (state::style(row.state), left(row.state.name(), wide)),
        Column::Share => {
            let share = traffic.share.map(|share| format!("{:.1}%", 100.0 * share));
            (Style::Plain, right(&share.unwrap_or_else(|| "-".to_owned()), wide))
        }
        Column::Bar => (Style::Accent, left(&bar(traffic.share.unwrap_or(0.0), wide), wide)),
        Column::Rate => (Style::Plain, known(traffic.per_second)),
        Column::P50 => (Style::Plain, known(traffic.p50_ms)),
        Column::P99 => (Style::Plain, known(traffic.p99_ms)),
        Column::Errors => (error_style(traffic.error_percent), known(traffic.error_percent)),
        Column::InFlight => {
            let text = row.in_flight.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
            (Style::Plain, right(&text, wide))
        }
        Column::Score => (Style::Plain, known(row.score)),
    }
}

/// Returns the style of an error rate: most services promise 99 % or more.
pub(crate) fn error_style(percent: Option<f64>) -> Style {
    match percent {
        Some(percent) if percent >= 5.0 => Style::Bad,
        Some(percent) if percent >= 1.0 => Style::Warning,
        _ => Style::Plain,
    }
}

/// Headings of the table that `stats` prints.
const HEADINGS: [&str; 10] = [
    "BACKEND", "STATE", "REQUESTS", "SHARE", "ERR %", "REFUSED", "FLIGHT", "P50 MS", "P99 MS",
    "SCORE",
];
/// Its columns to leave out on a narrow terminal, in this order.
const LEAVING_ONCE: [usize; 7] = [7, 5, 9, 6, 3, 4, 1];

/// Returns the lines of the table that `stats` prints: for a terminal of `wide` columns, or for a
/// file, with whole names.
pub(crate) fn once(reading: &Reading, wide: Option<usize>) -> Vec<Line> {
    let Rates { rows, all } = since_start(reading);
    let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let cells = reading.rows.iter().zip(&rows).map(|(row, traffic)| {
        [
            left(&row.name, columns(&row.name).min(NAME_WHOLE)),
            row.state.name().to_owned(),
            whole(row.requests as f64),
            traffic.share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", 100.0 * share)),
            known(traffic.error_percent),
            whole(row.refused as f64),
            row.in_flight.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}")),
            known(traffic.p50_ms),
            known(traffic.p99_ms),
            known(row.score),
        ]
    });
    let cells: Vec<[String; 10]> = cells.collect();
    let mut wides: Vec<usize> = (0..HEADINGS.len())
        .map(|at| {
            let widest = cells.iter().map(|row| columns(&row[at])).max().unwrap_or(0);
            widest.max(HEADINGS[at].len())
        })
        .collect();
    // Two spaces separate names from numbers.
    let gap = |at: usize| if at < 2 { "  " } else { " " };
    let mut shown: Vec<usize> = (0..HEADINGS.len()).collect();
    if let Some(wide) = wide {
        let used = |shown: &[usize]| -> usize {
            let others = shown.iter().filter(|at| **at > 0);
            gap(0).len() + others.map(|at| wides[*at] + gap(*at).len()).sum::<usize>() - 1
        };
        let wanted = wides[0].min(NAME_MIN);
        for leaving in LEAVING_ONCE {
            if used(&shown) + wanted > wide {
                shown.retain(|at| *at != leaving);
            }
        }
        wides[0] = wides[0].min(wide.saturating_sub(used(&shown)));
    }
    let place = |at: usize, text: &str| {
        let text = if at < 2 { left(text, wides[at]) } else { right(text, wides[at]) };
        text + gap(at)
    };
    let mut lines = Vec::with_capacity(cells.len() + 8);
    let mut heading = Line::default();
    for at in &shown {
        heading.push(Style::Bold, &place(*at, HEADINGS[*at]));
    }
    lines.push(heading);
    for (row, (cells, traffic)) in reading.rows.iter().zip(cells.iter().zip(&rows)) {
        let mut line = Line::default();
        for at in &shown {
            let style = match at {
                1 => state::style(row.state),
                4 => error_style(traffic.error_percent),
                _ => Style::Plain,
            };
            line.push(style, &place(*at, &cells[*at]));
        }
        lines.push(line);
    }
    lines.push(Line::default());
    let requests = reading.rows.iter().map(|row| row.requests as f64).sum();
    let mut total = format!("{} requests", whole(requests));
    if let (Some(p50), Some(p99)) = (all.p50_ms, all.p99_ms) {
        total.push_str(&format!(", p50 {}, p99 {}", span(p50), span(p99)));
    }
    if let Some(percent) = all.error_percent {
        total.push_str(&format!(", {} % failed", number(percent)));
    }
    lines.push(Line::plain(&total));
    if let Some(policy) = reading.policy() {
        lines.push(Line::plain(&format!("policy {policy}")));
    }
    lines.extend(
        reading
            .counts
            .iter()
            .map(|(name, value)| Line::plain(&format!("{} {value}", name.replace('-', " ")))),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::reading::tests::reading;
    use crate::pages::state::State;

    fn written(line: &Line) -> String {
        let mut text = String::new();
        line.write(&mut text, false);
        text
    }

    /// A row fits every width of 20 columns or more, even with hostile figures. At 80, all columns
    /// are shown.
    #[test]
    fn rows_fit_their_window() {
        let mut reading =
            reading(&[("A", 1, 1), ("a name that is long, \u{1b}[2J and wide 漢字", 2, 2)]);
        reading.rows[1].score = Some(f64::MAX);
        reading.rows[1].in_flight = Some(1e300);
        let huge = Traffic {
            per_second: Some(1e300),
            share: Some(1e300),
            error_percent: Some(-1e300),
            p50_ms: Some(f64::NAN),
            p99_ms: Some(f64::INFINITY),
        };
        for wide in 20..200 {
            let layout = Layout::new(&reading, wide);
            assert!(layout.heading().columns() <= wide, "{wide}");
            for row in &reading.rows {
                let line = layout.row(row, &huge, false);
                assert!(line.columns() <= wide, "{wide}: {}", line.columns());
                assert!(!written(&line).contains(char::is_control));
            }
        }
        let heading = written(&Layout::new(&reading, 80).heading());
        for (_, name, _) in COLUMNS {
            assert!(heading.contains(name), "{heading}");
        }
    }

    /// Lines in a file have at most 80 columns with their time, if names have 12. A longer state
    /// widens its column, which then stays that wide.
    #[test]
    fn lines_fit_a_terminal() {
        let mut reading = reading(&[("A", 1, 1), ("frankfurt-01", 2, 2)]);
        let narrow = Layout::of_lines(&reading, None);
        reading.rows[0].state = State::Current;
        let layout = Layout::of_lines(&reading, Some(&narrow));
        assert_eq!(layout.heading().columns(), narrow.heading().columns() + 2);
        reading.rows[0].state = State::Up;
        let layout = Layout::of_lines(&reading, Some(&layout));
        let traffic = Traffic { per_second: Some(1e300), ..since_start(&reading).all };
        for line in [layout.heading(), layout.row(&reading.rows[1], &traffic, false)] {
            assert_eq!("12:34:56Z".len() + line.columns(), 80, "{}", written(&line));
        }
    }

    /// The table of `stats` has the figures since the start, totals and the counts of the proxy.
    #[test]
    fn the_table_of_stats() {
        let mut reading = reading(&[("A", 3000, 3000), ("B", 1000, 0)]);
        reading.counts.push(("access-log".to_owned(), "dropped=1\u{7}".to_owned()));
        let text: Vec<String> = once(&reading, None).iter().map(written).collect();
        let expected = [
            "BACKEND  STATE  REQUESTS SHARE ERR % REFUSED FLIGHT P50 MS P99 MS SCORE",
            "A        up        3 000 75.0%  10.0       0      2    3.8    5.0   1.5",
            "B        up        1 000 25.0%  10.0       0      2      -      -   1.5",
            "",
            "4 000 requests, p50 3.8 ms, p99 5.0 ms, 10.0 % failed",
            "policy score",
            "access log dropped=1\\u{7}",
        ];
        assert_eq!(text, expected);
        assert_eq!(once(&Reading::default(), None).len(), 3);
    }

    /// On a terminal, names are cut and columns left out so that no row is broken in two. In a file,
    /// names are whole.
    #[test]
    fn the_table_of_stats_fits_a_terminal() {
        let name = "a-backend-with-a-long-name-in-Frankfurt-am-Main-number-17-of-64";
        let reading = reading(&[(name, 123_456, 123_456), ("B", 1000, 0)]);
        for wide in 24..200 {
            let lines = once(&reading, Some(wide));
            for line in &lines[..3] {
                let text = written(line);
                assert!(columns(&text) <= wide, "{wide}: {text}");
                assert!(text.starts_with(['B', 'a']), "{wide}: {text}");
            }
        }
        let text = written(&once(&reading, Some(80))[1]);
        assert!(text.starts_with("a-backend") && text.contains('…'), "{text}");
        assert!(written(&once(&reading, Some(80))[0]).ends_with("SCORE"));
        assert!(written(&once(&reading, None)[1]).starts_with(name));
        let layout = Layout::of_lines(&reading, None);
        let line = layout.row(&reading.rows[0], &since_start(&reading).all, false);
        assert!(written(&line).contains(name));
    }
}
