//! Backends that return while none is usable: the order of the last resort, and early pings.
use super::*;
use crate::affinity::AffinityKey;
use crate::config::{AffinityBy, AffinityRules, CheckRules};
use crate::event::RouteReason;

impl World {
    /// Three backends where no process listens, as their first pings found.
    fn all_refusing(rules: Rules) -> Self {
        let mut world = Self::with_rules(&["a", "b", "c"], rules);
        for id in [A, B, C] {
            world.fail(id, ProbeFailure::Refused);
            world.advance(1);
        }
        world
    }

    /// Routes a request and ends it with a refused connection. Returns its backend.
    fn refuse(&mut self) -> BackendId {
        let lease = self.route();
        let backend = lease.backend();
        self.end(lease, Outcome::Failed(RequestFailure::Refused));
        backend
    }

    /// For `ms`, ends all pings as they become due: with a success where `is_good`, otherwise with a
    /// refused connection.
    fn end_pings(&mut self, ms: u64, is_good: impl Fn(BackendId) -> bool) {
        for left in (0..=ms).rev() {
            self.advance(0);
            for id in self.pinged() {
                if is_good(id) {
                    self.answer(id, 5);
                } else {
                    self.fail(id, ProbeFailure::Refused);
                }
            }
            self.advance(u64::from(left > 0));
        }
    }

    /// The backends whose pings have started and not ended, in order.
    fn pinged(&self) -> Vec<BackendId> {
        let pings = self.asked.iter().filter(|asked| asked.2 == ProbeKind::Ping);
        pings.map(|asked| asked.1).collect()
    }
}

fn rules(policy: PolicyKind) -> Rules {
    Rules { policy, ..Rules::default() }
}

/// Rules under which each backend is pinged every 30 s. The first pings are over after 9 s.
fn seldom_pinged() -> Rules {
    let mut rules = Rules::default();
    rules.probes.ping_interval = Duration::from_secs(30);
    rules
}

/// While every backend refuses connections, each request goes to the one that failed longest ago,
/// under every policy. After a response, whatever its status, the next requests go to the backend
/// that sent it, until it refuses a connection again. A failure without a response is no response.
#[test]
fn a_response_comes_before_refused_connections() {
    let responses = [
        Outcome::Answered { status: 200, latency: Duration::from_millis(5) },
        Outcome::Answered { status: 404, latency: Duration::from_millis(5) },
        Outcome::Answered { status: 500, latency: Duration::from_millis(5) },
        Outcome::Refused { status: 503, hold: Some(Duration::from_secs(5)) },
        Outcome::Failed(RequestFailure::Truncated),
    ];
    for policy in PolicyKind::ALL {
        for response in responses {
            let mut world = World::all_refusing(rules(policy));
            assert_eq!([world.refuse(), world.refuse()], [A, B], "{policy:?}");
            world.advance(1);
            let lease = world.route();
            assert_eq!(lease.backend(), C, "{policy:?}");
            world.end(lease, Outcome::Failed(RequestFailure::TimedOut));
            world.advance(1);
            assert_eq!(world.refuse(), A, "{policy:?}: c has failed since");
            world.advance(1);
            // A retry after b, which failed longest ago.
            let lease = world.router.route(world.now, &[B]).expect("a backend");
            assert_eq!(lease.backend(), C, "{policy:?}");
            world.advance(1);
            world.end(lease, response);
            for _ in 0..20 {
                let lease = world.route();
                assert_eq!(lease.backend(), C, "{policy:?} {response:?}");
                assert_eq!(world.router.reason(&lease), RouteReason::LastResort);
                world.end(lease, response);
            }
            assert_eq!(world.refuse(), C, "{policy:?} {response:?}");
            world.advance(1);
            assert_eq!([world.refuse(), world.refuse(), world.refuse()], [B, A, C], "{policy:?}");
        }
    }
}

/// A backend that stops refuses connections and still completes the requests that it has accepted.
/// Their responses do not show that it listens.
#[test]
fn an_older_request_does_not_show_a_return() {
    for policy in PolicyKind::ALL {
        let mut world = World::with_rules(&["a", "b"], rules(policy));
        world.answer(A, 5);
        world.fail(B, ProbeFailure::Refused);
        let (earlier, refused) = (world.route(), world.route());
        assert_eq!([earlier.backend(), refused.backend()], [A, A], "{policy:?}");
        world.advance(1);
        world.end(refused, Outcome::Failed(RequestFailure::Refused));
        world.advance(1);
        world.finish(earlier, 200);
        assert_eq!(world.refuse(), B, "{policy:?}");
        assert_eq!(world.serve(), A, "{policy:?}");
        assert_eq!(world.serve(), A, "{policy:?}: this one shows it");
    }
}

/// While every backend is down, a session goes to its own one until that refuses a request. Then
/// it goes to a backend that has responded, and stays there. Refused pings do not move it.
#[test]
fn a_session_leaves_a_backend_that_refuses_it() {
    for (policy, slack) in PolicyKind::ALL.into_iter().flat_map(|kind| [(kind, 0.0), (kind, 1.5)]) {
        let by = Some(AffinityBy::ClientAddress);
        let affinity = AffinityRules { by, name: None, slack: Some(slack) };
        let mut world = World::all_refusing(Rules { affinity, ..rules(policy) });
        let route = |world: &mut World, tried: &[BackendId], owner| {
            let key = Some(AffinityKey::of_session(7, owner));
            let lease = world.router.route_keyed(world.now, tried, Asker::default(), key);
            lease.expect("a backend")
        };
        let of_a = route(&mut world, &[], A);
        assert_eq!(of_a.backend(), A, "{policy:?} {slack}");
        world.finish(of_a, 200);
        let of_b = route(&mut world, &[], B);
        assert_eq!(of_b.backend(), B, "{policy:?} {slack}: only a ping was refused");
        assert!(!world.router.has_left(B), "{policy:?} {slack}");
        world.end(of_b, Outcome::Failed(RequestFailure::Refused));
        assert!(world.router.has_left(B), "{policy:?} {slack}");
        for tried in [&[B][..], &[]] {
            let of_b = route(&mut world, tried, B);
            assert_eq!(of_b.backend(), A, "{policy:?} {slack}");
            world.finish(of_b, 200);
        }
        world.advance(1000);
        world.fail(A, ProbeFailure::Refused);
        let of_a = route(&mut world, &[], A);
        assert_eq!(of_a.backend(), A, "{policy:?} {slack}");
        world.finish(of_a, 200);
    }
}

/// Pings to another port than that of requests do not show which backends refuse requests: if all
/// of them are refused, a response does not attract all requests.
#[test]
fn refused_pings_at_another_port_do_not_order_backends() {
    let mut rules = rules(PolicyKind::RoundRobin);
    let check = CheckRules { is_elsewhere: true, ..CheckRules::default() };
    rules.limits.checks = ["a", "b", "c"].map(|name| (name.to_owned(), check)).into();
    let mut world = World::all_refusing(rules);
    let mut served = [0; 3];
    for _ in 0..30 {
        served[world.serve().index()] += 1;
    }
    assert_eq!(served, [10; 3]);
    let refusing = world.refuse();
    for _ in 0..30 {
        assert_ne!(world.serve(), refusing);
    }
}

/// When the last usable backend goes down, the others that are down are pinged at once. While
/// another one is usable, they are pinged as usual.
#[test]
fn the_end_of_the_last_usable_backend_brings_pings() {
    for cause in [None, Some(ProbeFailure::Refused), Some(ProbeFailure::Status(500))] {
        let mut world = World::with_rules(&["a", "b", "c"], seldom_pinged());
        world.end_pings(9000, |id| id != C);
        assert_eq!(world.refuse(), A, "{cause:?}");
        world.advance(1);
        assert_eq!(world.pinged(), [], "{cause:?}: b is usable");
        while let Some(cause) = cause
            && world.router.has_usable()
        {
            world.advance(1);
            for id in world.pinged() {
                world.fail(id, if id == B { cause } else { ProbeFailure::Refused });
            }
        }
        if cause.is_none() {
            assert_eq!(world.refuse(), B);
        }
        world.advance(1);
        assert_eq!(world.pinged(), [A, C], "{cause:?}");
    }
}

/// A response of a backend that refused connections brings a ping of each backend that is down,
/// since others may have returned as well. Two good pings bring it up.
#[test]
fn the_first_response_brings_pings() {
    let mut world = World::with_rules(&["a", "b", "c"], seldom_pinged());
    world.end_pings(9000, |_| false);
    assert_eq!(world.serve(), A);
    world.advance(1);
    assert_eq!(world.pinged(), [A, B, C]);
    world.end_pings(499, |id| id == A);
    assert_eq!(world.serve(), A);
    assert!(!world.router.has_usable());
    world.end_pings(1, |id| id == A);
    assert!(world.router.has_usable());
    assert_eq!(world.pinged(), []);
}

/// For ten minutes one backend comes up whenever it is down, and refuses a request whenever it is up.
/// The others are pinged at most once a second.
#[test]
fn early_pings_are_a_second_apart() {
    let mut rules = seldom_pinged();
    // An ejected backend is pinged every 250 ms.
    rules.errors.eject = false;
    let mut world = World::with_rules(&["a", "b", "c"], rules);
    world.end_pings(9000, |_| false);
    let (mut pings, mut last) = ([0; 3], [Instant::ZERO; 3]);
    for _ in 0..60_000 {
        for id in world.pinged() {
            pings[id.index()] += 1;
            let last = std::mem::replace(&mut last[id.index()], world.now);
            // The starts are seen up to 10 ms late.
            assert!(id == A || world.now.since(last) >= Duration::from_millis(990), "{id:?}");
        }
        world.end_pings(0, |id| id == A);
        let lease = world.route();
        if lease.backend() == A && !world.router.has_usable() {
            world.finish(lease, 200);
        } else {
            world.end(lease, Outcome::Failed(RequestFailure::Refused));
        }
        world.advance(10);
    }
    assert!(pings.iter().all(|pings| *pings > 200), "the early ones are the most: {pings:?}");
}

/// Early pings of many backends are started 16 at a time.
#[test]
fn early_pings_of_many_come_in_batches() {
    let names: Vec<_> = (0..41).map(|number| format!("b{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut rules = Rules::default();
    rules.probes.ping_interval = Duration::from_secs(3600);
    let mut world = World::with_rules(&names, rules);
    world.end_pings(9000, |id| id == A);
    assert_eq!(world.refuse(), A);
    for pinged in [16, 32, 40, 40] {
        world.advance(1);
        assert_eq!(world.pinged().len(), pinged);
        world.advance(8);
    }
}
