//! /stats of many backends: the text is built a few backends at a time, and is used for all
//! requests within 250 ms.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::ConnId;
use intelliproxy_core::Instant;
use intelliproxy_driver::{Driver, targets};

const GET: &[u8] = b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n";

/// Builds a proxy with 100 backends whose first probes have completed.
fn driver() -> Driver {
    let names: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut driver = Driver::with_backends(Config::default(), &names);
    driver.pass(Duration::from_millis(500));
    driver
}

fn ask(driver: &mut Driver) -> ConnId {
    let client = driver.client_from("127.0.0.1:4711");
    driver.send(client, GET);
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
    let mut driver = driver();
    let clients = [ask(&mut driver), ask(&mut driver)];
    driver.pass(Duration::from_millis(6));
    assert!(clients.iter().all(|client| driver.text(*client).is_empty()), "it is not done yet");
    driver.pass(Duration::from_millis(1));
    let first = driver.text(clients[0]);
    let expected: Vec<String> = (0..100).map(|number| format!("b{number}")).collect();
    assert_eq!(names(body(&first)), expected);
    assert_eq!(driver.text(clients[1]), first);
    driver.pass(Duration::from_millis(243));
    let late = ask(&mut driver);
    assert_eq!(driver.text(late), first, "at once, from the current text");
    driver.pass(Duration::from_millis(1));
    let next = ask(&mut driver);
    assert_eq!(driver.text(next), "");
    driver.pass(Duration::from_millis(7));
    assert_eq!(names(body(&driver.text(next))), expected);
    assert_ne!(driver.text(next), first);
}

/// Four clients while the text is being built: one ends its side and still gets the text, and one
/// leaves. One sends HEAD, gets a head, and its next request is forwarded. One reads slowly and
/// gets all of the text.
#[test]
fn clients_differ() {
    let mut driver = driver();
    let ended = ask(&mut driver);
    driver.end(ended);
    let reset = ask(&mut driver);
    driver.reset(reset);
    let head = driver.client_from("127.0.0.1:4711");
    driver.send(head, b"HEAD /stats HTTP/1.1\r\nHost: h\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    let slow = driver.client_from("127.0.0.1:4711");
    driver.take(slow, 0);
    driver.send(slow, GET);
    driver.pass(Duration::from_millis(20));
    assert_eq!(names(body(&driver.text(ended))).len(), 100);
    assert_eq!(driver.peer(ended).closed, Some(false));
    assert_eq!(driver.text(reset), "");
    assert!(driver.text(head).ends_with("\r\n\r\n"));
    let forwarded = driver.peer(driver.upstream()).received.clone();
    assert!(forwarded.starts_with(b"GET /x HTTP/1.1\r\n"), "the connection goes on");
    let len = 40_000;
    while driver.text(slow).len() < len {
        driver.take(slow, 1000);
    }
    driver.take(slow, usize::MAX);
    assert_eq!(names(body(&driver.text(slow))).len(), 100);
    assert_eq!(driver.peer(slow).closed, None);
}

/// A configuration that arrives while the text is being built restarts it: the text has the new
/// backends and no others.
#[test]
fn a_new_configuration_starts_the_text_again() {
    let mut driver = driver();
    let client = ask(&mut driver);
    driver.pass(Duration::from_millis(3));
    driver.reconfigure(Config::default(), targets(&["new", "other"])).expect("valid");
    driver.pass(Duration::from_millis(1));
    assert_eq!(names(body(&driver.text(client))), ["new", "other"]);
}

/// A pool of up to 16 backends is shown as it is at the time of the request.
#[test]
fn small_pools_are_shown_at_once() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    driver.pass(Duration::from_millis(500));
    let client = ask(&mut driver);
    assert_eq!(names(body(&driver.text(client))), ["a", "b"]);
    assert!(driver.now > Instant::ZERO);
    driver.pass(Duration::from_millis(10));
    let later = ask(&mut driver);
    assert_ne!(driver.text(later), driver.text(client));
}
