//! Reports to the router which party an exchange waits for, so that a slow client does not make a
//! backend look slow. An exchange that never waits for its client costs nothing.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Session;

/// The state of the current attempt as the router knows it, in addition to its lease.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Whether the awaited party may differ from the one that the router knows.
    is_watched: bool,
    /// Whether the router regards the client as the awaited party.
    is_paused: bool,
    /// The time since which the other party has been awaited.
    other_since: Option<Instant>,
    /// Whether the exchange no longer counts for its backend: a tunnel, or a silent stream.
    pub(super) has_left: bool,
}

/// A change of an open lease that the router must know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LeaseNews {
    /// The exchange waits for its client.
    Paused,
    /// The exchange waits for its backend.
    Resumed,
    /// The exchange is no longer work for its backend. The head of the response had this status and
    /// arrived after `latency`.
    Left { status: u16, latency: Duration },
}

/// One of the two peers of an exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Party {
    Client,
    Backend,
}

/// Time for which the other party must be awaited before the router is notified. The awaited party
/// changes with every piece of a long body, so shorter waits mean nothing.
const AWAITED_AFTER: Duration = Duration::from_millis(10);

impl Session {
    /// Records that a long body was written in part, so that the proxy may now be waiting for the
    /// client.
    #[cold]
    pub(super) fn watch_party(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.account.is_watched = !exchange.account.has_left;
        }
    }

    /// Whether [`mind_party`](Self::mind_party) has work to do.
    #[inline]
    pub(crate) fn minds_party(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.account.is_watched)
    }

    /// Reports a change of the awaited party to the router. Returns the time of the next check.
    #[cold]
    pub(crate) fn mind_party(&mut self, now: Instant) -> Option<Instant> {
        let is_client = self.awaited() == Party::Client;
        let is_request_whole = self.client.has_whole_request();
        let exchange = self.exchange.as_mut()?;
        let account = &mut exchange.account;
        if exchange.lease.is_none() || account.has_left {
            account.is_watched = false;
            return None;
        }
        if is_client == account.is_paused {
            account.other_since = None;
            account.is_watched = account.is_paused;
            return None;
        }
        let since = *account.other_since.get_or_insert(now);
        // The last byte of the request's body ends the wait for the client at once.
        let is_over = account.is_paused && is_request_whole && exchange.answer.is_none();
        if !is_over && now.since(since) < AWAITED_AFTER {
            return Some(since + AWAITED_AFTER);
        }
        account.other_since = None;
        account.is_paused = is_client;
        account.is_watched = is_client;
        let news = if is_client { LeaseNews::Paused } else { LeaseNews::Resumed };
        self.tell_router(news);
        None
    }

    /// Stops counting the exchange for its backend: it is a tunnel, or its response was silent for
    /// too long.
    #[cold]
    pub(super) fn leave_account(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        if let Some((status, latency)) = exchange.answer
            && !exchange.account.has_left
        {
            exchange.account.has_left = true;
            self.tell_router(LeaseNews::Left { status, latency });
        }
    }

    /// Whether a response that has begun may stop counting for its backend because it is silent.
    pub(super) fn may_leave(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| {
            exchange.answer.is_some() && exchange.lease.is_some() && !exchange.account.has_left
        })
    }

    fn tell_router(&mut self, news: LeaseNews) {
        if let Some(lease) = self.exchange.as_ref().and_then(|exchange| exchange.lease.as_ref()) {
            self.needs.tell(lease.id(), lease.backend(), news);
        }
    }
}
