//! Times and numbers as a person reads them.
use std::time::Duration;

use intelliproxy_core::journal::Header;
use intelliproxy_core::{Instant, PolicyKind};

use crate::utc::Utc;

/// Nanoseconds since 1970 as a date and time of day in UTC.
pub(super) fn utc(nanos: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(nanos / 1_000_000_000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A moment as seconds since the start, and of the day when that is known.
pub(super) fn moment(header: &Header, at: Instant) -> String {
    let since = at.since(header.started);
    let seconds = format!("{}.{:09} s", since.as_secs(), since.subsec_nanos());
    match header.wall_clock_nanos {
        0 => seconds,
        start => {
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            format!("{seconds} ({})", utc(start.saturating_add(nanos)))
        }
    }
}

/// A time in the unit that suits it.
pub(super) fn span(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1e3;
    if ms < 1.0 {
        format!("{:.0} us", ms * 1e3)
    } else if ms < 10_000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

/// A policy by the name that it has in the configuration.
pub(super) fn policy_name(policy: PolicyKind) -> String {
    let name = serde_json::to_value(policy).ok();
    name.as_ref().and_then(|name| name.as_str()).unwrap_or("?").to_owned()
}

/// A share in percent.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}

/// The value below which a share of the sorted numbers lies.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.max(1) - 1).or_else(|| sorted.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A date in the words that reports use.
    #[test]
    fn dates_are_written_out() {
        assert_eq!(utc(951_782_400_999_999_999), "2000-02-29 00:00:00 UTC");
    }

    /// Quantiles of a few numbers by hand.
    #[test]
    fn quantiles_by_hand() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        for (share, expected) in [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.51, 3.0), (1.0, 4.0)] {
            assert_eq!(quantile(&sorted, share), Some(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
