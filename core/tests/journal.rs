//! Journals: every record is read as it was written, a recorded router replays bit for bit, and
//! damage is reported with its place.
mod memory;

use std::time::Duration;

use intelliproxy_core::journal::{
    Entry, Fault, Header, JournalError, Reader, Record, RecordedRouter, Replay, Shadow, Step, frame,
};
use intelliproxy_core::{
    Action, AffinityBy, AffinityKey, AffinityRules, AgentState, Asker, BackendId, Event, Instant,
    Lease, LoadReport, Outcome, PolicyKind, ProbeAnswer, ProbeFailure, ProbeId, ProbeResult,
    RequestFailure, RouterConfig, Rules, Smoothing,
};
use memory::MemorySink;
use proptest::prelude::*;

/// An operation on a router.
#[derive(Clone, Debug)]
enum Call {
    Wait { nanos: u64 },
    Route { tried: u8 },
    Finish { which: usize, outcome: Outcome },
    Stream { which: usize, status: u16 },
    Pause { which: usize, is_over: bool },
    EndProbe { which: usize, result: ProbeResult },
    Noise { probe: u64, result: ProbeResult },
    Load { backend: u8, report: LoadReport },
    Configure { backends: u8, rules: Box<Rules> },
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        (0.0..1e12).prop_map(Some),
        any::<u64>().prop_map(|bits| Some(f64::from_bits(bits))),
    ]
}

fn report() -> impl Strategy<Value = LoadReport> {
    (number(), number(), number(), number(), number()).prop_map(
        |(queue, running, pressure, cpu_busy_ms, memory_bytes)| LoadReport {
            queue,
            running,
            pressure,
            cpu_busy_ms,
            memory_bytes,
            agent: memory_bytes.map(|number| AgentState {
                percent: running.map(|number| number as u16),
                is_out: queue.map(|number| number > 1.0),
                is_down: Some(number < 1e6),
            }),
        },
    )
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0_u64..20_000_000_000).prop_map(Duration::from_nanos),
        Just(Duration::MAX),
        Just(Duration::ZERO),
    ]
}

fn probe_result() -> impl Strategy<Value = ProbeResult> {
    prop_oneof![
        (span(), proptest::option::of(report()))
            .prop_map(|(latency, report)| Ok(ProbeAnswer { latency, report })),
        Just(Err(ProbeFailure::Refused)),
        Just(Err(ProbeFailure::Unreachable)),
        Just(Err(ProbeFailure::TimedOut)),
        Just(Err(ProbeFailure::Cut)),
        Just(Err(ProbeFailure::Malformed)),
        Just(Err(ProbeFailure::TooLarge)),
        Just(Err(ProbeFailure::Body)),
        Just(Err(ProbeFailure::Abandoned)),
        any::<u16>().prop_map(|status| Err(ProbeFailure::Status(status))),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => span().prop_map(|latency| Outcome::Answered { status: 200, latency }),
        2 => (any::<u16>(), span())
            .prop_map(|(status, latency)| Outcome::Answered { status, latency }),
        1 => (any::<u16>(), proptest::option::of(span()))
            .prop_map(|(status, hold)| Outcome::Refused { status, hold }),
        1 => Just(Outcome::Failed(RequestFailure::Refused)),
        1 => Just(Outcome::Failed(RequestFailure::Unreachable)),
        1 => Just(Outcome::Failed(RequestFailure::Cut)),
        1 => Just(Outcome::Failed(RequestFailure::TimedOut)),
        1 => Just(Outcome::Failed(RequestFailure::Malformed)),
        1 => Just(Outcome::Failed(RequestFailure::Truncated)),
        1 => Just(Outcome::Abandoned),
    ]
}

/// Every policy that the configuration accepts.
fn policies() -> Vec<PolicyKind> {
    let refusal = serde_json::from_value::<PolicyKind>("".into()).expect_err("no such policy");
    let text = refusal.to_string();
    let names = text.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
    names.filter_map(|name| serde_json::from_value(name.into()).ok()).collect()
}

fn rules() -> impl Strategy<Value = Rules> {
    let policy = proptest::sample::select(policies());
    let switch = (0.0..100.0, 0_u64..3000);
    let affinity = affinity();
    (policy, switch, 0.01..1.0, affinity).prop_map(|(policy, switch, alpha, affinity)| {
        let mut rules = Rules { policy, affinity, ..Rules::default() };
        rules.switch.threshold = switch.0;
        rules.switch.cooldown = Duration::from_millis(switch.1);
        rules.smoothing = Smoothing { alpha, ..rules.smoothing };
        rules
    })
}

fn affinity() -> impl Strategy<Value = AffinityRules> {
    let by = prop_oneof![
        Just(None),
        Just(Some(AffinityBy::Cookie)),
        Just(Some(AffinityBy::ClientAddress)),
    ];
    let slack = prop_oneof![Just(None), Just(Some(0.0)), (1.0..4.0).prop_map(Some)];
    (by, slack).prop_map(|(by, slack)| AffinityRules { by, name: None, slack })
}

/// The key of a request. Some keys have an owner that may not be configured.
fn key_of(number: u8) -> Option<AffinityKey> {
    let owner = number.is_multiple_of(2).then(|| BackendId::from_index(u32::from(number / 2 % 5)));
    (number % 4 != 3).then(|| AffinityKey { owner, ..AffinityKey::of(&[number]) })
}

fn steps() -> impl Strategy<Value = Vec<Call>> {
    let step = prop_oneof![
        6 => (0_u64..2_000_000_000).prop_map(|nanos| Call::Wait { nanos }),
        8 => prop_oneof![4 => Just(0_u8), 1 => any::<u8>()].prop_map(|tried| Call::Route { tried }),
        6 => (any::<usize>(), outcome()).prop_map(|(which, outcome)| Call::Finish { which, outcome }),
        1 => (any::<usize>(), any::<u16>()).prop_map(|(which, status)| Call::Stream { which, status }),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, is_over)| Call::Pause { which, is_over }),
        4 => (any::<usize>(), probe_result())
            .prop_map(|(which, result)| Call::EndProbe { which, result }),
        1 => (any::<u64>(), probe_result())
            .prop_map(|(probe, result)| Call::Noise { probe, result }),
        1 => (any::<u8>(), report()).prop_map(|(backend, report)| Call::Load { backend, report }),
        1 => (any::<u8>(), rules())
            .prop_map(|(backends, rules)| Call::Configure { backends, rules: Box::new(rules) }),
    ];
    proptest::collection::vec(step, 0..120)
}

fn config(mask: u8, rules: Rules) -> RouterConfig {
    let names = ["A", "B", "C", "D"].iter().enumerate();
    let names = names.filter(|(bit, _)| mask >> bit & 1 == 1);
    RouterConfig { backends: names.map(|(_, name)| (*name).to_owned()).collect(), rules }
}

/// Records a router through these steps. Returns the journal and the decisions.
fn record(rules: &Rules, seed: u64, steps: &[Call], refused: Vec<usize>) -> (Vec<u8>, Vec<String>) {
    let sink = MemorySink::refusing(refused);
    let mut now = Instant::from_nanos(123_456_789);
    let mut router = RecordedRouter::new(config(0b111, rules.clone()), seed, now)
        .expect("a valid configuration");
    router.record_into(Box::new(sink.clone()), 1_700_000_000_000_000_000);
    let (mut leases, mut probes, mut told): (Vec<Lease>, Vec<ProbeId>, Vec<String>) =
        Default::default();
    for step in steps {
        match step {
            Call::Wait { nanos } => {
                now += Duration::from_nanos(*nanos);
                router.handle_timeout(now);
            }
            Call::Route { tried } => {
                let out = leases.len() as u8;
                let asker = Asker { client: out % 3, target: out % 2 };
                let tried: Vec<_> =
                    (0..4).filter(|bit| tried >> bit & 1 == 1).map(BackendId::from_index).collect();
                let key = key_of(out).filter(|_| router.rules().affinity.by.is_some());
                let result = router.route_keyed(now, &tried, asker, key);
                told.push(format!("{result:?}"));
                leases.extend(result);
            }
            Call::Finish { which, outcome } if !leases.is_empty() => {
                let lease = leases.swap_remove(which % leases.len());
                router.handle_event(now, Event::RequestFinished { lease, outcome: *outcome });
            }
            Call::Stream { which, status } if !leases.is_empty() => {
                let lease = &leases[which % leases.len()];
                let (lease, backend) = (lease.id(), lease.backend());
                let latency = Duration::from_millis(3);
                let event = Event::StreamOpened { lease, backend, status: *status, latency };
                router.handle_event(now, event);
            }
            Call::Pause { which, is_over } if !leases.is_empty() => {
                let lease = &leases[which % leases.len()];
                let (lease, backend) = (lease.id(), lease.backend());
                let event = if *is_over {
                    Event::LeaseResumed { lease, backend }
                } else {
                    Event::LeasePaused { lease, backend }
                };
                router.handle_event(now, event);
            }
            Call::EndProbe { which, result } if !probes.is_empty() => {
                let probe = probes.swap_remove(which % probes.len());
                router.handle_event(now, Event::ProbeFinished { probe, result: result.clone() });
            }
            Call::Noise { probe, result } => {
                let probe = ProbeId::from_u64(*probe);
                router.handle_event(now, Event::ProbeFinished { probe, result: result.clone() });
            }
            Call::Load { backend, report } => {
                let backend = BackendId::from_index(u32::from(backend % 6));
                router.handle_event(now, Event::LoadReported { backend, report: *report });
            }
            Call::Configure { backends, rules } => {
                let config = config(*backends, (**rules).clone());
                router.handle_event(now, Event::Reconfigured(Box::new(config)));
            }
            Call::Finish { .. }
            | Call::Stream { .. }
            | Call::Pause { .. }
            | Call::EndProbe { .. } => {}
        }
        while let Some(action) = router.poll_action() {
            if let Action::StartProbe { probe, .. } = action {
                probes.push(probe);
            }
        }
    }
    drop(router);
    let bytes = sink.bytes();
    (bytes, told)
}

fn read(bytes: &[u8]) -> (Header, Vec<Entry>, Option<JournalError>) {
    let (header, reader) = Reader::new(bytes).expect("a header");
    let (mut entries, mut error) = (Vec::new(), None);
    for next in reader {
        match next {
            Ok(entry) => entries.push(entry),
            Err(wrong) => error = Some(wrong),
        }
    }
    (header, entries, error)
}

/// A short history with every kind of record but a restored state.
fn example() -> Vec<u8> {
    let answered = |ms| Outcome::Answered { status: 200, latency: Duration::from_millis(ms) };
    let missing = Outcome::Answered { status: 404, latency: Duration::from_millis(1) };
    let pong = ProbeAnswer { latency: Duration::from_millis(2), report: None };
    let steps = [
        Call::Wait { nanos: 1_000 },
        Call::EndProbe { which: 0, result: Ok(pong) },
        Call::EndProbe { which: 0, result: Err(ProbeFailure::Cut) },
        Call::Route { tried: 0 },
        Call::Wait { nanos: 1_500_000_000 },
        Call::Route { tried: 1 },
        Call::Pause { which: 0, is_over: false },
        Call::Pause { which: 0, is_over: true },
        Call::Stream { which: 1, status: 101 },
        Call::Finish { which: 0, outcome: answered(5) },
        Call::Configure { backends: 0b11, rules: Box::default() },
        Call::Load { backend: 1, report: LoadReport { queue: Some(2.0), ..Default::default() } },
        Call::Route { tried: 0b11 },
        Call::Finish { which: 0, outcome: Outcome::Failed(RequestFailure::Cut) },
        Call::Route { tried: 0 },
        Call::Finish { which: 0, outcome: Outcome::Refused { status: 429, hold: None } },
        Call::Route { tried: 0 },
        Call::Finish { which: 0, outcome: Outcome::Abandoned },
        Call::Route { tried: 0 },
        Call::Finish { which: 0, outcome: missing },
    ];
    record(&Rules::default(), 7, &steps, Vec::new()).0
}

proptest! {
    /// For any history under any policy the journal replays with every decision and every probe the
    /// same.
    #[test]
    fn histories_replay_bit_for_bit(rules in rules(), seed: u64, steps in steps()) {
        let (bytes, told) = record(&rules, seed, &steps, Vec::new());
        let (header, entries, error) = read(&bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(header.seed, seed);
        prop_assert_eq!(&header.config.rules, &rules);
        let mut replay = Replay::new(&header).expect("a valid configuration");
        let mut decisions = 0;
        for entry in &entries {
            let step = replay.apply(entry);
            prop_assert!(matches!(step, Step::Fact | Step::Same), "{:?} of {:?}", step, entry);
            decisions += usize::from(matches!(entry.record, Record::Routed { .. }));
        }
        prop_assert!(replay.is_exact());
        prop_assert_eq!(decisions, told.len());
        prop_assert_eq!(entries.last().map(|e| e.record.clone()),
            Some(Record::Ended { is_continued: false }));
    }

    /// A shadow under any rules handles any history without a panic, even one with gaps.
    #[test]
    fn shadows_live_through_everything(
        recorded in rules(), others in rules(), seed: u64, steps in steps(), gap in 0_usize..4,
    ) {
        let (bytes, _) = record(&recorded, seed, &steps, vec![gap]);
        let Ok((header, reader)) = Reader::new(&bytes) else {
            return Ok(());
        };
        let config = RouterConfig { rules: others, ..header.config };
        let mut shadow = Shadow::new(config, 1, header.started).expect("a valid configuration");
        for entry in reader.map_while(Result::ok) {
            let is_request = matches!(entry.record, Record::Routed { .. });
            prop_assert_eq!(shadow.apply(&entry).is_some(), is_request);
        }
        shadow.router().check_invariants();
    }

    /// A flipped bit at any place is found. All records before the error are read as recorded.
    #[test]
    fn flipped_bits_are_found(place: prop::sample::Index, bit in 0_u8..8) {
        let whole = example();
        let mut bytes = whole.clone();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (_, entries, _) = read(&whole);
        match Reader::new(&bytes) {
            Err(error) => prop_assert!(error.offset as usize <= at, "{error}"),
            Ok((_, reader)) => {
                let (good, bad): (Vec<_>, Vec<_>) = reader.partition(Result::is_ok);
                prop_assert_eq!(bad.len(), 1);
                let good: Vec<Entry> = good.into_iter().map_while(Result::ok).collect();
                prop_assert_eq!(&good[..], &entries[..good.len()]);
            }
        }
    }

    /// Random bytes, with or without a valid beginning, cause an error and not a panic.
    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300), keep: bool) {
        let mut bytes = if keep { example()[..200].to_vec() } else { Vec::new() };
        bytes.extend_from_slice(&noise);
        if let Ok((_, reader)) = Reader::new(&bytes) {
            prop_assert!(reader.last().is_none_or(|last| last.is_err()));
        }
    }

    /// Blocks with a valid checksum and invalid records cause an error and not a panic.
    #[test]
    fn forged_blocks_are_refused(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
        let whole = example();
        let (header, _) = Reader::new(&whole).expect("a header");
        let mut bytes = header.encode();
        bytes.extend_from_slice(&frame(&payload));
        bytes.extend_from_slice(&payload);
        let (_, reader) = Reader::new(&bytes).expect("a header");
        for entry in reader.map_while(Result::ok) {
            prop_assert!(entry.offset < bytes.len() as u64);
        }
    }
}

/// Wherever a journal is cut, reading gives an error at an offset inside it, and all complete
/// records before that are read.
#[test]
fn cuts_are_told() {
    let whole = example();
    let (_, entries, error) = read(&whole);
    assert_eq!(error, None);
    assert!(entries.len() > 10, "{entries:?}");
    for len in 0..whole.len() {
        let error = match Reader::new(&whole[..len]) {
            Err(error) => error,
            Ok((_, reader)) => {
                let read: Vec<_> = reader.collect();
                let good: Vec<Entry> = read.iter().flatten().cloned().collect();
                assert_eq!(good, entries[..good.len()], "cut at {len}");
                read.into_iter().find_map(Result::err).expect("the cut is found")
            }
        };
        assert_eq!(error.fault, Fault::CutOff, "cut at {len}");
        assert!(error.offset as usize <= len, "cut at {len}");
        assert!(error.to_string().starts_with(&format!("offset {}: cut off", error.offset)));
    }
}

/// Foreign files, other versions, and files that continue after their end mark cause different
/// errors.
#[test]
fn foreign_files_are_refused() {
    let fault = |bytes: &[u8]| match Reader::new(bytes) {
        Err(error) => error,
        Ok((_, mut reader)) => reader.find_map(Result::err).expect("an error"),
    };
    assert_eq!(fault(b"GIF89a...").fault, Fault::NotAJournal);
    assert_eq!(
        fault(b"\x89PNG\r\n\x1a\n").to_string(),
        "offset 0: not a recording of IntelliProxy"
    );
    let mut other = example();
    other[8] = 9;
    assert_eq!((fault(&other).offset, fault(&other).fault), (8, Fault::Version(9)));
    other[8] = 1;
    assert_eq!(
        fault(&other).to_string(),
        "offset 8: recorded in format 1; this version reads format 2 only"
    );
    let mut long = example();
    let len = long.len() as u64;
    long.push(0);
    assert_eq!(
        (fault(&long).offset, fault(&long).fault),
        (len, Fault::Malformed("bytes after the end"))
    );
}

/// Blocks that the sink rejects become a gap of that many records. After it, decisions are not
/// compared.
#[test]
fn gaps_are_told() {
    // Blocks are handed over every second. The first one has all records of the first second.
    let mut steps = vec![Call::Route { tried: 0 }; 5];
    for _ in 0..3 {
        steps.push(Call::Wait { nanos: 1_100_000_000 });
        steps.push(Call::Route { tried: 0 });
    }
    let (bytes, _) = record(&Rules::default(), 1, &steps, vec![1]);
    let (header, entries, error) = read(&bytes);
    assert_eq!(error, None);
    let (whole, _) = record(&Rules::default(), 1, &steps, Vec::new());
    let (_, all, _) = read(&whole);
    let lost: Vec<_> = entries
        .iter()
        .filter_map(|entry| match entry.record {
            Record::Lost { records } => Some(records as usize),
            _ => None,
        })
        .collect();
    assert_eq!(lost, [all.len() + 1 - entries.len()]);
    let mut replay = Replay::new(&header).expect("a valid configuration");
    let steps: Vec<Step> = entries.iter().map(|entry| replay.apply(entry)).collect();
    assert_eq!(steps.iter().filter(|step| **step == Step::Same).count(), 5);
    assert_eq!(steps.last(), Some(&Step::Unknown));
    assert!(!replay.is_exact());
}

/// With another seed the decisions differ, and the replay reports this.
#[test]
fn differences_are_seen() {
    let rules = Rules { policy: PolicyKind::Random, ..Rules::default() };
    let (bytes, _) = record(&rules, 3, &vec![Call::Route { tried: 0 }; 40], Vec::new());
    let (mut header, entries, _) = read(&bytes);
    header.seed += 1;
    let mut replay = Replay::new(&header).expect("a valid configuration");
    let steps: Vec<Step> = entries.iter().map(|entry| replay.apply(entry)).collect();
    let differ = steps.iter().filter(|step| matches!(step, Step::OtherRoute { .. })).count();
    assert!((10..40).contains(&differ), "{differ} of 40");
}

/// With another policy the decisions differ, with another interval the probes differ, and the
/// replay reports both. The recorded rules give the recorded decisions and probes.
#[test]
fn other_rules_are_seen() {
    let pong = ProbeAnswer { latency: Duration::from_millis(2), report: None };
    let mut calls = vec![Call::Wait { nanos: 1 }];
    for _ in 0..40 {
        calls.push(Call::Wait { nanos: 1_000_000_000 });
        calls.push(Call::EndProbe { which: 0, result: Ok(pong.clone()) });
        calls.push(Call::Route { tried: 0 });
    }
    let rules = Rules { policy: PolicyKind::RoundRobin, ..Rules::default() };
    let (bytes, _) = record(&rules, 3, &calls, Vec::new());
    let (recorded, entries, _) = read(&bytes);
    let differences = |change: fn(&mut Rules)| {
        let mut header = recorded.clone();
        change(&mut header.config.rules);
        let mut replay = Replay::new(&header).expect("a valid configuration");
        let steps: Vec<Step> = entries.iter().map(|entry| replay.apply(entry)).collect();
        let routes = steps.iter().filter(|step| matches!(step, Step::OtherRoute { .. })).count();
        (routes, steps.iter().filter(|step| matches!(step, Step::OtherProbe { .. })).count())
    };
    assert_eq!(differences(|_| {}), (0, 0));
    let (routes, probes) = differences(|rules| rules.policy = PolicyKind::Random);
    assert!(routes >= 10 && probes == 0, "{routes}, {probes}");
    let (routes, probes) = differences(|rules| rules.probes.ping_interval *= 3);
    assert!(routes == 0 && probes > 0, "{routes}, {probes}");
}

/// The learned state is part of the journal, whether it is restored before the recording begins or
/// afterwards.
#[test]
fn states_are_recorded() {
    let rules = Rules { policy: PolicyKind::Learned, ..Rules::default() };
    let learn = |router: &mut RecordedRouter, count: u64| {
        for number in 1..=count {
            let now = Instant::from_millis(1000 * number);
            let lease = router.route(now, &[]).expect("a backend");
            let latency = Duration::from_millis(5 + 20 * lease.backend().index() as u64);
            let outcome = Outcome::Answered { status: 200, latency };
            router.handle_event(now + latency, Event::RequestFinished { lease, outcome });
        }
    };
    let new = || {
        RecordedRouter::new(config(0b11, rules.clone()), 1, Instant::ZERO).expect("a configuration")
    };
    let mut teacher = new();
    learn(&mut teacher, 500);
    let state = teacher.policy_state().expect("it learns");
    for is_before in [true, false] {
        let sink = MemorySink::default();
        let mut router = new();
        if is_before {
            router.restore(&state).expect("its own");
        }
        router.record_into(Box::new(sink.clone()), 0);
        if !is_before {
            router.restore(&state).expect("its own");
        }
        learn(&mut router, 200);
        drop(router);
        let (header, entries, error) = read(&sink.bytes());
        assert_eq!(error, None);
        assert_eq!(entries[0].record, Record::Restored(Box::new(state.clone())));
        let mut replay = Replay::new(&header).expect("a valid configuration");
        for entry in &entries {
            assert!(matches!(replay.apply(entry), Step::Fact | Step::Same), "{entry:?}");
        }
    }
}

/// At a thousand requests a second with ten in flight the two records of a request take less than
/// 18 bytes together.
#[test]
fn a_request_takes_a_few_bytes() {
    let mut steps = vec![Call::Route { tried: 0 }; 10];
    for number in 0..4000_u64 {
        let latency = Duration::from_nanos(9_876_543 + number * 977);
        steps.extend([
            Call::Finish { which: 3, outcome: Outcome::Answered { status: 200, latency } },
            Call::Wait { nanos: 987_654 + number * 31 },
            Call::Route { tried: 0 },
        ]);
    }
    let (bytes, _) = record(&Rules::default(), 1, &steps, Vec::new());
    let (_, entries, _) = read(&bytes);
    // Without calls of handle_timeout, which a driver only makes when one is due.
    let timeouts = entries.iter().filter(|entry| entry.record == Record::TimedOut).count();
    let per_request = (bytes.len() - 4 * timeouts) as f64 / 4010.0;
    assert!(per_request < 18.0, "{per_request} bytes");
}
