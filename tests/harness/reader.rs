//! Reads the messages that reach a backend or a client one by one. It uses the strict reader of the
//! fuzz targets, which shares neither code nor a library with the proxy's.
//!
//! Beyond the grammar it refuses what a proxy must not forward (RFC 9110 section 7.6.1) and what
//! this proxy never sends. It does not know the proxy's state, only bytes in order.
use intelliproxy::fuzzing::strict::{self, Extent, Verdict};

/// The direction of messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Requests, read by a backend.
    ToBackend,
    /// Responses, read by a client.
    ToClient,
}

/// The head of a message.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// The request's method. Empty in a response.
    pub method: String,
    /// The request's target. Empty in a response.
    pub target: String,
    /// The response's status. 0 in a request.
    pub status: u16,
    /// Name in lower case and value, in order.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Returns every value of the fields called `name` (in lower case).
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the value of the only field called `name`.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Returns the value of the only field called `name`, as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.one(name)?.parse().ok()
    }
}

/// One step of reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// A head. Its body follows and may be empty.
    Head(Head),
    /// Bytes of the body, or of a tunnel.
    Data(Vec<u8>),
    /// The end of the message, with its trailer fields.
    End(Vec<(String, String)>),
}

/// The facts about a request that the reader of its response needs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    /// Whether its method was HEAD.
    pub is_head: bool,
    /// Whether it was HTTP/1.0.
    pub is_old: bool,
    /// Whether it requested an upgrade.
    pub is_upgrade: bool,
}

/// The position of the reader within a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Head,
    Length(u64),
    UntilClose,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Tunnel,
}

/// Reads messages out of a stream of bytes.
#[derive(Clone, Debug)]
pub struct Reader {
    way: Way,
    held: Vec<u8>,
    at: usize,
    state: State,
    trailer: Vec<(String, String)>,
    /// Whether the head was returned, but not the end.
    is_inside: bool,
}

type Read<T> = Result<T, String>;

impl Reader {
    /// Returns a reader at the beginning of a connection.
    pub const fn new(way: Way) -> Self {
        Self {
            way,
            held: Vec::new(),
            at: 0,
            state: State::Head,
            trailer: Vec::new(),
            is_inside: false,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.at);
        self.at = 0;
        self.held.extend_from_slice(bytes);
    }

    /// Returns whether a message has begun and is not complete. Unread bytes count as a message,
    /// and so does a body that ends with the connection.
    pub const fn is_inside(&self) -> bool {
        self.is_inside || self.at < self.held.len()
    }

    /// Returns whether the current message ends only with its connection.
    pub fn ends_at_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Returns whether the connection carries another protocol now.
    pub fn is_tunnel(&self) -> bool {
        self.state == State::Tunnel
    }

    /// Applies the backend's agreement to an upgrade: the bytes that follow are not HTTP.
    pub const fn begin_tunnel(&mut self) {
        self.state = State::Tunnel;
        self.is_inside = false;
    }

    /// Returns the next item, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn next(&mut self, asked: Option<Asked>) -> Read<Option<Item>> {
        match self.state {
            State::Head => self.next_head(asked),
            State::Length(0) => Ok(Some(self.end())),
            State::Length(left) | State::Chunk(left) => {
                let Some(data) = self.take(left) else { return Ok(None) };
                let left = left - data.len() as u64;
                self.state = match self.state {
                    State::Chunk(_) if left == 0 => State::ChunkEnd,
                    State::Chunk(_) => State::Chunk(left),
                    _ => State::Length(left),
                };
                Ok(Some(Item::Data(data)))
            }
            State::UntilClose | State::Tunnel => Ok(self.take(u64::MAX).map(Item::Data)),
            State::ChunkEnd => match self.held.get(self.at..self.at + 2) {
                Some(b"\r\n") => {
                    self.at += 2;
                    self.state = State::Size;
                    self.next(asked)
                }
                Some(_) => Err("chunk data is not followed by CRLF".to_owned()),
                None => Ok(None),
            },
            State::Size => {
                let Some(line) = self.line()? else { return Ok(None) };
                // Extensions are not forwarded.
                let is_plain = !line.is_empty()
                    && line.len() <= 16
                    && line.iter().all(|byte| byte.is_ascii_hexdigit());
                if !is_plain {
                    return Err(format!("chunk size line {:?}", text(&line)));
                }
                let size =
                    u64::from_str_radix(&text(&line), 16).map_err(|error| error.to_string())?;
                self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                self.next(asked)
            }
            State::Trailer => {
                let Some(line) = self.line()? else { return Ok(None) };
                if line.is_empty() {
                    return Ok(Some(self.end()));
                }
                let (name, value) =
                    strict::field(&line).ok_or_else(|| format!("trailer {:?}", text(&line)))?;
                let field = (text(&name).to_ascii_lowercase(), text(&value));
                if NEVER_TRAILING.contains(&field.0.as_str()) {
                    return Err(format!("trailer field {}", field.0));
                }
                self.trailer.push(field);
                self.next(asked)
            }
        }
    }

    fn end(&mut self) -> Item {
        self.state = State::Head;
        self.is_inside = false;
        Item::End(std::mem::take(&mut self.trailer))
    }

    fn take(&mut self, most: u64) -> Option<Vec<u8>> {
        let held = &self.held[self.at..];
        let count = held.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let data = held[..count].to_vec();
        self.at += count;
        (count > 0).then_some(data)
    }

    /// Returns the next line without its CRLF.
    fn line(&mut self) -> Read<Option<Vec<u8>>> {
        match strict::line(&self.held[self.at..]) {
            Verdict::Whole(line) => {
                self.at += line.len() + 2;
                Ok(Some(line.to_vec()))
            }
            Verdict::More if self.held.len() - self.at > 100_000 => Err("endless line".to_owned()),
            Verdict::More => Ok(None),
            Verdict::Wrong(wrong) => Err(wrong.to_owned()),
        }
    }

    fn next_head(&mut self, asked: Option<Asked>) -> Read<Option<Item>> {
        let held = &self.held[self.at..];
        // The strict reader accepts some empty lines before a request. The proxy sends none.
        if self.way == Way::ToBackend && held.first().is_some_and(u8::is_ascii_control) {
            return Err("empty line before a request".to_owned());
        }
        if !held.windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(None);
        }
        let read = match self.way {
            Way::ToBackend => strict::request(held),
            Way::ToClient => strict::response(held),
        };
        let read = match read {
            Verdict::Whole(read) => read,
            Verdict::More => return Ok(None),
            Verdict::Wrong(wrong) => {
                return Err(format!("{wrong} in {:?}", held.escape_ascii().to_string()));
            }
        };
        self.at += read.len;
        let (head, extent) = match self.way {
            Way::ToBackend => {
                let head = request_head(&read)?;
                check_request(&head)?;
                (head, read.request_extent())
            }
            Way::ToClient => {
                // RFC 9112 section 4 requires the space even without a reason phrase.
                if held.get("HTTP/1.1 200".len()) != Some(&b' ') {
                    return Err("no space behind the status".to_owned());
                }
                let head = response_head(&read)?;
                let asked = asked.ok_or("a response without a request")?;
                check_response(&head, asked)?;
                (head, read.response_extent(asked.is_head))
            }
        };
        self.state = match extent? {
            _ if head.status == 101 => State::Tunnel,
            Extent::Length(length) => State::Length(length),
            Extent::Chunked => State::Size,
            Extent::UntilClose => State::UntilClose,
        };
        self.is_inside = self.state != State::Tunnel;
        Ok(Some(Item::Head(head)))
    }
}

const HOP_BY_HOP: [&str; 6] = [
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "proxy-authenticate-info",
    "x-hop",
    "x-second-hop",
];

const NEVER_TRAILING: [&str; 12] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "upgrade",
    "te",
    "via",
    "trailer",
    "authorization",
    "set-cookie",
    "x-forwarded-for",
    "content-type",
];

/// Names that gateways to CGI would read as fields that frame or route a message.
const LOOKALIKES: [&str; 4] =
    ["content_length", "transfer_encoding", "x_forwarded_for", "x_forwarded_host"];

/// Returns each byte as a character.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte as char).collect()
}

fn fields(read: &strict::Head) -> Vec<(String, String)> {
    let fields = read.fields.iter();
    fields.map(|(name, value)| (text(name).to_ascii_lowercase(), text(value))).collect()
}

fn request_head(read: &strict::Head) -> Read<Head> {
    let [method, target, version] = read.line.each_ref().map(|part| text(part));
    let is_good_target = (target.starts_with('/') || (target == "*" && method == "OPTIONS"))
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let is_passed_on = !matches!(&*method, "CONNECT" | "TRACE");
    if version != "HTTP/1.1" || !is_good_target || !is_passed_on {
        return Err(format!("request line {method:?} {target:?} {version:?}"));
    }
    Ok(Head { method, target, status: 0, fields: fields(read) })
}

fn response_head(read: &strict::Head) -> Read<Head> {
    let [version, status, _] = read.line.each_ref().map(|part| text(part));
    let wrong = || format!("status line {version:?} {status:?}");
    if version != "HTTP/1.1" {
        return Err(wrong());
    }
    let status = status.parse().map_err(|_| wrong())?;
    Ok(Head { status, fields: fields(read), ..Head::default() })
}

fn check_common(head: &Head) -> Read<()> {
    for (name, _) in &head.fields {
        if HOP_BY_HOP.contains(&name.as_str()) || LOOKALIKES.contains(&name.as_str()) {
            return Err(format!("field {name} was passed on"));
        }
    }
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match (&lengths[..], &codings[..]) {
        ([], []) | ([], ["chunked"]) => {}
        ([length], []) if is_number(length) => {}
        _ => return Err(format!("framing by lengths {lengths:?} and codings {codings:?}")),
    }
    if head.all("connection").len() > 1 {
        return Err("more than one Connection".to_owned());
    }
    Ok(())
}

fn check_request(head: &Head) -> Read<()> {
    check_common(head)?;
    if head.one("host").is_none_or(str::is_empty) {
        return Err(format!("Host fields {:?}", head.all("host")));
    }
    let (upgrade, te) = (head.all("upgrade"), head.all("te"));
    match head.one("connection") {
        Some("upgrade") if upgrade.len() == 1 && te.is_empty() => {}
        Some("te") if upgrade.is_empty() && te == ["trailers"] => {}
        Some("close") | None if upgrade.is_empty() && te.is_empty() => {}
        connection => {
            return Err(format!("Connection {connection:?}, Upgrade {upgrade:?}, TE {te:?}"));
        }
    }
    // A probe has its own User-Agent. Every other request has passed through a proxy and has Via.
    let is_probe = head.one("user-agent") == Some("intelliproxy");
    let via = head.all("via");
    if !is_probe && !via.last().is_some_and(|last| last.contains(" intelliproxy-")) {
        return Err(format!("Via fields {via:?}"));
    }
    if !is_probe && head.all("x-forwarded-for").len() != 1 {
        return Err(format!("X-Forwarded-For fields {:?}", head.all("x-forwarded-for")));
    }
    Ok(())
}

fn check_response(head: &Head, asked: Asked) -> Read<()> {
    check_common(head)?;
    let has_coding = !head.all("transfer-encoding").is_empty();
    let has_length = !head.all("content-length").is_empty();
    match head.status {
        101 if !asked.is_upgrade => return Err("101 to a request that did not ask".to_owned()),
        100..=199 | 204 if has_coding || has_length => {
            return Err(format!("status {} with a framing", head.status));
        }
        100..=199 if asked.is_old => return Err("1xx to HTTP/1.0".to_owned()),
        _ => {}
    }
    if asked.is_old && has_coding {
        return Err("Transfer-Encoding to HTTP/1.0".to_owned());
    }
    let has_body = !asked.is_head && !matches!(head.status, 100..=199 | 204 | 304);
    if has_body && !asked.is_old && !has_coding && !has_length {
        return Err("a body until close to HTTP/1.1".to_owned());
    }
    match (head.status, head.one("connection")) {
        (101, Some("upgrade")) | (_, Some("close" | "keep-alive") | None) => Ok(()),
        (status, connection) => Err(format!("Connection {connection:?} with status {status}")),
    }
}
