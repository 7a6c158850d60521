//! A process that is paused (SIGSTOP, a frozen container) or stopped by a signal handles the
//! bytes that arrived before.
mod process;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use process::{DEADLINE, Program};

const REQUEST: &[u8] = b"GET /asked HTTP/1.1\r\nHost: h\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

/// Returns a backend and the flag with its address.
fn backend() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let flag = format!("--backend=A=http://{}", listener.local_addr().expect("bound"));
    (listener, flag)
}

/// Accepts a backend's connections until `count` of them carry a request. Connections of probes
/// stay open meanwhile.
fn asked(backend: &TcpListener, count: usize) -> Vec<TcpStream> {
    let (mut asked, mut probes) = (Vec::new(), Vec::new());
    while asked.len() < count {
        let (stream, _) = backend.accept().expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a request in time");
        let is_request = line.starts_with("GET /asked ");
        if is_request { &mut asked } else { &mut probes }.push(stream);
    }
    asked
}

#[track_caller]
fn assert_is_done(stream: &mut TcpStream) {
    let mut bytes = vec![0; RESPONSE.len()];
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.read_exact(&mut bytes).expect("a response");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
}

/// Ten responses arrive while the proxy is paused for longer than `timeouts.responseHeadMs`. They
/// are read before the deadline is checked.
#[test]
fn responses_that_came_during_a_pause_count() {
    let (listener, flag) = backend();
    let program = Program::start(&[&flag, "--response-head-ms=5000"]);
    let mut clients: Vec<TcpStream> = (0..10).map(|_| program.connect()).collect();
    for client in &mut clients {
        client.write_all(REQUEST).expect("sent");
    }
    let mut upstreams = asked(&listener, clients.len());
    program.signal("-STOP");
    for upstream in &mut upstreams {
        upstream.write_all(RESPONSE).expect("sent");
    }
    // The proxy's deadline of 5 s passes without any bytes: it is paused long before.
    clients[0].set_read_timeout(Some(Duration::from_millis(5200))).expect("a timeout");
    // If the test itself is stopped meanwhile, its read is interrupted.
    let mut wait = || clients[0].read(&mut [0]).expect_err("the proxy is stopped");
    let early = match wait() {
        error if error.kind() == ErrorKind::Interrupted => wait(),
        error => error,
    };
    assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
    program.signal("-CONT");
    for client in &mut clients {
        assert_is_done(client);
    }
}

/// Clients that connected and sent their requests before SIGTERM are served, although the proxy had
/// not accepted them yet. One turn cannot accept all of them.
#[test]
fn clients_in_the_backlog_are_served_before_the_end() {
    const CLIENTS: usize = 200;
    let (listener, flag) = backend();
    let mut program = Program::start(&[&flag]);
    program.signal("-STOP");
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| program.connect()).collect();
    for client in &mut clients {
        client.write_all(REQUEST).expect("sent");
    }
    program.signal("-TERM");
    program.signal("-CONT");
    let backend = thread::spawn(move || {
        for mut upstream in asked(&listener, CLIENTS) {
            upstream.write_all(RESPONSE).expect("sent");
        }
    });
    program.line_with("stopping: 200 clients are connected");
    for client in &mut clients {
        assert_is_done(client);
    }
    backend.join().expect("all requests have a response");
    drop(clients);
    assert_eq!(program.exit_code(), Some(0));
}
