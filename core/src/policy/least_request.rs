//! `least_request`: the fewest requests in flight over all candidates; equals are drawn from.
//!
//! HAProxy's leastconn and nginx's least_conn, counted in requests. Source: the proxy's own
//! leases, so nothing that a backend says takes part.
use crate::backend::Backend;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Habits, Policy};
use crate::rng::Rng;
use crate::time::Instant;

/// The policy has no state of its own.
#[derive(Debug)]
pub(crate) struct LeastRequest;

/// View of `least_request` of a backend: least is best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRequestView {
    /// Requests in flight.
    pub in_flight: u32,
}

impl Policy for LeastRequest {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        candidates.least(rng, |_, in_flight| in_flight).map(Choice::of)
    }

    fn habits(&self) -> Habits {
        Habits::DEAF
    }

    fn view(&self, _now: Instant, _id: BackendId, backend: &Backend) -> PolicyView {
        PolicyView::LeastRequest(LeastRequestView { in_flight: backend.load() })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    /// Three backends fill up evenly: after every third request all hold the same; one that ends
    /// makes its backend the next.
    #[test]
    fn fills_up_evenly() {
        let mut bench = Bench::new(PolicyKind::LeastRequest, 3);
        for round in 0..20 {
            let mut sent: Vec<_> = (0..3).map(|_| bench.send(&[])).collect();
            sent.sort_unstable();
            assert_eq!(sent, [0, 1, 2], "round {round}");
        }
        bench.answer(1, 5.0);
        assert_eq!(bench.send(&[]), 1);
        assert_ne!(bench.send(&[1, 0]), 1);
    }

    /// Among equals each is as likely: 3000 single requests to three, 1000 each within four
    /// standard deviations (26 each).
    #[test]
    fn equals_are_drawn() {
        let mut bench = Bench::new(PolicyKind::LeastRequest, 3);
        let mut counts = [0_i32; 3];
        for _ in 0..3000 {
            let slot = bench.send(&[]);
            counts[slot] += 1;
            bench.answer(slot, 1.0);
        }
        assert!(counts.iter().all(|count| (count - 1000).abs() < 104), "{counts:?}");
    }
}
