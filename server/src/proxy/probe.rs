//! One probe on its own connection: sends a request and judges the response. `probing.rs` makes and
//! closes the connection. The status decides a ping, so nothing after the head is read. A report's
//! figures are read from its body.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::{
    BackendId, Instant, LoadReport, ProbeAnswer, ProbeFailure, ProbeId, ProbeKind, ProbeResult,
};

use serde_json::Value;
use serde_json::value::RawValue;

use super::excerpt;
use super::notice::ReportFault;
use super::upstreams::Attempt;
use crate::http::UpstreamError;
use crate::http::body::BodyReader;
use crate::http::chunked::ChunkLimits;
use crate::http::field::{FIELDS_MAX, Slots};
use crate::http::framing::response_framing;
use crate::http::head::{HeadLimits, Parsed, parse_response};
use crate::http::progress::HeadProgress;

/// The maximum length of a report, bytes. A longer text is not a report.
pub(crate) const REPORT_BYTES_MAX: usize = 256 * 1024;
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
    kind: ProbeKind,
    started: Instant,
    pub(crate) deadline: Instant,
    /// The backend's address that it uses.
    pub(crate) attempt: Attempt,
    is_open: bool,
    request: Vec<u8>,
    sent: usize,
    /// Received bytes that were not consumed yet, and room for more.
    input: Vec<u8>,
    /// Received bytes of `input`; room follows them.
    len: usize,
    /// Progress in the head at the beginning of `input`.
    progress: HeadProgress,
    /// Bytes of the interim responses so far.
    interim_bytes: usize,
    /// The report's body, once its head is complete.
    body: Option<ReportBody>,
}

/// The body of a report, read as it arrives.
#[derive(Debug)]
struct ReportBody {
    reader: BodyReader,
    text: Vec<u8>,
}

impl ProbeExchange {
    pub(crate) fn new(
        probe: ProbeId,
        backend: BackendId,
        kind: ProbeKind,
        started: Instant,
        deadline: Instant,
        path: &str,
        authority: &str,
    ) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: intelliproxy\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        Self {
            probe,
            backend,
            fault: None,
            kind,
            started,
            deadline,
            attempt: Attempt::default(),
            is_open: false,
            request: request.into_bytes(),
            sent: 0,
            input: Vec::new(),
            len: 0,
            progress: HeadProgress::default(),
            interim_bytes: 0,
            body: None,
        }
    }

    /// Notes that the connection was made: the request may be written.
    pub(crate) const fn handle_connected(&mut self) {
        self.is_open = true;
    }

    /// Whether the connection has been made.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes the fault of a report that ended with `result`; `None` for a ping, or without a fault.
    pub(crate) fn take_fault(&mut self, result: &ProbeResult) -> Option<ReportFault> {
        let failure = result.as_ref().err().filter(|_| self.kind == ProbeKind::Report);
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

    /// Handles `count` new bytes. Returns the result once it is known. No byte is kept after it was
    /// parsed, except those of an incomplete head.
    pub(crate) fn handle_read(&mut self, now: Instant, count: usize) -> Option<ProbeResult> {
        self.len += count;
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

    /// Handles the end of the backend's side: a report whose body ends with its connection is
    /// complete, anything else is cut.
    pub(crate) fn handle_eof(&mut self, now: Instant) -> ProbeResult {
        match self.body.take() {
            Some(body) if body.reader.ends_at_close() => Ok(self.report(now, &body.text)),
            _ => Err(ProbeFailure::Cut),
        }
    }

    /// Reads a head that begins at `taken` in the input. For a ping only the status counts; a
    /// successful report has a body after it.
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
        match (head.status, self.kind) {
            (100..=199, _) => {
                self.interim_bytes += head.len;
                if self.interim_bytes > INTERIM_BYTES_MAX {
                    return HeadOutcome::Over(Err(ProbeFailure::TooLarge));
                }
                HeadOutcome::Interim
            }
            (200..=399, ProbeKind::Ping) => {
                HeadOutcome::Over(Ok(ProbeAnswer { latency: self.latency(now), report: None }))
            }
            (200..=399, ProbeKind::Report) => match response_framing(&head, false) {
                Ok((framing, _)) => match BodyReader::new(framing, CHUNKS) {
                    Some(reader) => {
                        self.body = Some(ReportBody { reader, text: Vec::new() });
                        HeadOutcome::Body
                    }
                    None => HeadOutcome::Over(Ok(self.report(now, &[]))),
                },
                Err(_) => HeadOutcome::Over(Err(ProbeFailure::Malformed)),
            },
            (status, _) => HeadOutcome::Over(Err(ProbeFailure::Status(status))),
        }
    }

    /// Reads the received part of a report's body, which begins at `taken` in the input. Returns
    /// the result once the body is complete.
    fn read_body(&mut self, now: Instant, taken: &mut usize) -> Option<ProbeResult> {
        let input = &self.input[*taken..self.len];
        *taken = self.len;
        match self.body.as_mut()?.read(input) {
            Ok(false) => None,
            Ok(true) => self.body.take().map(|body| Ok(self.report(now, &body.text))),
            Err(failure) => {
                if failure == ProbeFailure::TooLarge {
                    self.fault = Some(ReportFault::TooLong);
                }
                Some(Err(failure))
            }
        }
    }

    fn report(&mut self, now: Instant, body: &[u8]) -> ProbeAnswer {
        let (report, fault) = read_report(body);
        self.fault = fault;
        ProbeAnswer { latency: self.latency(now), report }
    }

    fn latency(&self, now: Instant) -> Duration {
        now.since(self.started)
    }
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
    /// The head of a report whose body follows.
    Body,
    /// The probe is finished.
    Over(ProbeResult),
}

impl ReportBody {
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
        let is_too_long = self.text.len() > REPORT_BYTES_MAX;
        if is_too_long { Err(ProbeFailure::TooLarge) } else { Ok(is_whole) }
    }
}

/// Returns the backend's figures that are finite numbers, and the first fault among the others.
/// Returns no figures if the text is not a JSON object. A value that cannot be read, such as a
/// number beyond the range of floats, does not affect the others.
fn read_report(body: &[u8]) -> (Option<LoadReport>, Option<ReportFault>) {
    let Ok(object) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(body) else {
        return (None, Some(ReportFault::NoObject { excerpt: excerpt::of_backend(body) }));
    };
    let mut fault = None;
    let mut number = |field: &'static str| {
        let text = object.get(field)?.get();
        let value: Option<Value> = serde_json::from_str(text).ok();
        if value == Some(Value::Null) {
            return None;
        }
        let number = value.as_ref().and_then(Value::as_f64);
        if number.is_none() && fault.is_none() {
            let excerpt = excerpt::of_backend(text.as_bytes());
            fault = Some(ReportFault::NoNumber { field, excerpt });
        }
        number
    };
    let report = LoadReport {
        queue: number("queueLen"),
        cpu_busy_ms: number("cpuBusyMs"),
        memory_bytes: number("heapUsed").or_else(|| number("memRss")),
    };
    if report == LoadReport::default() {
        fault.get_or_insert(ReportFault::NoFigures);
    }
    (Some(report), fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(kind: ProbeKind) -> ProbeExchange {
        let deadline = Instant::from_millis(1000);
        let backend = BackendId::from_index(0);
        ProbeExchange::new(
            ProbeId::from_u64(1),
            backend,
            kind,
            Instant::ZERO,
            deadline,
            "/health",
            "a",
        )
    }

    /// Feeds a response in pieces of `step` bytes at 7 ms, then the end.
    fn result_of(kind: ProbeKind, answer: &[u8], step: usize) -> ProbeResult {
        let mut probe = probe(kind);
        for piece in answer.chunks(step) {
            probe.read_space()[..piece.len()].copy_from_slice(piece);
            if let Some(result) = probe.handle_read(Instant::from_millis(7), piece.len()) {
                return result;
            }
        }
        probe.handle_eof(Instant::from_millis(7))
    }

    /// Responses are judged the same whole and byte by byte.
    #[test]
    fn answers_are_judged() {
        let good = Ok(ProbeAnswer { latency: Duration::from_millis(7), report: None });
        let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let rows: [(&str, &[u8], ProbeResult); 12] = [
            ("200", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", good.clone()),
            ("302", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", good.clone()),
            ("until close", b"HTTP/1.0 200 OK\r\n\r\nOK", good.clone()),
            ("after 103", b"HTTP/1.1 103 H\r\n\r\nHTTP/1.1 204 N\r\n\r\n", good.clone()),
            (
                "chunked",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
                good.clone(),
            ),
            ("too large", large.as_bytes(), Err(ProbeFailure::TooLarge)),
            ("503", b"HTTP/1.1 503 No\r\n\r\n", Err(ProbeFailure::Status(503))),
            ("garbage", b"hello\r\n\r\n", Err(ProbeFailure::Malformed)),
            ("nothing", b"", Err(ProbeFailure::Cut)),
            (
                "cut in its head",
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n",
                Err(ProbeFailure::Cut),
            ),
            ("cut after it", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nOK", good.clone()),
            (
                "both framings",
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
                good,
            ),
        ];
        for (name, answer, expected) in rows {
            for step in [1, answer.len().clamp(1, READ_BYTES)] {
                assert_eq!(result_of(ProbeKind::Ping, answer, step), expected, "{name} by {step}");
            }
        }
    }

    /// A ping is finished after the head, whatever follows. Interim responses are bounded.
    #[test]
    fn the_status_decides_a_ping() {
        let mut probe = probe(ProbeKind::Ping);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
        let answer = [&head[..], &[b'x'; 1000]].concat();
        probe.read_space()[..answer.len()].copy_from_slice(&answer);
        let result = probe.handle_read(Instant::from_millis(7), answer.len());
        assert!(matches!(result, Some(Ok(_))), "{result:?}");
        let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
        let max = INTERIM_BYTES_MAX / interim.len();
        let last = b"HTTP/1.1 204 N\r\n\r\n".to_vec();
        for (count, is_good) in [(max, true), (max + 1, false)] {
            let answer = [interim.repeat(count), last.clone()].concat();
            for step in [1000, 8000] {
                let result = result_of(ProbeKind::Ping, &answer, step);
                assert_eq!(result.is_ok(), is_good, "{count} by {step}: {result:?}");
            }
        }
    }

    /// A report's body is read by its framing, whole and byte by byte, up to its limit.
    #[test]
    fn report_bodies_are_read_as_they_come() {
        let max = REPORT_BYTES_MAX;
        let text = |len: usize| format!("{{\"queueLen\":3,\"x\":\"{}\"}}", "y".repeat(len - 21));
        let chunked = |text: &str, size: usize| {
            let chunks = text.as_bytes().chunks(size);
            let chunks =
                chunks.map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)));
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            head + &chunks.collect::<String>() + "0\r\n\r\n"
        };
        let plain =
            |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let close = |text: &str| format!("HTTP/1.1 200 OK\r\n\r\n{text}");
        for (len, expected) in [(30, Some(3.0)), (max, Some(3.0)), (max + 1, None)] {
            let text = text(len);
            assert_eq!(text.len(), len);
            for answer in [plain(&text), close(&text), chunked(&text, 1), chunked(&text, 70_000)] {
                for step in [1, 8000] {
                    let result = result_of(ProbeKind::Report, answer.as_bytes(), step);
                    let queue = result.ok().and_then(|answer| answer.report?.queue);
                    assert_eq!(queue, expected, "{len} by {step}: {answer:.50}");
                }
            }
        }
        let cut = plain(&text(30));
        let result = result_of(ProbeKind::Report, &cut.as_bytes()[..cut.len() - 1], 7);
        assert_eq!(result, Err(ProbeFailure::Cut));
    }

    /// The input is empty after each complete head or chunk: it does not grow with the report.
    #[test]
    fn taken_bytes_are_dropped() {
        let mut probe = probe(ProbeKind::Report);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let pieces = [&head[..]].into_iter().chain(std::iter::repeat_n(&b"1\r\nx\r\n"[..], 50_000));
        for piece in pieces {
            for byte in piece {
                probe.read_space()[0] = *byte;
                assert_eq!(probe.handle_read(Instant::ZERO, 1), None);
            }
            assert!(probe.len == 0, "{} bytes wait", probe.len);
        }
    }

    /// Figures that are numbers are used; the first fault of a report is returned.
    #[test]
    fn reports_are_read() {
        let all = LoadReport { queue: Some(3.0), cpu_busy_ms: Some(12.5), memory_bytes: Some(7.0) };
        let memory = LoadReport { memory_bytes: Some(9.0), ..LoadReport::default() };
        let none = LoadReport::default();
        let no_object = |excerpt: &str| ReportFault::NoObject { excerpt: excerpt.to_owned() };
        let no_number = |field, excerpt: &str| {
            Some(ReportFault::NoNumber { field, excerpt: excerpt.to_owned() })
        };
        let rows: [(&str, Option<LoadReport>, Option<ReportFault>); 12] = [
            (r#"{"queueLen":3,"cpuBusyMs":12.5,"memRss":9,"heapUsed":7}"#, Some(all), None),
            (
                r#"{"queueLen":"many","memRss":9}"#,
                Some(memory),
                no_number("queueLen", r#"\"many\""#),
            ),
            (
                r#"{"heapUsed":[1],"memRss":9,"queueLen":null}"#,
                Some(memory),
                no_number("heapUsed", "[1]"),
            ),
            (r#"{"queueLen":true}"#, Some(none), no_number("queueLen", "true")),
            (
                r#"{"memRss":9,"queueLen":1e999,"cpuBusyMs":-1e999}"#,
                Some(memory),
                no_number("queueLen", "1e999"),
            ),
            (r#"{"memRss":9,"heapUsed":1e400}"#, Some(memory), no_number("heapUsed", "1e400")),
            (r#"{"other":1e999,"more":[{"a":-1e999}],"memRss":9}"#, Some(memory), None),
            (r#"{"queueLen":[1e999],"memRss":9}"#, Some(memory), no_number("queueLen", "[1e999]")),
            (r#"{"other":1}"#, Some(none), Some(ReportFault::NoFigures)),
            (
                r#"{"memRss":9,"other":NaN}"#,
                None,
                Some(no_object(r#"{\"memRss\":9,\"other\":NaN}"#)),
            ),
            ("[]", None, Some(no_object("[]"))),
            ("nonsense", None, Some(no_object("nonsense"))),
        ];
        for (body, report, fault) in rows {
            assert_eq!(read_report(body.as_bytes()), (report, fault), "{body}");
        }
    }

    /// Each failure that a response can cause has its own kind of fault. A failed ping has no
    /// fault, since the router reports it.
    #[test]
    fn faults_are_told() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(REPORT_BYTES_MAX + 1));
        let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let rows = [
            (&long[..], Some(ReportFault::TooLong)),
            (&large, Some(ReportFault::HeadTooLarge)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Some(ReportFault::Cut)),
            ("hello\r\n\r\n", Some(ReportFault::Malformed)),
            ("HTTP/1.1 404 N\r\n\r\n", Some(ReportFault::Status(404))),
            ("HTTP/1.1 200 OK\r\n\r\n{\"queueLen\":1}", None),
        ];
        for (answer, expected) in rows {
            for kind in [ProbeKind::Report, ProbeKind::Ping] {
                let mut probe = probe(kind);
                let mut result = None;
                for piece in answer.as_bytes().chunks(READ_BYTES) {
                    probe.read_space()[..piece.len()].copy_from_slice(piece);
                    result = result.or_else(|| probe.handle_read(Instant::ZERO, piece.len()));
                }
                let result = result.unwrap_or_else(|| probe.handle_eof(Instant::ZERO));
                let expected = expected.clone().filter(|_| kind == ProbeKind::Report);
                assert_eq!(probe.take_fault(&result), expected, "{answer:.40}");
            }
        }
    }
}
