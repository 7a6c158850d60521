//! Scenes in which a backend has requests in flight but no work, with the work that /stats counts.
use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::{Pace, Step};
use intelliproxy_tests::net::Path;
use intelliproxy_tests::world::{CALM_PATH, World};

use super::{UPGRADE, ask, get, narrow, send, wait};

/// Checks what /stats shows about the only backend. A row of `expected` is the time in ms, the
/// requests in flight, and those of them at work.
#[track_caller]
fn assert_work(name: &str, world: World, expected: &[(u64, u32, u32)]) {
    let mut world = world.config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()]);
    for (at, ..) in expected {
        world = world.client_at(*at, get("/stats"));
    }
    let report = world.run();
    for (client, (at, in_flight, at_work)) in expected.iter().enumerate() {
        let stats = report.responses(client + 1).remove(0).body;
        for (field, value) in [("activeRequests", in_flight), ("workingRequests", at_work)] {
            assert!(stats.contains(&format!("\"{field}\":{value},")), "{name} at {at} ms: {stats}");
        }
    }
}

const PUT: &str = "PUT /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n";

/// An upload that stalls is not work. With its last byte it becomes work.
#[test]
fn a_stalled_upload_is_no_work() {
    let mut script = ask(PUT);
    script.extend([send("first"), wait(300), send("again"), Step::AwaitResponses(1)]);
    let slow =
        Reply::steps(vec![wait(200), send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]);
    let world = World::new().backend(vec![slow]).client(script);
    assert_work("upload", world, &[(150, 1, 0), (250, 1, 0), (400, 1, 1), (900, 0, 0)]);
}

/// The pauses of an upload are not the backend's time: 200 ms pass between its last byte and the
/// response, and 600 ms before.
#[test]
fn a_stalled_upload_is_not_the_backends_time() {
    let mut script = ask(PUT);
    for piece in ["fir", "sta", "ga", "in"] {
        script.extend([wait(200), send(piece)]);
    }
    script.push(Step::AwaitResponses(1));
    let slow =
        Reply::steps(vec![wait(200), send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]);
    let report = World::new()
        .config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .backend(vec![slow])
        .client(script)
        .client_at(1500, get("/stats"))
        .run();
    let stats = report.responses(1).remove(0).body;
    let time = stats.split("\"responseEwma\":").nth(1).and_then(|rest| rest.split(',').next());
    let time: f64 = time.and_then(|text| text.parse().ok()).expect("a number");
    assert!((200.0..300.0).contains(&time), "{time} ms");
}

/// A response that its client does not read is not work.
#[test]
fn a_download_that_is_not_taken_is_no_work() {
    let body = "x".repeat(400_000);
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n{body}");
    let mut script = vec![Step::Pace(Pace::Never)];
    script.extend(get("/big"));
    script.extend([wait(500), Step::Pace(Pace::Fast), Step::AwaitResponses(1)]);
    let path = Path { capacity: 10_000, ..CALM_PATH };
    let world = World::new()
        .backend(vec![Reply::bytes(big)])
        .client_paths(CALM_PATH, path)
        .backend_paths(narrow(50_000), CALM_PATH)
        .client(script);
    assert_work("download", world, &[(200, 1, 0), (400, 1, 0), (3000, 0, 0)]);
}

/// After its 101 a tunnel is not work, whatever passes through it.
#[test]
fn a_tunnel_is_no_work() {
    let granted = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: sim/1\r\n\r\n";
    let mut script = [ask(UPGRADE), vec![Step::AwaitSign]].concat();
    script.extend([wait(300), send("late"), wait(300), Step::Fin, Step::AwaitEnd]);
    let steps = vec![wait(100), send(granted)];
    let world =
        World::new().backend(vec![Reply { at_head: false, steps, is_tunnel: true }]).client(script);
    assert_work("tunnel", world, &[(50, 1, 1), (200, 1, 0), (500, 1, 0), (2000, 0, 0)]);
}

/// A response is work while it flows. After a silence of `routing.streams.idleMs` it is not, even
/// if it flows again.
#[test]
fn a_silent_stream_is_no_work() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let stream = |pause: u64, pieces: usize| {
        let mut steps = vec![send(head)];
        for _ in 0..pieces {
            steps.extend([send("2\r\nok\r\n"), wait(pause)]);
        }
        steps.push(send("0\r\n\r\n"));
        let script = [get("/events"), vec![Step::AwaitResponses(1)]].concat();
        World::new().backend(vec![Reply::steps(steps)]).client(script)
    };
    assert_work("flowing", stream(500, 5), &[(1200, 1, 1), (2400, 1, 1), (4000, 0, 0)]);
    assert_work(
        "silent",
        stream(1500, 2),
        &[(900, 1, 1), (1200, 1, 0), (1700, 1, 0), (4000, 0, 0)],
    );
}
