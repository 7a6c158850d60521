//! One probe on its own connection: sends a request and judges the response. `probing.rs` makes and
//! closes the connection. The status decides a ping, so nothing after the head is read unless the
//! check looks for a text in the body. A report's figures are read from its body.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant, ProbeAnswer, ProbeFailure, ProbeId, ProbeResult};

use super::notice::ReportFault;
use super::report::agent::LINE_BYTES_MAX;
use super::report::{Reading, read_report};
use super::upstreams::Attempt;
use crate::config::{Check, CheckKind, CheckMethod, ReportKind, Reporting};
use crate::http::UpstreamError;
use crate::http::body::BodyReader;
use crate::http::chunked::ChunkLimits;
use crate::http::field::{FIELDS_MAX, Fields, Slots};
use crate::http::framing::response_framing;
use crate::http::head::{HeadLimits, Parsed, parse_response};
use crate::http::progress::HeadProgress;

/// The maximum length of a report, bytes. A longer text is not a report.
pub(crate) const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// The maximum length of a ping's body in which a check looks for its text, bytes.
const SEARCH_BYTES_MAX: usize = 64 * 1024;
/// The maximum length of all interim responses before the response to a probe, bytes.
const INTERIM_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// The maximum length of the head of a probe's response, bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The maximum length of one read, bytes.
const READ_BYTES: usize = 8 * 1024;

/// A probe in progress.
#[derive(Debug)]
pub(crate) struct ProbeExchange {
    pub(crate) probe: ProbeId,
    pub(crate) backend: BackendId,
    /// The fault of a report that arrived.
    fault: Option<ReportFault>,
    work: Work,
    started: Instant,
    pub(crate) deadline: Instant,
    /// The address in use, from the backend's list.
    pub(crate) attempt: Attempt,
    is_open: bool,
    request: Vec<u8>,
    sent: usize,
    /// Received bytes that were not consumed yet, and room for more.
    input: Vec<u8>,
    /// The number of received bytes at the beginning of `input`.
    len: usize,
    /// Progress in the head at the beginning of `input`.
    progress: HeadProgress,
    /// Bytes of the interim responses so far.
    interim_bytes: usize,
    /// The body, if it matters, once its head is complete.
    body: Option<ProbeBody>,
}

/// The task of a probe.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// It checks the backend's health.
    Ping(Arc<Check>),
    /// Reads the backend's load figures.
    Report(Arc<Reporting>),
}

/// A body, read as it arrives.
#[derive(Debug)]
struct ProbeBody {
    reader: BodyReader,
    text: Vec<u8>,
    bytes_max: usize,
}

impl ProbeExchange {
    pub(crate) fn new(
        probe: ProbeId,
        backend: BackendId,
        work: Work,
        started: Instant,
        deadline: Instant,
        authority: &str,
    ) -> Self {
        let request = work.request(authority);
        Self {
            probe,
            backend,
            fault: None,
            work,
            started,
            deadline,
            attempt: Attempt::default(),
            is_open: false,
            request,
            sent: 0,
            input: Vec::new(),
            len: 0,
            progress: HeadProgress::default(),
            interim_bytes: 0,
            body: None,
        }
    }

    /// Records that the connection is open; the request is written next. Returns the result of a
    /// check that only connects.
    pub(crate) fn handle_connected(&mut self, now: Instant) -> Option<ProbeResult> {
        self.is_open = true;
        self.work.is_connection().then(|| self.good(now))
    }

    /// Returns the address to connect to: the backend's, with the port of the check if that
    /// differs.
    pub(crate) fn address(&self, mut address: SocketAddr) -> SocketAddr {
        let port = match &self.work {
            Work::Ping(check) => check.port,
            Work::Report(reporting) => reporting.port,
        };
        if let Some(port) = port {
            address.set_port(port);
        }
        address
    }

    /// Whether the probe uses the TLS of its backend. Checks that only connect do not, and neither
    /// do agents, which are separate programs.
    pub(crate) fn may_have_tls(&self) -> bool {
        match &self.work {
            Work::Ping(check) => check.kind != CheckKind::Tcp,
            Work::Report(reporting) => reporting.kind != ReportKind::Agent,
        }
    }

    /// Whether the connection has been made.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes the fault of a report that ended with `result`; `None` for a ping or if there was no
    /// fault.
    pub(crate) fn take_fault(&mut self, result: &ProbeResult) -> Option<ReportFault> {
        let is_report = matches!(self.work, Work::Report(_));
        let failure = result.as_ref().err().filter(|_| is_report);
        self.fault.take().or_else(|| failure.and_then(|&failure| ReportFault::of(failure)))
    }

    pub(crate) fn read_space(&mut self) -> &mut [u8] {
        self.input.resize(self.len + READ_BYTES, 0);
        &mut self.input[self.len..]
    }

    pub(crate) fn write_ready(&self) -> &[u8] {
        if self.is_open { &self.request[self.sent..] } else { &[] }
    }

    pub(crate) const fn handle_written(&mut self, count: usize) {
        self.sent += count;
    }

    /// Handles `count` new bytes. Returns the result once it is known. Parsed bytes leave
    /// `input`; an incomplete head stays there.
    pub(crate) fn handle_read(&mut self, now: Instant, count: usize) -> Option<ProbeResult> {
        self.len += count;
        if self.is_agent() {
            return self.read_line(now);
        }
        let mut taken = 0;
        let result = loop {
            if self.body.is_some() {
                break self.read_body(now, &mut taken);
            }
            match self.read_head(now, &mut taken) {
                HeadOutcome::Body | HeadOutcome::Interim => {}
                HeadOutcome::Partial => break None,
                HeadOutcome::Over(result) => break Some(result),
            }
        };
        self.input.copy_within(taken..self.len, 0);
        self.len -= taken;
        result
    }

    /// Handles the end of the backend's side. A body that ends with its connection is complete; any
    /// other response is cut.
    pub(crate) fn handle_eof(&mut self, now: Instant) -> ProbeResult {
        if self.is_agent() && self.len > 0 {
            let line = self.input[..self.len].to_vec();
            return self.complete(now, &line);
        }
        match self.body.take() {
            Some(body) if body.reader.ends_at_close() => self.complete(now, &body.text),
            _ => Err(ProbeFailure::Cut),
        }
    }

    /// Whether the probe reads the line of an agent.
    fn is_agent(&self) -> bool {
        matches!(&self.work, Work::Report(reporting) if reporting.kind == ReportKind::Agent)
    }

    /// Reads the line of an agent, which sends it without a request. Returns the result once the
    /// line is complete.
    fn read_line(&mut self, now: Instant) -> Option<ProbeResult> {
        let line = &self.input[..self.len];
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.len) > LINE_BYTES_MAX {
            self.fault = Some(ReportFault::TooLong);
            return Some(Err(ProbeFailure::TooLarge));
        }
        let line = line[..end?].to_vec();
        Some(self.complete(now, &line))
    }

    /// Reads a head that begins at `taken` in the input. For a ping usually only the status counts;
    /// a successful report has a body after it.
    fn read_head(&mut self, now: Instant, taken: &mut usize) -> HeadOutcome {
        let input = &self.input[*taken..self.len];
        if input.is_empty() || !self.progress.is_due(input, LIMITS.head_bytes_max) {
            return HeadOutcome::Partial;
        }
        let mut slots = Slots::new();
        let head = match parse_response(input, &mut slots, &LIMITS) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => {
                self.progress.note_partial(input.len());
                return HeadOutcome::Partial;
            }
            Err(UpstreamError::HeadTooLarge | UpstreamError::TooManyFields) => {
                return HeadOutcome::Over(Err(ProbeFailure::TooLarge));
            }
            Err(_) => return HeadOutcome::Over(Err(ProbeFailure::Malformed)),
        };
        self.progress.reset();
        *taken += head.len;
        if head.status < 200 {
            self.interim_bytes += head.len;
            if self.interim_bytes > INTERIM_BYTES_MAX {
                return HeadOutcome::Over(Err(ProbeFailure::TooLarge));
            }
            return HeadOutcome::Interim;
        }
        let (is_good, bytes_max) = match &self.work {
            Work::Ping(check) if check.is_good(head.status) && check.body.is_none() => {
                return HeadOutcome::Over(self.good(now));
            }
            Work::Ping(check) => (check.is_good(head.status), SEARCH_BYTES_MAX),
            Work::Report(_) => ((200..=399).contains(&head.status), REPORT_BYTES_MAX),
        };
        if !is_good {
            return HeadOutcome::Over(Err(ProbeFailure::Status(head.status)));
        }
        if matches!(self.work, Work::Report(_)) && is_encoded(&head.fields) {
            self.fault = Some(ReportFault::Encoded);
            return HeadOutcome::Over(Err(ProbeFailure::Malformed));
        }
        match response_framing(&head, false) {
            Ok((framing, _)) => match BodyReader::new(framing, CHUNKS) {
                Some(reader) => {
                    self.body = Some(ProbeBody { reader, text: Vec::new(), bytes_max });
                    HeadOutcome::Body
                }
                None => HeadOutcome::Over(self.complete(now, &[])),
            },
            Err(_) => HeadOutcome::Over(Err(ProbeFailure::Malformed)),
        }
    }

    /// Reads the received part of the body, which begins at `taken` in the input. Returns the
    /// result once the body is complete, or has the text that a check looks for.
    fn read_body(&mut self, now: Instant, taken: &mut usize) -> Option<ProbeResult> {
        let input = &self.input[*taken..self.len];
        *taken = self.len;
        let body = self.body.as_mut()?;
        let before = body.text.len();
        let result = body.read(input);
        let searched = &body.text[..body.text.len().min(body.bytes_max)];
        let before = before.min(searched.len());
        if matches!(&self.work, Work::Ping(check) if check.is_in(searched, before)) {
            return Some(self.good(now));
        }
        match result {
            Ok(false) => None,
            Ok(true) => self.body.take().map(|body| self.complete(now, &body.text)),
            Err(ProbeFailure::TooLarge) if matches!(self.work, Work::Ping(_)) => {
                Some(Err(ProbeFailure::Body))
            }
            Err(failure) => {
                if failure == ProbeFailure::TooLarge {
                    self.fault = Some(ReportFault::TooLong);
                }
                Some(Err(failure))
            }
        }
    }

    /// Returns the result for a complete body.
    fn complete(&mut self, now: Instant, body: &[u8]) -> ProbeResult {
        match &self.work {
            Work::Ping(check) if check.is_in(body, 0) => self.good(now),
            Work::Ping(_) => Err(ProbeFailure::Body),
            Work::Report(reporting) => {
                let Reading { report, fault } = read_report(body, reporting);
                self.fault = fault;
                Ok(ProbeAnswer { latency: self.latency(now), report })
            }
        }
    }

    /// Returns the result of a good ping.
    fn good(&self, now: Instant) -> ProbeResult {
        Ok(ProbeAnswer { latency: self.latency(now), report: None })
    }

    fn latency(&self, now: Instant) -> Duration {
        now.since(self.started)
    }
}

impl Work {
    /// Whether the connection alone decides.
    fn is_connection(&self) -> bool {
        matches!(self, Self::Ping(check) if check.kind == CheckKind::Tcp)
    }

    /// Returns the request. `authority` is the backend's Host.
    fn request(&self, authority: &str) -> Vec<u8> {
        let (method, path, host, fields) = match self {
            Self::Ping(check) => {
                let host = check.host.as_deref().unwrap_or(authority);
                (check.method, check.path.as_str(), host, Some(&check.fields))
            }
            Self::Report(reporting) if reporting.kind == ReportKind::Agent => return Vec::new(),
            Self::Report(reporting) => (CheckMethod::Get, reporting.path.as_str(), authority, None),
        };
        let mut request = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", method.name());
        let own = fields.into_iter().flatten().map(|(name, value)| (&**name, &**value));
        for (name, value) in [("User-Agent", "intelliproxy"), ("Accept", "*/*")] {
            if !own.clone().any(|(own, _)| name.eq_ignore_ascii_case(own)) {
                request.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        own.for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        if method == CheckMethod::Post {
            request.push_str("Content-Length: 0\r\n");
        }
        request.push_str("Connection: close\r\n\r\n");
        request.into_bytes()
    }
}

/// Whether a body has a content coding. The request for a report allows none, and a small
/// compressed body could grow without bound.
fn is_encoded(fields: &Fields<'_, '_>) -> bool {
    fields.iter().any(|(name, _, value)| {
        name.eq_ignore_ascii_case("content-encoding")
            && !value.trim_ascii().eq_ignore_ascii_case(b"identity")
            && !value.trim_ascii().is_empty()
    })
}

const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: HEAD_BYTES_MAX, target_bytes_max: 0, fields_max: FIELDS_MAX };
const CHUNKS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 1024, trailer_bytes_max: 8 * 1024, fields_max: 128 };

/// Result of [`ProbeExchange::read_head`].
enum HeadOutcome {
    /// The head is not complete yet.
    Partial,
    /// An interim response; another head follows.
    Interim,
    /// A final head whose body must be read: that of a report, or of a ping that searches for a
    /// text.
    Body,
    /// The probe is finished.
    Over(ProbeResult),
}

impl ProbeBody {
    /// Reads the received part of the body. Returns whether the body is complete.
    fn read(&mut self, mut input: &[u8]) -> Result<bool, ProbeFailure> {
        let is_whole = match &mut self.reader {
            BodyReader::Plain { left } => {
                let most =
                    left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
                let own = &input[..input.len().min(most)];
                self.text.extend_from_slice(own);
                *left = left.map(|left| left - own.len() as u64);
                *left == Some(0)
            }
            BodyReader::Chunked(reader) => loop {
                let piece = reader.read(input, usize::MAX).map_err(|_| ProbeFailure::Malformed)?;
                self.text.extend_from_slice(&input[piece.data.clone()]);
                input = &input[piece.consumed..];
                if piece.is_end || piece.consumed == 0 {
                    break piece.is_end;
                }
            },
        };
        let is_too_long = self.text.len() > self.bytes_max;
        if is_too_long { Err(ProbeFailure::TooLarge) } else { Ok(is_whole) }
    }
}

#[cfg(test)]
mod tests;
