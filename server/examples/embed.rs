//! The proxy in memory: no socket, no clock. One client sends a request, one backend responds, and
//! this program is the network between them.
//!
//! `cargo run -p intelliproxy --example embed`
use std::net::SocketAddr;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::{Action, Proxy};
use intelliproxy_core::Instant;

fn main() {
    let backend = BackendTarget {
        name: "A".to_owned(),
        url: "http://127.0.0.1:9".to_owned(),
        authority: "127.0.0.1:9".to_owned(),
        tls: None,
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
    };
    // The driver passes the time; in this example it does not move.
    let now = Instant::ZERO;
    let mut proxy = match Proxy::new(Config::default(), vec![backend], 1, now) {
        Ok(proxy) => proxy,
        Err(error) => return eprintln!("{error}"),
    };
    let client = proxy.handle_accept(now, SocketAddr::from(([127, 0, 0, 1], 50_000)));
    let request = b"GET /hello HTTP/1.1\r\nHost: example.org\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    // Bytes from a connection are copied into the space that the proxy provides.
    proxy.read_space(client)[..request.len()].copy_from_slice(request);
    proxy.handle_read(now, client, request.len());

    loop {
        // Carries out the proxy's actions. Only connections matter here; they succeed at once.
        while let Some(action) = proxy.poll_action() {
            if let Action::Connect { conn, address } = action {
                println!("connects to {address}");
                proxy.handle_connected(now, conn, Ok(()));
            }
        }
        // Takes the next connection with bytes to write.
        let Some(conn) = proxy.poll_dirty() else { break };
        let bytes = proxy.write_ready(conn).to_vec();
        if bytes.is_empty() {
            continue;
        }
        proxy.handle_written(now, conn, bytes.len());
        let text = String::from_utf8_lossy(&bytes);
        if conn == client {
            println!("the client gets\n{text}");
        } else {
            println!("the backend gets\n{text}");
            proxy.read_space(conn)[..response.len()].copy_from_slice(response);
            proxy.handle_read(now, conn, response.len());
        }
    }
}
