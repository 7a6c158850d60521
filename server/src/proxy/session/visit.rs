//! A session's notes for the access log, in its [`Visit`]. Without one, each step is skipped.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Session;
use super::client_half::{ClientHalf, Receive};
use super::upstream_half::{HeadKind, PassedHead};
use crate::access::{Ending, Visit};
use crate::buffer::Buffer;
use crate::http::ClientError;
use crate::proxy::shared::Shared;

impl Session {
    /// Returns the access log's record of the current exchange.
    pub(crate) fn visit_mut(&mut self) -> Option<&mut Visit> {
        self.client.visit.as_deref_mut()
    }

    /// Whether the access log waits for the end of an exchange.
    pub(crate) const fn has_visit(&self) -> bool {
        self.client.visit.is_some()
    }

    /// Ends the record of an exchange that has ended, as soon as the client's connection has
    /// accepted the response or is to be closed.
    pub(super) fn close_visit(&mut self, now: Instant, shared: &mut Shared) {
        let client = &mut self.client;
        let is_over = client.output.is_empty() || self.needs.has_close();
        let has_ended = |visit: &mut Box<Visit>| visit.has_ended();
        if is_over && let Some(mut visit) = client.visit.take_if(has_ended) {
            visit.finish(now, client.hop.client());
            shared.access.end(visit);
        }
    }

    /// Records the time of an attempt that ends without a response.
    #[cold]
    pub(super) fn visit_attempt(&mut self, now: Instant) {
        if self.client.visit.is_none() {
            return;
        }
        let is_body = matches!(self.client.receive(), Receive::Body { .. });
        let wait = if is_body { self.body_wait(now) } else { Duration::ZERO };
        let (Some(exchange), Some(visit)) = (&self.exchange, &mut self.client.visit) else {
            return;
        };
        if exchange.lease.is_some() && exchange.answer.is_none() {
            let time = now.since(exchange.dispatched_at);
            visit.give_up(now, time.saturating_sub(exchange.client_wait + wait));
        }
    }

    /// Ends the record of an exchange whose session ends.
    #[cold]
    pub(crate) fn leave_visit(&mut self, now: Instant, shared: &mut Shared) {
        if !self.client.output.is_empty() {
            self.cut_visit(Ending::ClientLeft);
        } else if let Some(visit) = &mut self.client.visit {
            visit.end(Ending::ClientLeft);
        }
        self.close_visit(now, shared);
    }

    /// Records the end of the exchange, unless another end is already recorded.
    pub(super) fn end_visit(&mut self, ending: Ending) {
        if let Some(visit) = &mut self.client.visit {
            visit.end(ending);
        }
    }

    /// Records the end of the exchange, even if its last bytes are still missing.
    pub(super) fn cut_visit(&mut self, ending: Ending) {
        if let Some(visit) = &mut self.client.visit {
            visit.cut(ending);
        }
    }

    /// Records a client that gets a response without a request.
    #[cold]
    pub(super) fn visit_without_request(
        &mut self,
        now: Instant,
        ending: Ending,
        shared: &mut Shared,
    ) {
        if shared.access.is_on() {
            self.client.visit = Some(shared.access.begin_invalid(now, now, &[]));
            self.end_visit(ending);
        }
    }

    /// Records an error of the client. A request without a complete and valid head is recorded by
    /// its first line.
    #[cold]
    pub(super) fn visit_client_error(
        &mut self,
        now: Instant,
        error: ClientError,
        shared: &mut Shared,
    ) {
        let client = &mut self.client;
        if client.visit.is_none() && self.exchange.is_none() && shared.access.is_on() {
            let started = client.head_since.unwrap_or(now);
            let input = client.input.as_ref().map_or(&[][..], Buffer::bytes);
            client.visit = Some(shared.access.begin_invalid(now, started, input));
        }
        if let Some(visit) = &mut client.visit {
            visit.end_by_client(error);
        }
    }

    /// Adds the configured fields, such as the request's id, to a response of the proxy itself.
    #[cold]
    pub(super) fn add_fields(&self, response: &mut Vec<u8>, shared: &Shared) {
        add_fields(&self.client, response, shared);
    }

    /// Records a head that was passed to the client.
    pub(super) fn visit_head(&mut self, now: Instant, headed: &PassedHead, shared: &Shared) {
        let Some(visit) = &mut self.client.visit else { return };
        let date = if headed.date_at > 0 { shared.date.len() } else { 0 };
        let len = if headed.is_verbatim { headed.len + date } else { shared.scratch.len() };
        match headed.kind {
            HeadKind::Interim { is_passed_on, .. } => {
                visit.interim(if is_passed_on { len } else { 0 })
            }
            HeadKind::Switch | HeadKind::Final { .. } => {
                let answer = self.exchange.as_ref().and_then(|exchange| exchange.answer);
                if let Some((status, latency)) = answer {
                    visit.answer(now, status, Some(latency), len);
                }
            }
        }
    }
}

/// Adds the configured fields after the first line of a response.
#[cold]
pub(super) fn add_fields(client: &ClientHalf, response: &mut Vec<u8>, shared: &Shared) {
    let mut lines = String::new();
    shared.access.push_fields(client.visit.as_deref(), &mut lines);
    lines.push_str(client.hop.hsts().unwrap_or_default());
    let line = response.iter().position(|byte| *byte == b'\n');
    let begin = line.map_or(response.len(), |end| end + 1);
    response.splice(begin..begin, lines.into_bytes());
}
