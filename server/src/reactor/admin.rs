//! The sockets of the admin pages, served at the end of a turn.
//!
//! Their descriptors are reserved, so that the pages work when clients use all the others.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::warn;
use mio::net::TcpStream;
use mio::{Interest, Registry};
use rustix::net::sockopt;

use super::figures::Figures;
use super::listeners::Listeners;
use super::socket::is_readable;
use super::token::{ADMIN_LISTENERS_MAX, Source};
use super::transfer::{receive, send};
use crate::admin::{Action, Admin, CONNECTIONS_MAX, WRITE_MAX};
use crate::edge::listen::Place;
use crate::proxy::Proxy;

/// The maximum number of bytes written to one connection in a turn.
const WRITE_SHARE: usize = 256 * 1024;
/// The maximum number of reads of one connection in a turn.
const READS_MAX: usize = 4;
/// The size of the system's send buffer for a client. The default of several megabytes would hold
/// hours of an event stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Pause after a failed accept.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The admin pages with their sockets.
pub(super) struct AdminPort {
    admin: Admin,
    figures: Figures,
    pub(super) listeners: Listeners,
    /// The streams by the number of the connection.
    streams: [Option<Stream>; CONNECTIONS_MAX],
    /// Whether work remains that need not wait for a deadline.
    is_due: bool,
    /// The time from which accepting continues after a failure.
    accepts_at: Option<Instant>,
}

struct Stream {
    socket: TcpStream,
    is_readable: bool,
    is_writable: bool,
}

impl AdminPort {
    /// Admin pages without a listener.
    pub(super) fn new() -> Self {
        Self {
            admin: Admin::new(),
            figures: Figures::new(),
            listeners: Listeners::new(ADMIN_LISTENERS_MAX, Source::AdminListener),
            streams: [const { None }; CONNECTIONS_MAX],
            is_due: false,
            accepts_at: None,
        }
    }

    /// Whether there is a listener or a connection.
    pub(super) fn is_used(&self) -> bool {
        !self.listeners.is_empty() || self.streams.iter().any(Option::is_some)
    }

    /// Replaces the listeners by the `opened` and the `kept` ones. If any old listener closes, idle
    /// connections are closed too, and the others close after their next response.
    pub(super) fn keep(&mut self, opened: &[usize], kept: Vec<Place>, now: Instant) {
        self.listeners.keep(opened, kept, now);
        if self.listeners.leaves_by().is_some() {
            self.listeners.close_left(now);
            self.admin.handle_leaving();
            self.act();
        }
    }

    pub(super) fn handle_date(&mut self, http_date: &str) {
        self.admin.handle_date(http_date);
    }

    /// Records that a listener has clients to accept.
    pub(super) fn take_listener(&mut self, slot: usize) {
        self.is_due = true;
        self.listeners.take_readiness(slot);
    }

    /// Records that a client's stream may be read and written. A closed stream is ignored.
    pub(super) fn take_stream(&mut self, id: usize) {
        self.is_due = true;
        if let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) {
            (stream.is_readable, stream.is_writable) = (true, true);
        }
    }

    /// Does the work that is due.
    pub(super) fn handle_turn(&mut self, now: Instant, proxy: &Proxy, registry: &Registry) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.serve(now, proxy, registry);
        }
    }

    /// Returns the number of event streams.
    pub(super) fn streams(&self) -> usize {
        self.admin.streams()
    }

    /// The time at which a turn is due even if nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_due {
            return Some(Instant::ZERO);
        }
        self.accepts_at.into_iter().chain(self.admin.poll_timeout()).min()
    }

    #[cold]
    fn serve(&mut self, now: Instant, proxy: &Proxy, registry: &Registry) {
        self.is_due = false;
        self.accept(now, registry);
        for id in 0..CONNECTIONS_MAX {
            self.read(now, id, proxy);
        }
        self.admin.handle_timeout(now, proxy);
        for id in 0..CONNECTIONS_MAX {
            self.write(now, id, proxy);
        }
        self.act();
    }

    fn accept(&mut self, now: Instant, registry: &Registry) {
        if self.accepts_at.is_some_and(|at| at > now) {
            return;
        }
        self.accepts_at = None;
        for slot in 0..self.listeners.slots() {
            while let Some(listener) = self.listeners.get_mut(slot).filter(|one| one.is_ready) {
                // An idle connection is closed only if a new client is waiting.
                listener.is_ready = is_readable(&listener.socket);
                if !listener.is_ready {
                    break;
                }
                if !self.admin.make_room() {
                    // Waiting clients are accepted later, when a connection ends or becomes idle.
                    return;
                }
                match listener.socket.accept() {
                    Ok((socket, _)) => {
                        self.act();
                        self.insert(now, socket, registry);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        listener.is_ready = false;
                    }
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => {
                        warn!("cannot accept clients of the admin pages: {error}: trying again");
                        self.accepts_at = Some(now + ACCEPT_REST);
                        return;
                    }
                }
            }
        }
    }

    fn insert(&mut self, now: Instant, mut socket: TcpStream, registry: &Registry) {
        let Some(id) = self.admin.handle_accept(now) else { return };
        // A socket without these options is slower or lives longer, but works.
        let _ = socket.set_nodelay(true);
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        limit_silence(&socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        match registry.register(&mut socket, Source::Admin(id).to_token(), interest) {
            Ok(()) => {
                self.streams[id] = Some(Stream { socket, is_readable: true, is_writable: true });
            }
            Err(_) => self.admin.handle_failed(id),
        }
    }

    fn read(&mut self, now: Instant, id: usize, proxy: &Proxy) {
        for _ in 0..READS_MAX {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) else { return };
            let space = self.admin.read_space(id);
            if space.is_empty() || !stream.is_readable {
                return;
            }
            match receive(&stream.socket, space) {
                Ok(0) => {
                    stream.is_readable = false;
                    self.admin.handle_eof(id);
                }
                Ok(count) => {
                    if let Some(figures) = self.figures.fresh(now) {
                        self.admin.handle_process(figures);
                    }
                    self.admin.handle_read(now, id, count, proxy);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.is_readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    stream.is_readable = false;
                    self.admin.handle_failed(id);
                }
            }
        }
        self.is_due = true;
    }

    fn write(&mut self, now: Instant, id: usize, proxy: &Proxy) {
        let mut left = WRITE_SHARE;
        while left > 0 {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) else { return };
            let bytes = self.admin.write_ready(id);
            if bytes.is_empty() || !stream.is_writable {
                return;
            }
            match send(&stream.socket, &bytes[..bytes.len().min(left)], false) {
                Ok(count) => {
                    left -= count.min(left);
                    self.admin.handle_written(now, id, count, proxy);
                    // The next request may be in the buffer already, or a client may wait for the
                    // place of an idle connection.
                    self.is_due |= self.admin.write_ready(id).is_empty();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.is_writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    stream.is_writable = false;
                    self.admin.handle_failed(id);
                }
            }
        }
        self.is_due = true;
    }

    /// Carries out the actions of the admin pages.
    fn act(&mut self) {
        while let Some(action) = self.admin.poll_action() {
            match action {
                Action::Shutdown(id) => {
                    if let Some(stream) = self.streams.get(id).and_then(Option::as_ref) {
                        // Fails if the connection is broken; then no end is needed.
                        let _ = stream.socket.shutdown(Shutdown::Write);
                    }
                }
                Action::Close(id) => {
                    self.streams[id] = None;
                    // A waiting client can be accepted now.
                    self.listeners.note_ready();
                    self.is_due |= self.listeners.is_any_ready();
                }
            }
        }
    }
}

/// Makes the system end a connection if its client acknowledges no written bytes for [`WRITE_MAX`].
/// A successful write does not show that the client reads.
#[cfg(target_os = "linux")]
fn limit_silence(socket: &TcpStream) {
    let _ = sockopt::set_tcp_user_timeout(socket, WRITE_MAX.as_millis() as u32);
}

/// On other systems the small send buffer must first be full.
#[cfg(not(target_os = "linux"))]
fn limit_silence(_socket: &TcpStream) {}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream as Client};

    use mio::Poll;

    use super::*;
    use crate::config::{BackendTarget, Config};
    use crate::edge::listen::BoundListener;

    /// A reader counts while it is connected and its listener is configured.
    #[test]
    fn readers_go_with_their_listener() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.set_nonblocking(true).expect("an option");
        let address = socket.local_addr().expect("bound");
        let mut config = Config::default();
        config.admin.listen = Some(address.to_string());
        let target = BackendTarget {
            name: "A".to_owned(),
            url: "http://a".to_owned(),
            authority: "a".to_owned(),
            tls: None,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
        };
        let now = Instant::from_millis(1);
        let proxy = Proxy::new(config, vec![target], 1, now).expect("a good configuration");
        let poll = Poll::new().expect("a poll");
        let mut port = AdminPort::new();
        let place = Place { address, entry: address.to_string().as_str().into() };
        let bound = vec![BoundListener { socket, place }];
        let slots = port.listeners.open(bound, poll.registry()).expect("watched");
        port.keep(&slots, Vec::new(), now);
        let mut client = Client::connect(address).expect("a listener");
        client.write_all(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        // Over loopback, both have arrived when the calls return.
        for _ in 0..2 {
            port.take_listener(slots[0]);
            port.take_stream(0);
            port.handle_turn(now, &proxy, poll.registry());
        }
        assert_eq!(port.streams(), 1);
        port.keep(&[], Vec::new(), now);
        assert_eq!((port.streams(), port.is_used()), (0, false));
    }
}
