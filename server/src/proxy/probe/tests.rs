//! Responses to probes and their results, row by row.
use intelliproxy_core::{LoadReport, ProbeKind};

use super::*;

fn probe(kind: ProbeKind) -> ProbeExchange {
    let work = match kind {
        ProbeKind::Ping => Work::Ping(Arc::default()),
        ProbeKind::Report => Work::Report(Arc::default()),
    };
    probe_of(work)
}

fn probe_of(work: Work) -> ProbeExchange {
    let deadline = Instant::from_millis(1000);
    let (probe, backend) = (ProbeId::from_u64(1), BackendId::from_index(0));
    ProbeExchange::new(probe, backend, work, Instant::ZERO, deadline, "a")
}

/// Feeds a response in pieces of `step` bytes at 7 ms, then the end.
fn result_of(kind: ProbeKind, answer: &[u8], step: usize) -> ProbeResult {
    result_from(probe(kind), answer, step)
}

fn result_from(mut probe: ProbeExchange, answer: &[u8], step: usize) -> ProbeResult {
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
        ("cut in its head", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", Err(ProbeFailure::Cut)),
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

/// A ping is finished after the head; further bytes do not matter. Interim responses are bounded.
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
        let chunks = chunks.map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)));
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
    let all = LoadReport {
        queue: Some(3.0),
        cpu_busy_ms: Some(12.5),
        memory_bytes: Some(7.0),
        ..LoadReport::default()
    };
    let memory = LoadReport { memory_bytes: Some(9.0), ..LoadReport::default() };
    let none = LoadReport::default();
    let no_object = |excerpt: &str| ReportFault::NoObject { excerpt: excerpt.to_owned() };
    let no_number = |field: &str, excerpt: &str| {
        let (field, excerpt) = (field.to_owned(), excerpt.to_owned());
        Some(ReportFault::NoNumber { field, excerpt })
    };
    let rows: [(&str, Option<LoadReport>, Option<ReportFault>); 12] = [
        (r#"{"queueLen":3,"cpuBusyMs":12.5,"memRss":9,"heapUsed":7}"#, Some(all), None),
        (r#"{"queueLen":"many","memRss":9}"#, Some(memory), no_number("queueLen", r#"\"many\""#)),
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
        (r#"{"memRss":9,"other":NaN}"#, None, Some(no_object(r#"{\"memRss\":9,\"other\":NaN}"#))),
        ("[]", None, Some(no_object("[]"))),
        ("nonsense", None, Some(no_object("nonsense"))),
    ];
    for (body, report, fault) in rows {
        let reading = read_report(body.as_bytes(), &Reporting::default());
        assert_eq!(reading, Reading { report, fault }, "{body}");
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

/// A check is judged by its statuses and the text of the body; row by row, whole and byte by byte.
#[test]
fn checks_judge_status_and_body() {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}ready", "x".repeat(SEARCH_BYTES_MAX));
    let just = format!("HTTP/1.1 200 OK\r\n\r\n{}ready", "x".repeat(SEARCH_BYTES_MAX - 5));
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", Ok(())),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nread y", Err(ProbeFailure::Body)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nready", Ok(())),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nread", Err(ProbeFailure::Cut)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Err(ProbeFailure::Body)),
        ("HTTP/1.1 204 No\r\n\r\n", Err(ProbeFailure::Status(204))),
        ("HTTP/1.1 200 OK\r\n\r\nnot ready yet", Ok(())),
        ("HTTP/1.1 200 OK\r\n\r\nnot yet", Err(ProbeFailure::Body)),
        (&format!("HTTP/1.1 200 OK\r\n{chunked}"), Ok(())),
        (&long, Err(ProbeFailure::Body)),
        (&just, Ok(())),
    ];
    let check = Arc::new(Check {
        status: vec![(200, 200), (500, 503)],
        body: Some("ready".to_owned()),
        ..Check::default()
    });
    for (answer, expected) in rows {
        for step in [1, answer.len().min(READ_BYTES)] {
            let probe = probe_of(Work::Ping(Arc::clone(&check)));
            let result = result_from(probe, answer.as_bytes(), step).map(|_| ());
            assert_eq!(result, expected, "{answer:.60} by {step}");
        }
    }
}

/// The request has the check's method, Host and fields, which replace the usual ones. A connection
/// is all that a check of kind `tcp` needs.
#[test]
fn requests_are_as_configured() {
    let fields = [("accept", "text/plain"), ("Authorization", "Bearer x")];
    let check = Check {
        path: "/up?full".to_owned(),
        host: Some("b.test".to_owned()),
        method: CheckMethod::Post,
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Check::default()
    };
    let request = Work::Ping(Arc::new(check)).request("a.test");
    let expected = "POST /up?full HTTP/1.1\r\nHost: b.test\r\nUser-Agent: intelliproxy\r\n\
                    Authorization: Bearer x\r\naccept: text/plain\r\nContent-Length: 0\r\n\
                    Connection: close\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&request), expected);
    let usual = Work::Report(Arc::default()).request("a.test");
    let expected = "GET /metrics HTTP/1.1\r\nHost: a.test\r\nUser-Agent: intelliproxy\r\n\
                    Accept: */*\r\nConnection: close\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&usual), expected);
    let tcp = Check { kind: CheckKind::Tcp, ..Check::default() };
    let mut probe = probe_of(Work::Ping(Arc::new(tcp)));
    let latency = Duration::from_millis(3);
    let good = Ok(ProbeAnswer { latency, report: None });
    assert_eq!(probe.handle_connected(Instant::from_millis(3)), Some(good));
    assert_eq!(self::probe(ProbeKind::Ping).handle_connected(Instant::ZERO), None);
}
