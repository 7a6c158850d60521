//! The representations that a client accepts (RFC 9110 section 12.5).
use super::field::{Fields, tokens};

/// The weight of a member without `q`, in thousandths.
const WEIGHT_MAX: u16 = 1000;

/// Returns the values of a field as one list. `name` is in any case.
pub(crate) fn list_of(fields: &Fields<'_, '_>, name: &str) -> Vec<u8> {
    let lines = fields.iter().filter(|(field, ..)| field.eq_ignore_ascii_case(name));
    lines.map(|(.., value)| value).collect::<Vec<_>>().join(&b","[..])
}

/// Whether this Accept lists a media type by name, with a weight of at least that of `other`.
/// Wildcards do not count as names.
pub(crate) fn prefers(accept: &[u8], wanted: &[u8], other: &[u8]) -> bool {
    let named = weight_named(accept, wanted);
    named > 0 && named >= weight_of_type(accept, other)
}

/// Whether this Accept-Encoding allows gzip.
pub(crate) fn accepts_gzip(accept_encoding: &[u8]) -> bool {
    // RFC 9110 section 8.4.1.3: x-gzip is the same coding.
    let names: [&[u8]; 2] = [b"gzip", b"x-gzip"];
    let found = names.iter().filter_map(|name| find(accept_encoding, name)).max();
    found.or_else(|| find(accept_encoding, b"*")).is_some_and(|weight| weight > 0)
}

/// Returns the weight of a media type that the list names; 0 if the list does not name it.
pub(crate) fn weight_named(accept: &[u8], wanted: &[u8]) -> u16 {
    find(accept, wanted).unwrap_or(0)
}

/// Returns the weight of a media type: that of the most specific range in the list that contains
/// it.
fn weight_of_type(accept: &[u8], wanted: &[u8]) -> u16 {
    let slash = wanted.iter().position(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let range = [&wanted[..slash], b"*"].concat();
    let found = find(accept, wanted).or_else(|| find(accept, &range));
    found.or_else(|| find(accept, b"*/*")).unwrap_or(0)
}

/// Returns the highest weight of the members with this name, in any case and with any parameters.
fn find(list: &[u8], wanted: &[u8]) -> Option<u16> {
    let members = tokens(list).filter_map(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_wanted = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        let weight = parts.find_map(|part| {
            part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")).map(parse_weight)
        });
        // A member with an invalid weight is ignored.
        if is_wanted { weight.unwrap_or(Some(WEIGHT_MAX)) } else { None }
    });
    members.max()
}

/// Parses a weight (RFC 9110 section 12.4.2): 0 to 1 with up to three decimals.
fn parse_weight(text: &[u8]) -> Option<u16> {
    let (whole, decimals): (_, &[u8]) = match text {
        [whole @ (b'0' | b'1')] => (whole, b""),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] => (whole, decimals),
        _ => return None,
    };
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = decimals.iter().chain(b"000").take(3);
    let thousandths = digits.fold(0, |sum, digit| 10 * sum + u16::from(digit - b'0'));
    let weight = WEIGHT_MAX * u16::from(whole - b'0') + thousandths;
    (weight <= WEIGHT_MAX).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type is preferred if it is named, in any case, and its weight is at least that of the
    /// other one.
    #[test]
    fn named_types_are_preferred() {
        let rows = [
            ("text/html", true),
            ("text/html;", true),
            ("text/html; ;q=0.5", true),
            ("TEXT/HTML;level=1, */*", true),
            ("application/xml, text/html;q=0.8", true),
            ("text/html, application/json", true),
            ("text/html;q=0.5, application/json", false),
            ("text/html;q=0.5, application/json;q=0.4", true),
            ("text/html;q=0.5, application/*;q=0.6", false),
            ("text/html;q=0.5, */*;q=0.6", false),
            ("text/html;q=0.5, application/json;q=0.4, */*", true),
            ("text/html;q=0", false),
            ("text/html; q=0.000", false),
            ("text/html;Q=0.001", true),
            ("text/html;q=0, text/html", true),
            ("text/html;q=", false),
            ("text/html;q=2", false),
            ("text/html;q=1.001", false),
            ("text/html;q=0.1234", false),
            ("text/html;q=-1", false),
            ("*/*", false),
            ("text/*", false),
            ("text/html5", false),
            (";", false),
            (";q=1", false),
            ("", false),
        ];
        for (list, expected) in rows {
            let found = prefers(list.as_bytes(), b"text/html", b"application/json");
            assert_eq!(found, expected, "{list}");
        }
    }

    /// gzip is accepted by its name, its old name or `*`. The weight of the name overrides that of
    /// `*`.
    #[test]
    fn codings_are_accepted() {
        let rows = [
            ("gzip, br", true),
            ("GZIP;q=1", true),
            ("x-gzip", true),
            ("gzip;", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0, gzip;q=0.1", true),
            ("gzip;q=0.0, br", false),
            ("br", false),
            ("", false),
        ];
        for (list, expected) in rows {
            assert_eq!(accepts_gzip(list.as_bytes()), expected, "{list}");
        }
    }
}
