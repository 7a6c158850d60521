//! `least_request`: the fewest requests in flight over all candidates; ties are broken at random.
//!
//! Like HAProxy's leastconn and nginx's least_conn, but it counts requests. The count is that of
//! the proxy's own leases. If backends report how many requests they work on, the requests of
//! others are added ([`others`](crate::others)). With weights, the requests in flight plus the new
//! one are divided by the weight, and the lowest quotient wins.
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

/// The figures of a backend for `least_request`; the smallest quotient wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRequestView {
    /// Requests that the backend works on, and recent ones that it refused.
    pub in_flight: u32,
}

impl Policy for LeastRequest {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        let chosen = match candidates.others() {
            None => candidates.least(rng, |_, row| row.weighted()),
            Some(others) => candidates.least(rng, |id, row| {
                row.weighted() + others.at(now, id, row.load) * f64::from(row.per_request)
            }),
        };
        chosen.map(Choice::of)
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

    /// Three backends fill up evenly: after every third request all have the same number. A
    /// request that ends makes its backend the next choice.
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

    /// Ties are broken evenly: of 3000 single requests to three backends each gets 1000, within
    /// four standard deviations (26 each).
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
