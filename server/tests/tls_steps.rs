//! The steps of clients' handshakes, which a thread of their own takes.
#![cfg(feature = "tls")]
mod process;
mod secured;

use std::hint;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, StreamOwned};
use secured::{Client, GET, LAST, Proxy, client, tls};

/// The first message of a client.
fn hello() -> Vec<u8> {
    let name = "a.test".try_into().expect("a name");
    let mut client = ClientConnection::new(client(&[&TLS13]), name).expect("a configuration");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a hello");
    hello
}

/// Without TLS clients, the program has no thread for their handshakes.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_takes_the_steps() {
    let proxy = Proxy::start("thread", &[&tls(&["site"], "")], "");
    assert!(proxy.program.ask(LAST).starts_with("HTTP/1.1 200 "));
    assert!(!proxy.program.has_thread("handshakes"));
    let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    assert!(client.ask(GET).starts_with("HTTP/1.1 200 "));
    assert!(proxy.program.has_thread("handshakes"));
}

/// Messages may arrive in any pieces, also while a step is being taken.
#[test]
fn messages_arrive_in_pieces() {
    let proxy = Proxy::start("pieces", &[&tls(&["site"], "")], "");
    for version in [&TLS12, &TLS13] {
        for size in [1, 7, 100] {
            let stream = proxy.raw();
            stream.set_nodelay(true).expect("an option");
            let name = "a.test".try_into().expect("a name");
            let connection = ClientConnection::new(client(&[version]), name);
            let mut client = StreamOwned::new(connection.expect("a configuration"), stream);
            while client.conn.is_handshaking() || client.conn.wants_write() {
                let mut bytes = Vec::new();
                while client.conn.wants_write() {
                    client.conn.write_tls(&mut bytes).expect("room");
                }
                bytes.chunks(size).for_each(|piece| client.sock.write_all(piece).expect("sent"));
                if client.conn.is_handshaking() {
                    client.conn.read_tls(&mut client.sock).expect("the server's messages");
                    client.conn.process_new_packets().expect("valid messages");
                }
            }
            assert!(Client(client).ask(GET).starts_with("HTTP/1.1 200 "), "{size}");
        }
    }
}

/// A client that leaves during a step makes room for others.
#[test]
fn clients_leave_during_a_step() {
    let settings = r#", "limits": {"handshakes": 1}"#;
    let proxy = Proxy::start("leave", &[&tls(&["site"], "")], settings);
    let hello = hello();
    for _ in 0..100 {
        proxy.raw().write_all(&hello).expect("sent");
    }
    let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    assert!(client.ask(GET).starts_with("HTTP/1.1 200 "));
}

/// A body that follows the last message of a handshake is read to its end, at whatever moment of the
/// step it arrives.
#[test]
fn bodies_follow_the_last_message() {
    const LENGTH: usize = 1_000_000;
    let proxy = Proxy::start("follow", &[&tls(&["site"], "")], "");
    let head = format!("POST /path HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n");
    let request = format!("{head}Connection: close\r\n\r\n{}", "x".repeat(LENGTH));
    for delay in [0, 50, 100, 200, 400, 800] {
        let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(delay) {
            hint::spin_loop();
        }
        client.send(&request);
        let response = client.rest().expect("a response and its end");
        let sum = format!("\nsum {}\n", LENGTH * usize::from(b'x'));
        assert!(response.contains(&sum), "after {delay} us");
    }
}

/// A handshake ends by its deadline, also if that passes during a step.
#[test]
fn deadlines_pass_during_a_step() {
    let settings = r#", "timeouts": {"handshakeMs": 1}"#;
    let mut proxy = Proxy::start("pass", &[&tls(&["site"], "")], settings);
    let hello = hello();
    let mut clients: Vec<_> = (0..100).map(|_| proxy.raw()).collect();
    for client in &mut clients {
        // The proxy may have closed the connection already.
        let _ = client.write_all(&hello);
    }
    for client in &mut clients {
        // An end or a reset.
        let _ = client.read_to_end(&mut Vec::new()).map_err(|error| {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is still open");
        });
    }
    proxy.program.line_with("TLS handshake failed: incomplete after timeouts.handshakeMs");
    assert!(proxy.program.ask(LAST).starts_with("HTTP/1.1 200 "));
}

/// A stop serves a request that has arrived behind the handshakes of many others.
#[test]
fn a_stop_serves_a_request_behind_others() {
    let settings = r#", "timeouts": {"handshakeMs": "1h", "shutdownMs": "1h"}"#;
    let mut proxy = Proxy::start("others", &[&tls(&["site"], "")], settings);
    let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    let hello = hello();
    let mut others: Vec<_> = (0..500).map(|_| proxy.raw()).collect();
    proxy.program.signal("-STOP");
    others.iter_mut().for_each(|other| other.write_all(&hello).expect("sent"));
    client.send(LAST);
    proxy.program.signal("-TERM");
    proxy.program.signal("-CONT");
    assert!(client.rest().expect("a response and its end").starts_with("HTTP/1.1 200 "));
    assert_eq!(proxy.program.exit_code(), Some(0));
}
