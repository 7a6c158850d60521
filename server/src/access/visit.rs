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

/// The facts about an exchange so far.
#[derive(Debug)]
pub(crate) struct Visit {
    record: Record,
    /// Its texts, one after the other.
    texts: Vec<u8>,
    cuts_queries: bool,
    /// The time since which it waits for a backend with room.
    waits_since: Option<Instant>,
    /// The time since which a connection is being made for it.
    dials_since: Option<Instant>,
    /// Its end. Bytes of its response may still wait for the client.
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
    /// Begins with the first byte of a request.
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

    /// Takes a complete and valid head.
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

    /// Takes the bytes of a head that is incomplete or invalid: the first two words of its first line
    /// are taken for method and target, and its last one for the version if it looks like one.
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

    /// Notes bytes of the request's body or of a tunnel that were read.
    #[inline]
    pub(crate) const fn receive(&mut self, count: usize) {
        self.record.received += count as u64;
    }

    /// Notes bytes that the client's connection accepted.
    #[inline]
    pub(crate) const fn send(&mut self, count: usize) {
        self.record.sent += count as u64;
    }

    /// Notes that the request waits for a backend with room.
    pub(crate) const fn wait(&mut self, now: Instant) {
        self.waits_since = Some(now);
    }

    /// Notes a backend for the request.
    pub(crate) fn route(&mut self, now: Instant, why: Why, backend: &str) {
        self.end_wait(now);
        self.record.why = why;
        self.record.tries = self.record.tries.saturating_add(1);
        (self.record.connect, self.record.backend) = (Span::NONE, Span::NONE);
        self.dials_since = None;
        self.push(Text::Backend, backend.as_bytes());
    }

    /// Notes that a connection is being made.
    pub(crate) fn dial(&mut self, now: Instant) {
        self.dials_since.get_or_insert(now);
    }

    /// Notes that the request has a connection.
    pub(crate) fn link(&mut self, now: Instant) {
        if let Some(since) = self.dials_since.take() {
            self.record.connect = Span::of(now.since(since));
        }
    }

    /// Notes a final response: its status, its time at the backend, and the bytes of its head.
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

    /// Notes an interim response with a head of this many bytes.
    pub(crate) const fn interim(&mut self, head: usize) {
        self.record.heads += head as u64;
    }

    /// Notes a response of the proxy itself, which begins with a head of `head` bytes.
    pub(crate) fn answer_itself(&mut self, now: Instant, status: u16, head: usize) {
        self.answer(now, status, None, head);
        self.end(Ending::Complete);
    }

    /// Notes the end of an attempt without a response: the time that the backend had.
    pub(crate) fn give_up(&mut self, now: Instant, backend: Duration) {
        self.record.backend = Span::of(backend);
        self.link(now);
    }

    /// Notes a failed attempt. `is_redialled`: the request is sent again over a new connection.
    pub(crate) fn fail(&mut self, error: UpstreamError, is_redialled: bool) {
        let reason = if is_redialled { CLOSED_IDLE } else { reason(error) };
        self.record.tries = self.record.tries.saturating_add(is_redialled.into());
        self.push(Text::Error, reason.as_bytes());
    }

    /// Notes that a backend refused the request, which goes to another one.
    pub(crate) fn refuse(&mut self) {
        self.push(Text::Error, REFUSED.as_bytes());
    }

    /// Notes the end by an error of the client.
    pub(crate) fn end_by_client(&mut self, error: ClientError) {
        self.push(Text::Error, error.to_string().as_bytes());
        self.end(match error {
            ClientError::HeadTimeout | ClientError::BodyTimeout => Ending::ClientTimeout,
            ClientError::Incomplete => Ending::ClientLeft,
            _ => Ending::ClientError,
        });
    }

    /// Notes the end by an error of the backend or of the way to it.
    pub(crate) fn end_by_backend(&mut self, error: UpstreamError) {
        self.end(Ending::of(error));
    }

    /// Notes how the exchange ended. Only the first end counts.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Notes the end of the client's connection. It replaces an earlier end only if that was a
    /// complete response whose bytes still waited.
    pub(crate) fn cut(&mut self, ending: Ending) {
        if matches!(self.ending, None | Some(Ending::Complete)) {
            self.ending = Some(ending);
        }
    }

    /// Whether the exchange has ended.
    #[inline]
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

    /// Sets the first texts, before any other is set.
    fn begin_texts<const N: usize>(&mut self, texts: [&[u8]; N]) {
        debug_assert!(self.texts.is_empty(), "a head comes first, and once");
        self.texts.reserve(texts.iter().map(|text| text.len()).sum::<usize>() + LATER_TEXTS);
        for (text, length) in texts.into_iter().zip(&mut self.record.lengths) {
            self.texts.extend_from_slice(text);
            *length = text.len() as u32;
        }
    }

    /// Sets one of the texts. Texts are usually set in their order, so this one is appended.
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

    /// Returns the place of one of the texts.
    fn range(&self, text: Text) -> Range<usize> {
        let index = text as usize;
        let begin = self.record.lengths[..index].iter().sum::<u32>() as usize;
        begin..begin + self.record.lengths[index] as usize
    }
}

impl Ending {
    /// Returns the end that an error of a backend means.
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

/// Masks `user:password` of `http://user:password@host`, as in the program's log.
fn without_user(target: &[u8]) -> Cow<'_, [u8]> {
    if matches!(target, [] | [b'/', ..]) {
        return Cow::Borrowed(target);
    }
    let end_from = |begin: usize| {
        let rest = target.get(begin..).unwrap_or_default();
        rest.iter().position(|byte| b"/?#".contains(byte)).map_or(target.len(), |at| begin + at)
    };
    let first = end_from(0);
    // Without a scheme it is `user:password@host:port`, of CONNECT.
    let has_scheme = target[..first].ends_with(b":") && target[first..].starts_with(b"//");
    let begin = if has_scheme { first + 2 } else { 0 };
    match target[begin..end_from(begin)].iter().rposition(|byte| *byte == b'@') {
        Some(at) if at > 0 => {
            Cow::Owned([&target[..begin], b"***", &target[begin + at..]].concat())
        }
        _ => Cow::Borrowed(target),
    }
}

/// Room for the texts after the head's, bytes: usual names of a backend and an error.
const LATER_TEXTS: usize = 32;
/// The largest memory of texts that is reused, bytes; usual requests need less than a third.
const TEXTS_KEPT_MAX: usize = 1024;
/// The maximum number of bytes of an invalid request line that are recorded.
const FRAGMENT_MAX: usize = 1024;
