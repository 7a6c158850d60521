//! `score`: the backend with the lowest score; among equals the lowest id. The formula is in
//! [`score.rs`](crate::score). The backend table keeps the scores up to date, so that a choice
//! costs no arithmetic.
//!
//! The gate keeps all requests at one current backend. That backend may be full: it has as many
//! requests in flight as it can work on at once ([`width`](super::learned::Shape::width), learned
//! from its own completions). A single request then goes to the backend with the least expected
//! delay under the model of [`learned`](super::learned), which may be the current one.
//! Occasionally, within the trial budget of `learned`, it goes to a backend that has been idle for
//! a second or more, since only requests show that a backend has become faster. Below its width the
//! score alone decides.
//!
//! The width is compared with a backend's own requests in flight, not with a difference between
//! backends. Under a rule of "15 more in flight" three serial backends would do a third of their
//! possible work.
use std::time::Duration;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::RouteReason;
use crate::id::{BackendId, Token};
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended, Habits, Policy};
use crate::policy::learned::{Learned, marks};
use crate::policy::rows::entry;
use crate::rng::Rng;
use crate::time::Instant;

/// Ranks by score. A model of completions shows when a backend is full.
#[derive(Debug)]
pub(crate) struct Score {
    /// `None` with spill-over off.
    model: Option<Learned>,
    /// Spills, by the backend that got them.
    spills: Vec<u64>,
}

/// The figures of a backend for `score`; the fewest points win.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreView {
    /// The score, in points.
    pub points: f64,
    /// Requests in flight at which the backend is full and requests spill over. `None` with
    /// spill-over off.
    pub full_at: Option<u32>,
    /// Requests that spilled over to this backend from a full current one.
    pub spills: u64,
}

impl Score {
    pub(super) fn new(rules: &Rules) -> Self {
        let model = rules.switch.spill_over.then(|| Learned::model(rules));
        Self { model, spills: Vec::new() }
    }
}

impl Policy for Score {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        _rng: &mut Rng,
    ) -> Option<Choice> {
        candidates.lowest_scored().map(Choice::of)
    }

    fn reconfigure(&mut self, rules: &Rules) {
        if let Some(model) = &mut self.model {
            model.reconfigure(rules);
        }
    }

    fn on_join(&mut self, now: Instant, backend: BackendId, in_flight: u32) {
        *entry(&mut self.spills, backend) = 0;
        if let Some(model) = &mut self.model {
            model.on_join(now, backend, in_flight);
        }
    }

    fn on_leave(&mut self, now: Instant, backend: BackendId) {
        if let Some(model) = &mut self.model {
            model.on_leave(now, backend);
        }
    }

    fn on_health(&mut self, now: Instant, backend: BackendId, is_up: bool) {
        if let Some(model) = &mut self.model {
            model.on_health(now, backend, is_up);
        }
    }

    fn on_return(&mut self, now: Instant, backend: BackendId) {
        if let Some(model) = &mut self.model {
            model.on_return(now, backend);
        }
    }

    fn on_dispatch(&mut self, now: Instant, backend: BackendId) {
        if let Some(model) = &mut self.model {
            model.on_dispatch(now, backend);
        }
    }

    fn on_outcome(&mut self, now: Instant, ended: &Ended<'_>) {
        if let Some(model) = &mut self.model
            && !model.ended_calmly(now, ended)
        {
            model.on_outcome(now, ended);
        }
    }

    fn on_pause(&mut self, now: Instant, backend: BackendId) {
        if let Some(model) = &mut self.model {
            model.on_pause(now, backend);
        }
    }

    fn on_stream(&mut self, now: Instant, backend: BackendId, elapsed: Duration) {
        if let Some(model) = &mut self.model {
            model.on_stream(now, backend, elapsed);
        }
    }

    fn on_resume(&mut self, now: Instant, backend: BackendId) {
        if let Some(model) = &mut self.model {
            model.on_resume(now, backend);
        }
    }

    fn on_ping(&mut self, now: Instant, backend: BackendId, is_good: bool, facts: &Backend) {
        if let Some(model) = &mut self.model {
            model.on_ping(now, backend, is_good, facts);
        }
    }

    fn on_wait(&mut self, now: Instant, backend: BackendId, facts: &Backend) {
        if let Some(model) = &mut self.model {
            model.on_wait(now, backend, facts);
        }
    }

    fn is_full(&self, backend: BackendId, turned_away: u32) -> bool {
        self.model.as_ref().is_some_and(|model| model.is_full(backend, turned_away))
    }

    fn overflow(
        &mut self,
        now: Instant,
        current: BackendId,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        let choice = self.model.as_mut()?.relief(now, candidates, rng)?;
        if choice.backend != current {
            *entry(&mut self.spills, choice.backend) += 1;
        }
        Some(choice)
    }

    fn reason(&self, token: Token) -> RouteReason {
        marks::reason(token)
    }

    fn delay(&mut self, now: Instant, backend: BackendId) -> Option<f64> {
        self.model.as_mut().map(|model| model.expected_delay(now, backend))
    }

    fn habits(&self) -> Habits {
        Habits { is_gated: true, listens: self.model.is_some(), guards_itself: false }
    }

    fn view(&self, _now: Instant, id: BackendId, backend: &Backend) -> PolicyView {
        PolicyView::Score(ScoreView {
            points: backend.parts().total,
            full_at: self.model.as_ref().map(|model| model.full_at(id)),
            spills: self.spills.get(id.index()).copied().unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::PolicyKind;
    use crate::event::Outcome;
    use crate::policy::testing::Bench;

    /// Thirteen requests are always in flight at four backends with four workers each. A request
    /// takes 2 s. One backend fails all of its requests for half a minute. From fifteen seconds
    /// later it gets the requests for which the others are too full: at least a sixth of all in the
    /// next half minute. The model that finds a backend for them has forgotten the failures.
    #[test]
    fn what_was_failed_before_an_ejection_is_forgotten() {
        let mut bench = Bench::new(PolicyKind::Score, 4);
        let mut out: [Vec<(u64, u16)>; 4] = Default::default();
        let mut workers = [[0_u64; 4]; 4];
        let mut counts = [0_u32; 4];
        for now in (0..105_000_u64).step_by(10) {
            while out.iter().map(Vec::len).sum::<usize>() < 13 {
                let slot = bench.send(&[]);
                workers[slot].sort_unstable();
                let is_failed = slot == 0 && (30_000..60_000).contains(&now);
                let ends = if is_failed { now + 10 } else { workers[slot][0].max(now) + 2000 };
                if !is_failed {
                    workers[slot][0] = ends;
                }
                out[slot].push((ends, if is_failed { 500 } else { 200 }));
                counts[slot] += u32::from(now >= 75_000);
            }
            bench.wait(10);
            bench.mind_pings();
            for (slot, out) in out.iter_mut().enumerate() {
                while out.first().is_some_and(|(ends, _)| *ends <= now + 10) {
                    let (_, status) = out.remove(0);
                    let latency = Duration::from_secs(2);
                    bench.end(slot, Outcome::Answered { status, latency });
                }
            }
        }
        assert!(6 * counts[0] >= counts.iter().sum(), "{counts:?}");
    }
}
