//! Scenes with backends that refuse requests by 429 and 503, or fail them on trial.
use intelliproxy_core::PolicyKind;
use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::Step;
use intelliproxy_tests::world::{Report, World};

use super::{get, post, send, wait};

/// Returns the response of a backend that refuses a request and keeps its connection.
fn refusal(status: u16, fields: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} No\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    Reply::steps(vec![send(text)])
}

/// Returns the statuses and bodies that the client got.
fn responses(report: &Report) -> Vec<(u16, String)> {
    report.responses(0).into_iter().map(|one| (one.status, one.body)).collect()
}

/// A GET that one backend refuses goes to the other. So does the next request, 20 ms later, with
/// and without Retry-After.
#[test]
fn a_refused_get_goes_to_another_backend() {
    for (status, field) in [(429, "Retry-After: 20\r\n"), (503, "retry-after:1\r\n"), (503, "")] {
        let report = World::new()
            .backend(vec![refusal(status, field, "full")])
            .backend(vec![Reply::ok("one"), Reply::ok("two")])
            .client([get("/1"), vec![Step::AwaitResponses(1), wait(20)], get("/2")].concat())
            .run();
        assert_eq!(report.statuses(0), [200, 200], "{status} {field:?}");
        assert_eq!(report.requests(0)[0], "GET /1");
        assert_eq!(report.requests(1)[0], "GET /1");
        assert_eq!(report.requests(1), ["GET /1", "GET /2"], "{status} {field:?}");
    }
}

/// If every backend refuses, the client gets the last refusal unchanged.
#[test]
fn the_last_refusal_is_passed_on() {
    let report = World::new()
        .backend(vec![refusal(429, "Retry-After: 20\r\n", "first")])
        .backend(vec![refusal(503, "Retry-After: 7\r\nX-Why: full\r\n", "second")])
        .client(get("/1"))
        .run();
    assert_eq!(responses(&report), [(503, "second".to_owned())]);
    assert_eq!([report.requests(0).len(), report.requests(1).len()], [1, 1]);
}

/// A POST is not sent a second time. With `forwarding.retryRefused` off, nor is a GET. No request
/// is sent more often than `limits.attempts`.
#[test]
fn a_request_that_may_not_be_repeated_is_refused() {
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
        assert_eq!(responses(&report), [(503, "full".to_owned())], "{name}");
        let sent: usize = (0..3).map(|backend| report.requests(backend).len()).sum();
        assert_eq!(sent, tried, "{name}");
    }
}

/// Two backends get one request a second by turns. The second backend fails its seventh and eighth
/// request. The first failure ejects it. The next one is a trial: a GET that fails on trial is
/// repeated at the first backend, so the client sees a single failure. A POST is not repeated, nor
/// is any request with `forwarding.retryRefused` off: the client sees two failures.
#[test]
fn a_failure_on_trial_stays_hidden() {
    for (method, retries, expected) in [("GET", true, 1), ("POST", true, 2), ("GET", false, 2)] {
        let failing = || refusal(500, "", "broken");
        let ok = || Reply::ok("fine");
        let request = match method {
            "GET" => get("/1"),
            _ => post("/1", "x"),
        };
        let script = (0..20).flat_map(|_| [request.clone(), vec![wait(1000)]].concat());
        let report = World::new()
            .config(move |config| {
                config.forwarding.retry_refused = retries;
                config.routing.policy = PolicyKind::RoundRobin;
            })
            .backend((0..20).map(|_| ok()).collect())
            .backend((0..20).map(|at| if at == 6 || at == 7 { failing() } else { ok() }).collect())
            .client(script.collect())
            .run();
        let statuses = report.statuses(0);
        let failed = statuses.iter().filter(|status| **status == 500).count();
        assert_eq!((statuses.len(), failed), (20, expected), "{method} {retries}: {statuses:?}");
        assert!(report.requests(1).len() > 8, "{method} {retries}: it is asked again");
    }
}
