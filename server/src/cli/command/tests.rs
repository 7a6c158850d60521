//! Arguments and their results, with files from a table instead of a disk.
use std::time::Duration;

use super::*;
use crate::config::{
    AccessLogFormat, AccessLogRules, BackendConfig, LogFormat, LogRules, RecordingRules,
};

/// The files of the tests.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let text: &[u8] = match path.to_str() {
        Some("good.json") => {
            b"{\"listen\": [\"127.0.0.1:1\"], \"routing\": {\"switch\": {\"threshold\": 7}},\n\
              \"backends\": [{\"name\": \"F\", \"url\": \"http://f\"}]}"
        }
        Some("bad.json") => b"{\n\"limits\": {\n\"headBytesMax\": 9}}",
        Some("own.json") => b"{\"routing\": {},\n\"stateFile\": \"./own.json\"}",
        Some("latin.json") => b"{\n\"forwarding\": {\"via\": \"\xe9\"}}",
        _ => return Err(io::ErrorKind::NotFound.into()),
    };
    Ok(text.to_vec())
}

fn parse(args: &[&str]) -> Result<Command, UsageError> {
    Command::parse(args.iter().map(OsString::from), read_file)
}

#[track_caller]
fn config(args: &[&str]) -> Config {
    match parse(args) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("{args:?} should run, and gives {other:?}"),
    }
}

/// No arguments give the defaults, as do flags with the default addresses and backends.
#[test]
fn plain_form_is_the_default() {
    let expected = Command::Run { config: Box::default(), file: None, user: None };
    assert_eq!(parse(&[]), Ok(expected.clone()));
    let plain = "--listen 127.0.0.1:3001 --backend A=http://localhost:3000 \
                 --backend B=http://localhost:3002";
    assert_eq!(parse(&plain.split(' ').collect::<Vec<_>>()), Ok(expected));
}

/// Every flag sets the value that it names.
#[test]
fn flags_set_their_values() {
    type Change = fn(&mut Config);
    let rows: [(&[&str], Change); 24] = [
        (&["--listen=[::1]:80"], |c| c.listen = vec!["[::1]:80".into()]),
        (&["--listen", "a:1", "--listen", "b:2"], |c| {
            c.listen = vec!["a:1".into(), "b:2".into()];
        }),
        (&["--backend", "X=http://x:1/"], |c| {
            let (name, url) = ("X".to_owned(), "http://x:1/".to_owned());
            c.backends = vec![BackendConfig::new(&name, &url)];
        }),
        (&["--policy", "score"], |_| {}),
        (&["--threshold", "12.5"], |c| c.routing.switch.threshold = 12.5),
        (&["--cooldown-ms=0"], |c| c.routing.switch.cooldown = Duration::ZERO),
        (&["--no-spill-over"], |c| c.routing.switch.spill_over = false),
        (&["--ping-interval-ms", "100"], |c| {
            c.routing.probes.ping_interval = Duration::from_millis(100);
        }),
        (&["--ping-timeout-ms", "50"], |c| {
            c.routing.probes.ping_timeout = Duration::from_millis(50);
        }),
        (&["--no-keep-host"], |c| c.forwarding.keep_host = false),
        (&["--half-close"], |c| c.forwarding.half_close = true),
        (&["--trusted", "10.0.0.0/8", "--trusted=::1"], |c| {
            c.forwarding.trusted = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        }),
        (&["--no-retry-refused"], |c| c.forwarding.retry_refused = false),
        (&["--clients", "5"], |c| c.limits.clients = 5),
        (&["--body-bytes-max", "1000"], |c| c.limits.body_bytes_max = 1000),
        (&["--connect-ms", "20"], |c| c.timeouts.connect = Duration::from_millis(20)),
        (&["--response-head-ms", "30"], |c| c.timeouts.response_head = Duration::from_millis(30)),
        (&["--stats-allow", "::1", "--stats-allow=10.0.0.0/8"], |c| {
            c.stats.allow = vec!["::1".to_owned(), "10.0.0.0/8".to_owned()];
        }),
        (&["--admin", "localhost:9"], |c| c.admin.listen = Some("localhost:9".to_owned())),
        (&["--log-level=warn,edge=debug", "--log-format", "json", "--log-file", "l"], |c| {
            let (level, file) = ("warn,edge=debug".to_owned(), Some("l".to_owned()));
            c.log = LogRules { level, format: LogFormat::Json, file };
        }),
        (&["--access-log", "a", "--access-log-format=combined"], |c| {
            let file = Some("a".to_owned());
            c.access_log = AccessLogRules { file, format: AccessLogFormat::Combined, query: true };
        }),
        (&["--state", "s"], |c| c.state_file = Some("s".to_owned())),
        (&["--record", "f", "--record-bytes-max=9", "--record-files", "3"], |c| {
            let file = Some("f".to_owned());
            c.recording = RecordingRules { file, bytes_max: 9, files: 3 };
        }),
        (&["--no-keep-host", "--threshold", "1", "--clients=1"], |c| {
            c.forwarding.keep_host = false;
            c.routing.switch.threshold = 1.0;
            c.limits.clients = 1;
        }),
    ];
    let mut given: Vec<&str> = Vec::new();
    for (args, change) in rows {
        let mut expected = Config::default();
        change(&mut expected);
        assert_eq!(config(args), expected, "{args:?}");
        given.extend(args.iter().filter_map(|arg| arg.split('=').next()));
    }
    for flag in &FLAGS {
        assert!(given.contains(&flag.name), "{} has no row", flag.name);
    }
}

/// The file is read, and flags override it at any position.
#[test]
fn flags_win_over_the_file() {
    let file = config(&["--config", "good.json"]);
    assert_eq!(file.listen, ["127.0.0.1:1".into()]);
    assert_eq!(file.routing.switch.threshold, 7.0);
    assert_eq!(file.backends.len(), 1);
    let args = ["--listen=b:2", "--threshold=8", "--config=good.json", "--backend=X=http://x"];
    let both = config(&args);
    assert_eq!(both.listen, ["b:2".into()]);
    assert_eq!(both.routing.switch.threshold, 8.0);
    assert_eq!(both.backends.len(), 1);
    assert_eq!(both.backends[0].name, "X");
}

/// Arguments for commands other than serving select these commands.
#[test]
fn other_commands() {
    let rows: [(&[&str], Command); 6] = [
        (&["--help"], Command::Help),
        (&["-h"], Command::Help),
        (&["--threshold", "9", "--help", "--nonsense"], Command::Help),
        (&["--version"], Command::Version),
        (&["-V"], Command::Version),
        (&["--print-config"], Command::PrintConfig { config: Box::default() }),
    ];
    for (args, expected) in rows {
        assert_eq!(parse(args), Ok(expected), "{args:?}");
    }
    for (args, name) in
        [(&["--check"][..], None), (&["--check", "--config", "good.json"], Some("good.json"))]
    {
        match parse(args) {
            Ok(Command::Check { file, .. }) => assert_eq!(file.as_deref(), name),
            other => panic!("{args:?}: {other:?}"),
        }
    }
}

/// Every error text is one line that names the argument or the file.
#[test]
fn faults_are_told_in_one_line() {
    let rows: [(&[&str], &str); 27] = [
        (&["--nonsense"], "--nonsense: no such argument; see --help"),
        (&["--nonsense=1"], "--nonsense: no such argument; see --help"),
        (&["127.0.0.1:1"], "127.0.0.1:1: no such argument; see --help"),
        (&[""], ": no such argument; see --help"),
        (&["a\nb"], "a\\nb: no such argument; see --help"),
        (&["--listen"], "--listen: needs a value"),
        (&["--listen="], "--listen: needs a value"),
        (&["--listen", ""], "--listen: needs a value"),
        (&["--listen", "--check"], "--listen: needs a value"),
        (&["--config"], "--config: needs a value"),
        (&["--check=yes"], "--check: takes no value"),
        (&["--no-keep-host=yes"], "--no-keep-host: takes no value"),
        (&["--check", "--check"], "--check: given twice"),
        (&["--threshold", "1", "--threshold=2"], "--threshold: given twice"),
        (&["--check", "--print-config"], "--print-config: not together with --check"),
        (&["--offline"], "--offline: only together with --check"),
        (
            &["--log-level", "loud"],
            "--log-level: must be error, warn, info, debug or trace, or a list with up to 16 of MODULE=LEVEL, not \"loud\"",
        ),
        (
            &["--listen", "a:1", "--listen", "3001"],
            "--listen: must be HOST:PORT, and \"3001\" has no address; all of them are 0.0.0.0 or [::]",
        ),
        (
            &["--backend", "http://x"],
            "--backend: must be NAME=http(s)://HOST[:PORT], not \"http://x\"",
        ),
        (
            &["--backend", "A=ftp://x"],
            "--backend: url must be http(s)://HOST[:PORT], and \"ftp://x\" does not begin with \
             http:// or https://",
        ),
        (
            &["--backend", "A=http://x", "--backend", "A=http://y"],
            "--backend: name must be a name of its own, and \"A\" is there already",
        ),
        (&["--threshold", "high"], "--threshold: must be a number, not \"high\""),
        (&["--threshold", "-1"], "--threshold: must be a number from 0 to 1000000"),
        (&["--threshold", "NaN"], "--threshold: must be a number from 0 to 1000000"),
        (
            &["--connect-ms", "1.5"],
            "--connect-ms: must be a whole number of milliseconds, not \"1.5\"",
        ),
        (&["--clients", "0"], "--clients: must be a whole number from 1 to 1000000"),
        (
            &["--config", "bad.json", "--check"],
            "bad.json:3:17: limits.headBytesMax: must be a whole number from 1024 to 60000",
        ),
    ];
    for (args, expected) in rows {
        let error = parse(args).expect_err(expected).to_string();
        assert_eq!(error, expected, "{args:?}");
    }
}

/// Keys and flags that would overwrite the configuration file are refused.
#[test]
fn the_own_file_is_refused() {
    let rows: [(&[&str], &str); 4] = [
        (
            &["--config", "own.json"],
            "own.json:2:14: stateFile: must be a file of its own, and \"./own.json\" is the configuration file",
        ),
        (
            &["--config", "good.json", "--state", "good.json"],
            "--state: must be a file of its own, and \"good.json\" is the configuration file",
        ),
        (
            &["--config", "good.json", "--state", "./good.json"],
            "--state: must be a file of its own, and \"./good.json\" is the configuration file",
        ),
        (
            &["--config", "good.json", "--log-file", "good.json"],
            "--log-file: must be a file of its own, and \"good.json\" is the configuration file",
        ),
    ];
    for (args, expected) in rows {
        assert_eq!(parse(args).expect_err(expected).to_string(), expected, "{args:?}");
    }
    config(&["--config", "good.json", "--state", "good.state"]);
    config(&["--config", "good.json", "--state", "d/good.json"]);
}

/// The error for an unknown policy lists the known ones.
#[test]
fn policies_are_named() {
    let error = parse(&["--policy", "best"]).expect_err("no such policy").to_string();
    assert!(error.starts_with("--policy: must be score, "), "{error}");
    assert!(error.ends_with(", not \"best\""), "{error}");
}

/// A file that is missing or not text is named.
#[test]
fn unreadable_files_are_named() {
    let error = |file: &str| parse(&["--config", file]).expect_err(file).to_string();
    assert_eq!(error("none.json"), "none.json: cannot be read: entity not found");
    assert_eq!(error("latin.json"), "latin.json:2:24: is not UTF-8");
}
