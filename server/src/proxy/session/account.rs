//! The party whose time an exchange takes, as the router must know it so that no backend looks slow
//! because of its client. An exchange that never waits for its client costs nothing of this.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Session;

/// The router's knowledge of the current attempt, beside its lease.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Whether the party that is awaited may be another one than the router knows of.
    is_watched: bool,
    /// Whether the router takes the client for the party that is awaited.
    is_paused: bool,
    /// Since when the other party than that has been awaited.
    other_since: Option<Instant>,
    /// Whether the exchange has left the backend's account: a tunnel, or a silent stream.
    pub(super) has_left: bool,
}

/// Something that the router has to know of a lease that stays out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LeaseNews {
    /// It waits for its client.
    Paused,
    /// It waits for its backend.
    Resumed,
    /// It is no work for its backend any more; its response began so and after that long.
    Left { status: u16, latency: Duration },
}

/// One of the two peers of an exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Party {
    Client,
    Backend,
}

/// Time for which the other party must be awaited before the router is notified: parties take turns
/// with every piece of a long body.
const AWAITED_AFTER: Duration = Duration::from_millis(10);

impl Session {
    /// A piece of a long body was written, or only a part of it: from now on the client may be the
    /// party that is awaited.
    #[cold]
    pub(super) fn watch_party(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.account.is_watched = !exchange.account.has_left;
        }
    }

    /// Whether [`mind_party`](Self::mind_party) has anything to do.
    #[inline]
    pub(crate) fn minds_party(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.account.is_watched)
    }

    /// Tells the router when another party is awaited than it knows of. Returns when to look again.
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
        // With the last byte of its body the client's turn is over.
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

    /// The response is a tunnel, or has been silent for long: it leaves its backend's account.
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

    /// Whether a response that has begun could leave its backend's account by being silent.
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
