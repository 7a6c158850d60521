//! Certificates made by OpenSSL (`tls/testing/make.sh`), and broken ones.
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

fn der(pem: &[u8]) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem).expect("a certificate").to_vec()
}

/// 2020-01-01 and 2120-01-01.
const VALID: (i64, i64) = (1_577_836_800, 4_733_510_400);

/// The facts are those that OpenSSL prints; row by row.
#[test]
fn facts_are_read() {
    let rows = [
        (&include_bytes!("../testing/site.pem")[..], "CN=a.test", &["a.test", "*.wild.test"][..]),
        (include_bytes!("../testing/other.pem"), "CN=b.test", &["b.test"]),
        (include_bytes!("../testing/ca.pem"), "CN=Test CA,O=Test", &[]),
        (
            include_bytes!("../testing/client.pem"),
            "CN=Zo\\C3\\AB,OU=R\\+D,O=Widgets\\, Inc.,C=DE",
            &[],
        ),
    ];
    for (pem, subject, names) in rows {
        let facts = Facts::read(&der(pem)).expect("a certificate");
        assert_eq!((facts.not_before, facts.not_after), VALID);
        assert!(!facts.serial.is_empty());
        assert_eq!(facts.subject, subject);
        assert_eq!(facts.names, names);
    }
    let expired = Facts::read(&der(include_bytes!("../testing/expired.pem")));
    // 2021-01-01.
    assert_eq!(expired.expect("a certificate").not_after, 1_609_459_200);
}

/// Prefixes of a certificate are not certificates. If any byte is changed, the reader does not
/// panic, and a subject has only characters that a header field allows.
#[test]
fn broken_certificates_are_harmless() {
    for pem in [&include_bytes!("../testing/client.pem")[..], include_bytes!("../testing/site.pem")]
    {
        let der = der(pem);
        for end in 0..der.len() {
            assert_eq!(Facts::read(&der[..end]), None, "{end}");
        }
        for at in 0..der.len() {
            for mask in [0x01, 0x41, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= mask;
                if let Some(facts) = Facts::read(&changed) {
                    assert!(facts.subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                }
            }
        }
    }
}

/// Times of both kinds are read, and invalid ones are refused; row by row.
#[test]
fn times_are_read() {
    let rows: [(u8, &[u8], Option<i64>); 13] = [
        (UTC_TIME, b"700101000000Z", Some(0)),
        (UTC_TIME, b"491231235959Z", Some(2_524_607_999)),
        (UTC_TIME, b"500101000000Z", Some(-631_152_000)),
        (UTC_TIME, b"240229120000Z", Some(1_709_208_000)),
        (GENERAL_TIME, b"20240229120000Z", Some(1_709_208_000)),
        (GENERAL_TIME, b"99991231235959Z", Some(253_402_300_799)),
        (GENERAL_TIME, b"240229120000Z", None),
        (UTC_TIME, b"20240229120000Z", None),
        (UTC_TIME, b"240229120000", None),
        (UTC_TIME, b"241329120000Z", None),
        (UTC_TIME, b"24022912000aZ", None),
        (UTC_TIME, b"", None),
        (INTEGER, b"240229120000Z", None),
    ];
    for (tag, text, expected) in rows {
        assert_eq!(time((tag, text)), expected, "{}", text.escape_ascii());
    }
}

/// Attribute types without a name are shown as numbers; values are escaped.
#[test]
fn names_are_shown() {
    assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]), "1.2.840.113549");
    assert_eq!(dotted(&[0x88, 0x37]), "2.999");
    let mut text = String::new();
    escape(0x0c, b" #a,b=\r\n\" ", &mut text);
    assert_eq!(text, "\\ #a\\,b=\\0D\\0A\\\"\\ ");
    text.clear();
    escape(BMP_STRING, &[0, b'A', 0, 0xe4], &mut text);
    assert_eq!(text, "A\\C3\\A4");
}

/// An element with a length of two bytes.
fn element(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).expect("a short element").to_be_bytes();
    [vec![tag, 0x82, high, low], content].concat()
}

/// An OCSP response for certificates with these next updates.
fn ocsp_response(state: u8, updates: &[Option<&str>]) -> Vec<u8> {
    let general = |text: &str| element(GENERAL_TIME, &[text.as_bytes().to_vec()]);
    let produced = general("20260101000000Z");
    let part = |next: &Option<&str>| {
        let next = next.map(|text| element(EXPLICIT_0, &[general(text)]));
        let good = element(0x80, &[]);
        let hash = element(OCTETS, &[]);
        let serial = element(INTEGER, &[vec![16, 1]]);
        let id = element(SEQUENCE, &[element(SEQUENCE, &[]), hash.clone(), hash, serial]);
        element(SEQUENCE, &[id, good, produced.clone(), next.unwrap_or_default()])
    };
    let parts = element(SEQUENCE, &updates.iter().map(part).collect::<Vec<_>>());
    let responder = element(0xa2, &[]);
    let data = element(SEQUENCE, &[responder, produced.clone(), parts]);
    let basic = element(OCTETS, &[element(SEQUENCE, &[data])]);
    let bytes = element(SEQUENCE, &[element(OID, &[vec![42]]), basic]);
    element(SEQUENCE, &[element(ENUMERATED, &[vec![state]]), element(EXPLICIT_0, &[bytes])])
}

/// An OCSP response holds until the earliest of its next updates. A failed one, a part of one, and
/// one with other bytes behind it are refused.
#[test]
fn ocsp_responses_end() {
    let ocsp_not_after = |der: &[u8]| OcspFacts::read(der).map(|facts| facts.not_after);
    let (early, late) = (Some("20260102000000Z"), Some("20260103000000Z"));
    assert_eq!(ocsp_not_after(&ocsp_response(0, &[late])), Some(1_767_398_400));
    assert_eq!(ocsp_not_after(&ocsp_response(0, &[early])), Some(1_767_312_000));
    assert_eq!(ocsp_not_after(&ocsp_response(0, &[None])), Some(i64::MAX));
    assert_eq!(ocsp_not_after(&ocsp_response(0, &[late, early])), Some(1_767_312_000));
    assert_eq!(ocsp_not_after(&ocsp_response(6, &[late])), None);
    assert_eq!(ocsp_not_after(&ocsp_response(0, &[Some("2026010300000Z")])), None);
    let whole = ocsp_response(0, &[late]);
    for end in 0..whole.len() {
        assert_eq!(ocsp_not_after(&whole[..end]), None, "{end}");
    }
    let facts = OcspFacts::read(&whole).expect("a response");
    assert_eq!(facts.serials, [[16, 1]]);
    assert_eq!(ocsp_not_after(&[whole, vec![0]].concat()), None);
}
