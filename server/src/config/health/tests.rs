//! Configured health checks: values, inheritance and faults, row by row.
use super::*;

#[track_caller]
fn config(text: &str) -> Config {
    Config::from_json(text).expect(text)
}

/// Each of a backend's own keys overrides the common one. Missing values come from the older keys
/// of probes.
#[test]
fn keys_are_inherited_one_by_one() {
    let text = r#"{
        "probePaths": {"ping": "/old"},
        "routing": {"probes": {"pingTimeoutMs": 300}},
        "health": {"status": ["204", "300-302"], "host": "all.test", "fields": {"X-A": "1"},
            "initial": "down"},
        "backends": [
            {"name": "a", "url": "http://a"},
            {"name": "b", "url": "http://b", "health": {"path": "/up", "host": "b.test:81",
                "timeoutMs": "2s", "intervalMs": 700, "fields": {}, "port": 9, "initial": "down"}},
            {"name": "c", "url": "http://c", "health": {"kind": "tcp"}},
            {"name": "d", "url": "http://d", "health": {"kind": "none"}}
        ]}"#;
    let config = config(text);
    let [a, b, c, d] =
        [0, 1, 2, 3].map(|index| config.check_of(config.backends[index].health.as_ref()));
    assert_eq!((a.path.as_str(), a.host.as_deref()), ("/old", Some("all.test")));
    assert_eq!(a.status, [(204, 204), (300, 302)]);
    for (status, is_good) in [(200, false), (204, true), (299, false), (302, true), (303, false)] {
        assert_eq!(a.is_good(status), is_good, "{status}");
    }
    assert_eq!(a.timeout, (Duration::from_millis(300), "routing.probes.pingTimeoutMs"));
    assert_eq!(a.rules, CheckRules { starts_down: true, ..CheckRules::default() });
    assert_eq!((b.path.as_str(), b.host.as_deref(), b.port), ("/up", Some("b.test:81"), Some(9)));
    assert!(b.rules.is_elsewhere);
    assert_eq!((a.fields.len(), b.fields.len()), (1, 0));
    assert_eq!(b.timeout, (Duration::from_secs(2), "health.timeoutMs"));
    let times = (Some(700), Some(2000));
    assert_eq!((b.rules.interval_ms, b.rules.timeout_ms), times);
    assert!(b.rules.starts_down && !b.rules.is_off);
    assert_eq!((c.kind, c.rules.is_off), (CheckKind::Tcp, false));
    assert!(d.rules.is_off && !d.rules.starts_down, "without pings nothing would bring it up");
    assert_eq!(Config::from_json(&config.to_json()), Ok(config));
}

/// `health` and the `health` of a backend survive writing and reading; every fault is reported with
/// its path.
#[test]
fn faults_are_told_by_their_paths() {
    let path = "a path: '/' and at most 1023 visible ASCII characters, without '#'";
    let status = "a status from 200 to 599, or two with '-' between them";
    let field = "a field that the proxy does not set: not Host, Connection or the like";
    let name = "a field name: letters, digits and !#$%&'*+-.^_`|~".to_owned();
    let rows = [
        (r#""path": "up""#, "path", path.to_owned()),
        (r#""port": 0"#, "port", "a whole number from 1 to 65535, or null".to_owned()),
        (r#""host": """#, "host", "HOST[:PORT] or null, and \"\" has no host".to_owned()),
        (
            r#""host": "a b""#,
            "host",
            "HOST[:PORT] or null, and \"a b\" has a host that is not a DNS name".to_owned(),
        ),
        (r#""status": []"#, "status", "a list of 1 to 16 entries".to_owned()),
        (r#""status": ["200", "2xx"]"#, "status[1]", format!("{status}, and \"2xx\" is not")),
        (r#""status": ["300-200"]"#, "status[0]", format!("{status}, and \"300-200\" is not")),
        (r#""status": [199]"#, "status[0]", format!("{status}, and \"199\" is not")),
        (r#""status": [true]"#, "status[0]", format!("{status}, not true")),
        (r#""status": [200, 204.5]"#, "status[1]", format!("{status}, not 204.5")),
        (r#""status": [-204]"#, "status[0]", format!("{status}, not -204")),
        (r#""status": 204"#, "status", "a list, not 204".to_owned()),
        (r#""status": ["199"]"#, "status[0]", format!("{status}, and \"199\" is not")),
        (r#""status": ["200-600"]"#, "status[0]", format!("{status}, and \"200-600\" is not")),
        (r#""status": ["+20"]"#, "status[0]", format!("{status}, and \"+20\" is not")),
        (r#""body": """#, "body", "a text of 1 to 1024 bytes, or null".to_owned()),
        (
            r#""method": "HEAD", "body": "ok""#,
            "method",
            "another one than HEAD, whose responses have no body, or body null".to_owned(),
        ),
        (
            r#""kind": "none", "initial": "down""#,
            "initial",
            "\"unknown\", because health.kind is \"none\" and no ping can bring it up".to_owned(),
        ),
        (r#""fields": {"Host": "x"}"#, "fields.Host", field.to_owned()),
        (r#""fields": {"content-length": "1"}"#, "fields.content-length", field.to_owned()),
        (r#""fields": {"Content_Length": "1"}"#, "fields.Content_Length", field.to_owned()),
        (r#""fields": {"A B": "x"}"#, "fields.A B", name.clone()),
        (r#""fields": {"A\r\nB": "x"}"#, "fields.A\\r\\nB", name.clone()),
        (r#""fields": {"": "x"}"#, "fields.", name),
        (
            r#""fields": {"X": "a\r\nb"}"#,
            "fields.X",
            "at most 4096 visible ASCII characters with spaces between".to_owned(),
        ),
        (r#""intervalMs": 0"#, "intervalMs", "milliseconds from 1 to 3600000".to_owned()),
        (r#""timeoutMs": 3600001"#, "timeoutMs", "milliseconds from 1 to 3600000".to_owned()),
    ];
    for (keys, key, allowed) in rows {
        let own = format!(
            r#"{{"backends": [{{"name": "a", "url": "http://a", "health": {{{keys}}}}}]}}"#
        );
        for (text, at) in [(format!(r#"{{"health": {{{keys}}}}}"#), ""), (own, "backends[0].")] {
            let error = Config::from_json(&text).expect_err(&text);
            assert_eq!(error.path, format!("{at}health.{key}"), "{text}");
            assert_eq!(error.wrong, format!("must be {allowed}"), "{text}");
        }
    }
    let fields: Vec<String> = (0..17).map(|number| format!("\"X-{number}\": \"1\"")).collect();
    for (count, is_good) in [(16, true), (17, false)] {
        let text = format!(r#"{{"health": {{"fields": {{{}}}}}}}"#, fields[..count].join(","));
        assert_eq!(Config::from_json(&text).is_ok(), is_good, "{count}");
    }
}

/// A backend that waits for its first good ping but gets no pings is refused, wherever the two keys
/// are. A backend without pings is valid if only the others wait.
#[test]
fn no_backend_waits_for_pings_that_it_does_not_get() {
    let text = |all: &str, own: &str| {
        format!(
            "{{\"health\": {{{all}}},\n\"backends\": [{{\"name\": \"a\", \"url\": \"http://a\",\n\
             \"health\": {{{own}}}}}]}}"
        )
    };
    let (none, down) = (r#""kind": "none""#, r#""initial": "down""#);
    for (all, own, refused) in [
        (none, down, Some((3, "backends[0].health.initial"))),
        (down, none, None),
        (none, r#""kind": "tcp", "initial": "down""#, None),
        ("\"kind\": \"none\", \"initial\": \"down\"", "", Some((1, "health.initial"))),
    ] {
        let text = text(all, own);
        let error = Config::from_json(&text).err();
        let found = error.as_ref().map(|error| (error.line, error.path.as_str()));
        assert_eq!(found, refused, "{text}");
    }
}

/// The text of a check is found anywhere in a body, even across two pieces.
#[test]
fn texts_are_found_across_pieces() {
    let check = Check { body: Some("ready".to_owned()), ..Check::default() };
    let body = b"it is ready";
    for end in 0..=body.len() {
        assert_eq!(check.is_in(&body[..end], 0), end == body.len(), "{end}");
        assert!(check.is_in(body, end.min(10)), "{end}");
    }
    assert!(Check::default().is_in(b"", 0));
}

/// A status may be a number or a string; a range is a string.
#[test]
fn statuses_may_be_numbers() {
    let config = config(
        r#"{"health": {"status": [204]}, "backends": [{"name": "a", "url": "http://a"},
            {"name": "b", "url": "http://b", "health": {"status": [200, "301-302", "304"]}}]}"#,
    );
    let good = |name: &str| {
        let check = config.check_named(name);
        (200..600).filter(|status| check.is_good(*status)).collect::<Vec<u16>>()
    };
    assert_eq!(good("a"), [204]);
    assert_eq!(good("b"), [200, 301, 302, 304]);
    assert_eq!(Config::from_json(&config.to_json()).as_ref(), Ok(&config));
}

/// Values of fields, which may be secrets, are not in the public text.
#[test]
fn fields_are_masked_in_public() {
    let text = r#"{"health": {"fields": {"Authorization": "Bearer abc"}}, "backends":
        [{"name": "a", "url": "http://a", "health": {"fields": {"X-Key": "def"}}}]}"#;
    let config = config(text);
    let public = config.to_public_json();
    assert!(!public.contains("abc") && !public.contains("def"), "{public}");
    assert_eq!(public.matches("\"***\"").count(), 2, "{public}");
    assert!(config.to_json().contains("Bearer abc"));
}
