//! Configuration texts with their values or errors, row by row.
use std::time::Duration;

use super::*;
use crate::config::Listen;
use crate::config::Overflow;

#[track_caller]
fn refusal(text: &str) -> String {
    Config::from_json(text).expect_err(text).to_string()
}

/// The default configuration is the same after writing and reading.
#[test]
fn default_survives_json() {
    let config = Config::default();
    assert_eq!(Config::from_json(&config.to_json()), Ok(config));
}

/// Values other than the defaults, one of every kind, are the same after writing and reading.
#[test]
fn other_values_survive_json() {
    let announced = Listen { proxy_protocol: true, .."[::1]:8080".into() };
    let listen = vec!["localhost:0".into(), announced];
    let mut config = Config { listen, backends: Vec::new(), ..Config::default() };
    config.routing.switch.cooldown = Duration::from_millis(1);
    config.routing.switch.spill_over = false;
    config.limits.body_bytes_max = u64::MAX;
    config.timeouts.tunnel_idle = Duration::from_secs(86_400);
    config.forwarding.keep_host = false;
    config.forwarding.trusted = vec!["10.0.0.0/8".to_owned()];
    config.overflow = Overflow::Reject;
    config.stats.allow.clear();
    assert_eq!(Config::from_json(&config.to_json()), Ok(config));
}

/// An empty object gives the defaults, and a partial one changes only its keys.
#[test]
fn missing_keys_have_defaults() {
    assert_eq!(Config::from_json("{}"), Ok(Config::default()));
    let config = Config::from_json(r#"{"timeouts": {"connectMs": 5}}"#).expect("valid");
    let mut expected = Config::default();
    expected.timeouts.connect = Duration::from_millis(5);
    assert_eq!(config, expected);
}

/// Every kind of fault is reported with line, column, path and range; row by row.
#[test]
fn faults_are_told_by_place_and_path() {
    let rows = [
        (
            "{\n\"limits\": {\n\"headBytesMax\": 1023}}",
            "3:17: limits.headBytesMax: must be a whole number from 1024 to 60000",
        ),
        (
            "{\n\"limits\": {\n\"headBytesMax\": -1}}",
            "3:17: limits.headBytesMax: must be a whole number from 1024 to 60000, not -1",
        ),
        (
            "{\"limits\": {\n\"clients\":\n1.5\n}}",
            "3:1: limits.clients: must be a whole number from 1 to 1000000, not 1.5",
        ),
        (
            "{\"limits\": {\"clients\": 18446744073709551616}}",
            "1:24: limits.clients: must be a whole number from 1 to 1000000, not \
             18446744073709551616",
        ),
        (
            "{\"limits\": {\"fieldsMax\": \"9\"}}",
            "1:26: limits.fieldsMax: must be a whole number from 8 to 1000, not \"9\"",
        ),
        (
            "{\"timeouts\": {\n\n\"connectMs\": null}}",
            "3:14: timeouts.connectMs: must be milliseconds from 1 to 86400000, not null",
        ),
        (
            "{\"timeouts\":\n{\"connectMs\": 0}}",
            "2:15: timeouts.connectMs: must be milliseconds from 1 to 86400000",
        ),
        (
            "{\"timeouts\":\n{\"connectMs\": \"3\"}}",
            "2:15: timeouts.connectMs: must be milliseconds from 1 to 86400000, or a text \
             such as \"1500ms\", \"2s\", \"5m\" or \"1h\", not \"3\"",
        ),
        (
            "{\"timeouts\":\n{\"connectMs\": \"25h\"}}",
            "2:15: timeouts.connectMs: must be milliseconds from 1 to 86400000",
        ),
        (
            "{\"timeouts\":\n{\"connectMs\": \"99999999999999999h\"}}",
            "2:15: timeouts.connectMs: must be milliseconds from 1 to 86400000, or a text \
             such as \"1500ms\", \"2s\", \"5m\" or \"1h\", not \"99999999999999999h\"",
        ),
        (
            "{\"limits\":\n{\"headBytesMax\": \"64KB\"}}",
            "2:18: limits.headBytesMax: must be a whole number from 1024 to 60000, or a \
             text such as \"512B\", \"64KiB\", \"8MiB\" or \"1GiB\", not \"64KB\"",
        ),
        (
            "{\"limits\":\n{\"headBytesMax\": \"1MiB\"}}",
            "2:18: limits.headBytesMax: must be a whole number from 1024 to 60000",
        ),
        (
            "{\"limits\": {\"perBackend\": \"1KiB\"}}",
            "1:27: limits.perBackend: must be a whole number from 0 to 1000000, not \
             \"1KiB\"",
        ),
        (
            "{\"discovery\": {\"resolveMs\": \"x\"}}",
            "1:29: discovery.resolveMs: must be milliseconds from 100 to 86400000, or a text such \
             as \"1500ms\", \"2s\", \"5m\" or \"1h\", not \"x\"",
        ),
        (
            "{\"health\": {\"intervalMs\": true}}",
            "1:27: health.intervalMs: must be milliseconds from 1 to 3600000, not true",
        ),
        (
            "{\"health\": {\"port\": 70000}}",
            "1:21: health.port: must be a whole number from 1 to 65535, or null, not 70000",
        ),
        (
            "{\"backends\": [{\"name\": \"a\", \"url\": \"http://a\", \"resolveMs\": -1}]}",
            "1:61: backends[0].resolveMs: must be milliseconds from 100 to 86400000, not -1",
        ),
        (
            "{\"backends\": [{\"name\": \"a\", \"url\": \"http://a\", \"limit\": 0.5}]}",
            "1:57: backends[0].limit: must be a whole number from 0 to 1000000, not 0.5",
        ),
        (
            "{\"backends\": [{\"name\": \"a\", \"url\": \"http://a\", \"weight\": true}]}",
            "1:58: backends[0].weight: must be a whole number from 0 to 1000, not true",
        ),
        (
            "{\"backends\": [{\"name\": \"a\", \"url\": \"http://a\",\n\"health\": {\"timeoutMs\": []}}]}",
            "2:25: backends[0].health.timeoutMs: must be milliseconds from 1 to 3600000, not a list",
        ),
        (
            "{\"log\": {\"file\": \"a\"},\n\"discovery\": {\"file\": \"./a\"}}",
            "2:23: discovery.file: must be a file of its own, and \"./a\" is log.file",
        ),
        (
            "{\"limits\": {\n\"headBytesMax\": 2048}}",
            "1:12: limits.targetBytesMax: must be at most limits.headBytesMax, which is \
             2048",
        ),
        (
            "{\n\"forwarding\": {\"keepHost\":\n1}}",
            "3:1: forwarding.keepHost: must be true or false, not 1",
        ),
        (
            "{\n\"forwarding\": {\n\"keephost\": true}}",
            "3:1: forwarding.keephost: unknown key; did you mean `forwarding.keepHost`?",
        ),
        (
            "{\"timeouts\": {\"responseHead\": 1}}",
            "1:15: timeouts.responseHead: unknown key; did you mean \
             `timeouts.responseHeadMs`?",
        ),
        ("{\"connectMs\": 1}", "1:2: connectMs: unknown key; did you mean `timeouts.connectMs`?"),
        ("{\n\n\"listne\": []}", "3:1: listne: unknown key; did you mean `listen`?"),
        (
            "{\n\"a.b\":\n1}",
            "2:1: a.b: unknown key; known: listen, backends, routing, limits, timeouts, \
             forwarding, pool, overflow, stats, admin, probePaths, health, reports, tls, discovery, log, accessLog, requestId, \
             recording, stateFile",
        ),
        (
            "{\"forwarding\": {\"via\": \"a\",\n\"via\": \"b\"}}",
            "2:1: forwarding.via: repeated; first on line 1",
        ),
        ("{\"listen\": [],\n\"listen\": []}", "2:1: listen: repeated; first on line 1"),
        (
            "{\"listen\": [{\"address\": \"a:1\",\n\"addr\\u0065ss\": \"a:1\"}]}",
            "2:1: listen[0].address: repeated; first on line 1",
        ),
        ("{\n\"listen\": \"a:1\"}", "2:11: listen: must be a list, not \"a:1\""),
        (
            "{\n\"listen\": [\n1]}",
            "3:1: listen[0]: must be a string or an object with address and other keys, not 1",
        ),
        (
            "{\"listen\": [{\"address\": \"a:1\",\n\"proxyProtocol\": true}]}",
            "2:18: listen[0].proxyProtocol: must be false while forwarding.trusted is \
             empty",
        ),
        ("{\n\"listen\": [{\"proxyProtocol\": true}]}", "2:12: listen[0]: needs address"),
        (
            "{\"listen\": [\n{\"adress\": \"a:1\"}]}",
            "2:2: listen[0].adress: unknown key; did you mean `listen[0].address`?",
        ),
        (
            "{\"listen\": [{\"address\": \"a:1\",\n\"proxyProtocol\": 1}]}",
            "2:18: listen[0].proxyProtocol: must be true or false, not 1",
        ),
        ("{\n\"listen\": []}", "2:11: listen: must be a list of 1 to 64 entries"),
        ("{\"overflow\":\n\"drop\"}", "2:1: overflow: must be wait or reject, not \"drop\""),
        ("{\"overflow\":\n1}", "2:1: overflow: must be wait or reject, not 1"),
        (
            "{\"backends\": [\n{\"name\": \"A\", \"url\": \"http://a\"},\n{\"name\": \"A\", \"url\": \"http://b\"}]}",
            "3:10: backends[1].name: must be a name of its own, and \"A\" is there \
             already",
        ),
        (
            "{\"backends\": [{\"name\": \"A\",\n\"url\": \"ftp://a\"}]}",
            "2:8: backends[0].url: must be http(s)://HOST[:PORT], and \"ftp://a\" does not \
             begin with http:// or https://",
        ),
        ("{\"backends\": [\n{\"name\": \"A\"}]}", "2:1: backends[0]: needs url"),
        (
            "{\"backends\": [\n{\"name\": \"A\", \"url\": \"http://a\", \"colour\": 1}]}",
            "2:34: backends[0].colour: unknown key; known: name, url, limit, weight, \
             backup, expand, resolveMs, health, reports, tls",
        ),
        (
            "{\"backends\": [\n[\"A\", \"http://a\"]]}",
            "2:1: backends[0]: must be an object, not a list",
        ),
        ("{\n\"limits\": []}", "2:11: limits: must be an object, not a list"),
        ("{\n\"limits\": null}", "2:11: limits: must be an object, not null"),
        (
            "{\"routing\": {\n\"switch\": [30]}}",
            "2:11: routing.switch: must be an object, not a list",
        ),
        ("[]", "1:1: must be an object, not a list"),
        ("\n7", "2:1: must be an object, not 7"),
        (
            "{\"routing\": {\"switch\":\n{\"threshold\": -1}}}",
            "2:15: routing.switch.threshold: must be a number from 0 to 1000000",
        ),
        (
            "{\"routing\": {\"switch\":\n{\"threshold\": \"high\"}}}",
            "2:15: routing.switch.threshold: must be a number, not \"high\"",
        ),
        (
            "{\"routing\": {\"switch\":\n{\"cooldownMs\": -1}}}",
            "2:16: routing.switch.cooldownMs: must be a whole number, 0 or more, not -1",
        ),
        (
            "{\"routing\": {\"switch\":\n{\"cooldownMs\": \"2h\"}}}",
            "2:16: routing.switch.cooldownMs: must be milliseconds from 0 to 3600000",
        ),
        (
            "{\"stats\": {\"allow\": [\"::1\",\n\"10.0.0.0/33\"]}}",
            "2:1: stats.allow[1]: must be ADDRESS or ADDRESS/PREFIX, and \"10.0.0.0/33\" \
             has an invalid prefix length",
        ),
        ("", "1:1: must be an object"),
        ("// nothing", "1:11: must be an object"),
        ("{\n\"listen\": [\"a:1\"]\n\"x\": 1}", "2:18: expected comma"),
        ("{\n\"limits\": {\"clients\": 1", "2:11: unterminated object"),
        (
            "{\"forwarding\": {\"via\": \"a\n\"}}",
            "1:24: forwarding.via: has a line break or another control character, which \
             needs an escape",
        ),
        ("{\"forwarding\": {\"via\": 'a'}}", "1:24: single-quoted strings are not allowed"),
        ("{via: 1}", "1:2: expected string for object property"),
        ("{\"limits\": {\"clients\": 0x10}}", "1:24: hexadecimal numbers are not allowed"),
        ("{\"limits\": {\"clients\": 010}}", "1:25: expected comma"),
        ("{}\n{}", "2:1: text cannot contain more than one JSON value"),
        ("{\"listen\": [\n1e999]}", "2:1: listen[0]: number out of range"),
    ];
    for (text, expected) in rows {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

/// Long values are cut in an error.
#[test]
fn long_values_are_cut() {
    let text = format!("{{\"limits\": {{\"clients\": \"{}\"}}}}", "x".repeat(10_000));
    let expected = format!(
        "1:24: limits.clients: must be a whole number from 1 to 1000000, not \"{}\"...",
        "x".repeat(60)
    );
    assert_eq!(refusal(&text), expected);
}

/// Comments, trailing commas, times and sizes with a unit are read.
#[test]
fn files_are_written_by_people() {
    let text = r#"
        // The first line.
        {
            "limits": { "bodyBytesMax": "8MiB", "headBytesMax": "32KiB", /* the default */ },
            "timeouts": { "connectMs": "1500ms", "tunnelIdleMs": "2h", },
            "routing": { "switch": { "cooldownMs": "2s" } },
            "recording": { "bytesMax": "1GiB" },
            "stats": { "allow": [ "::1", ], }, // the last one
        }
    "#;
    let mut expected = Config::default();
    expected.limits.body_bytes_max = 8 * 1024 * 1024;
    expected.timeouts.connect = Duration::from_millis(1500);
    expected.timeouts.tunnel_idle = Duration::from_secs(7200);
    expected.routing.switch.cooldown = Duration::from_secs(2);
    expected.recording.bytes_max = 1024 * 1024 * 1024;
    expected.stats.allow = vec!["::1".to_owned()];
    assert_eq!(Config::from_json(text), Ok(expected));
}
