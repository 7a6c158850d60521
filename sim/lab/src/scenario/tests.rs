use super::*;
use crate::{catalogue, wide_catalogue};

/// Every example of SCENARIOS.md can be read, run for a moment and written as JSON that reads back
/// equal. The first example equals the default, an empty object.
#[test]
fn examples_of_the_manual() {
    let manual = include_str!("../../SCENARIOS.md");
    let examples: Vec<_> = manual
        .split("```json\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    assert!(examples.len() > 20, "the examples are found");
    for example in &examples {
        let scenario = Scenario::from_json(example).unwrap_or_else(|e| panic!("{e}: {example}"));
        assert_eq!(Scenario::from_json(&scenario.to_json()).as_ref(), Ok(&scenario));
        let mut moment = Scenario { duration_s: 0.05, ..scenario };
        moment.load_trace(|_| Ok("0,10\n0.01,20\n".to_owned())).expect("a trace");
        crate::run(&moment, crate::Contender::Oracle, 1).expect("it runs");
    }
    assert_eq!(Scenario::from_json(examples[0]), Ok(Scenario::default()));
    assert_eq!(Scenario::from_json("{}"), Ok(Scenario::default()));
}

/// Every kind of fault and of service has an example.
#[test]
fn manual_knows_every_knob() {
    let manual = include_str!("../../SCENARIOS.md");
    let words = "speed redraw sinkhole blackHole refusing errors slow constant exponential uniform \
                 lognormal pareto mixture empirical load perSecond bursts surges lossy waits trace \
                 recorded classes retries rttMs uploadMs downloadMs patienceMs status tunnel events \
                 tokens crash cut answers fails abovePerSecond retryAfterS cache affinity";
    for word in words.split_whitespace() {
        assert!(manual.contains(&format!("\"{word}\"")), "{word}");
    }
}

/// The named scenarios of both catalogues are valid, and their names differ.
#[test]
fn named_scenarios_are_sound() {
    let names: Vec<_> = catalogue()
        .into_iter()
        .chain(wide_catalogue())
        .map(|scenario| {
            let read = Scenario::from_json(&scenario.to_json());
            assert_eq!(read.as_ref(), Ok(&scenario), "{}", scenario.name);
            scenario.name
        })
        .collect();
    let expected = "homog70 homog90 hetero40 hetero80 seed_ab brownout sinkhole blackhole \
                    coldstart bimodal85 burst120 antagonist llm fleet200 refuses retry_after \
                    rate_limit broken_release broken_url partial_errors crash cuts low_sinkhole \
                    low_silence low_crash big_one costs distances slow_clients impatient tunnels \
                    events tokens short_queues few_fast";
    assert_eq!(names.join(" "), expected);
}

/// Rates by hand: 10 backends of 4 workers at 100 a second each, at 70 %. The speeds of hetero add
/// up to 21. A speed that is redrawn counts with its mean. In a batch of 16 each request takes 1.75
/// times as long.
#[test]
fn rates_by_hand() {
    let rate = |name: &str| {
        let scenario = catalogue().into_iter().find(|scenario| scenario.name == name);
        scenario.expect(name).base_rate()
    };
    let cases = [
        ("homog70", 2800.0),
        ("hetero80", 6720.0),
        ("seed_ab", 40.0),
        ("coldstart", 1600.0),
        ("antagonist", 1950.0),
        ("bimodal85", 0.85 * 40.0 / 0.0118),
        ("fleet200", 64_000.0),
    ];
    for (name, expected) in cases {
        assert!((rate(name) / expected - 1.0).abs() < 1e-9, "{name}: {}", rate(name));
    }
    assert!((11.5..12.5).contains(&rate("llm")), "{}", rate("llm"));
}

/// Invalid values are refused with line and path.
#[test]
fn faults_are_located() {
    let cases = [
        ("{\n\"durationS\": 0}", "2: durationS: must be from 0.001 to 86400"),
        ("{\n\n\"warmupS\": 60}", "3: warmupS: must be less than durationS"),
        ("{\n\"duration\": 1}", "2: duration: unknown field `duration`, expected"),
        ("[1", "1: "),
        ("{} x", "1: trailing characters"),
        ("{\"proxies\": 1001}", "1: proxies: must be from 1 to 1000"),
        ("{\"backends\": [\n{\"workers\": 0}]}", "2: backends[0].workers: must be from 1 to 10000"),
        ("{\"backends\": []}", "1: arrivals: must come to a rate above 0"),
        ("{\"backends\": [{}, {}]}", "1: backends: must have names that differ"),
        (
            "{\"backends\": [{\"faults\": [\n{\"what\": {\"errors\": 2}}]}]}",
            "2: backends[0].faults[0].what.errors: must be from 0 to 1",
        ),
        (
            "{\"service\": {\"empirical\": [[0, 1], [0.5, 2]]}}",
            "1: service.empirical: must be [share, ms] pairs",
        ),
        ("{\"service\": {\"uniform\": [2, 1]}}", "1: service.uniform: must be [low, high]"),
        (
            "{\"routing\": {\"switch\": {\"threshold\": -1}}}",
            "1: routing: switch.threshold: must be a number from 0 to 1000000",
        ),
        (
            "{\"arrivals\": {\"rate\": \"recorded\"}}",
            "1: rate: must be a load or requests a second",
        ),
        (
            "{\"arrivals\": {\"trace\": \"a\", \"bursts\": {\"low\": 1, \"high\": 2, \"meanMs\": 1}}}",
            "1: trace: must be without bursts",
        ),
        ("{\"arrivals\": {\n\"rat\": 1}}", "2: arrivals.rat: unknown field"),
        ("{\"classes\": [\n{\"status\": 99}]}", "2: classes[0].status: must be from 200 to 599"),
        ("{\"retries\": {\"attempts\": 0}}", "1: retries.attempts: must be from 1 to 16"),
        (
            "{\"backends\": [{\"faults\": [{\"what\": {\"fails\": {\n\"class\": \"x\", \"share\": 1}}}]}]}",
            "2: class: must be the name of a class",
        ),
        ("{\"routing\": {\"policy\": \"random\"}}", "1: routing: policy: must be left out"),
    ];
    for (text, expected) in cases {
        let error = Scenario::from_json(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

/// A stretched scenario keeps its shape: scripted times change, the times of requests do not.
#[test]
fn scaled_scenarios_keep_their_shape() {
    let scenario = catalogue().into_iter().find(|scenario| scenario.name == "coldstart");
    let scaled = scenario.expect("coldstart").scaled(0.1);
    assert_eq!((scaled.duration_s, scaled.timeout_ms), (6.0, 5000.0));
    let sixth = &scaled.backends[1];
    assert!((sixth.joins_s - 1.5).abs() < 1e-9);
    assert!((sixth.stays_s.expect("it leaves") - 2.3).abs() < 1e-9);
    assert_eq!(sixth.faults[0].for_s, Some(1.0));
}

/// A trace keeps its own rate unless the scenario has one. The load follows from its mean work, 10
/// and 30 ms, and its three gaps of 2 s. An error in its file is reported with its line.
#[test]
fn traces_are_loaded() {
    let csv = "100,10\n102,30\n104,10\n106,30\n";
    let load = |arrivals: &str| {
        let text = format!("{{\"arrivals\": {arrivals}, \"backends\": [{{\"workers\": 1}}]}}");
        let mut scenario = Scenario::from_json(&text).expect(arrivals);
        scenario.load_trace(|file| Ok(format!("{csv}#{file}"))).map(|()| scenario)
    };
    assert_eq!(load("{\"trace\": \"t.csv\"}").map(|s| s.base_rate()), Ok(0.5));
    let loaded = load("{\"trace\": \"t.csv\", \"rate\": {\"load\": 0.5}}");
    assert_eq!(loaded.map(|s| s.base_rate()), Ok(25.0));
    let mut scenario =
        Scenario::from_json("{\"arrivals\": {\"trace\": \"t.csv\"}}").expect("it is");
    let error = scenario.load_trace(|_| Ok("1,2\nx,3\n".to_owned())).expect_err("it is not");
    assert!(error.starts_with("t.csv:2: must be seconds"), "{error}");
}
