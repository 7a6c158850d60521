//! Lines of the access log: JSON, and the combined format of Apache and nginx. A new field also
//! needs `access/record.rs` and `access/visit.rs`.
//!
//! Texts come from peers. In JSON, invisible characters are escaped as `\u00HH`, and a byte that is
//! not part of UTF-8 appears as `\xHH` in the text. A line is always valid JSON and UTF-8. In the
//! combined format, quotes, backslashes and all bytes that are not visible ASCII appear as `\xHH`,
//! as in nginx.
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;

use super::part::Part;
use crate::access::{Record, Records, Span, Text, Texts};
use crate::config::AccessLogFormat;
use crate::edge::json;
use crate::http::head::Version;
use crate::utc::Utc;

/// Formats records.
#[derive(Debug)]
pub(super) struct Formatter {
    format: AccessLogFormat,
    /// The second of the last line, whose text is in `date`.
    second: u64,
    date: Vec<u8>,
    /// The address of the last line, whose text is in `client`. Most clients come from few
    /// addresses.
    ip: IpAddr,
    client: Vec<u8>,
    part: Part,
}

impl Formatter {
    pub(super) fn new(format: AccessLogFormat) -> Self {
        Self {
            format,
            second: u64::MAX,
            date: Vec::new(),
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            client: b"0.0.0.0".to_vec(),
            part: Part::new(),
        }
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
            self.note_client(record.client.ip());
            match self.format {
                AccessLogFormat::Json => self.json(at, record, &texts, out),
                AccessLogFormat::Combined => self.combined(at, record, &texts, out),
            }
        }
    }

    fn json(&mut self, at: Duration, record: &Record, texts: &Texts<'_>, out: &mut Vec<u8>) {
        self.date_of(at.as_secs(), |date, utc| {
            let Utc { year, month, day, hour, minute, second } = utc;
            let time =
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.");
            put(date, format_args!("{{\"time\":\"{time}"));
        });
        out.extend_from_slice(&self.date);
        let part = &mut self.part;
        part.clear();
        part.thousandths(u64::from(at.subsec_millis()));
        part.word(b"Z\",\"client\":\"");
        out.extend_from_slice(part.bytes());
        out.extend_from_slice(&self.client);
        part.clear();
        part.word(b"\",\"port\":");
        put_whole(part, Some(u64::from(record.client.port())).filter(|port| *port != 0));
        out.extend_from_slice(part.bytes());
        put_text(out, b",\"requestId\":", texts.get(Text::RequestId));
        put_text(out, b",\"traceparent\":", texts.get(Text::TraceParent));
        put_text(out, b",\"method\":", texts.get(Text::Method));
        put_text(out, b",\"target\":", texts.get(Text::Target));
        part.clear();
        match record.version {
            Some(version) => {
                part.word(b",\"version\":\"");
                part.word(name_of(version));
                part.word(b"\",\"status\":");
            }
            None => {
                put_text(out, b",\"version\":", texts.get(Text::Version));
                part.word(b",\"status\":");
            }
        }
        put_whole(part, (record.status > 0).then_some(u64::from(record.status)));
        part.word(b",\"received\":");
        part.number(record.received);
        part.word(b",\"sent\":");
        part.number(record.sent);
        put_span(part, b",\"headMs\":", record.head);
        put_span(part, b",\"queueMs\":", record.queue);
        put_span(part, b",\"connectMs\":", record.connect);
        put_span(part, b",\"backendMs\":", record.backend);
        put_span(part, b",\"firstByteMs\":", record.first_byte);
        put_span(part, b",\"totalMs\":", record.total);
        out.extend_from_slice(part.bytes());
        put_text(out, b",\"backend\":", texts.get(Text::Backend));
        part.clear();
        part.word(b",\"tries\":");
        part.number(u64::from(record.tries));
        out.extend_from_slice(part.bytes());
        put_word(out, b",\"why\":", record.why.word().unwrap_or_default());
        put_word(out, b",\"end\":", record.ending.word());
        put_text(out, b",\"error\":", texts.get(Text::Error));
        put_text(out, b",\"referer\":", texts.get(Text::Referer));
        put_text(out, b",\"userAgent\":", texts.get(Text::UserAgent));
        out.extend_from_slice(b"}\n");
    }

    fn combined(&mut self, at: Duration, record: &Record, texts: &Texts<'_>, out: &mut Vec<u8>) {
        self.date_of(at.as_secs(), |date, utc| {
            let Utc { year, month, day, hour, minute, second } = utc;
            let month = MONTHS.get(month as usize - 1).unwrap_or(&"Jan");
            let time = format_args!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02}");
            put(date, format_args!(" - - [{time} +0000] \""));
        });
        out.extend_from_slice(&self.client);
        out.extend_from_slice(&self.date);
        let part = &mut self.part;
        part.clear();
        let (method, target) = (texts.get(Text::Method), texts.get(Text::Target));
        if method.is_empty() {
            part.word(b"-");
        } else {
            put_escaped(out, method);
            out.push(b' ');
            put_escaped(out, target);
            match (record.version, texts.get(Text::Version)) {
                (Some(version), _) => {
                    part.word(b" ");
                    part.word(name_of(version));
                }
                (None, []) => {}
                (None, version) => {
                    out.push(b' ');
                    put_escaped(out, version);
                }
            }
        }
        part.word(b"\" ");
        // nginx writes 000 for a client that got no response.
        part.thousandths(u64::from(record.status));
        part.word(b" ");
        part.number(record.sent.saturating_sub(record.heads));
        out.extend_from_slice(part.bytes());
        for text in [Text::Referer, Text::UserAgent] {
            match texts.get(text) {
                [] => out.extend_from_slice(b" \"-\""),
                value => {
                    out.extend_from_slice(b" \"");
                    put_escaped(out, value);
                    out.push(b'"');
                }
            }
        }
        out.push(b'\n');
    }

    /// Formats `second` by `write`, unless the last line had the same second.
    fn date_of(&mut self, second: u64, write: impl FnOnce(&mut Vec<u8>, Utc)) {
        if self.second != second {
            self.second = second;
            self.date.clear();
            write(&mut self.date, Utc::from_seconds(second));
        }
    }

    /// Formats an address, unless the last line had the same one. An IPv4-mapped IPv6 address is
    /// written as IPv4.
    fn note_client(&mut self, ip: IpAddr) {
        if self.ip != ip {
            self.ip = ip;
            self.client.clear();
            put(&mut self.client, format_args!("{}", ip.to_canonical()));
        }
    }
}

const fn name_of(version: Version) -> &'static [u8; 8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    }
}

/// Appends formatted text. Used only for rare parts, because it costs a microsecond a line.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn put_whole(part: &mut Part, number: Option<u64>) {
    match number {
        Some(number) => part.number(number),
        None => part.word(b"null"),
    }
}

/// Adds a member that is a time in milliseconds with three decimals.
fn put_span<const N: usize>(part: &mut Part, name: &[u8; N], span: Span) {
    part.word(name);
    let Some(nanos) = span.nanos() else { return part.word(b"null") };
    let micros = nanos / 1000;
    part.number(micros / 1000);
    part.word(b".");
    part.thousandths(micros % 1000);
}

/// Appends a member whose value is a text; null if it is empty.
// Without inlining, the members of a line take 9 % more instructions.
#[inline]
fn put_text<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], text: &[u8]) {
    out.extend_from_slice(name);
    match text {
        [] => out.extend_from_slice(b"null"),
        text => json::put_string(out, text),
    }
}

/// Appends a member whose value is one of the log's own words; null if it is empty.
// Without inlining, the members of a line take 18 % more instructions.
#[inline]
fn put_word<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], word: &str) {
    out.extend_from_slice(name);
    match word {
        "" => out.extend_from_slice(b"null"),
        word => {
            out.push(b'"');
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
        }
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
