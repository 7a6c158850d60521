//! State shared by all sessions of a proxy.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Action;
use super::affinity::Affinity;
use super::askers::Askers;
use super::orca::ResponseLoads;
use super::per_client::PerClient;
use super::retry_budget::RetryBudget;
use super::trust::Trust;
use crate::access::Access;
use crate::buffer::BufferPool;
use crate::config::{Config, Limits};
use crate::http::chunked::ChunkLimits;
use crate::http::forward::{HostLine, RequestEnds, client_fields};
use crate::http::head::HeadLimits;
use crate::http::target::KnownHost;
use crate::mix::mixed;
use crate::pages::metrics::ExchangeCounts;

/// Interval at which free buffers are dropped that were not needed since the last time.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// The work of a byte that is parsed individually. A byte that is read and written unchanged counts
/// as 1. They take 2.5 ns and 0.3 ns; the rest of the factor is a margin for slower machines.
const PARSED_WORK: u64 = 15;
/// The work of a response that the proxy makes itself: 1.6 to 4.8 us including its write. A client
/// can pipeline requests for such responses, and no waiting for a backend separates them.
const OWN_RESPONSE_WORK: u64 = 15_000;

/// Facts about a client that depend only on its address.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The field lines about it in forwarded requests.
    pub(crate) fields: Arc<String>,
    /// Whether the address is in `stats.allow`.
    pub(crate) may_see_stats: bool,
    /// Whether the address is in `forwarding.trusted`.
    pub(crate) is_trusted: bool,
    /// The client's group, for the router.
    pub(crate) group: u8,
}

/// The configuration with values derived from it, the buffers, the pending actions, and counts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) head_limits: HeadLimits,
    pub(crate) chunk_limits: ChunkLimits,
    pub(crate) request_ends: RequestEnds,
    pub(crate) trust: Trust,
    /// Suffix that distinguishes this instance's name in Via from any other.
    via_suffix: String,
    /// The shortest timeout of a session, stored as an instant, so that adding it is a single step.
    shortest_timeout: Instant,
    pub(crate) buffers: BufferPool,
    pub(crate) askers: Askers,
    /// The Date line for responses that lack one; empty before the driver reports the time of day.
    pub(crate) date: String,
    /// Room for encoding the head of one response.
    pub(crate) scratch: Vec<u8>,
    /// The Host line of the backend that was chosen last, a guess for the next request. The head of
    /// a request is encoded before its backend is chosen, while the parsed head still borrows the
    /// client's input. The guess is usually right with a policy that keeps its backend; then the
    /// bytes are final. Otherwise [`Session::handle_routed`](super::session::Session) replaces the
    /// value of the field, which moves the bytes after it.
    pub(crate) host_line: HostLine,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) retries: RetryBudget,
    pub(crate) per_client: PerClient,
    pub(crate) counts: ExchangeCounts,
    pub(crate) access: Access,
    /// The keys of requests; `None` without `routing.affinity`.
    pub(crate) affinity: Option<Affinity>,
    /// See [`new`](Self::new).
    seed: u64,
    pub(crate) loads: ResponseLoads,
    pub(crate) known_host: KnownHost,
    /// The last client's address and its facts: the next client often has the same address.
    last_client: Option<(IpAddr, Facts)>,
    /// Next time of dropping unused free buffers.
    trim_from: Instant,
    /// See [`Proxy::work`](super::Proxy::work).
    pub(crate) work: u64,
    /// The names of the fields that pass the identity of client certificates to backends, if any.
    identity_fields: Option<Arc<Vec<String>>>,
    /// Whether no new exchange begins.
    pub(crate) is_stopping: bool,
    /// Whether every response ends its client's connection: the proxy is stopping, or about to.
    pub(crate) is_leaving: bool,
}

impl Shared {
    /// `seed` differs from instance to instance.
    pub(crate) fn new(config: Config, seed: u64, now: Instant) -> Self {
        let via_suffix = via_suffix(seed);
        let retries = RetryBudget::new(config.limits.retry_percent);
        let access = Access::new(&config, seed);
        let affinity = Affinity::new(&config.routing.affinity, seed, 0);
        Self {
            affinity,
            seed,
            head_limits: head_limits(&config.limits),
            chunk_limits: chunk_limits(&config.limits),
            request_ends: request_ends(&config, &via_suffix),
            trust: Trust::new(&config),
            via_suffix,
            per_client: PerClient::new(&config.limits, seed),
            shortest_timeout: shortest_timeout(&config),
            identity_fields: identity_fields(&config),
            config,
            buffers: BufferPool::default(),
            askers: Askers::new(seed),
            date: String::new(),
            scratch: Vec::new(),
            host_line: HostLine::new(""),
            actions: VecDeque::new(),
            retries,
            counts: ExchangeCounts::default(),
            access,
            loads: ResponseLoads::default(),
            known_host: KnownHost::default(),
            last_client: None,
            trim_from: now + TRIM_EVERY,
            work: 0,
            is_stopping: false,
            is_leaving: false,
        }
    }

    /// Returns the earliest deadline that an event at `now` can cause. If the session is checked by
    /// then, its deadline need not be computed yet.
    #[inline]
    pub(crate) fn horizon(&self, now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos().saturating_add(self.shortest_timeout.as_nanos()))
    }

    /// Sets the Date line from the time of day as an HTTP date.
    pub(crate) fn set_date(&mut self, http_date: &str) {
        self.date.clear();
        self.date.extend(["Date: ", http_date, "\r\n"]);
    }

    /// The names of the fields that pass the identity of client certificates to backends, if any.
    #[inline]
    pub(crate) const fn identity_fields(&self) -> Option<&Arc<Vec<String>>> {
        self.identity_fields.as_ref()
    }

    /// Returns the time of the next [`trim`](Self::trim), which is due even without traffic; `None`
    /// if no buffer is free.
    #[inline]
    pub(crate) fn trim_timeout(&self) -> Option<Instant> {
        self.buffers.has_spare().then_some(self.trim_from)
    }

    /// Drops free buffers that were not needed since the last time, if this is due.
    pub(crate) fn trim(&mut self, now: Instant) {
        if self.trim_from <= now {
            self.trim_from = now + TRIM_EVERY;
            self.buffers.trim();
        }
    }

    /// Counts bytes of a chunked body that were parsed one by one.
    #[inline]
    pub(crate) const fn add_parsed(&mut self, bytes: usize) {
        self.work += PARSED_WORK * bytes as u64;
    }

    /// Counts a response of the proxy itself.
    pub(crate) fn add_own_response(&mut self, status: u16) {
        self.counts.own.add(status);
        self.work += OWN_RESPONSE_WORK;
    }

    /// Returns the facts about a client's address.
    #[inline]
    pub(crate) fn client_facts(&mut self, ip: IpAddr) -> Facts {
        match &self.last_client {
            Some((last, facts)) if *last == ip => facts.clone(),
            _ => self.new_client_facts(ip),
        }
    }

    fn new_client_facts(&mut self, ip: IpAddr) -> Facts {
        let facts = Facts {
            fields: client_fields(ip).into(),
            may_see_stats: self.trust.may_see_stats(ip),
            is_trusted: self.trust.trusts(ip),
            group: self.askers.client(ip),
        };
        self.last_client = Some((ip, facts.clone()));
        facts
    }

    /// Applies a new configuration. Bodies in progress keep their old limits.
    pub(crate) fn reconfigure(&mut self, config: Config) {
        self.head_limits = head_limits(&config.limits);
        self.chunk_limits = chunk_limits(&config.limits);
        self.request_ends = request_ends(&config, &self.via_suffix);
        self.trust = Trust::new(&config);
        self.last_client = None;
        self.shortest_timeout = shortest_timeout(&config);
        self.retries.reconfigure(config.limits.retry_percent);
        self.per_client.reconfigure(&config.limits);
        self.access.reconfigure(&config);
        self.identity_fields = identity_fields(&config);
        let begun = self.affinity.as_ref().map_or(0, Affinity::begun);
        self.affinity = Affinity::new(&config.routing.affinity, self.seed, begun);
        self.config = config;
    }
}

/// Returns a hyphen and eight hexadecimal digits, so that two proxies on the same path almost
/// certainly have different names.
fn via_suffix(seed: u64) -> String {
    // Seeds of instances that start together differ in few bits.
    format!("-{:08x}", mixed(seed) >> 32)
}

fn request_ends(config: &Config, via_suffix: &str) -> RequestEnds {
    RequestEnds::new(&[&config.forwarding.via, via_suffix].concat())
}

/// Returns the shortest timeout of a session.
fn shortest_timeout(config: &Config) -> Instant {
    Instant::ZERO + config.timeouts.shortest().min(config.routing.streams.idle)
}

const fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        head_bytes_max: limits.head_bytes_max,
        target_bytes_max: limits.target_bytes_max,
        fields_max: limits.fields_max,
    }
}

fn identity_fields(config: &Config) -> Option<Arc<Vec<String>>> {
    let names: Vec<String> = config.identity_fields().map(str::to_owned).collect();
    (!names.is_empty()).then(|| Arc::new(names))
}

const fn chunk_limits(limits: &Limits) -> ChunkLimits {
    ChunkLimits {
        extension_bytes_max: limits.chunk_extension_bytes_max,
        trailer_bytes_max: limits.trailer_bytes_max,
        fields_max: limits.fields_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Proxy;

    /// Without a client or a backend, free buffers are dropped at the proxy's own deadlines. After
    /// that no deadline remains, so a quiet proxy does not wake up.
    #[test]
    fn free_buffers_go_without_traffic() {
        let mut now = Instant::from_millis(1);
        let mut proxy = Proxy::new(Config::default(), Vec::new(), 1, now).expect("good defaults");
        assert_eq!(proxy.poll_timeout(), None);
        let buffers = &mut proxy.shared.buffers;
        let taken = [buffers.take_large(), buffers.take_large(), buffers.take_small()];
        taken.into_iter().for_each(|buffer| buffers.give(buffer));
        for turn in ["the buffers were in use", "they were not needed since"] {
            assert!(proxy.shared.buffers.has_spare(), "{turn}");
            now = proxy.poll_timeout().expect(turn);
            proxy.handle_timeout(now);
        }
        assert!(!proxy.shared.buffers.has_spare());
        assert_eq!(proxy.poll_timeout(), None);
    }
}
