//! The control socket in the reactor: serves its connections, and carries out their commands.
//! `crate::control` parses the commands, `edge/socket.rs` opens the socket.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::{info, warn};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};
use serde_json::Value;

use super::Reactor;
use super::socket::is_readable;
use super::token::Source;
use crate::admin::{Page, Pages};
use crate::collect::one_by_one;
use crate::control::{CONNECTIONS_MAX, Command, Control};
use crate::edge::socket::ControlSocket;
use crate::proxy::Proxy;

/// The maximum number of bytes written to one connection in a turn, about 0.1 ms of work.
const WRITE_SHARE: usize = 256 * 1024;
/// Pause after a failed accept.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The control socket with its connections.
pub(super) struct ControlPort {
    control: Control,
    pages: Pages,
    listener: Option<UnixListener>,
    /// Removes the name when it is dropped.
    _name: ControlSocket,
    has_clients: bool,
    /// The streams by the number of the connection.
    streams: [Option<Stream>; CONNECTIONS_MAX],
    /// Connections that wait for a reload. Each has the count of finished reloads at which it gets
    /// its response.
    reloading: Vec<(usize, u64)>,
    /// Connections that wait for the text of /stats.
    asking: Vec<usize>,
    /// Whether any work remains that does not wait for a deadline.
    is_due: bool,
    /// The time from which accepting continues after a failure.
    accepts_at: Option<Instant>,
}

struct Stream {
    socket: UnixStream,
    is_readable: bool,
    is_writable: bool,
}

impl ControlPort {
    /// Registers a socket with the poll.
    pub(super) fn new(mut socket: ControlSocket, registry: &Registry) -> io::Result<Self> {
        let mut listener = socket.take_listener().map(UnixListener::from_std);
        if let Some(listener) = &mut listener {
            let token = Source::ControlListener.to_token();
            registry.register(listener, token, Interest::READABLE)?;
        }
        Ok(Self {
            control: Control::default(),
            pages: Pages::default(),
            listener,
            _name: socket,
            has_clients: false,
            streams: [const { None }; CONNECTIONS_MAX],
            reloading: Vec::new(),
            asking: Vec::new(),
            is_due: true,
            accepts_at: None,
        })
    }

    /// Records an event of the listener or a connection. A late event is harmless: the next read
    /// finds nothing.
    pub(super) fn take_readiness(&mut self, source: Source) {
        self.is_due = true;
        match source {
            Source::ControlListener => self.has_clients = true,
            Source::Control(id) => {
                if let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) {
                    (stream.is_readable, stream.is_writable) = (true, true);
                }
            }
            _ => debug_assert!(false, "other events are handled by the caller"),
        }
    }

    /// Whether there is work at this time.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.waits() || self.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Whether a connection waits for the end of a reload.
    pub(super) fn waits(&self) -> bool {
        !self.reloading.is_empty()
    }

    /// The time at which a turn is due even if nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_due {
            return Some(Instant::ZERO);
        }
        let times = [self.accepts_at, self.control.poll_timeout(), self.pages.poll_timeout()];
        times.into_iter().flatten().min()
    }

    /// Accepts clients and reads what they have sent.
    fn listen(&mut self, now: Instant, registry: &Registry) {
        self.is_due = false;
        self.accept(now, registry);
        for id in 0..CONNECTIONS_MAX {
            self.read(id);
        }
        self.control.handle_timeout(now);
        self.close();
    }

    fn accept(&mut self, now: Instant, registry: &Registry) {
        if self.accepts_at.is_some_and(|at| at > now) {
            return;
        }
        self.accepts_at = None;
        while self.has_clients {
            let Some(listener) = &self.listener else { return };
            self.has_clients = is_readable(listener);
            // An idle connection is closed only if a new client is waiting.
            if !self.has_clients || !self.control.make_room() {
                return;
            }
            match listener.accept() {
                Ok((socket, _)) => {
                    self.close();
                    self.insert(now, socket, registry);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.has_clients = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!("control: cannot accept: {error}: trying again");
                    self.accepts_at = Some(now + ACCEPT_REST);
                    return;
                }
            }
        }
    }

    fn insert(&mut self, now: Instant, mut socket: UnixStream, registry: &Registry) {
        let Some(id) = self.control.handle_accept(now) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        match registry.register(&mut socket, Source::Control(id).to_token(), interest) {
            Ok(()) => {
                self.streams[id] = Some(Stream { socket, is_readable: true, is_writable: true });
            }
            Err(_) => self.control.handle_failed(id),
        }
    }

    fn read(&mut self, id: usize) {
        loop {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) else { return };
            let space = self.control.read_space(id);
            if space.is_empty() || !stream.is_readable {
                return;
            }
            match stream.socket.read(space) {
                Ok(0) => {
                    stream.is_readable = false;
                    self.control.handle_eof(id);
                }
                Ok(count) => self.control.handle_read(id, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.is_readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    stream.is_readable = false;
                    self.control.handle_failed(id);
                }
            }
        }
    }

    /// Responds to the connections whose reload or text is finished.
    fn finish(&mut self, now: Instant, proxy: &Proxy) {
        let (finished, last) = proxy.reloads();
        let control = &mut self.control;
        self.reloading.retain(|&(id, awaited)| {
            let is_finished = finished >= awaited;
            if is_finished {
                let wrong = last.map(str::to_owned);
                control.respond(now, id, wrong.map_or_else(|| Ok("ok".to_owned()), Err));
            }
            !is_finished
        });
        self.pages.grow(now, proxy);
        let pages = &mut self.pages;
        self.asking.retain(|&id| match pages.ask(now, Page::Stats, proxy) {
            Some(text) => {
                control.respond(now, id, Ok(text_of(&text)));
                false
            }
            None => true,
        });
    }

    fn write(&mut self, now: Instant, id: usize) {
        let mut left = WRITE_SHARE;
        while left > 0 {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_mut) else { return };
            let bytes = self.control.write_ready(id);
            if bytes.is_empty() || !stream.is_writable {
                return;
            }
            match stream.socket.write(&bytes[..bytes.len().min(left)]) {
                Ok(count) => {
                    left -= count.min(left);
                    self.control.handle_written(now, id, count);
                    // The next command may be in the buffer already, or the connection may end.
                    self.is_due |= self.control.write_ready(id).is_empty();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.is_writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    stream.is_writable = false;
                    self.control.handle_failed(id);
                }
            }
        }
        self.is_due = true;
    }

    fn close(&mut self) {
        while let Some(id) = self.control.poll_closed() {
            self.streams[id] = None;
            self.reloading.retain(|(other, _)| *other != id);
            self.asking.retain(|other| *other != id);
            // A waiting client can be accepted now.
            self.is_due |= self.has_clients;
        }
    }
}

impl Reactor {
    /// Opens the socket of the configuration, if it has one. With `takes_over` it may replace the
    /// socket of the process before this one.
    pub(super) fn open_control(&mut self, takes_over: bool) -> Result<(), String> {
        let Some(path) = &self.proxy.config().admin.socket else { return Ok(()) };
        let socket = ControlSocket::open(path, takes_over)?;
        let port = ControlPort::new(socket, self.poll.registry());
        let fail = |error| format!("cannot watch admin.socket: {error}");
        self.control = Some(port.map_err(fail)?);
        Ok(())
    }

    /// Carries out the commands that have arrived on the control socket, at most one per
    /// connection, so that no connection delays the others.
    #[cold]
    pub(super) fn serve_control(&mut self) {
        let Some(mut port) = self.control.take() else { return };
        let now = self.now;
        port.listen(now, self.poll.registry());
        for id in 0..CONNECTIONS_MAX {
            if let Some(command) = port.control.take_command(now, id) {
                let line = command.line();
                match self.obey(&mut port, id, command) {
                    Some(Ok(text)) => {
                        info!("control: {line}");
                        port.control.respond(now, id, Ok(text));
                    }
                    Some(Err(wrong)) => {
                        warn!("control: {line}: {wrong}");
                        port.control.respond(now, id, Err(wrong));
                    }
                    None => {}
                }
                self.flush();
            }
        }
        port.finish(now, &self.proxy);
        for id in 0..CONNECTIONS_MAX {
            port.write(now, id);
        }
        port.close();
        self.control = Some(port);
    }

    /// Carries out a command. Returns `None` if its result is not available yet.
    fn obey(
        &mut self,
        port: &mut ControlPort,
        id: usize,
        command: Command,
    ) -> Option<Result<String, String>> {
        let now = self.now;
        let done = match command {
            Command::Service { backend, mode } => self.proxy.set_mode(now, &backend, mode),
            Command::Weight { backend, weight } => self.proxy.set_weight(now, &backend, weight),
            Command::Policy(policy) => {
                if policy != self.proxy.config().routing.policy {
                    self.edge.remember(&self.proxy);
                    self.proxy.set_policy(now, policy);
                    self.edge.recall(&mut self.proxy);
                }
                Ok(())
            }
            Command::Stats => {
                info!("control: stats");
                port.asking.push(id);
                return None;
            }
            Command::Totals => {
                // `top` requests this every second, so it is not logged.
                port.control.respond(now, id, Ok(totals_json(&self.proxy.stats_fields())));
                return None;
            }
            Command::Readiness => {
                // Health checks request this every few seconds, so it is not logged.
                let readiness = self.proxy.readiness();
                let result = readiness.map(str::to_owned).map_err(str::to_owned);
                port.control.respond(now, id, result);
                return None;
            }
            Command::Reload => {
                info!("control: reload");
                let (finished, _) = self.proxy.reloads();
                if let Some(readings) = self.reload() {
                    port.reloading.push((id, finished + readings));
                    return None;
                }
                Err("the proxy is stopping, or has no configuration to read".to_owned())
            }
        };
        Some(done.map(|()| "ok".to_owned()))
    }
}

/// Returns the header fields of /stats as a JSON object, by their names without the common prefix.
fn totals_json(fields: &str) -> String {
    let fields = fields.lines().filter_map(|line| line.split_once(": "));
    let named = fields.map(|(name, value)| {
        let own = name.strip_prefix("X-IntelliProxy-").unwrap_or(name);
        (own.to_ascii_lowercase(), Value::from(value))
    });
    Value::Object(one_by_one(named)).to_string()
}

fn text_of(bytes: &Arc<Vec<u8>>) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
