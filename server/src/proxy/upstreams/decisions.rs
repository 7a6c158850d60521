//! The last decisions of the router, for the admin page /explain.
//!
//! Decisions are kept only while there is an admin listener. Each is kept with its choice and its
//! rule. Its candidates are also copied, up to a total of [`ROWS_PER_SECOND`] candidates for all
//! decisions.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::VecDeque;

use intelliproxy_core::journal::RecordedRouter;
use intelliproxy_core::{AffinityKey, Asker, BackendId, BackendSnapshot, Instant, Lease, NoRoute};

use crate::pages::explain::{Candidates, Decision};

/// The number of decisions that are kept.
const DECISIONS_MAX: usize = 256;
/// The maximum number of candidates kept for one decision. With this, 256 decisions take at most 2
/// MB.
const CANDIDATES_MAX: usize = 16;
/// Candidates copied per second, and the largest burst of them. One takes 0.3 us, so this is 0.1 %
/// of the thread.
const ROWS_PER_SECOND: u64 = 4096;
/// The cost of one copied candidate as refill time of the budget, nanoseconds.
const ROW_NANOS: u64 = 1_000_000_000 / ROWS_PER_SECOND;

/// The last decisions, the oldest one first.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    last: VecDeque<Decision>,
    /// The time at which the budget is full again, nanoseconds.
    full_at: u64,
}

impl Decisions {
    /// Lets the router choose a backend, and keeps the decision.
    #[cold]
    pub(super) fn route(
        &mut self,
        router: &mut RecordedRouter,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: Option<AffinityKey>,
    ) -> Result<Lease, NoRoute> {
        let (policy, threshold) = (router.rules().policy, router.rules().switch.threshold);
        let current = router.current();
        let before = router.last_switch();
        let mut candidates = self.candidates(router, now);
        let name = |router: &RecordedRouter, id| router.name(id).unwrap_or("(removed)").to_owned();
        let tried_names = tried.iter().map(|id| name(router, *id)).collect();
        let current_name = current.map(|id| name(router, id));
        let routed = router.route_keyed(now, tried, asker, key);
        let chosen = routed.as_ref().ok().map(Lease::backend);
        candidates.shorten(CANDIDATES_MAX, [chosen, current]);
        let hold = router.last_hold().filter(|(at, ..)| *at == now);
        let decision = Decision {
            at: now,
            number: routed.as_ref().ok().map(|lease| lease.id().as_u64()),
            request_id: None,
            policy,
            chosen: chosen.map(|id| (id, name(router, id))),
            failure: routed.as_ref().err().copied(),
            reason: routed.as_ref().ok().map(|lease| router.reason(lease)),
            tried: tried_names,
            current: current_name,
            switch: router.last_switch().filter(|last| Some(*last) != before).map(|(_, why)| why),
            hold: hold.map(|(_, id, why)| (name(router, id), why)),
            threshold,
            candidates,
        };
        if self.last.len() == DECISIONS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(decision);
        routed
    }

    /// Takes the id of the request that the last decision was for. Its length is bounded where it
    /// is made or taken.
    pub(crate) fn name_last(&mut self, request_id: &[u8]) {
        if let Some(last) = self.last.back_mut() {
            last.request_id = Some(request_id.to_vec());
        }
    }

    /// Returns the decisions, the newest one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Decision> {
        self.last.iter().rev()
    }

    /// Copies the candidates if the budget allows it.
    fn candidates(&mut self, router: &RecordedRouter, now: Instant) -> Candidates {
        let ids = router.configured();
        let cost = ids.len() as u64 * ROW_NANOS;
        let at = now.as_nanos();
        let used = self.full_at.saturating_sub(at);
        // A full budget pays for any number of candidates, so that large pools are copied
        // occasionally.
        if used > 0 && used + cost > ROWS_PER_SECOND * ROW_NANOS {
            return Candidates { rows: Vec::new(), of: ids.len() };
        }
        self.full_at = at + used + cost;
        let rows: Vec<BackendSnapshot> =
            ids.iter().filter_map(|id| router.backend_snapshot(now, *id)).collect();
        Candidates { of: rows.len(), rows }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use intelliproxy_core::{Event, Outcome, RouterConfig, Rules};

    use super::*;

    fn router(backends: usize) -> RecordedRouter {
        let backends = (0..backends).map(|number| format!("b{number}")).collect();
        let config = RouterConfig { backends, rules: Rules::default() };
        RecordedRouter::new(config, 1, START).expect("good values")
    }

    const START: Instant = Instant::from_millis(1);

    /// The last 256 decisions are kept, the newest first. Their candidates are copied until the
    /// budget is spent, and again as time passes.
    #[test]
    fn decisions_are_bounded() {
        let mut router = router(32);
        let mut decisions = Decisions::default();
        let mut route = |now| {
            let lease =
                decisions.route(&mut router, now, &[], Asker::default(), None).expect("a backend");
            let outcome = Outcome::Abandoned;
            router.handle_event(now, Event::RequestFinished { lease, outcome });
        };
        for _ in 0..300 {
            route(START);
        }
        let later = START + Duration::from_millis(100);
        route(later);
        let numbers: Vec<u64> = decisions.iter().filter_map(|one| one.number).collect();
        assert_eq!(numbers, (46..=301).rev().collect::<Vec<u64>>());
        assert!(decisions.iter().all(|one| one.candidates.of == 32));
        let copied: Vec<u64> = decisions
            .iter()
            .filter(|one| one.candidates.rows.len() == CANDIDATES_MAX)
            .filter_map(|one| one.number)
            .collect();
        // 128 decisions with 32 candidates each use up the budget of a second.
        assert_eq!(copied, [&[301][..], &(46..=128).rev().collect::<Vec<u64>>()].concat());
        assert!(
            decisions.iter().all(|one| [0, CANDIDATES_MAX].contains(&one.candidates.rows.len()))
        );
    }

    /// A pool of more backends than the budget has rows is copied each time the budget is full.
    #[test]
    fn large_pools_are_copied_now_and_then() {
        let mut router = router(2 * ROWS_PER_SECOND as usize);
        let mut decisions = Decisions::default();
        let mut route = |now| {
            let lease =
                decisions.route(&mut router, now, &[], Asker::default(), None).expect("a backend");
            let outcome = Outcome::Abandoned;
            router.handle_event(now, Event::RequestFinished { lease, outcome });
            decisions.iter().next().is_some_and(|last| !last.candidates.rows.is_empty())
        };
        assert!(route(START));
        assert!(!route(START + Duration::from_millis(1999)));
        assert!(route(START + Duration::from_secs(2)));
    }
}
