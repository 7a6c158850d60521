//! Frames of the charts that several reports use.
use crate::report::{Chart, Series};

/// The values of n for a distribution of times: p50 is at 2, p99 at 100, p99.9 at 1000. The minimum
/// (n = 1) is left out.
pub const EXCEEDED: [f64; 19] = [
    1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0, 20.0, 33.0, 50.0, 70.0, 100.0, 140.0, 200.0,
    330.0, 500.0, 1000.0,
];

/// The maximum number of lines that a chart can show in different colours.
pub const LINES_MAX: usize = 8;

impl Chart {
    /// A chart over time, still without lines and marks. Each part of time, `width` seconds long,
    /// is shown at its middle. Times have a logarithmic scale.
    pub fn over_time(title: &str, unit: &'static str, width: f64, parts: usize) -> Self {
        Self {
            title: title.to_owned(),
            unit,
            x: "seconds",
            log_y: unit == "ms",
            xs: (0..parts).map(|part| (part as f64 + 0.5) * width).collect(),
            ..Self::default()
        }
    }

    /// A distribution of times: for each n of [`EXCEEDED`], the time in ms that one of n requests
    /// exceeds.
    pub fn exceeded(title: &str, series: Vec<Series>) -> Self {
        Self {
            title: title.to_owned(),
            unit: "ms",
            log_x: true,
            log_y: true,
            xs: EXCEEDED.to_vec(),
            series,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STYLE;

    /// The values of n increase, and include those of the percentiles in tables.
    #[test]
    fn the_distribution_has_the_percentiles() {
        assert!(EXCEEDED.windows(2).all(|pair| pair[0] < pair[1]));
        for n in [2.0, 100.0, 1000.0] {
            assert!(EXCEEDED.contains(&n));
        }
    }

    /// Each line has a colour in both themes, and each colour is used.
    #[test]
    fn lines_have_colours() {
        for number in 1..=LINES_MAX {
            let name = format!("--series-{number}: #");
            assert_eq!(STYLE.matches(&name).count(), 2, "{name}");
        }
        assert!(!STYLE.contains(&format!("--series-{}:", LINES_MAX + 1)));
    }

    /// By hand: two parts of two seconds.
    #[test]
    fn parts_are_shown_at_their_middle() {
        let chart = Chart::over_time("t", "ms", 2.0, 2);
        assert_eq!((chart.xs, chart.log_y, chart.x), (vec![1.0, 3.0], true, "seconds"));
        assert!(!Chart::over_time("t", "%", 2.0, 2).log_y);
    }
}
