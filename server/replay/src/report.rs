//! An answer as an HTML report: the lines of the text as a table, and charts.
use intelliproxy_look::{Chart, Report};

use super::recording::Recording;
use super::text::LABEL;
use crate::Answer;

/// Returns the report of an answer.
pub(crate) fn report(
    title: &str,
    recording: &Recording<'_>,
    answer: &Answer,
    charts: &[Chart],
) -> String {
    let mut report = Report::new(&format!("IntelliProxy: {title}"));
    report.paragraph(&format!(
        "A recording of {}. Curves: requests by their start, x is the time since the start. In a chart of \
         N responses N = 2 is p50, 100 is p99, 1000 is p99.9.",
        recording.date()
    ));
    if !answer.wrong.is_empty() {
        report.panel("Not as recorded");
        answer.wrong.iter().for_each(|line| report.paragraph(line));
        report.end_panel();
    }
    report.panel("Figures");
    report.table(&["part", "figures"], &rows(&answer.text), |_| true);
    report.end_panel();
    report.panel("Over time");
    let shown: Vec<_> = charts.iter().map(|chart| report.chart(chart)).collect();
    report.charts(&shown);
    report.end_panel();
    report.finish()
}

/// Returns the lines of a text as labels and figures. A line without a label continues the one
/// before it.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        let (label, figures) = line.split_at_checked(LABEL).unwrap_or((line, ""));
        match rows.last_mut().and_then(|row| row.last_mut()) {
            Some(before) if label.trim().is_empty() => {
                before.push(' ');
                before.push_str(figures);
            }
            _ => rows.push(vec![label.trim_end().to_owned(), figures.to_owned()]),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines are split after their labels; following lines have no label. A line of another form is
    /// kept.
    #[test]
    fn lines_are_rows() {
        let text = "traffic    A: 1 request\n           and more\nshort\ngrößeres X und\n";
        let expected = [["traffic", "A: 1 request and more"], ["short", ""], ["größeres", "X und"]];
        assert_eq!(rows(text), expected);
        assert_eq!(rows("           alone"), [["", "alone"]]);
    }
}
