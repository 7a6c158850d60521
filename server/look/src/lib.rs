//! The look that the live page and the reports have in common.
//!
//! [`STYLE`] is the style sheet, light and dark. [`CHARTS`] draws charts with uPlot ([`UPLOT`]),
//! which is vendored. [`Document`] joins styles, scripts, a body and data to one self-contained
//! document. Its Content-Security-Policy allows its own parts by their hashes, and no others.
//! [`Report`] makes such a document of tables and charts. The sources are the files beside `src/`;
//! nothing is generated.
//!
//! ```
//! use intelliproxy_look::{CHARTS, Document, STYLE, UPLOT, UPLOT_STYLE};
//!
//! let page = Document::new("Report of the lab")
//!     .style(UPLOT_STYLE)
//!     .style(STYLE)
//!     .data("report", r#"{"policies": ["score", "learned"]}"#)
//!     .script(UPLOT)
//!     .script(CHARTS)
//!     .script("const report = JSON.parse(document.getElementById('report').textContent);")
//!     .body("<main class=\"page\"><h1>Report</h1></main>")
//!     .finish();
//! assert!(page.starts_with("<!doctype html>"));
//! ```
#[cfg(test)]
mod colours;
mod curves;
mod document;
mod hash;
mod report;

pub use curves::{EXCEEDED, LINES_MAX};
pub use document::{Document, escape};
pub use report::{Chart, ChartId, Mark, Report, Series, Tone};

/// The style sheet: colours by meaning, tables, states, bars, panels.
pub const STYLE: &str = include_str!("../style.css");
/// The charts: a plain script that defines the global `look`. It needs [`UPLOT`].
pub const CHARTS: &str = include_str!("../chart.js");
/// uPlot 1.6.32: a plain script that defines the global `uPlot`.
pub const UPLOT: &str = include_str!("../vendor/uplot/uPlot.iife.min.js");
/// The style sheet of uPlot.
pub const UPLOT_STYLE: &str = include_str!("../vendor/uplot/uPlot.min.css");
/// The licence of uPlot (MIT), for programs that show the licences of their parts.
pub const UPLOT_LICENCE: &str = include_str!("../vendor/uplot/LICENSE");
