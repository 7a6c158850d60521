//! A port for a listener that ends and returns. Tests of other packages use this file, too.
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A free port on the loopback address for a listener that ends and returns. It is below the range of
/// outgoing connections (from 32768 on Linux), which may take a port at any time.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 61;
    loop {
        let port = 10_000 + (first + TRIED.fetch_add(1, Ordering::SeqCst)) % 20_000;
        // A listener of this process would live on for a moment in a child that another test starts.
        if TcpStream::connect(("127.0.0.1", port as u16)).is_err() {
            return port as u16;
        }
    }
}
