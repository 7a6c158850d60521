//! Fulfils the needs of sessions, and sets the time of each session's next check.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::{Event, Instant};

use super::conn::{Conn, Entry};
use super::id::ConnId;
use super::session::{Ended, LeaseNews, Need, Side};
use super::shared::Shared;
use super::timers::Timers;
use super::{Action, Owner, Proxy};
use crate::http::UpstreamError;

/// Delay of a deadline while bytes wait to be read. They are read within a few turns, so the
/// deadline is checked soon after.
const PUT_OFF: Duration = Duration::from_millis(1);

impl Proxy {
    /// Serves a session after an event: fulfils its needs, marks connections with output, and
    /// ensures that it is checked in time.
    pub(super) fn serve(&mut self, now: Instant, id: ConnId) {
        self.serve_until(now, id, self.shared.horizon(now));
    }

    /// Does the work of [`serve`](Self::serve). The next check is at `horizon` or before.
    fn serve_until(&mut self, now: Instant, id: ConnId, horizon: Instant) {
        loop {
            let Some(entry) = self.table.get_mut(id) else {
                return;
            };
            let Conn::Client(session) = &mut entry.conn else {
                return;
            };
            match session.poll_need() {
                None => {}
                Some(Need::Finish) => {
                    if let Some(ended) = session.take_ended() {
                        self.finish(now, ended);
                    }
                    continue;
                }
                Some(Need::Dispatch) => {
                    self.dispatch(now, id);
                    continue;
                }
                Some(rare) => {
                    self.fulfil(now, id, rare);
                    continue;
                }
            }
            if session.minds_party() {
                if let Some(at) = session.mind_party(now) {
                    self.timers.arm(&mut entry.armed, id, at);
                }
                if session.has_needs() {
                    continue;
                }
            }
            let is_wanted = session.has_output(Side::Client) || session.resumes(Side::Client);
            if is_wanted && !entry.is_dirty {
                entry.is_dirty = true;
                self.dirty.push_back(id);
            }
            let has_output = session.has_output(Side::Upstream);
            let upstream = session.upstream_conn();
            let upstream = upstream.filter(|_| has_output || session.resumes(Side::Upstream));
            watch(entry, id, horizon, &mut self.timers, &self.shared);
            if let Some(conn) = upstream {
                self.mark_dirty(conn);
            }
            return;
        }
    }

    /// Ensures that a session is checked at its deadline.
    pub(super) fn arm_session(&mut self, id: ConnId) {
        let deadline = self.table.session_mut(id).map(|session| session.poll_timeout(&self.shared));
        if let Some(at) = deadline.flatten() {
            self.arm(id, at);
        }
    }

    /// Ends an attempt.
    fn finish(&mut self, now: Instant, ended: Ended) {
        let Ended { lease, outcome, release } = ended;
        // Load figures are passed before the end, because they count their own request as in
        // flight.
        self.tell_loads(now);
        self.counters.finished(now, &lease, &outcome);
        self.upstreams.finish(now, lease, outcome);
        self.drain_router(now);
        if let Some((conn, kept)) = release {
            self.release(now, conn, kept);
        }
        if !self.queue.is_empty() {
            self.serve_queue(now);
        }
    }

    /// Fulfils a need that few exchanges have. It is separate from
    /// [`serve_until`](Self::serve_until), where the compiler would prepare its values for every
    /// exchange.
    #[cold]
    fn fulfil(&mut self, now: Instant, id: ConnId, need: Need) {
        match need {
            Need::Finish | Need::Dispatch => {
                debug_assert!(false, "most exchanges have this need");
            }
            Need::Release { conn, kept } => self.release(now, conn, kept),
            Need::Redial { backend } if !self.reroutes(id) => {
                self.dial(now, id, backend, self.upstreams.first_attempt(backend));
            }
            Need::Redial { .. } => {}
            Need::Tell { lease, backend, news } => {
                let event = match news {
                    LeaseNews::Paused => Event::LeasePaused { lease, backend },
                    LeaseNews::Resumed => Event::LeaseResumed { lease, backend },
                    LeaseNews::Left { status, latency } => {
                        Event::StreamOpened { lease, backend, status, latency }
                    }
                };
                self.upstreams.tell(now, event);
                self.drain_router(now);
            }
            Need::AskElsewhere => self.ask_elsewhere(now, id),
            Need::GiveUpConnect { conn } => {
                self.redirect(now, id, conn, UpstreamError::ConnectTimeout);
            }
            Need::Stats => self.ask_stats(now, id),
            Need::ShutdownUpstream { conn } => {
                self.shared.actions.push_back(Action::Shutdown { conn });
            }
            Need::Measure { side } => {
                let upstream = self.table.session_mut(id).and_then(|own| own.upstream_conn());
                let conn = if side == Side::Client { Some(id) } else { upstream };
                self.shared.actions.extend(conn.map(|conn| Action::Measure { conn }));
            }
            Need::ShutdownClient => self.shared.actions.push_back(Action::Shutdown { conn: id }),
            Need::Close { with_reset } => {
                let was_refused = self.table.session_mut(id).is_some_and(|own| {
                    own.leave_visit(now, &mut self.shared);
                    own.is_refused()
                });
                self.close(id, with_reset);
                self.clients -= 1;
                self.refused -= usize::from(was_refused);
            }
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, with_reset: bool) {
        if let Some(conn_kind) = self.table.remove(conn) {
            if let Conn::Client(mut session) = conn_kind {
                session.give_back(&mut self.shared);
                if let Some(bound) = session.take_bound() {
                    self.close(bound.conn, false);
                }
            }
            self.shared.actions.push_back(Action::Close { conn, with_reset });
        }
    }

    pub(super) fn handle_conn_timeout(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, Side::Client) if self.has_unread(id) => self.put_off(now, id),
            Owner::Session(id, Side::Client) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_timeout(now, &mut self.shared);
                }
                let mut horizon = Instant::FAR_FUTURE;
                if let Some(entry) = self.table.get_mut(id) {
                    entry.is_put_off = false;
                    if let Conn::Client(session) = &mut entry.conn {
                        horizon = session.rest(now, &mut self.shared).unwrap_or(horizon);
                    }
                }
                // A session without events is not checked before its deadline.
                self.serve_until(now, id, horizon);
            }
            // The session handles the deadlines of its upstream.
            Owner::Session(_, Side::Upstream) | Owner::Gone => {}
            Owner::Idle(backend) => {
                let idle = self.shared.config.pool.idle;
                let Some(upstream) = self.table.upstream_mut(conn) else {
                    return;
                };
                let ends = upstream.idle_until(idle);
                if ends <= now {
                    self.discard_idle(backend, conn);
                } else {
                    self.arm(conn, ends);
                }
            }
            Owner::Probe => self.time_out_probe(now, conn),
        }
    }

    /// Whether bytes of a session's client or upstream wait to be read.
    fn has_unread(&self, id: ConnId) -> bool {
        let is_unread = |conn| self.table.get(conn).is_some_and(|entry| entry.is_unread);
        let upstream = match self.table.get(id).map(|entry| &entry.conn) {
            Some(Conn::Client(session)) => session.upstream_conn(),
            _ => None,
        };
        is_unread(id) || upstream.is_some_and(is_unread)
    }

    /// Checks a session's deadlines again after [`PUT_OFF`].
    #[cold]
    fn put_off(&mut self, now: Instant, id: ConnId) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.is_put_off = true;
            self.timers.arm(&mut entry.armed, id, now + PUT_OFF);
        }
    }
}

/// Ensures that a session is checked at its deadline, or at `horizon` if that is earlier. Does
/// nothing if it is checked before `horizon` anyway.
#[inline]
pub(super) fn watch(
    entry: &mut Entry,
    id: ConnId,
    horizon: Instant,
    timers: &mut Timers,
    shared: &Shared,
) {
    let Conn::Client(session) = &entry.conn else {
        return;
    };
    if (entry.armed > horizon || entry.armed == Instant::FAR_FUTURE)
        && let Some(at) = session.poll_timeout(shared)
    {
        timers.arm(&mut entry.armed, id, at.min(horizon));
    }
    debug_assert!(
        entry.is_put_off || session.poll_timeout(shared).is_none_or(|at| entry.armed <= at),
        "I9: a session is checked no later than at its deadline"
    );
}
