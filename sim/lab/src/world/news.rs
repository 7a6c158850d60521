//! The learning oracle's knowledge about the backends.
//!
//! A proxy can know a backend's speed only from responses, and a fault only from requests that were
//! sent there after its start. One response reveals everything, since any learner needs at least
//! one. So does an overdue response.
use super::super::backend::Backend;

/// The knowledge of each proxy about each backend.
#[derive(Debug)]
pub(super) struct News {
    backends: usize,
    known: Vec<Known>,
    /// The mean service time over all backends, ns: the guess before the first response.
    service: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether a response has arrived.
    is_met: bool,
    /// The number of changes of the backend that it knows about.
    changes: u32,
    /// The time at which the first request after the last change was sent.
    sent_at: Option<(u64, u32)>,
}

impl News {
    /// Returns the knowledge of `proxies` before the first request.
    pub(super) fn new(proxies: usize, backends: &[Backend]) -> Self {
        let services: f64 = backends.iter().map(Backend::mean_service).sum();
        Self {
            backends: backends.len(),
            known: vec![Known::default(); proxies * backends.len()],
            service: services / backends.len().max(1) as f64,
        }
    }

    /// Records a request to a backend with this number of changes.
    pub(super) fn sent(&mut self, now: u64, proxy: usize, backend: usize, changes: u32) {
        let known = self.at(proxy, backend);
        let is_news = !known.is_met || known.changes != changes;
        if is_news && known.sent_at.is_none_or(|(_, of)| of != changes) {
            known.sent_at = Some((now, changes));
        }
    }

    /// Records the end of a request that was sent at `sent_at`.
    pub(super) fn ended(&mut self, proxy: usize, backend: usize, changes: u32, sent_at: u64) {
        let known = self.at(proxy, backend);
        if known.sent_at.is_some_and(|(first, of)| of == changes && sent_at >= first) {
            *known = Known { is_met: true, changes, sent_at: None };
        }
    }

    /// Returns the time that the proxy expects for a request behind `ahead` others, ns.
    pub(super) fn expected(
        &mut self,
        now: u64,
        proxy: usize,
        (number, backend): (usize, &Backend),
        ahead: usize,
        charge: f64,
    ) -> f64 {
        let service = self.service;
        let known = self.at(proxy, number);
        let usual = if known.is_met { backend.mean_service() } else { service };
        let usual = backend.rtt.saturating_add(usual as u64);
        if known.sent_at.is_some_and(|(first, of)| of == backend.changes() && now - first >= usual)
        {
            *known = Known { is_met: true, changes: backend.changes(), sent_at: None };
        }
        if !known.is_met {
            backend.expected_unknown(ahead, service, charge)
        } else if known.changes != backend.changes() {
            backend.expected_before(now, ahead, charge)
        } else {
            backend.expected_behind(now, ahead, charge)
        }
    }

    fn at(&mut self, proxy: usize, backend: usize) -> &mut Known {
        &mut self.known[proxy * self.backends + backend]
    }
}
