//! Idle connections to backends: the time for which they are kept, and the requests that may use
//! them.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Notice, RemedyTaken};
use intelliproxy_driver::{Dialling, Driver};

const GET: &str = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab";
const OWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

/// Sends a request and its response. Returns the client and the connection to the backend.
fn served(driver: &mut Driver, request: &str, response: &str) -> (ConnId, ConnId) {
    let client = driver.client_with(request.as_bytes());
    let upstream = driver.upstream();
    driver.send(upstream, response.as_bytes());
    driver.drain(client);
    (client, upstream)
}

fn has_remedy(driver: &Driver, wanted: RemedyTaken) -> bool {
    driver
        .notices
        .iter()
        .any(|notice| matches!(notice, Notice::UpstreamError { remedy, .. } if *remedy == wanted))
}

/// `Keep-Alive: timeout=N` of a backend bounds how long its connection is kept, less a margin. In
/// each row with a time, the connection is used again before that time and closed when it is over.
/// In the other rows it is closed at once.
#[test]
fn a_backends_keep_alive_time_is_held() {
    let rows = [
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3", Some(2000)),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: max=100, Timeout = \"2\"", Some(1000)),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3\r\nKeep-Alive: timeout=2", Some(1000)),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=1", Some(500)),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=2", Some(1000)),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0", None),
        ("HTTP/1.0 200 OK\r\nKeep-Alive: timeout=2", None),
        // The default of `pool.idleMs` stays the upper bound.
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5", Some(4000)),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=99999999999999999999", Some(4000)),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=-1, timeout=x, timeout=, timeout, =1", Some(4000)),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", Some(4000)),
    ];
    for (head, expected) in rows {
        let response = format!("{head}\r\nContent-Length: 0\r\n\r\n");
        let mut driver = Driver::new(Config::default());
        let (client, first) = served(&mut driver, GET, &response);
        let Some(millis) = expected else {
            assert_eq!(driver.peer(first).closed, Some(false), "{head}");
            continue;
        };
        driver.pass(Duration::from_millis(millis - 1));
        driver.send(client, GET.as_bytes());
        assert_eq!(driver.upstreams(), [first], "{head}: used again before its time");
        driver.send(first, response.as_bytes());
        driver.pass(Duration::from_millis(millis - 1));
        assert_eq!(driver.peer(first).closed, None, "{head}");
        driver.pass(Duration::from_millis(1));
        assert_eq!(driver.peer(first).closed, Some(false), "{head}: closed at its time");
    }
}

/// An idle connection whose time is over is not used, even if the request arrives before its timer
/// is handled, as after a pause of the process.
#[test]
fn a_connection_whose_time_is_over_is_not_used() {
    let mut driver = Driver::new(Config::default());
    let (client, first) = served(&mut driver, GET, OWN);
    driver.now += Duration::from_secs(4);
    driver.send(client, GET.as_bytes());
    assert_eq!(driver.peer(first).closed, Some(false));
    assert_eq!(driver.upstreams().len(), 2);
}

/// Before a request that may not be repeated uses an idle connection, the proxy checks whether the
/// backend has closed it. If so, the request gets a new connection.
#[test]
fn a_post_looks_before_it_uses_a_connection() {
    let mut driver = Driver::new(Config::default());
    let (client, first) = served(&mut driver, GET, OWN);
    driver.end_unseen(first);
    driver.send(client, POST.as_bytes());
    assert!(!driver.text(first).contains("POST"), "nothing of it went over the closed one");
    assert_eq!(driver.peer(first).closed, Some(false));
    let second = driver.upstream();
    assert_ne!(first, second);
    driver.send(second, OWN.as_bytes());
    assert_eq!(driver.text(client), OWN);
    assert!(has_remedy(&driver, RemedyTaken::Redialled));
}

/// If a client's first request may not be repeated, it uses an idle connection only if the backend
/// is known to keep it: after two uses, or after 100 ms of idle time.
#[test]
fn a_first_post_uses_proven_connections_only() {
    for (name, prove, is_reused) in [
        ("one used once", 0, false),
        ("one used twice", 1, true),
        ("one that was idle for long", 2, true),
    ] {
        let mut driver = Driver::new(Config::default());
        let (client, first) = served(&mut driver, GET, OWN);
        match prove {
            1 => {
                driver.send(client, GET.as_bytes());
                driver.send(first, OWN.as_bytes());
            }
            2 => driver.pass(Duration::from_millis(100)),
            _ => driver.pass(Duration::from_millis(99)),
        }
        driver.client_with(POST.as_bytes());
        assert_eq!(driver.upstreams().len(), if is_reused { 1 } else { 2 }, "{name}");
        // A later request of the same client, and a request that may be repeated, use any idle
        // connection.
        let mut driver = Driver::new(Config::default());
        let (client, first) = served(&mut driver, GET, OWN);
        driver.send(client, POST.as_bytes());
        assert_eq!(driver.upstreams(), [first]);
    }
}

/// The backend closes a kept connection after a POST went out over it. If the client's own
/// connection was kept too, it is closed without a response, and the client may repeat the request.
/// If it was the client's first request, the client gets 502. The backend is not blamed in the
/// first case.
#[test]
fn a_lost_post_closes_a_kept_client() {
    let mut driver = Driver::new(Config::default());
    let (client, first) = served(&mut driver, GET, OWN);
    driver.send(client, POST.as_bytes());
    assert_eq!(driver.upstreams(), [first]);
    driver.reset(first);
    assert_eq!(driver.text(client), "", "no response");
    assert!(driver.peer(client).is_over(), "a clean end");
    assert!(has_remedy(&driver, RemedyTaken::Closed));
    assert_eq!(driver.upstreams().len(), 1, "the proxy does not repeat it");
    let snapshot = driver.proxy.snapshot(driver.now);
    assert_eq!((snapshot.backends[0].errors, snapshot.backends[0].in_flight), (0, 0));
    driver.end(client);
    assert_eq!(driver.peer(client).closed, Some(false));

    let mut driver = Driver::new(Config::default());
    served(&mut driver, GET, OWN);
    driver.pass(Duration::from_millis(100));
    let other = driver.client_with(POST.as_bytes());
    let first = driver.upstream();
    driver.end(first);
    assert!(driver.text(other).starts_with("HTTP/1.1 502 "), "a first request gets a response");
    // One byte of a response shows that the request was received, so the client gets 502.
    let mut driver = Driver::new(Config::default());
    let (client, first) = served(&mut driver, GET, OWN);
    driver.send(client, POST.as_bytes());
    driver.send(first, b"H");
    driver.end(first);
    assert!(driver.text(client).starts_with("HTTP/1.1 502 "));
}

const CHALLENGE: &str = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
    www-authenticate: Negotiate, NTLM\r\nContent-Length: 0\r\n\r\n";

/// A 401 or 407 that requires NTLM or Negotiate binds the connection to the client, and so do
/// credentials of these schemes. Other schemes do not.
#[test]
fn authenticated_connections_stay_with_their_client() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let refused = |status: &str, field: &str| {
        format!("HTTP/1.1 {status} No\r\n{field}\r\nContent-Length: 0\r\n\r\n")
    };
    let rows = [
        (get(""), CHALLENGE.to_owned(), true),
        (get(""), refused("401", "WWW-Authenticate: ntlm TlRMTVNTUAAC"), true),
        (get(""), refused("407", "Proxy-Authenticate: NEGOTIATE"), true),
        (get("Authorization: Negotiate YIIC\r\n"), OWN.to_owned(), true),
        (get("authorization: NTLM TlRM\r\n"), OWN.to_owned(), true),
        (get(""), refused("401", "WWW-Authenticate: Basic realm=\"x\""), false),
        (get(""), refused("401", "WWW-Authenticate: NTLMish"), false),
        (get(""), refused("401", "Proxy-Authenticate: NTLM"), false),
        (get(""), refused("403", "WWW-Authenticate: NTLM"), false),
        (get("Authorization: Bearer NTLM\r\n"), OWN.to_owned(), false),
    ];
    for (request, response, is_bound) in rows {
        let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
        let (alice, own) = served(&mut driver, &request, &response);
        // Another client does not get a bound connection, and it is kept longer than idle ones.
        let bob = driver.client_with(GET.as_bytes());
        let others = driver.upstream();
        assert_eq!(others != own, is_bound, "{request}{response}");
        driver.send(others, OWN.as_bytes());
        driver.end(bob);
        driver.pass(Duration::from_secs(5));
        assert_eq!(driver.peer(own).closed.is_none(), is_bound);
        if !is_bound {
            continue;
        }
        // Its own client gets it, whatever the method. Both connections end together.
        for (next, path) in [(GET, "GET /1 "), (POST, "POST /2 ")] {
            driver.drain(own);
            driver.send(alice, next.as_bytes());
            assert!(driver.text(own).starts_with(path), "{request}{response}");
            driver.drain(alice);
            driver.send(own, OWN.as_bytes());
            assert_eq!(driver.text(alice), OWN);
        }
        let count = driver.upstreams().len();
        driver.end(alice);
        assert_eq!(driver.peer(own).closed, Some(false), "both end together");
        assert_eq!(driver.upstreams().len(), count);
    }
}

/// The client's connection ends with the connection that is bound to it: while idle, unseen until
/// the next request, inside an exchange, by `Connection: close`, and by unsolicited bytes.
#[test]
fn a_client_ends_with_its_own_connection() {
    let start = || {
        let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
        let (alice, own) = served(&mut driver, GET, CHALLENGE);
        (driver, alice, own)
    };
    let (mut driver, alice, own) = start();
    driver.end(own);
    assert!(driver.peer(alice).is_over() && driver.text(alice).is_empty());
    let (mut driver, alice, own) = start();
    driver.reset(own);
    assert!(driver.peer(alice).is_over() && driver.text(alice).is_empty());
    let (mut driver, alice, own) = start();
    driver.send(own, b"HTTP/1.1 408 Bye\r\n\r\n");
    assert!(driver.peer(alice).is_over() && driver.text(alice).is_empty());
    for request in [GET, POST] {
        let (mut driver, alice, own) = start();
        driver.end_unseen(own);
        driver.send(alice, request.as_bytes());
        assert!(driver.peer(alice).is_over() && driver.text(alice).is_empty(), "{request}");
        let (mut driver, alice, own) = start();
        driver.send(alice, request.as_bytes());
        driver.end(own);
        assert!(driver.peer(alice).is_over() && driver.text(alice).is_empty(), "{request}");
        assert_eq!(driver.upstreams(), [own], "never sent over another connection");
        // An error response that replaces the backend's response is the last one.
        let (mut driver, alice, own) = start();
        driver.send(alice, request.as_bytes());
        driver.send(own, b"nonsense\r\n\r\n");
        let text = driver.text(alice);
        assert!(text.starts_with("HTTP/1.1 502 ") && text.contains("\r\nConnection: close\r\n"));
    }
    // If a backend closes the connection after its challenge, the client's connection is also
    // closed.
    let mut driver = Driver::new(Config::default());
    let alice = driver.client_with(GET.as_bytes());
    let closing = CHALLENGE.replace("Content", "Connection: close\r\nContent");
    driver.send(driver.upstream(), closing.as_bytes());
    assert!(driver.text(alice).contains("\r\nConnection: close\r\n"));
    assert!(driver.peer(alice).is_over());
    // A stopping proxy closes both.
    let (mut driver, alice, own) = start();
    driver.stop();
    assert_eq!((driver.peer(alice).closed, driver.peer(own).closed), (Some(false), Some(false)));
}

/// A connection that is bound to a client is used even while its backend is down: no other backend
/// knows the client.
#[test]
fn an_own_connection_is_used_while_its_backend_is_down() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    let (alice, own) = served(&mut driver, GET, CHALLENGE);
    driver.dialling = Dialling::IsRefused;
    driver.pass(Duration::from_secs(30));
    let down = driver.proxy.snapshot(driver.now).backends;
    assert!(down.iter().all(|backend| backend.health == intelliproxy_core::Health::Down));
    driver.send(alice, GET.as_bytes());
    driver.send(own, OWN.as_bytes());
    assert_eq!(driver.text(alice), OWN);
}
