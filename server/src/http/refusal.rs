//! Refusals: responses by which a backend declines a request, and the pause that they name.
//!
//! The layout hints are explained in `http/mod.rs`.
use std::time::Duration;

use super::date;
use super::field::{Fields, Name};

/// A response by which a backend reports that it is full or gets too many requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// Duration of the pause that the backend requests; `None` without a valid Retry-After.
    pub(crate) hold: Option<Duration>,
}

impl Refusal {
    /// Returns the refusal if the response is one: status 429 (RFC 6585 section 4) or 503 (RFC 9110
    /// section 15.6.4). `date` is the proxy's Date line, used if the response lacks one.
    pub(crate) fn of(status: u16, fields: &Fields<'_, '_>, date: &str) -> Option<Self> {
        match status {
            429 | 503 => Some(Self { hold: hold(fields, date) }),
            _ => None,
        }
    }
}

/// Reads Retry-After (RFC 9110 section 10.2.3): seconds, or a date. A date is relative to the
/// response's own Date, so that the two clocks need not agree. Of several values the longest is
/// used; invalid values are ignored.
#[cold]
fn hold(fields: &Fields<'_, '_>, date_line: &str) -> Option<Duration> {
    let named = |wanted: &'static str| {
        let all = fields.iter().filter(move |(name, ..)| name.eq_ignore_ascii_case(wanted));
        all.filter_map(|(_, _, value)| std::str::from_utf8(value).ok()).map(str::trim)
    };
    let own = date_line.strip_prefix("Date:").map(str::trim);
    let sent = fields.values(Name::Date).next().and_then(|value| std::str::from_utf8(value).ok());
    let sent = date::parse(sent.map(str::trim).or(own).unwrap_or_default());
    let span = |value: &str| {
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            // A larger number counts as `u32::MAX`, 136 years.
            return Some(Duration::from_secs(value.parse::<u32>().unwrap_or(u32::MAX).into()));
        }
        let until = date::parse(value)?;
        // A date in the past means no pause.
        Some(Duration::from_secs(until.saturating_sub(sent?)))
    };
    named("retry-after").filter_map(span).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::field::Slots;
    use crate::http::head::{HeadLimits, Parsed, parse_response};

    /// Retry-After is read as seconds or as a date. The date is relative to the response's Date, or
    /// to the proxy's if the response lacks one. Invalid values are ignored.
    #[test]
    fn retry_after_is_read() {
        let sent = "Date: Sun, 06 Nov 1994 08:49:30 GMT\r\n";
        let own = "Date: Sun, 06 Nov 1994 08:49:00 GMT\r\n";
        let until = "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let rows = [
            (429, "Retry-After: 20\r\n".to_owned(), own, Some(seconds(20))),
            (503, "retry-after:  7 \r\n".to_owned(), own, Some(seconds(7))),
            (503, String::new(), own, Some(None)),
            (503, format!("{sent}{until}"), own, Some(seconds(7))),
            (503, until.to_owned(), own, Some(seconds(37))),
            (503, until.to_owned(), "", Some(None)),
            (503, format!("Date: Mon, 07 Nov 1994 08:49:30 GMT\r\n{until}"), own, Some(seconds(0))),
            (503, "Retry-After: -5\r\n".to_owned(), own, Some(None)),
            (503, "Retry-After: soon\r\n".to_owned(), own, Some(None)),
            (503, "Retry-After: 3\r\nRetry-After: 5\r\n".to_owned(), own, Some(seconds(5))),
            (
                503,
                "Retry-After: 99999999999999999999\r\n".to_owned(),
                own,
                Some(seconds(u32::MAX.into())),
            ),
            (500, "Retry-After: 20\r\n".to_owned(), own, None),
            (200, "Retry-After: 20\r\n".to_owned(), own, None),
        ];
        for (status, fields, date, expected) in rows {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let mut slots = Slots::new();
            let limits = HeadLimits { head_bytes_max: 4096, target_bytes_max: 100, fields_max: 9 };
            let parsed = parse_response(head.as_bytes(), &mut slots, &limits);
            let Ok(Parsed::Complete(parsed)) = &parsed else { panic!("{head}") };
            let refusal = Refusal::of(parsed.status, &parsed.fields, date);
            assert_eq!(refusal.map(|refusal| refusal.hold), expected, "{head}");
        }
    }
}
