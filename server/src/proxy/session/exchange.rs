//! One request and its response, over all backends that are tried.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::ops::Range;
use std::time::Duration;

use super::account::Account;
use intelliproxy_core::{BackendId, Instant, Lease, Outcome};

use crate::http::UpstreamError;
use crate::http::head::Version;
use crate::http::refusal::Refusal;
use crate::proxy::affinity::Sticky;

/// State of the current exchange. Every request uses these fields, so they are few and close
/// together; [`Rare`] has the others.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The lease for [`backend`](Self::backend); `None` between two attempts.
    pub(crate) lease: Option<Lease>,
    /// Start of the current attempt.
    pub(crate) dispatched_at: Instant,
    /// Final status and time to its head, once it has arrived.
    pub(crate) answer: Option<(u16, Duration)>,
    /// Range of the backend's Host value in the forwarded head; `None` if the client's Host is
    /// kept.
    pub(crate) host: Option<Range<u32>>,
    /// Group of the request's path.
    pub(crate) target: u8,
    pub(crate) version: Version,
    pub(crate) is_head_request: bool,
    /// Whether the request is idempotent (RFC 9110 section 9.2.2).
    pub(crate) is_idempotent: bool,
    /// Whether the client's connection is to stay open.
    pub(crate) is_persistent: bool,
    /// Whether the connection to the backend is bound to the client after this exchange (B1).
    pub(crate) binds: bool,
    /// Whether the client holds its body back until the backend sends a 100 (Continue).
    pub(crate) awaits_continue: bool,
    /// Whether the client reads trailer fields.
    pub(crate) takes_trailers: bool,
    /// Whether any byte has arrived for this attempt.
    pub(crate) has_seen_answer: bool,
    /// Whether any byte of the final response was forwarded.
    pub(crate) has_begun_answer: bool,
    /// Whether an idle connection was found closed. After that the request uses new
    /// connections only.
    pub(crate) has_redialled: bool,
    /// Whether a slow client may have caused the timeout of the backend.
    pub(crate) was_client_late: bool,
    /// Time for which the client's body was awaited in the current attempt.
    pub(crate) client_wait: Duration,
    /// The party whose time counts in the current attempt, as the router knows it.
    pub(crate) account: Account,
    /// The key that keeps the request at one backend, if it has one.
    pub(crate) sticky: Option<Box<Sticky>>,
    /// Fields that few requests need.
    pub(crate) rare: Option<Box<Rare>>,
}

/// Each request uses all cache lines of its exchange, and with many clients none of them is cached.
const EXCHANGE_BYTES_MAX: usize = 160;
const _: () = assert!(size_of::<Exchange>() < EXCHANGE_BYTES_MAX, "an exchange has few fields");

/// State of an exchange that few requests need: after a failure or a refusal, while waiting for a
/// backend, with an upgrade, or with interim responses. It is allocated only then.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Backends that already failed or refused the request.
    pub(crate) tried: Vec<BackendId>,
    /// The number of these backends that refused the connection, and so did not receive the
    /// request, while another backend was up.
    pub(crate) unreached: u32,
    /// Whether the backend of the current attempt is one of these.
    pub(crate) is_unreached: bool,
    /// Protocols of the client's Upgrade, if that was forwarded.
    pub(crate) upgrade: Option<Box<[u8]>>,
    /// Ticket of the request while it waits for a backend with room.
    pub(crate) ticket: Option<u64>,
    /// The time until which it may wait, from its first wait.
    pub(crate) waits_until: Option<Instant>,
    /// Error of the last attempt.
    pub(crate) last_error: Option<UpstreamError>,
    /// A failed attempt that is reported once it is known whether another backend is tried.
    pub(crate) unreported: Option<(BackendId, UpstreamError)>,
    /// Bytes of the interim responses so far.
    pub(crate) interim_bytes: u32,
    /// The refusal, if the response is one.
    pub(crate) refusal: Option<Refusal>,
    /// State of a refusal that was not forwarded yet.
    pub(crate) asking: Asking,
}

/// State of a refusal that was not forwarded yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Asking {
    /// No refusal waits.
    #[default]
    No,
    /// It is not known yet whether another backend can take the request. The connection of the
    /// refusal may be kept for `kept`.
    Asked { status: u16, kept: Option<Duration> },
    /// No other backend can: the refusal is the response.
    Kept,
}

impl Exchange {
    /// Returns the outcome for the backend, if the response is complete.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let (status, latency) = self.answer?;
        Some(match self.rare.as_ref().and_then(|rare| rare.refusal) {
            Some(Refusal { hold }) => Outcome::Refused { status, hold },
            None => Outcome::Answered { status, latency },
        })
    }

    /// Returns the number of attempts before the current one, as `limits.attempts` counts them.
    pub(crate) fn attempts(&self) -> usize {
        self.rare
            .as_ref()
            .map_or(0, |rare| rare.tried.len().saturating_sub(rare.unreached as usize))
    }

    /// Returns the backends that already failed or refused the request.
    pub(crate) fn tried(&self) -> &[BackendId] {
        self.rare.as_ref().map_or(&[], |rare| &rare.tried)
    }

    /// Returns the fields that few requests need.
    #[cold]
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Returns the backend of the current attempt.
    pub(crate) fn backend(&self) -> Option<BackendId> {
        self.lease.as_ref().map(Lease::backend)
    }
}
