//! The routing brain alone: two simulated backends, a thousand requests, no socket and no clock.
//!
//! `cargo run --package intelliproxy-core --example route`
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::{
    Action, ConfigError, Event, Instant, Lease, Notice, Outcome, PolicyKind, ProbeAnswer,
    ProbeKind, Router, RouterConfig, Rules,
};

/// The time that each backend takes for a request, in ms, before and after `b` becomes slow.
const BEFORE: [u64; 2] = [20, 5];
const AFTER: [u64; 2] = [20, 200];

fn main() -> Result<(), ConfigError> {
    // The driver owns the time: any monotonic count of nanoseconds will do. The seed fixes every
    // random choice, so the same inputs give the same decisions.
    let mut now = Instant::ZERO;
    let backends = vec!["a".to_owned(), "b".to_owned()];
    let rules = Rules { policy: PolicyKind::Learned, ..Rules::default() };
    let mut router = Router::new(RouterConfig { backends, rules }, 42, now)?;

    // Requests in flight by the time of their end. Two requests may end at the same time.
    let mut ends: BTreeMap<(Instant, u64), (Lease, Duration)> = BTreeMap::new();
    let mut requests = [0; 2];
    for number in 1..=1000_u64 {
        // A request every 10 ms. Everything that happens before it comes first.
        let arrives = Instant::from_millis(10 * number);
        let takes = if number <= 500 { BEFORE } else { AFTER };
        loop {
            let end = ends.keys().next().map(|(at, _)| *at);
            let Some(next) = end.into_iter().chain(router.poll_timeout()).min() else { break };
            if next > arrives {
                break;
            }
            now = now.max(next);
            // A fact: the request has ended. The event takes the lease back.
            if end == Some(next)
                && let Some((_, (lease, latency))) = ends.pop_first()
            {
                let outcome = Outcome::Answered { status: 200, latency };
                router.handle_event(now, Event::RequestFinished { lease, outcome });
            }
            // The router's own deadline: it may have probes to send.
            router.handle_timeout(now);
            run_actions(&mut router, now, &takes);
        }
        now = arrives;

        // The question: which backend serves this request? A retry would pass the backends that it
        // has tried.
        let lease = router.route(now, &[]).expect("two backends are configured");
        run_actions(&mut router, now, &takes);
        let backend = lease.backend().index();
        let latency = Duration::from_millis(takes[backend]);
        ends.insert((now + latency, number), (lease, latency));

        requests[backend] += 1;
        if number % 250 == 0 {
            println!(
                "requests {:4} to {number:4}: a {:3}, b {:3}",
                number - 249,
                requests[0],
                requests[1]
            );
            requests = [0; 2];
        }
    }

    // The reasons as plain data. A snapshot changes nothing.
    for backend in router.snapshot(now).backends {
        println!("{}: {:?}", backend.name, backend.policy);
    }
    Ok(())
}

/// Carries out the router's actions. Here every probe ends at once, with the backend's latency.
fn run_actions(router: &mut Router, now: Instant, takes: &[u64; 2]) {
    while let Some(action) = router.poll_action() {
        match action {
            Action::StartProbe { probe, backend, kind, .. } => {
                // A ping measures the path to the backend. A report would carry its load figures.
                let latency = match kind {
                    ProbeKind::Ping => Duration::from_millis(takes[backend.index()]),
                    ProbeKind::Report => Duration::from_millis(1),
                };
                let result = Ok(ProbeAnswer { latency, report: None });
                router.handle_event(now, Event::ProbeFinished { probe, result });
            }
            Action::Notify(Notice::HealthChanged { backend, is_up, .. }) => {
                println!(
                    "{now:?}: backend {} is {}",
                    backend.index(),
                    if is_up { "up" } else { "down" }
                );
            }
            Action::Notify(_) => {}
        }
    }
}
