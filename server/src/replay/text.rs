//! Times and numbers as a person reads them.
use std::time::Duration;

use intelliproxy_core::journal::Header;
use intelliproxy_core::{Instant, PolicyKind};

/// Nanoseconds since 1970 as a date and time of day in UTC.
pub(super) fn utc(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970 that are not negative.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
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

    /// Dates by hand, leap days among them.
    #[test]
    fn dates_are_right() {
        let rows = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ];
        for (seconds, expected) in rows {
            assert_eq!(utc(seconds * 1_000_000_000), expected);
        }
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
