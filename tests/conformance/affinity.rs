//! Keys that keep requests at one backend: a cookie of the proxy, a field, the client's address.
use intelliproxy::config::Config;
use intelliproxy_core::{AffinityBy, PolicyKind};
use intelliproxy_driver::Driver;

const BACKENDS: [&str; 3] = ["a", "b", "c"];

/// Returns a configuration whose policy sends consecutive requests to different backends.
fn config(by: Option<AffinityBy>) -> Config {
    let mut config = Config::default();
    config.routing.policy = PolicyKind::RoundRobin;
    config.routing.affinity.by = by;
    config.forwarding.keep_host = false;
    config.forwarding.trusted = vec!["198.51.100.0/24".to_owned()];
    config
}

/// Serves one request with these field lines. Returns the name of its backend and the head that the
/// client gets.
#[track_caller]
fn serve(driver: &mut Driver, peer: &str, fields: &str) -> (String, String) {
    let client = driver.client_from(peer);
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n");
    driver.send(client, request.as_bytes());
    let upstream = driver.upstream();
    let head = driver.text(upstream);
    let name = head.split_once("Host: ").and_then(|(_, rest)| rest.split_once(".test"));
    let name = name.expect("the backend's own name").0.to_owned();
    driver.send(upstream, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    driver.end_if_open(upstream);
    let response = driver.text(client);
    driver.end_if_open(client);
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    (name, response)
}

/// Returns the cookie that a response sets, with its attributes.
fn set_cookie(response: &str) -> Option<(&str, &str)> {
    let mut lines = response.split("\r\n").filter_map(|line| line.strip_prefix("Set-Cookie: "));
    let line = lines.next()?;
    assert_eq!(lines.next(), None, "one cookie at most");
    line.split_once("; ")
}

const CLIENT: &str = "192.0.2.7:4711";

/// The first response of a session sets a cookie. Further requests with it go to the same backend,
/// and no response sets it again. The policy spreads the sessions, and all cookies differ. Without
/// the option no cookie is set.
#[test]
fn a_session_stays_at_its_backend() {
    let mut driver = Driver::with_backends(config(None), &BACKENDS);
    assert_eq!(set_cookie(&serve(&mut driver, CLIENT, "").1), None);
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Cookie)), &BACKENDS);
    let (mut homes, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (home, response) = serve(&mut driver, CLIENT, "");
        let (pair, attributes) = set_cookie(&response).expect("a new session");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        let value = pair.strip_prefix("intelliproxy=").expect("the name");
        assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(!seen.contains(&value.to_owned()), "each session has its own");
        for fields in [
            format!("Cookie: {pair}\r\n"),
            format!("Cookie: x=y; {pair};q\r\nA: b\r\n"),
            format!("cookie: x=intelliproxy\r\nCOOKIE: \t{pair} ; z=\"\r\n"),
            format!("Cookie: intelliproxy=; intelliproxy=short; {pair}\r\n"),
        ] {
            let (backend, response) = serve(&mut driver, CLIENT, &fields);
            assert_eq!(backend, home, "{fields}");
            assert_eq!(set_cookie(&response), None, "{fields}");
        }
        seen.push(value.to_owned());
        homes.push(home);
    }
    homes.sort();
    assert_eq!(homes, ["a", "a", "b", "b", "c", "c"]);
}

/// Cookies of other paths, domains and applications with the same name are sent along, in any
/// order. The first one that names a backend counts. Beyond eight that look like a session, none is
/// read.
#[test]
fn cookies_of_the_same_name_are_told_apart() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Cookie)), &BACKENDS);
    let (home, response) = serve(&mut driver, CLIENT, "");
    let pair = set_cookie(&response).expect("a new session").0.to_owned();
    let alien = "intelliproxy=0123456789abcdef0123456789abcdef; ";
    for (before, is_known) in [(1, true), (7, true), (8, false)] {
        let fields = format!("Cookie: {}{pair}; {alien}\r\n", alien.repeat(before));
        for _ in 0..3 {
            let (backend, response) = serve(&mut driver, CLIENT, &fields);
            assert_eq!(set_cookie(&response).is_none(), is_known, "{before}");
            assert!(!is_known || backend == home, "{before}");
        }
    }
}

/// Another proxy with the same backends understands the cookie, and so does this one after a
/// reload.
#[test]
fn every_proxy_understands_a_session() {
    let wanted = config(Some(AffinityBy::Cookie));
    let mut driver = Driver::with_backends(wanted.clone(), &BACKENDS);
    let (home, response) = serve(&mut driver, CLIENT, "");
    let fields = format!("Cookie: {}\r\n", set_cookie(&response).expect("a new session").0);
    driver.reconfigure(config(None), intelliproxy_driver::targets(&["b", "c"])).expect("valid");
    driver
        .reconfigure(wanted.clone(), intelliproxy_driver::targets(&["c", "b", "a"]))
        .expect("valid");
    let mut other = Driver::with_backends(wanted, &["b", "a", "c"]);
    for driver in [&mut driver, &mut other] {
        for _ in 0..4 {
            let (backend, response) = serve(driver, CLIENT, &fields);
            assert_eq!((backend, set_cookie(&response)), (home.clone(), None));
        }
    }
}

/// A cookie that the proxy did not create, or whose backend is gone, begins a new session.
#[test]
fn invalid_sessions_begin_anew() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Cookie)), &BACKENDS);
    let long = "f".repeat(8000);
    for value in [
        "",
        "a",
        "0123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdefa",
        "+123456789abcdef0123456789abcdef",
        "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        &long,
    ] {
        let fields = format!("Cookie: intelliproxy={value}\r\n");
        let (_, response) = serve(&mut driver, CLIENT, &fields);
        assert!(set_cookie(&response).is_some(), "{value:.40}");
    }
}

/// The cookie is `Secure` if a trusted hop reports that its client uses https. What other clients
/// claim is ignored. The cookie has the configured name.
#[test]
fn cookies_of_https_clients_are_secure() {
    let mut wanted = config(Some(AffinityBy::Cookie));
    wanted.routing.affinity.name = Some("route".to_owned());
    let mut driver = Driver::with_backends(wanted, &BACKENDS);
    for (peer, proto, is_secure) in [
        (CLIENT, "https", false),
        ("198.51.100.7:1", "https", true),
        ("198.51.100.7:1", "HTTPS", true),
        ("198.51.100.7:1", "https, http", true),
        ("198.51.100.7:1", "http,https", false),
        ("198.51.100.7:1", "http", false),
    ] {
        let (_, response) = serve(&mut driver, peer, &format!("X-Forwarded-Proto: {proto}\r\n"));
        let (pair, attributes) = set_cookie(&response).expect("a new session");
        assert!(pair.starts_with("route="), "{pair}");
        assert_eq!(attributes.ends_with("; Secure"), is_secure, "{peer} {proto}");
    }
}

/// When the backend of a session refuses connections, the request goes to another one, whose
/// response moves the session there. It stays there when its first backend is up again.
#[test]
fn a_session_moves_once_when_its_backend_is_down() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Cookie)), &BACKENDS);
    let (home, response) = serve(&mut driver, CLIENT, "");
    let fields = format!("Cookie: {}\r\n", set_cookie(&response).expect("a new session").0);
    let place = BACKENDS.iter().position(|name| *name == home).expect("a backend") as u8 + 1;
    driver.refusing = vec![([10, 0, 0, place], 80).into()];
    let (heir, response) = serve(&mut driver, CLIENT, &fields);
    assert_ne!(heir, home);
    let moved = format!("Cookie: {}\r\n", set_cookie(&response).expect("it has moved").0);
    // The old cookie also leads to the new backend, so that simultaneous requests agree.
    assert_eq!(serve(&mut driver, CLIENT, &fields).0, heir);
    driver.refusing.clear();
    driver.pass(std::time::Duration::from_secs(30));
    for _ in 0..4 {
        let (backend, response) = serve(&mut driver, CLIENT, &moved);
        assert_eq!((backend, set_cookie(&response)), (heir.clone(), None));
    }
    assert_eq!(serve(&mut driver, CLIENT, &fields).0, home, "the old cookie still names it");
}

/// A response that switches protocols also sets the cookie.
#[test]
fn an_upgrade_begins_a_session() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Cookie)), &BACKENDS);
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let client =
        driver.client_with(format!("GET / HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n").as_bytes());
    let upstream = driver.upstream();
    driver.send(
        upstream,
        format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nhello").as_bytes(),
    );
    let response = driver.text(client);
    assert!(set_cookie(&response).is_some() && response.ends_with("\r\n\r\nhello"), "{response}");
}

/// Requests with the same value of a field go to one backend; the policy routes those without the
/// field. Values are spread over all backends. The case of the name does not matter.
#[test]
fn a_field_keeps_requests_together() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::Header)), &BACKENDS);
    let mut homes = Vec::new();
    for number in 0..30 {
        let mut served = |name| {
            let fields = format!("{name}: user-{number}\r\n");
            serve(&mut driver, CLIENT, &fields)
        };
        let (home, response) = served("X-Affinity-Key");
        assert_eq!(set_cookie(&response), None);
        assert_eq!(served("x-affinity-KEY").0, home);
        homes.push(home);
    }
    for name in BACKENDS {
        assert!(homes.iter().filter(|home| *home == name).count() > 3, "{homes:?}");
    }
    let mut others: Vec<_> = (0..3).map(|_| serve(&mut driver, CLIENT, "").0).collect();
    others.sort();
    assert_eq!(others, BACKENDS);
}

/// Requests of one client go to one backend. The client is the peer, or the client that a trusted
/// hop names. A 64-bit network of IPv6 addresses is one client. What other peers claim is ignored.
#[test]
fn an_address_keeps_requests_together() {
    let mut driver = Driver::with_backends(config(Some(AffinityBy::ClientAddress)), &BACKENDS);
    let hop = "198.51.100.7:9";
    let mut homes = Vec::new();
    for number in 1..30 {
        let said = format!("X-Forwarded-For: 192.0.2.{number}\r\n");
        let home = serve(&mut driver, &format!("192.0.2.{number}:1000"), "").0;
        assert_eq!(serve(&mut driver, &format!("192.0.2.{number}:2000"), &said).0, home);
        assert_eq!(serve(&mut driver, hop, &said).0, home);
        homes.push(home);
    }
    for name in BACKENDS {
        assert!(homes.iter().filter(|home| *home == name).count() > 3, "{homes:?}");
    }
    let own = serve(&mut driver, CLIENT, "").0;
    for number in 1..30 {
        let said = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
        assert_eq!(serve(&mut driver, CLIENT, &said).0, own);
        let v6 = format!("[2001:db8:1:2::{number}]:1000");
        assert_eq!(serve(&mut driver, &v6, "").0, serve(&mut driver, "[2001:db8:1:2::]:1", "").0);
    }
}
