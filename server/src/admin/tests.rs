//! Admin connections and pages without sockets: input in pieces, deadlines, and limits.
use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::config::{BackendConfig, BackendTarget, Config};

const START: Instant = Instant::from_millis(1);

/// Returns a proxy with this number of backends.
fn proxy(backends: usize) -> Proxy {
    let config = Config {
        backends: (0..backends)
            .map(|number| BackendConfig::new(&format!("b{number}"), "http://a"))
            .collect(),
        ..Config::default()
    };
    let target = |backend: &BackendConfig| BackendTarget {
        name: backend.name.clone(),
        url: backend.url.clone(),
        authority: "a".to_owned(),
        tls: None,
        addresses: Vec::new(),
    };
    let targets = config.backends.iter().map(target).collect();
    Proxy::new(config, targets, 1, START).expect("good values")
}

fn send(admin: &mut Admin, now: Instant, id: usize, bytes: &[u8], proxy: &Proxy) {
    let space = admin.read_space(id);
    space[..bytes.len()].copy_from_slice(bytes);
    admin.handle_read(now, id, bytes.len(), proxy);
}

/// Returns all that waits for a connection.
fn take(admin: &mut Admin, now: Instant, id: usize, proxy: &Proxy) -> String {
    let mut all = Vec::new();
    while !admin.write_ready(id).is_empty() {
        let bytes = admin.write_ready(id).to_vec();
        admin.handle_written(now, id, bytes.len(), proxy);
        all.extend(bytes);
    }
    String::from_utf8(all).expect("UTF-8")
}

const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
const STATS: &[u8] = b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n";

/// The pages of a large pool are built over many turns, have a sample of each backend, and are
/// shared by all clients that request them meanwhile or shortly afterwards.
#[test]
fn large_pages_are_made_over_turns() {
    let proxy = proxy(300);
    for (request, mark) in [(METRICS, "\nintelliproxy_backend_current{"), (STATS, "\"name\":")] {
        let mut admin = Admin::new();
        let ids = [(); 3].map(|()| admin.handle_accept(START).expect("room"));
        send(&mut admin, START, ids[0], request, &proxy);
        send(&mut admin, START, ids[1], request, &proxy);
        let (mut now, mut turns) = (START, 0);
        while admin.write_ready(ids[0]).is_empty() {
            now = admin.poll_timeout().expect("a page in the making");
            admin.handle_timeout(now, &proxy);
            turns += 1;
        }
        assert!((19..400).contains(&turns), "{turns}");
        send(&mut admin, now, ids[2], request, &proxy);
        let texts = ids.map(|id| take(&mut admin, now, id, &proxy));
        assert!(texts[0].starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(texts[0].matches(mark).count(), 300);
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 1, "they share it");
        // It is dropped 250 ms later.
        admin.handle_timeout(now + Duration::from_millis(250), &proxy);
        send(&mut admin, now + Duration::from_millis(250), ids[0], request, &proxy);
        assert!(admin.write_ready(ids[0]).is_empty());
    }
}

/// A request may arrive byte by byte. One that is too long is refused.
#[test]
fn heads_come_in_pieces() {
    let proxy = proxy(2);
    let mut admin = Admin::new();
    let id = admin.handle_accept(START).expect("room");
    for byte in METRICS {
        assert!(admin.write_ready(id).is_empty());
        send(&mut admin, START, id, &[*byte], &proxy);
    }
    assert!(take(&mut admin, START, id, &proxy).starts_with("HTTP/1.1 200 OK\r\n"));
    send(&mut admin, START, id, b"GET /healthz HTTP/1.1\r\nA: ", &proxy);
    while !admin.read_space(id).is_empty() {
        send(&mut admin, START, id, b"x", &proxy);
    }
    assert!(take(&mut admin, START, id, &proxy).starts_with("HTTP/1.1 431 "));
    assert_eq!(admin.poll_action(), Some(Action::Shutdown(id)));
    send(&mut admin, START, id, b"dropped", &proxy);
    admin.handle_eof(id);
    assert_eq!(admin.poll_action(), Some(Action::Close(id)));
    assert_eq!(admin.poll_action(), None);
}

/// Each wait for a client has a deadline: for a request, for the rest of one, for the client to
/// take the response, and for the client's end.
#[test]
fn waits_end() {
    let proxy = proxy(2);
    let rows: [(&[u8], bool, u64); 4] = [
        (b"", false, 75),
        (b"GET /", false, 10),
        (METRICS, false, 10),
        (b"nonsense\r\n\r\n", true, 2),
    ];
    for (bytes, takes, seconds) in rows {
        let mut admin = Admin::new();
        let id = admin.handle_accept(START).expect("room");
        if !bytes.is_empty() {
            send(&mut admin, START, id, bytes, &proxy);
        }
        if takes {
            take(&mut admin, START, id, &proxy);
            assert_eq!(admin.poll_action(), Some(Action::Shutdown(id)));
        }
        let end = START + Duration::from_secs(seconds);
        assert_eq!(admin.poll_timeout(), Some(end), "{bytes:?}");
        admin.handle_timeout(Instant::from_nanos(end.as_nanos() - 1), &proxy);
        assert_eq!(admin.poll_action(), None, "{bytes:?}");
        admin.handle_timeout(end, &proxy);
        assert_eq!(admin.poll_action(), Some(Action::Close(id)), "{bytes:?}");
        assert_eq!(admin.poll_timeout(), None);
    }
}

/// When all connections are open, the one that has been idle longest gives way. While each has a
/// request in progress, none gives way.
#[test]
fn the_longest_idle_gives_way() {
    let proxy = proxy(2);
    let mut admin = Admin::new();
    let mut now = START;
    for _ in 0..CONNECTIONS_MAX {
        assert!(admin.make_room());
        now += Duration::from_millis(1);
        admin.handle_accept(now).expect("room");
    }
    assert_eq!(admin.handle_accept(now), None);
    send(&mut admin, now, 0, METRICS, &proxy);
    assert!(admin.make_room());
    assert_eq!(admin.poll_action(), Some(Action::Close(1)));
    assert_eq!(admin.handle_accept(now), Some(1));
    (1..CONNECTIONS_MAX).for_each(|id| send(&mut admin, now, id, METRICS, &proxy));
    assert!(!admin.make_room());
    assert_eq!(admin.poll_action(), None);
}

const EVENTS: &[u8] = b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n";

/// If the maximum number of streams is running, a new one replaces the one that has run longest.
/// That stream ends with a last event, or is cut off if its connection is needed and it takes
/// nothing.
#[test]
fn the_longest_stream_gives_way() {
    let proxy = proxy(2);
    for takes in [true, false] {
        let (mut admin, mut now) = (Admin::new(), START);
        for id in 0..STREAMS_MAX {
            now += Duration::from_millis(1);
            assert_eq!(admin.handle_accept(now), Some(id));
            send(&mut admin, now, id, EVENTS, &proxy);
            if takes {
                assert!(take(&mut admin, now, id, &proxy).contains("event: hello"));
            }
        }
        for place in 0..2 {
            let new = admin.handle_accept(now).expect("room");
            send(&mut admin, now, new, EVENTS, &proxy);
            assert!(take(&mut admin, now, new, &proxy).starts_with("HTTP/1.1 200 "), "{place}");
            assert_eq!(admin.poll_timeout(), Some(now));
            admin.handle_timeout(now, &proxy);
            if takes {
                let last = take(&mut admin, now, place, &proxy);
                let event = "\r\nretry: 60000\nevent: replaced\ndata: {}\n\n\r\n0\r\n\r\n";
                assert!(last.ends_with(event), "{last}");
                assert_eq!(admin.poll_action(), Some(Action::Shutdown(place)));
            }
            let others = (place + 1..STREAMS_MAX).chain([new]);
            assert!(others.clone().all(|id| {
                admin.sessions[id].as_ref().is_some_and(|one| one.runs_since().is_some())
            }));
            now += Duration::from_millis(1);
        }
        while admin.handle_accept(now).is_some() {}
        // The new connections have been idle for less time.
        for place in 0..2 {
            assert!(admin.make_room());
            assert_eq!(admin.poll_action(), Some(Action::Close(place)));
            now += Duration::from_millis(1);
            assert_eq!(admin.handle_accept(now), Some(place));
        }
    }
}

/// The events are a chunked response, which a client of HTTP/1.0 could not read.
#[test]
fn events_need_http_1_1() {
    let proxy = proxy(1);
    let mut admin = Admin::new();
    let id = admin.handle_accept(START).expect("room");
    send(&mut admin, START, id, b"GET /events HTTP/1.0\r\n\r\n", &proxy);
    let text = take(&mut admin, START, id, &proxy);
    assert!(text.starts_with("HTTP/1.1 505 "), "{text}");
    assert!(!text.contains("chunked"), "{text}");
    assert_eq!(admin.streams(), 0);
}
