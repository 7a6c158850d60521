//! Refusals, requests that wait for their client, and streams.
use super::*;

/// A refusal with Retry-After is not an error and holds the backend. Requests go elsewhere for
/// that time, at most 60 s, and return afterwards by score. If every other backend is held or
/// down, it is used.
#[test]
fn holds_last_their_time() {
    for (hold_s, expected_s) in [(20, 20), (86_400, 60)] {
        let mut world = World::with_latencies(10, 20);
        assert_eq!(world.serve(), A);
        let hold = Some(Duration::from_secs(hold_s));
        let lease = world.route();
        world.end(lease, Outcome::Refused { status: 429, hold });
        assert_eq!(world.snapshot().current, Some(B), "a held backend is left at once");
        assert_eq!(world.snapshot().backends[0].errors, 0);
        assert_eq!(world.snapshot().backends[0].error_rate, 0.0);
        assert_eq!(world.snapshot().backends[0].held, Some(Duration::from_secs(expected_s)));
        assert!(
            world.router.has_other(world.now, &[A]) && !world.router.has_other(world.now, &[B])
        );
        world.now += Duration::from_secs(expected_s) - Duration::from_nanos(1);
        assert_eq!(world.serve(), B);
        let lease = world.router.route(world.now, &[B]).expect("one is left");
        assert_eq!(lease.backend(), A, "the only untried backend is used although it is held");
        world.finish(lease, 200);
        world.now += Duration::from_nanos(1);
        let lease = world.route();
        world.end(lease, Outcome::Refused { status: 503, hold: Some(Duration::from_secs(9)) });
        assert_eq!(world.serve(), A, "the hold is over, and the other one is held");
        let lease = world.route();
        world.end(lease, Outcome::Refused { status: 503, hold: Some(Duration::from_secs(5)) });
        assert_eq!(world.serve(), A, "of two held backends the one with the lower score");
    }
}

/// Without a time a refusal counts as one request in flight: 2 points, halved in 30 s. Refusals do
/// not count from 8 s after the last one until the next one: by hand, 4·2^(−8/30) + 1 = 4.32.
#[test]
fn refusals_fade() {
    let mut world = without_spill_over();
    for _ in 0..4 {
        let lease = world.route();
        world.finish(lease, 429);
    }
    let points = |world: &World| world.snapshot().backends[0].score.in_flight;
    assert_eq!((points(&world), world.snapshot().backends[0].refused), (8.0, 4));
    world.now += Duration::from_millis(7999);
    assert_eq!((world.serve(), points(&world)), (A, 6.0));
    world.now += Duration::from_millis(1);
    assert_eq!((world.serve(), points(&world)), (A, 0.0));
    let lease = world.route();
    world.finish(lease, 429);
    assert_eq!(points(&world), 8.0);
}

/// A refusal by a backend with as much work as the others only shows that all are full. By hand:
/// with three requests in flight at each backend it counts as 1/64 of a request. With one in flight
/// there and three at the other it counts as (3/4)³ = 0.42, so two refusals count as one request.
#[test]
fn a_full_backend_is_known_to_be_full() {
    for (own, points) in [(3, 0.0), (1, 2.0)] {
        let mut world = World::with_latencies(10, 10);
        let to = |world: &mut World, tried: &[BackendId]| {
            world.router.route(world.now, tried).expect("one is left")
        };
        let mut out: Vec<_> = (0..3).map(|_| to(&mut world, &[A])).collect();
        out.extend((0..own).map(|_| to(&mut world, &[B])));
        let working = world.snapshot().backends[0].score.in_flight;
        for _ in 0..2 {
            let lease = to(&mut world, &[B]);
            world.finish(lease, 503);
        }
        assert_eq!(world.snapshot().backends[0].score.in_flight, working + points, "{own}");
        out.into_iter().for_each(|lease| world.finish(lease, 200));
    }
}

/// A backend that serves a thousand requests well and then only 404s counts as refusing within two
/// dozen requests, and the requests go elsewhere, whether the other backend has had requests before
/// or not.
#[test]
fn a_sudden_404_is_seen_at_once() {
    for is_other_known in [false, true] {
        let mut world = World::with_latencies(10, 20);
        if is_other_known {
            for _ in 0..100 {
                let lease = world.router.route(world.now, &[A]).expect("one is left");
                world.finish(lease, 200);
            }
        }
        for _ in 0..1000 {
            assert_eq!(world.serve(), A);
        }
        let declined = |world: &mut World| {
            let lease = world.route();
            let backend = lease.backend();
            world.now += Duration::from_millis(1);
            world.finish(lease, if backend == A { 404 } else { 200 });
            backend == A
        };
        let count = (0..1000).filter(|_| declined(&mut world)).count();
        let refused = world.snapshot().backends[0].refused as usize;
        assert!(count - refused <= 24, "{count} and {refused}");
        assert!(count < 200, "{count}");
        // If all backends send 404s, soon none stands out any longer.
        let mut world = World::with_latencies(10, 20);
        for _ in 0..5000 {
            let lease = world.route();
            world.now += Duration::from_millis(1);
            world.finish(lease, 404);
        }
        let refused: u64 = world.snapshot().backends.iter().map(|backend| backend.refused).sum();
        assert!(refused < 200, "{refused}");
    }
}

/// A run of 5 to 14 responses with 4xx counts as refusing if the other backend sends no 4xx,
/// whatever succeeded before: four might be chance at 5 % of 4xx. A run of 10 to 29 is needed if
/// the other one sends 4xx for a quarter of the requests.
#[test]
fn a_row_of_404s_is_no_chance() {
    for (every, expected) in [(usize::MAX, 5), (4, 10)] {
        let mut world = World::with_latencies(10, 20);
        for number in 1..400 {
            let status = if number % every == 0 { 404 } else { 200 };
            for tried in [[A], [B]] {
                let lease = world.router.route(world.now, &tried).expect("one is left");
                world.now += Duration::from_millis(10);
                world.finish(lease, status);
            }
        }
        let refused = |world: &World| world.snapshot().backends[0].refused;
        let mut count = 0;
        while refused(&world) == 0 {
            let lease = world.router.route(world.now, &[B]).expect("one is left");
            world.now += Duration::from_millis(10);
            world.finish(lease, 404);
            count += 1;
            assert!(count < 100, "a broken release is never found");
        }
        assert!(count >= expected && count < 3 * expected, "{every}: {count}");
    }
}

/// Three of four backends begin to send 404 for everything, so the median of the others is the same
/// for each of them. Their 404s count as refusals nevertheless. They do not if the three have
/// always sent them: then the fourth backend is the exception.
#[test]
fn most_backends_may_turn_at_once() {
    for are_always in [false, true] {
        let mut world = World::new(&["a", "b", "c", "d"]);
        let mut is_turned = are_always;
        let good = BackendId::from_index(3);
        let all = [A, B, C, good];
        let refused = |world: &World| -> u64 {
            world.snapshot().backends.iter().map(|backend| backend.refused).sum()
        };
        let mut late = 0;
        for round in 0..1200 {
            is_turned |= round == 600;
            for backend in all {
                let others: Vec<_> = all.into_iter().filter(|id| *id != backend).collect();
                let lease = world.router.route(world.now, &others).expect("one is left");
                assert_eq!(lease.backend(), backend);
                world.now += Duration::from_millis(10);
                world.finish(lease, if is_turned && backend != good { 404 } else { 200 });
            }
            if round == 700 {
                late = refused(&world);
            }
        }
        let refused = refused(&world);
        if are_always {
            assert!(refused < 10, "only while little is known of the others: {refused}");
        } else {
            assert_eq!(refused - late, 3 * 499, "all of them, for as long as it lasts");
            assert!(late > 210, "{late}");
        }
    }
}

/// A stream and a request that waits for its client are in flight but do not count as work: they
/// add neither points nor load until the request is resumed. Repeated and foreign events change
/// nothing.
#[test]
fn what_waits_for_its_client_is_no_work() {
    let mut world = without_spill_over();
    let leases: Vec<_> = (0..3).map(|_| world.route()).collect();
    let look = |world: &World| {
        let a = &world.snapshot().backends[0];
        (a.in_flight, a.at_work, a.score.in_flight)
    };
    let paused = |lease: &Lease| Event::LeasePaused { lease: lease.id, backend: A };
    let resumed = |lease: &Lease| Event::LeaseResumed { lease: lease.id, backend: A };
    let latency = Duration::from_millis(1);
    let opened =
        |lease: &Lease| Event::StreamOpened { lease: lease.id, backend: A, status: 101, latency };
    assert_eq!(look(&world), (3, 3, 6.0));
    world.tell(resumed(&leases[0]));
    world.tell(paused(&leases[0]));
    world.tell(paused(&leases[0]));
    world.tell(Event::LeasePaused { lease: leases[1].id, backend: B });
    world.tell(Event::LeasePaused { lease: LeaseId(77), backend: A });
    assert_eq!(look(&world), (3, 2, 4.0));
    world.tell(opened(&leases[1]));
    world.tell(opened(&leases[1]));
    world.tell(paused(&leases[1]));
    world.tell(resumed(&leases[1]));
    assert_eq!(look(&world), (3, 1, 2.0));
    world.tell(resumed(&leases[0]));
    assert_eq!(look(&world), (3, 2, 4.0));
    world.tell(paused(&leases[0]));
    world.tell(opened(&leases[0]));
    assert_eq!(look(&world), (3, 1, 2.0));
    leases.into_iter().for_each(|lease| world.end(lease, Outcome::Abandoned));
    assert_eq!(look(&world), (0, 0, 0.0));
}

/// Two backends of 10 and 20 ms; every request goes to the first one.
fn without_spill_over() -> World {
    let mut rules = Rules::default();
    rules.switch.spill_over = false;
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(A, 10);
    world.answer(B, 20);
    world
}

/// A backend that counts as refusing because of its 404s still does so ten minutes later, if all
/// its responses since then were 404s.
#[test]
fn a_broken_release_stays_one_until_it_answers() {
    let mut world = without_spill_over();
    let serve = |world: &mut World, to: BackendId, status: u16| {
        let other = if to == A { B } else { A };
        let lease = world.router.route(world.now, &[other]).expect("one is left");
        assert_eq!(lease.backend(), to);
        world.finish(lease, status);
        world.snapshot().backends[0].refused
    };
    let mut refused = 0;
    for _ in 0..40 {
        world.now += Duration::from_millis(150);
        serve(&mut world, B, 200);
        refused = serve(&mut world, A, 404);
    }
    assert!(refused > 20, "{refused}");
    world.now += Duration::from_secs(600);
    for _ in 0..5 {
        serve(&mut world, B, 200);
    }
    assert_eq!(serve(&mut world, A, 404), refused + 1);
}

/// Good responses to requests that were sent before the first 404 show an earlier state. They do
/// not end a run of 404s: a backend that has many requests in flight is found as soon as an idle
/// one.
#[test]
fn older_requests_do_not_end_a_row() {
    let mut world = without_spill_over();
    let to_a = |world: &mut World| {
        let lease = world.router.route(world.now, &[B]).expect("one is left");
        assert_eq!(lease.backend(), A);
        lease
    };
    for _ in 0..200 {
        let lease = to_a(&mut world);
        world.finish(lease, 200);
        let lease = world.router.route(world.now, &[A]).expect("one is left");
        world.finish(lease, 200);
    }
    let mut older: Vec<_> = (0..60).map(|_| to_a(&mut world)).collect();
    world.now += Duration::from_millis(10);
    let refused = |world: &World| world.snapshot().backends[0].refused;
    let mut count = 0;
    while refused(&world) == 0 {
        let lease = to_a(&mut world);
        world.finish(lease, 404);
        world.finish(older.pop().expect("a broken release is found soon"), 200);
        world.now += Duration::from_millis(10);
        count += 1;
    }
    assert_eq!(count, 6);
    // Many more of them do not hide that the next 404 has the same cause.
    older.into_iter().for_each(|lease| world.finish(lease, 200));
    world.now += Duration::from_secs(9);
    let lease = to_a(&mut world);
    world.finish(lease, 404);
    assert_eq!(refused(&world), 2);
    // A good response to a later request does end it: from then a single 404 is normal.
    let lease = to_a(&mut world);
    world.finish(lease, 200);
    let lease = to_a(&mut world);
    world.finish(lease, 404);
    assert_eq!(refused(&world), 2);
}

/// Under every policy a backend that named a time gets no request for that time while another one
/// is usable, whether the others are idle or busy. Afterwards it gets requests again.
#[test]
fn every_policy_heeds_a_hold() {
    for policy in PolicyKind::ALL {
        let mut world = World::with_rules(&["a", "b", "c"], Rules { policy, ..Rules::default() });
        [A, B, C].into_iter().for_each(|backend| world.answer(backend, 10));
        let lease = world.route();
        let held = lease.backend();
        let hold = Some(Duration::from_secs(20));
        world.end(lease, Outcome::Refused { status: 503, hold });
        let mut busy = Vec::new();
        for _ in 0..100 {
            let lease = world.route();
            assert_ne!(lease.backend(), held, "{}", policy.name());
            busy.push(lease);
            assert_ne!(world.serve(), held, "{}", policy.name());
        }
        busy.into_iter().for_each(|lease| world.finish(lease, 200));
        world.now += Duration::from_secs(20);
        // Without these two only the held one is left, which was released.
        let others: Vec<_> = [A, B, C].into_iter().filter(|id| *id != held).collect();
        let lease = world.router.route(world.now, &others).expect("it is usable again");
        assert_eq!(lease.backend(), held, "{}", policy.name());
        world.finish(lease, 200);
        assert_eq!(world.snapshot().backends[held.index()].held, None, "{}", policy.name());
    }
}
