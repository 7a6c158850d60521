//! Configurations for backends from files, and the system's bundle.
use std::collections::BTreeMap;

use super::*;

const CA: &[u8] = include_bytes!("../../../tls/testing/ca.pem");
const CLIENT: &[u8] = include_bytes!("../../../tls/testing/client.pem");
const CLIENT_KEY: &[u8] = include_bytes!("../../../tls/testing/client.key");
const OTHER_KEY: &[u8] = include_bytes!("../../../tls/testing/other.key");
const EXPIRED: &[u8] = include_bytes!("../../../tls/testing/expired.pem");
const EXPIRED_KEY: &[u8] = include_bytes!("../../../tls/testing/expired.key");

/// Builds the TLS of a configuration with these files.
fn read_with(tls: &str, bundles: &[&str], discovery: &str) -> Result<Clients, String> {
    let files: BTreeMap<&str, &[u8]> = [
        ("ca.pem", CA),
        ("client.pem", CLIENT),
        ("client.key", CLIENT_KEY),
        ("other.key", OTHER_KEY),
        ("expired.pem", EXPIRED),
        ("expired.key", EXPIRED_KEY),
        ("empty.pem", &b""[..]),
        ("text.pem", &b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"[..]),
    ]
    .into();
    let text = format!(
        r#"{{"discovery": {{{discovery}}}, "backends": [{{"name": "a", "url": "https://a.test", "tls": {tls}}}]}}"#
    );
    let config = Config::from_json(&text).expect("valid");
    let read_file = |path: &Path| {
        let found = files.get(path.to_str().expect("text")).map(|content| content.to_vec());
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let bundles: Vec<String> = bundles.iter().map(|&name| name.to_owned()).collect();
    Clients::read(&config, &read_file, &bundles)
        .map_err(|error| format!("{}: must be {}", error.path, error.allowed))
}

/// Each fault of a file is an error that names the key and the file; row by row.
#[test]
fn faulty_files_are_named() {
    let pair = |chain: &str, key: &str| {
        format!(r#"{{"ca": "ca.pem", "certificate": {{"chain": "{chain}", "key": "{key}"}}}}"#)
    };
    let rows = [
        (r#"{"ca": "ca.pem"}"#.to_owned(), ""),
        (pair("client.pem", "client.key"), ""),
        (
            r#"{"ca": "none.pem"}"#.to_owned(),
            "backends[0].tls.ca: must be the path of a file, and none.pem cannot be read: entity not found",
        ),
        (
            r#"{"ca": "empty.pem"}"#.to_owned(),
            "backends[0].tls.ca: must be a PEM file with the certificates of authorities, and empty.pem has no certificate in PEM",
        ),
        (
            r#"{"ca": "text.pem"}"#.to_owned(),
            "backends[0].tls.ca: must be a PEM file with the certificates of authorities, and text.pem has an invalid certificate",
        ),
        (
            pair("client.pem", "other.key"),
            "backends[0].tls.certificate.key: must be a PEM file with the private key of the certificate, and other.key is not the key of the certificate",
        ),
        (
            pair("client.pem", "client.pem"),
            "backends[0].tls.certificate.key: must be a PEM file with the private key of the certificate, and client.pem has no private key in PEM",
        ),
        (
            pair("expired.pem", "expired.key"),
            "backends[0].tls.certificate.chain: must be a PEM file with a certificate that is valid now, and expired.pem has expired or is not valid yet",
        ),
    ];
    for (tls, expected) in rows {
        let error = read_with(&tls, &[], "").map(|_| ()).err().unwrap_or_default();
        assert_eq!(error, expected, "{tls}");
    }
}

/// Without `ca`, the first existing bundle is used. If none exists, the error names the bundles and
/// the key, unless no certificate is verified.
#[test]
fn the_bundle_of_the_system_is_found() {
    assert!(read_with("{}", &["none.pem", "ca.pem", "empty.pem"], "").is_ok());
    let start = "backends[0].tls.ca: must be a PEM file with the certificates of authorities: ";
    let error = read_with("{}", &["none.pem", "neither.pem"], "").expect_err("no bundle");
    assert_eq!(
        error,
        format!("{start}null finds none in the system, which has no none.pem, neither.pem")
    );
    let error = read_with("{}", &["empty.pem", "ca.pem"], "").expect_err("an empty bundle");
    assert_eq!(error, format!("{start}the system's empty.pem contains none"));
    assert!(read_with(r#"{"verify": false}"#, &["none.pem"], "").is_ok());
    // A watched file may have no backend that needs it.
    let clients = read_with(r#"{"verify": false}"#, &["none.pem"], r#""file": "f.json""#);
    assert_eq!(clients.expect("no error").all.len(), 2);
}

/// Settings that several backends share are built once. A name that no certificate can have is a
/// fault of the connection.
#[test]
fn layers_are_made_for_names() {
    let clients = read_with(r#"{"ca": "ca.pem"}"#, &[], "").expect("valid");
    let tls = |name: &str, verify| TargetTls {
        server_name: name.to_owned(),
        identity: TlsIdentity { ca: Some("ca.pem".to_owned()), certificate: None, verify },
    };
    for name in ["a.test", "my_service", "10.0.0.1", "::1", "a.test."] {
        assert!(clients.layer(&tls(name, true)).is_ok(), "{name}");
    }
    for (name, verify) in [("a b", true), ("a.test", false)] {
        assert_eq!(clients.layer(&tls(name, verify)).map(|_| ()), Err(TlsFault::InvalidName));
    }
}
