//! TLS clients whose handshakes are incomplete while the proxy stops or closes their listener.
#![cfg(feature = "tls")]
mod process;
mod secured;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

use process::DEADLINE;
use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};
use secured::{Client, GET, LAST, Proxy, client, config, echo, tls};

/// A client that waits at a listener without room for its handshake is served, although the
/// configuration no longer has the listener.
#[test]
fn a_closed_listener_serves_the_clients_that_wait() {
    let settings = r#", "limits": {"handshakes": 1}"#;
    let mut proxy = Proxy::start("leaving", &[&tls(&["site"], "")], settings);
    let _silent = proxy.raw();
    let port = proxy.ports[0];
    let waiting = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    waiting.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let file = proxy.folder.path("proxy.json");
    fs::write(&file, config(&echo(), &[], settings)).expect("a file");
    proxy.program.signal("-HUP");
    proxy.program.line_with("configuration");
    let name = "a.test".try_into().expect("a name");
    let tls = ClientConnection::new(client(&[&TLS13]), name).expect("a configuration");
    assert!(Client(StreamOwned::new(tls, waiting)).ask(GET).starts_with("HTTP/1.1 200 "));
    proxy.program.line_with(&format!("no longer listening on 127.0.0.1:{port}"));
}

/// Requests that arrived with the last message of a handshake before a stop are served, even if one
/// turn cannot complete all the handshakes.
#[test]
fn a_stop_serves_requests_behind_handshakes() {
    let settings = r#", "timeouts": {"handshakeMs": "1h", "shutdownMs": "1h"}"#;
    let mut proxy = Proxy::start("stop", &[&tls(&["site"], "")], settings);
    let config = client(&[&TLS13]);
    let begin = |_| {
        let name = "a.test".try_into().expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a configuration");
        let mut client = Client(StreamOwned::new(tls, proxy.raw()));
        // The TLS library holds the request until the handshake is complete.
        client.0.conn.writer().write_all(LAST.as_bytes()).expect("room");
        client.0.conn.write_tls(&mut client.0.sock).expect("a hello");
        while client.0.conn.is_handshaking() {
            client.0.conn.read_tls(&mut client.0.sock).expect("the server's messages");
            client.0.conn.process_new_packets().expect("valid messages");
        }
        client
    };
    let mut clients: Vec<Client> = (0..30).map(begin).collect();
    // All the last messages have arrived when the proxy continues.
    proxy.program.signal("-STOP");
    for client in &mut clients {
        while client.0.conn.wants_write() {
            client.0.conn.write_tls(&mut client.0.sock).expect("a last message");
        }
    }
    proxy.program.signal("-TERM");
    proxy.program.signal("-CONT");
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| thread::spawn(move || client.rest().expect("a response and its end")))
        .collect();
    for reader in readers {
        assert!(reader.join().expect("a response").starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(proxy.program.exit_code(), Some(0));
}
