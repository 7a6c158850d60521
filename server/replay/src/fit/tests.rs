//! The fit recovers the widths, speeds and faults of simulated queues.
use super::history::{BackendHistory, Contact, Ending};
use super::spells::What;
use super::*;

/// Returns the history of a queue in front of several workers, served in order with exponential
/// times, as a proxy would observe it.
fn served(
    workers: usize,
    mean_ms: f64,
    per_second: f64,
    seconds: f64,
    speed: impl Fn(f64) -> f64,
) -> BackendHistory {
    let mut rng = intelliproxy_core::Rng::new(7);
    let mut exponential = |mean: f64| -mean * (1.0 - rng.unit()).ln();
    let mut free_at = vec![0.0_f64; workers];
    let (mut now, mut ends, mut visits) = (0.0, Vec::<f64>::new(), Vec::new());
    loop {
        now += exponential(1.0 / per_second);
        if now > seconds {
            break;
        }
        ends.retain(|end| *end > now);
        let worker = (0..workers).min_by(|a, b| free_at[*a].total_cmp(&free_at[*b]));
        let worker = worker.expect("a worker");
        let begin = free_at[worker].max(now);
        let end_s = begin + exponential(mean_ms / 1000.0) / speed(begin);
        free_at[worker] = end_s;
        let (in_flight, latency_ms) = (ends.len() as u32, 1000.0 * (end_s - now));
        ends.push(end_s);
        visits.push(Visit { at_s: now, end_s, in_flight, latency_ms, ending: Ending::Good });
    }
    visits.sort_by(|a, b| a.end_s.total_cmp(&b.end_s));
    BackendHistory { visits, ..BackendHistory::default() }
}

/// The fit finds the width and service time of a queue at loads of 60 to 90 %. If no request ever
/// waited, the width is reported as not observed.
#[test]
fn widths_come_back() {
    for (workers, load) in [(1, 0.6), (2, 0.7), (4, 0.8), (8, 0.9)] {
        let per_second = load * f64::from(workers) * 100.0;
        let backend = served(workers as usize, 10.0, per_second, 120.0, |_| 1.0);
        let width = fit_width(&backend.visits, |_| true).expect("a width");
        assert_eq!((width.workers, width.is_seen), (workers, true), "{width:?}");
        assert!((width.per_second / 100.0 - 1.0).abs() < 0.05, "{width:?}");
        let history = History { seconds: 120.0, ..History::default() };
        let fitted = Fitted::new("b", &backend, &history);
        let mean_ms = fitted.mean_ms().expect("answers");
        assert!((mean_ms / 10.0 - 1.0).abs() < 0.05, "{mean_ms}");
        assert_eq!(fitted.spells, []);
    }
    let backend = served(64, 10.0, 200.0, 30.0, |_| 1.0);
    let width = fit_width(&backend.visits, |_| true).expect("a width");
    assert!(!width.is_seen, "{width:?}");
}

/// A period at a fifth of the speed is found, its beginning within 2 s and its end within 3 s. It
/// does not affect the rest of the fit.
#[test]
fn brownouts_are_found() {
    let speed = |at: f64| if (20.0..40.0).contains(&at) { 0.2 } else { 1.0 };
    let backend = served(4, 10.0, 70.0, 60.0, speed);
    let history = History { seconds: 60.0, ..History::default() };
    let fitted = Fitted::new("b", &backend, &history);
    let [spell] = &fitted.spells[..] else {
        panic!("one spell: {:?}", fitted.spells);
    };
    assert!((spell.from_s - 20.0).abs() <= 2.0 && (spell.to_s - 40.0).abs() <= 3.0, "{spell}");
    assert!(matches!(spell.what, What::Speed(factor) if (0.15..0.3).contains(&factor)), "{spell}");
    let mean_ms = fitted.mean_ms().expect("answers");
    assert!((mean_ms / 10.0 - 1.0).abs() < 0.1, "{mean_ms}");
}

/// Errors at once are a sinkhole, refusals last until the next response, and silence is a black
/// hole.
#[test]
fn failures_are_found() {
    let history = History { seconds: 60.0, ..History::default() };
    let mut sinkhole = served(4, 10.0, 100.0, 60.0, |_| 1.0);
    for visit in sinkhole.visits.iter_mut().filter(|visit| (20.0..30.0).contains(&visit.at_s)) {
        (visit.latency_ms, visit.ending) = (1.0, Ending::Error);
        visit.end_s = visit.at_s + 0.001;
    }
    let fitted = Fitted::new("b", &sinkhole, &history);
    let found = fitted.spells.iter().find(|spell| matches!(spell.what, What::Sinkhole(_)));
    assert!(found.is_some_and(|spell| spell.contains(25.0)), "{:?}", fitted.spells);

    let mut gone = served(4, 10.0, 100.0, 20.0, |_| 1.0);
    gone.contacts = [(5.0, false), (20.0, true), (25.0, true), (31.0, false)]
        .map(|(at_s, is_refused)| Contact { at_s, is_refused })
        .into();
    let fitted = Fitted::new("b", &gone, &history);
    let refusing = Spell { from_s: 20.0, to_s: 31.0, what: What::Refusing };
    assert!(fitted.spells.contains(&refusing), "{:?}", fitted.spells);

    let mut silent = served(4, 10.0, 100.0, 60.0, |_| 1.0);
    for visit in silent.visits.iter_mut().filter(|visit| (30.0..34.0).contains(&visit.at_s)) {
        (visit.end_s, visit.ending) = (visit.at_s + 5.0, Ending::TimedOut);
    }
    silent.visits.retain(|visit| !(34.0..39.0).contains(&visit.at_s));
    silent.visits.sort_by(|a, b| a.end_s.total_cmp(&b.end_s));
    let fitted = Fitted::new("b", &silent, &history);
    let found = fitted.spells.iter().find(|spell| spell.what == What::BlackHole);
    assert!(found.is_some_and(|spell| spell.contains(33.0)), "{:?}", fitted.spells);
}

/// A recording that claims a duration of three hundred years costs no more than its visits. A
/// request that hung for all that time becomes one black hole.
#[test]
fn a_claimed_duration_costs_nothing() {
    let end_s = 1e10;
    let history = History { seconds: end_s, arrivals: vec![0.5, end_s], ..History::default() };
    let mut backend = served(4, 10.0, 100.0, 60.0, |_| 1.0);
    let hanging =
        Visit { at_s: 61.0, end_s, in_flight: 0, latency_ms: 0.0, ending: Ending::Silent };
    backend.visits.push(hanging);
    let width = Width { workers: 4, per_second: 100.0, is_seen: true };
    let found = spells(&backend, Some(&width), end_s);
    assert!(found.len() <= 2, "{found:?}");
    let spell = found.last().expect("a spell");
    assert!(spell.from_s <= 63.0 && spell.to_s >= end_s - 60.0, "{spell}");
    assert_eq!(spell.what, What::BlackHole);
    assert!(surges(&history, 2.0 / end_s).len() <= 2);
}
