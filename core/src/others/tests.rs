//! The estimate by hand, and the bound on the gain of a false report.
use proptest::prelude::*;

use super::*;
use crate::config::{PolicyKind, RouterConfig, Rules};
use crate::event::{Event, Lease, LoadReport, Outcome};
use crate::router::Router;

const SECOND: Duration = Duration::from_secs(1);

const fn id(slot: u32) -> BackendId {
    BackendId::from_index(slot)
}

/// By hand: of 10 requests 4 are own, so 6 are of others. Another own request also adds half of the
/// ratio 6/4 for the others. After one mean time of a request the weight is 1/(1 + 1 + 1/2).
#[test]
fn others_by_hand() {
    let start = Instant::from_millis(1000);
    let mut others = Others::default();
    assert!(!others.is_known(start));
    assert_eq!(others.at(start, id(0), 4), 0.0);
    others.reported(start, id(0), 10.0, 4, SECOND);
    assert!(others.is_known(start));
    assert_eq!(others.at(start, id(0), 4), 6.0);
    assert_eq!(others.at(start, id(0), 5), 6.75);
    others.ended(id(0), Duration::from_millis(100));
    // The average moves by at most a fifth: 6 + 0.2·(16 − 6) = 8.
    let later = start + Duration::from_millis(900);
    others.reported(later, id(0), 20.0, 4, SECOND);
    assert_eq!(others.at(later, id(0), 4), 16.0);
    let aged = others.at(later + Duration::from_millis(100), id(0), 4);
    assert!((aged - (8.0 + 8.0 / 2.5)).abs() < 1e-9, "{aged}");
}

/// A report has no weight after three intervals. After that, the ratio gives the estimate; without
/// any report nothing is known.
#[test]
fn old_reports_lose_their_weight() {
    let start = Instant::from_millis(1000);
    let mut others = Others::default();
    others.reported(start, id(0), 30.0, 10, SECOND);
    others.reported(start + SECOND, id(1), 30.0, 10, SECOND);
    let end = start + 3 * SECOND;
    assert!(others.at(end, id(0), 3) == 6.0, "twice its own: {}", others.at(end, id(0), 3));
    assert!(others.at(end, id(1), 10) > 19.0);
    assert_eq!(others.at(end, id(7), 3), 6.0);
    assert!(!others.is_known(end + SECOND));
    assert_eq!(others.at(end + SECOND, id(1), 3), 0.0);
}

/// The report of a removed backend does not count for the next backend in its slot.
#[test]
fn slots_change_hands() {
    let now = Instant::from_millis(1000);
    let mut others = Others::default();
    others.reported(now, id(0), 50.0, 10, SECOND);
    let next = BackendId::new(0, 1);
    assert_eq!(others.at(now, next, 0), 0.0);
    others.reported(now, next, 3.0, 1, SECOND);
    assert_eq!(others.at(now, next, 1), 2.0);
}

/// The reports of a backend: the truth, or a false figure.
#[derive(Clone, Copy, Debug)]
enum Says {
    Truth,
    Number(f64),
}

/// Sends `own` requests to one liar, in slot 0, and to honest backends with `foreign` requests of
/// others each. Requests end at random. Returns the maximum number of requests in flight at the
/// liar, and the bound.
fn most_at_liar(policy: PolicyKind, foreign: u32, says: Says, own: usize, seed: u64) -> (u32, f64) {
    let backends = (0..4).map(|slot| format!("b{slot}")).collect();
    let rules = Rules { policy, ..Rules::default() };
    let mut now = Instant::from_millis(1000);
    let mut router = Router::new(RouterConfig { backends, rules }, seed, now).expect("valid rules");
    let mut rng = crate::rng::Rng::new(seed);
    let mut out: Vec<Lease> = Vec::new();
    let in_flight = |out: &[Lease], slot: u32| {
        out.iter().filter(|lease| lease.backend() == id(slot)).count() as u32
    };
    let (mut most, mut bound) = (0, 0.0);
    for step in 0..4 * own {
        now += Duration::from_millis(1);
        if out.len() >= own {
            let which = rng.below(out.len() as u64) as usize;
            let lease = out.swap_remove(which);
            let outcome = Outcome::Answered { status: 200, latency: Duration::from_millis(5) };
            router.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        if step % 5 == 0 {
            for slot in 0..4 {
                let truth = f64::from(foreign + in_flight(&out, slot));
                let running = match says {
                    Says::Number(number) if slot == 0 => number,
                    _ => truth,
                };
                let report = LoadReport { running: Some(running), ..LoadReport::default() };
                router.handle_event(now, Event::LoadReported { backend: id(slot), report });
            }
        }
        out.push(router.route(now, &[]).expect("a backend"));
        let at_liar = in_flight(&out, 0);
        if at_liar > most {
            most = at_liar;
            // The ratio that the router knows, and the load of the busiest honest backend.
            let ratio = router.others_ratio();
            let total = (1..4)
                .map(|slot| f64::from(in_flight(&out, slot)) + router.others_at(now, id(slot)));
            let total = total.fold(0.0, f64::max);
            bound = (total + 4.0) / (1.0 + 0.5 * ratio) + 1.0;
        }
    }
    (most, bound)
}

/// The reports of a liar over time: two numbers by turns, each for its span in ms.
#[derive(Clone, Copy, Debug)]
struct Lies {
    numbers: [f64; 2],
    spans: [u32; 2],
}

impl Lies {
    fn at(self, ms: u32) -> f64 {
        let [first, second] = self.spans;
        self.numbers[usize::from(ms % (first + second) >= first)]
    }
}

/// A backend of four workers, which also serves others.
#[derive(Default)]
struct Server {
    /// The end of each request in service, and its lease if it is the proxy's.
    working: Vec<(u32, Option<Lease>)>,
    waiting: std::collections::VecDeque<Option<Lease>>,
}

/// Serves 20 s at 70 % of five equal backends with four workers and 20 ms per request, half of it
/// for others, with reports every 20 ms. The backend in slot 0 reports `lies`, or the truth.
/// Returns its share of the proxy's requests in the last 15 s.
fn share_of_liar(policy: PolicyKind, lies: Option<Lies>, seed: u64) -> f64 {
    const BACKENDS: u32 = 5;
    let backends = (0..BACKENDS).map(|slot| format!("b{slot}")).collect();
    let rules = Rules { policy, ..Rules::default() };
    let at = |ms: u32| Instant::from_millis(1000 + u64::from(ms));
    let mut router =
        Router::new(RouterConfig { backends, rules }, seed, at(0)).expect("valid rules");
    let mut rng = crate::rng::Rng::new(seed);
    let mut servers: Vec<Server> = (0..BACKENDS).map(|_| Server::default()).collect();
    let mut sent = [0_u32; BACKENDS as usize];
    for ms in 0..20_000_u32 {
        for slot in 0..BACKENDS {
            let server = &mut servers[slot as usize];
            let (ended, working): (Vec<_>, Vec<_>) =
                std::mem::take(&mut server.working).into_iter().partition(|(end, _)| *end <= ms);
            server.working = working;
            for lease in ended.into_iter().filter_map(|(_, lease)| lease) {
                let outcome = Outcome::Answered { status: 200, latency: Duration::from_millis(20) };
                router.handle_event(at(ms), Event::RequestFinished { lease, outcome });
            }
            if rng.unit() < 0.07 {
                server.waiting.push_back(None);
            }
        }
        if rng.unit() < 0.35 {
            let lease = router.route(at(ms), &[]).expect("a backend");
            let slot = lease.backend().index();
            sent[slot] += u32::from(ms >= 5000);
            servers[slot].waiting.push_back(Some(lease));
        }
        for (slot, server) in servers.iter_mut().enumerate() {
            while server.working.len() < 4
                && let Some(lease) = server.waiting.pop_front()
            {
                let span = -20.0 * libm::log(1.0 - rng.unit());
                server.working.push((ms + 1 + span as u32, lease));
            }
            if ms % 20 == slot as u32 {
                let truth = (server.working.len() + server.waiting.len()) as f64;
                let lie = lies.filter(|_| slot == 0).map(|lies| lies.at(ms));
                let running = Some(lie.unwrap_or(truth));
                let report = LoadReport { running, ..LoadReport::default() };
                router
                    .handle_event(at(ms), Event::LoadReported { backend: id(slot as u32), report });
            }
        }
    }
    f64::from(sent[0]) / f64::from(sent.iter().sum::<u32>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// However a backend's false reports change with time, it gets at most 1.5 times its fair share
    /// from `least_request`, and 1.25 times from `learned`, which compares the reports with its own
    /// completions. The fair share is a fifth, and chance adds 0.02.
    #[test]
    fn lies_that_change_gain_no_more(
        first in prop_oneof![0.0..12.0, 0.0..100.0, Just(1e6)],
        second in prop_oneof![Just(0.0), 0.0..12.0],
        spans in [20_u32..2000, 20_u32..2000],
        seed in any::<u64>(),
    ) {
        let lies = Lies { numbers: [first, second], spans };
        for (policy, most) in [(PolicyKind::LeastRequest, 0.32), (PolicyKind::Learned, 0.27)] {
            let share = share_of_liar(policy, Some(lies), seed);
            prop_assert!(share <= most, "{policy:?}: {share}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a backend reports, `least_request` gives it at most the stated number of requests
    /// in flight.
    #[test]
    fn a_lie_gains_no_more_than_the_bound(
        foreign in 0_u32..60,
        said in prop_oneof![Just(0.0), 0.0..100.0, Just(1e6), any::<f64>()],
        own in 4_usize..120,
        seed in any::<u64>(),
    ) {
        let policy = PolicyKind::LeastRequest;
        let (most, bound) = most_at_liar(policy, foreign, Says::Number(said), own, seed);
        prop_assert!(f64::from(most) <= bound.max(1.0) + 1e-9, "{most} of {own}, bound {bound}");
    }

    /// Honest reports of equal work leave the shares equal: no backend gets more than its share
    /// plus a third and a few requests.
    #[test]
    fn honest_reports_keep_the_shares(foreign in 0_u32..60, own in 4_usize..120, seed in any::<u64>()) {
        let (most, _) = most_at_liar(PolicyKind::LeastRequest, foreign, Says::Truth, own, seed);
        prop_assert!(f64::from(most) <= 1.34 * own as f64 / 4.0 + 3.0, "{most} of {own}");
    }
}
