//! Fields that the proxy adds on request: the id of a request for backend and client, and the
//! field that names backend and rule.
use intelliproxy::config::{Config, TakeId};
use intelliproxy_driver::Driver;

use crate::expected::forwarded;

/// Returns a configuration that sends ids both ways and trusts 198.51.100.0/24. The driver's usual
/// client, 192.0.2.7, is not trusted.
fn config(take: TakeId) -> Config {
    let mut config = Config::default();
    config.request_id.take = take;
    config.request_id.to_backend = true;
    config.request_id.to_client = true;
    config.forwarding.trusted = vec!["198.51.100.0/24".to_owned()];
    config
}

/// Returns the values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    let lines = head.split("\r\n\r\n").next().unwrap_or_default().split("\r\n").skip(1);
    let fields = lines.filter_map(|line| line.split_once(": "));
    let named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.to_owned()).collect()
}

fn is_made(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An id is taken where the rules permit it. Otherwise the backend gets a new one instead of the
/// client's field, even if the client wrote the name with an underscore. The client gets the same
/// id, once.
#[test]
fn ids_are_taken_or_made() {
    let rows = [
        ("192.0.2.7:1", TakeId::Trusted, "", None),
        ("192.0.2.7:1", TakeId::Trusted, "X-Request-Id: theirs\r\n", None),
        ("192.0.2.7:1", TakeId::Trusted, "x_request-ID: theirs\r\n", None),
        ("198.51.100.7:1", TakeId::Trusted, "x-request-ID: theirs\r\n", Some("theirs")),
        ("198.51.100.7:1", TakeId::None, "X-Request-Id: theirs\r\n", None),
        ("192.0.2.7:1", TakeId::Any, "X-Request-Id: theirs\r\n", Some("theirs")),
        ("192.0.2.7:1", TakeId::Any, "X-Request-Id: a b\r\n", None),
        ("192.0.2.7:1", TakeId::Any, "X-Request-Id: \r\n", None),
        ("192.0.2.7:1", TakeId::Any, "Connection: x-request-id\r\nX-Request-Id: t\r\n", None),
    ];
    for (peer, take, sent, expected) in rows {
        let mut driver = Driver::new(config(take));
        let client = driver.client_from(peer);
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n{sent}C: d\r\n\r\n");
        driver.send(client, request.as_bytes());
        let upstream = driver.upstream();
        let head = driver.text(upstream);
        let ids = values(&head, "x-request-id");
        assert_eq!(ids.len(), 1, "{sent}: {head}");
        match expected {
            Some(expected) => assert_eq!(ids[0], expected, "{head}"),
            None => assert!(is_made(&ids[0]), "{head}"),
        }
        assert!(values(&head, "x_request-id").is_empty(), "{head}");
        assert!(head.contains("\r\nA: b\r\nC: d\r\nX-Request-Id: "), "{head}");
        let response =
            b"HTTP/1.1 200 OK\r\nX-Request-Id: backend\r\nE: f\r\nContent-Length: 0\r\n\r\n";
        driver.send(upstream, response);
        let expected = format!(
            "HTTP/1.1 200 OK\r\nX-Request-Id: {}\r\nE: f\r\nContent-Length: 0\r\n\r\n",
            ids[0]
        );
        assert_eq!(driver.text(client), expected);
    }
}

/// Without the two options a client's field is forwarded like any other, even with the access log
/// on.
#[test]
fn the_field_is_untouched_by_default() {
    for file in [None, Some("access.log".to_owned())] {
        let mut config = Config::default();
        config.access_log.file = file;
        let mut driver = Driver::new(config);
        let client = driver.client();
        driver.send(client, b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: t\r\n\r\n");
        let upstream = driver.upstream();
        assert_eq!(driver.text(upstream), forwarded("GET /", "X-Request-Id: t\r\n"));
        let response = "HTTP/1.1 200 OK\r\nX-Request-Id: b\r\nContent-Length: 0\r\n\r\n";
        driver.send(upstream, response.as_bytes());
        assert_eq!(driver.text(client), response);
    }
}

/// Interim responses get no id. The 101 of a tunnel, a chunked response, /stats and the proxy's own
/// errors do, including errors for invalid requests.
#[test]
fn every_final_response_has_the_id() {
    let ask = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: e\r\nConnection: upgrade\r\n\r\n";
    let rows = [
        (
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: e\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nX-Request-Id: ID\r\nUpgrade: e\r\n\
             Connection: upgrade\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Request-Id: ID\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\n\r\n",
        ),
        (
            "nonsense\r\n\r\n",
            "HTTP/1.1 502 Bad Gateway\r\nX-Request-Id: ID\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n\r\n502 Bad Gateway\n",
        ),
    ];
    for (response, expected) in rows {
        let mut driver = Driver::new(config(TakeId::None));
        let client = driver.client();
        driver.send(client, ask.as_bytes());
        let upstream = driver.upstream();
        let id = values(&driver.text(upstream), "x-request-id").remove(0);
        driver.send(upstream, response.as_bytes());
        assert_eq!(driver.text(client), expected.replace("ID", &id));
    }
    let mut ids = Vec::new();
    for request in ["GET /stats HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut driver = Driver::new(config(TakeId::None));
        let client = driver.client_from("127.0.0.1:1");
        driver.send(client, request.as_bytes());
        let head = driver.text(client);
        ids.push(values(&head, "x-request-id"));
        assert!(ids.concat().iter().all(|id| is_made(id)), "{head}");
    }
    assert_eq!(ids.concat().len(), 2);
}

/// The field of `forwarding.routeField` names the backend and the rule. A backend's own field of
/// this name is replaced. The proxy's own responses do not have the field.
#[test]
fn the_route_is_named() {
    let mut config = Config::default();
    config.forwarding.route_field = Some("X-Served-By".to_owned());
    let mut driver = Driver::new(config);
    let client = driver.client();
    driver.send(client, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let upstream = driver.upstream();
    let response = "HTTP/1.1 200 OK\r\nx-served-by: me\r\nContent-Length: 2\r\n\r\nok";
    driver.send(upstream, response.as_bytes());
    assert_eq!(
        driver.text(client),
        "HTTP/1.1 200 OK\r\nX-Served-By: a; why=current\r\nContent-Length: 2\r\n\r\nok"
    );
    let client = driver.client();
    driver.send(client, b"GET / HTTP/1.1\r\n\r\n");
    let refused = driver.text(client);
    assert!(refused.starts_with("HTTP/1.1 400 ") && !refused.contains("X-Served-By"), "{refused}");
}
