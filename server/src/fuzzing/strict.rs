//! A second reader of HTTP/1.1 messages, for comparisons: small, slow and strict. It shares no code
//! with the codec. Each call reads from the beginning of its input.

/// A reader's verdict on bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict<T> {
    /// Complete.
    Whole(T),
    /// Incomplete, so far without a fault.
    More,
    /// Invalid, for this reason.
    Wrong(&'static str),
}

/// A head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// The three parts of the first line.
    pub line: [Vec<u8>; 3],
    /// Names as sent, and values without the white space around them.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes up to and including the empty line.
    pub len: usize,
}

/// The rule by which a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A body.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailer: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its length in the input, bytes.
    pub len: usize,
}

impl Head {
    /// Returns the values of the fields of this name, in any case.
    pub fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let is_named =
            move |field: &&(Vec<u8>, Vec<u8>)| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().filter(is_named).map(|(_, value)| value.as_slice())
    }

    /// Returns the extent of a request's body, or the reason why it is unknown.
    pub fn request_extent(&self) -> Result<Extent, &'static str> {
        let lengths: Vec<&[u8]> = self.values("Content-Length").collect();
        let codings: Vec<&[u8]> = self.values("Transfer-Encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(Extent::Length(0)),
            ([length], []) => plain_number(length).map(Extent::Length),
            ([], [coding]) if self.line[2] == b"HTTP/1.1" => is_chunked(coding),
            _ => Err("more than one framing"),
        }
    }

    /// Returns the extent of a response's body, or the reason why it is unknown.
    pub fn response_extent(&self, is_head_request: bool) -> Result<Extent, &'static str> {
        let is_bodiless = is_head_request
            || self.line[1].starts_with(b"1")
            || [&b"204"[..], b"304"].contains(&&self.line[1][..]);
        if is_bodiless {
            return Ok(Extent::Length(0));
        }
        let codings: Vec<&[u8]> = self.values("Transfer-Encoding").collect();
        let mut lengths = Vec::new();
        for list in self.values("Content-Length") {
            for length in list.split(|&byte| byte == b',') {
                lengths.push(plain_number(length.trim_ascii())?);
            }
        }
        if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err("lengths that differ");
        }
        match (lengths.first(), &codings[..]) {
            (None, []) => Ok(Extent::UntilClose),
            (Some(&length), []) => Ok(Extent::Length(length)),
            (None, [coding]) if self.line[0] == b"HTTP/1.1" => is_chunked(coding),
            _ => Err("more than one framing"),
        }
    }
}

/// Reads a request's head, which empty lines may precede.
pub fn request(input: &[u8]) -> Verdict<Head> {
    let mut start = 0;
    while input[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let mut head = match head(&input[start..]) {
        Verdict::Whole(head) => head,
        other => return other,
    };
    head.len += start;
    let [method, target, version] = &head.line;
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return Verdict::Wrong("method");
    }
    if target.is_empty() || target.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
        return Verdict::Wrong("target");
    }
    if !is_version(version) {
        return Verdict::Wrong("version");
    }
    Verdict::Whole(head)
}

/// Reads a response's head.
pub fn response(input: &[u8]) -> Verdict<Head> {
    let head = match head(input) {
        Verdict::Whole(head) => head,
        other => return other,
    };
    let [version, status, _] = &head.line;
    if !is_version(version) {
        return Verdict::Wrong("version");
    }
    let is_status = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
    if !is_status || status[0] == b'0' {
        return Verdict::Wrong("status");
    }
    Verdict::Whole(head)
}

/// Reads a body at the beginning of `input`. `is_closed` means that nothing follows the input.
pub fn body(input: &[u8], extent: Extent, is_closed: bool) -> Verdict<Body> {
    match extent {
        Extent::Length(length) if input.len() as u64 >= length => {
            let len = length as usize;
            Verdict::Whole(Body { data: input[..len].to_vec(), trailer: Vec::new(), len })
        }
        Extent::UntilClose if is_closed => {
            Verdict::Whole(Body { data: input.to_vec(), trailer: Vec::new(), len: input.len() })
        }
        Extent::Length(_) | Extent::UntilClose => Verdict::More,
        Extent::Chunked => chunks(input),
    }
}

/// Reads a chunked body.
pub fn chunks(input: &[u8]) -> Verdict<Body> {
    let mut body = Body::default();
    loop {
        let line = match line(&input[body.len..]) {
            Verdict::Whole(line) => line,
            Verdict::More => return Verdict::More,
            Verdict::Wrong(why) => return Verdict::Wrong(why),
        };
        body.len += line.len() + 2;
        let mut digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
        while let [rest @ .., b' ' | b'\t'] = digits {
            digits = rest;
        }
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Verdict::Wrong("chunk size");
        }
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        let size = u64::from_str_radix(digits, 16).unwrap_or(u64::MAX);
        if size == 0 {
            break;
        }
        let rest = &input[body.len..];
        if (rest.len() as u64) < size {
            return Verdict::More;
        }
        let (data, rest) = rest.split_at(size as usize);
        body.data.extend_from_slice(data);
        match rest {
            [b'\r', b'\n', ..] => body.len += data.len() + 2,
            [] | [b'\r'] => return Verdict::More,
            _ => return Verdict::Wrong("bytes behind a chunk"),
        }
    }
    loop {
        let line = match line(&input[body.len..]) {
            Verdict::Whole(line) => line,
            Verdict::More => return Verdict::More,
            Verdict::Wrong(why) => return Verdict::Wrong(why),
        };
        body.len += line.len() + 2;
        if line.is_empty() {
            return Verdict::Whole(body);
        }
        match field(line) {
            Some(field) => body.trailer.push(field),
            None => return Verdict::Wrong("trailer field"),
        }
    }
}

fn head(input: &[u8]) -> Verdict<Head> {
    let (mut len, mut parts, mut fields) = (0, None, Vec::new());
    loop {
        let line = match line(&input[len..]) {
            Verdict::Whole(line) => line,
            Verdict::More => return Verdict::More,
            Verdict::Wrong(why) => return Verdict::Wrong(why),
        };
        len += line.len() + 2;
        if parts.is_none() {
            let mut pieces = line.splitn(3, |&byte| byte == b' ').map(<[u8]>::to_vec);
            parts = Some([(); 3].map(|()| pieces.next().unwrap_or_default()));
        } else if line.is_empty() {
            let line = parts.unwrap_or_default();
            return Verdict::Whole(Head { line, fields, len });
        } else {
            match field(line) {
                Some(field) => fields.push(field),
                None => return Verdict::Wrong("field"),
            }
        }
    }
}

/// Returns the first line without its CRLF. Tab is the only permitted control byte.
pub fn line(input: &[u8]) -> Verdict<&[u8]> {
    let is_plain = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    match input.iter().position(|byte| !is_plain(byte)) {
        None => Verdict::More,
        Some(end) => match &input[end..] {
            [b'\r', b'\n', ..] => Verdict::Whole(&input[..end]),
            [b'\r'] => Verdict::More,
            _ => Verdict::Wrong("control byte or line end"),
        },
    }
}

/// Reads a field line: its name, and its value without the white space around it.
pub fn field(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (name, value) = line.split_at(line.iter().position(|&byte| byte == b':')?);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut value = &value[1..];
    while value.first().is_some_and(is_blank) {
        value = &value[1..];
    }
    while value.last().is_some_and(is_blank) {
        value = &value[..value.len() - 1];
    }
    let is_name = !name.is_empty() && name.iter().copied().all(is_token_byte);
    is_name.then(|| (name.to_vec(), value.to_vec()))
}

fn is_token_byte(byte: u8) -> bool {
    !matches!(byte, 0..=b' ' | 0x7f.. | b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}')
}

fn is_version(version: &[u8]) -> bool {
    version == b"HTTP/1.0" || version == b"HTTP/1.1"
}

fn is_chunked(coding: &[u8]) -> Result<Extent, &'static str> {
    match coding.eq_ignore_ascii_case(b"chunked") {
        true => Ok(Extent::Chunked),
        false => Err("a coding that is not chunked"),
    }
}

fn plain_number(text: &[u8]) -> Result<u64, &'static str> {
    let is_plain = !text.is_empty() && text.len() < 19 && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|_| is_plain).ok_or("a length that is not a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second reader reads a good message, refuses broken ones, and returns `More` at each cut.
    #[test]
    fn reads_strictly() {
        let good = b"\r\nPOST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                     2;x=y\r\nok\r\n0\r\nT: 1\r\n\r\n";
        let Verdict::Whole(head) = request(good) else { panic!("a good head") };
        assert_eq!(head.request_extent(), Ok(Extent::Chunked));
        let Verdict::Whole(read) = body(&good[head.len..], Extent::Chunked, false) else {
            panic!("a good body")
        };
        assert_eq!((&read.data[..], head.len + read.len), (&b"ok"[..], good.len()));
        for cut in 0..head.len {
            assert_eq!(request(&good[..cut]), Verdict::More, "cut at {cut}");
        }
        for cut in head.len..good.len() {
            assert_eq!(chunks(&good[head.len..cut]), Verdict::More, "cut at {cut}");
        }
        for bad in ["G T / HTTP/1.1", "GET /\t HTTP/1.1", "GET / HTTP/1.2", "GET  / HTTP/1.1"] {
            let bad = format!("{bad}\r\nHost: h\r\n\r\n");
            assert!(matches!(request(bad.as_bytes()), Verdict::Wrong(_)), "{bad}");
        }
        for bad in ["a : b", ": b", "a b: c", " a: b", "a", "a: \u{1}", "a: b\nc: d", "a: b\rc"] {
            let bad = format!("GET / HTTP/1.1\r\n{bad}\r\n\r\n");
            assert!(matches!(request(bad.as_bytes()), Verdict::Wrong(_)), "{bad}");
        }
        for bad in ["x\r\n", "1\r\nab", "-1\r\n", "0x1\r\n", "1 1\r\n", " 1\r\n", "\r\n", "1\nx"] {
            assert!(matches!(chunks(bad.as_bytes()), Verdict::Wrong(_)), "{bad:?}");
        }
    }
}
