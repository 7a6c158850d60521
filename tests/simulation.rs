//! The simulated world, seed after seed.
//!
//! ```text
//! cargo test -p intelliproxy-tests --test simulation                              the usual sweep
//! INTELLIPROXY_SEED=7 cargo test -p intelliproxy-tests --test simulation -- --nocapture
//!                                                             one seed, everything that happens
//! INTELLIPROXY_SEEDS=0..100000 cargo test --release -p intelliproxy-tests --test simulation
//!                                                             a wide sweep
//! ```
use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use intelliproxy::proxy::{ConfigChange, Notice};
use intelliproxy_tests::world::Report;
use intelliproxy_tests::{oracle, seeds};

/// Seeds of the usual sweep: one to two minutes in a debug build.
const SEEDS: Range<u64> = 0..200;
/// The variable that selects one seed.
const SEED: &str = "INTELLIPROXY_SEED";
/// A world whose seed is a multiple of this is made twice, and both runs must be equal.
const TWICE_EVERY: u64 = 25;

/// Runs the world of one seed. The text of a broken rule has the command that runs it again.
fn run(seed: u64, is_shown: bool) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| seeds::world(seed, is_shown).run())).map_err(|panic| {
        format!(
            "seed {seed}: {}\n  see it again: INTELLIPROXY_SEED={seed} cargo test -p \
             intelliproxy-tests --test simulation -- --nocapture",
            text_of(&*panic)
        )
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// Returns the seeds that the environment selects.
fn wanted() -> Range<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed is a number");
    if let Ok(seed) = std::env::var(SEED) {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match std::env::var("INTELLIPROXY_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("seeds are asked for as from..to");
            number(from)..number(to)
        }
        Err(_) => SEEDS,
    }
}

/// Seeds that found a fault, each with the fault.
#[test]
fn known_seeds() {
    for (seed, fault) in [
        (490, "a client got the slot of one that gave way for it, whose socket was still there"),
        (747, "the same fault as seed 490"),
        (11978, "a client that takes 50 bytes a second was given too little time"),
    ] {
        if let Err(failure) = run(seed, false) {
            panic!("{fault}: {failure}");
        }
    }
}

/// Every rule holds in the world of every seed, with thousands of steps each: nothing is lost,
/// mixed up or left over, and everything ends.
#[test]
fn rules_hold_in_every_world() {
    // A single seed is shown event by event.
    let (seeds, is_shown) = (wanted(), std::env::var(SEED).is_ok());
    let (mut failures, mut steps, count) = (Vec::new(), 0, seeds.end - seeds.start);
    let mut seen = BTreeSet::new();
    for seed in seeds {
        match run(seed, is_shown) {
            Ok(report) => {
                steps += report.steps;
                seen.extend(marks(&report));
            }
            Err(text) => failures.push(text),
        }
    }
    println!("{count} seeds, {steps} steps");
    let first = failures.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{first}", failures.len());
    let missing: Vec<_> = EXPECTED.iter().filter(|mark| !seen.contains(**mark)).collect();
    assert!(count < SEEDS.end || missing.is_empty(), "no world had {missing:?}: {seen:?}");
}

/// Marks that a sweep must reach, so that every rule has something to check.
const EXPECTED: [&str; 66] = [
    "101",
    "200",
    "204",
    "304",
    "400",
    "404",
    "408",
    "417",
    "431",
    "500",
    "501",
    "502",
    "503",
    "504",
    "505",
    "Redialled",
    "Retried",
    "Answered",
    "Truncated",
    "Excused",
    "Exhausted",
    "cut",
    "interim",
    "trailer",
    "Own",
    "Clean",
    "Reset",
    "tunnel whole",
    "request cut",
    "stats",
    "backend added",
    "backend removed",
    "backend moved",
    "settings changed",
    "nothing changed",
    "configuration refused",
    "finished at an address without a backend",
    "connection closed with its backend",
    // Every event of the router but `LoadReported`, which `tests/conformance/loads.rs` covers, and
    // every action.
    "event ProbeFinished",
    "event RequestFinished",
    "event StreamOpened",
    "event LeasePaused",
    "event LeaseResumed",
    "event Reconfigured",
    "action StartProbe",
    "action Connect",
    "action Look",
    "action Measure",
    "action Shutdown",
    "action Close",
    "action Close by a reset",
    "action Notify",
    // All notices except eight. `server/tests/tls.rs` covers `HandshakeFailed`, and tests in
    // `tests/conformance` cover `Refused`, `ClientLimited`, `ClientsGaveWay`, `ClientsLimited`,
    // `UnsolicitedBytes`, `PingsUnserved` and `InsecureBackend`.
    "notice Switched",
    "notice Held",
    "notice HealthChanged",
    "notice Ejected",
    "notice Returned",
    "notice ClientError",
    "notice UpstreamError",
    "notice ClientRefused",
    "notice ClientsInExcess",
    "notice Expired",
    "notice UnreadableReport",
    "notice Reconfigured",
    "notice Discovered",
    "notice ConfigRefused",
];

/// Returns the marks of a world: the kinds of things that happened in it.
fn marks(report: &Report) -> BTreeSet<String> {
    let mut marks: BTreeSet<String> = report.kinds.iter().map(|kind| (*kind).to_owned()).collect();
    for client in &report.clients {
        marks.extend(client.end.map(|end| format!("{end:?}")));
        for response in &client.responses {
            if oracle::is_stats(response) {
                marks.insert("stats".to_owned());
            }
            marks.insert(response.head.status.to_string());
            let facts = [
                (!response.is_whole, "cut"),
                (!response.interim.is_empty(), "interim"),
                (!response.trailer.is_empty(), "trailer"),
                (response.is_whole && response.head.status == 101, "tunnel whole"),
            ];
            marks.extend(facts.iter().filter(|(is, _)| *is).map(|(_, mark)| (*mark).to_owned()));
        }
    }
    let requests = || report.backends.iter().flat_map(|backend| &backend.requests);
    if requests().any(|request| !request.is_whole) {
        marks.insert("request cut".to_owned());
    }
    for notice in &report.notices {
        match notice {
            Notice::UpstreamError { remedy, error, .. } => {
                marks.insert(format!("{remedy:?}"));
                marks.insert(format!("{error:?}"));
            }
            Notice::Reconfigured(change) => marks.extend(change_marks(change)),
            Notice::ConfigRefused { .. } => {
                marks.insert("configuration refused".to_owned());
            }
            _ => {}
        }
    }
    let facts = [
        (report.reloads.ended_there > 0, "finished at an address without a backend"),
        (report.reloads.closed > 0, "connection closed with its backend"),
    ];
    marks.extend(facts.iter().filter(|(is, _)| *is).map(|(_, mark)| (*mark).to_owned()));
    marks
}

/// Returns the marks of a changed configuration.
fn change_marks(change: &ConfigChange) -> Vec<String> {
    let facts = [
        (!change.added.is_empty(), "backend added"),
        (!change.removed.is_empty(), "backend removed"),
        (!change.moved.is_empty(), "backend moved"),
        (!change.settings.is_empty(), "settings changed"),
        (*change == ConfigChange::default(), "nothing changed"),
    ];
    facts.iter().filter(|(is, _)| *is).map(|(_, mark)| (*mark).to_owned()).collect()
}

/// The same seed makes the same world, down to the hash of all events.
#[test]
fn the_same_seed_makes_the_same_world() {
    for seed in SEEDS.step_by(TWICE_EVERY as usize) {
        let hashes = [(); 2].map(|()| run(seed, false).map(|report| (report.hash, report.steps)));
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
        if seed + TWICE_EVERY < SEEDS.end {
            let next = run(seed + 1, false).map(|report| (report.hash, report.steps));
            assert_ne!(hashes[0], next, "seeds {seed} and {} differ", seed + 1);
        }
    }
}
