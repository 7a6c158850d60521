//! Report settings of a backend, from its own keys and the common ones.
use super::*;

fn config(text: &str) -> Config {
    Config::from_json(text).expect("a valid configuration")
}

fn of(config: &Config, name: &str) -> Reporting {
    config.reporting_named(name)
}

/// The default settings fit the simulated servers.
#[test]
fn usual_reports() {
    let reporting = of(&Config::default(), "A");
    assert_eq!(reporting.kind, ReportKind::Json);
    assert_eq!(reporting.path, "/metrics");
    assert_eq!(reporting.names.queue, ["queueLen"]);
    assert_eq!(reporting.names.memory_bytes, ["heapUsed", "memRss"]);
    assert!(reporting.names.running.is_empty() && reporting.names.pressure.is_empty());
    assert_eq!(reporting.orca, Orca::Off);
    assert_eq!(reporting.timeout, (Duration::from_secs(1), "routing.probes.reportTimeoutMs"));
}

/// A preset sets the kind and the names. A backend's own keys override the common ones.
#[test]
fn own_keys_replace_common_ones() {
    let config = config(
        r#"{"reports": {"preset": "vllm", "intervalMs": 1000, "orca": "take"}, "backends": [
            {"name": "a", "url": "http://a"},
            {"name": "b", "url": "http://b", "reports": {"kind": "none", "orca": "keep"}},
            {"name": "c", "url": "http://c", "reports": {"preset": "tgi", "path": "/m", "port": 9,
                "fields": {"running": "one|two"}, "timeoutMs": 50}}]}"#,
    );
    let a = of(&config, "a");
    assert_eq!((a.kind, &a.path[..], a.orca), (ReportKind::Prometheus, "/metrics", Orca::Take));
    assert_eq!(a.names.pressure, ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"]);
    let b = of(&config, "b");
    assert_eq!((b.kind, b.orca), (ReportKind::None, Orca::Keep));
    let c = of(&config, "c");
    assert_eq!((c.kind, &c.path[..], c.port), (ReportKind::Prometheus, "/m", Some(9)));
    assert_eq!(c.names.running, ["one", "two"]);
    assert_eq!(c.names.queue, ["tgi_queue_size"]);
    assert_eq!(c.timeout, (Duration::from_millis(50), "reports.timeoutMs"));
    let rules = |index: usize| config.probe_rules_of(&config.backends[index]);
    assert_eq!((rules(0).is_report_off, rules(0).report_interval_ms), (false, Some(1000)));
    assert!(rules(1).is_report_off);
    assert_eq!(rules(2).report_timeout_ms, Some(50));
}

/// A backend with a form of its own has the usual names of that form, not those of the preset for
/// the others.
#[test]
fn a_preset_belongs_to_its_form() {
    let config = config(
        r#"{"reports": {"preset": "vllm"}, "backends": [
            {"name": "a", "url": "http://a", "reports": {"kind": "json"}},
            {"name": "b", "url": "http://b", "reports": {"kind": "json", "fields": {"running": "n"}}}]}"#,
    );
    assert_eq!(of(&config, "a").names, of(&Config::default(), "A").names);
    assert_eq!(of(&config, "b").names.all(), "n");
}

/// If `fields` is set, only the figures that it names are read.
#[test]
fn fields_replace_the_usual_names() {
    let config = config(r#"{"reports": {"fields": {"queue": "load.waiting"}}}"#);
    let names = of(&config, "A").names;
    assert_eq!(names.queue, ["load.waiting"]);
    assert_eq!(names.all(), "load.waiting");
}

/// Invalid values are refused with their paths.
#[test]
fn invalid_values_have_their_paths() {
    let rows = [
        (r#"{"reports": {"kind": "agent"}}"#, "reports.port"),
        (r#"{"reports": {"port": 0}}"#, "reports.port"),
        (r#"{"reports": {"path": "metrics"}}"#, "reports.path"),
        (r#"{"reports": {"fields": {"queues": "x"}}}"#, "reports.fields.queues"),
        (r#"{"reports": {"fields": {"queue": ""}}}"#, "reports.fields.queue"),
        (r#"{"reports": {"fields": {"queue": "a||b"}}}"#, "reports.fields.queue"),
        (r#"{"reports": {"intervalMs": 0}}"#, "reports.intervalMs"),
        (r#"{"reports": {"timeoutMs": 3600001}}"#, "reports.timeoutMs"),
        (
            r#"{"backends": [{"name": "a", "url": "http://a", "reports": {"kind": "agent"}}]}"#,
            "backends[0].reports.port",
        ),
    ];
    for (text, path) in rows {
        let error = Config::from_json(text).expect_err(text).to_string();
        assert!(error.contains(&format!("{path}: ")), "{text}: {error}");
    }
}
