//! Configurations that change while clients are served.
use intelliproxy::config::Config;
use intelliproxy_core::PolicyKind;
use intelliproxy_tests::reload::{Named, Wanted};

use super::*;

/// Returns a 200 with this body after `millis` milliseconds.
fn later(millis: u64, body: &str) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    Reply::steps(vec![wait(millis), send(head)])
}

fn bodies(report: &Report, client: usize) -> Vec<String> {
    report.responses(client).into_iter().map(|one| one.body).collect()
}

/// Makes this machine the only backend, under its own name.
fn only(machine: usize) -> impl Fn(&mut Wanted) {
    move |wanted| wanted.backends = vec![Named { name: machine, machine }]
}

/// Sends the backends' own Host, so that a request shows which backend it was meant for.
fn own_host(config: &mut Config) {
    config.forwarding.keep_host = false;
}

/// A request in flight on a backend that is removed finishes there without an error. The client's
/// next request goes to another backend.
#[test]
fn a_removed_backend_ends_what_it_has_begun() {
    let report = World::new()
        .backend(vec![later(300, "old")])
        .spare(vec![Reply::ok("new")])
        .reload_at(100, only(1))
        .client([get("/1"), get("/2")].concat())
        .run();
    assert_eq!(bodies(&report, 0), ["old", "new"]);
    assert_eq!([report.requests(0), report.requests(1)], [["GET /1"], ["GET /2"]]);
    assert_eq!(report.reloads.ended_there, 1);
    assert!(!has_error(&report, "UpstreamError"));
}

/// A backend that moves gets no more requests at its old address, neither on its idle connection
/// nor on a new one. At its new address requests name it by its new Host.
#[test]
fn a_moved_backend_is_asked_where_it_is() {
    let report = World::new()
        .config(own_host)
        .backend(vec![Reply::ok("before")])
        .spare(vec![Reply::ok("after")])
        .reload_at(100, |wanted| wanted.backends[0].machine = 1)
        .client([get("/1"), vec![Step::AwaitResponses(1), wait(200)], get("/2")].concat())
        .run();
    assert_eq!(bodies(&report, 0), ["before", "after"]);
    assert_eq!(report.reloads.closed, 1, "the connection that was idle");
    let hosts: Vec<_> = (0..2)
        .map(|backend| report.backends[backend].requests[0].head.one("host").map(str::to_owned))
        .collect();
    assert_eq!(hosts, [Some("b0.test".to_owned()), Some("b0-at-1.test".to_owned())]);
    assert!(has_error(&report, "moved: [\"b0\"]"), "and nothing else changed");
}

/// A backend that returns gets new connections: one that was in use when it left is not kept.
#[test]
fn a_connection_does_not_outlive_its_backends_leave() {
    let report = World::new()
        .backend(vec![later(300, "first"), Reply::ok("second")])
        .spare(Vec::new())
        .reload_at(100, only(1))
        .reload_at(200, only(0))
        .client([get("/1"), vec![Step::AwaitResponses(1), wait(100)], get("/2")].concat())
        .run();
    assert_eq!(bodies(&report, 0), ["first", "second"]);
    let links: Vec<_> = report.backends[0].requests.iter().map(|request| request.link).collect();
    assert_ne!(links[0], links[1]);
}

/// If nothing of a request was sent yet, it does not wait for a removed backend, whatever its
/// method. It goes to another backend at once, with its body, and that does not count as an
/// attempt.
#[test]
fn a_request_not_begun_goes_elsewhere() {
    let report = World::new()
        .config(|config| {
            own_host(config);
            config.timeouts.connect = Duration::from_secs(3600);
            config.limits.attempts = 1;
        })
        .backend_at(Vec::new(), Listening::Hanging)
        .spare(vec![Reply::ok("here")])
        .reload_at(100, only(1))
        .client(post("/order", &"x".repeat(5000)))
        .run();
    assert_eq!(bodies(&report, 0), ["here"]);
    assert_eq!(report.backends[1].requests[0].body.len(), 5000);
    let host = report.backends[1].requests[0].head.one("host");
    assert_eq!(host, Some("b1.test"));
    assert!(!has_error(&report, "UpstreamError"));
}

/// A request that would be sent again to its own backend, because a kept connection turned out to
/// be closed, is routed again if that backend has been removed or moved meanwhile. That does not
/// count as an attempt.
#[test]
fn a_redial_is_routed_again() {
    for (name, host) in [(1, "b1.test"), (0, "b0-at-1.test")] {
        let report = World::new()
            .config(|config| {
                own_host(config);
                config.limits.attempts = 1;
            })
            .backend(vec![Reply::ok("one"), Reply::steps(vec![wait(200), Step::Close])])
            .spare(vec![Reply::ok("two")])
            .reload_at(150, move |wanted| wanted.backends = vec![Named { name, machine: 1 }])
            .client([get("/1"), vec![Step::AwaitResponses(1), wait(50)], get("/2")].concat())
            .run();
        assert_eq!(bodies(&report, 0), ["one", "two"]);
        assert_eq!(report.requests(1), ["GET /2"]);
        assert_eq!(report.backends[1].requests[0].head.one("host"), Some(host));
        assert!(has_error(&report, "Redialled"));
        assert!(!has_error(&report, "Retried"));
    }
}

/// A backend that moved starts as unknown: its record at the old address is dropped.
#[test]
fn a_moved_backend_starts_again() {
    let report = World::new()
        .config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .backend(Vec::new())
        .spare(Vec::new())
        .reload_at(1000, |wanted| wanted.backends[0].machine = 1)
        .client([get("/1"), get("/stats")].concat())
        .client_at(1400, get("/stats"))
        .run();
    let (before, after) = (&bodies(&report, 0)[1], &bodies(&report, 1)[0]);
    assert!(before.contains("\"totalRequests\":1,"), "{before}");
    assert!(after.contains("\"totalRequests\":0,"), "{after}");
    assert!(after.contains("\"totalPings\":1,") && after.contains("\"failPings\":0,"), "{after}");
}

/// The outcome of a request at the old address of a backend that moved is not charged to the new
/// one.
#[test]
fn a_moved_backend_is_not_blamed() {
    let report = World::new()
        .config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .backend(vec![Reply::steps(vec![wait(300), Step::Reset])])
        .spare(Vec::new())
        .reload_at(100, |wanted| wanted.backends[0].machine = 1)
        .client(post("/1", "x"))
        .client_at(1000, get("/stats"))
        .run();
    assert_eq!(report.statuses(0), [502]);
    let stats = &bodies(&report, 1)[0];
    assert!(stats.contains("\"errorRequests\":0"), "{stats}");
    assert!(stats.contains("\"activeRequests\":0"), "{stats}");
    assert!(stats.contains("\"url\":\"http://b0-at-1.test\""), "{stats}");
}

/// Without a backend, requests get 503. Once one is added they are served.
#[test]
fn the_last_backend_goes_and_returns() {
    let pause = |responses| vec![Step::AwaitResponses(responses), wait(200)];
    let report = World::new()
        .backend(Vec::new())
        .reload_at(100, |wanted| wanted.backends.clear())
        .reload_at(300, only(0))
        .client([get("/1"), pause(1), get("/2"), pause(2), get("/3")].concat())
        .run();
    assert_eq!(report.statuses(0), [200, 503, 200]);
    assert_eq!(report.requests(0), ["GET /1", "GET /3"]);
}

/// A policy replaces another one while requests are in flight, and none is lost.
#[test]
fn policies_change_under_load() {
    let slow = || (0..200).map(|_| later(7, "fine")).collect::<Vec<_>>();
    let mut world = World::new().backend(slow()).backend(slow()).backend(slow());
    for (at, policy) in (1..).zip(PolicyKind::ALL) {
        world = world.reload_at(at * 40, move |wanted| wanted.config.routing.policy = policy);
    }
    for _ in 0..4 {
        let requests: Vec<_> = (0..50).map(|number| get(&format!("/{number}"))).collect();
        world = world.client(requests.concat());
    }
    let report = world.run();
    for client in 0..4 {
        assert_eq!(report.statuses(client), [200; 50]);
    }
    assert!(!has_error(&report, "UpstreamError"));
}

/// An invalid configuration changes nothing, which the world checks, and /stats reports it.
#[test]
fn a_bad_configuration_changes_nothing() {
    let report = World::new()
        .config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .backend(vec![later(300, "one")])
        .spare(Vec::new())
        .reload_at(100, |wanted| wanted.config.limits.clients = 0)
        .reload_at(110, |wanted| wanted.config.routing.switch.threshold = f64::NAN)
        .reload_at(120, |wanted| {
            // A repeated name among valid values.
            wanted.config.limits.clients = 7;
            wanted.config.stats.allow.clear();
            wanted.backends = vec![Named { name: 0, machine: 1 }, Named { name: 0, machine: 0 }];
        })
        .client([get("/1"), get("/2"), get("/stats")].concat())
        .run();
    assert_eq!(report.statuses(0), [200; 3]);
    assert_eq!(report.requests(0), ["GET /1", "GET /2"]);
    let head = &report.clients[0].responses[2].head;
    let reported = head.one("x-intelliproxy-reloads");
    assert_eq!(reported, Some("done=0, refused=3, lastError=\"not this one\""));
}

/// Lower limits interrupt no client in service: clients stay connected, and a body that was begun
/// may finish. Later requests are held to the new limits.
#[test]
fn lower_limits_drop_no_client() {
    let long = [
        ask("POST /long HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"),
        vec![
            send("3\r\nabc\r\n"),
            wait(300),
            send("40\r\n"),
            send([b'x'; 64]),
            send("\r\n0\r\n\r\n"),
        ],
        vec![Step::AwaitResponses(1)],
        post("/next", &"x".repeat(11)),
    ];
    let hold = |path| [get(path), vec![Step::AwaitResponses(1), wait(500)], get(path)].concat();
    let report = World::new()
        .backend(Vec::new())
        .reload_at(100, |wanted| {
            wanted.config.limits.clients = 1;
            wanted.config.limits.body_bytes_max = 10;
            wanted.config.limits.head_bytes_max = 1024;
            wanted.config.limits.target_bytes_max = 64;
        })
        .client(long.concat())
        .client(hold("/a"))
        .client(hold("/b"))
        .client_at(200, get("/waits"))
        .client_at(200, get(&format!("/{}", "t".repeat(64))))
        .run();
    assert_eq!(report.statuses(0), [200, 413]);
    assert_eq!([report.statuses(1), report.statuses(2)], [[200; 2]; 2]);
    assert_eq!([report.statuses(3), report.statuses(4)], [[200], [414]]);
    assert_eq!(report.requests(0).last().map(String::as_str), Some("GET /waits"));
}

/// Shorter timeouts apply at once, even where a longer one is running: an idle client, a slow
/// backend, a tunnel. Longer ones apply at once, too.
#[test]
fn times_change_at_once() {
    let granted = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: sim/1\r\n\r\n";
    let hour = Duration::from_secs(3600);
    let report = World::new()
        .config(|config| {
            config.timeouts.client_idle = hour;
            config.timeouts.response_head = hour;
            config.timeouts.tunnel_idle = hour;
            config.timeouts.request_body = Duration::from_millis(200);
        })
        .backend(vec![
            Reply { at_head: false, steps: vec![send(granted)], is_tunnel: true },
            Reply::steps(Vec::new()),
        ])
        .reload_at(100, move |wanted| {
            wanted.config.timeouts.client_idle = Duration::from_secs(2);
            wanted.config.timeouts.response_head = Duration::from_secs(3);
            wanted.config.timeouts.tunnel_idle = Duration::from_secs(4);
            wanted.config.timeouts.request_body = hour;
        })
        .client([ask(UPGRADE), vec![Step::AwaitEnd]].concat())
        .client_at(20, get("/silent"))
        .client(vec![Step::AwaitEnd])
        .client_at(
            40,
            [
                ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nab"),
                vec![wait(1000), send("cd")],
            ]
            .concat(),
        )
        .run();
    assert_eq!(report.statuses(0), [101]);
    assert_eq!(report.statuses(1), [504]);
    assert_eq!([report.end(0), report.end(2)], [Some(End::Clean); 2]);
    assert_eq!(report.statuses(3), [200]);
}

/// If the pool loses room for idle connections, those beyond the new size are closed: of two
/// simultaneous requests, as many get new connections as the pool has lost places.
#[test]
fn the_pool_shrinks_at_once() {
    for (size, kept) in [(2, 2), (1, 1), (0, 0)] {
        let slow = || {
            let response = send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            Reply::steps(vec![wait(50), response])
        };
        let script = || [get("/1"), vec![Step::AwaitResponses(1), wait(200)], get("/2")].concat();
        let report = World::new()
            .config(|config| config.pool.idle_per_backend = 2)
            .backend((0..4).map(|_| slow()).collect())
            .reload_at(100, move |wanted| wanted.config.pool.idle_per_backend = size)
            .client(script())
            .client(script())
            .run();
        assert_eq!([report.statuses(0), report.statuses(1)], [[200, 200]; 2]);
        let requests = &report.backends[0].requests;
        let links: Vec<_> = requests.iter().map(|request| request.link).collect();
        let is_kept = |link: &&usize| links[..2].contains(link);
        assert_eq!(links[2..].iter().filter(is_kept).count(), kept, "{size}: {links:?}");
    }
}

/// If the pool loses all room for idle connections, the next request opens a new one.
#[test]
fn an_empty_pool_keeps_nothing() {
    let report = World::new()
        .backend(Vec::new())
        .reload_at(100, |wanted| wanted.config.pool.idle_per_backend = 0)
        .client([get("/1"), vec![Step::AwaitResponses(1), wait(200)], get("/2")].concat())
        .run();
    assert_eq!(report.statuses(0), [200, 200]);
    let links: Vec<_> = report.backends[0].requests.iter().map(|request| request.link).collect();
    assert_ne!(links[0], links[1]);
}

/// Access to /stats changes for connected clients, too.
#[test]
fn access_to_stats_changes_at_once() {
    let pause = |responses| vec![Step::AwaitResponses(responses), wait(200)];
    let report = World::new()
        .backend(Vec::new())
        .reload_at(100, |wanted| wanted.config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .reload_at(300, |wanted| wanted.config.stats.allow.clear())
        .client([get("/stats"), pause(1), get("/stats"), pause(2), get("/stats")].concat())
        .run();
    assert_eq!(report.statuses(0), [200; 3]);
    assert_eq!(report.requests(0), ["GET /stats"; 2]);
    assert!(bodies(&report, 0)[1].starts_with("[{\"name\":\"b0\""));
}

/// Settings of the driver are reported, and the proxy continues to serve.
#[test]
fn settings_of_the_driver_are_reported() {
    let report = World::new()
        .backend(Vec::new())
        .reload_at(100, |wanted| {
            wanted.config.listen = vec!["127.0.0.1:1".into()];
            wanted.config.recording.files = 9;
            wanted.config.state_file = Some("learned.json".to_owned());
        })
        .client(get("/1"))
        .run();
    assert_eq!(report.statuses(0), [200]);
    assert!(has_error(&report, "settings: [\"listen\", \"recording\", \"stateFile\"]"));
}
