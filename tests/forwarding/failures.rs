//! Backends that crash, close and cut, and clients that must or must not see it.
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;

use intelliproxy::config::CheckKind;
use intelliproxy_sim::{Backend, Config as SimConfig};

use crate::parties::{
    DEADLINE, Script, config, connect, get, proxy, read_body, read_head, read_response, refuse,
    respond, serve, wait_until,
};
use crate::port::free_port;

/// A backend that closes each connection after its response, without `Connection: close`: no client
/// sees it.
#[test]
fn dead_pooled_connections_are_replaced() {
    let backend = Script::start(|stream, _| {
        respond(stream, b"once");
        false
    });
    let address = proxy(&[&backend.url]);
    let mut stream = BufReader::new(connect(address));
    for _ in 0..50 {
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        let (head, body) = read_response(&mut stream);
        assert_eq!((head[0].as_str(), &body[..]), ("HTTP/1.1 200 OK", &b"once"[..]));
    }
    assert_eq!(backend.connections(), 50);
}

/// POSTs to a backend that closes each connection after its response, without `Connection: close`:
/// none gets 502. If a POST is lost, the proxy closes the client's kept connection without a
/// response. The first request of a client is never lost.
#[test]
fn posts_meet_no_closed_connection() {
    let backend = Script::start(|stream, head| {
        read_body(stream, head);
        respond(stream, b"once");
        false
    });
    let address = proxy(&[&backend.url]);
    let request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    let mut kept: Option<BufReader<std::net::TcpStream>> = None;
    for _ in 0..200 {
        let is_first = kept.is_none();
        let mut stream = kept.take().unwrap_or_else(|| BufReader::new(connect(address)));
        stream.get_mut().write_all(request).expect("sent");
        match read_head(&mut stream) {
            Some(head) => {
                assert_eq!(head[0], "HTTP/1.1 200 OK");
                read_body(&mut stream, &head);
                kept = Some(stream);
            }
            None => assert!(!is_first, "a client's first request gets a response"),
        }
    }
    for _ in 0..200 {
        let mut stream = BufReader::new(connect(address));
        stream.get_mut().write_all(request).expect("sent");
        assert_eq!(read_response(&mut stream).0[0], "HTTP/1.1 200 OK");
    }
}

/// If a backend closes without a response, a request that may be repeated goes to another backend.
/// For any other request the client gets 502.
#[test]
fn requests_are_retried_where_it_is_safe() {
    let (dead, alive) = (Script::start(|_, _| false), Script::start(|s, _| respond(s, b"alive")));
    let address = proxy(&[&dead.url, &alive.url]);
    for _ in 0..20 {
        assert_eq!(get(address, "/"), ("HTTP/1.1 200 OK".to_owned(), "alive".to_owned()));
    }
    let address = proxy(&[&dead.url]);
    let mut stream = BufReader::new(connect(address));
    let request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    stream.get_mut().write_all(request).expect("sent");
    assert_eq!(read_response(&mut stream).0[0], "HTTP/1.1 502 Bad Gateway");
}

/// The current backend is killed between two requests and restarted later, four times. The client
/// sees no failure.
#[test]
fn killed_backends_are_not_seen() {
    let start =
        |port| Backend::start(SimConfig { port, ..SimConfig::faultless() }).expect("a port");
    let mut backends = [start(free_port()), start(free_port())];
    let ports = [backends[0].port(), backends[1].port()];
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let address = proxy(&[&urls[0], &urls[1]]);
    let mut stream = BufReader::new(connect(address));
    let mut served = [0; 2];
    let mut ask = |count: usize| {
        for _ in 0..count {
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
            let (head, body) = read_response(&mut stream);
            let text = String::from_utf8(body).expect("text");
            assert_eq!(head[0], "HTTP/1.1 200 OK", "{text}");
            let is_its = |port: &u16| text.ends_with(&format!("port {port}"));
            served[ports.iter().position(is_its).expect("one of the two")] += 1;
        }
    };
    for turn in 0..4 {
        ask(100);
        let current = current(address);
        let killed = std::mem::replace(&mut backends[current], start(0));
        killed.kill();
        ask(100);
        backends[current] = start(ports[current]);
        let is_up = || stats(address)[current]["alive"] == true;
        wait_until(&format!("the killed one is up again in turn {turn}"), is_up);
    }
    assert!(served.iter().all(|&count| count >= 200), "{served:?}");
}

fn stats(address: SocketAddr) -> serde_json::Value {
    serde_json::from_str(&get(address, "/stats").1).expect("JSON")
}

fn current(address: SocketAddr) -> usize {
    let stats = stats(address);
    usize::from(stats[1]["current"] == true)
}

/// If a client closes while it waits for a response or during a silent stream, the backend's
/// connection ends before any timeout of the proxy.
#[test]
fn clients_that_leave_end_their_upstream() {
    for start in ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"] {
        let (asked, is_asked) = mpsc::channel();
        let (ended, has_ended) = mpsc::channel();
        let backend = Script::start(move |stream, _| {
            stream.get_mut().write_all(start.as_bytes()).expect("sent");
            asked.send(()).expect("the test waits");
            ended.send(stream.read(&mut [0]).unwrap_or(0)).expect("the test waits");
            false
        });
        let mut stream = connect(proxy(&[&backend.url]));
        stream.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").expect("sent");
        is_asked.recv_timeout(DEADLINE).expect("the backend is asked");
        // An end within 2 ms of the request would be a half-close.
        let wait = std::time::Duration::from_millis(20);
        assert!(has_ended.recv_timeout(wait).is_err(), "the client waits");
        drop(stream);
        assert_eq!(has_ended.recv_timeout(DEADLINE), Ok(0), "after {start:?}");
    }
}

/// If a response breaks off, the client gets all its bytes, even if they do not fit into the
/// system's buffers. The connection ends cleanly if length or chunks show the cut.
#[test]
fn cut_responses_arrive_as_far_as_they_came() {
    const SENT: usize = 6 << 20;
    for head in ["Content-Length: 8388608\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n800000\r\n"]
    {
        let backend = Script::start(move |stream, _| {
            let bytes = [format!("HTTP/1.1 200 OK\r\n{head}").as_bytes(), &[b'z'; SENT]].concat();
            stream.get_mut().write_all(&bytes).expect("sent");
            false
        });
        let mut stream = BufReader::new(connect(proxy(&[&backend.url])));
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        read_head(&mut stream).expect("a head");
        let mut body = Vec::new();
        stream.read_to_end(&mut body).expect("a clean end");
        let data = body.iter().filter(|&&byte| byte == b'z').count();
        assert_eq!(data, SENT, "{head}");
        assert!(!body.ends_with(b"0\r\n\r\n"), "the cut shows");
    }
}

/// If the end of an HTTP/1.0 response is the end of its connection, a response that breaks off
/// causes a reset.
#[test]
fn cut_responses_without_framing_are_resets() {
    let backend = Script::start(move |stream, _| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello";
        stream.get_mut().write_all(head).expect("sent");
        false
    });
    let mut stream = connect(proxy(&[&backend.url]));
    stream.write_all(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n").expect("sent");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A backend that refuses connections is skipped, or the client gets 502. Without any backend the
/// client gets 503.
#[test]
fn refused_backends_become_502() {
    let (_refusing, refused) = refuse(SocketAddr::from(([127, 0, 0, 1], 0)));
    let url = format!("http://{refused}");
    // A backend that is down gets no request.
    let mut unchecked = config(&[&url]);
    unchecked.health.kind = CheckKind::None;
    assert_eq!(get(serve(unchecked)[0], "/").0, "HTTP/1.1 502 Bad Gateway");
    let alive = Script::start(|stream, _| respond(stream, b"alive"));
    assert_eq!(get(proxy(&[&url, &alive.url]), "/").1, "alive");
    assert_eq!(get(serve(config(&[]))[0], "/").0, "HTTP/1.1 503 Service Unavailable");
}
