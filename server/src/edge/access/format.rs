//! Lines of the access log: JSON, and the combined format of Apache and nginx. A new field also
//! needs `access/record.rs` and `access/visit.rs`.
//!
//! Texts come from peers. In JSON, invisible characters are escaped as `\u00HH`, and a byte that is
//! not part of UTF-8 appears as `\xHH` in the text. A line is always valid JSON and UTF-8. In the
//! combined format quotes, backslashes and everything but visible ASCII appear as `\xHH`, as nginx
//! writes them.
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;

use crate::access::{Record, Records, Span, Text, Texts};
use crate::config::AccessLogFormat;
use crate::digits::{last_digit, put_number};
use crate::edge::json;
use crate::http::head::Version;
use crate::utc::Utc;

/// Formats records.
#[derive(Debug)]
pub(super) struct Formatter {
    format: AccessLogFormat,
    /// The second of the last line; `date` is its text.
    second: u64,
    date: Vec<u8>,
}

impl Formatter {
    pub(super) const fn new(format: AccessLogFormat) -> Self {
        Self { format, second: u64::MAX, date: Vec::new() }
    }

    /// Appends a line for each record. `now` and `time_of_day` are the same moment.
    pub(super) fn write(
        &mut self,
        records: &Records,
        now: Instant,
        time_of_day: SystemTime,
        out: &mut Vec<u8>,
    ) {
        let since = time_of_day.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for (record, texts) in records.iter() {
            let at = since.saturating_sub(now.since(record.started));
            match self.format {
                AccessLogFormat::Json => self.json(at, record, &texts, out),
                AccessLogFormat::Combined => self.combined(at, record, &texts, out),
            }
            out.push(b'\n');
        }
    }

    fn json(&mut self, at: Duration, record: &Record, texts: &Texts<'_>, out: &mut Vec<u8>) {
        self.date_of(at.as_secs(), |date, utc| {
            let Utc { year, month, day, hour, minute, second } = utc;
            put(
                date,
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."),
            );
        });
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&self.date);
        put_thousandths(out, u64::from(at.subsec_millis()));
        out.extend_from_slice(b"Z\",\"client\":\"");
        put_ip(out, record.client.ip());
        out.extend_from_slice(b"\",\"port\":");
        put_whole(out, Some(u64::from(record.client.port())).filter(|port| *port != 0));
        put_text(out, ",\"requestId\":", texts.get(Text::RequestId));
        put_text(out, ",\"traceparent\":", texts.get(Text::TraceParent));
        put_text(out, ",\"method\":", texts.get(Text::Method));
        put_text(out, ",\"target\":", texts.get(Text::Target));
        put_text(out, ",\"version\":", version(record, texts));
        out.extend_from_slice(b",\"status\":");
        put_whole(out, (record.status > 0).then_some(u64::from(record.status)));
        out.extend_from_slice(b",\"received\":");
        put_number(out, record.received);
        out.extend_from_slice(b",\"sent\":");
        put_number(out, record.sent);
        put_span(out, ",\"headMs\":", record.head);
        put_span(out, ",\"queueMs\":", record.queue);
        put_span(out, ",\"connectMs\":", record.connect);
        put_span(out, ",\"backendMs\":", record.backend);
        put_span(out, ",\"firstByteMs\":", record.first_byte);
        put_span(out, ",\"totalMs\":", record.total);
        put_text(out, ",\"backend\":", texts.get(Text::Backend));
        out.extend_from_slice(b",\"tries\":");
        put_number(out, u64::from(record.tries));
        put_text(out, ",\"why\":", record.why.word().unwrap_or_default().as_bytes());
        put_text(out, ",\"end\":", record.ending.word().as_bytes());
        put_text(out, ",\"error\":", texts.get(Text::Error));
        put_text(out, ",\"referer\":", texts.get(Text::Referer));
        put_text(out, ",\"userAgent\":", texts.get(Text::UserAgent));
        out.push(b'}');
    }

    fn combined(&mut self, at: Duration, record: &Record, texts: &Texts<'_>, out: &mut Vec<u8>) {
        self.date_of(at.as_secs(), |date, utc| {
            let Utc { year, month, day, hour, minute, second } = utc;
            let month = MONTHS.get(month as usize - 1).unwrap_or(&"Jan");
            put(
                date,
                format_args!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000"),
            );
        });
        put_ip(out, record.client.ip());
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(&self.date);
        out.extend_from_slice(b"] \"");
        let (method, target) = (texts.get(Text::Method), texts.get(Text::Target));
        if method.is_empty() {
            out.push(b'-');
        } else {
            put_escaped(out, method);
            out.push(b' ');
            put_escaped(out, target);
            let version = version(record, texts);
            if !version.is_empty() {
                out.push(b' ');
                put_escaped(out, version);
            }
        }
        out.extend_from_slice(b"\" ");
        // nginx writes 000 for a client that got no response.
        put_thousandths(out, u64::from(record.status));
        out.push(b' ');
        put_number(out, record.sent.saturating_sub(record.heads));
        for text in [Text::Referer, Text::UserAgent] {
            out.extend_from_slice(b" \"");
            match texts.get(text) {
                [] => out.push(b'-'),
                value => put_escaped(out, value),
            }
            out.push(b'"');
        }
    }

    /// Formats `second` by `write`, unless the last line had the same second.
    fn date_of(&mut self, second: u64, write: impl FnOnce(&mut Vec<u8>, Utc)) {
        if self.second != second {
            self.second = second;
            self.date.clear();
            write(&mut self.date, Utc::from_seconds(second));
        }
    }
}

/// Returns the version that the client sent; empty if it sent none.
fn version<'r>(record: &Record, texts: &Texts<'r>) -> &'r [u8] {
    match record.version {
        Some(Version::Http10) => b"HTTP/1.0",
        Some(Version::Http11) => b"HTTP/1.1",
        None => texts.get(Text::Version),
    }
}

/// Appends formatted text. Used only for rare parts, because it costs a microsecond a line.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Appends an address. An IPv4-mapped IPv6 address is written as IPv4.
fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                put_number(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => put(out, format_args!("{ip}")),
    }
}

/// Appends a number below 1000 with three digits.
fn put_thousandths(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&[number / 100, number / 10, number].map(last_digit));
}

fn put_whole(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => put_number(out, number),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a member that is a time in milliseconds with three decimals.
fn put_span(out: &mut Vec<u8>, name: &str, span: Span) {
    out.extend_from_slice(name.as_bytes());
    let Some(nanos) = span.nanos() else { return out.extend_from_slice(b"null") };
    let micros = nanos / 1000;
    put_number(out, micros / 1000);
    out.push(b'.');
    put_thousandths(out, micros % 1000);
}

/// Appends a member whose value is a text; null if it is empty.
fn put_text(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    match text {
        [] => out.extend_from_slice(b"null"),
        text => json::put_string(out, text),
    }
}

/// Appends a text, escaped for the combined format.
fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    if json::is_plain(text) {
        return out.extend_from_slice(text);
    }
    for byte in text {
        if matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte) {
            out.push(*byte);
        } else {
            put(out, format_args!("\\x{byte:02X}"));
        }
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests;
