//! Lines of the access log: JSON, and the combined format of Apache and nginx.
//!
//! Texts come from peers. In JSON, what is not visible is escaped as `\u00HH`, and a byte that is
//! not part of UTF-8 appears as `\xHH` in the text; a line is always valid JSON and UTF-8. In the
//! combined format quotes, backslashes and everything but visible ASCII appear as `\xHH`, as nginx
//! writes them.
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;

use crate::access::{Record, Records, Span, Text, Texts};
use crate::config::AccessLogFormat;
use crate::http::head::Version;
use crate::utc::Utc;

/// Formats records.
#[derive(Debug)]
pub(super) struct Formatter {
    format: AccessLogFormat,
    /// The second of the last line, and its text.
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
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"),
            );
        });
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&self.date);
        let SocketAddrParts { ip, port } = SocketAddrParts::of(record.client);
        put(out, format_args!(".{:03}Z\",\"client\":\"{ip}\",\"port\":", at.subsec_millis()));
        put_whole(out, port.map(u64::from));
        for (name, text) in [
            ("requestId", Text::RequestId),
            ("traceparent", Text::TraceParent),
            ("method", Text::Method),
            ("target", Text::Target),
        ] {
            put_text(out, name, texts.get(text));
        }
        put(out, format_args!(",\"version\":\"{}\",\"status\":", version(record.version)));
        put_whole(out, (record.status > 0).then_some(u64::from(record.status)));
        put(out, format_args!(",\"received\":{},\"sent\":{}", record.received, record.sent));
        for (name, span) in [
            ("headMs", record.head),
            ("queueMs", record.queue),
            ("connectMs", record.connect),
            ("backendMs", record.backend),
            ("firstByteMs", record.first_byte),
            ("totalMs", record.total),
        ] {
            put_span(out, name, span);
        }
        put_text(out, "backend", texts.get(Text::Backend));
        put(out, format_args!(",\"tries\":{},\"why\":", record.tries));
        match record.why.word() {
            Some(word) => put(out, format_args!("\"{word}\"")),
            None => out.extend_from_slice(b"null"),
        }
        put(out, format_args!(",\"end\":\"{}\"", record.ending.word()));
        for (name, text) in
            [("error", Text::Error), ("referer", Text::Referer), ("userAgent", Text::UserAgent)]
        {
            put_text(out, name, texts.get(text));
        }
        out.push(b'}');
    }

    fn combined(&mut self, at: Duration, record: &Record, texts: &Texts<'_>, out: &mut Vec<u8>) {
        self.date_of(at.as_secs(), |date, utc| {
            let Utc { year, month, day, hour, minute, second } = utc;
            let month = MONTHS.get(month as usize - 1).unwrap_or(&"Jan");
            let format =
                format_args!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
            put(date, format);
        });
        put(out, format_args!("{} - - [", SocketAddrParts::of(record.client).ip));
        out.extend_from_slice(&self.date);
        out.extend_from_slice(b"] \"");
        let (method, target) = (texts.get(Text::Method), texts.get(Text::Target));
        if method.is_empty() {
            out.push(b'-');
        } else {
            put_escaped(out, method);
            out.push(b' ');
            put_escaped(out, target);
            put(out, format_args!(" {}", version(record.version)));
        }
        // nginx writes 000 for a client that got no response.
        let body = record.sent.saturating_sub(record.heads);
        put(out, format_args!("\" {:03} {body}", record.status));
        for text in [Text::Referer, Text::UserAgent] {
            out.extend_from_slice(b" \"");
            match texts.get(text) {
                [] => out.push(b'-'),
                value => put_escaped(out, value),
            }
            out.push(b'"');
        }
    }

    /// Formats a second unless it was the last one, too.
    fn date_of(&mut self, second: u64, write: impl FnOnce(&mut Vec<u8>, Utc)) {
        if self.second != second {
            self.second = second;
            self.date.clear();
            write(&mut self.date, Utc::from_seconds(second));
        }
    }
}

/// The address of a client, and its port unless that is unknown.
struct SocketAddrParts {
    ip: IpAddr,
    port: Option<u16>,
}

impl SocketAddrParts {
    fn of(client: SocketAddr) -> Self {
        let port = Some(client.port()).filter(|port| *port != 0);
        Self { ip: client.ip().to_canonical(), port }
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    }
}

/// Appends formatted text, which does not fail.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn put_whole(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => put(out, format_args!("{number}")),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a time in milliseconds with three decimals.
fn put_span(out: &mut Vec<u8>, name: &str, span: Span) {
    match span.nanos() {
        Some(nanos) => {
            let micros = nanos / 1000;
            put(out, format_args!(",\"{name}\":{}.{:03}", micros / 1000, micros % 1000));
        }
        None => put(out, format_args!(",\"{name}\":null")),
    }
}

/// Appends a member whose value is a text; null if it is empty.
fn put_text(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    put(out, format_args!(",\"{name}\":"));
    if text.is_empty() {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte) {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at;
        if !byte.is_ascii() {
            break;
        }
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => put(out, format_args!("\\u{byte:04x}")),
        }
    }
    put_foreign(out, &text[plain..]);
    out.push(b'"');
}

/// Appends the rest of a text from its first byte on that is not ASCII, or a plain rest.
fn put_foreign(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_ascii() {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                _ if !character.is_ascii() && character.escape_debug().len() == 1 => {
                    put(out, format_args!("{character}"));
                }
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        put(out, format_args!("\\u{unit:04x}"));
                    }
                }
            }
        }
        for byte in chunk.invalid() {
            put(out, format_args!("\\\\x{byte:02x}"));
        }
    }
}

/// Appends a text of the combined format.
fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
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
