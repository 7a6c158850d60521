//! The backends that result from known addresses, and valid and invalid watched files.
use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn known(hosts: &[(&str, &[&str])]) -> Known {
    let hosts = hosts.iter().map(|(host, texts)| ((*host).to_owned(), ips(texts)));
    Known { hosts: hosts.collect(), file: Vec::new() }
}

fn names(found: &Found) -> Vec<&str> {
    found.backends.iter().map(|backend| backend.name.as_str()).collect()
}

fn config(backends: &str) -> Config {
    Config::from_json(&format!("{{\"backends\": [{backends}]}}")).expect(backends)
}

/// A name with `expand` becomes a backend for each address, IPv4 first and in order, with the
/// settings and the Host of the name. Other names keep all their addresses. Names without a known
/// address are left out.
#[test]
fn names_become_backends() {
    let config = config(
        r#"{"name": "svc", "url": "http://svc:8000", "expand": true, "weight": 50, "limit": 3,
            "resolveMs": 1000},
        {"name": "one", "url": "http://one"}, {"name": "none", "url": "http://none"},
        {"name": "ip", "url": "http://10.9.9.9:1"}"#,
    );
    let known = known(&[
        ("svc", &["10.0.0.7", "fd00::2", "10.0.0.5", "10.0.0.7"]),
        ("one", &["10.1.0.2", "10.1.0.1"]),
    ]);
    let found = config.found(&known).expect("few");
    let expected = ["svc/10.0.0.5", "svc/10.0.0.7", "svc/fd00::2", "one", "ip"];
    assert_eq!(names(&found), expected);
    let targets: Vec<_> = found
        .targets
        .iter()
        .map(|target| (target.name.as_str(), target.authority.as_str(), target.addresses.clone()))
        .collect();
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    assert_eq!(targets[2], ("svc/fd00::2", "svc:8000", vec![address("[fd00::2]:8000")]));
    let both = vec![address("10.1.0.2:80"), address("10.1.0.1:80")];
    assert_eq!(targets[3], ("one", "one", both));
    let first = &found.backends[0];
    assert_eq!((first.url.as_str(), first.weight), ("http://10.0.0.5:8000", Some(50)));
    assert_eq!((first.limit, first.expand, first.resolve), (Some(3), false, None));
    let used = Config { backends: found.backends, ..Config::default() };
    assert_eq!(used.validate(), Ok(()));
    assert_eq!(Config::from_json(&used.to_json()).as_ref(), Ok(&used));
    let hosts = config.hosts(&[]);
    assert_eq!(hosts["svc"], Duration::from_secs(1));
    assert_eq!((hosts["one"], hosts.len()), (Duration::from_secs(5), 3));
}

/// Of two backends with the same name the first is used, and too many are refused.
#[test]
fn names_are_used_once_and_bounded() {
    let config = config(r#"{"name": "svc", "url": "http://svc", "expand": true}"#);
    let mut known = known(&[("svc", &["10.0.0.1"])]);
    known.file = vec![
        BackendConfig::new("svc/10.0.0.1", "http://10.0.0.2"),
        BackendConfig::new("more", "http://10.0.0.3"),
    ];
    let found = config.found(&known).expect("few");
    assert_eq!(names(&found), ["svc/10.0.0.1", "more"]);
    assert_eq!(found.unused, ["svc/10.0.0.1"]);
    assert_eq!(found.targets[0].addresses, ["10.0.0.1:80".parse().expect("an address")]);
    for (count, is_good) in [(BACKENDS_MAX - 1, true), (BACKENDS_MAX, false)] {
        known.file = (0..count)
            .map(|number| BackendConfig::new(&format!("b{number}"), "http://10.0.0.3"))
            .collect();
        assert_eq!(config.found(&known).is_ok(), is_good, "{count}");
    }
}

/// A watched file may have target groups of Prometheus, a list of backends, or an object with one.
#[test]
fn files_have_three_forms() {
    let read = |text: &str| {
        let backends = backends_from_file(text).map_err(|error| error.to_string())?;
        Ok(backends.iter().map(|one| format!("{} {}", one.name, one.url)).collect::<Vec<_>>())
    };
    let fine = |rows: &[&str]| Ok(rows.iter().map(|row| (*row).to_owned()).collect());
    let wrong = |text: &str| Err(text.to_owned());
    let rows: [(&str, Result<Vec<String>, String>); 17] = [
        ("[]", fine(&[])),
        (r#"{"backends": []}"#, fine(&[])),
        (
            r#"[{"targets": ["10.0.0.1:80", "h.test:81"], "labels": {"job": "web", "zone": "a"}},
                {"targets": ["10.0.0.1:80", "10.0.0.2:80"]}, {"targets": ["10.0.0.1:80"],
                "labels": {"job": "web"}}]"#,
            fine(&[
                "web/10.0.0.1:80 http://10.0.0.1:80",
                "web/h.test:81 http://h.test:81",
                "file/10.0.0.1:80 http://10.0.0.1:80",
                "file/10.0.0.2:80 http://10.0.0.2:80",
            ]),
        ),
        (r#"[{"name": "a", "url": "http://a"},]"#, fine(&["a http://a"])),
        (r#"{"backends": [{"name": "a", "url": "http://a"}]}"#, fine(&["a http://a"])),
        ("", wrong("1:1: must be a list of backends, and is empty")),
        ("[", wrong("1:1: unterminated array")),
        (r#"{"name": "a"}"#, wrong("1:1: must be a list, not an object")),
        (r#"[{"name": "a"}]"#, wrong("1:2: [0]: needs url")),
        (
            r#"[{"name": "a", "url": "ftp://a"}]"#,
            wrong(
                "1:23: [0].url: must be http(s)://HOST[:PORT], and \"ftp://a\" does not begin with http:// or https://",
            ),
        ),
        (
            r#"[{"name": "a", "url": "http://a", "x": 1}]"#,
            wrong(
                "1:35: [0].x: unknown key; known: name, url, limit, weight, backup, expand, resolveMs, health, reports, tls",
            ),
        ),
        (
            r#"[{"name": "a", "url": "http://a"}, {"name": "a", "url": "http://b"}]"#,
            wrong("1:45: [1].name: must be a name of its own, and \"a\" is there already"),
        ),
        (
            r#"{"backends": [{"name": "", "url": "http://a"}]}"#,
            wrong("1:24: backends[0].name: must be 1 to 64 letters, digits, '.', '_' and '-'"),
        ),
        (
            r#"[{"targets": ["a"]}, {"targets": ["b", "a b"]}]"#,
            wrong(
                "1:40: [1].targets[1]: must be HOST[:PORT], and \"a b\" has a host that is not a DNS name",
            ),
        ),
        (
            r#"[{"targets": ["a/"]}]"#,
            wrong(
                "1:15: [0].targets[0]: must be HOST[:PORT] of at most 260 letters, digits, '.', '_', '-' and ':', and \"a/\" is not",
            ),
        ),
        (
            r#"[{"targets": ["a"], "labels": {"job": "a b"}}]"#,
            wrong(
                "1:39: [0].labels.job: must be 1 to 64 letters, digits, '.', '_' and '-', and \"a b\" is not",
            ),
        ),
        (r#"[{"targets": 1}]"#, wrong("1:14: [0].targets: must be a list, not 1")),
    ];
    for (text, expected) in rows {
        assert_eq!(read(text), expected, "{text}");
    }
}

/// A file with more targets than the maximum number of backends is refused with little work for
/// each target.
#[test]
fn files_have_a_bound() {
    for (count, is_good) in [(BACKENDS_MAX, true), (BACKENDS_MAX + 1, false), (100_000, false)] {
        let targets: Vec<String> = (0..count).map(|number| format!("\"h{number}\"")).collect();
        let text = format!(r#"[{{"targets": []}}, {{"targets": [{}]}}]"#, targets.join(","));
        let read = backends_from_file(&text).map_err(|error| error.to_string());
        let expected = Err(format!("1:1: must name at most 1000 targets, not {count}"));
        if is_good {
            assert_eq!(read.map(|backends| backends.len()), Ok(count));
        } else {
            assert_eq!(read, expected);
        }
    }
}

/// Names of discovered backends are valid; other names with a slash are not.
#[test]
fn found_names_are_valid() {
    for (name, is_good) in [
        ("a/10.0.0.7", true),
        ("a/fd00::7", true),
        ("a/h.test:80", true),
        ("a/[::1]:80", true),
        ("a/", false),
        ("/10.0.0.7", false),
        ("a/b/c", false),
        ("a/b c", false),
    ] {
        let backends = vec![BackendConfig::new(name, "http://h")];
        let config = Config { backends, ..Config::default() };
        assert_eq!(config.validate().is_ok(), is_good, "{name}");
    }
}

/// The time between look-ups has its range, for all names and for one.
#[test]
fn times_between_look_ups_are_bounded() {
    for (ms, is_good) in [(99, false), (100, true), (86_400_000, true), (86_400_001, false)] {
        let all = format!(r#"{{"discovery": {{"resolveMs": {ms}}}}}"#);
        let one =
            format!(r#"{{"backends": [{{"name": "a", "url": "http://a", "resolveMs": {ms}}}]}}"#);
        for text in [all, one] {
            assert_eq!(Config::from_json(&text).is_ok(), is_good, "{text}");
        }
    }
}
