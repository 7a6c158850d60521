//! One probe on a connection of its own: a request, the answer judged, the connection closed.
use std::time::Duration;

use intelliproxy_core::{
    BackendId, Instant, LoadReport, ProbeAnswer, ProbeFailure, ProbeId, ProbeKind, ProbeResult,
};

use super::places::Attempt;
use crate::http::body::BodyReader;
use crate::http::chunked::ChunkLimits;
use crate::http::field::Slots;
use crate::http::framing::{Framing, response_framing};
use crate::http::head::{HeadLimits, Parsed, ResponseHead, parse_response};

/// Bytes of a probe's answer that are read; a longer one is no answer to a probe.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Room for one read.
const READ_BYTES: usize = 8 * 1024;

/// A probe under way.
#[derive(Debug)]
pub(crate) struct ProbeExchange {
    pub(crate) probe: ProbeId,
    pub(crate) backend: BackendId,
    kind: ProbeKind,
    started: Instant,
    pub(crate) deadline: Instant,
    /// Which of the backend's addresses it asks.
    pub(crate) attempt: Attempt,
    is_open: bool,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    /// Bytes of `answer` that came; what follows is room.
    len: usize,
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
            kind,
            started,
            deadline,
            attempt: Attempt::default(),
            is_open: false,
            request: request.into_bytes(),
            sent: 0,
            answer: Vec::new(),
            len: 0,
        }
    }

    /// The connection is there.
    pub(crate) const fn handle_connected(&mut self) {
        self.is_open = true;
    }

    /// Whether the connection has been made.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn read_space(&mut self) -> &mut [u8] {
        self.answer.resize(self.len + READ_BYTES, 0);
        &mut self.answer[self.len..]
    }

    pub(crate) fn write_ready(&self) -> &[u8] {
        if self.is_open { &self.request[self.sent..] } else { &[] }
    }

    pub(crate) const fn handle_written(&mut self, count: usize) {
        self.sent += count;
    }

    /// `count` bytes came; the result once it is known.
    pub(crate) fn handle_read(&mut self, now: Instant, count: usize) -> Option<ProbeResult> {
        self.len += count;
        if self.len > ANSWER_BYTES_MAX {
            return Some(Err(ProbeFailure::Malformed));
        }
        self.judge(now, false)
    }

    /// The backend ended its side: what came must be whole.
    pub(crate) fn handle_eof(&self, now: Instant) -> ProbeResult {
        self.judge(now, true).unwrap_or(Err(ProbeFailure::Cut))
    }

    fn judge(&self, now: Instant, is_eof: bool) -> Option<ProbeResult> {
        let mut rest = &self.answer[..self.len];
        loop {
            let mut slots = Slots::new();
            let head = match parse_response(rest, &mut slots, &LIMITS) {
                Ok(Parsed::Complete(head)) => head,
                Ok(Parsed::Partial) => return None,
                Err(_) => return Some(Err(ProbeFailure::Malformed)),
            };
            let body = &rest[head.len..];
            if (100..200).contains(&head.status) {
                rest = body;
                continue;
            }
            return self.judge_final(now, &head, body, is_eof);
        }
    }

    fn judge_final(
        &self,
        now: Instant,
        head: &ResponseHead<'_, '_>,
        body: &[u8],
        is_eof: bool,
    ) -> Option<ProbeResult> {
        let Ok((framing, _)) = response_framing(head, false) else {
            return Some(Err(ProbeFailure::Malformed));
        };
        if !(200..400).contains(&head.status) {
            return Some(Err(ProbeFailure::Status(head.status)));
        }
        let body = match whole_body(framing, body, is_eof) {
            Ok(Some(body)) => body,
            Ok(None) => return None,
            Err(failure) => return Some(Err(failure)),
        };
        let report = match self.kind {
            ProbeKind::Ping => None,
            ProbeKind::Report => read_report(&body),
        };
        Some(Ok(ProbeAnswer { latency: self.latency(now), report }))
    }

    fn latency(&self, now: Instant) -> Duration {
        now.since(self.started)
    }
}

const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, target_bytes_max: 0, fields_max: 128 };
const CHUNKS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 1024, trailer_bytes_max: 8 * 1024, fields_max: 128 };

/// The body when it is whole.
fn whole_body(
    framing: Framing,
    bytes: &[u8],
    is_eof: bool,
) -> Result<Option<Vec<u8>>, ProbeFailure> {
    let Some(reader) = BodyReader::new(framing, CHUNKS) else {
        return Ok(Some(Vec::new()));
    };
    match reader {
        BodyReader::Plain { left: None } => Ok(is_eof.then(|| bytes.to_vec())),
        BodyReader::Plain { left: Some(len) } => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            Ok(bytes.get(..len).map(<[u8]>::to_vec))
        }
        BodyReader::Chunked(mut reader) => {
            let (mut rest, mut body) = (bytes, Vec::new());
            loop {
                let piece = reader.read(rest, usize::MAX).map_err(|_| ProbeFailure::Malformed)?;
                body.extend_from_slice(&rest[piece.data.clone()]);
                rest = &rest[piece.consumed..];
                if piece.is_end {
                    return Ok(Some(body));
                }
                if piece.consumed == 0 {
                    return Ok(None);
                }
            }
        }
    }
}

/// A backend's own figures, as far as they are numbers; `None` when the text is no JSON object.
fn read_report(body: &[u8]) -> Option<LoadReport> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let object = value.as_object()?;
    let number = |name: &str| object.get(name).and_then(serde_json::Value::as_f64);
    Some(LoadReport {
        queue: number("queueLen"),
        cpu_busy_ms: number("cpuBusyMs"),
        memory_bytes: number("heapUsed").or_else(|| number("memRss")),
    })
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

    /// Feeds an answer in pieces of `step` bytes at 7 ms, then the end.
    fn result(kind: ProbeKind, answer: &[u8], step: usize) -> ProbeResult {
        let mut probe = probe(kind);
        for piece in answer.chunks(step) {
            probe.read_space()[..piece.len()].copy_from_slice(piece);
            if let Some(result) = probe.handle_read(Instant::from_millis(7), piece.len()) {
                return result;
            }
        }
        probe.handle_eof(Instant::from_millis(7))
    }

    /// Answers are judged the same whole and byte by byte.
    #[test]
    fn answers_are_judged() {
        let good = Ok(ProbeAnswer { latency: Duration::from_millis(7), report: None });
        let rows: [(&str, &[u8], ProbeResult); 9] = [
            ("200", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", good.clone()),
            ("302", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", good.clone()),
            ("until close", b"HTTP/1.0 200 OK\r\n\r\nOK", good.clone()),
            ("after 103", b"HTTP/1.1 103 H\r\n\r\nHTTP/1.1 204 N\r\n\r\n", good.clone()),
            (
                "chunked",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
                good,
            ),
            ("503", b"HTTP/1.1 503 No\r\n\r\n", Err(ProbeFailure::Status(503))),
            ("garbage", b"hello\r\n\r\n", Err(ProbeFailure::Malformed)),
            ("nothing", b"", Err(ProbeFailure::Cut)),
            ("cut", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nOK", Err(ProbeFailure::Cut)),
        ];
        for (name, answer, expected) in rows {
            for step in [1, answer.len().max(1)] {
                assert_eq!(result(ProbeKind::Ping, answer, step), expected, "{name} by {step}");
            }
        }
    }

    /// A report's figures are taken as far as they are numbers.
    #[test]
    fn reports_are_read() {
        let rows: [(&[u8], Option<LoadReport>); 4] = [
            (
                br#"{"queueLen":3,"cpuBusyMs":12.5,"memRss":9,"heapUsed":7}"#,
                Some(LoadReport {
                    queue: Some(3.0),
                    cpu_busy_ms: Some(12.5),
                    memory_bytes: Some(7.0),
                }),
            ),
            (
                br#"{"queueLen":"many","memRss":9}"#,
                Some(LoadReport { memory_bytes: Some(9.0), ..LoadReport::default() }),
            ),
            (b"[]", None),
            (b"nonsense", None),
        ];
        for (body, expected) in rows {
            assert_eq!(read_report(body), expected, "{:?}", String::from_utf8_lossy(body));
        }
    }
}
