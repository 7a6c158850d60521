//! Memory of clients that send a part of a request and wait.
#![cfg(target_os = "linux")]
mod process;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use process::{DEADLINE, Folder, Program};

const CLIENTS: usize = 600;
/// Bytes of an incomplete head.
const SENT: usize = 30_000;
/// Free buffers that the proxy may keep at once (128 of 70 KiB, 1024 of 2 KiB), and 3 MiB for the
/// rest.
const KEPT_KIB: usize = 128 * 70 + 1024 * 2 + 3 * 1024;

/// Waits until the resident memory of the process is as expected. A request before each check shows
/// that the process serves.
fn wait_for(program: &Program, what: &str, is_expected: impl Fn(usize) -> bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        assert!(program.stats().starts_with("HTTP/1.1 200 OK\r\n"));
        let resident = program.resident_kib();
        if is_expected(resident) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {resident} KiB");
    }
}

/// Clients that have sent 30 KB of a head take less than twice that. After they have left, the
/// memory is returned to the system. (The allocator alone would keep three quarters of it.)
#[test]
fn memory_of_slow_clients_returns_to_the_system() {
    let folder = Folder::new("slow-clients");
    let config = folder.path("proxy.json");
    // No head is refused before all have arrived.
    std::fs::write(&config, r#"{"timeouts": {"requestHeadMs": "1h"}}"#).expect("a file");
    let program = Program::start(&["--config", &config, "--backend=A=http://127.0.0.1:1"]);
    program.stats();
    let before = program.resident_kib();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(SENT));
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| program.connect()).collect();
    for client in &mut clients {
        client.write_all(head.as_bytes()).expect("sent");
    }
    let sent = CLIENTS * SENT / 1024;
    wait_for(&program, "all has arrived", |resident| resident > before + sent);
    let held = program.resident_kib();
    assert!(held < before + 2 * sent, "{held} KiB for {sent} KiB");
    drop(clients);
    wait_for(&program, "it is returned", |resident| resident < before + KEPT_KIB);
}
