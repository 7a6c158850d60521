//! The text of the metrics as a whole: pieces, families, labels and buckets.
use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::pages::testing::unknown_backend;

fn figures(name: &str) -> BackendFigures {
    let mut counts = BackendCounts::default();
    counts.responses.add(204);
    counts.responses.add(999);
    counts.failed = 3;
    for ms in [1, 40, 100_000] {
        counts.duration.add(Duration::from_millis(ms));
    }
    counts.first_byte.add(Duration::from_millis(2));
    BackendFigures { snapshot: unknown_backend(0, name), counts, idle: 2 }
}

fn overall() -> Overall {
    Overall {
        policy: "score",
        router: Default::default(),
        guard: None,
        exchanges: Default::default(),
        incidents: Default::default(),
        retries: Default::default(),
        queue: Default::default(),
        queue_length: 0,
        queue_wait: Histogram::default(),
        clients: 1,
        clients_max: 10,
        connections: 3,
        buffers: 0,
        log: Default::default(),
        access: Default::default(),
        reloads_done: 0,
        reloads_refused: 0,
        recording: None,
        is_ready: true,
    }
}

/// Returns the text for these backends, written in pieces of `count` pairs.
fn text_of(names: &[&str], count: usize) -> String {
    let process = ProcessFigures { cpu_seconds: Some(1.5), ..ProcessFigures::default() };
    let mut metrics = MetricsText::new(&overall(), &process);
    names.iter().for_each(|name| metrics.push(figures(name)));
    while !metrics.write_some(count) {}
    String::from_utf8(metrics.finish()).expect("UTF-8")
}

/// The text is the same for pieces of any size.
#[test]
fn pieces_make_the_whole() {
    let whole = text_of(&["A", "B", "C"], usize::MAX);
    for count in [1, 2, 3, 7] {
        assert_eq!(text_of(&["A", "B", "C"], count), whole, "{count}");
    }
    assert!(whole.contains(
        "intelliproxy_backend_requests_total{pool=\"default\",backend=\"B\",code=\"2xx\"} 1\n"
    ));
    assert!(whole.contains(
        "intelliproxy_backend_requests_total{pool=\"default\",backend=\"B\",code=\"other\"} 1\n"
    ));
    assert!(whole.contains("\nprocess_cpu_seconds_total 1.5\n"));
    assert!(!text_of(&[], 1).contains("intelliproxy_backend_"));
}

/// Every family occurs once, with help and kind before its samples. Names and kinds follow the
/// conventions, and no two samples have the same name and labels.
#[test]
fn families_are_well_formed() {
    let text = text_of(&["A", "B"], 5);
    let mut begun: BTreeSet<&str> = BTreeSet::new();
    let mut samples: BTreeSet<&str> = BTreeSet::new();
    let (mut name, mut kind) = ("", "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (family, help) = help.split_once(' ').expect("a help");
            assert!(begun.insert(family), "{family} occurs twice");
            assert!(help.ends_with('.') && !help.contains('\\'), "{help}");
            let of = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).expect("a type");
            (name, kind) = of.split_once(' ').expect("a kind");
            assert_eq!(name, family);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            let is_time = name.contains("duration") || name.ends_with("_age");
            assert!(!is_time || name.ends_with("_seconds"), "{name}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(sample), "{sample} occurs twice");
        let of = sample.split('{').next().unwrap_or_default();
        let suffix = of.strip_prefix(name).unwrap_or_else(|| panic!("{of} under {name}"));
        let is_known = suffix.is_empty() != (kind == "histogram");
        assert!(is_known, "{of} is a {kind}");
    }
    assert!(begun.len() > 60, "{}", begun.len());
}

/// A name with any characters stays inside its label.
#[test]
fn hostile_names_are_escaped() {
    let text = text_of(&["\"} 1\nevil_total 2\\"], usize::MAX);
    assert!(!text.lines().any(|line| line.starts_with("evil_total")));
    assert!(text.contains("backend=\"\\\"} 1\\nevil_total 2\\\\\"}"));
}

/// Each histogram shows its own times: the counts up to each bound, the sum, and the total in the
/// last bucket and in the count.
#[test]
fn histograms_are_whole() {
    let text = text_of(&["A"], usize::MAX);
    let of = "pool=\"default\",backend=\"A\"";
    let rows = [
        ("request_duration", [1, 2, 3], "100.041"),
        ("first_byte", [0, 1, 1], "0.002"),
        ("connect_duration", [0, 0, 0], "0"),
    ];
    for (name, [first, within, all], sum) in rows {
        for line in [
            format!("_bucket{{{of},le=\"0.001\"}} {first}"),
            format!("_bucket{{{of},le=\"60\"}} {within}"),
            format!("_bucket{{{of},le=\"+Inf\"}} {all}"),
            format!("_sum{{{of}}} {sum}"),
            format!("_count{{{of}}} {all}"),
        ] {
            let line = format!("\nintelliproxy_backend_{name}_seconds{line}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
