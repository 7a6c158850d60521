//! Requests and responses in every framing, one after the other and in both directions at once.
use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::thread;

use crate::parties::{
    Script, connect, echo, get, proxy, read_body, read_head, read_response, respond,
};

/// ureq is a client that shares no code with the proxy: GET, HEAD, POST with a length, PUT in
/// chunks, and responses with a length, in chunks and until close.
#[test]
fn ureq_understands_every_framing() {
    let backend = Script::start(|stream, head| {
        let body = read_body(stream, head);
        let method = head[0].split(' ').next().unwrap_or_default().to_owned();
        let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let text = format!("{method} {} {}", body.len(), body.iter().all(|&byte| byte == b'x'));
        let is_chunked = head.iter().any(|line| line == "Transfer-Encoding: chunked");
        let text = format!("{text} {is_chunked}");
        let bytes = match path.as_str() {
            "/chunked" => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n{:x};ext=1\r\n{}\r\n0\r\n\r\n",
                &text[..1],
                text.len() - 1,
                &text[1..]
            ),
            "/close" => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}"),
            _ if method == "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()),
        };
        stream.get_mut().write_all(bytes.as_bytes()).is_ok() && path != "/close"
    });
    let address = proxy(&[&backend.url]);
    let url = |path: &str| format!("http://{address}/{path}");
    let agent = ureq::agent();
    for path in ["length", "chunked", "close", "length"] {
        let mut response = agent.get(url(path)).call().expect("a response");
        assert_eq!(response.body_mut().read_to_string().expect("a body"), "GET 0 true false");
        let mut response = agent.post(url(path)).send(&[b'x'; 70_000][..]).expect("a response");
        let text = response.body_mut().read_to_string().expect("a body");
        assert_eq!(text, "POST 70000 true false", "{path}");
        let mut unsized_body = std::io::repeat(b'x').take(300_000);
        let body = ureq::SendBody::from_reader(&mut unsized_body);
        let mut response = agent.put(url(path)).send(body).expect("a response");
        let text = response.body_mut().read_to_string().expect("a body");
        assert_eq!(text, "PUT 300000 true true", "{path}");
    }
    let response = agent.head(url("length")).call().expect("a response");
    assert_eq!(
        response.headers().get("content-length").map(|value| value.as_bytes()),
        Some(&b"77"[..])
    );
}

/// Pipelined requests on one connection get their responses in order, and one upstream carries them
/// all.
#[test]
fn pipelined_requests_are_served_in_order() {
    let backend = Script::start(echo);
    let mut stream = BufReader::new(connect(proxy(&[&backend.url])));
    let mut requests = String::new();
    for number in 0..50 {
        requests.push_str(&format!(
            "POST /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n{number:03}"
        ));
    }
    stream.get_mut().write_all(requests.as_bytes()).expect("sent");
    for number in 0..50 {
        let (head, body) = read_response(&mut stream);
        let text = String::from_utf8(body).expect("text");
        assert_eq!(head[0], "HTTP/1.1 200 OK");
        assert!(text.starts_with(&format!("POST /{number} HTTP/1.1\n")), "{text}");
        assert!(text.ends_with(&format!("\n\n{number:03}")), "{text}");
    }
    assert_eq!(backend.connections(), 1);
}

/// A request that arrives byte by byte is one request.
#[test]
fn bytes_may_come_one_by_one() {
    let backend = Script::start(echo);
    let mut stream = BufReader::new(connect(proxy(&[&backend.url])));
    let request = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5;x\r\nhello\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
    for byte in request {
        stream.get_mut().write_all(&[*byte]).expect("sent");
    }
    let first = String::from_utf8(read_response(&mut stream).1).expect("text");
    assert!(first.starts_with("POST /a ") && first.ends_with("\n\nhello"), "{first}");
    let second = String::from_utf8(read_response(&mut stream).1).expect("text");
    assert!(second.starts_with("GET /b "), "{second}");
}

/// 24 MiB in both directions at once, from a backend that sends back what it reads: nothing is
/// lost, changed or stuck.
#[test]
fn bodies_stream_both_ways_at_once() {
    const LENGTH: usize = 24 << 20;
    let backend = Script::start(|stream, _| {
        // Bytes are returned as they arrive, while the rest is still arriving.
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.get_mut().write_all(head.as_bytes()).expect("sent");
        let mut left = LENGTH;
        let mut piece = vec![0; 100_000];
        while left > 0 {
            let count = stream.read(&mut piece).expect("more");
            assert_ne!(count, 0, "the request is whole");
            stream.get_mut().write_all(&piece[..count]).expect("sent");
            left -= count;
        }
        true
    });
    let mut stream = connect(proxy(&[&backend.url]));
    let mut writer = stream.try_clone().expect("a second handle");
    let byte_at = |at: usize| (at % 251) as u8;
    let sending = thread::spawn(move || {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {LENGTH}\r\n\r\n");
        writer.write_all(head.as_bytes()).expect("sent");
        let body: Vec<u8> = (0..LENGTH).map(byte_at).collect();
        writer.write_all(&body).expect("sent");
    });
    let mut reader = BufReader::new(&mut stream);
    let head = read_head(&mut reader).expect("a response");
    let body = read_body(&mut reader, &head);
    sending.join().expect("all was sent");
    assert!(body.iter().enumerate().all(|(at, &byte)| byte == byte_at(at)), "bytes differ");
}

/// A client that waits for a 100 gets the backend's 100, and then its body is forwarded.
#[test]
fn expectations_are_met() {
    let backend = Script::start(|stream, head| {
        assert!(head.iter().any(|line| line == "Expect: 100-continue"), "{head:?}");
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").expect("sent");
        let body = read_body(stream, head);
        respond(stream, &body)
    });
    let mut stream = BufReader::new(connect(proxy(&[&backend.url])));
    for _ in 0..3 {
        let head =
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        stream.get_mut().write_all(head).expect("sent");
        assert_eq!(read_head(&mut stream).expect("a response"), ["HTTP/1.1 100 Continue"]);
        stream.get_mut().write_all(b"hello").expect("sent");
        assert_eq!(read_response(&mut stream).1, b"hello");
    }
    assert_eq!(backend.connections(), 1);
}

/// A tunnel carries bytes in both directions after the 101, and each side's end separately.
#[test]
fn tunnels_carry_bytes_and_ends() {
    let backend = Script::start(|stream, head| {
        assert!(head.iter().any(|line| line == "Upgrade: websocket"), "{head:?}");
        let switch = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.get_mut().write_all(switch).expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the client's end");
        stream.get_mut().write_all(&all).expect("sent after the other side's end");
        false
    });
    let mut stream = BufReader::new(connect(proxy(&[&backend.url])));
    let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.get_mut().write_all(request).expect("sent");
    let head = read_head(&mut stream).expect("a response");
    assert_eq!(head[0], "HTTP/1.1 101 S");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 253) as u8).collect();
    let mut writer = stream.get_ref().try_clone().expect("a second handle");
    let bytes = sent.clone();
    let sending = thread::spawn(move || {
        writer.write_all(&bytes).expect("sent");
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the backend's end");
    sending.join().expect("all was sent");
    assert!(received == [b"first", &sent[..]].concat(), "{} bytes", received.len());
}

/// A client may end its side after its request and still gets its response.
#[test]
fn half_closed_clients_are_served() {
    let backend = Script::start(echo);
    let mut stream = connect(proxy(&[&backend.url]));
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    stream.shutdown(Shutdown::Write).expect("ended");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response and an end");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("GET /x "), "{text}");
}

/// HTTP/1.0 clients get their response and the end of the connection, or keep it if they request
/// that.
#[test]
fn old_clients_are_served() {
    let backend = Script::start(echo);
    let address = proxy(&[&backend.url]);
    let mut stream = connect(address);
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response and an end");
    assert!(
        text.contains("\r\nConnection: close\r\n") && text.contains("GET /x HTTP/1.1"),
        "{text}"
    );
    let mut stream = BufReader::new(connect(address));
    for _ in 0..2 {
        let request = b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        stream.get_mut().write_all(request).expect("sent");
        let (head, _) = read_response(&mut stream);
        assert!(head.iter().any(|line| line == "Connection: keep-alive"), "{head:?}");
    }
    assert!(get(address, "/y").1.starts_with("GET /y "));
}
