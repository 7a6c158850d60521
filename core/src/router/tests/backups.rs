//! Backups: used only while no other backend can take a request, under every policy.
use super::*;
use crate::config::BackendLimits;

/// A world in which all pings were good. The last backend is a backup.
fn world(policy: PolicyKind, names: &[&str], per_backend: u32) -> World {
    let mut world = World::with_rules(names, rules(policy, names, per_backend));
    for slot in 0..names.len() as u32 {
        world.answer(BackendId::from_index(slot), 10);
    }
    world
}

fn rules(policy: PolicyKind, names: &[&str], per_backend: u32) -> Rules {
    let backups = names.last().map(|name| (*name).to_owned()).into_iter().collect();
    let limits = BackendLimits { backups, per_backend, ..BackendLimits::default() };
    Rules { policy, limits, ..Rules::default() }
}

/// Serves requests one after the other. Returns how many each of the backends got.
fn serve<const N: usize>(world: &mut World, count: usize) -> [usize; N] {
    let mut counts = [0; N];
    for _ in 0..count {
        counts[world.serve().index()] += 1;
        world.advance(1);
        keep_up(world);
    }
    counts
}

/// Answers the pings of all backends that are up.
fn keep_up(world: &mut World) {
    for backend in world.snapshot().backends {
        let asked = (backend.id, ProbeKind::Ping);
        if backend.health != Health::Down && world.asked.iter().any(|one| (one.1, one.2) == asked) {
            world.answer(backend.id, 10);
        }
    }
}

/// Completes two good pings of A, after which it is up. The other backends stay as they are.
fn recover(world: &mut World) {
    for _ in 0..2 {
        world.await_ping(A);
        world.answer(A, 10);
        keep_up(world);
    }
}

/// A backup gets no requests while another backend is usable. While the others are down it gets all
/// requests, until one of them is up.
#[test]
fn a_backup_waits_until_the_others_are_down() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"], 0);
        assert_eq!(serve::<3>(&mut world, 100)[2], 0, "{policy:?}");
        for down in [A, B] {
            assert_eq!(serve::<3>(&mut world, 20)[2], 0, "{policy:?}");
            world.await_ping(down);
            world.fail(down, ProbeFailure::Refused);
        }
        assert!(world.router.has_usable());
        assert_eq!(serve::<3>(&mut world, 50), [0, 0, 50], "{policy:?}");
        // Of `learned` some are trials or controls.
        let leases: Vec<Lease> = (0..10).map(|_| world.route()).collect();
        let reasons = leases.iter().map(|lease| world.router.reason(lease));
        let of_backups = reasons.filter(|reason| *reason == RouteReason::Backup);
        assert!(of_backups.count() >= 8, "{policy:?}");
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
        recover(&mut world);
        assert_eq!(serve::<3>(&mut world, 50), [50, 0, 0], "{policy:?}");
    }
}

/// While a backend is ejected for its failures, its backup serves.
#[test]
fn a_backup_serves_for_an_ejected_backend() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b"], 0);
        assert_eq!(serve::<2>(&mut world, 50), [50, 0], "{policy:?}");
        let (mut failed, mut served) = (0, 0);
        for _ in 0..200 {
            let lease = world.route();
            let is_primary = lease.backend() == A;
            (failed, served) = (failed + u32::from(is_primary), served + u32::from(!is_primary));
            world.finish(lease, if is_primary { 500 } else { 200 });
            world.advance(1);
            keep_up(&mut world);
        }
        assert!(failed <= 12 && served >= 188, "{policy:?}: {failed} failed, {served} served");
        let mut last = 0;
        for request in 0..20_000 {
            let lease = world.route();
            if lease.backend() == B {
                last = request;
            }
            world.finish(lease, 200);
            world.advance(2);
            keep_up(&mut world);
        }
        assert!(last < 10_000, "{policy:?}: the backup still served request {last}");
    }
}

/// While the others are full, single requests go to a backup, and the current backend stays.
#[test]
fn a_backup_takes_what_the_others_cannot() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b"], 3);
        let mut leases: Vec<Lease> = (0..5).map(|_| world.route()).collect();
        let to_backup = leases.iter().filter(|lease| lease.backend() == B).count();
        assert_eq!(to_backup, 2, "{policy:?}");
        leases.push(world.route());
        assert_eq!(world.router.route(world.now, &[]), Err(NoRoute::Full), "{policy:?}");
        if policy == PolicyKind::Score {
            assert_eq!(world.router.current(), Some(A));
        }
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
        assert_eq!(serve::<2>(&mut world, 20), [20, 0], "{policy:?}");
    }
}

/// A retry goes to a backup only if every other backend was tried. A refused request does not go
/// there, and it gives no second opinions.
#[test]
fn a_retry_reaches_a_backup_last() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"], 0);
        let lease = world.router.route(world.now, &[A]).expect("b");
        assert_eq!(lease.backend(), B, "{policy:?}");
        world.end(lease, Outcome::Abandoned);
        assert!(world.router.has_other(world.now, &[A]), "{policy:?}");
        assert!(!world.router.has_other(world.now, &[A, B]), "{policy:?}");
        assert!(world.router.has_next(world.now, &[A, B]), "{policy:?}");
        assert!(!world.router.has_next(world.now, &[A, B, C]), "{policy:?}");
        let lease = world.router.route(world.now, &[A, B]).expect("the backup");
        assert_eq!(lease.backend(), C, "{policy:?}");
        world.end(lease, Outcome::Abandoned);
    }
}

/// Both of two backends with a backup fail every request, beginning at the same time or a minute
/// apart. Under every policy both are ejected, although they are more than half of the pool,
/// because the backup serves. If it fails as well, requests go to all three again.
#[test]
fn all_may_be_ejected_for_a_backup() {
    for (policy, b_fails) in PolicyKind::ALL.into_iter().flat_map(|one| [(one, 0), (one, 3000)]) {
        let mut world = world(policy, &["a", "b", "c"], 0);
        serve::<3>(&mut world, 100);
        let mut failed = [0; 3];
        let mut served = [0; 3];
        for request in 0..9000 {
            let lease = world.route();
            let is_failed = match lease.backend() {
                A => true,
                B => request >= b_fails,
                _ => request >= 6000,
            };
            failed[request / 3000] += u32::from(is_failed);
            served[lease.backend().index()] += u32::from(request >= 7000);
            world.finish(lease, if is_failed { 500 } else { 200 });
            world.advance(20);
            keep_up(&mut world);
        }
        let name = format!("{policy:?} {b_fails}: {failed:?} failed, {served:?} served");
        assert!(failed[0] <= 40 && failed[1] <= 40, "{name}");
        assert!(served[0] + served[1] >= 1600, "{name}");
    }
}

/// A backup is ejected while it serves for a backend that is down. When that backend is up again,
/// the backup gets no trials, because it is not needed.
#[test]
fn an_ejected_backup_is_not_tried_out_while_it_is_not_needed() {
    for policy in PolicyKind::ALL {
        let names = ["a", "b", "c"];
        let mut rules = rules(policy, &names, 0);
        rules.limits.backups.insert("b".to_owned());
        let mut world = World::with_rules(&names, rules);
        [A, B, C].into_iter().for_each(|backend| world.answer(backend, 10));
        world.await_ping(A);
        world.fail(A, ProbeFailure::Refused);
        (0..50).for_each(|_| {
            let lease = world.router.route(world.now, &[B]).expect("c is left");
            world.finish(lease, 200);
        });
        while matches!(world.standing(B), StandingView::In | StandingView::SlowStart { .. }) {
            let lease = world.router.route(world.now, &[C]).expect("b is left");
            world.finish(lease, 500);
        }
        recover(&mut world);
        assert_eq!(serve::<3>(&mut world, 2000), [2000, 0, 0], "{policy:?}");
    }
}

/// While a backend pauses on its own request, its backup serves. After the pause the backup gets no
/// more requests.
#[test]
fn a_backup_serves_while_the_other_backend_pauses() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b"], 0);
        let lease = world.route();
        assert_eq!(lease.backend(), A, "{policy:?}");
        world.end(lease, Outcome::Refused { status: 503, hold: Some(Duration::from_secs(2)) });
        assert_eq!(serve::<2>(&mut world, 10), [0, 10], "{policy:?}");
        world.advance(2000);
        assert_eq!(world.serve(), A, "{policy:?}");
    }
}

/// One of two backups was tried, and the other has requested a pause. A retry goes to the other
/// backup, not to the ejected primary backend.
#[test]
fn a_retry_reaches_a_held_backup_before_an_ejected_backend() {
    for policy in PolicyKind::ALL {
        let names = ["a", "b", "c"];
        let mut rules = rules(policy, &names, 0);
        rules.limits.backups.insert("b".to_owned());
        let mut world = World::with_rules(&names, rules);
        [A, B, C].into_iter().for_each(|backend| world.answer(backend, 10));
        serve::<3>(&mut world, 50);
        while matches!(world.standing(A), StandingView::In | StandingView::SlowStart { .. }) {
            let lease = world.router.route(world.now, &[B, C]).expect("a is left");
            world.finish(lease, 500);
        }
        let lease = world.router.route(world.now, &[A, B]).expect("c is left");
        world.end(lease, Outcome::Refused { status: 503, hold: Some(Duration::from_secs(9)) });
        let lease = world.router.route(world.now, &[B]).expect("two are left");
        assert_eq!(lease.backend(), C, "{policy:?}");
        world.end(lease, Outcome::Abandoned);
    }
}

/// A switch from a current backup back to a recovered backend is not a failover, since the backup
/// has not failed. Later requests are not failovers either.
#[test]
fn the_return_from_a_backup_is_no_failover() {
    let mut world = world(PolicyKind::Score, &["a", "b"], 0);
    assert_eq!(world.serve(), A);
    world.await_ping(A);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(world.serve(), B);
    world.notices();
    recover(&mut world);
    let reason = SwitchReason::FromBackup;
    let switched = Notice::Switched { from: Some(B), to: A, reason };
    assert!(world.notices().contains(&switched), "{:?}", world.router.last_switch());
    for _ in 0..2 {
        let lease = world.route();
        assert_eq!(lease.backend(), A);
        assert_eq!(world.router.reason(&lease), RouteReason::Current);
        world.finish(lease, 200);
        world.advance(2000);
        keep_up(&mut world);
    }
}

/// If a current backup goes down when another backend is usable, this is a failover for as long as
/// the backup is down.
#[test]
fn a_backup_that_fails_is_failed_over() {
    let names = ["a", "b"];
    let mut world = world(PolicyKind::Score, &names, 0);
    world.await_ping(A);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(world.serve(), B);
    world.await_ping(B);
    world.fail(B, ProbeFailure::Refused);
    for _ in 0..2 {
        world.await_ping(A);
        world.answer(A, 10);
    }
    let reason = SwitchReason::Failover { cause: OutCause::Down };
    assert_eq!(world.router.last_switch().map(|(_, reason)| reason), Some(reason));
    let lease = world.route();
    assert_eq!((lease.backend(), world.router.reason(&lease)), (A, RouteReason::Failover));
    world.finish(lease, 200);
}

/// A current backup reaches the limit of its slow start while another backup has no requests in
/// flight. It stays current, as a primary backend in slow start does. (Only policies that rank for
/// each request have a slow start, so the test changes from `score`, whose current backend remains
/// known.)
#[test]
fn a_backup_in_slow_start_stays_current() {
    let names = ["a", "b", "c"];
    let mut rules = rules(PolicyKind::Score, &names, 0);
    rules.limits.backups.insert("b".to_owned());
    let mut world = World::with_rules(&names, rules.clone());
    [A, B, C].into_iter().for_each(|backend| world.answer(backend, 10));
    world.await_ping(A);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(world.serve(), B);
    world.reconfigure(&names, Rules { policy: PolicyKind::LeastRequest, ..rules });
    for (down, current) in [(B, C), (C, B)] {
        world.await_ping(down);
        world.fail(down, ProbeFailure::Refused);
        assert_eq!(world.router.current(), Some(current));
        for _ in 0..2 {
            world.await_ping(down);
            world.answer(down, 10);
            keep_up(&mut world);
        }
    }
    assert_eq!(world.standing(B), StandingView::SlowStart { window: 2 });
    let leases = [(); 2].map(|()| world.router.route(world.now, &[C]).expect("b is left"));
    let refused = world.router.route(world.now, &[A, B]).expect("c is left");
    world.end(refused, Outcome::Refused { status: 503, hold: None });
    assert_eq!(world.router.current(), Some(B));
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// Two backups share the requests among themselves, and a refusal of one goes to the other.
#[test]
fn backups_are_a_pool_of_their_own() {
    let names = ["a", "b", "c"];
    let mut rules = rules(PolicyKind::LeastRequest, &names, 0);
    rules.limits.backups.insert("b".to_owned());
    let mut world = World::with_rules(&names, rules);
    for backend in [B, C] {
        world.answer(backend, 10);
    }
    world.fail(A, ProbeFailure::Refused);
    let leases: Vec<Lease> = (0..20).map(|_| world.route()).collect();
    assert_eq!(leases.iter().filter(|lease| lease.backend() == B).count(), 10);
    assert!(world.router.has_other(world.now, &[B]));
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// A reload makes a backend a backup, and an ordinary one again.
#[test]
fn a_reload_makes_and_unmakes_a_backup() {
    for policy in PolicyKind::ALL {
        let names = ["a", "b"];
        let mut world = world(policy, &names, 0);
        world.reconfigure(&names, Rules { policy, ..Rules::default() });
        let leases: Vec<Lease> = (0..40).map(|_| world.route()).collect();
        let is_used = leases.iter().any(|lease| lease.backend() == B);
        assert!(is_used || policy == PolicyKind::Score, "{policy:?}");
        world.reconfigure(&names, rules(policy, &names, 0));
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
        assert_eq!(serve::<2>(&mut world, 20), [20, 0], "{policy:?}");
        assert!(world.snapshot().backends[1].is_backup);
    }
}

/// If a backup has served a few requests well, the other backends are ejected after three failures
/// in a row each, under every policy, and after one failure of a trial. While the backup does
/// better, they do not excuse each other, however many fail.
#[test]
fn a_backup_that_is_known_to_be_good_takes_over_early() {
    for policy in PolicyKind::ALL {
        for names in [&["a", "b"][..], &["a", "b", "c", "d"]] {
            let mut world = world(policy, names, 0);
            let backup = BackendId::from_index(names.len() as u32 - 1);
            let others: Vec<_> = (0..backup.index() as u32).map(BackendId::from_index).collect();
            for other in &others {
                world.await_ping(*other);
                world.fail(*other, ProbeFailure::Refused);
            }
            for _ in 0..3 {
                assert_eq!(world.serve(), backup, "{policy:?}");
            }
            for other in others.iter().chain(&others) {
                world.await_ping(*other);
                world.answer(*other, 10);
                keep_up(&mut world);
            }
            for _ in 0..100 {
                assert_ne!(world.serve(), backup, "{policy:?}");
                world.advance(5);
                keep_up(&mut world);
            }
            let (mut failed, mut failed_first) = (0, None);
            for _ in 0..2000 {
                let lease = world.route();
                let is_failed = lease.backend() != backup;
                failed += usize::from(is_failed);
                if !is_failed && failed_first.is_none() {
                    failed_first = Some(failed);
                }
                world.finish(lease, if is_failed { 500 } else { 200 });
                world.advance(5);
                keep_up(&mut world);
            }
            // Each fails three in a row, then one in each of two trials within ten seconds.
            let (least, most) = (3 * others.len(), 5 * others.len());
            assert!(failed_first <= Some(least), "{policy:?}: {failed_first:?} before the backup");
            assert!(failed <= most, "{policy:?}: {failed} failed of {}", others.len());
        }
    }
}
