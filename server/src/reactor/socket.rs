//! One stream socket and what is known of its readiness.
//!
//! Readiness is reported once per edge, so it is kept here until a read or a write uses it up.
use std::hint::cold_path;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::token::Source;
use super::transfer::{receive, send};
use crate::proxy::{ConnId, ConnectFailure};

/// A stream, registered for its life: for reading, and for writing from the first time that a
/// write has to wait (one being made waits for that from the start).
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    pub(crate) conn: ConnId,
    /// Whether it leads to a backend.
    pub(crate) is_outgoing: bool,
    pub(crate) is_connecting: bool,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
    /// Whether the peer's end is behind the bytes that wait: a short read is not the last one.
    pub(crate) is_ending: bool,
    /// Whether the connection broke, maybe with bytes of the peer left to read.
    pub(crate) is_broken: bool,
    /// Whether a write failed by a reset of the connection: the system reports it once, and lets
    /// a read find a clean end afterwards.
    is_reset: bool,
    /// Whether the system tells when there is room to write.
    watches_writes: bool,
    /// Whether the last bytes written are held back by the system until the end of the stream.
    is_held: bool,
    /// Whether what came last took much work: less is read at a time.
    pub(crate) is_costly: bool,
    /// Whether it waits in the list of sockets with bytes left to read.
    pub(crate) is_queued: bool,
}

/// Result of a read or a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None now.
    Blocked,
    /// None any more: the peer has ended its side.
    Ended,
    /// The connection broke.
    Failed,
}

impl Moved {
    /// Handles an error of a call that moved nothing.
    #[cold]
    fn none(error: &io::Error) -> Self {
        if error.kind() == ErrorKind::WouldBlock { Self::Blocked } else { Self::Failed }
    }
}

impl Socket {
    /// A socket whose connection is there.
    pub(crate) fn accepted(
        mut stream: TcpStream,
        conn: ConnId,
        registry: &Registry,
    ) -> io::Result<Self> {
        registry.register(&mut stream, Source::Client(conn).to_token(), Interest::READABLE)?;
        Ok(Self::new(stream, conn, false))
    }

    /// A socket whose connection is being made.
    pub(crate) fn connecting(
        address: SocketAddr,
        conn: ConnId,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        // A socket that refuses the option still carries bytes.
        let _ = stream.set_nodelay(true);
        registry.register(&mut stream, Source::Backend(conn).to_token(), BOTH)?;
        Ok(Self::new(stream, conn, true))
    }

    const fn new(stream: TcpStream, conn: ConnId, is_connecting: bool) -> Self {
        Self {
            stream,
            conn,
            is_outgoing: is_connecting,
            is_connecting,
            is_readable: false,
            is_writable: !is_connecting,
            watches_writes: is_connecting,
            is_ending: false,
            is_broken: false,
            is_reset: false,
            is_held: false,
            is_costly: false,
            is_queued: false,
        }
    }

    const fn source(&self) -> Source {
        if self.is_outgoing { Source::Backend(self.conn) } else { Source::Client(self.conn) }
    }

    /// Asks for an edge when there is room to write again; once for the socket's life, since most
    /// never have to wait.
    #[cold]
    pub(crate) fn watch_writes(&mut self, registry: &Registry) -> io::Result<()> {
        if self.watches_writes {
            return Ok(());
        }
        self.watches_writes = true;
        let source = self.source();
        registry.reregister(&mut self.stream, source.to_token(), BOTH)
    }

    /// Whether the connection has been made; `None` while it is open.
    #[cold]
    pub(crate) fn connected(&self) -> Option<Result<(), ConnectFailure>> {
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(connect_failure(&error))),
            Ok(None) => {}
        }
        match self.stream.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == ErrorKind::NotConnected => None,
            Err(error) => Some(Err(connect_failure(&error))),
        }
    }

    #[inline(always)]
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Moved {
        loop {
            match receive(&self.stream, space) {
                Ok(count @ 1..) => {
                    // Fewer bytes than asked for: no more are there, an edge tells of the next.
                    self.is_readable = count == space.len() || self.is_ending;
                    return Moved::Bytes(count);
                }
                Ok(0) => {
                    cold_path();
                    self.is_readable = false;
                    return if self.is_reset { Moved::Failed } else { Moved::Ended };
                }
                Err(error) => {
                    cold_path();
                    if error.kind() != ErrorKind::Interrupted {
                        self.is_readable = false;
                        return Moved::none(&error);
                    }
                }
            }
        }
    }

    /// Writes; what `is_last` waits for the end that follows, and goes with it in one segment.
    pub(crate) fn write(&mut self, bytes: &[u8], is_last: bool) -> Moved {
        self.is_held |= is_last;
        loop {
            match send(&self.stream, bytes, is_last) {
                Ok(count @ 1..) => {
                    // Fewer bytes than offered: the system's buffer is full, an edge tells of room.
                    self.is_writable = count == bytes.len();
                    return Moved::Bytes(count);
                }
                Ok(0) => {
                    cold_path();
                    return Moved::Failed;
                }
                Err(error) => {
                    cold_path();
                    if error.kind() != ErrorKind::Interrupted {
                        self.is_writable &= error.kind() != ErrorKind::WouldBlock;
                        // A broken pipe comes behind a clean end, too.
                        let is_clean = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe];
                        self.is_reset |= !is_clean.contains(&error.kind());
                        return Moved::none(&error);
                    }
                }
            }
        }
    }

    /// The addresses of both ends, the own first.
    pub(crate) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.stream.local_addr().ok().zip(self.stream.peer_addr().ok())
    }

    /// Sends the end of the stream.
    pub(crate) fn shutdown(&self) {
        // A connection that broke meanwhile needs no end.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Closes, by a reset if asked for.
    pub(crate) fn close(self, with_reset: bool) {
        if with_reset {
            // Without the option the close is a clean one, which is the best that is left.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        } else if self.is_held {
            // A close alone would drop what is held when there is something left to be read.
            self.shutdown();
        }
    }
}

/// Whether something waits to be read or accepted, by a poll of its own: it needs no edge and uses
/// none up.
pub(crate) fn is_readable(socket: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If the poll itself fails, the caller tries the read.
    poll(&mut asked, Some(&now)).map_or(true, |count| count > 0)
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Translates an error of the system for the proxy.
pub(crate) fn connect_failure(error: &io::Error) -> ConnectFailure {
    // Descriptors, buffers, ports of its own (Linux says EADDRNOTAVAIL or EAGAIN), or room in the
    // poll: what the proxy's system lacks.
    const EXHAUSTED: [Errno; 7] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::AGAIN,
        Errno::NOSPC,
    ];
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => ConnectFailure::Refused,
        Some(errno) if EXHAUSTED.contains(&errno) => ConnectFailure::Exhausted,
        _ => ConnectFailure::Unreachable,
    }
}
