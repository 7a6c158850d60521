//! Look-ups that succeed, change, fail and hang, by a resolver of the test.
use std::collections::BTreeMap;
use std::sync::mpsc;

use super::*;

/// Much longer than anything here takes: only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The results of look-ups by host. A host without one hangs until it has one.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, LookedUp>>>);

type LookedUp = Result<Vec<IpAddr>, String>;

impl Names {
    fn set(&self, host: &str, result: Result<&[&str], &str>) {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an IP")).collect();
        let result = result.map(ips).map_err(str::to_owned);
        self.0.lock().expect("no panic").insert(host.to_owned(), result);
    }

    fn hang(&self, host: &str) {
        self.0.lock().expect("no panic").remove(host);
    }

    fn discovery(&self) -> Discovery {
        let names = self.clone();
        Discovery::new(Arc::new(move |host: &str| {
            let end = Instant::now() + DEADLINE;
            loop {
                if let Some(result) = names.0.lock().map_err(|_| "a panic")?.get(host) {
                    return result.clone();
                }
                if Instant::now() > end {
                    return Err("the test is over".to_owned());
                }
                thread::yield_now();
            }
        }))
    }
}

fn config(backends: &str) -> Config {
    let text = format!(r#"{{"discovery": {{"resolveMs": 100}}, "backends": [{backends}]}}"#);
    Config::from_json(&text).expect("valid")
}

const SVC: &str = r#"{"name": "svc", "url": "http://svc:8000", "expand": true}"#;

fn names(found: &Found) -> Vec<&str> {
    found.backends.iter().map(|backend| backend.name.as_str()).collect()
}

/// Follows a configuration. Returns the receiver of wake-ups.
fn follow(discovery: &Discovery, config: &Config, found: Found) -> mpsc::Receiver<()> {
    let (sender, wakes) = mpsc::channel();
    discovery.follow(config, found, move || {
        // Without a receiver the test has ended.
        let _ = sender.send(());
    });
    wakes
}

fn next(discovery: &Discovery, wakes: &mpsc::Receiver<()>) -> Found {
    wakes.recv_timeout(DEADLINE).expect("a change");
    discovery.take().expect("what was found")
}

/// The backends follow the addresses of their name. A failed look-up and a rotated order change
/// nothing.
#[test]
fn backends_follow_their_names() {
    let table = Names::default();
    table.set("svc", Ok(&["10.0.0.1", "10.0.0.2"]));
    let (discovery, config) = (table.discovery(), config(SVC));
    let first = discovery.look(&config, DEADLINE).expect("found");
    assert_eq!(names(&first), ["svc/10.0.0.1", "svc/10.0.0.2"]);
    let wakes = follow(&discovery, &config, first);
    table.set("svc", Ok(&["10.0.0.2", "10.0.0.1"]));
    table.set("svc", Err("try again"));
    table.set("svc", Ok(&["10.0.0.3", "10.0.0.2", "10.0.0.1"]));
    let second = next(&discovery, &wakes);
    assert_eq!(names(&second), ["svc/10.0.0.1", "svc/10.0.0.2", "svc/10.0.0.3"]);
    table.set("svc", Err("no such host"));
    let again = discovery.look(&config, DEADLINE).expect("the last ones");
    assert_eq!(again, second, "a failed look-up keeps the last result");
    table.set("svc", Ok(&["10.0.0.2"]));
    assert_eq!(names(&next(&discovery, &wakes)), ["svc/10.0.0.2"]);
}

/// A name that hangs delays neither startup nor other names. Its backends join once it resolves.
#[test]
fn a_hanging_name_holds_up_nothing() {
    let table = Names::default();
    table.set("good", Ok(&["10.0.0.1"]));
    let both =
        config(r#"{"name": "bad", "url": "http://bad"}, {"name": "good", "url": "http://good"}"#);
    let discovery = table.discovery();
    let good = config(r#"{"name": "good", "url": "http://good"}"#);
    discovery.look(&good, DEADLINE).expect("the good one");
    let found = discovery.look(&both, Duration::from_millis(50)).expect("one of two");
    assert_eq!(names(&found), ["good"]);
    let wakes = follow(&discovery, &both, found);
    table.set("good", Ok(&["10.0.0.2"]));
    let found = next(&discovery, &wakes);
    assert_eq!((names(&found), found.targets[0].addresses.len()), (vec!["good"], 1));
    table.set("bad", Ok(&["10.0.0.9"]));
    assert_eq!(names(&next(&discovery, &wakes)), ["bad", "good"]);
    table.hang("bad");
    table.set("good", Ok(&["10.0.0.3"]));
    let found = next(&discovery, &wakes);
    assert_eq!(names(&found), ["bad", "good"], "what hangs later is as it was");
}

/// Results for an earlier configuration are not used for a later one.
#[test]
fn an_earlier_configuration_finds_nothing() {
    let table = Names::default();
    table.set("svc", Ok(&["10.0.0.1"]));
    let (discovery, first) = (table.discovery(), config(SVC));
    let found = discovery.look(&first, DEADLINE).expect("found");
    let wakes = follow(&discovery, &first, found);
    table.set("svc", Ok(&["10.0.0.2"]));
    wakes.recv_timeout(DEADLINE).expect("a change");
    let second = config(r#"{"name": "other", "url": "http://10.9.9.9"}"#);
    let found = discovery.look(&second, DEADLINE).expect("an address");
    assert_eq!(names(&found), ["other"]);
    let later = follow(&discovery, &second, found);
    assert_eq!(discovery.take(), None);
    assert!(later.recv_timeout(Duration::from_millis(300)).is_err(), "its names are not followed");
}

/// Without names and without a file there is no thread.
#[test]
fn addresses_need_no_thread() {
    let discovery = Names::default().discovery();
    let config = Config::default();
    let found = discovery.look(&config, Duration::ZERO).expect("loopback");
    assert_eq!(names(&found), ["A", "B"]);
    assert_eq!(found.targets[0].addresses.len(), 2);
    let _ = follow(&discovery, &config, found);
    assert!(discovery.thread.lock().expect("no panic").is_none());
}
