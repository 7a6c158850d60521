//! Accepts connections, and starts a thread for each.
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::config::LogLevel;
use crate::connection;
use crate::host::{Connection, Host, Phase};

/// Accepts until the backend ends.
pub(crate) fn accept(host: &Arc<Host>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if !host.is_running() {
            return;
        }
        match stream {
            Ok(stream) => admit(host, stream),
            // The process has no free descriptors, or the client has already left. A pause avoids a
            // busy loop.
            Err(error) => {
                host.log(LogLevel::Debug, || format!("cannot accept: {error}"));
                host.wait_for_phase(Phase::Draining, ACCEPT_PAUSE);
            }
        }
    }
}

fn admit(host: &Arc<Host>, stream: TcpStream) {
    let connection = Arc::new(Connection::new(stream));
    let Some(registered) = host.register(&connection) else {
        connection::refuse(&connection.stream);
        return;
    };
    let spawned = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
        connection::serve(&registered.host, &connection);
    });
    if let Err(error) = spawned {
        // The closure was dropped, and with it the registration and the connection.
        host.log(LogLevel::Debug, || format!("cannot start a thread: {error}"));
    }
}

/// A connection's thread keeps its buffers on the heap, so a small stack is enough.
const THREAD_STACK_BYTES: usize = 256 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
