//! Reactions of a session when a peer breaks a rule, fails or leaves.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::net::SocketAddr;

use intelliproxy_core::{BackendId, Instant, Outcome, RequestFailure};

use super::Session;
use super::client_half::{End, Receive};
use super::remedy::{Failure, Remedy, remedy};
use super::upstream_half::connection_option;
use crate::access::Ending;
use crate::buffer::Buffer;
use crate::http::answer;
use crate::http::{ClientError, UpstreamError};
use crate::proxy::Action;
use crate::proxy::notice::{Notice, RemedyTaken};
use crate::proxy::shared::Shared;

impl Session {
    /// Handles a client that broke a rule: sends an error response if possible, and closes.
    #[cold]
    pub(super) fn fail_client(&mut self, now: Instant, error: ClientError, shared: &mut Shared) {
        let client = &mut self.client;
        let excerpt = client.input.as_ref().map_or(&[][..], Buffer::bytes);
        let is_head = client.is_at_head();
        if is_head && self.exchange.is_none() {
            // The head is incomplete or invalid, so it does not name a client. The client of the
            // last request may be another one.
            client.hop.forwards_for = None;
        }
        let notice = Notice::client_error(client.hop.client(), error, excerpt, is_head);
        shared.actions.push_back(Action::Notify(notice));
        let has_begun_answer = self.exchange.as_ref().is_some_and(|e| e.has_begun_answer);
        let with_reset = self.upstream.ends_with_connection();
        let is_head_request = match &self.exchange {
            Some(exchange) => exchange.is_head_request,
            // The head itself broke the rule. Its method may have arrived completely.
            None => client.is_at_head() && is_head_method(excerpt),
        };
        self.visit_attempt(now);
        self.visit_client_error(now, error, shared);
        self.abandon(shared);
        if has_begun_answer {
            self.client.close(with_reset);
            return;
        }
        self.refuse(now, error.status(), is_head_request, shared);
    }

    /// Sends an error as the last response on the client's connection.
    fn refuse(&mut self, now: Instant, status: u16, is_head_request: bool, shared: &mut Shared) {
        let bytes = answer::encode_error(status, &shared.date, is_head_request, Some("close"));
        self.answer(now, status, bytes, shared);
        self.client.close(false);
    }

    /// Ends an exchange whose backend gave up waiting for the client. The backend is not blamed.
    /// The client gets 408, or its response is cut if it has begun.
    fn refuse_late_client(&mut self, now: Instant, with_reset: bool, shared: &mut Shared) {
        let Some(exchange) = &self.exchange else { return };
        let is_head_request = exchange.is_head_request;
        let has_begun_answer = exchange.has_begun_answer;
        self.visit_attempt(now);
        self.end_visit(Ending::ClientTimeout);
        self.abandon(shared);
        if has_begun_answer {
            self.client.close(with_reset);
        } else {
            self.refuse(now, ClientError::BodyTimeout.status(), is_head_request, shared);
        }
    }

    /// Handles a failed upstream with the remedy that `remedy.rs` chooses.
    #[cold]
    pub(super) fn fail_upstream(
        &mut self,
        now: Instant,
        error: UpstreamError,
        shared: &mut Shared,
    ) {
        self.visit_attempt(now);
        let Some(exchange) = &self.exchange else {
            return;
        };
        let attempts_max = shared.config.limits.attempts;
        let is_client_late = exchange.was_client_late || self.is_client_late(now);
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        // A backend that refuses the connection got nothing and now counts as down. While another
        // one is up or untried, this does not count as an attempt, because several may disappear at
        // the same moment, and one that was down may have returned.
        let is_unreached = std::mem::take(&mut exchange.rare().is_unreached) && attempts_max > 1;
        let attempts = match error {
            UpstreamError::Refused if is_unreached => exchange.attempts(),
            UpstreamError::Refused => exchange.tried().len() + 1,
            _ => exchange.attempts() + 1,
        };
        let upstream = &mut self.upstream;
        let failure = Failure {
            error,
            has_begun_answer: exchange.has_begun_answer,
            has_seen_answer: exchange.has_seen_answer,
            has_sent: upstream.output.has_sent(),
            can_replay: upstream.output.can_rewind(),
            is_idempotent: exchange.is_idempotent,
            is_client_late,
            is_reused: upstream.is_reused(),
            is_first: !self.client.has_been_served,
            is_bound: upstream.is_bound,
            attempts_left: attempts_max.saturating_sub(attempts),
        };
        let backend = exchange.backend();
        let mut remedy = remedy(&failure);
        if backend.is_none() {
            // Without a lease no attempt was made that could be repeated.
            remedy = Remedy::Answer;
        }
        let mut taken = RemedyTaken::from(remedy);
        // Retries are a bounded share of all requests, so that they do not add to an overload.
        if remedy == Remedy::Retry && !shared.retries.spend(now) {
            (remedy, taken) = (Remedy::Answer, RemedyTaken::Unretried);
        }
        let earlier = exchange.rare().unreported.take().map(|(backend, _)| backend);
        match backend.or(earlier) {
            // Reported later, when it is known whether another backend takes the request.
            Some(backend) if remedy == Remedy::Retry => {
                exchange.rare().unreported = Some((backend, error));
            }
            told => shared.actions.push_back(Action::Notify(Notice::UpstreamError {
                peer: self.client.hop.client(),
                backend: told,
                error,
                remedy: taken,
            })),
        }
        if let Some(visit) = &mut self.client.visit {
            visit.fail(error, remedy == Remedy::Redial);
        }
        if let Some(conn) = upstream.conn() {
            self.needs.release(conn, None);
        }
        let with_reset = upstream.ends_with_connection();
        upstream.unlink(shared);
        if remedy == Remedy::Redial {
            // The lease stays: closing an idle connection is not a failure of the backend.
            exchange.has_redialled = true;
            exchange.has_seen_answer = false;
            upstream.output.rewind();
            self.needs.redial(backend);
            return;
        }
        if remedy == Remedy::Close {
            self.end_visit(Ending::Closed);
            self.abandon(shared);
            self.client.close(false);
            return;
        }
        if remedy == Remedy::Excuse {
            return self.refuse_late_client(now, with_reset, shared);
        }
        exchange.rare().last_error = Some(error);
        if let Some(lease) = exchange.lease.take() {
            let rare = exchange.rare();
            rare.tried.push(lease.backend());
            rare.unreached += u32::from(is_unreached);
            self.needs.finish(lease, outcome(error));
        }
        match remedy {
            Remedy::Redial | Remedy::Close | Remedy::Excuse => {}
            Remedy::Retry => {
                exchange.has_seen_answer = false;
                upstream.output.rewind();
                self.needs.dispatch();
            }
            Remedy::Answer => {
                if let Some(visit) = &mut self.client.visit {
                    visit.end_by_backend(error);
                }
                // While a part of the body is missing, the start of the next request is unknown.
                let is_persistent = exchange.is_persistent
                    && !failure.is_bound
                    && self.client.has_ended_request()
                    && !shared.is_leaving;
                exchange.is_persistent = is_persistent;
                let connection = connection_option(exchange.version, is_persistent);
                let is_head_request = exchange.is_head_request;
                let bytes = match error {
                    UpstreamError::QueueFull | UpstreamError::QueueTimeout => {
                        answer::encode_busy(503, &shared.date, is_head_request, connection)
                    }
                    _ => {
                        let status = error.status();
                        answer::encode_error(status, &shared.date, is_head_request, connection)
                    }
                };
                self.answer(now, error.status(), bytes, shared);
            }
            Remedy::Truncate => {
                self.exchange = None;
                if let Some(visit) = &mut self.client.visit {
                    visit.end_by_backend(error);
                }
                upstream.output.clear(&mut shared.buffers);
                // A body that ends with the connection would look complete at a clean end.
                self.client.close(with_reset);
            }
        }
    }

    /// Ends the current exchange, or an invalid request, with a response of the proxy itself.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        status: u16,
        mut bytes: Vec<u8>,
        shared: &mut Shared,
    ) {
        if shared.access.adds_fields() || self.client.hop.hsts().is_some() {
            self.add_fields(&mut bytes, shared);
        }
        let is_persistent = self.exchange.take().is_some_and(|exchange| exchange.is_persistent);
        self.upstream.output.clear(&mut shared.buffers);
        shared.add_own_response(status);
        if let Some(visit) = &mut self.client.visit {
            visit.answer_itself(now, status, head_len(&bytes));
        }
        let buffer = shared.buffers.adopt(Buffer::holding(bytes));
        if let Err(buffer) = self.client.output.push(buffer, &mut shared.buffers) {
            // The output is full of interim responses that the client has not read. It gets no
            // final response.
            shared.buffers.give(buffer);
            self.client.close(true);
        }
        self.client.last_write = now;
        self.end_request(now, is_persistent, shared);
    }

    /// Reports an expired timeout to observers. The client gets no error for it.
    #[cold]
    pub(super) fn tell_expiry(&self, what: &'static str, shared: &mut Shared) {
        let notice = Notice::Expired { peer: self.client.hop.client(), what };
        shared.actions.push_back(Action::Notify(notice));
    }

    /// Abandons the current exchange without blaming its backend.
    #[cold]
    pub(super) fn abandon(&mut self, shared: &mut Shared) {
        if let Some(lease) = self.exchange.as_mut().and_then(|exchange| exchange.lease.take()) {
            self.needs.finish(lease, Outcome::Abandoned);
        }
        let connecting = self.needs.cancel();
        if let Some(conn) = self.upstream.conn().or(connecting) {
            self.needs.release(conn, None);
        }
        self.exchange = None;
        self.upstream.unlink(shared);
        self.upstream.output.clear(&mut shared.buffers);
    }

    /// J8: abandons the exchange and closes the connection if the client has ended its side some
    /// time after its last bytes. Such a client does not wait for the response.
    /// `forwarding.halfClose` turns this off. J2 handles an incomplete request body, J6 the end of
    /// a tunnel.
    #[cold]
    pub(super) fn leave_if_gone(&mut self, now: Instant, shared: &mut Shared) {
        let client = &self.client;
        let has_more = client.input.as_ref().is_some_and(|input| !input.is_empty());
        let has_asked = match client.receive() {
            Receive::Ended => true,
            Receive::Body { .. } => has_more || !client.lacks_body(),
            Receive::Head | Receive::Tunnel | Receive::Discarding { .. } => false,
        };
        let is_gone = client.end == End::Gone && !shared.config.forwarding.half_close;
        if !is_gone || !has_asked || self.exchange.is_none() {
            return;
        }
        let with_reset = self.upstream.ends_with_connection();
        self.visit_attempt(now);
        self.abandon(shared);
        self.needs.close(with_reset);
        self.leave_visit(now, shared);
    }

    /// Returns the lease of an opened tunnel, which counts as a response with 101.
    pub(super) fn count_tunnel(&mut self) {
        if let Some(exchange) = &mut self.exchange
            && let Some((status @ 101, latency)) = exchange.answer
            && let Some(lease) = exchange.lease.take()
        {
            self.needs.finish(lease, Outcome::Answered { status, latency });
        }
    }

    /// Ends the session now.
    #[cold]
    pub(super) fn end(&mut self, now: Instant, with_reset: bool, shared: &mut Shared) {
        self.count_tunnel();
        // Waiting bytes are lost, so a clean end must not make the sent part look complete. If the
        // framing of the response shows the cut, the bytes in the system's buffer still arrive.
        let shows_cut = self.exchange.is_some() && !self.upstream.ends_with_connection();
        let is_lossy = !self.client.output.is_empty() && !shows_cut;
        self.visit_attempt(now);
        self.abandon(shared);
        self.needs.close(with_reset || is_lossy);
        self.leave_visit(now, shared);
    }
}

/// Returns the notice for a request that goes to another backend after this one failed it.
#[cold]
pub(super) const fn retried(peer: SocketAddr, backend: BackendId, error: UpstreamError) -> Action {
    let (backend, remedy) = (Some(backend), RemedyTaken::Retried);
    Action::Notify(Notice::UpstreamError { peer, backend, error, remedy })
}

/// Returns the length of the head of a response of the proxy itself.
fn head_len(response: &[u8]) -> usize {
    let end = b"\r\n\r\n";
    let begin = response.windows(end.len()).position(|bytes| bytes == end);
    begin.map_or(response.len(), |begin| begin + end.len())
}

/// Whether a partial or complete head is from a HEAD request, whose response has no body.
fn is_head_method(head: &[u8]) -> bool {
    let begin = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(head.len());
    head[begin..].starts_with(b"HEAD ")
}

/// Returns the outcome that an error means for the backend: neutral if the proxy's system failed.
const fn outcome(error: UpstreamError) -> Outcome {
    Outcome::Failed(match error {
        UpstreamError::Exhausted => return Outcome::Abandoned,
        UpstreamError::NoBackend
        | UpstreamError::QueueFull
        | UpstreamError::QueueTimeout
        | UpstreamError::Unreachable
        | UpstreamError::Handshake(_)
        | UpstreamError::ConnectTimeout => RequestFailure::Unreachable,
        UpstreamError::Refused => RequestFailure::Refused,
        UpstreamError::Cut => RequestFailure::Cut,
        UpstreamError::HeadTimeout => RequestFailure::TimedOut,
        UpstreamError::MalformedHead
        | UpstreamError::HeadTooLarge
        | UpstreamError::TooManyFields
        | UpstreamError::InterimTooLarge
        | UpstreamError::AmbiguousFraming
        | UpstreamError::Unsolicited
        | UpstreamError::UnexpectedUpgrade => RequestFailure::Malformed,
        UpstreamError::Truncated
        | UpstreamError::MalformedChunk(_)
        | UpstreamError::BodyTimeout => RequestFailure::Truncated,
    })
}
