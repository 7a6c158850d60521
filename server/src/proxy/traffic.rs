//! Events of connections: each is passed to the session, the probe or the pool that owns the
//! connection.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{BackendId, Instant, ProbeFailure};

use super::action::ConnectFailure;
use super::conn::{Conn, Upstream};
use super::dispatch::connect_error;
use super::id::ConnId;
use super::notice::Notice;
use super::serving::watch;
use super::session::Side;
use super::{Owner, Proxy};
use crate::config::TargetTls;
use crate::tls::TlsFault;

/// Bytes that wait for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output<'b> {
    /// The bytes; empty if none wait.
    pub bytes: &'b [u8],
    /// Whether the connection's end follows them in the same turn. The driver may hold the bytes
    /// back until then, so that both leave together.
    pub is_last: bool,
}

impl Proxy {
    /// Handles the result of an [`Action::Connect`](super::Action::Connect).
    pub fn handle_connected(
        &mut self,
        now: Instant,
        conn: ConnId,
        result: Result<(), ConnectFailure>,
    ) {
        match (self.owner(conn), result) {
            (Owner::Session(id, Side::Upstream), Ok(())) => {
                self.prefer(conn);
                self.count_connected(now, conn);
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_linked(now, conn, false);
                }
                self.serve(now, id);
            }
            (Owner::Session(id, Side::Upstream), Err(failure)) => {
                self.count_unconnected(conn);
                self.redirect(now, id, conn, connect_error(failure));
                self.serve(now, id);
            }
            (Owner::Probe, Ok(())) => {
                match self.probe_mut(conn).and_then(|probe| probe.handle_connected(now)) {
                    Some(result) => self.finish_probe(now, conn, result),
                    None => self.mark_dirty(conn),
                }
            }
            (Owner::Probe, Err(failure)) => self.redirect_probe(now, conn, failure),
            (Owner::Session(_, Side::Client) | Owner::Idle(_) | Owner::Gone, _) => {}
        }
    }

    /// Returns the TLS settings of a connection to a backend, if it uses TLS.
    pub fn tls(&self, conn: ConnId) -> Option<&TargetTls> {
        let backend = match self.table.get(conn).map(|entry| &entry.conn)? {
            Conn::Upstream(upstream) => upstream.backend,
            Conn::Probe(probe) if probe.may_have_tls() => probe.backend,
            Conn::Probe(_) | Conn::Client(_) => return None,
        };
        self.upstreams.target(backend)?.tls.as_ref()
    }

    /// Handles a TLS fault on an open connection to a backend. The driver then reports the
    /// connection as broken by [`handle_failed`](Self::handle_failed) or
    /// [`handle_write_failed`](Self::handle_write_failed).
    pub fn handle_tls_fault(&mut self, conn: ConnId, fault: TlsFault) {
        let backend = match self.table.get(conn).map(|entry| &entry.conn) {
            Some(Conn::Upstream(upstream)) => upstream.backend,
            Some(Conn::Probe(probe)) => probe.backend,
            Some(Conn::Client(_)) | None => return,
        };
        self.note_tls_fault(backend, fault);
    }

    /// Reports a fault of a backend's TLS if it has not been reported since its last good probe.
    pub(super) fn note_tls_fault(&mut self, backend: BackendId, fault: TlsFault) {
        if self.upstreams.is_news_tls(backend, Some(fault)) {
            self.notify(Notice::InsecureBackend { backend, fault });
        }
    }

    /// Returns room for bytes of a connection; empty if they have to wait.
    #[inline(always)]
    pub fn read_space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.owner(conn) {
            Owner::Session(id, side) => match self.table.session_mut(id) {
                Some(session) => session.read_space(side, &mut self.shared),
                None => &mut [],
            },
            Owner::Probe => self.probe_space(conn),
            Owner::Idle(_) => &mut self.sink,
            Owner::Gone => &mut [],
        }
    }

    /// Handles `count` bytes that were put into [`read_space`](Self::read_space); 0 if none had
    /// arrived.
    #[inline(always)]
    pub fn handle_read(&mut self, now: Instant, conn: ConnId, count: usize) {
        // Does not call `owner`: a second search of the same entry costs 15 instructions for each
        // read.
        let id = match self.table.get_mut(conn).map(|entry| &mut entry.conn) {
            Some(Conn::Client(session)) => {
                session.handle_read(now, Side::Client, count, &mut self.shared);
                conn
            }
            Some(&mut Conn::Upstream(Upstream { backend, session: Some(id), .. })) => {
                self.counters.received(backend, count);
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_read(now, Side::Upstream, count, &mut self.shared);
                }
                self.tell_loads(now);
                id
            }
            Some(&mut Conn::Upstream(Upstream { backend, session: None, .. })) => {
                if count > 0 {
                    self.notify(Notice::UnsolicitedBytes { backend });
                    self.discard_idle(backend, conn);
                }
                return;
            }
            Some(Conn::Probe(_)) => {
                return self.read_probe(now, conn, count);
            }
            None => return,
        };
        if count > 0 {
            self.serve(now, id);
        }
    }

    /// Handles the end of a peer's side: no more bytes arrive.
    pub fn handle_eof(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_eof(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => {
                if let Some(result) = self.probe_mut(conn).map(|probe| probe.handle_eof(now)) {
                    self.finish_probe(now, conn, result);
                }
            }
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Handles a reset or other failure of a connection.
    pub fn handle_failed(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_failed(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => self.finish_probe(now, conn, Err(ProbeFailure::Cut)),
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Returns the bytes that wait for a connection.
    pub fn write_ready(&self, conn: ConnId) -> &[u8] {
        self.output(conn).bytes
    }

    /// Returns the bytes that wait for a connection.
    #[inline]
    pub fn output(&self, conn: ConnId) -> Output<'_> {
        match self.table.get(conn).map(|entry| &entry.conn) {
            Some(Conn::Client(session)) => {
                Output { bytes: session.write_ready(Side::Client), is_last: session.is_closing() }
            }
            Some(Conn::Upstream(Upstream { session: Some(id), .. })) => {
                match self.table.get(*id).map(|entry| &entry.conn) {
                    Some(Conn::Client(session)) => {
                        Output { bytes: session.write_ready(Side::Upstream), is_last: false }
                    }
                    _ => Output::default(),
                }
            }
            Some(Conn::Probe(probe)) => Output { bytes: probe.write_ready(), is_last: false },
            Some(Conn::Upstream(_)) | None => Output::default(),
        }
    }

    /// Handles that a connection accepted the first `count` bytes of
    /// [`write_ready`](Self::write_ready).
    pub fn handle_written(&mut self, now: Instant, conn: ConnId, count: usize) {
        let Some(mut entry) = self.table.get_mut(conn) else { return };
        let (mut id, mut side) = (conn, Side::Client);
        match &mut entry.conn {
            Conn::Client(_) => {}
            &mut Conn::Upstream(Upstream { backend, session: Some(own), .. }) => {
                self.counters.sent(backend, count);
                (id, side) = (own, Side::Upstream);
                match self.table.get_mut(own) {
                    Some(own) => entry = own,
                    None => return,
                }
            }
            Conn::Upstream(_) => return,
            Conn::Probe(probe) => return probe.handle_written(count),
        }
        let Conn::Client(session) = &mut entry.conn else { return };
        if session.handle_written(now, side, count, &mut self.shared) {
            self.serve(now, id);
        } else {
            let horizon = self.shared.horizon(now);
            watch(entry, id, horizon, &mut self.timers, &self.shared);
        }
    }

    /// Handles a connection that accepts no more bytes. Bytes that it sent may still be unread.
    pub fn handle_write_failed(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_write_failed(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => self.finish_probe(now, conn, Err(ProbeFailure::Cut)),
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Handles the end of a client's side if the driver detects it while earlier bytes still lack
    /// [`read_space`](Self::read_space). Ignored for other connections. May be repeated.
    pub fn handle_end_seen(&mut self, now: Instant, conn: ConnId) {
        if let Owner::Session(id, Side::Client) = self.owner(conn)
            && let Some(session) = self.table.session_mut(id)
            && session.handle_end_seen(now, &mut self.shared)
        {
            self.serve(now, id);
        }
    }

    /// Handles the number of bytes written to a connection that its peer has not acknowledged;
    /// `None` if the driver does not know.
    pub fn handle_measured(&mut self, now: Instant, conn: ConnId, unacknowledged: Option<u64>) {
        self.handle_reader_measured(now, conn, unacknowledged);
        if let Owner::Session(id, side) = self.owner(conn)
            && let Some(session) = self.table.session_mut(id)
        {
            session.handle_measured(now, side, unacknowledged, &mut self.shared);
            self.serve(now, id);
        }
    }

    /// Records whether bytes of a connection wait to be read. While some do, the deadlines of its
    /// session are delayed, because received bytes are read first.
    pub fn handle_unread(&mut self, conn: ConnId, is_unread: bool) {
        if let Some(entry) = self.table.get_mut(conn) {
            entry.is_unread = is_unread;
        }
    }
}
