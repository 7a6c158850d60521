//! Streams as a reader sees them.
use super::*;
use crate::pages::testing::unknown_backend;

fn at(second: u64) -> Instant {
    Instant::from_millis(1000 * second)
}

fn pool() -> Pool {
    Pool {
        policy: "score",
        guard: None,
        requests: 5,
        clients: 1,
        queue: 0,
        waited: 0,
        retries: 0,
        switches: 2,
        holds: 0,
        spills: 0,
        is_leaving: false,
        explains: true,
    }
}

fn live(backends: u32) -> Live {
    let mut live = Live::new();
    live.set_sampling(at(1), true);
    let list = (0..backends).map(|number| {
        (BackendId::from_index(number), format!("b{number}"), format!("http://b{number}\"<"))
    });
    live.set_backends(list.collect());
    live
}

/// Takes a sample in which each backend had `requests`.
fn sample(live: &mut Live, second: u64, requests: f64, has_readers: bool) {
    let places = live.step(1000);
    for place in places.clone() {
        let backend = unknown_backend(place as u32, "b");
        let traffic = Traffic { requests, ..Traffic::default() };
        live.take(place, Row::new(at(second), &backend, &traffic));
    }
    assert!(live.end_step(at(second), places.end));
    live.finish(at(second), &pool(), has_readers);
}

/// Reads everything that a reader can get now: pairs of an event's name and data.
fn read(live: &Live, cursor: &mut Cursor) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    loop {
        match live.next(at(9), cursor) {
            Next::Text(text) => all.push(parsed(&text)),
            Next::Nothing => return all,
            Next::Lost => panic!("the reader is not slow"),
        }
    }
}

/// Parses one chunk with one event.
fn parsed(chunk: &[u8]) -> (String, Value) {
    let text = std::str::from_utf8(chunk).expect("UTF-8");
    let (length, rest) = text.split_once("\r\n").expect("the line of a chunk");
    let body = rest.strip_suffix("\r\n").expect("the end of a chunk");
    assert_eq!(usize::from_str_radix(length, 16), Ok(body.len()));
    let event = body.strip_suffix("\n\n").and_then(|body| body.strip_prefix("event: "));
    let (name, data) = event.and_then(|event| event.split_once("\ndata: ")).expect("an event");
    assert!(!data.contains('\n'));
    (name.to_owned(), serde_json::from_str(data).expect("JSON"))
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

/// A stream begins with the pool and all backends with their history. After that it contains only
/// changes.
#[test]
fn a_stream_begins_whole_and_goes_on_with_changes() {
    let mut live = live(20);
    (1..=4).for_each(|second| sample(&mut live, second, 3.0, false));
    live.add_event(at(3), Kind::Hold, "hold A: \"B\" is better".to_owned());
    sample(&mut live, 5, 3.0, false);
    // The event is too late for the last tick, so it is in the next one, once.
    live.add_event(at(5), Kind::Switch, "switch A -> B".to_owned());
    let mut cursor = Cursor::default();
    let begin = read(&live, &mut cursor);
    assert_eq!(names(&begin), ["hello", "backends", "backends", "backends"]);
    let hello = &begin[0].1;
    assert_eq!(hello["count"], 20);
    assert_eq!(hello["fields"].as_array().map(Vec::len), Some(FIELDS.len()));
    assert_eq!(hello["pool"]["policy"], "score");
    assert_eq!(hello["events"], json!([[1, 3000, "hold", "hold A: \"B\" is better"]]));
    let last = &begin[3].1;
    assert_eq!((&last["first"], &last["backends"][3]["name"]), (&json!(16), &json!("b19")));
    assert_eq!(last["backends"][3]["url"], "http://b19\"<");
    assert_eq!(last["backends"][3]["history"]["rps"], json!([3, 3]));
    sample(&mut live, 6, 3.0, true);
    sample(&mut live, 7, 4.0, true);
    let more = read(&live, &mut cursor);
    assert_eq!(names(&more), ["tick", "tick"]);
    let rps = FIELDS.iter().position(|name| *name == "rps");
    assert_eq!(more[0].1["rows"], json!([]));
    assert_eq!(more[0].1["events"], json!([[2, 5000, "switch", "switch A -> B"]]));
    assert_eq!(more[1].1["rows"][19], json!([19, rps, 4]));
    assert_eq!(more[1].1["events"], json!([]));
}

/// A reader that takes nothing for more than eight ticks is lost, and no memory grows meanwhile.
#[test]
fn slow_readers_are_lost() {
    let mut live = live(1);
    sample(&mut live, 1, 0.0, true);
    let mut cursor = Cursor::default();
    read(&live, &mut cursor);
    for second in 2..=9 {
        sample(&mut live, second, 0.0, true);
        assert!(!live.is_lost(&cursor), "{second}");
    }
    sample(&mut live, 10, 0.0, true);
    assert!(live.is_lost(&cursor));
    assert!(matches!(live.next(at(10), &mut cursor), Next::Lost));
    assert_eq!(live.ticks.len(), TICKS_KEPT);
}

/// A change of the backends restarts a stream. Remaining backends keep their history.
#[test]
fn a_reload_begins_the_stream_over() {
    let mut live = live(2);
    (1..=4).for_each(|second| sample(&mut live, second, 7.0, true));
    let mut cursor = Cursor::default();
    read(&live, &mut cursor);
    let [kept, new] = [1, 2].map(BackendId::from_index);
    live.forget_list();
    assert!(!live.has(&[kept, new]));
    live.set_backends(vec![
        (kept, "kept".to_owned(), String::new()),
        (new, "new".to_owned(), String::new()),
    ]);
    assert!(live.has(&[kept, new]) && !live.has(&[new, kept]));
    let events = read(&live, &mut cursor);
    assert_eq!(names(&events), ["hello", "backends"]);
    let backends = &events[1].1["backends"];
    assert_eq!(backends[0]["history"]["rps"], json!([7, 7]));
    assert_eq!(backends[1]["history"]["rps"], json!([]));
}

/// A pool that grows beyond 64 backends keeps its history, in longer intervals.
#[test]
fn a_growing_pool_keeps_its_history() {
    let mut live = live(64);
    (1..=20).for_each(|second| sample(&mut live, second, 7.0, true));
    let list = |count: u32| {
        let ids = (0..count).map(BackendId::from_index);
        ids.map(|id| (id, format!("b{}", id.index()), String::new())).collect()
    };
    for (count, interval) in [(65, 5), (300, 10), (65, 5), (64, 2)] {
        live.set_backends(list(count));
        let events = read(&live, &mut Cursor::default());
        assert_eq!(
            (&events[0].1["interval"], &events[0].1["count"]),
            (&json!(interval), &json!(count))
        );
        let history = &events[1].1["backends"][0]["history"];
        assert_eq!(history["rps"], json!(vec![7; 20 / interval]), "{count}");
    }
}

/// A large pool is sampled in several steps, each backend once a second.
#[test]
fn samples_are_taken_in_steps() {
    let mut live = live(100);
    assert_eq!(live.poll_timeout(), Some(at(1)));
    let first = live.step(64);
    assert_eq!(first, 0..64);
    assert!(!live.end_step(at(1), first.end));
    assert_eq!(live.poll_timeout(), Some(at(1) + STEP));
    let rest = live.step(64);
    assert_eq!(rest, 64..100);
    assert!(live.end_step(at(1) + STEP, rest.end));
    live.finish(at(1) + STEP, &pool(), false);
    assert_eq!(live.poll_timeout(), Some(at(2)));
    // After a pause the next sample is due a second after the last one.
    sample(&mut live, 7, 0.0, false);
    assert_eq!(live.poll_timeout(), Some(at(8)));
    live.set_sampling(at(3), false);
    assert_eq!(live.poll_timeout(), None);
}

/// The predictions of a learner are sent to every reader once, and again after an update.
#[test]
fn models_are_sent_once() {
    let mut live = live(1);
    sample(&mut live, 1, 0.0, true);
    let mut cursor = Cursor::default();
    live.set_model(&[vec![(1, 10.0), (2, 10.123_456)]]);
    let events = read(&live, &mut cursor);
    assert_eq!(names(&events), ["hello", "backends", "model"]);
    assert_eq!(events[2].1["curves"], json!([[[1.0, 10.0], [2.0, 10.123]]]));
    assert!(read(&live, &mut cursor).is_empty());
    sample(&mut live, 2, 0.0, true);
    live.set_model(&[vec![(1, 11.0)]]);
    assert_eq!(names(&read(&live, &mut cursor)), ["tick", "model"]);
}

/// Without readers no tick is kept. A change of the guard's state is an event.
#[test]
fn a_change_of_the_guard_is_an_event() {
    let mut live = live(1);
    let guard = |is_learner_in_charge| GuardView {
        is_learner_in_charge,
        returns_in: None,
        demotions: 0,
        controls: 0,
        ratio: None,
        interval: None,
        alarm: 0.0,
    };
    for (second, is_in_charge) in [(1, true), (2, true), (3, false), (4, true)] {
        live.finish(at(second), &Pool { guard: Some(guard(is_in_charge)), ..pool() }, false);
    }
    assert!(live.ticks.is_empty());
    let hello = &read(&live, &mut Cursor::default())[0].1;
    assert_eq!(hello["events"].as_array().map(Vec::len), Some(2), "{hello}");
    assert_eq!(hello["events"][0][2], "guard");
}
