//! The oracle of one proxy. It knows the true speeds and faults of all backends, but only its own
//! requests. It assumes that each other proxy has as many requests at a backend as itself, averaged
//! over two service times.
//!
//! Such a short average is best, because all proxies react to the same speeds and faults: a proxy's
//! current requests are the best indicator of those of the others. On `fleet200` the mean latency
//! is 13.1 ms with an average over two service times, 13.7 ms over ten and 15.4 ms over a hundred.
//! Drawing the others' requests from a Poisson distribution instead of using their mean changes
//! nothing.

/// Requests in flight by proxy and backend.
#[derive(Debug)]
pub(super) struct Local {
    proxies: usize,
    backends: usize,
    own: Vec<Own>,
    /// The time constant of the averages at each backend, ns.
    memory: Vec<f64>,
}

#[derive(Clone, Debug, Default)]
struct Own {
    in_flight: u32,
    /// A moving average of `in_flight`.
    mean: f64,
    at: u64,
}

impl Local {
    /// Returns the knowledge for `proxies` and for backends with these mean service times, ns.
    pub(super) fn new(proxies: usize, services: &[f64]) -> Self {
        let own = vec![Own::default(); proxies * services.len()];
        let memory = services.iter().map(|span| SERVICES * span.max(1.0)).collect();
        Self { proxies, backends: services.len(), own, memory }
    }

    /// Records that a request becomes work for a backend, or no longer is.
    pub(super) fn note(&mut self, now: u64, proxy: usize, backend: usize, is_sent: bool) {
        let own = self.at(now, proxy, backend);
        own.in_flight = if is_sent { own.in_flight + 1 } else { own.in_flight.saturating_sub(1) };
    }

    /// Returns the number of requests that this proxy expects at a backend.
    pub(super) fn ahead(&mut self, now: u64, proxy: usize, backend: usize) -> usize {
        let others = (self.proxies - 1) as f64;
        let own = self.at(now, proxy, backend);
        own.in_flight as usize + (others * own.mean).round() as usize
    }

    fn at(&mut self, now: u64, proxy: usize, backend: usize) -> &mut Own {
        let own = &mut self.own[proxy * self.backends + backend];
        let kept = libm::exp(-((now - own.at) as f64) / self.memory[backend]);
        own.mean = kept * own.mean + (1.0 - kept) * f64::from(own.in_flight);
        own.at = now;
        own
    }
}

/// Number of service times over which the average is taken.
const SERVICES: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Two proxies by hand: one request for five time constants gives a mean of one, so this proxy
    /// expects two there, one of them the other proxy's. The other proxy itself expects none.
    #[test]
    fn others_are_taken_to_be_alike() {
        let mut local = Local::new(2, &[1e9]);
        local.note(0, 0, 0, true);
        assert_eq!(local.ahead(0, 0, 0), 1);
        assert_eq!(local.ahead(10_000_000_000, 0, 0), 2);
        assert_eq!(local.ahead(10_000_000_000, 1, 0), 0);
        local.note(10_000_000_000, 0, 0, false);
        assert_eq!(local.ahead(10_000_000_001, 0, 0), 1);
        assert_eq!(local.ahead(30_000_000_000, 0, 0), 0);
    }
}
