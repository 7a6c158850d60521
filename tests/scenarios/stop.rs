//! Scenes in which the proxy stops.
use std::time::Duration;

use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::{End, Pace, Step};
use intelliproxy_tests::world::{CALM_PATH, Change, Shown, World};

use super::{ask, get, narrow, send, wait};

/// A client whose response is still on its way at `timeouts.shutdownMs` is cut, and sees the cut.
#[test]
fn a_response_under_way_at_the_shutdown_timeout_is_cut() {
    let body = "x".repeat(100_000);
    let mut script = vec![Step::Pace(Pace::Slow { bytes: 10, pause: Duration::from_millis(10) })];
    script.extend(ask("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"));
    let report = World::new()
        .config(|config| config.timeouts.shutdown = Duration::from_secs(1))
        .backend(vec![Reply::steps(vec![
            send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}")),
            Step::Close,
        ])])
        .client_paths(CALM_PATH, narrow(1000))
        .change_at(500, Change::Stop)
        .client(script)
        .run();
    assert_eq!(report.end(0), Some(End::Reset));
    assert!(!report.clients[0].responses[0].is_whole);
}

/// Stopping ends idle clients at once, lets the current exchange finish and begins no other.
#[test]
fn stopping_lets_the_current_exchange_finish() {
    let slow =
        Reply::steps(vec![wait(300), send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast")]);
    let report = World::new()
        .backend(vec![slow])
        .change_at(100, Change::Stop)
        .client([get("/1"), get("/2")].concat())
        .client(vec![Step::AwaitEnd])
        .run();
    assert_eq!(report.responses(0), [Shown::whole(200, "last")]);
    assert_eq!(report.requests(0), ["GET /1"]);
    assert_eq!(report.end(1), Some(End::Clean));
}
