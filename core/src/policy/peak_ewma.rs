//! `peak_ewma`: of two different candidates drawn at random, the one with the smaller load.
//!
//! `load = cost · (inFlight + 1)`, with the cost in ms. A sample above the cost replaces it (peak).
//! A sample below it moves it: `cost = cost·w + rtt·(1 − w)`, `w = exp(−dt / decay)`, where dt is
//! the time since the last sample. A sample is the time to the head of the response. A failure
//! counts as the charge for it (`errors.chargeMs`), which decays three times as fast. By default
//! the charge of 5 s takes 16 s instead of 48 s to decay to 40 ms. Then the backend gets requests
//! again. A read computes the decay up to the given time and does not store it.
//!
//! An unknown cost is 0, so that a new backend is tried. Until its first response arrives, each
//! request in flight there counts as 1 s, the penalty of tower and Finagle.
//!
//! Source: Finagle (`Balancers.p2cPeakEwma`), tower (`balance::p2c` over `PeakEwma`).
pub(crate) mod rules;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::Outcome;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended, Policy};
use crate::policy::rows::entry;
use crate::rng::Rng;
use crate::time::{Instant, millis};

/// The costs by backend.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    decay_ms: f64,
    charge_ms: f64,
    costs: Vec<Option<Cost>>,
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    ms: f64,
    at: Instant,
    /// Whether its peak was the charge for a failure.
    is_charge: bool,
}

/// The figures of a backend for `peak_ewma`; the lower load of two drawn backends wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakEwmaView {
    /// The decaying peak of response times, ms; `None` before the first.
    pub cost_ms: Option<f64>,
    /// `cost_ms · (in flight + 1)`.
    pub load: f64,
}

impl PeakEwma {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut policy = Self { decay_ms: 0.0, charge_ms: 0.0, costs: Vec::new() };
        policy.reconfigure(rules);
        policy
    }

    fn cost_ms(&self, now: Instant, backend: BackendId) -> Option<f64> {
        let cost = (*self.costs.get(backend.index())?)?;
        Some(cost.ms * self.weight(now, cost))
    }

    fn load(&self, now: Instant, backend: BackendId, in_flight: u32) -> f64 {
        match self.cost_ms(now, backend) {
            Some(cost) => cost * f64::from(in_flight.saturating_add(1)),
            None => UNKNOWN_MS * f64::from(in_flight),
        }
    }

    /// Forgets the cost of a backend that has recovered. By default the charge for a failure would
    /// take 16 s to fade.
    fn forget(&mut self, backend: BackendId) {
        *entry(&mut self.costs, backend) = None;
    }

    fn weight(&self, now: Instant, cost: Cost) -> f64 {
        let decays = if cost.is_charge { CHARGE_FASTER } else { 1.0 };
        libm::exp(-millis(now.since(cost.at)) * decays / self.decay_ms)
    }
}

impl Policy for PeakEwma {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        let (first, second) = candidates.two(rng)?;
        let load = |id| self.load(now, id, candidates.load(id));
        Some(Choice::of(if load(second) < load(first) { second } else { first }))
    }

    fn reconfigure(&mut self, rules: &Rules) {
        self.decay_ms = millis(rules.peak_ewma.decay);
        self.charge_ms = millis(rules.errors.charge);
    }

    fn on_join(&mut self, _now: Instant, backend: BackendId, _in_flight: u32) {
        *entry(&mut self.costs, backend) = None;
    }

    fn on_outcome(&mut self, now: Instant, ended: &Ended<'_>) {
        let (rtt, is_failure) = match (ended.outcome, ended.outcome.is_error()) {
            (_, None) => return,
            (Outcome::Answered { latency, .. }, Some(false)) => (millis(*latency), false),
            _ => (self.charge_ms, true),
        };
        let (ms, is_charge) = match *entry(&mut self.costs, ended.backend) {
            // Compared with the stored peak, not the decayed one, as in Finagle.
            Some(cost) if rtt <= cost.ms => {
                let weight = self.weight(now, cost);
                (cost.ms * weight + rtt * (1.0 - weight), cost.is_charge)
            }
            _ => (rtt, is_failure),
        };
        *entry(&mut self.costs, ended.backend) = Some(Cost { ms, at: now, is_charge });
    }

    fn on_health(&mut self, _now: Instant, backend: BackendId, is_up: bool) {
        if is_up {
            self.forget(backend);
        }
    }

    fn on_return(&mut self, _now: Instant, backend: BackendId) {
        self.forget(backend);
    }

    fn view(&self, now: Instant, id: BackendId, backend: &Backend) -> PolicyView {
        let load = self.load(now, id, backend.load());
        PolicyView::PeakEwma(PeakEwmaView { cost_ms: self.cost_ms(now, id), load })
    }
}

/// The load of each request in flight before the first response, ms (tower and Finagle: 1 s).
const UNKNOWN_MS: f64 = 1000.0;
/// Factor by which the charge for a failure decays faster than a latency. Chosen.
const CHARGE_FASTER: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::PeakEwmaView;
    use crate::config::PolicyKind;
    use crate::policy::PolicyView;
    use crate::policy::testing::Bench;

    #[track_caller]
    fn assert_cost(bench: &Bench, slot: usize, expected: f64, expected_load: f64) {
        let PolicyView::PeakEwma(PeakEwmaView { cost_ms: Some(cost), load }) = bench.view(slot)
        else {
            panic!("a known cost: {:?}", bench.view(slot));
        };
        assert!((cost - expected).abs() < 1e-9, "cost {cost}");
        assert!((load - expected_load).abs() < 1e-9, "load {load}");
    }

    /// By hand, e^-1 = 0.367879441171: the first sample is 100 ms. One decay time later, 20 ms make
    /// 100/e + 20·(1 − 1/e) = 49.430355294. A peak of 80 replaces it. A read half a decay time
    /// later gives 80·e^-0.5 = 48.522452777, and the load is twice that with one request in flight.
    /// A read changes nothing.
    #[test]
    fn costs_by_hand() {
        let mut bench = Bench::new(PolicyKind::PeakEwma, 1);
        assert_eq!(bench.view(0), PolicyView::PeakEwma(PeakEwmaView { cost_ms: None, load: 0.0 }));
        bench.send(&[]);
        assert_eq!(
            bench.view(0),
            PolicyView::PeakEwma(PeakEwmaView { cost_ms: None, load: 1000.0 })
        );
        bench.answer(0, 100.0);
        assert_cost(&bench, 0, 100.0, 100.0);
        bench.send(&[]);
        bench.wait(10_000 - 20);
        bench.answer(0, 20.0);
        assert_cost(&bench, 0, 49.430_355_293_7, 49.430_355_293_7);
        bench.send(&[]);
        bench.answer(0, 80.0);
        bench.wait(5000);
        bench.send(&[]);
        assert_cost(&bench, 0, 48.522_452_777, 97.044_905_554);
        assert_cost(&bench, 0, 48.522_452_777, 97.044_905_554);
    }

    /// A failure counts as its charge, 5000 ms by default. Within 30 ms that decays to
    /// 5000·e^-0.009 = 4955.2 ms. The backend with the smaller load is chosen.
    #[test]
    fn failures_are_charged() {
        let mut bench = Bench::new(PolicyKind::PeakEwma, 2);
        bench.send(&[1]);
        bench.fail(0);
        bench.send(&[0]);
        bench.answer(1, 30.0);
        assert_cost(&bench, 0, 4_955.201_893_864, 4_955.201_893_864);
        for _ in 0..100 {
            assert_eq!(bench.send(&[]), 1);
        }
    }
}
