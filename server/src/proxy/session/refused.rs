//! Refusals of backends, and failures of backends on trial: another backend may take the request as
//! long as no byte of the response was forwarded.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{BackendId, Instant, Outcome};

use super::Session;
use super::exchange::Asking;
use super::upstream_half::HeadKind;
use crate::buffer::Buffer;
use crate::http::framing::Framing;
use crate::http::refusal::Refusal;
use crate::proxy::Action;
use crate::proxy::notice::Notice;
use crate::proxy::shared::Shared;

impl Session {
    /// Requests another backend before a refusal, or a failure on trial, is forwarded. Does so only
    /// if `forwarding.retryRefused` is on, the request may be sent again, all sent bytes are held,
    /// and attempts are left. Returns whether it did.
    #[cold]
    pub(super) fn asks_elsewhere(
        &mut self,
        head_len: usize,
        kind: HeadKind,
        shared: &Shared,
    ) -> bool {
        let HeadKind::Final { status, framing, kept, .. } = kind else { return false };
        let upstream = &self.upstream;
        let Some(exchange) = &mut self.exchange else { return false };
        let can_ask = exchange.rare().asking == Asking::No
            && shared.config.forwarding.retry_refused
            && exchange.is_idempotent
            && upstream.output.can_rewind()
            && !upstream.is_bound
            && exchange.attempts() + 1 < shared.config.limits.attempts
            && exchange.lease.is_some();
        if !can_ask {
            return false;
        }
        // The connection can be used again if the request and the response are complete.
        let came = upstream.input.as_ref().map_or(0, Buffer::len) - head_len;
        let is_whole = match framing {
            Framing::None => came == 0,
            Framing::Length(length) => came as u64 == length,
            Framing::Chunked | Framing::UntilClose => false,
        };
        let is_sent = upstream.output.is_empty() && self.client.has_whole_request();
        let kept = kept.filter(|_| is_whole && is_sent && !upstream.is_eof);
        exchange.rare().asking = Asking::Asked { status, kept };
        self.needs.refused();
        true
    }

    /// Returns the backends that this request was sent to, with the one that refuses it now.
    pub(crate) fn refused_by(&self) -> Vec<BackendId> {
        let exchange = self.exchange.iter();
        exchange
            .flat_map(|exchange| exchange.tried().iter().copied().chain(exchange.backend()))
            .collect()
    }

    /// Sends the refused request to another backend if there is one and the retry budget allows it.
    /// Otherwise forwards the refusal unchanged.
    pub(crate) fn handle_refused_by(&mut self, now: Instant, has_other: bool, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else { return };
        let Asking::Asked { status, kept } = exchange.rare().asking else { return };
        if !has_other || !shared.retries.spend(now) {
            exchange.rare().asking = Asking::Kept;
            return self.settle(now, shared);
        }
        self.visit_attempt(now);
        let Some(exchange) = &mut self.exchange else { return };
        let outcome = match exchange.rare().refusal {
            Some(Refusal { hold }) => Outcome::Refused { status, hold },
            None => {
                let latency = now.since(exchange.dispatched_at);
                let latency = latency.saturating_sub(exchange.client_wait);
                Outcome::Answered { status, latency }
            }
        };
        let rare = exchange.rare();
        rare.asking = Asking::No;
        rare.refusal = None;
        exchange.has_seen_answer = false;
        let Some(lease) = exchange.lease.take() else { return };
        let backend = lease.backend();
        exchange.rare().tried.push(backend);
        let peer = self.client.hop.client();
        shared.actions.push_back(Action::Notify(Notice::Refused { peer, backend, status }));
        if let Some(visit) = &mut self.client.visit {
            visit.refuse();
        }
        self.needs.finish(lease, outcome);
        if let Some(conn) = self.upstream.conn() {
            self.needs.release(conn, kept);
        }
        self.upstream.unlink(shared);
        self.upstream.output.rewind();
        self.needs.dispatch();
    }
}
