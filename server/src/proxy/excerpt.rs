//! Excerpts for the log: the beginning of the bytes that a peer sent, escaped and cut. Excerpts of
//! clients' bytes contain no secrets.
//!
//! Query strings, fragments, user information in a target and the values of fields with credentials
//! are replaced by [`MASK`]. Refused requests are often malformed, so secrets are recognised line
//! by line, without requiring a complete and valid head.

/// Returns the first [`HEAD_BYTES`] bytes of a request's head, masked and escaped.
pub(super) fn of_head(input: &[u8]) -> String {
    let cut = &input[..input.len().min(HEAD_BYTES)];
    let mut shown = Vec::with_capacity(HEAD_BYTES);
    let mut is_first = true;
    for line in cut.split_inclusive(|byte| *byte == b'\n') {
        let end = line.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        let (text, line_end) = line.split_at(end);
        if is_first && !text.is_empty() {
            is_first = false;
            put_request_line(text, &mut shown);
        } else {
            put_field_line(text, &mut shown);
        }
        shown.extend_from_slice(line_end);
    }
    shown.escape_ascii().to_string()
}

/// Returns the size at the start of a chunk's line and the byte after it. The rest may be private:
/// an extension, or data if the previous chunk's size was wrong.
pub(super) fn of_size_line(input: &[u8]) -> String {
    let cut = &input[..input.len().min(SIZE_BYTES)];
    let end = cut.iter().position(|byte| !byte.is_ascii_hexdigit());
    let shown = end.map_or(cut, |end| &cut[..=end]);
    shown.escape_ascii().to_string()
}

/// Returns the first [`HEAD_BYTES`] bytes of a backend's text, escaped. Secrets are not masked.
pub(super) fn of_backend(text: &[u8]) -> String {
    text[..text.len().min(HEAD_BYTES)].escape_ascii().to_string()
}

fn put_request_line(line: &[u8], shown: &mut Vec<u8>) {
    let path_end = line.iter().position(|byte| b"?#".contains(byte)).unwrap_or(line.len());
    let (path, rest) = line.split_at(path_end);
    put_without_user(path, shown);
    let Some((mark, secret)) = rest.split_first() else { return };
    shown.push(*mark);
    // Everything before the version is masked, spaces included: some servers may read them as the
    // query.
    let version = find_last(secret, b" HTTP/").unwrap_or(secret.len());
    put_mask(&secret[..version], shown);
    shown.extend_from_slice(&secret[version..]);
}

/// Writes a target with `user:password` of `http://user:password@host` masked.
fn put_without_user(path: &[u8], shown: &mut Vec<u8>) {
    if let Some(begin) = find_last(path, b"://").map(|at| at + 3)
        && let Some(end) = path[begin..].iter().rposition(|byte| *byte == b'@')
    {
        shown.extend_from_slice(&path[..begin]);
        put_mask(&path[begin..begin + end], shown);
        shown.extend_from_slice(&path[begin + end..]);
    } else {
        shown.extend_from_slice(path);
    }
}

fn put_field_line(line: &[u8], shown: &mut Vec<u8>) {
    // A line that begins with a blank continues a field that may be secret, so it is masked.
    let is_blank = |byte: &u8| b" \t".contains(byte);
    let name_end = line.iter().position(|byte| b": \t".contains(byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    let value = rest.iter().position(|byte| *byte != b':' && !is_blank(byte));
    let value = value.unwrap_or(rest.len());
    shown.extend_from_slice(name);
    shown.extend_from_slice(&rest[..value]);
    if line.first().is_some_and(is_blank) || is_secret(name) {
        put_mask(&rest[value..], shown);
        return;
    }
    // Referer and similar fields contain targets, so a query is masked in any field.
    let value = &rest[value..];
    let open = value.iter().position(|byte| *byte == b'?').map_or(value.len(), |at| at + 1);
    shown.extend_from_slice(&value[..open]);
    put_mask(&value[open..], shown);
}

fn put_mask(secret: &[u8], shown: &mut Vec<u8>) {
    if !secret.is_empty() {
        shown.extend_from_slice(MASK);
    }
}

/// Whether a field of this name carries credentials.
fn is_secret(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| find_last(&name, part.as_bytes()).is_some())
}

fn find_last(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|window| window == wanted)
}

/// Parts of the names of fields that carry credentials, in lower case.
const SECRET_NAMES: [&str; 10] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "key",
    "session",
    "passw",
    "credential",
    "signature",
    "jwt",
];
/// Replaces a secret.
const MASK: &[u8] = b"***";
/// The maximum number of bytes of a head, or of a backend's text, that are shown, before masking
/// and escaping.
const HEAD_BYTES: usize = 80;
/// The maximum number of bytes of a chunk's size that are shown. A size of 17 digits is too large.
const SIZE_BYTES: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    /// Secrets are masked anywhere in a head, well-formed or not.
    #[test]
    fn secrets_are_masked() {
        let rows: [(&str, &str); 17] = [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n"),
            ("GET /a?b=c HTTP/1.1\r\n", "GET /a?*** HTTP/1.1\\r\\n"),
            ("\r\nGET /a?b c HTTP/9\n", "\\r\\nGET /a?*** HTTP/9\\n"),
            ("GET /a?b c", "GET /a?***"),
            ("GET /a? HTTP/1.1", "GET /a? HTTP/1.1"),
            ("GET /#access_token=1 HTTP/1.1", "GET /#*** HTTP/1.1"),
            ("GET http://u:p@h/a HTTP/1.1", "GET http://***@h/a HTTP/1.1"),
            ("GET /\r\nAuthorization: Basic eA==\r\n", "GET /\\r\\nAuthorization: ***\\r\\n"),
            ("GET /\nauthorization : x\n", "GET /\\nauthorization : ***\\n"),
            ("GET /\nAuthorization Bearer x", "GET /\\nAuthorization ***"),
            ("GET /\nProxy-Authorization:\tx", "GET /\\nProxy-Authorization:\\t***"),
            ("GET /\nCookie: a=b; c=d\n x\n", "GET /\\nCookie: ***\\n ***\\n"),
            ("GET /\nX-Api-Key:k", "GET /\\nX-Api-Key:***"),
            ("GET /\n\0Set-Cookie: k", "GET /\\n\\x00Set-Cookie: ***"),
            ("GET /\nReferer: http://h/?t=1\n", "GET /\\nReferer: http://h/?***\\n"),
            ("GET /\nAuthorization:\n", "GET /\\nAuthorization:\\n"),
            ("", ""),
        ];
        for (input, expected) in rows {
            assert_eq!(of_head(input.as_bytes()), expected, "{input:?}");
        }
    }

    /// Excerpts are bounded. For a chunked body only the size of a chunk and one more byte are
    /// shown.
    #[test]
    fn excerpts_are_bounded() {
        assert_eq!(of_head(&[0xff; 1000]).len(), 4 * 80);
        assert_eq!(of_backend(&[0xff; 1000]).len(), 4 * 80);
        assert_eq!(of_size_line(b"5x\r\npassword=1"), "5x");
        assert_eq!(of_size_line(b"a;token=1\r\n"), "a;");
        assert_eq!(of_size_line(b"password=1"), "p");
        assert_eq!(of_size_line(b"1\n2"), "1\\n");
        assert_eq!(of_size_line(&[0xff; 1000]), "\\xff");
        assert_eq!(of_size_line(&[b'f'; 1000]).len(), 17);
        for end in 0..100 {
            let input = "?a\n".repeat(40);
            assert!(of_head(&input.as_bytes()[..end]).len() <= 4 * 80);
        }
    }
}
