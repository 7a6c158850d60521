//! Dates of HTTP (RFC 9110 section 5.6.7), in whole seconds since 1970.
use crate::utc::{Utc, days_from_civil};

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// The first second of the year 10000: an HTTP date has a year of four digits.
const END: u64 = 253_402_300_800;

/// Writes a date as `Sun, 06 Nov 1994 08:49:37 GMT`. A time after the year 9999 is shown as 1970.
pub(crate) fn format(seconds: u64) -> String {
    let seconds = if seconds < END { seconds } else { 0 };
    let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(seconds);
    // 1970 began on a Thursday.
    let weekday = DAYS[(seconds / 86_400 + 4) as usize % 7];
    let month = MONTHS[month as usize - 1];
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Reads a date in one of the three forms that a recipient must accept. `None` for other texts and
/// for dates before 1970.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<u64>().ok() } else { None }
    };
    let words: Vec<&str> = text.splitn(8, ' ').collect();
    let (year, month, day, clock) = match *words {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, clock, "GMT"] if weekday.len() == 4 => {
            (number(year, 4)?, month, number(day, 2)?, clock)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, clock, "GMT"] if weekday.ends_with(',') => {
            let mut parts = date.splitn(3, '-');
            let (day, month, year) = (parts.next()?, parts.next()?, number(parts.next()?, 2)?);
            (if year < 70 { 2000 + year } else { 1900 + year }, month, number(day, 2)?, clock)
        }
        // Sun Nov  6 08:49:37 1994, Sun Nov 16 08:49:37 1994
        [_, month, "", day, clock, year] => (number(year, 4)?, month, number(day, 1)?, clock),
        [_, month, day, clock, year] => (number(year, 4)?, month, number(day, 2)?, clock),
        _ => return None,
    };
    let weekday = words.first()?.get(..3)?;
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    let mut parts = clock.splitn(3, ':').map(|part| number(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let is_valid = DAYS.contains(&weekday) && (1..=31).contains(&day);
    if !is_valid || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year as i64, month as i64, day as i64);
    let days = u64::try_from(days).ok()?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9110 and other dates are read and written; row by row.
    #[test]
    fn dates_are_read_and_written() {
        let rows = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Wed Nov 16 08:49:37 1994", Some(784_975_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(END - 1)),
            ("Wednesday, 01-Jan-69 00:00:00 GMT", Some(3_124_224_000)),
            ("Thu, 31 Dec 1969 23:59:59 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Son, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nob 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37:00 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, +6 Nov 1994 08:49:37 GMT", None),
            ("Ü, 06 Nov 1994 08:49:37 GMT", None),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        for seconds in (0..END).step_by(86_400 * 97 + 3607) {
            assert_eq!(parse(&format(seconds)), Some(seconds), "{seconds}");
        }
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(format(END), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
