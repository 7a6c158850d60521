//! Needs of a session. `proxy/serving.rs` fetches and fulfils them.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::{BackendId, Lease, LeaseId, Outcome};

use super::Side;
use super::account::LeaseNews;
use crate::proxy::id::ConnId;

/// A need of a session, which the proxy fulfils.
#[derive(Debug)]
pub(crate) enum Need {
    /// End an attempt: [`take_ended`](super::Session::take_ended) returns its parts. A lease in
    /// this type would be one more copy for each request.
    Finish,
    /// Release the upstream connection. It may be kept idle for `kept` at most; it is closed if
    /// that is `None`.
    Release { conn: ConnId, kept: Option<Duration> },
    /// Choose a backend for the waiting request, and a connection to it.
    Dispatch,
    /// Tell the router about an open lease.
    Tell { lease: LeaseId, backend: BackendId, news: LeaseNews },
    /// Find out whether another backend can take the refused request.
    AskElsewhere,
    /// Make a new connection to the same backend.
    Redial { backend: BackendId },
    /// Get a page of the proxy.
    Stats,
    /// Give up a connection attempt that takes too long: try another address, or call
    /// [`handle_unlinked`](super::Session::handle_unlinked).
    GiveUpConnect { conn: ConnId },
    /// Send the end of the stream to the upstream.
    ShutdownUpstream { conn: ConnId },
    /// Send the end of the stream to the client.
    ShutdownClient,
    /// Measure the bytes sent to a side that are not acknowledged;
    /// [`handle_measured`](super::Session::handle_measured) takes the result.
    Measure { side: Side },
    /// Close the client's connection, which ends the session.
    Close { with_reset: bool },
}

/// The end of an attempt: its lease is returned, and usually its connection is released, as by
/// [`Need::Release`].
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
    pub(crate) release: Option<(ConnId, Option<Duration>)>,
}

/// The needs in the order in which they are fetched, as bits of a set.
mod ask {
    /// First, because the router must get the news of a lease before its end.
    pub(super) const NEWS: u16 = 1;
    pub(super) const FINISH: u16 = 1 << 1;
    pub(super) const RELEASE: u16 = 1 << 2;
    pub(super) const DISPATCH: u16 = 1 << 3;
    pub(super) const REDIAL: u16 = 1 << 4;
    pub(super) const GIVE_UP: u16 = 1 << 5;
    pub(super) const STATS: u16 = 1 << 6;
    pub(super) const SHUTDOWN_UPSTREAM: u16 = 1 << 7;
    pub(super) const SHUTDOWN_CLIENT: u16 = 1 << 8;
    pub(super) const MEASURE_CLIENT: u16 = 1 << 9;
    pub(super) const MEASURE_UPSTREAM: u16 = 1 << 10;
    pub(super) const ELSEWHERE: u16 = 1 << 11;
    pub(super) const CLOSE: u16 = 1 << 12;
}

/// The needs that were not fetched yet. A need to close stays set after it was fetched.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The set of present needs. It is usually empty, and then no other field is read.
    asked: u16,
    finish: Option<(Lease, Outcome)>,
    release: Option<(ConnId, Option<Duration>)>,
    redial: Option<BackendId>,
    give_up: Option<ConnId>,
    /// Rarely present, so it is boxed.
    news: Option<Box<(LeaseId, BackendId, LeaseNews)>>,
    shutdown_upstream: Option<ConnId>,
    close_with_reset: bool,
}

impl Needs {
    pub(super) fn finish(&mut self, lease: Lease, outcome: Outcome) {
        debug_assert!(self.finish.is_none(), "one lease at a time");
        self.finish = Some((lease, outcome));
        self.asked |= ask::FINISH;
    }

    pub(super) const fn release(&mut self, conn: ConnId, kept: Option<Duration>) {
        self.release = Some((conn, kept));
        self.asked |= ask::RELEASE;
    }

    pub(super) const fn dispatch(&mut self) {
        self.asked |= ask::DISPATCH;
    }

    pub(super) const fn redial(&mut self, backend: Option<BackendId>) {
        self.redial = backend;
        self.asked |= ask::REDIAL;
    }

    pub(super) const fn give_up(&mut self, conn: Option<ConnId>) {
        self.give_up = conn;
        self.asked |= ask::GIVE_UP;
    }

    pub(super) const fn refused(&mut self) {
        self.asked |= ask::ELSEWHERE;
    }

    pub(super) fn tell(&mut self, lease: LeaseId, backend: BackendId, news: LeaseNews) {
        self.news = Some(Box::new((lease, backend, news)));
        self.asked |= ask::NEWS;
    }

    pub(super) const fn stats(&mut self) {
        self.asked |= ask::STATS;
    }

    pub(super) const fn shutdown_upstream(&mut self, conn: Option<ConnId>) {
        self.shutdown_upstream = conn;
        self.asked |= ask::SHUTDOWN_UPSTREAM;
    }

    pub(super) const fn shutdown_client(&mut self) {
        self.asked |= ask::SHUTDOWN_CLIENT;
    }

    pub(super) const fn measure(&mut self, side: Side) {
        self.asked |= match side {
            Side::Client => ask::MEASURE_CLIENT,
            Side::Upstream => ask::MEASURE_UPSTREAM,
        };
    }

    pub(super) const fn close(&mut self, with_reset: bool) {
        self.close_with_reset = with_reset;
        self.asked |= ask::CLOSE;
    }

    /// Drops the needs by which an abandoned exchange would continue. Returns the connection whose
    /// attempt was to be abandoned.
    pub(super) const fn cancel(&mut self) -> Option<ConnId> {
        self.asked &= !(ask::DISPATCH | ask::REDIAL | ask::STATS | ask::GIVE_UP | ask::ELSEWHERE);
        self.redial = None;
        self.give_up.take()
    }

    /// Whether there is a need other than to close.
    pub(super) const fn has_any(&self) -> bool {
        self.asked & !ask::CLOSE != 0
    }

    pub(super) const fn has_finish(&self) -> bool {
        self.finish.is_some()
    }

    #[inline]
    pub(super) const fn has_close(&self) -> bool {
        self.asked & ask::CLOSE != 0
    }

    /// Returns the attempt that ended, after [`Need::Finish`] was fetched.
    #[inline]
    pub(super) fn take_ended(&mut self) -> Option<Ended> {
        debug_assert!(self.finish.is_some(), "what is asked for is there");
        let (lease, outcome) = self.finish.take()?;
        Some(Ended { lease, outcome, release: self.release.take() })
    }

    /// Returns the next need.
    #[inline]
    pub(super) fn poll(&mut self) -> Option<Need> {
        while self.asked != 0 {
            let first = self.asked & self.asked.wrapping_neg();
            self.asked &= !first | ask::CLOSE;
            let need = match first {
                ask::FINISH => {
                    self.asked &= !ask::RELEASE;
                    Some(Need::Finish)
                }
                ask::DISPATCH => Some(Need::Dispatch),
                rare => self.poll_rare(rare),
            };
            if need.is_some() {
                return need;
            }
        }
        None
    }

    /// Returns a need that few exchanges have. If this were a part of [`poll`](Self::poll),
    /// `.ci/instructions` would count 2.6 % more instructions in its case `small` and 1.5 % more in
    /// `browser`.
    #[cold]
    fn poll_rare(&mut self, first: u16) -> Option<Need> {
        match first {
            ask::RELEASE => {
                let release = self.release.take();
                release.map(|(conn, kept)| Need::Release { conn, kept })
            }
            ask::REDIAL => self.redial.take().map(|backend| Need::Redial { backend }),
            ask::GIVE_UP => self.give_up.take().map(|conn| Need::GiveUpConnect { conn }),
            ask::STATS => Some(Need::Stats),
            ask::SHUTDOWN_UPSTREAM => {
                self.shutdown_upstream.take().map(|conn| Need::ShutdownUpstream { conn })
            }
            ask::SHUTDOWN_CLIENT => Some(Need::ShutdownClient),
            ask::MEASURE_CLIENT => Some(Need::Measure { side: Side::Client }),
            ask::MEASURE_UPSTREAM => Some(Need::Measure { side: Side::Upstream }),
            ask::ELSEWHERE => Some(Need::AskElsewhere),
            ask::NEWS => {
                let news = self.news.take();
                news.map(|news| {
                    let (lease, backend, news) = *news;
                    Need::Tell { lease, backend, news }
                })
            }
            _ => Some(Need::Close { with_reset: self.close_with_reset }),
        }
    }
}
