//! Settings of TLS towards backends: which setting applies to which backend, and which are refused.
use super::*;

fn read(text: &str) -> Result<Config, String> {
    Config::from_json(text).map_err(|error| error.to_string())
}

/// A backend's own keys override the common ones. The default server name is the host of the URL. A
/// backend with an `http` URL has no TLS.
#[test]
fn own_keys_replace_the_common_ones() {
    let config = read(
        r#"{"tls": {"ca": "all.pem", "certificate": {"chain": "c", "key": "k"}}, "backends": [
        {"name": "a", "url": "https://a.test:8443"}, {"name": "b", "url": "http://b.test"},
        {"name": "c", "url": "https://10.0.0.1",
         "tls": {"serverName": "c.test", "ca": "own.pem", "verify": false, "certificate": null}}]}"#,
    )
    .expect("valid");
    let of: Vec<_> =
        config.backends.iter().map(|one| config.tls_of(&one.url, one.tls.as_ref())).collect();
    let certificate = Some(OwnCertificate { chain: "c".to_owned(), key: "k".to_owned() });
    let expected = |name: &str, ca: &str, verify| {
        let (ca, certificate) = (Some(ca.to_owned()), certificate.clone());
        let identity = TlsIdentity { ca, certificate, verify };
        Some(TargetTls { server_name: name.to_owned(), identity })
    };
    assert_eq!(
        of,
        [expected("a.test", "all.pem", true), None, expected("c.test", "own.pem", false)]
    );
    assert_eq!(config.backend_identities().len(), 2);
    assert_eq!(read(&config.to_json()).as_ref(), Ok(&config));
}

/// Backends expanded from one name are verified under that name. A backend in a watched file has
/// the common settings.
#[test]
fn found_backends_keep_the_name_of_their_host() {
    for (common, expected) in [("{}", "svc.test"), (r#"{"serverName": "x.test"}"#, "x.test")] {
        let text = format!(
            r#"{{"tls": {common}, "discovery": {{"file": "f"}},
            "backends": [{{"name": "s", "url": "https://svc.test", "expand": true}}]}}"#
        );
        let config = read(&text).expect("valid");
        let ips = vec!["10.0.0.5".parse().expect("an address"), "fd00::5".parse().expect("one")];
        let known = super::super::Known {
            hosts: [("f.test".to_owned(), ips.clone()), ("svc.test".to_owned(), ips)].into(),
            file: vec![crate::config::BackendConfig::new("f", "https://f.test:1")],
        };
        let found = config.found(&known).expect("few");
        let shown: Vec<_> = found
            .targets
            .iter()
            .map(|one| {
                let name = one.tls.as_ref().map(|tls| tls.server_name.as_str());
                (one.url.as_str(), one.authority.as_str(), name)
            })
            .collect();
        let of_file = if common == "{}" { "f.test" } else { "x.test" };
        assert_eq!(
            shown,
            [
                ("https://10.0.0.5:443", "svc.test", Some(expected)),
                ("https://[fd00::5]:443", "svc.test", Some(expected)),
                ("https://f.test:1", "f.test:1", Some(of_file)),
            ]
        );
        // The backends in use are a valid configuration with the same settings.
        let used = Config { backends: found.backends.clone(), ..config.clone() };
        assert_eq!(used.validate(), Ok(()));
        let again: Vec<_> =
            used.backends.iter().map(|one| used.tls_of(&one.url, one.tls.as_ref())).collect();
        assert_eq!(again, found.targets.iter().map(|one| one.tls.clone()).collect::<Vec<_>>());
        assert_eq!(config.backend_identities().last().map(|(path, _)| path.as_str()), Some("tls"));
    }
}

/// Each invalid value is an error with its place.
#[test]
fn wrong_values_have_their_places() {
    let rows = [
        (
            r#"{"backends": [{"name": "a", "url": "http://a", "tls": {"verify": true}}]}"#,
            "1:55: backends[0].tls: must be null beside a url with http://",
        ),
        (
            r#"{"tls": {"serverName": "a:443"}}"#,
            "1:24: tls.serverName: must be a DNS name or an address, or null, and \"a:443\" has a port",
        ),
        (
            r#"{"tls": {"serverName": ""}}"#,
            "1:24: tls.serverName: must be a DNS name or an address, or null, and \"\" has no host",
        ),
        (
            r#"{"tls": {"serverName": "[::1]"}}"#,
            "1:24: tls.serverName: must be a DNS name or an address, or null, and \"[::1]\" has brackets",
        ),
        (r#"{"tls": {"ca": ""}}"#, "1:16: tls.ca: must be the path of a file"),
        (
            r#"{"backends": [{"name": "a", "url": "https://a", "tls": {"certificate": {"chain": "c", "key": ""}}}]}"#,
            "1:94: backends[0].tls.certificate.key: must be the path of a file",
        ),
        (r#"{"tls": {"certificate": {"chain": "c"}}}"#, "1:25: tls.certificate: needs key"),
        (
            r#"{"tls": {"cipher": 1}}"#,
            "1:10: tls.cipher: unknown key; known: serverName, ca, certificate, verify",
        ),
        (
            r#"{"tls": {"ca": "s"}, "stateFile": "s"}"#,
            "1:16: tls.ca: must be a file of its own, and \"s\" is stateFile",
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(read(text).map(|_| ()), Err(expected.to_owned()), "{text}");
    }
    assert!(read(r#"{"tls": {"serverName": "::1"}}"#).is_ok());
}

/// A watched file cannot determine which authorities the proxy trusts or which files it reads.
#[test]
fn watched_files_bring_no_trust() {
    let of = |tls: &str| {
        let text = format!(r#"[{{"name": "a", "url": "https://a", "tls": {tls}}}]"#);
        super::super::backends_from_file(&text).map_err(|error| error.to_string())
    };
    for (tls, key) in [
        (r#"{"ca": "x"}"#, "ca"),
        (r#"{"verify": false}"#, "verify"),
        (r#"{"certificate": {"chain": "c", "key": "k"}}"#, "certificate"),
    ] {
        let error = of(tls).expect_err("refused");
        let end =
            format!("[0].tls.{key}: must be in the configuration file, in tls for all backends");
        assert!(error.ends_with(&end), "{error}");
    }
    assert!(of(r#"{"serverName": "b"}"#).is_ok());
}
