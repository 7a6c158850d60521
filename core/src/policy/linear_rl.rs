//! `linear_rl`: ranks backends by a linear function of eight features, learned from the results of
//! past choices.
//!
//! `Q = w·f`, the highest wins. f = [tanh(latency/500 ms), loss, error share, tanh(inFlight/10),
//! tanh(queue/20), tanh(cpu/100 ms), tanh(memory/200 MiB), 1]. w starts at −1, −5, −20, −1, −2, −1,
//! −1, 0.1. The reward is `10 − ms/100 − 50·error`, where ms is at most the charge for a failure.
//! The weights are updated by stochastic gradient descent with rate 0.1 over batches of 5: `w +=
//! 0.1 · mean((r − w·f)·f)`.
//!
//! The features are those at the time of the decision, kept until the request ends. The weights of
//! costs are at most 0; without that bound, the policy learned to reward lost pings. Requests in
//! flight are exact. A backend's reported figures can lower its value by at most half the weight of
//! requests in flight, so that no report attracts all traffic.
//!
//! Exploration: with probability ε a random candidate, `ε = max(0.01, 0.1/(1 + decisions/1000))`,
//! for the default start of 0.1. The policy is a simple baseline. Its model cannot distinguish a
//! queue from a slow backend.
pub(crate) mod rules;

use std::collections::VecDeque;

use crate::backend::Backend;
use crate::config::Rules;
use crate::estimate::ErrorRate;
use crate::id::{BackendId, Token};
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended, Learner, Policy};
use crate::policy::rows::entry;
use crate::policy::state::{PolicyStateError, StateOf, check};
use crate::rng::Rng;
use crate::time::{Instant, millis};

/// Weights, and the features of the choices whose requests are in flight.
#[derive(Debug)]
pub(crate) struct LinearRl {
    rules: Rules,
    weights: [f64; FEATURES],
    decisions: u64,
    /// Features of the latest choices, of which the first has the number `first`.
    frozen: VecDeque<[f64; FEATURES]>,
    first: u32,
    /// Sum of the steps of the batch, and the size of the batch.
    batch: ([f64; FEATURES], u32),
    /// The squashed figures of each backend, by slot.
    squashed: Vec<Squashed>,
    /// The features of each backend, by slot.
    rows: Vec<Row>,
    /// A lower bound of each backend's cost, by slot. A decision reads only this for most backends.
    bounds: Vec<CostBound>,
    /// The features behind each bound, by slot.
    bounded: Vec<[f64; FEATURES]>,
    /// Whether the weights have changed since the bounds were computed.
    is_moved: bool,
}

/// A lower bound of the cost of a backend, which is its negated value.
#[derive(Clone, Copy, Debug, Default)]
struct CostBound {
    cost: f64,
    /// The time until which the bound holds if the backend does not change.
    until: Instant,
    /// The state that the bound was computed for: the generation of the backend's id, and the
    /// counter of its changes.
    of: (u32, u32),
    /// Whether `cost` is the cost itself.
    is_exact: bool,
}

/// The features of a backend, kept between decisions: of hundreds of backends nearly all are
/// unchanged.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// The backend that the features belong to, and the counter of its changes at that time.
    of: Option<(BackendId, u32)>,
    /// The time until which all but the share of errors stay the same if the backend does not
    /// change.
    hold_until: Instant,
    /// The same for the share of errors.
    errors_hold_until: Instant,
    error_rate: ErrorRate,
    features: [f64; FEATURES],
}

impl Row {
    /// Updates the features of a candidate, apart from the share of errors.
    fn update(
        &mut self,
        now: Instant,
        id: BackendId,
        candidates: &Candidates<'_>,
        rules: &Rules,
        squashed: &mut Vec<Squashed>,
    ) {
        let of = Some((id, candidates.changes(id)));
        if (self.of != of || now > self.hold_until)
            && let Some(facts) = candidates.facts(id)
        {
            *self = Self {
                of,
                hold_until: facts.reports_hold_until(now, rules),
                errors_hold_until: facts.error_rate().steady_until(rules.errors.half_life),
                error_rate: facts.error_rate(),
                features: features(now, facts, rules, entry(squashed, id)),
            };
        }
    }

    /// Whether the stored share of errors is valid at `now`.
    fn is_exact(&self, now: Instant) -> bool {
        now <= self.errors_hold_until
    }

    /// A lower bound of the cost, valid from `now` on for a limited time, and its features. Fewer
    /// errors mean a lower cost, so the bound uses the least share of errors in that time.
    fn bound(
        &self,
        now: Instant,
        weights: &[f64; FEATURES],
        rules: &Rules,
    ) -> (CostBound, [f64; FEATURES]) {
        let mut features = self.features;
        let mut until = self.hold_until.min(self.errors_hold_until);
        let is_exact = self.is_exact(now);
        if !is_exact {
            let errors = &rules.errors;
            until = now + errors.half_life / BOUND_STEPS;
            features[ERRORS] = self.error_rate.rate_at_least(until, errors.half_life, errors.prior);
            until = until.min(self.hold_until);
        }
        let bound = CostBound { cost: -value(weights, &features), until, is_exact, of: (0, 0) };
        (bound, features)
    }

    /// The features at `now`.
    fn exact(&self, now: Instant, rules: &Rules) -> [f64; FEATURES] {
        let mut features = self.features;
        if !self.is_exact(now) {
            let errors = &rules.errors;
            features[ERRORS] = self.error_rate.rate_at(now, errors.half_life, errors.prior);
        }
        features
    }
}

/// The figures of a backend with their `tanh`. Few figures change between two decisions.
#[derive(Clone, Copy, Debug, Default)]
struct Squashed {
    latency: Tanh,
    load: Tanh,
    queue: Tanh,
    cpu: Tanh,
    memory: Tanh,
}

/// `tanh(figure / unit)`, cached for the latest figure.
#[derive(Clone, Copy, Debug, Default)]
struct Tanh {
    figure: f64,
    value: f64,
}

impl Tanh {
    /// Returns `tanh(figure / unit)`. Computes it only if the figure has changed; the unit is
    /// always the same.
    fn of(&mut self, figure: f64, unit: f64) -> f64 {
        if self.figure.to_bits() != figure.to_bits() {
            *self = Self { figure, value: libm::tanh(figure / unit) };
        }
        self.value
    }
}

/// The figures of a backend for `linear_rl`; the highest value wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearRlView {
    /// The sum of the weights times the features.
    pub value: f64,
    /// Latency, loss, errors, in flight, queue, CPU, memory, and the constant 1, each from 0 to 1.
    pub features: [f64; 8],
    /// The weights, the same for all backends.
    pub weights: [f64; 8],
}

impl LinearRl {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            rules: rules.clone(),
            weights: WEIGHTS_START,
            decisions: 0,
            frozen: VecDeque::with_capacity(FROZEN_MAX),
            first: 0,
            batch: ([0.0; FEATURES], 0),
            squashed: Vec::new(),
            rows: Vec::new(),
            bounds: Vec::new(),
            bounded: Vec::new(),
            is_moved: false,
        }
    }

    fn epsilon(&self) -> f64 {
        let start = self.rules.linear_rl.exploration;
        (start / (1.0 + self.decisions as f64 / EXPLORATION_DECAY)).max(0.1 * start)
    }

    fn freeze(&mut self, features: [f64; FEATURES]) -> Token {
        if self.frozen.len() == FROZEN_MAX {
            self.frozen.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.frozen.push_back(features);
        // The highest bit is set, because a token of 0 means a missing one.
        self.first.wrapping_add(self.frozen.len() as u32 - 1) | TOKEN_BIT
    }

    fn frozen(&self, token: Token) -> Option<[f64; FEATURES]> {
        let age = token.wrapping_sub(self.first) & !TOKEN_BIT;
        self.frozen.get(age as usize).copied()
    }

    fn learn(&mut self, features: &[f64; FEATURES], reward: f64) {
        let gap = reward - value(&self.weights, features);
        let (steps, size) = &mut self.batch;
        for (step, feature) in steps.iter_mut().zip(features) {
            *step += gap * feature;
        }
        *size += 1;
        if *size == BATCH {
            for (index, step) in steps.iter().enumerate() {
                let most = match index {
                    IN_FLIGHT => IN_FLIGHT_MAX,
                    _ if index == FEATURES - 1 => WEIGHT_MAX,
                    _ => 0.0,
                };
                let moved = self.weights[index] + RATE * step / f64::from(BATCH);
                self.weights[index] = moved.clamp(-WEIGHT_MAX, most);
            }
            self.batch = ([0.0; FEATURES], 0);
            self.is_moved = true;
        }
    }

    /// Updates the bounds after a change of the weights: one pass for each batch, since the
    /// features have not changed. Makes room for `slots` backends.
    fn move_bounds(&mut self, slots: usize) {
        if self.bounds.len() < slots {
            self.bounds.resize(slots, CostBound::default());
            self.bounded.resize(slots, [0.0; FEATURES]);
        }
        if std::mem::take(&mut self.is_moved) {
            for (bound, features) in self.bounds.iter_mut().zip(&self.bounded) {
                bound.cost = -value(&self.weights, features);
            }
        }
    }
}

/// The features of a backend, each from 0 to 1; see the formula in the module's doc.
fn features(
    now: Instant,
    backend: &Backend,
    rules: &Rules,
    squashed: &mut Squashed,
) -> [f64; FEATURES] {
    // Figures whose weight is 0 skip the arithmetic.
    let said = |figure: Option<(f64, f64)>, unit: f64, tanh: &mut Tanh| {
        let fresh = figure.filter(|(_, weight)| *weight > 0.0);
        fresh.map_or(0.0, |(value, weight)| weight * tanh.of(value, unit))
    };
    [
        squashed.latency.of(backend.ping_latency_ms().unwrap_or(LATENCY_UNKNOWN_MS), 500.0),
        backend.ping_loss().unwrap_or(0.0),
        backend.error_rate_at(now, rules),
        squashed.load.of(f64::from(backend.load()), 10.0),
        said(backend.queue_said(now, rules), 20.0, &mut squashed.queue),
        said(backend.cpu_said(now, rules), 100.0, &mut squashed.cpu),
        said(backend.memory_said(now, rules), 200.0 * 1024.0 * 1024.0, &mut squashed.memory),
        1.0,
    ]
}

/// The value of these features.
fn value(weights: &[f64; FEATURES], features: &[f64; FEATURES]) -> f64 {
    let part = |index: usize| weights[index] * features[index];
    let seen: f64 = [0, 1, 2, 3, 7].into_iter().map(part).sum();
    let said: f64 = (4..7).map(part).sum();
    // Weights of costs are negative, so this limits how much a report can lower the value.
    seen + said.max(SAID_SHARE * weights[IN_FLIGHT])
}

impl Policy for LinearRl {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        let epsilon = self.epsilon();
        self.decisions += 1;
        self.move_bounds(candidates.slots());
        let Self { rules, weights, squashed, rows, bounds, bounded, .. } = self;
        let backend = if rng.unit() < epsilon {
            candidates.draw(rng)?
        } else {
            let mut least = f64::INFINITY;
            candidates.least(rng, |id, facts| {
                let bound = &mut bounds[id.index()];
                let of = (id.generation(), facts.changes);
                if bound.of != of || now > bound.until {
                    let row = entry(rows, id);
                    row.update(now, id, candidates, rules, squashed);
                    let (found, features) = row.bound(now, weights, rules);
                    *bound = CostBound { of, ..found };
                    bounded[id.index()] = features;
                }
                let cost = if bound.is_exact {
                    bound.cost
                } else if bound.cost > least {
                    // The cost is at least the bound, so this candidate cannot win.
                    return f64::INFINITY;
                } else {
                    let row = entry(rows, id);
                    row.update(now, id, candidates, rules, squashed);
                    -value(weights, &row.exact(now, rules))
                };
                least = least.min(cost);
                cost
            })?
        };
        let row = entry(rows, backend);
        row.update(now, backend, candidates, rules, squashed);
        let features = row.exact(now, rules);
        Some(Choice { backend, token: self.freeze(features) })
    }

    fn reconfigure(&mut self, rules: &Rules) {
        self.rules = rules.clone();
        self.rows.clear();
        self.bounds.clear();
        self.bounded.clear();
    }

    fn on_outcome(&mut self, _now: Instant, ended: &Ended<'_>) {
        let Some(is_error) = ended.outcome.is_error().filter(|_| ended.token != 0) else {
            return;
        };
        // The features at the time of the decision: the current ones describe another state.
        let Some(features) = self.frozen(ended.token) else {
            return;
        };
        let charge = millis(self.rules.errors.charge);
        let ms = if is_error { charge } else { millis(ended.elapsed).min(charge) };
        self.learn(&features, 10.0 - ms / 100.0 - 50.0 * f64::from(is_error));
    }

    fn view(&self, now: Instant, id: BackendId, backend: &Backend) -> PolicyView {
        let mut squashed = self.squashed.get(id.index()).copied().unwrap_or_default();
        let features = features(now, backend, &self.rules, &mut squashed);
        PolicyView::LinearRl(LinearRlView {
            value: value(&self.weights, &features),
            features,
            weights: self.weights,
        })
    }

    fn learner(&self) -> Option<&dyn Learner> {
        Some(self)
    }

    fn learner_mut(&mut self) -> Option<&mut dyn Learner> {
        Some(self)
    }
}

impl Learner for LinearRl {
    fn state(&self, _name: &dyn Fn(BackendId) -> Option<String>) -> StateOf {
        StateOf::LinearRl(self.weights)
    }

    fn restore(
        &mut self,
        state: &StateOf,
        _name: &dyn Fn(BackendId) -> Option<String>,
    ) -> Result<(), PolicyStateError> {
        let StateOf::LinearRl(weights) = state else { return Err(PolicyStateError::Policy) };
        let most = |index: usize| if index == FEATURES - 1 { WEIGHT_MAX } else { 0.0 };
        let is_good = |(index, weight): (usize, &f64)| (-WEIGHT_MAX..=most(index)).contains(weight);
        check("weights", weights.iter().enumerate().all(is_good))?;
        self.weights = *weights;
        self.is_moved = true;
        Ok(())
    }
}

/// The number of features, including the constant one.
const FEATURES: usize = 8;
const WEIGHT_MAX: f64 = 1000.0;
/// The latency of a backend before its first successful ping.
const LATENCY_UNKNOWN_MS: f64 = 10_000.0;
const WEIGHTS_START: [f64; FEATURES] = [-1.0, -5.0, -20.0, -1.0, -2.0, -1.0, -1.0, 0.1];
const ERRORS: usize = 2;
const IN_FLIGHT: usize = 3;
/// The upper bound of the weight of requests in flight, so that no backend can attract all
/// requests.
const IN_FLIGHT_MAX: f64 = -0.1;
/// The reported figures together lower a value by at most this share of the weight of requests in
/// flight.
const SAID_SHARE: f64 = 0.5;
const RATE: f64 = 0.1;
const BATCH: u32 = 5;
const EXPLORATION_DECAY: f64 = 1000.0;
/// The number of choices whose features are kept. Nothing is learned from requests that end later.
const FROZEN_MAX: usize = 8192;
const TOKEN_BIT: Token = 1 << 31;
/// A bound holds for the half-life of errors divided by this number: 7 ms of 30 s, in which the
/// errors decay by less than 0.02 %.
const BOUND_STEPS: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    /// By hand: if only the constant feature is not 0, the value is 0.1. A batch of five rewards of
    /// 5, each 4.9 above the value, moves the weight by 0.1·4.9 to 0.59. The weight of a cost does
    /// not rise above 0.
    #[test]
    fn steps_by_hand() {
        let mut policy = LinearRl::new(&Rules::default());
        let mut features = [0.0; FEATURES];
        features[7] = 1.0;
        (0..4).for_each(|_| policy.learn(&features, 5.0));
        assert_eq!(policy.weights, WEIGHTS_START);
        policy.learn(&features, 5.0);
        assert!((policy.weights[7] - 0.59).abs() < 1e-12, "{:?}", policy.weights);
        features[1] = 1.0;
        (0..500).for_each(|_| policy.learn(&features, 50.0));
        assert_eq!(policy.weights[1], 0.0);
    }

    /// A backend without pings: its latency counts as 10 s, tanh(20) = 1, and the rest is 0, so
    /// its value is −1 + 0.1. With ten requests in flight it is tanh(1) = 0.761594 less.
    #[test]
    fn values_by_hand() {
        let mut bench = Bench::new(PolicyKind::LinearRl, 1);
        let value = |bench: &Bench| match bench.view(0) {
            PolicyView::LinearRl(view) => view.value,
            other => panic!("{other:?}"),
        };
        assert!((value(&bench) + 0.9).abs() < 1e-6, "{}", value(&bench));
        (0..10).for_each(|_| assert_eq!(bench.send(&[]), 0));
        assert!((value(&bench) + 0.9 + 0.761_594).abs() < 1e-6);
    }

    /// A cached `tanh` is that of its figure, bit for bit, whichever figures came before.
    #[test]
    fn a_kept_tanh_is_the_right_one() {
        let mut tanh = Tanh::default();
        for figure in [0.0, 7.0, 7.0, -0.0, 0.0, 3.0, 7.0, 1e300] {
            assert_eq!(tanh.of(figure, 20.0).to_bits(), libm::tanh(figure / 20.0).to_bits());
        }
    }

    /// Tokens find their features, even beyond the largest token. Forgotten tokens find none.
    #[test]
    fn tokens_find_their_features() {
        for first in [0, TOKEN_BIT - 2, Token::MAX - 1] {
            let mut policy = LinearRl::new(&Rules::default());
            policy.first = first;
            for number in 0..3 {
                let token = policy.freeze([f64::from(number); FEATURES]);
                assert_ne!(token, 0);
                assert_eq!(policy.frozen(token).map(|f| f[0]), Some(f64::from(number)));
                assert_eq!(policy.frozen(token.wrapping_sub(4)), None);
            }
        }
    }
}
