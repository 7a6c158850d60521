//! Calendar dates and times of day in UTC, for log lines, replays and HTTP.
//!
//! No crate is used, because this is a single function. The crates for such timestamps panic or
//! fail for times before 1970 or after 9999, so each use would need a check.

/// A date and time of day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Utc {
    pub(crate) year: u64,
    /// From 1.
    pub(crate) month: u64,
    /// From 1.
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl Utc {
    /// Converts seconds since 1970.
    pub(crate) const fn from_seconds(seconds: u64) -> Self {
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
        let year = era * 400 + year_of_era + (month <= 2) as u64;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        Self { year, month, day, hour, minute, second }
    }
}

/// Returns the days from 1970 to a date. The month is from 1 to 12.
pub(crate) const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Howard Hinnant's days_from_civil.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds become the right dates, including around leap days. The expected dates were computed
    /// by hand.
    #[test]
    fn dates_are_right() {
        let rows = [
            (0, [1970, 1, 1, 0, 0, 0]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_709_251_199, [2024, 2, 29, 23, 59, 59]),
            (1_709_251_200, [2024, 3, 1, 0, 0, 0]),
            (4_102_444_799, [2099, 12, 31, 23, 59, 59]),
        ];
        for (seconds, expected) in rows {
            let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(seconds);
            assert_eq!([year, month, day, hour, minute, second], expected);
        }
    }
}
