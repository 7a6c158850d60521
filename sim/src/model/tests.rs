use super::*;

const ROUNDS: usize = 200_000;

/// Returns the fates of `count` requests of one kind, 10 ms apart.
fn fates(parameters: &Parameters, seed: u64, kind: RequestKind, count: usize) -> Vec<Fate> {
    let mut model = Model::new(parameters.clone(), seed, Instant::ZERO);
    let mut now = Instant::ZERO;
    (0..count)
        .map(|_| {
            now += Duration::from_millis(10);
            model.request(now, kind)
        })
        .collect()
}

fn share(fates: &[Fate], is_meant: impl Fn(&Fate) -> bool) -> f64 {
    fates.iter().filter(|fate| is_meant(fate)).count() as f64 / fates.len() as f64
}

#[track_caller]
fn assert_near(measured: f64, expected: f64, tolerance: f64) {
    assert!((measured - expected).abs() <= tolerance, "{measured} is not {expected} ± {tolerance}");
}

/// The same seed gives the same fates and the same queue; another seed gives different ones.
#[test]
fn a_seed_decides_everything() {
    let run = |seed| fates(&Parameters::default(), seed, RequestKind::Ping, 2_000);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    let queue = |seed| {
        let mut model = Model::new(Parameters::default(), seed, Instant::ZERO);
        (1..100_u64)
            .map(|step| {
                model.handle_timeout(Instant::from_millis(step * 250));
                model.queue()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(queue(7), queue(7));
    assert_ne!(queue(7), queue(8));
}

/// The share of lost pings agrees with the channel's stationary distribution: bad for pGtoB /
/// (pGtoB + pBtoG) = 3/11 of the requests.
#[test]
fn pings_are_lost_as_the_channel_says() {
    let parameters = Parameters { overload_drop_multiplier: 0.0, ..Parameters::default() };
    let fates = fates(&parameters, 1, RequestKind::Ping, ROUNDS);
    let expected = 8.0 / 11.0 * 0.01 + 3.0 / 11.0 * 0.45;
    assert_near(share(&fates, |fate| *fate == Fate::Dropped), expected, 0.005);
}

/// Losses come in bursts: after a lost ping the next one is lost much more often than on average.
#[test]
fn losses_come_in_bursts() {
    let parameters = Parameters { overload_drop_multiplier: 0.0, ..Parameters::default() };
    let fates = fates(&parameters, 2, RequestKind::Ping, ROUNDS);
    let after_loss: Vec<Fate> =
        fates.windows(2).filter(|pair| pair[0] == Fate::Dropped).map(|pair| pair[1]).collect();
    let average = share(&fates, |fate| *fate == Fate::Dropped);
    assert!(share(&after_loss, |fate| *fate == Fate::Dropped) > 2.5 * average);
}

/// Errors and slow responses have their configured shares, independent of each other.
#[test]
fn errors_and_slow_responses_have_their_shares() {
    let parameters = Parameters {
        error_rate: 0.03,
        slow_rate: 0.08,
        slow_ms: 600,
        cpu_load_ms: 9,
        ..Parameters::faultless()
    };
    let fates = fates(&parameters, 3, RequestKind::Traffic, ROUNDS);
    let slow = Duration::from_millis(600);
    let is = |is_error: bool, delay: Duration| {
        let cpu = Duration::from_millis(9);
        share(&fates, |fate| *fate == Fate::Answered(Answer { is_error, delay, cpu }))
    };
    assert_near(is(true, slow), 0.03 * 0.08, 0.0005);
    assert_near(is(true, Duration::ZERO), 0.03 * 0.92, 0.002);
    assert_near(is(false, slow), 0.97 * 0.08, 0.002);
    assert_near(is(false, Duration::ZERO), 0.97 * 0.92, 0.002);
}

/// A change of one rate does not change the draws of the others.
#[test]
fn a_rate_does_not_shift_the_draws_of_another() {
    let lossy = Parameters { loss_in_g: 0.2, ..Parameters::faultless() };
    let slow = Parameters {
        slow_rate: 0.5,
        slow_ms: 100,
        error_rate: 0.3,
        loss_in_g: 0.2,
        ..Parameters::faultless()
    };
    let dropped = |parameters: &Parameters| {
        fates(parameters, 4, RequestKind::Ping, 2_000)
            .iter()
            .map(|fate| *fate == Fate::Dropped)
            .collect::<Vec<_>>()
    };
    assert_eq!(dropped(&lossy), dropped(&slow));
}

/// Lost traffic gets its response late, and each further retransmission takes twice as long: with
/// half of the packets lost, half of the requests are on time, a quarter are late by 200 ms, an
/// eighth by 600 ms.
#[test]
fn lost_traffic_is_late_and_gets_a_response() {
    let parameters = Parameters { loss_in_g: 0.5, ..Parameters::faultless() };
    let fates = fates(&parameters, 5, RequestKind::Traffic, ROUNDS);
    let late_by = |delay_ms| {
        let delay = Duration::from_millis(delay_ms);
        share(&fates, |fate| *fate == Fate::Answered(Answer { delay, ..Answer::default() }))
    };
    for (delay_ms, expected) in
        [(0, 0.5), (200, 0.25), (600, 0.125), (1400, 0.0625), (3000, 0.03125), (6200, 0.03125)]
    {
        assert_near(late_by(delay_ms), expected, 0.004);
    }
}

/// If everything is lost, no ping gets a response and all traffic is late by the bounded maximum.
#[test]
fn total_loss_is_bounded_for_traffic() {
    let parameters = Parameters { loss_in_g: 1.0, ..Parameters::faultless() };
    let pings = fates(&parameters, 6, RequestKind::Ping, 100);
    assert!(pings.iter().all(|fate| *fate == Fate::Dropped));
    let late = Answer { delay: Duration::from_millis(6200), ..Answer::default() };
    let traffic = fates(&parameters, 6, RequestKind::Traffic, 100);
    assert!(traffic.iter().all(|fate| *fate == Fate::Answered(late)));
}

/// With `Faults::Health` traffic has no fault and takes no draw: the pings' fates are the same with
/// and without traffic between them.
#[test]
fn health_faults_spare_traffic() {
    let parameters = Parameters { faults: Faults::Health, ..Parameters::default() };
    let alone = fates(&parameters, 7, RequestKind::Ping, 500);
    let mut model = Model::new(parameters, 7, Instant::ZERO);
    let mut now = Instant::ZERO;
    for ping in alone {
        now += Duration::from_millis(10);
        let traffic = model.request(now, RequestKind::Traffic);
        assert_eq!(traffic, Fate::Answered(Answer::default()));
        assert_eq!(model.request(now, RequestKind::Ping), ping);
    }
}

/// The queue stays within its bounds, moves by at most a sixteenth per step, and reaches both ends.
#[test]
fn the_queue_walks_within_its_bounds() {
    let mut model = Model::new(Parameters::default(), 8, Instant::ZERO);
    let mut seen = [false; 81];
    let mut before = model.queue();
    for step in 1..20_000_u64 {
        model.handle_timeout(Instant::from_millis(step * 250));
        assert!(model.queue() <= 80);
        assert!(model.queue().abs_diff(before) <= 5);
        before = model.queue();
        seen[before as usize] = true;
    }
    assert!(seen.iter().all(|was_seen| *was_seen), "the walk misses lengths");
}

/// The queue at a given time does not depend on the number of calls. A time that goes back or
/// stands still changes nothing.
#[test]
fn the_queue_depends_on_time_not_on_calls() {
    let mut often = Model::new(Parameters::default(), 9, Instant::ZERO);
    for ms in 0..10_000 {
        often.handle_timeout(Instant::from_millis(ms));
    }
    let mut once = Model::new(Parameters::default(), 9, Instant::ZERO);
    once.handle_timeout(Instant::from_millis(9_999));
    assert_eq!(often.queue(), once.queue());
    let before = once.queue();
    once.handle_timeout(Instant::from_millis(9_999));
    once.handle_timeout(Instant::ZERO);
    assert_eq!(once.queue(), before);
}

/// A silence of years costs a bounded number of steps, and the clock of the walk stays correct.
#[test]
fn a_long_silence_is_bounded() {
    let mut model = Model::new(Parameters::default(), 10, Instant::ZERO);
    model.handle_timeout(Instant::FAR_FUTURE);
    assert!(model.queue() <= 80);
    assert!(Instant::FAR_FUTURE.since(model.queue_stepped_at) < QUEUE_STEP);
}

/// Additional loss grows from 0 at 80 % of the queue to the multiplier at 100 %.
#[test]
fn overload_adds_loss() {
    let parameters = Parameters { queue_max: 100, loss_in_g: 0.1, ..Parameters::default() };
    let mut model = Model::new(parameters, 11, Instant::ZERO);
    for (queue, expected) in
        [(0, 0.1), (80, 0.1), (90, 1.0 - 0.9 * (1.0 - 0.3)), (100, 1.0 - 0.9 * (1.0 - 0.6))]
    {
        model.queue = queue;
        assert_near(model.loss(), expected, 1e-12);
    }
}

/// New parameters apply from the next request, and the queue fits its new maximum at once.
#[test]
fn parameters_change_while_it_runs() {
    let mut model = Model::new(Parameters::default(), 12, Instant::ZERO);
    let lost = Parameters { loss_in_g: 1.0, queue_max: 3, ..Parameters::faultless() };
    model.handle_parameters(Instant::ZERO, lost.clone());
    assert_eq!(model.parameters(), &lost);
    assert!(model.queue() <= 3);
    assert_eq!(model.request(Instant::ZERO, RequestKind::Ping), Fate::Dropped);
}
