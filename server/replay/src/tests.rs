//! Every question about recordings, which these tests make.
#[path = "../../../core/tests/memory/mod.rs"]
mod memory;

use intelliproxy_core::journal::RecordedRouter;
use intelliproxy_core::{
    Event, Instant, LeaseId, Outcome, PolicyKind, ProbeAnswer, RouterConfig, Rules,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use self::memory::MemorySink;
use super::*;

/// A host with one file, and the last report.
struct OneFile(Vec<u8>, RefCell<String>);

impl OneFile {
    const fn new(file: Vec<u8>) -> Self {
        Self(file, RefCell::new(String::new()))
    }
}

impl Host for OneFile {
    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        if file == "f" { Ok(self.0.clone()) } else { Err("not found".to_owned()) }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        if file != "r.html" {
            return Err("read-only".to_owned());
        }
        self.1.replace(text.to_owned());
        Ok(())
    }

    fn rules(&self, _file: &str) -> Result<Rules, String> {
        Ok(Rules::default())
    }

    fn date(&self, seconds: u64) -> String {
        format!("second {seconds}")
    }
}

/// Records a minute with a request every 10 ms to A (5 ms) and B (15 ms). Pings take 2 and 6 ms.
fn recorded(policy: PolicyKind) -> Vec<u8> {
    let sink = MemorySink::default();
    let rules = Rules { policy, ..Rules::default() };
    let config = RouterConfig { backends: vec!["A".to_owned(), "B".to_owned()], rules };
    let mut router = RecordedRouter::new(config, 5, Instant::ZERO).expect("a configuration");
    router.record_into(Box::new(sink.clone()), 1_700_000_000_000_000_000);
    let mut out: BTreeMap<(u64, LeaseId), intelliproxy_core::Lease> = BTreeMap::new();
    for millis in 0..60_000_u64 {
        let now = Instant::from_millis(millis);
        if router.poll_timeout().is_some_and(|at| at <= now) {
            router.handle_timeout(now);
        }
        let mut probes = Vec::new();
        while let Some(action) = router.poll_action() {
            if let intelliproxy_core::Action::StartProbe { probe, backend, .. } = action {
                probes.push((probe, 2 + 4 * backend.index() as u64));
            }
        }
        for (probe, ms) in probes {
            let answer = ProbeAnswer { latency: Duration::from_millis(ms), report: None };
            router.handle_event(now, Event::ProbeFinished { probe, result: Ok(answer) });
        }
        while let Some(first) = out.first_entry().filter(|first| first.key().0 <= millis) {
            let lease = first.remove();
            let latency = now.since(lease.routed_at());
            let outcome = Outcome::Answered { status: 200, latency };
            router.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        if millis % 10 == 0 {
            let lease = router.route(now, &[]).expect("two backends");
            let ms = if lease.backend().index() == 0 { 5 } else { 15 };
            out.insert((millis + ms, lease.id()), lease);
        }
    }
    drop(router);
    sink.bytes()
}

fn ask(file: &OneFile, question: Question) -> Answer {
    answer(&Options { files: vec!["f".to_owned()], question, html: None }, file).expect("an answer")
}

/// Every decision is the same. The text has the counts, the date and the policy.
#[test]
fn recordings_check() {
    let file = OneFile::new(recorded(PolicyKind::Random));
    let Answer { text, wrong } = ask(&file, Question::Check);
    assert_eq!(wrong, [""; 0], "{text}");
    assert!(text.contains("decisions  6000 the same, 0 differ, 0 could not be checked"), "{text}");
    assert!(text.contains("second 1700000000") && text.contains("policy random"), "{text}");
}

/// A decision by `score` has the rule, the points, and the changes: B lacks the difference of the
/// pings and the threshold, and would get this request if A had more in flight.
#[test]
fn decisions_are_explained() {
    let file = OneFile::new(recorded(PolicyKind::Score));
    let Answer { text, .. } = ask(&file, Question::Explain(Which::At(Duration::from_secs(30))));
    for part in [
        "request 3001, at 30.000000000 s",
        "went       to A; the replay decides the same",
        "rule       keep A: no other score is lower",
        "B: 34.000 points fewer, the threshold included",
        "without A it would have gone to B",
        "more in flight at A: B",
        "points  latency 2.000 + loss 0.000",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let same = ask(&file, Question::Explain(Which::Request(3001)));
    assert_eq!(same.text, text);
}

/// A recording under `random` is decided again by `score`: all requests would have gone to A and
/// cost 5 ms instead of the mean of both. Decided again by `random` with the recorded seed, it
/// agrees with itself.
#[test]
fn other_rules_are_estimated() {
    let file = OneFile::new(recorded(PolicyKind::Random));
    let decide = |policy| ask(&file, Question::Decide { policy: Some(policy), rules: None }).text;
    let text = decide(PolicyKind::Score);
    assert!(text.contains("A: recorded") && text.contains("again 100.00 %"), "{text}");
    assert!(text.contains("again 5.000 ms (-"), "{text}");
    assert!(text.contains("95 % interval -") && text.contains("not known"), "{text}");
    let text = decide(PolicyKind::Random);
    assert!(text.contains("agreement  6000 of 6000 decisions, 100.00 %"), "{text}");
    assert!(text.contains("(+0.0 %)"), "{text}");
}

/// The fitted scenario has the ratio of the service times (A is three times as fast) and the
/// arrival rate, but no policy.
#[test]
fn scenarios_are_written() {
    let file = OneFile::new(recorded(PolicyKind::Random));
    let recording = Recording::load(&["f".to_owned()], &file).expect("a recording");
    let (json, answer) = fit::fit(&recording).expect("a scenario");
    assert_eq!(answer.wrong, [""; 0]);
    let scenario: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let speed = |index: usize| scenario["backends"][index]["speed"].as_f64().expect("a number");
    assert!((speed(0) / speed(1) - 3.0).abs() < 0.01, "{json}");
    let rate = scenario["arrivals"]["rate"]["perSecond"].as_f64().expect("a number");
    assert!((rate - 100.0).abs() < 1.0, "{rate}");
    assert!(scenario["routing"].get("policy").is_none());
}

/// The output of checks and explanations is readable for every policy: it has no Rust syntax.
#[test]
fn no_rust_is_printed() {
    for policy in PolicyKind::ALL {
        let file = OneFile::new(recorded(policy));
        for question in [Question::Check, Question::Explain(Which::Request(3001))] {
            let Answer { text, wrong } = ask(&file, question);
            for part in ["{", "}", "Some(", "None", "Ok(", "Err(", "::", "_ms:", "View"] {
                assert!(!text.contains(part), "{part:?} in {text}");
                assert!(wrong.iter().all(|line| !line.contains(part)), "{wrong:?}");
            }
        }
    }
}

/// A report has every line of the text as a row of its table, with the same numbers, and curves of
/// each backend, including decisions by another policy.
#[test]
fn reports_have_the_numbers_of_the_text() {
    let file = OneFile::new(recorded(PolicyKind::Random));
    let again = Question::Decide { policy: Some(PolicyKind::Score), rules: None };
    for (question, charts) in [(Question::Check, 6), (again, 4)] {
        let html = Some("r.html".to_owned());
        let options = Options { files: vec!["f".to_owned()], question, html };
        let Answer { text, .. } = answer(&options, &file).expect("an answer");
        let page = file.1.borrow();
        assert!(text.lines().count() >= 6, "{text}");
        for line in text.lines() {
            let (label, figures) = line.split_at(11);
            let before = match label.trim_end() {
                // It continues the line before it.
                "" => " ".to_owned(),
                label => format!("<th scope=\"row\">{label}</th><td>"),
            };
            assert!(page.contains(&format!("{before}{figures}")), "{line}");
        }
        assert_eq!(page.matches("<figure data-chart=").count(), charts);
        assert!(page.contains(r#""labels":["A","B"]"#));
        assert!(page.len() < 200_000, "{} bytes", page.len());
    }
    let html = Some("other".to_owned());
    let options = Options { files: vec!["f".to_owned()], question: Question::Check, html };
    assert_eq!(answer(&options, &file).expect_err("it cannot be written"), "other: read-only");
}
