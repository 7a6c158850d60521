//! /stats of many backends: one text for all requests of a while, built a few backends at a time.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::ConnId;
use intelliproxy_core::Instant;

use crate::bench::Bench;

const GET: &[u8] = b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n";

/// Builds a proxy with 100 backends whose first probes have completed.
fn bench() -> Bench {
    let names: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::with_backends(Config::default(), &names);
    bench.pass(Duration::from_millis(500));
    bench
}

fn ask(bench: &mut Bench) -> ConnId {
    let client = bench.client_from("127.0.0.1:4711");
    bench.send(client, GET);
    client
}

/// Returns the body of a complete response.
#[track_caller]
fn body(response: &str) -> &str {
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{head}");
    body
}

fn names(body: &str) -> Vec<String> {
    let stats: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let rows = stats.as_array().expect("an array").iter();
    rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

/// 100 backends take seven steps of 1 ms. Requests within 250 ms of the first one get the same
/// text. A later one gets a new text.
#[test]
fn one_text_serves_all_for_a_while() {
    let mut bench = bench();
    let clients = [ask(&mut bench), ask(&mut bench)];
    bench.pass(Duration::from_millis(6));
    assert!(clients.iter().all(|client| bench.text(*client).is_empty()), "it is not done yet");
    bench.pass(Duration::from_millis(1));
    let first = bench.text(clients[0]);
    let expected: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
    assert_eq!(names(body(&first)), expected);
    assert_eq!(bench.text(clients[1]), first);
    bench.pass(Duration::from_millis(243));
    let late = ask(&mut bench);
    assert_eq!(bench.text(late), first, "at once, from the current text");
    bench.pass(Duration::from_millis(1));
    let next = ask(&mut bench);
    assert_eq!(bench.text(next), "");
    bench.pass(Duration::from_millis(7));
    assert_eq!(names(body(&bench.text(next))), expected);
    assert_ne!(bench.text(next), first);
}

/// Clients that end their side or leave meanwhile, that send HEAD, and that read the text slowly.
#[test]
fn clients_differ() {
    let mut bench = bench();
    let ended = ask(&mut bench);
    bench.end(ended);
    let reset = ask(&mut bench);
    bench.reset(reset);
    let head = bench.client_from("127.0.0.1:4711");
    bench.send(head, b"HEAD /stats HTTP/1.1\r\nHost: h\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    let slow = bench.client_from("127.0.0.1:4711");
    bench.take(slow, 0);
    bench.send(slow, GET);
    bench.pass(Duration::from_millis(20));
    assert_eq!(names(body(&bench.text(ended))).len(), 100);
    assert_eq!(bench.wire(ended).closed, Some(false));
    assert_eq!(bench.text(reset), "");
    assert!(bench.text(head).ends_with("\r\n\r\n"));
    let forwarded = bench.wire(bench.upstream()).received.clone();
    assert!(forwarded.starts_with(b"GET /x HTTP/1.1\r\n"), "the connection goes on");
    let len = 40_000;
    while bench.text(slow).len() < len {
        bench.take(slow, 1000);
    }
    bench.take(slow, usize::MAX);
    assert_eq!(names(body(&bench.text(slow))).len(), 100);
    assert_eq!(bench.wire(slow).closed, None);
}

/// A configuration that comes while the text is being built restarts it: the text has the new
/// backends and no others.
#[test]
fn a_new_configuration_starts_the_text_again() {
    let mut bench = bench();
    let client = ask(&mut bench);
    bench.pass(Duration::from_millis(3));
    let target = |name: &str| intelliproxy::config::BackendTarget {
        name: name.to_owned(),
        url: "http://n.test".to_owned(),
        authority: "n.test".to_owned(),
        addresses: vec![std::net::SocketAddr::from(([10, 0, 1, 1], 80))],
    };
    let targets = vec![target("new"), target("other")];
    bench.proxy.handle_reconfigured(bench.now, Config::default(), targets).expect("valid");
    bench.run();
    bench.pass(Duration::from_millis(1));
    assert_eq!(names(body(&bench.text(client))), ["new", "other"]);
}

/// A pool of up to 16 backends is shown as it is at the time of the request.
#[test]
fn small_pools_are_shown_at_once() {
    let mut bench = Bench::with_backends(Config::default(), &["a", "b"]);
    bench.pass(Duration::from_millis(500));
    let client = ask(&mut bench);
    assert_eq!(names(body(&bench.text(client))), ["a", "b"]);
    assert!(bench.now > Instant::ZERO);
    bench.pass(Duration::from_millis(10));
    let later = ask(&mut bench);
    assert_ne!(bench.text(later), bench.text(client));
}
