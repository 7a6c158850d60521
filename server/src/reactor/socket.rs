//! A stream socket and its readiness.
//!
//! The poll is edge-triggered: it reports readiness once, when it begins. The socket remembers
//! readiness until a read or a write would block.
//!
//! The layout hints are explained in `proxy/mod.rs`.
mod secured;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use self::secured::Secured;
pub(super) use self::secured::{Scratch, Shaken, Step};
use super::token::Source;
use super::transfer::{receive, send};
use crate::config::ListenTls;
use crate::proxy::{ConnId, ConnectFailure};
use crate::tls::Layer;

/// A stream that the poll watches until it is closed: for reading and, from the first write that
/// has to wait, for writing. A stream that is being connected is watched for both from the start.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    pub(crate) conn: ConnId,
    /// Whether its peer is a backend.
    pub(crate) is_outgoing: bool,
    /// Whether it is not yet open for the proxy's bytes, because it is still connecting or its TLS
    /// handshake is incomplete.
    pub(crate) is_connecting: bool,
    /// Whether there are bytes to read, in the system or in the TLS layer.
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
    /// Whether the peer has ended its side, possibly behind bytes that are not read yet. After a
    /// short read, the end must still be read.
    pub(crate) is_ending: bool,
    /// Whether the connection broke. Bytes of the peer may be left to read.
    pub(crate) is_broken: bool,
    /// Whether a write failed because the connection was reset. The system reports the reset once;
    /// a later read finds a clean end.
    is_reset: bool,
    /// Whether the poll reports room to write.
    watches_writes: bool,
    /// Whether the system holds the last bytes back until the end of the stream.
    is_held: bool,
    /// Whether the last bytes took much work, so that less is read at a time.
    pub(crate) is_costly: bool,
    /// Whether it is in the reactor's list of connections with bytes left to read.
    pub(crate) is_queued: bool,
    /// Whether another thread takes a step of its handshake. That thread has the TLS layer then.
    pub(super) is_stepping: bool,
    /// Whether a step of its handshake has answered the client with key exchange and signature. The
    /// next one can be the last.
    pub(super) is_answered: bool,
    /// The TLS layer, if it has one.
    pub(super) secured: Option<Box<Secured>>,
}

/// Result of a read or a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moved {
    /// The number of bytes, at least one.
    Bytes(usize),
    /// No bytes now.
    Blocked,
    /// No more bytes: the peer has ended its side.
    Ended,
    /// The connection broke.
    Failed,
}

impl Moved {
    /// The result of a failed call, which moved nothing.
    #[cold]
    fn none(error: &io::Error) -> Self {
        if error.kind() == ErrorKind::WouldBlock { Self::Blocked } else { Self::Failed }
    }
}

impl Socket {
    /// The socket of an accepted client.
    pub(crate) fn accepted(
        mut stream: TcpStream,
        conn: ConnId,
        registry: &Registry,
    ) -> io::Result<Self> {
        registry.register(&mut stream, Source::Client(conn).to_token(), Interest::READABLE)?;
        Ok(Self::new(stream, conn, false))
    }

    /// A new socket that begins to connect to a backend.
    pub(crate) fn connecting(
        address: SocketAddr,
        conn: ConnId,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        // A socket without the option is slower but works.
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
            is_stepping: false,
            is_answered: false,
            secured: None,
        }
    }

    /// Puts a TLS layer between the stream and the proxy. The socket opens for the proxy's bytes
    /// after the handshake. For a client, `rules` is the entry of the configuration.
    pub(super) fn secure(mut self, layer: Layer, rules: Option<Arc<ListenTls>>) -> Self {
        self.secured = Some(Box::new(Secured::new(layer, rules)));
        self.is_connecting = true;
        self
    }

    const fn source(&self) -> Source {
        if self.is_outgoing { Source::Backend(self.conn) } else { Source::Client(self.conn) }
    }

    /// Asks the poll to report room to write. Most sockets never need it. It stays in force as long
    /// as the socket exists.
    #[cold]
    pub(crate) fn watch_writes(&mut self, registry: &Registry) -> io::Result<()> {
        if self.watches_writes {
            return Ok(());
        }
        self.watches_writes = true;
        let source = self.source();
        registry.reregister(&mut self.stream, source.to_token(), BOTH)
    }

    /// The result of connecting; `None` while it is not finished.
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

    /// Reads bytes for the proxy. `scratch` is for the ciphertext of a TLS connection.
    #[inline(always)]
    pub(crate) fn read(&mut self, space: &mut [u8], scratch: &mut Scratch) -> Moved {
        if self.secured.is_some() {
            return self.read_secured(space, scratch);
        }
        self.receive(space)
    }

    /// Reads bytes from the stream.
    #[inline(always)]
    fn receive(&mut self, space: &mut [u8]) -> Moved {
        loop {
            match receive(&self.stream, space) {
                Ok(count @ 1..) => {
                    // A short read has emptied the buffer: the next bytes cause a new edge.
                    self.is_readable = count == space.len() || self.is_ending;
                    return Moved::Bytes(count);
                }
                Ok(0) => {
                    self.is_readable = false;
                    return if self.is_reset { Moved::Failed } else { Moved::Ended };
                }
                Err(error) => {
                    if error.kind() != ErrorKind::Interrupted {
                        self.is_readable = false;
                        return Moved::none(&error);
                    }
                }
            }
        }
    }

    /// Writes bytes. If `is_last` is set, the system holds them until the end of the stream and
    /// sends both in one segment.
    pub(crate) fn write(&mut self, bytes: &[u8], is_last: bool) -> Moved {
        self.is_held |= is_last;
        if self.secured.is_some() {
            return self.write_secured(bytes, is_last);
        }
        loop {
            match send(&self.stream, bytes, is_last) {
                Ok(count @ 1..) => {
                    // A short write has filled the system's buffer: room causes a new edge.
                    self.is_writable = count == bytes.len();
                    return Moved::Bytes(count);
                }
                Ok(0) => {
                    return Moved::Failed;
                }
                Err(error) => {
                    if error.kind() != ErrorKind::Interrupted {
                        return self.note_unsent(&error);
                    }
                }
            }
        }
    }

    /// Records the error of a write.
    #[cold]
    fn note_unsent(&mut self, error: &io::Error) -> Moved {
        self.is_writable &= error.kind() != ErrorKind::WouldBlock;
        // A clean end also causes a broken pipe.
        let is_clean = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe];
        self.is_reset |= !is_clean.contains(&error.kind());
        Moved::none(error)
    }

    /// The local and the remote address, in this order.
    pub(crate) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.stream.local_addr().ok().zip(self.stream.peer_addr().ok())
    }

    /// The stream, for the TLS layer beside it.
    const fn parts(&mut self) -> (&TcpStream, Option<&mut Box<Secured>>) {
        (&self.stream, self.secured.as_mut())
    }

    /// Sends the end of the stream.
    pub(crate) fn shutdown(&mut self, registry: &Registry) {
        if self.secured.is_some() {
            self.end_secured(registry);
        } else {
            self.shut();
        }
    }

    /// Sends the end of the stream below the TLS layer.
    fn shut(&self) {
        // Fails if the connection broke. In that case no end is needed.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Closes the connection, with a reset if `with_reset` is set.
    pub(crate) fn close(mut self, with_reset: bool, registry: &Registry) {
        if with_reset {
            // If the option cannot be set, the connection closes cleanly, which is the best
            // alternative.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        } else if self.is_held || self.secured.is_some() {
            // If unread input is left, a close alone would drop the bytes that are held back.
            self.shutdown(registry);
        }
    }
}

/// Whether there is something to read or accept. It queries the system directly, so the readiness
/// that the poll reports does not change.
pub(crate) fn is_readable(socket: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If the poll itself fails, the caller finds the error when it reads.
    poll(&mut asked, Some(&now)).map_or(true, |count| count > 0)
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Classifies an error of connecting.
pub(crate) fn connect_failure(error: &io::Error) -> ConnectFailure {
    // Limits of the proxy's own system: descriptors, buffers, local ports (EADDRNOTAVAIL or EAGAIN
    // on Linux), or room in the poll. They must not count against the backend.
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
