//! Reports in every form, row by row. The fuzz target `report` reads any bytes.
use super::*;
use crate::config::{Config, ReportPreset, ReportRules};
use crate::http::field::is_load_field;

fn reporting(rules: ReportRules) -> Reporting {
    let config = Config { reports: rules, ..Config::default() };
    config.validate().expect("valid rules");
    config.reporting_named("A")
}

fn of_preset(preset: ReportPreset) -> Reporting {
    reporting(ReportRules { preset: Some(preset), ..ReportRules::default() })
}

fn of_kind(kind: ReportKind, fields: &[(&str, &str)]) -> Reporting {
    let fields = fields.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect();
    let port = Some(1);
    reporting(ReportRules {
        kind: Some(kind),
        fields: Some(fields),
        port,
        ..ReportRules::default()
    })
}

/// The queue, running requests and pressure of a report.
type Load = (Option<f64>, Option<f64>, Option<f64>);

fn load(reading: &Reading) -> Load {
    let report = reading.report.expect("a readable report");
    (report.queue, report.running, report.pressure)
}

/// The preset of each known server finds its figures in the metrics as the server exports them.
#[test]
fn presets_read_their_servers() {
    use ReportPreset::{Sglang, Tgi, Triton, Vllm};
    let rows = [
        (Vllm, include_str!("fixtures/vllm.txt"), (Some(7.0), Some(12.0), Some(0.375))),
        (Vllm, include_str!("fixtures/vllm-0.8.txt"), (Some(2.0), Some(5.0), Some(0.25))),
        (Sglang, include_str!("fixtures/sglang.txt"), (Some(3.0), Some(41.0), Some(0.28))),
        (Triton, include_str!("fixtures/triton.txt"), (Some(5.0), None, Some(0.5))),
        (Triton, include_str!("fixtures/triton-llm.txt"), (Some(1.0), Some(6.0), Some(0.125))),
        (Tgi, include_str!("fixtures/tgi.txt"), (Some(4.0), Some(9.0), None)),
    ];
    for (preset, text, expected) in rows {
        let reading = read_report(text.as_bytes(), &of_preset(preset));
        assert_eq!((load(&reading), &reading.fault), (expected, &None), "{preset:?}");
    }
}

/// Samples of one name are added; for a pressure the highest is used. Invalid values are ignored
/// and are faults.
#[test]
fn samples_are_read() {
    let of = of_kind(
        ReportKind::Prometheus,
        &[("queue", "q"), ("running", "old|r{pool=\"a\"}"), ("pressure", "p")],
    );
    let rows: [(&str, Load, bool); 16] = [
        ("q 1\nq{a=\"}\\\"{\"} 2.5 1700000000000\r\n", (Some(3.5), None, None), false),
        ("p{a=\"1\"} 0.5\np{a=\"2\"} 0.25\n", (None, None, Some(0.5)), false),
        ("r{pool=\"b\"} 9\nr{x=\"\",pool=\"a\"} 1\nr 5\n", (None, Some(1.0), None), false),
        ("r{pool=\"a\"} 1\nold 2\n", (None, Some(2.0), None), false),
        ("# TYPE q gauge\n# HELP q text\n\nqq 5\nq_total 3\nq 0", (Some(0.0), None, None), false),
        ("q -0\n", (Some(0.0), None, None), false),
        ("q NaN\np 1", (None, None, Some(1.0)), true),
        ("q +Inf\np 1", (None, None, Some(1.0)), true),
        ("q -1\np 1", (None, None, Some(1.0)), true),
        ("q -1\nq 5\np 1", (None, None, Some(1.0)), true),
        ("q 5\nq NaN\nq 1\np 1", (None, None, Some(1.0)), true),
        ("q 1e300\np 1", (None, None, Some(1.0)), true),
        ("q many\nq 1\np 1", (None, None, Some(1.0)), true),
        ("q{a=\"1\np 1", (None, None, Some(1.0)), true),
        ("q\np 1", (None, None, Some(1.0)), true),
        ("old NaN\nr{pool=\"a\"} 3", (None, Some(3.0), None), true),
    ];
    for (text, expected, is_faulty) in rows {
        let reading = read_report(text.as_bytes(), &of);
        assert_eq!((load(&reading), reading.fault.is_some()), (expected, is_faulty), "{text}");
    }
    for text in ["", "\n#", "nothing 1", "{\"q\": 1}", "\u{0}\u{1}"] {
        let reading = read_report(text.as_bytes(), &of);
        assert_eq!(reading.fault, Some(ReportFault::NoFigures), "{text}");
    }
}

/// Names are keys or paths. Of several names, the first that exists is used.
#[test]
fn paths_lead_into_objects() {
    let of = of_kind(
        ReportKind::Json,
        &[("queue", "load.waiting|queue"), ("running", "a.b.c"), ("pressure", "p")],
    );
    let rows = [
        (r#"{"load": {"waiting": 3}, "queue": 4}"#, (Some(3.0), None, None), false),
        (r#"{"queue": 4, "a.b.c": 1}"#, (Some(4.0), Some(1.0), None), false),
        (r#"{"a": {"b": {"c": 2}}, "p": 0.5}"#, (None, Some(2.0), Some(0.5)), false),
        (r#"{"a": {"b.c": 2}, "p": null}"#, (None, Some(2.0), None), false),
        (r#"{"a": [{"b": 1}], "queue": 1}"#, (Some(1.0), None, None), false),
        (r#"{"load": {"waiting": -1}, "queue": 4}"#, (Some(4.0), None, None), true),
        (r#"{"queue": 1e300, "p": 1}"#, (None, None, Some(1.0)), true),
        (r#"{"queue": "4", "p": 1}"#, (None, None, Some(1.0)), true),
        (r#"{"queue": true, "p": 1}"#, (None, None, Some(1.0)), true),
    ];
    for (text, expected, is_faulty) in rows {
        let reading = read_report(text.as_bytes(), &of);
        assert_eq!((load(&reading), reading.fault.is_some()), (expected, is_faulty), "{text}");
    }
}

/// Response fields are read in each form, with and without the word for the form.
#[test]
fn response_fields_are_read() {
    let names = Reporting::default().orca_names;
    let field = "Endpoint-Load-Metrics";
    let json = "endpoint-load-metrics-json";
    let rows = [
        (
            field,
            "TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=2",
            (Some(2.0), None, Some(0.3)),
        ),
        (field, "cpu_utilization:0.3,application_utilization:0.5", (None, None, Some(0.5))),
        (field, "text named_metrics.running=4", (None, Some(4.0), None)),
        (
            field,
            r#"JSON {"named_metrics": {"queue": 1, "running": 2}}"#,
            (Some(1.0), Some(2.0), None),
        ),
        (field, r#"{"applicationUtilization": 0.7}"#, (None, None, Some(0.7))),
        (json, r#"{"cpu_utilization": 0.1, "mem_utilization": 1}"#, (None, None, Some(0.1))),
    ];
    for (name, value, expected) in rows {
        assert!(is_load_field(name.as_bytes()), "{name}");
        let reading = orca::read(name, value.as_bytes(), &names);
        assert_eq!((load(&reading), &reading.fault), (expected, &None), "{value}");
    }
    let rows = [
        (field, "TEXT rps_fractional=5", false),
        (field, "", false),
        (field, "TEXT cpu_utilization", true),
        (field, "TEXT cpu_utilization=much", true),
        (field, "TEXT cpu_utilization=-1", true),
        (field, "TEXT cpu_utilization=NaN", true),
        (field, "JSON {", true),
        (field, "BIN AAAA", true),
        (json, "cpu_utilization=1", true),
        ("endpoint-load-metrics-bin", "AAAA", true),
    ];
    for (name, value, is_faulty) in rows {
        let reading = orca::read(name, value.as_bytes(), &names);
        assert_eq!((reading.report, reading.fault.is_some()), (None, is_faulty), "{value}");
    }
    for name in ["", "endpoint-load-metric", "endpoint-load-metrics-text", "content-length"] {
        assert!(!is_load_field(name.as_bytes()), "{name}");
    }
}

/// Each word of an agent has its effect. An unknown word makes the line a fault.
#[test]
fn agents_are_understood() {
    let of = of_kind(ReportKind::Agent, &[]);
    let rows = [
        ("75%\n", (Some(75), None, None)),
        ("up 50% ready", (Some(50), Some(false), Some(false))),
        ("drain\r\n", (None, Some(true), None)),
        ("MAINT, 0%", (Some(0), Some(true), None)),
        ("stopped # going home", (None, None, Some(true))),
        ("fail", (None, None, Some(true))),
        ("down\tmaxconn:10", (None, None, Some(true))),
        ("up\nsecond line", (None, None, Some(false))),
    ];
    for (line, expected) in rows {
        let reading = read_report(line.as_bytes(), &of);
        let state = reading.report.and_then(|report| report.agent).expect(line);
        assert_eq!((state.percent, state.is_out, state.is_down), expected, "{line}");
        assert_eq!(reading.fault, None, "{line}");
    }
    for line in ["50", "257%", "-1%", "1e2%", "%", "up sideways", "\u{0}"] {
        let reading = read_report(line.as_bytes(), &of);
        assert!(matches!(reading.fault, Some(ReportFault::Unreadable { .. })), "{line}");
        assert_eq!(reading.report, None, "{line}");
    }
    for line in ["", "\n", "# nothing", "maxconn:30\n"] {
        let nothing = Reading { report: Some(LoadReport::default()), fault: None };
        assert_eq!(read_report(line.as_bytes(), &of), nothing, "{line}");
    }
}
