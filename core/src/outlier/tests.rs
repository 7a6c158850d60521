//! The rules of ejection for one backend, and of regret, with numbers worked out by hand.
use super::*;

const SAVING: Saving = Saving {
    share: 0.5,
    failed: 1.0,
    others: 0.0,
    refused: None,
    latency_ms: 10.0,
    charge_ms: 5000.0,
};

const fn others(share: f64) -> Option<Others> {
    Some(Others { share, requests: 1e9 })
}

/// Records a failure. Returns whether it calls for an ejection.
fn fails(watch: &mut Watch, now: Instant, others: Option<Others>) -> bool {
    let may_be_bad = watch.failed(now, now, false);
    let is_bad = watch.is_bad(others, false);
    assert!(may_be_bad || !is_bad, "the others are asked whenever they matter");
    is_bad
}

/// Three errors in a row eject for 250 ms. Each relapse makes it eight times as long up to 8 s and
/// doubles the good requests needed, up to 32. After half a minute without an ejection it starts
/// again.
#[test]
fn back_off_grows() {
    let mut watch = Watch::new(WINDOW_START, WINDOW_START);
    let mut now = Instant::from_millis(1000);
    assert!(!fails(&mut watch, now, others(0.002)));
    assert!(!fails(&mut watch, now, others(0.002)));
    assert!(fails(&mut watch, now, others(0.002)));
    assert!(fails(&mut watch.clone(), now, others(0.0)));
    for (wait, expected) in [(250, 4), (2000, 8), (8000, 16), (8000, 32), (8000, 32)] {
        watch.eject(now);
        let until = now + Duration::from_millis(wait);
        assert_eq!(watch.standing, Standing::Ejected { until });
        assert!(
            !watch.ping_answered(now + Duration::from_millis(wait - 1)),
            "the back-off is not over"
        );
        now = until;
        assert!(watch.ping_answered(now));
        let Standing::Probation { needed, .. } = watch.standing else { panic!("probation") };
        assert_eq!(needed, expected);
    }
    for _ in 0..32 {
        assert!(!watch.is_in());
        watch.probation_ended(now, Some(true), None);
    }
    assert_eq!((watch.is_in(), watch.window), (true, 2), "slow start");
    watch.eject(now + CALM);
    let until = now + CALM + BACK_OFF;
    assert_eq!(watch.standing, Standing::Ejected { until });
}
/// A window of 2 grows by one with each good response and is unlimited at 64.
#[test]
fn slow_start_opens() {
    let mut watch = Watch::new(WINDOW_START, WINDOW_START);
    for n in 2..64 {
        assert_eq!(watch.window, n);
        watch.succeeded(Instant::ZERO);
    }
    assert_eq!(watch.window, u32::MAX);
}

/// The median counts only backends with enough requests. One that fails everything does not excuse
/// itself, and of two others the better one counts. The number of requests decides whether two
/// failures in a row are enough.
#[test]
fn others_are_compared_by_backend() {
    let errors = |requests, errors| Errors { requests, errors };
    let mut scratch = Vec::new();
    let mut of = |shares: &[Errors]| Others::new(shares.iter().copied(), &mut scratch);
    let others = |share, requests| Some(Others { share, requests });
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[errors(1.9, 1.9)]), None);
    assert_eq!(of(&[errors(9.0, 5.0)]), others(0.5, 9.0));
    assert_eq!(of(&[errors(9.0, 5.0), errors(99.0, 0.0)]), others(0.0, 108.0));
    let three = [errors(9.0, 5.0), errors(99.0, 0.0), errors(9.0, 1.0)];
    assert_eq!(of(&three), others(0.1, 117.0));
    assert!(of(&[errors(50.0, 0.0)]).is_some_and(|others| others.are_calm()));
    assert!(!of(&[errors(49.0, 0.0)]).is_some_and(|others| others.are_calm()));
}

/// If nothing is known of the others, five failures in a row are needed.
#[test]
fn alone_it_takes_five() {
    let mut watch = Watch::new(u32::MAX, u32::MAX);
    let now = Instant::from_millis(5);
    let verdicts: Vec<_> = (0..5).map(|_| fails(&mut watch, now, None)).collect();
    assert_eq!(verdicts, [false, false, false, false, true]);
    // Two good requests of the others must not excuse it permanently.
    let few = Some(Others { share: 0.0, requests: 2.0 });
    let mut watch = Watch::new(u32::MAX, u32::MAX);
    let verdicts: Vec<_> = (0..5).map(|_| fails(&mut watch, now, few)).collect();
    assert_eq!(verdicts, [false, false, false, false, true]);
    assert!(few.is_some_and(|few| !watch.is_excused_by(few)));
}

/// Three failures in a row are enough if a backup is known to fail less. For that the backup needs
/// two requests, with no allowance for their small number.
#[test]
fn a_better_backup_needs_few_requests() {
    let now = Instant::from_millis(5);
    let mut watch = Watch::new(u32::MAX, u32::MAX);
    let others = |requests, errors| Errors { requests, errors };
    for (in_row, expected) in [(1, false), (2, false), (3, true)] {
        watch.failed(now, now, false);
        assert_eq!(watch.has_failed_in_row(), expected, "{in_row}");
    }
    let rows = [
        (others(1.9, 0.0), false),
        (others(2.0, 0.0), true),
        (others(9.0, 2.0), true),
        (others(9.0, 3.0), false),
    ];
    for (spare, expected) in rows {
        assert_eq!(watch.is_worse_than_spare(spare), expected, "{spare:?}");
    }
}

/// By hand, against a backend that serves: three standard errors above no failure in n requests are
/// 3/(n + 1), so a backend that fails everything is certainly worse from 9 requests on, and one
/// that fails a quarter from 60. It is not if the latest requests of the other one have failed as
/// well. Five failures in a row need no results of the other one.
#[test]
fn a_backend_gives_way_to_a_surely_better_one() {
    let now = Instant::from_millis(5);
    let mut bad = Watch::new(u32::MAX, u32::MAX);
    for _ in 0..200 {
        fails(&mut bad, now, None);
    }
    bad.errors_in_row = 4;
    let mut quarter = bad.clone();
    quarter.recent = Errors { requests: 20.0, errors: 5.5 };
    let mut good = Watch::new(u32::MAX, u32::MAX);
    let none = |requests| Errors { requests, errors: 0.0 };
    assert!(!bad.gives_way_to(&good, none(50.0)), "nothing of late is known");
    (0..20).for_each(|_| good.succeeded(now));
    for (requests, than_bad, than_quarter) in
        [(9.0, false, false), (11.0, true, false), (50.0, true, false), (70.0, true, true)]
    {
        let other = none(requests);
        assert_eq!(bad.gives_way_to(&good, other), than_bad, "{requests}");
        assert_eq!(quarter.gives_way_to(&good, other), than_quarter, "{requests}");
    }
    for _ in 0..6 {
        fails(&mut good, now, None);
    }
    assert!(!quarter.gives_way_to(&good, none(1000.0)));
    let unknown = Watch::new(u32::MAX, u32::MAX);
    assert!(!bad.gives_way_to(&unknown, none(0.0)));
    fails(&mut bad, now, None);
    assert!(bad.gives_way_to(&unknown, none(0.0)));
    assert!(!bad.gives_way_to(&unknown, Errors { requests: 1.0, errors: 0.1 }));
}

/// A single failure is enough for a backend that gets few requests, if the others had requests and
/// have not failed.
#[test]
fn seldom_asked_one_failure_is_enough() {
    let now = Instant::from_millis(5);
    let of = |share, requests| Some(Others { share, requests });
    for (others, expected) in
        [(of(0.0, 4.0), true), (of(0.0, 3.9), false), (of(0.001, 99.0), false), (None, false)]
    {
        let mut watch = Watch::new(u32::MAX, u32::MAX);
        assert!(watch.failed(now, now, true));
        assert_eq!(watch.is_bad(others, true), expected, "{others:?}");
        assert!(!watch.is_bad(others, false));
    }
}

/// Pings count for all steps of a probation but the last, which takes a request. A probation of
/// eight seconds needs only that one.
#[test]
fn pings_carry_all_steps_but_the_last() {
    let now = Instant::from_millis(1000);
    let mut watch = Watch::new(u32::MAX, WINDOW_START);
    watch.eject(now);
    let back = now + Duration::from_millis(250);
    assert!(watch.ping_answered(back));
    for _ in 0..10 {
        assert!(!watch.ping_answered(back));
    }
    let Standing::Probation { good, needed, .. } = watch.standing else { panic!("probation") };
    assert_eq!((good, needed), (3, 4));
    watch.try_out();
    assert!(!watch.wants_trial());
    watch.probation_ended(back, None, None);
    assert!(watch.wants_trial(), "after an outcome that says nothing another request is tried");
    watch.probation_ended(back, Some(true), None);
    assert_eq!((watch.is_in(), watch.window), (true, 2));
    for window in [4, 8, 16, 32, u32::MAX] {
        watch.ping_answered(back);
        assert_eq!(watch.window, window, "pings alone end slow start");
    }
    (0..4).for_each(|_| watch.eject(back));
    assert!(watch.ping_answered(back + Duration::from_secs(8)));
    watch.probation_ended(back + Duration::from_secs(16), Some(true), None);
    assert!(watch.is_in(), "eight seconds without a failure are enough");
}

/// By hand: a backend with half of the requests fails a tenth of them. Its ejection saves 5 % of
/// all requests, and may cost 65 ms of latency: 1.5 times the 10 ms before it, plus 5 times as a
/// charge. It stays out while the others lose less, and returns when they are slower or refuse
/// more. Then no backend is ejected for 8 s, and for 16 s the next time.
#[test]
fn an_ejection_that_costs_more_than_it_saves_is_regretted() {
    let saving = Saving { share: 0.5, failed: 0.1, refused: Some(0.0), ..SAVING };
    let now = Instant::from_millis(1000);
    let mut regret = Regret::default();
    regret.ejected(&saving);
    assert!((0..1000).all(|number| !regret.observe(now, (number % 50 != 0).then_some(60.0))));
    let slow = (1..1000).find(|_| regret.observe(now, Some(80.0))).expect("it is regretted");
    assert!((10..20).contains(&slow), "{slow}: 60 + 20 (1 - 0.98^n), above 65");
    assert!(!regret.allows(now + Duration::from_millis(7999)));
    let again = now + Duration::from_secs(8);
    assert!(regret.allows(again));
    regret.ejected(&saving);
    let refused = (1..1000).find(|number| regret.observe(again, (number % 4 != 0).then_some(10.0)));
    assert!(
        refused.is_some_and(|number| number < 60),
        "soon after the first judgement: {refused:?}"
    );
    assert!(!regret.allows(again + Duration::from_millis(15_999)));
    assert!(regret.allows(again + Duration::from_secs(16)));
}

/// A pool refuses a quarter of its requests before and during an ejection. Neither this ejection
/// nor that of a second backend is regretted. It is regretted once twice as many requests are
/// refused.
#[test]
fn refusals_from_before_are_not_regretted() {
    let now = Instant::from_millis(1000);
    let mut regret = Regret::default();
    for refused in [Some(0.25), None] {
        regret.ejected(&Saving { share: 0.5, failed: 0.1, refused, ..SAVING });
        let mut ends = (0..1000).map(|number| (number % 4 != 0).then_some(10.0));
        assert!(ends.all(|good_ms| !regret.observe(now, good_ms)), "{refused:?}");
    }
    assert!((0..1000).any(|number| regret.observe(now, (number % 2 != 0).then_some(10.0))));
}

/// If the others fail 5 %, a probation of 32 tolerates two failures after its first good request,
/// and more the longer it lasts. If they do not fail, it tolerates none. A first request that fails
/// is never tolerated: a backend that fails everything would cost three requests a trial.
#[test]
fn probation_puts_up_with_what_is_usual() {
    let now = Instant::from_millis(1000);
    let mut watch = Watch::new(u32::MAX, WINDOW_START);
    (0..4).for_each(|_| watch.eject(now));
    let back = now + Duration::from_secs(8);
    assert!(watch.ping_answered(back));
    let mut calm = watch.clone();
    calm.probation_ended(back, Some(false), others(0.0));
    assert!(matches!(calm.standing, Standing::Ejected { .. }));
    let mut first = watch.clone();
    first.probation_ended(back, Some(false), others(0.05));
    assert!(matches!(first.standing, Standing::Ejected { .. }));
    watch.probation_ended(back, Some(true), others(0.05));
    watch.probation_ended(back, Some(false), others(0.05));
    let mut sick = watch.clone();
    sick.probation_ended(back, Some(false), others(0.05));
    sick.probation_ended(back, Some(false), others(0.05));
    assert!(matches!(sick.standing, Standing::Ejected { .. }));
    for number in 1..32 {
        watch.probation_ended(back, Some(number % 16 != 0), others(0.05));
    }
    assert!(!watch.is_in());
    watch.probation_ended(back, Some(true), others(0.05));
    assert!(watch.is_in());
}

/// A backend that fails every trial is tried after 250 ms, 2 s and 8 s, then every 8 s, and after
/// more than 32 s of failures at intervals of a quarter of that time, 2 min at most. It is ejected
/// nine times in the first minute and 13 times in the next 14 minutes.
#[test]
fn what_fails_for_long_is_tried_seldom() {
    let start = Instant::from_millis(1000);
    let mut watch = Watch::new(u32::MAX, WINDOW_START);
    let mut now = start;
    let mut waits = Vec::new();
    while now.since(start) < Duration::from_secs(900) {
        watch.eject(now);
        let Standing::Ejected { until } = watch.standing else { panic!("ejected") };
        waits.push((now.since(start).as_secs(), until.since(now).as_millis()));
        now = until;
    }
    let all: Vec<_> = waits.iter().map(|(_, wait)| *wait).collect();
    assert_eq!(all[..6], [250, 2000, 8000, 8000, 8000, 8000]);
    assert!(waits.iter().all(|(age, wait)| *age > 60 || *wait <= 15_000), "{waits:?}");
    assert_eq!(all.last(), Some(&120_000));
    let in_minute = waits.iter().filter(|(age, _)| *age < 60).count();
    assert_eq!((in_minute, waits.len()), (9, 22), "{waits:?}");
    watch.eject(now + CALM);
    assert_eq!(watch.standing, Standing::Ejected { until: now + CALM + BACK_OFF }, "anew");
}

/// Failures of the others that are not new do not end a back-off. If they failed 7 % before the
/// ejection, 7 % after it do not cause a trial, however long they last, but 20 % do.
#[test]
fn usual_failures_call_nobody_back() {
    let saving = Saving { share: 0.5, failed: 1.0, others: 0.07, ..SAVING };
    let now = Instant::from_millis(1000);
    let mut regret = Regret::default();
    regret.ejected(&saving);
    for number in 0..10_000 {
        regret.observe(now, (number % 14 != 0).then_some(10.0));
        assert!(!regret.calls_back(), "{number}");
    }
    let first = (1..1000).find(|number| {
        regret.observe(now, (number % 5 != 0).then_some(10.0));
        regret.calls_back()
    });
    assert!(first.is_some_and(|first| (200..230).contains(&first)), "{first:?}");
}

/// Every twenty requests that fail or are refused elsewhere end the back-off early.
#[test]
fn it_is_called_back_where_the_others_refuse() {
    let saving = Saving { share: 0.5, failed: 1.0, refused: Some(0.0), ..SAVING };
    let now = Instant::from_millis(1000);
    let mut regret = Regret::default();
    regret.ejected(&saving);
    for _ in 0..2 {
        for number in 1..=20 {
            assert!(!regret.calls_back(), "{number}");
            regret.observe(now, Some(10.0));
            regret.observe(now, None);
        }
        assert!(regret.calls_back());
    }
    let mut watch = Watch::new(u32::MAX, WINDOW_START);
    watch.eject(now);
    assert!(!watch.ping_answered(now));
    watch.call_back(now);
    assert!(watch.ping_answered(now));
    watch.call_back(now);
    assert!(matches!(watch.standing, Standing::Probation { .. }), "only a back-off");
}
