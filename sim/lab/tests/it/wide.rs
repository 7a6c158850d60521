//! The lab's special requests: traces, classes, clients, streams, retries, refusals, distances.
//! Most scenarios here are so small that their figures are computed by hand.
use intelliproxy_lab::{Contender, Run, Scenario, run};

/// Runs a scenario for a contender.
#[track_caller]
fn play(json: &str, contender: &str) -> Run {
    play_trace(json, "", contender)
}

#[track_caller]
fn play_trace(json: &str, csv: &str, contender: &str) -> Run {
    let mut scenario = Scenario::from_json(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    scenario.load_trace(|_| Ok(csv.to_owned())).expect("a trace");
    run(&scenario, Contender::named(contender).expect(contender), 1).expect("it runs")
}

#[track_caller]
fn assert_near(value: f64, expected: f64) {
    assert!((value - expected).abs() <= 1e-3 * expected.abs().max(1e-6), "{value} {expected}");
}

/// A trace is played as recorded: three requests of 10, 20 and 60 ms, far apart. At a higher rate
/// they overlap at the only worker.
#[test]
fn traces_are_played() {
    let csv = "5,10\n5.1,20\n5.2,60\n";
    let backends = r#""backends": [{ "workers": 1 }]"#;
    let json = format!(r#"{{ "arrivals": {{ "trace": "t" }}, "rttMs": 1, {backends} }}"#);
    for contender in ["oracle", "learned", "haproxy"] {
        let figures = play_trace(&json, csv, contender).figures;
        assert_eq!((figures.requests, figures.failed), (3, 0), "{contender}");
        assert_near(figures.mean_ms, 31.0);
        assert_near(figures.p50_ms, 21.0);
        assert_near(figures.p99_ms, 61.0);
    }
    // With 5 ms between arrivals, the second request waits 5 ms and the third 20 ms.
    let rate = r#""rate": { "perSecond": 200 }"#;
    let json = format!(r#"{{ "arrivals": {{ "trace": "t", {rate} }}, "rttMs": 1, {backends} }}"#);
    assert_near(play_trace(&json, csv, "oracle").figures.mean_ms, (11.0 + 26.0 + 81.0) / 3.0);
}

/// Requests to a dead backend fail without retries and with a single attempt. With the default
/// retries none fails, and the number of requests is the same.
#[test]
fn refused_requests_are_tried_elsewhere() {
    let json = |retries: &str| {
        format!(
            r#"{{ "durationS": 5, "arrivals": {{ "rate": {{ "perSecond": 100 }} }}, {retries}
                 "routing": {{ "probes": {{ "pingIntervalMs": 60000 }} }},
                 "backends": [{{ "name": "dead", "faults": [{{ "what": "refusing" }}] }},
                              {{ "count": 2 }}] }}"#
        )
    };
    for contender in ["nginx", "envoy"] {
        let without = play(&json(""), contender).figures;
        let with = play(&json(r#""retries": {},"#), contender).figures;
        assert!(without.failed > 0, "{contender}");
        assert_eq!(with.failed, 0, "{contender}");
        assert_eq!(with.requests, without.requests);
    }
    let one = play(&json(r#""retries": { "attempts": 1 },"#), "nginx").figures;
    assert!(one.failed > 0);
}

/// If a process ends, its current requests are cut. With retries, only those that may not be
/// repeated are lost.
#[test]
fn a_crash_cuts_what_it_holds() {
    let json = |idempotent: bool| {
        format!(
            r#"{{ "durationS": 10, "arrivals": {{ "rate": {{ "perSecond": 40 }} }}, "retries": {{}},
                 "service": {{ "constant": 200 }},
                 "classes": [{{ "idempotent": {idempotent} }}],
                 "backends": [{{ "name": "ends", "workers": 8,
                                 "faults": [{{ "fromS": 5, "forS": 2, "what": "crash" }}] }},
                              {{ "workers": 8 }}] }}"#
        )
    };
    for contender in ["learned", "least_request", "haproxy"] {
        assert_eq!(play(&json(true), contender).figures.failed, 0, "{contender}");
        let lost = play(&json(false), contender).figures.failed;
        // Each backend has four requests on average, eight at most.
        assert!((1..=8).contains(&lost), "{contender}: {lost}");
    }
}

/// Refused requests go to another backend if that is permitted. A request that every backend
/// refuses fails.
#[test]
fn refusals_are_tried_elsewhere() {
    let json = |refused: bool, count: u32| {
        format!(
            r#"{{ "durationS": 5, "arrivals": {{ "rate": {{ "perSecond": 50 }} }},
                 "retries": {{ "refused": {refused} }},
                 "backends": [{{ "name": "turns", "count": {count},
                     "faults": [{{ "what": {{ "answers": {{ "retryAfterS": 1 }} }} }}] }},
                     {{ "name": "joins", "joinsS": {} }}] }}"#,
            if count == 2 { 60 } else { 0 }
        )
    };
    assert_eq!(play(&json(true, 1), "least_request").figures.failed, 0);
    assert!(play(&json(false, 1), "least_request").figures.failed > 0);
    let all = play(&json(true, 2), "least_request").figures;
    assert_eq!(all.failed, all.requests);
}

/// A rate limit permits its rate and a burst of one second's requests: of 100 requests a second for
/// 10 s at a limit of 60, about 400 are refused.
#[test]
fn rate_limits_hold() {
    let json = r#"{ "durationS": 10, "arrivals": { "rate": { "perSecond": 100 } },
        "backends": [{ "faults": [{ "what": { "answers": { "abovePerSecond": 60 } } }] }] }"#;
    let figures = play(json, "round_robin").figures;
    let passed = figures.requests - figures.failed;
    assert!((590..=661).contains(&passed), "{passed}");
}

/// A client's upload and download do not count as latency and use no worker: one worker serves 20
/// requests a second of 10 ms each, although each upload takes a second.
#[test]
fn slow_clients_use_no_worker() {
    let json = r#"{ "durationS": 10, "rttMs": 1, "arrivals": { "trace": "t" },
        "classes": [{ "uploadMs": { "constant": 1000 }, "downloadMs": { "constant": 1000 } }],
        "backends": [{ "workers": 1 }] }"#;
    let csv: String = (0..100).map(|n| format!("{},10\n", f64::from(n) * 0.05)).collect();
    for contender in ["oracle", "learned", "score", "haproxy"] {
        let figures = play_trace(json, &csv, contender).figures;
        assert_eq!((figures.requests, figures.failed), (100, 0), "{contender}");
        assert_near(figures.mean_ms, 11.0);
        assert_near(figures.p99_ms, 11.0);
    }
}

/// Clients that leave count with their waiting time, not as failures. Clients of a silent backend
/// also leave.
#[test]
fn impatient_clients_leave() {
    let json = r#"{ "durationS": 10, "rttMs": 1, "arrivals": { "trace": "t" },
        "classes": [{ "patienceMs": { "constant": 20 } }],
        "backends": [{ "workers": 1, "faults": [{ "fromS": 3, "what": "blackHole" }] }] }"#;
    let csv = "0,10\n1,100\n2,10\n5,10\n6,10\n";
    for contender in ["oracle", "learned", "nginx"] {
        let figures = play_trace(json, csv, contender).figures;
        assert_eq!((figures.requests, figures.failed, figures.gave_up), (5, 0, 3), "{contender}");
        assert_near(figures.mean_ms, (11.0 + 20.0 + 11.0 + 20.0 + 20.0) / 5.0);
    }
}

/// A request with the status of its class counts as served, even if that is an error. A failing
/// class fails at its configured share, and the other class is not affected.
#[test]
fn classes_have_responses_of_their_own() {
    let json = |fault: &str| {
        format!(
            r#"{{ "durationS": 10, "arrivals": {{ "rate": {{ "perSecond": 200 }} }},
                 "classes": [{{ "name": "page", "share": 0.9 }},
                             {{ "name": "broken", "share": 0.1, "status": 500 }}],
                 "backends": [{{ "faults": [{fault}] }}] }}"#
        )
    };
    assert_eq!(play(&json(""), "round_robin").figures.failed, 0);
    let fails = r#"{ "what": { "fails": { "class": "page", "share": 0.5 } } }"#;
    let share = play(&json(fails), "round_robin").figures.failed_share();
    assert!((share - 0.45).abs() < 0.04, "{share}");
}

/// The latency of a stream of tokens is that of the first one, a tenth of the work. Its worker is
/// busy to the end, so the second of two requests waits for all of the first.
#[test]
fn tokens_count_to_the_first() {
    let json = r#"{ "durationS": 10, "rttMs": 1, "arrivals": { "trace": "t" },
        "classes": [{ "stream": { "tokens": { "firstShare": 0.1 } } }],
        "backends": [{ "workers": 1 }] }"#;
    for contender in ["oracle", "learned", "score", "envoy"] {
        let figures = play_trace(json, "0,1000\n0.5,1000\n", contender).figures;
        assert_eq!((figures.requests, figures.failed), (2, 0), "{contender}");
        assert_near(figures.mean_ms, f64::midpoint(101.0, 601.0));
    }
}

/// Streams that are cut, because a process ends or a backend is silent, count as failures. No wait
/// is endless.
#[test]
fn cut_streams_fail() {
    for fault in ["crash", "blackHole"] {
        let json = format!(
            r#"{{ "durationS": 10, "timeoutMs": 2000, "arrivals": {{ "trace": "t" }},
                 "classes": [{{ "stream": {{ "tokens": {{ "firstShare": 0.1 }} }} }}],
                 "backends": [{{ "workers": 4,
                                 "faults": [{{ "fromS": 1, "forS": 4, "what": "{fault}" }}] }}] }}"#
        );
        let figures = play_trace(&json, "0,3000\n0.5,400\n0.6,1000\n", "least_request").figures;
        assert_eq!((figures.requests, figures.failed), (3, 2), "{fault}");
    }
}

/// Idle tunnels and event streams use no worker: one worker serves a request of 10 ms every 100 ms,
/// although each stays open for 5 s.
#[test]
fn silent_streams_hold_no_worker() {
    for stream in ["tunnel", "events"] {
        let json = format!(
            r#"{{ "durationS": 10, "rttMs": 1, "arrivals": {{ "trace": "t" }},
                 "classes": [{{ "stream": {{ "{stream}": {{ "forMs": {{ "constant": 5000 }} }} }} }}],
                 "backends": [{{ "workers": 1 }}] }}"#
        );
        let csv: String = (0..50).map(|n| format!("{},10\n", f64::from(n) * 0.1)).collect();
        for contender in ["oracle", "learned", "haproxy"] {
            let figures = play_trace(&json, &csv, contender).figures;
            assert_eq!((figures.requests, figures.failed), (50, 0), "{contender}");
            assert_near(figures.mean_ms, 11.0);
        }
    }
}

/// The round trip of each backend applies to requests and to their responses.
#[test]
fn distances_are_kept() {
    let json = r#"{ "durationS": 10, "rttMs": 1, "arrivals": { "trace": "t" },
        "backends": [{ "name": "near" }, { "name": "far", "rttMs": 51 }] }"#;
    let csv: String = (0..10).map(|n| format!("{n},10\n")).collect();
    let figures = play_trace(json, &csv, "round_robin").figures;
    assert_near(figures.mean_ms, f64::midpoint(11.0, 61.0));
    assert_near(play_trace(json, &csv, "oracle").figures.mean_ms, 11.0);
}

/// With one proxy and no round trip the oracle of one proxy knows everything. With eight proxies
/// its p99 is higher than that of the full oracle, and lower than that of `least_request`.
#[test]
fn an_oracle_of_one_proxy() {
    let figures = |proxies: u32, contender| {
        let json = format!(
            r#"{{ "durationS": 5, "proxies": {proxies}, "rttMs": 0,
                 "arrivals": {{ "rate": {{ "load": 0.85 }} }},
                 "backends": [{{ "name": "one", "count": 4 }},
                              {{ "name": "four", "count": 4, "speed": 4 }}] }}"#
        );
        play(&json, contender).figures
    };
    assert_near(figures(1, "local_oracle").mean_ms, figures(1, "oracle").mean_ms);
    let p99 = |contender| figures(8, contender).p99_ms;
    let (all, own, counting) = (p99("oracle"), p99("local_oracle"), p99("least_request"));
    assert!(all < own, "{all} {own}");
    assert!(own < counting, "{own} {counting}");
}

/// The learning oracle knows of a fault after the first failed response. One of two backends fails
/// everything for two seconds while requests arrive every 20 ms: this oracle loses one request, and
/// the oracles that know everything lose none.
#[test]
fn an_oracle_that_has_to_find_out() {
    let csv: String = (0..200).map(|n| format!("{},10\n", 0.02 * f64::from(n))).collect();
    let sinkhole = r#"{ "fromS": 1, "forS": 2, "what": { "sinkhole": { "afterMs": 1 } } }"#;
    let json = format!(
        r#"{{ "durationS": 10, "arrivals": {{ "trace": "t" }},
             "backends": [{{ "name": "bad", "faults": [{sinkhole}] }}, {{ "name": "good" }}] }}"#
    );
    let failed = |contender| play_trace(&json, &csv, contender).figures.failed;
    assert_eq!(["oracle", "local_oracle", "learning_oracle"].map(failed), [0, 0, 1]);
}

/// The same seed gives the same bits for a scenario with most of these features, with every
/// contender. All contenders get the same arrivals, and every request is counted.
#[test]
fn everything_at_once_is_reproducible() {
    let json = r#"{
        "durationS": 6, "arrivals": { "rate": { "perSecond": 150 } }, "retries": {}, "proxies": 2,
        "timeoutMs": 1000, "routing": { "probes": { "pingIntervalMs": 500 } },
        "classes": [
            { "name": "page", "share": 10 },
            { "name": "up", "uploadMs": { "exponential": 500 }, "idempotent": false },
            { "name": "down", "downloadMs": { "exponential": 500 } },
            { "name": "leaves", "patienceMs": { "exponential": 20 } },
            { "name": "socket", "stream": { "tunnel": { "forMs": { "exponential": 5000 } } } },
            { "name": "feed", "stream": { "events": { "forMs": { "exponential": 5000 } } } },
            { "name": "chat", "service": { "constant": 300 },
              "stream": { "tokens": { "firstShare": 0.1 } } }],
        "backends": [
            { "name": "a", "workers": 16, "faults": [
                { "fromS": 1, "forS": 1, "what": "crash" },
                { "fromS": 3, "forS": 1, "what": "blackHole" }] },
            { "name": "b", "workers": 16, "rttMs": 20, "faults": [
                { "fromS": 2, "forS": 1, "what": { "answers": { "status": 503 } } },
                { "fromS": 4, "forS": 1, "what": { "cut": 0.2 } }] },
            { "name": "c", "workers": 16, "faults": [
                { "fromS": 1, "what": { "fails": { "class": "chat", "share": 0.3 } } }] }] }"#;
    let mut first = None;
    for contender in Contender::all().into_iter().chain(Contender::baselines()) {
        let name = contender.to_string();
        let (once, again) = (play(json, &name), play(json, &name));
        assert_eq!(once, again, "{name}");
        assert_eq!(once.figures.requests, once.arrived, "{name}");
        let arrivals = *first.get_or_insert(once.arrivals_hash);
        assert_eq!(once.arrivals_hash, arrivals, "{name}");
    }
}
