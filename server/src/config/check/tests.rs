//! Ranges at their bounds; lists and texts row by row.
use super::super::{BackendConfig, CertificateFiles, ListenTls, TlsVersion};
use super::*;

/// Sets one whole number of a configuration.
type SetCount = fn(&mut Config, u64);
/// Sets one time of a configuration.
type SetSpan = fn(&mut Config, Duration);

fn as_usize(number: u64) -> usize {
    usize::try_from(number).expect("a number that fits")
}

#[track_caller]
fn assert_refused(config: &Config, path: &str) {
    let error = config.validate().expect_err(path);
    assert_eq!(error.path, path, "{error}");
}

/// The default configuration is valid.
#[test]
fn default_is_valid() {
    assert_eq!(Config::default().validate(), Ok(()));
}

/// Every whole number is accepted at the ends of its range and next to them inside, and refused
/// next to them outside. The exceptions are `limits.bodyBytesMax` and `recording.bytesMax`, which
/// accept every number.
#[test]
fn counts_are_held_to_their_ranges() {
    let rows: [(&str, SetCount, u64, u64); 15] = [
        ("limits.headBytesMax", |c, n| c.limits.head_bytes_max = as_usize(n), 1024, 60_000),
        ("limits.targetBytesMax", |c, n| c.limits.target_bytes_max = as_usize(n), 64, 60_000),
        ("limits.fieldsMax", |c, n| c.limits.fields_max = as_usize(n), 8, 1000),
        (
            "limits.chunkExtensionBytesMax",
            |c, n| c.limits.chunk_extension_bytes_max = as_usize(n),
            0,
            60_000,
        ),
        ("limits.trailerBytesMax", |c, n| c.limits.trailer_bytes_max = as_usize(n), 0, 60_000),
        ("limits.clients", |c, n| c.limits.clients = as_usize(n), 1, 1_000_000),
        (
            "limits.clientConnections",
            |c, n| c.limits.client_connections = as_usize(n) as u32,
            0,
            1_000_000,
        ),
        (
            "limits.clientRequestsPerSecond",
            |c, n| c.limits.client_requests_per_second = as_usize(n) as u32,
            0,
            1_000_000,
        ),
        ("limits.handshakes", |c, n| c.limits.handshakes = as_usize(n), 1, 1_000_000),
        ("limits.attempts", |c, n| c.limits.attempts = as_usize(n), 1, 16),
        ("limits.perBackend", |c, n| c.limits.per_backend = as_usize(n) as u32, 0, 1_000_000),
        ("limits.queueLength", |c, n| c.limits.queue_length = as_usize(n), 0, 100_000),
        ("limits.retryPercent", |c, n| c.limits.retry_percent = as_usize(n) as u32, 0, 1000),
        ("pool.idlePerBackend", |c, n| c.pool.idle_per_backend = as_usize(n), 0, 100_000),
        ("recording.files", |c, n| c.recording.files = as_usize(n) as u32, 2, 1000),
    ];
    for (path, set, least, most) in rows {
        let with = |number: u64| {
            let mut config = Config::default();
            // The head limit bounds the target limit, so set both to extremes.
            config.limits.head_bytes_max = 60_000;
            config.limits.target_bytes_max = 64;
            set(&mut config, number);
            config
        };
        for number in [least, least + 1, most - 1, most] {
            assert_eq!(with(number).validate(), Ok(()), "{path} {number}");
        }
        for number in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
            assert_refused(&with(number), path);
        }
        let expected = format!("a whole number from {least} to {most}");
        assert_eq!(Config::allowed_at(path), Some(expected));
    }
}

/// The numbers of a backend are accepted up to their bounds and refused beyond.
#[test]
fn numbers_of_backends_have_ranges() {
    type Set = fn(&mut BackendConfig, u32);
    let rows: [(&str, Set, u32); 2] = [
        ("backends[1].limit", |backend, number| backend.limit = Some(number), 1_000_000),
        ("backends[1].weight", |backend, number| backend.weight = Some(number), 1000),
    ];
    for (path, set, most) in rows {
        let mut config = Config::default();
        for number in [0, most] {
            set(&mut config.backends[1], number);
            assert_eq!(config.validate(), Ok(()), "{path} {number}");
        }
        set(&mut config.backends[1], most + 1);
        assert_refused(&config, path);
    }
}

/// `admin.listen` must differ from every address in `listen`, unless its port is 0.
#[test]
fn admin_listens_elsewhere() {
    let rows = [
        (None, true),
        (Some("127.0.0.1:3003"), true),
        (Some("127.0.0.1:0"), true),
        (Some("127.0.0.1:3001"), false),
        (Some("127.0.0.1"), false),
        (Some(""), false),
        (Some("http://127.0.0.1:1"), false),
    ];
    for (text, is_good) in rows {
        let mut config = Config::default();
        config.admin.listen = text.map(str::to_owned);
        if is_good {
            assert_eq!(config.validate(), Ok(()), "{text:?}");
        } else {
            assert_refused(&config, "admin.listen");
        }
    }
}

/// `bodyBytesMax` accepts every number; 0 means no limit.
#[test]
fn bodies_have_any_limit() {
    for number in [0, 1, u64::MAX] {
        let mut config = Config::default();
        config.limits.body_bytes_max = number;
        assert_eq!(config.validate(), Ok(()), "{number}");
    }
}

/// Every time is accepted from a millisecond to a day, and refused outside. The exception is
/// `timeouts.lameDuckMs`, which may be 0.
#[test]
fn spans_are_held_to_their_range() {
    let rows: [(&str, SetSpan); 16] = [
        ("limits.queueMs", |c, span| c.limits.queue = span),
        ("timeouts.handshakeMs", |c, span| c.timeouts.handshake = span),
        ("timeouts.requestHeadMs", |c, span| c.timeouts.request_head = span),
        ("timeouts.requestBodyMs", |c, span| c.timeouts.request_body = span),
        ("timeouts.clientIdleMs", |c, span| c.timeouts.client_idle = span),
        ("timeouts.clientWriteMs", |c, span| c.timeouts.client_write = span),
        ("timeouts.connectMs", |c, span| c.timeouts.connect = span),
        ("timeouts.responseHeadMs", |c, span| c.timeouts.response_head = span),
        ("timeouts.responseBodyMs", |c, span| c.timeouts.response_body = span),
        ("timeouts.tunnelIdleMs", |c, span| c.timeouts.tunnel_idle = span),
        ("timeouts.lingerMs", |c, span| c.timeouts.linger = span),
        ("timeouts.lingerTotalMs", |c, span| c.timeouts.linger_total = span),
        ("timeouts.shutdownMs", |c, span| c.timeouts.shutdown = span),
        ("timeouts.reloadMs", |c, span| c.timeouts.reload = span),
        ("timeouts.upgradeMs", |c, span| c.timeouts.upgrade = span),
        ("pool.idleMs", |c, span| c.pool.idle = span),
    ];
    for (path, set) in rows {
        let with = |millis: u64| {
            let mut config = Config::default();
            set(&mut config, Duration::from_millis(millis));
            config
        };
        for millis in [1, 2, 86_399_999, 86_400_000] {
            assert_eq!(with(millis).validate(), Ok(()), "{path} {millis}");
        }
        for millis in [0, 86_400_001, u64::MAX] {
            assert_refused(&with(millis), path);
        }
    }
}

/// A target limit above the head limit is refused: it could never be reached.
#[test]
fn target_is_no_longer_than_head() {
    for (target, is_valid) in [(1999, true), (2000, true), (2001, false)] {
        let mut config = Config::default();
        config.limits.head_bytes_max = 2000;
        config.limits.target_bytes_max = target;
        assert_eq!(config.validate().is_ok(), is_valid, "{target}");
    }
}

/// The core checks the routing rules. The paths in its errors begin with `routing`.
#[test]
fn routing_is_checked_below_its_key() {
    let mut config = Config::default();
    config.routing.switch.threshold = -1.0;
    assert_refused(&config, "routing.switch.threshold");
}

/// Each list is accepted from its minimum to its maximum length, and refused outside.
#[test]
fn lists_are_bounded() {
    let rows = [
        ("listen", 1, 64),
        ("backends", 0, 1000),
        ("stats.allow", 0, 64),
        ("forwarding.trusted", 0, 64),
    ];
    for (path, least, most) in rows {
        let with = |length: usize| {
            let mut config = Config::default();
            match path {
                "listen" => config.listen = vec!["127.0.0.1:0".into(); length],
                "backends" => {
                    let url = "http://localhost".to_owned();
                    config.backends = (0..length)
                        .map(|index| BackendConfig::new(&index.to_string(), &url))
                        .collect();
                }
                "stats.allow" => config.stats.allow = vec!["::1".to_owned(); length],
                _ => config.forwarding.trusted = vec!["::1".to_owned(); length],
            }
            config
        };
        for length in [least, least + 1, most - 1, most] {
            assert_eq!(with(length).validate(), Ok(()), "{path} {length}");
        }
        for length in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
            assert_refused(&with(length), path);
        }
    }
}

/// Invalid texts are refused with their path and value; row by row.
#[test]
fn texts_are_checked() {
    type Change = fn(&mut Config);
    let rows: [(&str, Change, &str); 29] = [
        (
            "listen[0]",
            |c| c.listen = vec!["3001".into()],
            "HOST:PORT, and \"3001\" has no address; all of them are 0.0.0.0 or [::]",
        ),
        (
            "listen[1]",
            |c| c.listen = vec!["LOCALHOST:1".into(), "localhost:1".into()],
            "listed once, and \"localhost:1\" is there already",
        ),
        (
            "backends[0].name",
            |c| c.backends[0].name = String::new(),
            "1 to 64 letters, digits, '.', '_' and '-'",
        ),
        (
            "backends[0].name",
            |c| c.backends[0].name = "a".repeat(65),
            "1 to 64 letters, digits, '.', '_' and '-'",
        ),
        (
            "backends[1].name",
            |c| c.backends[1].name = "a\nb".to_owned(),
            "1 to 64 letters, digits, '.', '_' and '-'",
        ),
        (
            "backends[1].name",
            |c| (c.backends[1].name, c.backends[1].expand) = ("a/b".to_owned(), true),
            "without a slash, since expand is true, and \"a/b\" has one",
        ),
        (
            "backends[1].name",
            |c| c.backends[1].name = "A".to_owned(),
            "a name of its own, and \"A\" is there already",
        ),
        (
            "backends[1].url",
            |c| c.backends[1].url = "ftps://x\n".to_owned(),
            "http(s)://HOST[:PORT], and \"ftps://x\\n\" does not begin with http:// or https://",
        ),
        (
            "backends[0].url",
            |c| c.backends[0].url = "http://x:0".to_owned(),
            "http(s)://HOST[:PORT], and \"http://x:0\" has an invalid port",
        ),
        ("forwarding.via", |c| c.forwarding.via = String::new(), "a token of 1 to 64 characters"),
        (
            "stateFile",
            |c| (c.log.file, c.state_file) = (Some("a/b".into()), Some("./a//b".into())),
            "a file of its own, and \"./a//b\" is log.file",
        ),
        (
            "recording.file",
            |c| (c.access_log.file, c.recording.file) = (Some("a".into()), Some("a".into())),
            "a file of its own, and \"a\" is accessLog.file",
        ),
        (
            "discovery.file",
            |c| (c.log.file, c.discovery.file) = (Some("a".into()), Some("./a".into())),
            "a file of its own, and \"./a\" is log.file",
        ),
        (
            "discovery.file",
            |c| (c.state_file, c.discovery.file) = (Some("d/a".into()), Some("d//a".into())),
            "a file of its own, and \"d//a\" is stateFile",
        ),
        (
            "discovery.file",
            |c| (c.state_file, c.discovery.file) = (Some("a".into()), Some("a.bad".into())),
            "a file of its own, and \"a.bad\" is written besides stateFile",
        ),
        (
            "discovery.file",
            |c| {
                (c.recording.file, c.discovery.file) = (Some("a".into()), Some("a.3".into()));
                c.recording.bytes_max = 1;
            },
            "a file of its own, and \"a.3\" is written besides recording.file",
        ),
        (
            "discovery.file",
            |c| (c.access_log.file, c.discovery.file) = (Some("a".into()), Some("a".into())),
            "a file of its own, and \"a\" is accessLog.file",
        ),
        (
            "discovery.file",
            |c| (c.admin.socket, c.discovery.file) = (Some("a".into()), Some("a.new".into())),
            "a file of its own, and \"a.new\" is written besides admin.socket",
        ),
        (
            "admin.socket",
            |c| (c.log.file, c.admin.socket) = (Some("a".into()), Some("a".into())),
            "a file of its own, and \"a\" is log.file",
        ),
        (
            "recording.file",
            |c| (c.log.file, c.recording.file) = (Some("a.old".into()), Some("a".into())),
            "a file of its own, and \"a\" also writes \"a.old\", which is log.file",
        ),
        (
            "recording.file",
            |c| c.recording.file = Some(String::new()),
            "the path of a file, or null",
        ),
        (
            "forwarding.via",
            |c| c.forwarding.via = "a b".to_owned(),
            "a token of 1 to 64 characters",
        ),
        ("forwarding.via", |c| c.forwarding.via = "a".repeat(65), "a token of 1 to 64 characters"),
        (
            "stats.allow[0]",
            |c| c.stats.allow = vec!["localhost".to_owned()],
            "ADDRESS or ADDRESS/PREFIX, and \"localhost\" has no IPv4 or IPv6 address",
        ),
        ("probePaths.ping", |c| c.probe_paths.ping = String::new(), PATH_ALLOWED),
        ("probePaths.ping", |c| c.probe_paths.ping = "health".to_owned(), PATH_ALLOWED),
        ("probePaths.report", |c| c.probe_paths.report = "/a b".to_owned(), PATH_ALLOWED),
        ("probePaths.report", |c| c.probe_paths.report = "/a#b".to_owned(), PATH_ALLOWED),
        (
            "probePaths.report",
            |c| c.probe_paths.report = format!("/{}", "a".repeat(1024)),
            PATH_ALLOWED,
        ),
    ];
    for (path, change, allowed) in rows {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.validate(), Err(ConfigError::new(path, allowed)));
    }
}

/// Files with similar names are allowed if the proxy does not write any of them for two purposes.
#[test]
fn similar_files_are_valid() {
    let mut config = Config::default();
    config.recording.file = Some("a".to_owned());
    config.log.file = Some("a.1".to_owned());
    config.access_log.file = Some("d/a.old".to_owned());
    config.state_file = Some("a.json".to_owned());
    config.discovery.file = Some("a.json.x".to_owned());
    assert_eq!(config.validate(), Ok(()));
    config.recording.bytes_max = 1;
    assert_refused(&config, "recording.file");
    config.log.file = Some("a.4".to_owned());
    assert_eq!(config.validate(), Ok(()), "beyond the ring");
}

/// The proxy writes to no file that is also the file of a certificate.
#[test]
fn certificates_are_not_overwritten() {
    let files = |chain: &str, key: &str| {
        let (chain, key) = (chain.to_owned(), key.to_owned());
        let certificate = CertificateFiles { chain, key, ocsp: None };
        let tls = ListenTls {
            certificates: vec![certificate],
            min_version: TlsVersion::Tls12,
            client_auth: None,
            hsts: None,
        };
        Listen { tls: Some(tls), ..Listen::from("127.0.0.1:1") }
    };
    let rows = [
        ("c.pem", "k.pem", None),
        ("c.pem", "./s", Some(("key", "a file of its own, and \"./s\" is stateFile"))),
        (
            "s.new",
            "k.pem",
            Some(("chain", "a file of its own, and \"s.new\" is written besides stateFile")),
        ),
    ];
    for (chain, key, expected) in rows {
        let config = Config {
            listen: vec![Listen::from("127.0.0.1:2"), files(chain, key)],
            state_file: Some("s".to_owned()),
            ..Config::default()
        };
        let expected = expected.map_or(Ok(()), |(key, allowed)| {
            let path = format!("listen[1].tls.certificates[0].{key}");
            Err(ConfigError::new(&path, allowed))
        });
        assert_eq!(config.check_files(), expected, "{chain} {key}");
    }
}

/// `networks()` parses `stats.allow`; the default is loopback only.
#[test]
fn networks_are_read_from_the_list() {
    let networks = StatsRules::default().networks();
    let is_allowed = |address: &str| {
        let address = address.parse().expect("an address");
        networks.iter().any(|network| network.contains(address))
    };
    for (address, expected) in [("127.0.0.9", true), ("::1", true), ("10.0.0.1", false)] {
        assert_eq!(is_allowed(address), expected, "{address}");
    }
}
