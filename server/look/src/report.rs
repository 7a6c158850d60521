//! A report: headings, tables and charts as one self-contained document.
//!
//! Tables are HTML, so the numbers can be read without scripts. Charts are drawn when they come
//! into view. Every text may come from outside: it is escaped.
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::document::{Document, escape};
use crate::{CHARTS, STYLE, UPLOT, UPLOT_STYLE};

/// A chart with one line for each series.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Its title.
    pub title: String,
    /// The unit of its values: `ms`, `%` or `/s`.
    pub unit: &'static str,
    /// The unit of x: `seconds`, or any other word.
    pub x: &'static str,
    /// Whether x has a logarithmic scale.
    pub log_x: bool,
    /// Whether the values have a logarithmic scale.
    pub log_y: bool,
    /// The values of x, in order.
    pub xs: Vec<f64>,
    /// The lines.
    pub series: Vec<Series>,
    /// Moments with a name.
    pub marks: Vec<Mark>,
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// A value for each x; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
}

/// A moment in a chart.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The x of the moment.
    pub at: f64,
    /// Name of the event; empty for a line without a name.
    pub label: String,
    /// Its colour by meaning.
    pub tone: Tone,
}

/// The colour of a mark by its meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tone {
    /// A fault begins, a backend goes down.
    Bad,
    /// A fault ends, a backend is back.
    Good,
    /// Anything else.
    Neutral,
}

/// A report in progress.
#[derive(Debug)]
pub struct Report {
    title: String,
    body: String,
    charts: Vec<Value>,
    choices: usize,
    /// The headings of the panels.
    panels: Vec<String>,
}

/// A chart of a report, which may show it in several places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChartId(usize);

impl Report {
    /// Begins a report.
    pub fn new(title: &str) -> Self {
        let title = title.to_owned();
        Self { title, body: String::new(), charts: Vec::new(), choices: 0, panels: Vec::new() }
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p class=\"muted\">{}</p>", escape(text));
    }

    /// Begins a panel with a heading. The panels of a report are not nested.
    pub fn panel(&mut self, heading: &str) {
        let id = self.panels.len();
        let text = escape(heading);
        let _ = writeln!(self.body, "<section class=\"panel\" id=\"panel-{id}\">\n<h2>{text}</h2>");
        self.panels.push(text);
    }

    /// Ends the panel.
    pub fn end_panel(&mut self) {
        self.body.push_str("</section>\n");
    }

    /// Adds a table. The first column is a name, further ones are numbers unless `is_text` says
    /// that they are texts.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>], is_text: impl Fn(usize) -> bool) {
        let class = |at: usize| if at == 0 || is_text(at) { "" } else { " class=\"number\"" };
        self.body
            .push_str("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"table\">");
        self.body.push_str("<table class=\"table\">\n<thead><tr>");
        for (at, name) in head.iter().enumerate() {
            let _ = write!(self.body, "<th scope=\"col\"{}>{}</th>", class(at), escape(name));
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                let _ = match at {
                    0 => write!(self.body, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(self.body, "<td{}>{cell}</td>", class(at)),
                };
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody>\n</table></div>\n");
    }

    /// Adds a chart, which is shown where its id is used.
    pub fn chart(&mut self, chart: &Chart) -> ChartId {
        self.charts.push(chart.to_json());
        ChartId(self.charts.len() - 1)
    }

    /// Shows charts, side by side where there is room.
    pub fn charts(&mut self, charts: &[ChartId]) {
        self.body.push_str("<div class=\"charts\">");
        for ChartId(number) in charts {
            let _ = write!(self.body, "<figure data-chart=\"{number}\"></figure>");
        }
        self.body.push_str("</div>\n");
    }

    /// Shows one of several named sets of charts, which the reader selects. The first is shown at
    /// once.
    pub fn choice(&mut self, label: &str, sets: &[(String, Vec<ChartId>)]) {
        self.choices += 1;
        let id = self.choices;
        let _ = write!(
            self.body,
            "<p class=\"choice\"><label for=\"choice-{id}\">{}</label> <select id=\"choice-{id}\">",
            escape(label)
        );
        for (at, (name, _)) in sets.iter().enumerate() {
            let _ = write!(self.body, "<option value=\"{at}\">{}</option>", escape(name));
        }
        self.body.push_str("</select></p>\n");
        for (at, (_, charts)) in sets.iter().enumerate() {
            let hidden = if at == 0 { "" } else { " hidden" };
            let _ = write!(self.body, "<div data-choice=\"{id}\" data-set=\"{at}\"{hidden}>");
            self.charts(charts);
            self.body.push_str("</div>\n");
        }
    }

    /// Returns the document.
    pub fn finish(self) -> String {
        let mut body = format!(
            "<main class=\"page report\">\n<h1>{}</h1>\n<noscript><p class=\"muted\">The charts need \
             JavaScript; the tables do not.</p></noscript>\n",
            escape(&self.title)
        );
        if self.panels.len() >= PANELS_MIN {
            body.push_str("<nav aria-label=\"panels\"><ul class=\"legend\">");
            for (id, text) in self.panels.iter().enumerate() {
                let _ = write!(body, "<li><a href=\"#panel-{id}\">{text}</a></li>");
            }
            body.push_str("</ul></nav>\n");
        }
        body.push_str(&self.body);
        body.push_str("</main>");
        Document::new(&self.title)
            .style(UPLOT_STYLE)
            .style(STYLE)
            .style(REPORT_STYLE)
            .data("report", &Value::Array(self.charts).to_string())
            .script(UPLOT)
            .script(CHARTS)
            .script(REPORT)
            .body(&body)
            .finish()
    }
}

impl Chart {
    fn to_json(&self) -> Value {
        let labels: Vec<&str> = self.series.iter().map(|one| one.label.as_str()).collect();
        let values: Vec<Vec<Option<f64>>> = self
            .series
            .iter()
            .map(|one| one.values.iter().map(|value| value.and_then(short)).collect())
            .collect();
        let marks = self.marks.iter().map(|mark| {
            let tone = match mark.tone {
                Tone::Bad => "--bad",
                Tone::Good => "--good",
                Tone::Neutral => "--muted",
            };
            json!({ "at": short(mark.at), "label": mark.label, "tone": tone })
        });
        json!({
            "title": self.title, "unit": self.unit, "x": self.x, "logX": self.log_x,
            "logY": self.log_y, "labels": labels, "values": values,
            "xs": self.xs_json(),
            "marks": marks.collect::<Vec<_>>(),
        })
    }
}

impl Chart {
    /// Returns the values of x, or the first two and their number if all have the same distance.
    fn xs_json(&self) -> Value {
        let step = match self.xs[..] {
            [first, second, _, ..] => second - first,
            _ => f64::NAN,
        };
        let is_even = |pair: &[f64]| (pair[1] - pair[0] - step).abs() <= 1e-6 * step.abs();
        if self.xs.windows(2).all(is_even) && !step.is_nan() {
            return json!({ "first": self.xs[0], "step": step, "count": self.xs.len() });
        }
        self.xs.iter().map(|x| short(*x)).collect()
    }
}

/// Returns a number with four significant digits; `None` if JSON cannot express it.
fn short(value: f64) -> Option<f64> {
    if !value.is_finite() {
        return None;
    }
    // Written and read again, as the binary number nearest to a decimal has the shortest text.
    format!("{value:.3e}").parse().ok()
}

/// A report with as many panels has links to them at its top.
const PANELS_MIN: usize = 4;
/// Draws the charts of a report and switches between sets.
const REPORT: &str = include_str!("../report.js");
const REPORT_STYLE: &str = include_str!("../report.css");

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(label: &str) -> Chart {
        Chart {
            title: label.to_owned(),
            unit: "ms",
            x: "seconds",
            xs: vec![0.0, 0.1 + 0.2],
            series: vec![Series { label: label.to_owned(), values: vec![Some(1.0 / 3.0), None] }],
            marks: vec![Mark { at: 0.1, label: label.to_owned(), tone: Tone::Bad }],
            ..Chart::default()
        }
    }

    /// Hostile text in every place of a report begins no element and ends none.
    #[test]
    fn texts_from_outside_stay_texts() {
        let hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&";
        let mut report = Report::new(hostile);
        report.paragraph(hostile);
        report.panel(hostile);
        report.table(&[hostile, "n"], &[vec![hostile.to_owned(), hostile.to_owned()]], |_| false);
        let shown = report.chart(&chart(hostile));
        report.charts(&[shown]);
        report.choice(hostile, &[(hostile.to_owned(), vec![shown])]);
        report.end_panel();
        for _ in 1..PANELS_MIN {
            report.panel(hostile);
            report.end_panel();
        }
        let page = report.finish();
        assert_eq!(page.matches("<script").count(), 4, "the data and three scripts");
        assert!(!page.contains("<img") && !page.contains("<script>alert"));
        assert!(page.contains("default-src 'none'"));
    }

    /// Values have few digits, and gaps are null.
    #[test]
    fn values_are_short() {
        let json = chart("a").to_json();
        assert_eq!(json["values"].to_string(), "[[0.3333,null]]");
        assert_eq!(json["xs"].to_string(), "[0.0,0.3]");
        let even = Chart { xs: vec![0.25, 0.75, 1.25], ..chart("a") }.to_json();
        assert_eq!(even["xs"], json!({ "first": 0.25, "step": 0.5, "count": 3 }));
        let rows =
            [(f64::NAN, None), (123_456.0, Some(123_500.0)), (-0.000_012_34, Some(-1.234e-5))];
        for (value, expected) in rows {
            assert_eq!(short(value), expected);
        }
    }

    /// Tables are complete without scripts; of several sets all but the first are hidden.
    #[test]
    fn tables_need_no_script() {
        let mut report = Report::new("r");
        report.table(
            &["policy", "p99", "note"],
            &[vec!["a".into(), "1.5".into(), "x".into()]],
            |at| at == 2,
        );
        let shown = report.chart(&chart("a"));
        report.choice("policy", &[("a".into(), vec![shown]), ("b".into(), vec![shown, shown])]);
        let page = report.finish();
        let row = "<tr><th scope=\"row\">a</th><td class=\"number\">1.5</td><td>x</td></tr>";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("data-set=\"0\">") && page.contains("data-set=\"1\" hidden>"));
        assert_eq!(page.matches("<figure data-chart=\"0\"></figure>").count(), 3, "{page}");
        assert!(!page.contains("<nav"), "it has no panel");
    }
}
