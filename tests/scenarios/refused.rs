//! Scenes with backends that turn requests away.
use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::Step;
use intelliproxy_tests::world::{Report, World};

use super::{get, post, send, wait};

/// The text of a response to a request that was refused, of a backend that keeps its connection.
fn refusal(status: u16, fields: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} No\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    Reply::steps(vec![send(text)])
}

/// Statuses and bodies of what the client got.
fn answers(report: &Report) -> Vec<(u16, String)> {
    report.answers(0).into_iter().map(|(status, body, _)| (status, body)).collect()
}

/// A GET that one backend refuses goes to the other, over a connection each; the one that refused
/// keeps its connection, and is left alone for as long as it asked.
#[test]
fn a_refused_get_goes_to_another_backend() {
    for (status, field) in [(429, "Retry-After: 20\r\n"), (503, "retry-after:1\r\n"), (503, "")] {
        let report = World::new()
            .backend(vec![refusal(status, field, "full")])
            .backend(vec![Reply::ok("one"), Reply::ok("two")])
            .client([get("/1"), vec![Step::AwaitAnswers(1), wait(20)], get("/2")].concat())
            .run();
        assert_eq!(report.statuses(0), [200, 200], "{status} {field:?}");
        assert_eq!(report.requests(0)[0], "GET /1");
        assert_eq!(report.requests(1)[0], "GET /1");
        assert_eq!(report.requests(1), ["GET /1", "GET /2"], "{status} {field:?}");
    }
}

/// When every backend refuses, the client gets the last refusal as it came.
#[test]
fn the_last_refusal_is_passed_on() {
    let report = World::new()
        .backend(vec![refusal(429, "Retry-After: 20\r\n", "first")])
        .backend(vec![refusal(503, "Retry-After: 7\r\nX-Why: full\r\n", "second")])
        .client(get("/1"))
        .run();
    assert_eq!(answers(&report), [(503, "second".to_owned())]);
    assert_eq!([report.requests(0).len(), report.requests(1).len()], [1, 1]);
}

/// Neither a POST nor, with `forwarding.retryRefused` off, a GET is sent a second time; and no
/// request beyond `limits.attempts`.
#[test]
fn what_must_not_be_repeated_is_refused() {
    type Case = (&'static str, Vec<Step>, bool, usize, usize);
    let cases: [Case; 4] = [
        ("POST", post("/1", "one coffee"), true, 3, 1),
        ("off", get("/1"), false, 3, 1),
        ("one attempt", get("/1"), true, 1, 1),
        ("two attempts", get("/1"), true, 2, 2),
    ];
    for (name, request, retries, attempts, tried) in cases {
        let full = || vec![refusal(503, "", "full")];
        let report = World::new()
            .config(move |config| {
                config.forwarding.retry_refused = retries;
                config.limits.attempts = attempts;
            })
            .backend(full())
            .backend(full())
            .backend(full())
            .client(request)
            .run();
        assert_eq!(answers(&report), [(503, "full".to_owned())], "{name}");
        let sent: usize = (0..3).map(|backend| report.requests(backend).len()).sum();
        assert_eq!(sent, tried, "{name}");
    }
}
