//! The facts about an exchange in progress, for the access log.
use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::ids::Ids;
use super::record::{Ending, Record, Span, Text, Why};
use crate::http::field::Name;
use crate::http::head::RequestHead;
use crate::http::{ClientError, UpstreamError};
use crate::pages::metrics::{CLOSED_IDLE, REFUSED, reason};

/// The facts known so far about an exchange.
#[derive(Debug)]
pub(crate) struct Visit {
    record: Record,
    /// Its texts, one after the other.
    texts: Vec<u8>,
    cuts_queries: bool,
    /// The time at which it began to wait for a backend with room.
    waits_since: Option<Instant>,
    /// The time at which the proxy began to connect for it.
    dials_since: Option<Instant>,
    /// The way it ended, if it has ended. Bytes of its response may still be waiting for the
    /// client.
    ending: Option<Ending>,
}

impl Default for Visit {
    fn default() -> Self {
        Self {
            record: Record::EMPTY,
            texts: Vec::new(),
            cuts_queries: false,
            waits_since: None,
            dials_since: None,
            ending: None,
        }
    }
}

impl Visit {
    /// Starts with the first byte of a request.
    pub(super) fn begin(&mut self, started: Instant, cuts_queries: bool) {
        self.record = Record { started, ..Record::EMPTY };
        self.texts.clear();
        self.cuts_queries = cuts_queries;
        (self.waits_since, self.dials_since, self.ending) = (None, None, None);
    }

    pub(super) const fn record(&self) -> &Record {
        &self.record
    }

    /// Returns one of its texts; empty if that text is missing.
    pub(crate) fn text(&self, text: Text) -> &[u8] {
        self.texts.get(self.range(text)).unwrap_or_default()
    }

    pub(super) fn texts(&self) -> &[u8] {
        &self.texts
    }

    /// Whether its memory is small enough to be reused.
    pub(super) const fn is_small(&self) -> bool {
        self.texts.capacity() <= TEXTS_KEPT_MAX
    }

    /// Records a complete and valid head.
    pub(super) fn take_head(
        &mut self,
        now: Instant,
        head: &RequestHead<'_, '_>,
        ids: &mut Ids,
        is_trusted: bool,
    ) {
        self.record.received = head.len as u64;
        self.record.version = Some(head.version);
        self.record.head = Span::of(now.since(self.record.started));
        let (mut referer, mut agent, mut trace, mut id) = (&[][..], &[][..], &[][..], &[][..]);
        for (name, known, value) in head.fields.iter() {
            if known != Name::Other {
                continue;
            }
            let kept = match name.len() {
                7 if name.eq_ignore_ascii_case("referer") => &mut referer,
                10 if name.eq_ignore_ascii_case("user-agent") => &mut agent,
                11 if name.eq_ignore_ascii_case("traceparent") => &mut trace,
                _ if ids.is_field(name) => &mut id,
                _ => continue,
            };
            *kept = value;
        }
        let made;
        let id = if ids.takes(id, is_trusted) {
            id
        } else {
            made = ids.make();
            &made
        };
        // In the order of `Text`.
        let (target, referer) = (self.shown(head.target), self.shown(referer));
        self.begin_texts([head.method.as_bytes(), &target, b"", id, trace, &referer, agent]);
    }

    /// Records the bytes of an incomplete or invalid head. The first two words of the first line
    /// become method and target, and the last one becomes the version if it looks like one.
    pub(crate) fn take_fragment(&mut self, now: Instant, input: &[u8], id: &[u8]) {
        let begin = input.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(input.len());
        let rest = &input[begin..];
        let line = rest.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
        let line = &line[..line.len().min(FRAGMENT_MAX)];
        let mut words = line.split(|byte| *byte == b' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        self.record.received = input.len() as u64;
        self.record.head = Span::of(now.since(self.record.started));
        let names_http =
            |word: &&[u8]| word.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP/"));
        self.push(Text::Method, method);
        self.push(Text::Target, &self.shown(target));
        self.push(Text::Version, words.next_back().filter(names_http).unwrap_or_default());
        self.push(Text::RequestId, id);
    }

    /// Counts bytes that were read of the request's body or of a tunnel.
    pub(crate) const fn receive(&mut self, count: usize) {
        self.record.received += count as u64;
    }

    /// Counts bytes that the client's connection accepted.
    pub(crate) const fn send(&mut self, count: usize) {
        self.record.sent += count as u64;
    }

    /// Records that the request waits for a backend with room.
    pub(crate) const fn wait(&mut self, now: Instant) {
        self.waits_since = Some(now);
    }

    /// Records the backend chosen for the request.
    pub(crate) fn route(&mut self, now: Instant, why: Why, backend: &str) {
        self.end_wait(now);
        self.record.why = why;
        self.record.tries = self.record.tries.saturating_add(1);
        (self.record.connect, self.record.backend) = (Span::NONE, Span::NONE);
        self.dials_since = None;
        self.push(Text::Backend, backend.as_bytes());
    }

    /// Records that the proxy begins to connect to the backend.
    pub(crate) fn dial(&mut self, now: Instant) {
        self.dials_since.get_or_insert(now);
    }

    /// Records that the request has a connection.
    pub(crate) fn link(&mut self, now: Instant) {
        if let Some(since) = self.dials_since.take() {
            self.record.connect = Span::of(now.since(since));
        }
    }

    /// Records a final response: its status, the backend's time, and the bytes of its head.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        status: u16,
        backend: Option<Duration>,
        head: usize,
    ) {
        self.end_wait(now);
        self.record.status = status;
        if let Some(time) = backend {
            self.record.backend = Span::of(time);
        }
        self.record.first_byte = Span::of(now.since(self.record.started));
        self.record.heads += head as u64;
    }

    /// Records an interim response with a head of this many bytes.
    pub(crate) const fn interim(&mut self, head: usize) {
        self.record.heads += head as u64;
    }

    /// Records a response of the proxy itself with a head of `head` bytes.
    pub(crate) fn answer_itself(&mut self, now: Instant, status: u16, head: usize) {
        self.answer(now, status, None, head);
        self.end(Ending::Complete);
    }

    /// Records the backend's time of an attempt that ended without a response.
    pub(crate) fn give_up(&mut self, now: Instant, backend: Duration) {
        self.record.backend = Span::of(backend);
        self.link(now);
    }

    /// Records a failed attempt. If `is_redialled`, the request is sent again over a new
    /// connection.
    pub(crate) fn fail(&mut self, error: UpstreamError, is_redialled: bool) {
        let reason = if is_redialled { CLOSED_IDLE } else { reason(error) };
        self.record.tries = self.record.tries.saturating_add(is_redialled.into());
        self.push(Text::Error, reason.as_bytes());
    }

    /// Records that a backend refused the request, which now goes to another one.
    pub(crate) fn refuse(&mut self) {
        self.push(Text::Error, REFUSED.as_bytes());
    }

    /// Records that a client error ended the exchange.
    pub(crate) fn end_by_client(&mut self, error: ClientError) {
        self.push(Text::Error, error.to_string().as_bytes());
        self.end(match error {
            ClientError::HeadTimeout | ClientError::BodyTimeout => Ending::ClientTimeout,
            ClientError::Incomplete => Ending::ClientLeft,
            _ => Ending::ClientError,
        });
    }

    /// Records that an error of the backend, or of the connection to it, ended the exchange.
    pub(crate) fn end_by_backend(&mut self, error: UpstreamError) {
        self.end(Ending::of(error));
    }

    /// Records how the exchange ended. Later calls have no effect.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Records the end of the client's connection. It replaces an earlier end only if that was a
    /// complete response whose bytes were still waiting.
    pub(crate) fn cut(&mut self, ending: Ending) {
        if matches!(self.ending, None | Some(Ending::Complete)) {
            self.ending = Some(ending);
        }
    }

    /// Whether the exchange has ended.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Completes the record.
    pub(crate) fn finish(&mut self, now: Instant, client: SocketAddr) {
        self.end_wait(now);
        self.record.client = client;
        self.record.total = Span::of(now.since(self.record.started));
        self.record.ending = self.ending.unwrap_or(Ending::ClientLeft);
    }

    fn end_wait(&mut self, now: Instant) {
        if let Some(since) = self.waits_since.take() {
            let before = Duration::from_nanos(self.record.queue.nanos().unwrap_or_default());
            self.record.queue = Span::of(before + now.since(since));
        }
    }

    /// Returns the part of a target that is recorded.
    fn shown<'t>(&self, target: &'t [u8]) -> Cow<'t, [u8]> {
        if !self.cuts_queries {
            return without_user(target);
        }
        without_user(target.split(|byte| *byte == b'?').next().unwrap_or_default())
    }

    /// Sets the first texts. No other text may be set before.
    fn begin_texts<const N: usize>(&mut self, texts: [&[u8]; N]) {
        debug_assert!(self.texts.is_empty(), "a head comes first, and once");
        self.texts.reserve(texts.iter().map(|text| text.len()).sum::<usize>() + LATER_TEXTS);
        for (text, length) in texts.into_iter().zip(&mut self.record.lengths) {
            self.texts.extend_from_slice(text);
            *length = text.len() as u32;
        }
    }

    /// Sets one of the texts. Texts are usually set in order, so this usually appends.
    fn push(&mut self, text: Text, bytes: &[u8]) {
        let Range { start: begin, end } = self.range(text);
        if end == self.texts.len() {
            self.texts.truncate(begin);
            self.texts.extend_from_slice(bytes);
        } else {
            self.texts.splice(begin..end, bytes.iter().copied());
        }
        self.record.lengths[text as usize] = bytes.len() as u32;
    }

    /// Returns the range of one of the texts in `texts`.
    fn range(&self, text: Text) -> Range<usize> {
        let index = text as usize;
        let begin = self.record.lengths[..index].iter().sum::<u32>() as usize;
        begin..begin + self.record.lengths[index] as usize
    }
}

impl Ending {
    /// Returns the ending for an error of a backend.
    const fn of(error: UpstreamError) -> Self {
        match error {
            UpstreamError::NoBackend => Self::NoBackend,
            UpstreamError::QueueFull | UpstreamError::QueueTimeout => Self::Queue,
            UpstreamError::Refused
            | UpstreamError::Unreachable
            | UpstreamError::Handshake(_)
            | UpstreamError::Exhausted
            | UpstreamError::ConnectTimeout => Self::ConnectFailed,
            UpstreamError::HeadTimeout | UpstreamError::BodyTimeout => Self::BackendTimeout,
            UpstreamError::Cut | UpstreamError::Truncated => Self::BackendCut,
            UpstreamError::MalformedHead
            | UpstreamError::HeadTooLarge
            | UpstreamError::TooManyFields
            | UpstreamError::InterimTooLarge
            | UpstreamError::AmbiguousFraming
            | UpstreamError::Unsolicited
            | UpstreamError::UnexpectedUpgrade
            | UpstreamError::MalformedChunk(_) => Self::BackendError,
        }
    }
}

/// Masks `user:password` in `http://user:password@host`, as the program's log does.
fn without_user(target: &[u8]) -> Cow<'_, [u8]> {
    if matches!(target, [] | [b'/', ..]) {
        return Cow::Borrowed(target);
    }
    let end_from = |begin: usize| {
        let rest = target.get(begin..).unwrap_or_default();
        rest.iter().position(|byte| b"/?#".contains(byte)).map_or(target.len(), |at| begin + at)
    };
    let first = end_from(0);
    // Without a scheme this is the `user:password@host:port` of a CONNECT request.
    let has_scheme = target[..first].ends_with(b":") && target[first..].starts_with(b"//");
    let begin = if has_scheme { first + 2 } else { 0 };
    match target[begin..end_from(begin)].iter().rposition(|byte| *byte == b'@') {
        Some(at) if at > 0 => {
            Cow::Owned([&target[..begin], b"***", &target[begin + at..]].concat())
        }
        _ => Cow::Borrowed(target),
    }
}

/// Room for the texts after those of the head, bytes: enough for the usual backend name and error.
const LATER_TEXTS: usize = 32;
/// The largest text memory that is reused, bytes. Usual requests need less than a third of it.
const TEXTS_KEPT_MAX: usize = 1024;
/// The maximum number of bytes of an invalid request line that are recorded.
const FRAGMENT_MAX: usize = 1024;
