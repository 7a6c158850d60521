//! Scenes in which a client ends its side soon after its request.
use std::time::Duration;

use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::{End, Step};
use intelliproxy_tests::world::{Report, Shown, World};

use super::{get, send, wait};

/// Runs a client that ends its side after `steps`, with a backend that responds in two parts.
fn run(steps: Vec<Step>) -> Report {
    let parts =
        vec![send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst"), wait(500), send("later")];
    let script = [get("/"), steps, vec![Step::Fin, Step::AwaitEnd]].concat();
    World::new().backend(vec![Reply::steps(parts)]).client(script).run()
}

/// A client's end 1.2 ms after its request is a half-close: it gets its response. An end after the
/// response has begun means that the client left: the response is cut. The world checks that the
/// backend then does no more work for it.
#[test]
fn an_end_after_the_first_response_bytes_is_the_clients_end() {
    let report = run(vec![Step::Wait(Duration::from_micros(1200))]);
    assert_eq!(report.statuses(0), [200]);
    let report = run(vec![Step::AwaitHead]);
    assert_eq!(report.responses(0), [Shown::cut(200, "first")]);
    assert_eq!(report.end(0), Some(End::Clean));
}
