//! Reads a certificate's validity, subject and host names.
//!
//! rustls verifies certificates, but its interface does not offer the validity of the proxy's own
//! certificates or the subject of a client's. This reader parses DER (X.690) in one pass, copies
//! only names, and never reads beyond the end of an element.

use crate::utc::days_from_civil;

/// Facts from a certificate (RFC 5280).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// The first second of its validity, since 1970.
    pub(crate) not_before: i64,
    /// The last second of its validity, since 1970.
    pub(crate) not_after: i64,
    /// The subject in the form of RFC 4514, in which the last part comes first. Characters other
    /// than visible ASCII and space are escaped.
    pub(crate) subject: String,
    /// The DNS names in its subjectAltName, in lower case.
    pub(crate) names: Vec<String>,
    /// The serial number, as bytes.
    pub(crate) serial: Vec<u8>,
}

impl Facts {
    /// Reads a certificate. Returns `None` if the bytes are not a certificate.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut body = Der(certificate.expect(SEQUENCE)?);
        body.skip(EXPLICIT_0);
        let serial = body.expect(INTEGER)?.to_vec();
        body.expect(SEQUENCE)?;
        body.expect(SEQUENCE)?;
        let mut validity = Der(body.expect(SEQUENCE)?);
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = subject(body.expect(SEQUENCE)?)?;
        body.expect(SEQUENCE)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = body.next() {
            if tag == EXTENSIONS {
                names = dns_names(content)?;
            }
        }
        Some(Self { not_before, not_after, subject, names, serial })
    }
}

/// Facts from a successful OCSP response (RFC 6960 section 4.2.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OcspFacts {
    /// The last second for which it holds, since 1970: the earliest `nextUpdate` of its parts, or
    /// the maximum without any.
    pub(crate) not_after: i64,
    /// The serial numbers of its certificates.
    pub(crate) serials: Vec<Vec<u8>>,
}

impl OcspFacts {
    /// Reads a response. Returns `None` if the bytes are not a successful one.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let mut outer = Der(der);
        let mut response = Der(outer.expect(SEQUENCE)?);
        if !outer.0.is_empty() || response.expect(ENUMERATED)? != [0] {
            return None;
        }
        let mut bytes = Der(Der(response.expect(EXPLICIT_0)?).expect(SEQUENCE)?);
        bytes.expect(OID)?;
        let mut data = Der(Der(Der(bytes.expect(OCTETS)?).expect(SEQUENCE)?).expect(SEQUENCE)?);
        data.skip(EXPLICIT_0);
        // The responder.
        data.next()?;
        data.expect(GENERAL_TIME)?;
        let mut parts = Der(data.expect(SEQUENCE)?);
        let mut facts = Self { not_after: i64::MAX, serials: Vec::new() };
        while let Some((tag, part)) = parts.next() {
            let mut part = Der((tag == SEQUENCE).then_some(part)?);
            let mut id = Der(part.expect(SEQUENCE)?);
            // The hash function, and the hashes of the issuer's name and key.
            for tag in [SEQUENCE, OCTETS, OCTETS] {
                id.expect(tag)?;
            }
            facts.serials.push(id.expect(INTEGER)?.to_vec());
            // The state of the certificate.
            part.next()?;
            part.expect(GENERAL_TIME)?;
            if let Some((EXPLICIT_0, next)) = part.next() {
                facts.not_after = facts.not_after.min(time(Der(next).next()?)?);
            }
        }
        Some(facts)
    }
}

const ENUMERATED: u8 = 0x0a;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERAL_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
/// `[0]`, a version of a certificate or the next update of an OCSP response.
const EXPLICIT_0: u8 = 0xa0;
/// `[3]` of a certificate.
const EXTENSIONS: u8 = 0xa3;
/// `dNSName`, `[2]` of a GeneralName.
const DNS_NAME: u8 = 0x82;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The elements of a DER value, one after another.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next element's tag and content; `None` at the end, or if it is invalid.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Certificates do not use tags of several bytes.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Skips the next element if it has this tag.
    fn skip(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

/// A UTCTime or GeneralizedTime as seconds since 1970.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            // RFC 5280 section 4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERAL_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day, hour, minute, second) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The DNS names among the extensions; empty without a subjectAltName.
fn dns_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some((_, extension)) = extensions.next() {
        let mut extension = Der(extension);
        if extension.expect(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        extension.skip(BOOLEAN);
        let mut alternatives = Der(Der(extension.expect(OCTETS)?).expect(SEQUENCE)?);
        while let Some((tag, name)) = alternatives.next() {
            if tag == DNS_NAME && name.is_ascii() {
                names.push(String::from_utf8_lossy(name).to_ascii_lowercase());
            }
        }
    }
    Some(names)
}

/// A name in the form of RFC 4514.
fn subject(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut sets = Der(name);
    while let Some((tag, set)) = sets.next() {
        if tag != SET {
            return None;
        }
        let (mut part, mut set) = (String::new(), Der(set));
        while let Some((SEQUENCE, attribute)) = set.next() {
            let mut attribute = Der(attribute);
            let kind = attribute.expect(OID)?;
            let (tag, value) = attribute.next()?;
            if !part.is_empty() {
                part.push('+');
            }
            part.push_str(&kind_name(kind));
            part.push('=');
            escape(tag, value, &mut part);
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The short name of an attribute type, or its number in dotted form.
fn kind_name(oid: &[u8]) -> String {
    let name = match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "STREET",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        _ => return dotted(oid),
    };
    name.to_owned()
}

fn dotted(oid: &[u8]) -> String {
    let (mut text, mut number) = (String::new(), 0_u64);
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match text.is_empty() {
                true => {
                    let first = (number / 40).min(2);
                    text = format!("{first}.{}", number - first * 40);
                }
                false => text.push_str(&format!(".{number}")),
            }
            number = 0;
        }
    }
    text
}

/// Appends an attribute's value. It becomes part of a header field, so only visible ASCII and
/// spaces are allowed.
fn escape(tag: u8, value: &[u8], out: &mut String) {
    // This type has two bytes per character. Values of other types are shown as their UTF-8 or
    // Latin-1 bytes.
    let wide: Vec<u8>;
    let value = if tag == BMP_STRING {
        let units = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('?')).collect();
        wide = text.into_bytes();
        &wide
    } else {
        value
    };
    for (at, byte) in value.iter().enumerate() {
        let is_edge = at == 0 || at + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if is_edge => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests;
