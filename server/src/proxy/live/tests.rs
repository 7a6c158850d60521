//! Streams and samples of a proxy in virtual time.
use std::net::SocketAddr;

use super::*;
use crate::config::BackendTarget;
use crate::pages::live::END;
use crate::proxy::Action;

const START: Instant = Instant::from_millis(1);

fn setup(stats: &[&str], backends: usize) -> (Config, Vec<BackendTarget>) {
    let mut config = Config::default();
    config.stats.allow = stats.iter().map(|&network| network.to_owned()).collect();
    let target = |number: usize| BackendTarget {
        name: format!("b{number}"),
        url: format!("http://b{number}"),
        authority: format!("b{number}"),
        tls: None,
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
    };
    (config, (0..backends).map(target).collect())
}

fn proxy(stats: &[&str], backends: usize) -> Proxy {
    let (config, targets) = setup(stats, backends);
    Proxy::new(config, targets, 1, START).expect("good defaults")
}

fn ask(proxy: &mut Proxy, now: Instant) -> ConnId {
    send(proxy, now, b"GET")
}

fn send(proxy: &mut Proxy, now: Instant, method: &[u8]) -> ConnId {
    let client = proxy.handle_accept(now, SocketAddr::from(([127, 0, 0, 1], 9)));
    let rest = b" /stats HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n";
    let request = [method, rest].concat();
    proxy.read_space(client)[..request.len()].copy_from_slice(&request);
    proxy.handle_read(now, client, request.len());
    client
}

/// The treatment of sent bytes by a client and its system.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Takes {
    All,
    /// The client's system accepts nothing.
    None,
    /// The system takes all, but the client acknowledges nothing.
    IntoTheSystem,
    /// The client acknowledges half of what the system takes.
    Half,
}

/// Lets time pass. Returns what closed, and the bytes that were taken.
fn pass(
    proxy: &mut Proxy,
    now: &mut Instant,
    span: Duration,
    takes: Takes,
) -> (Vec<ConnId>, Vec<u8>) {
    let (mut closed, mut taken, end) = (Vec::new(), Vec::new(), *now + span);
    loop {
        while let Some(action) = proxy.poll_action() {
            match action {
                Action::Close { conn, .. } => closed.push(conn),
                Action::Measure { conn } => {
                    let all = taken.len() as u64;
                    let rest = match takes {
                        Takes::All => 0,
                        Takes::None | Takes::IntoTheSystem => all,
                        Takes::Half => all / 2,
                    };
                    proxy.handle_measured(*now, conn, Some(rest));
                }
                _ => {}
            }
        }
        while let Some(conn) = proxy.poll_dirty() {
            let bytes = proxy.write_ready(conn).to_vec();
            if takes != Takes::None && !bytes.is_empty() {
                proxy.handle_written(*now, conn, bytes.len());
                taken.extend(bytes);
            }
        }
        match proxy.poll_timeout().filter(|at| *at <= end) {
            Some(at) => {
                *now = at.max(*now);
                proxy.handle_timeout(*now);
            }
            None if proxy.has_effects() => {}
            None => return (closed, taken),
        }
    }
}

/// Returns the events as time and text.
fn events(proxy: &Proxy, now: Instant) -> Vec<(u64, String)> {
    let Next::Text(hello) = proxy.live().next(now, &mut Cursor::default()) else {
        panic!("a stream begins with a text");
    };
    let text = String::from_utf8(hello.to_vec()).expect("text");
    let data = text.split_once("data: ").expect("an event").1.trim_end();
    let hello: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let events = hello["events"].as_array().into_iter().flatten();
    events
        .map(|event| {
            let text = event[3].as_str().expect("a text").to_owned();
            (event[1].as_u64().expect("a time"), text)
        })
        .collect()
}

/// A client that takes nothing is reset after nine ticks. One that takes everything stays, and its
/// stream ends cleanly when the proxy stops.
#[test]
fn slow_readers_are_dropped() {
    let (mut proxy, mut now) = (proxy(&["127.0.0.0/8"], 40), START);
    let slow = ask(&mut proxy, now);
    let (closed, _) = pass(&mut proxy, &mut now, Duration::from_secs(7), Takes::None);
    assert!(!closed.contains(&slow), "{closed:?}");
    let (closed, _) = pass(&mut proxy, &mut now, Duration::from_secs(5), Takes::None);
    assert!(closed.contains(&slow), "{closed:?}");
    let quick = ask(&mut proxy, now);
    let (closed, bytes) = pass(&mut proxy, &mut now, Duration::from_secs(60), Takes::All);
    assert!(!closed.contains(&quick), "{closed:?}");
    let text = String::from_utf8(bytes).expect("text");
    assert_eq!(text.matches("event: hello").count(), 1);
    assert_eq!(text.matches("event: backends").count(), 5);
    assert!((58..=61).contains(&text.matches("event: tick").count()), "{text}");
    proxy.handle_stop(now);
    let (_, bytes) = pass(&mut proxy, &mut now, Duration::from_secs(1), Takes::All);
    assert_eq!(bytes, END);
    // The client does not end its side, so the proxy waits for a while.
    pass(&mut proxy, &mut now, Duration::from_secs(60), Takes::All);
    assert_eq!(proxy.clients(), 0);
}

/// A client that reads nothing is reset after `timeouts.clientWriteMs`, although the system accepts
/// all bytes. A slow client that reads stays.
#[test]
fn readers_that_stop_are_dropped() {
    let rows = [
        (Takes::IntoTheSystem, 28, true),
        (Takes::IntoTheSystem, 40, false),
        (Takes::Half, 120, true),
    ];
    for (takes, seconds, stays) in rows {
        let (mut proxy, mut now) = (proxy(&["127.0.0.0/8"], 2), START);
        assert_eq!(proxy.config().timeouts.client_write, Duration::from_secs(30));
        let reader = ask(&mut proxy, now);
        let (closed, _) = pass(&mut proxy, &mut now, Duration::from_secs(seconds), takes);
        assert_eq!(!closed.contains(&reader), stays, "{seconds} s");
        assert_eq!(proxy.clients(), usize::from(stays));
    }
}

/// If the maximum number of streams is running, a new one replaces the stream that has run longest.
/// That one ends cleanly, or is cut off if the client does not take the rest. A HEAD request does
/// not count as a stream.
#[test]
fn the_longest_stream_gives_way() {
    for (takes, end) in
        [(Takes::All, "\nevent: replaced\ndata: {}\n\n\r\n0\r\n\r\n"), (Takes::None, "")]
    {
        let (mut proxy, mut now) = (proxy(&["127.0.0.0/8"], 2), START);
        let readers: Vec<ConnId> = (0..STREAMS_MAX)
            .map(|_| {
                let reader = ask(&mut proxy, now);
                pass(&mut proxy, &mut now, Duration::from_millis(20), takes);
                reader
            })
            .collect();
        send(&mut proxy, now, b"HEAD");
        let (closed, bytes) = pass(&mut proxy, &mut now, Duration::from_millis(50), takes);
        let bytes = String::from_utf8(bytes).expect("text");
        assert!(!bytes.contains("replaced") && !closed.contains(&readers[0]), "{bytes}");
        for leaving in &readers[..2] {
            let new = ask(&mut proxy, now);
            let (mut closed, bytes) = pass(&mut proxy, &mut now, Duration::from_secs(2), takes);
            let bytes = String::from_utf8(bytes).expect("text");
            assert_eq!(bytes.matches("replaced").count(), usize::from(takes == Takes::All));
            assert!(bytes.contains(end), "{bytes}");
            if takes == Takes::All {
                proxy.handle_eof(now, *leaving);
                closed.extend(pass(&mut proxy, &mut now, Duration::from_millis(50), takes).0);
            }
            let left: Vec<_> = readers.iter().filter(|reader| closed.contains(reader)).collect();
            assert_eq!(left, [leaving]);
            assert!(!closed.contains(&new));
        }
    }
}

/// If a reload removes the client from `stats.allow`, its stream ends at once and cleanly.
#[test]
fn a_reload_ends_streams_of_others() {
    let (mut proxy, mut now) = (proxy(&["127.0.0.0/8"], 2), START);
    ask(&mut proxy, now);
    pass(&mut proxy, &mut now, Duration::from_secs(2), Takes::All);
    for (network, ends) in [("127.0.0.1", false), ("192.0.2.0/24", true)] {
        let (config, targets) = setup(&[network], 2);
        proxy.handle_reconfigured(now, config, targets).expect("a good one");
        let (_, bytes) = pass(&mut proxy, &mut now, Duration::from_millis(1), Takes::All);
        assert_eq!(bytes == END, ends, "{network}");
    }
}

/// A reload without an admin listener ends the readers of the old one.
#[test]
fn readers_go_with_the_admin_listener() {
    let (mut config, targets) = setup(&["127.0.0.1"], 1);
    config.admin.listen = Some("localhost:1".to_owned());
    let mut proxy = Proxy::new(config, targets, 1, START).expect("good defaults");
    proxy.handle_watchers(3);
    let (config, targets) = setup(&["127.0.0.1"], 1);
    proxy.handle_reconfigured(START, config, targets).expect("a good one");
    assert_eq!(proxy.live.watchers, 0);
}

/// A refused configuration is shown with the time of its refusal, however long ago the last sample
/// was.
#[test]
fn a_refusal_has_its_time() {
    let mut proxy = proxy(&["127.0.0.1"], 1);
    let at = START + Duration::from_millis(1700);
    proxy.handle_config_refused(at, "bad".to_owned());
    assert_eq!(events(&proxy, at), [], "the next tick has it");
    let mut now = at;
    pass(&mut proxy, &mut now, Duration::from_secs(1), Takes::All);
    let expected = "configuration not applied, keeping the current one: bad".to_owned();
    assert_eq!(events(&proxy, now), [(1701, expected)]);
}

/// Times and counts from before sampling began, or from a pause, are not shown as if they belonged
/// to one second.
#[test]
fn the_first_sample_has_no_past() {
    let (mut proxy, mut now) = (proxy(&[], 1), START);
    let id = proxy.configured()[0];
    let count = |proxy: &mut Proxy| {
        (0..1000).for_each(|_| proxy.counters.of(id).recent.add_nanos(50_000_000));
    };
    let times = |proxy: &Proxy| proxy.recent_times(id);
    for _ in 0..2 {
        count(&mut proxy);
        let (config, targets) = setup(&["127.0.0.1"], 1);
        proxy.handle_reconfigured(now, config, targets).expect("a good one");
        pass(&mut proxy, &mut now, Duration::from_millis(10), Takes::All);
        assert_eq!(times(&proxy), [None; 2]);
        count(&mut proxy);
        pass(&mut proxy, &mut now, Duration::from_secs(1), Takes::All);
        assert!(times(&proxy)[0].is_some());
        let (config, targets) = setup(&[], 1);
        proxy.handle_reconfigured(now, config, targets).expect("a good one");
        pass(&mut proxy, &mut now, Duration::from_secs(5), Takes::All);
    }
}

/// Without backends or without a reader that may see the figures, nothing is sampled, and nothing
/// wakes the proxy for it. `top` may see them over the control socket.
#[test]
fn nothing_is_sampled_for_no_page() {
    assert!(proxy(&["127.0.0.1"], 1).live.poll_timeout().is_some());
    assert_eq!(proxy(&[], 1).live.poll_timeout(), None);
    assert_eq!(proxy(&["127.0.0.1"], 0).live.poll_timeout(), None);
    let (mut config, targets) = setup(&[], 1);
    config.admin.socket = Some("control.sock".to_owned());
    let proxy = Proxy::new(config, targets, 1, START).expect("a good one");
    assert!(proxy.live.poll_timeout().is_some());
}
