//! Special requests: slow clients, clients that leave, and responses that continue after their
//! heads.
use std::time::Duration;

use intelliproxy_core::{Lease, Outcome, RequestFailure};

use super::World;
use super::flow::End;
use crate::backend::{MS, Response};
use crate::class::{RequestClass, Stream};
use crate::draw::Draw;
use crate::later::Later;
use crate::service::Service;
use crate::tally::Counted;

/// A response that continues after its head.
#[derive(Debug)]
pub(super) struct Open {
    proxy: usize,
    backend: usize,
    lease: Option<Lease>,
    status: u16,
    /// Time to the response's head.
    latency: Duration,
    luck: Draw,
    class: usize,
    /// The latency of a response that is counted at its end, ns; `None` if it was counted before or
    /// is not counted.
    unsettled: Option<u64>,
    /// The arrival of its request, ns.
    from: u64,
}

impl World {
    /// Returns the class of a request and the time that its client takes to send it. Sets its work
    /// if the class has its own.
    pub(super) fn classify(&self, draw: Draw, work_ms: &mut f64) -> (usize, u64) {
        let shares: f64 = self.classes.iter().map(|class| class.share).sum();
        let mut left = draw.class() * shares;
        let mut number = 0;
        while number + 1 < self.classes.len() && left >= self.classes[number].share {
            left -= self.classes[number].share;
            number += 1;
        }
        let class = &self.classes[number];
        if let Some(service) = &class.service {
            *work_ms = service.quantile_ms(draw.service());
        }
        (number, span(class.upload_ms.as_ref(), draw.upload()).unwrap_or(0))
    }

    /// Schedules the client's events of a new request, in scenarios with classes: the end of the
    /// upload, and the times at which the proxy or the client gives the request up.
    pub(super) fn await_client(&mut self, number: u64, class: usize, upload: u64) {
        let from = self.now + upload;
        self.later.push(from + self.timeout, Later::TimesOut { request: number });
        let request = &self.requests[(number - self.oldest) as usize];
        if upload > 0 {
            if let Some(proxy) = self.proxies.get_mut(usize::from(request.proxy)) {
                proxy.pause(self.now, request.lease.as_ref(), true);
            }
            self.later.push(from, Later::Whole { request: number });
        }
        let draw = request.draw;
        let patience = self.classes.get(class).and_then(|class| class.patience_ms.as_ref());
        if let Some(patience) = span(patience, draw.patience()) {
            self.later.push(from + patience, Later::GivesUp { request: number });
        }
    }

    /// Handles the last byte of a request: now it waits for its backend.
    pub(super) fn resume(&mut self, number: u64) {
        let index = number.checked_sub(self.oldest);
        let Some(request) = index.and_then(|index| self.requests.get(index as usize)) else {
            return;
        };
        let backend = usize::from(request.backend);
        let to = &mut self.backends[backend];
        to.inbound += 1;
        self.later.push(self.now + to.rtt / 2, Later::Arrives { request: number, backend });
        let proxy = usize::from(request.proxy);
        if let Some(at) = self.proxies.get_mut(proxy) {
            at.pause(self.now, request.lease.as_ref(), false);
            self.attend(proxy);
        }
        self.note_local(number, backend, true);
    }

    /// Handles the end of a request that may continue as a stream. Returns false if the request
    /// ends.
    pub(super) fn goes_on(&mut self, number: u64, index: usize, end: End) -> bool {
        let End::Responded(response) = end else {
            self.heads.remove(&number);
            return false;
        };
        let request = &self.requests[index];
        match response {
            Response::Head => {
                self.heads.insert(number, self.now - self.sent_at(index));
                let silent = Later::Silent { request: number };
                self.later.push(self.now + self.idle_span, silent);
                true
            }
            Response::First => {
                let latency = self.heads.remove(&number).unwrap_or(0);
                let waited = self.now - request.from;
                self.open(number, index, latency, Some(waited));
                true
            }
            Response::Good => {
                let class = self.classes.get(usize::from(request.class));
                class.is_some_and(goes_on_after_head) && self.open_silent(number, index)
            }
            // The response has already begun.
            _ if self.heads.remove(&number).is_some() => false,
            _ => self.retry(number, index, response),
        }
    }

    /// Keeps a response open that is not work for its backend.
    fn open_silent(&mut self, number: u64, index: usize) -> bool {
        let request = &self.requests[index];
        let class = &self.classes[usize::from(request.class)];
        let luck = request.draw.attempt(request.attempt);
        let (spans, silent_after) = match &class.stream {
            Some(Stream::Tunnel { for_ms }) => (span(Some(for_ms), luck.stream()), Some(0)),
            Some(Stream::Events { for_ms }) => {
                (span(Some(for_ms), luck.stream()), Some(self.idle_span))
            }
            Some(Stream::Tokens { .. }) | None => {
                (span(class.download_ms.as_ref(), luck.download()), None)
            }
        };
        let (latency, waited) =
            (self.now - self.sent_at(index), self.now.saturating_sub(request.from));
        if request.is_counted {
            let backend = Some(usize::from(request.backend));
            self.tally.succeeded(Counted { at: request.from, backend }, waited);
        }
        self.open(number, index, latency, None);
        let ends_after = spans.unwrap_or(0);
        match silent_after {
            None => self.pause(number),
            Some(0) => self.fall_silent(number),
            Some(span) if span < ends_after => {
                self.later.push(self.now + span, Later::Silent { request: number });
            }
            _ => {}
        }
        self.later.push(self.now + ends_after, Later::Closes { request: number });
        true
    }

    /// Moves a request to the open streams.
    fn open(&mut self, number: u64, index: usize, latency: u64, unsettled: Option<u64>) {
        let request = &mut self.requests[index];
        request.is_open = false;
        let class = &self.classes[usize::from(request.class)];
        let status = match class.stream {
            Some(Stream::Tunnel { .. }) => 101,
            _ => class.status,
        };
        let open = Open {
            proxy: usize::from(request.proxy),
            backend: usize::from(request.backend),
            lease: request.lease.take(),
            status,
            latency: Duration::from_nanos(latency),
            luck: request.draw.attempt(request.attempt),
            class: usize::from(request.class),
            unsettled: unsettled.filter(|_| request.is_counted),
            from: request.from,
        };
        let backend = open.backend;
        if unsettled.is_some() {
            self.working += 1;
        } else {
            self.note_local(number, backend, false);
        }
        self.streams.insert(number, open);
        self.trace_hash.add(number);
        self.trace_hash.add(self.now);
        self.forget_ended();
    }

    /// Records that a response waits for its client.
    fn pause(&mut self, number: u64) {
        if let Some(open) = self.streams.get(&number)
            && let Some(proxy) = self.proxies.get_mut(open.proxy)
        {
            proxy.pause(self.now, open.lease.as_ref(), true);
            let proxy = open.proxy;
            self.attend(proxy);
        }
    }

    /// Handles a silent response, which is no longer work for its backend. A response whose first
    /// token has arrived since is not silent.
    pub(super) fn fall_silent(&mut self, number: u64) {
        let index = number.checked_sub(self.oldest).map(|index| index as usize);
        let request = index.and_then(|index| self.requests.get(index));
        let (proxy, lease, status, latency) = match (self.streams.get(&number), request) {
            (Some(open), _) if !self.is_tokens(open.class) => {
                (open.proxy, open.lease.as_ref(), open.status, open.latency)
            }
            (None, Some(request)) => {
                let Some(latency) = self.heads.get(&number) else {
                    return;
                };
                let status = self.classes[usize::from(request.class)].status;
                let latency = Duration::from_nanos(*latency);
                (usize::from(request.proxy), request.lease.as_ref(), status, latency)
            }
            _ => return,
        };
        if let Some(at) = self.proxies.get_mut(proxy) {
            at.open_stream(self.now, lease, status, latency);
            self.attend(proxy);
        }
    }

    /// Ends a stream at its proxy.
    pub(super) fn finish_stream(&mut self, number: u64, end: End) {
        // Its client has received its response.
        if end == End::GivenUp {
            return;
        }
        // The response has begun since, so this timeout no longer applies.
        if end == End::TimedOut && !self.muted.contains(&number) {
            return;
        }
        let Some(open) = self.streams.remove(&number) else {
            return;
        };
        self.muted.remove(&number);
        let is_tokens = self.is_tokens(open.class);
        if is_tokens {
            self.working -= 1;
            if let Some(local) = &mut self.local {
                local.note(self.now, open.proxy, open.backend, false);
            }
        }
        let is_good = end == End::Responded(Response::Good);
        if let Some(latency) = open.unsettled {
            let counted = Counted { at: open.from, backend: Some(open.backend) };
            if is_good {
                self.tally.succeeded(counted, latency);
            } else {
                self.tally.failed(counted);
            }
        }
        let outcome = if is_good {
            Outcome::Answered { status: open.status, latency: open.latency }
        } else {
            Outcome::Failed(RequestFailure::Truncated)
        };
        self.trace_hash.add(number);
        self.trace_hash.add(self.now);
        self.give_back(open.proxy, open.backend, open.lease, outcome);
    }

    /// Handles the end of the work before a request's first token. The remaining work begins.
    /// Returns false if the whole request ends.
    pub(super) fn end_part(&mut self, backend: usize) -> bool {
        let from = &mut self.backends[backend];
        let Some(number) = from.station.ending() else {
            return false;
        };
        let index = number.checked_sub(self.oldest);
        let Some(request) = index.and_then(|index| self.requests.get_mut(index as usize)) else {
            return false;
        };
        let class = self.classes.get(usize::from(request.class));
        let Some(Stream::Tokens { first_share }) = class.and_then(|class| class.stream.as_ref())
        else {
            return false;
        };
        // A request that was given up before its first token is not continued.
        if !request.is_open || request.has_first {
            return false;
        }
        request.has_first = true;
        let rest = from.work(request.draw, request.work_ms) * (1.0 - first_share);
        from.station.resume(self.now, rest);
        self.ends.set(backend, from.station.ends_at());
        if from.is_heard() {
            self.leave(number, backend, Response::First);
        }
        true
    }

    /// Ends the work of an open stream at its backend.
    pub(super) fn end_of_stream(&mut self, backend: usize, number: u64) {
        let Some(open) = self.streams.get(&number) else {
            return;
        };
        match self.backends[backend].respond(open.luck, open.class) {
            Some((response, late)) => {
                let leaves = Later::Leaves { request: number, backend, response };
                self.later.push(self.now + late, leaves);
            }
            None => self.mute(number),
        }
    }

    /// Marks a response whose remaining part does not leave its backend. Its proxy gives it up.
    pub(super) fn mute(&mut self, number: u64) {
        self.muted.insert(number);
        self.later.push(self.now + self.timeout, Later::TimesOut { request: number });
    }

    /// Cuts these requests and the silent streams of a backend whose process has ended.
    pub(super) fn cut(&mut self, backend: usize, requests: Vec<u64>) {
        for number in requests {
            self.leave(number, backend, Response::Cut);
        }
        let held = self.streams.iter().filter(|(_, open)| open.backend == backend);
        let held: Vec<_> =
            held.filter(|(_, open)| !self.is_tokens(open.class)).map(|(n, _)| *n).collect();
        for number in held {
            self.leave(number, backend, Response::Cut);
        }
    }

    fn is_tokens(&self, class: usize) -> bool {
        let class = self.classes.get(class);
        class.is_some_and(|class| matches!(class.stream, Some(Stream::Tokens { .. })))
    }
}

/// Whether a response continues after its work.
const fn goes_on_after_head(class: &RequestClass) -> bool {
    match class.stream {
        Some(Stream::Tunnel { .. } | Stream::Events { .. }) => true,
        Some(Stream::Tokens { .. }) => false,
        None => class.download_ms.is_some(),
    }
}

/// A draw of a time, ns.
fn span(service: Option<&Service>, draw: f64) -> Option<u64> {
    service.map(|service| (service.quantile_ms(draw) * MS) as u64)
}
