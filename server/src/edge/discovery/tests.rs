//! Look-ups that succeed, change, fail and hang, with a resolver in the test.
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::folder::Folder;

/// Much longer than anything here takes: only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// The results of look-ups by host. A look-up of a host without a result waits until there is one.
#[derive(Clone, Default)]
struct Names {
    results: Arc<Mutex<BTreeMap<String, LookedUp>>>,
    /// The number of look-ups that have begun.
    count: Arc<AtomicUsize>,
}

type LookedUp = Result<Vec<IpAddr>, String>;

impl Names {
    fn set(&self, host: &str, result: Result<&[&str], &str>) {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an IP")).collect();
        let result = result.map(ips).map_err(str::to_owned);
        self.results.lock().expect("no panic").insert(host.to_owned(), result);
    }

    fn hang(&self, host: &str) {
        self.results.lock().expect("no panic").remove(host);
    }

    /// If all look-ups are for one host, waits until the result of the current look-up has been
    /// taken: the next one begins only after that.
    fn wait_taken(&self) {
        let (begin, end) = (self.count.load(Ordering::SeqCst), Instant::now() + DEADLINE);
        while self.count.load(Ordering::SeqCst) < begin + 3 {
            assert!(Instant::now() < end, "no look-ups");
            thread::yield_now();
        }
    }

    fn discovery(&self) -> Discovery {
        let names = self.clone();
        Discovery::new(Arc::new(move |host: &str| {
            names.count.fetch_add(1, Ordering::SeqCst);
            let end = Instant::now() + DEADLINE;
            loop {
                if let Some(result) = names.results.lock().map_err(|_| "a panic")?.get(host) {
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

/// A configuration that watches a file of a folder.
fn watching(folder: &Folder, file: &str, backends: &str) -> Config {
    let file = folder.path(file);
    let rules = format!(r#"{{"resolveMs": 100, "file": {file:?}}}"#);
    Config::from_json(&format!(r#"{{"discovery": {rules}, "backends": [{backends}]}}"#))
        .expect("valid")
}

/// Writes a file with these backends in one step.
fn write(folder: &Folder, file: &str, names: &[&str]) {
    let one = |name: &&str| format!(r#"{{"name": "{name}", "url": "http://10.0.0.9"}}"#);
    let all: Vec<String> = names.iter().map(one).collect();
    fs::write(folder.file("new"), format!("[{}]", all.join(","))).expect("a file");
    fs::rename(folder.file("new"), folder.file(file)).expect("one file system");
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
    for same in [Ok(&["10.0.0.2", "10.0.0.1"][..]), Err("try again")] {
        table.set("svc", same);
        table.wait_taken();
        assert_eq!((discovery.take(), wakes.try_recv().is_ok()), (None, false), "{same:?}");
    }
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

/// A reload that names another file keeps the backends of the file in use until the new one has
/// been read. This holds during and after the reload.
#[test]
fn another_file_takes_over_once_it_is_read() {
    let folder = Folder::new("discovery-other");
    let table = Names::default();
    table.set("svc", Ok(&["10.0.0.1"]));
    let discovery = table.discovery();
    write(&folder, "first", &["old"]);
    let first = watching(&folder, "first", SVC);
    let found = discovery.look(&first, DEADLINE).expect("found");
    assert_eq!(names(&found), ["svc/10.0.0.1", "old"]);
    let wakes = follow(&discovery, &first, found);
    // The second file does not exist yet, and its configuration has a name whose look-up hangs.
    let bad = r#"{"name": "bad", "url": "http://bad"}"#;
    let second = watching(&folder, "second", &format!("{SVC}, {bad}"));
    let looking = {
        let (discovery, second) = (discovery.clone(), second.clone());
        thread::spawn(move || discovery.look(&second, DEADLINE))
    };
    table.set("svc", Ok(&["10.0.0.2"]));
    assert_eq!(names(&next(&discovery, &wakes)), ["svc/10.0.0.2", "old"], "while it looks");
    table.set("bad", Err("no such host"));
    let found = looking.join().expect("no panic").expect("found");
    assert_eq!(names(&found), ["svc/10.0.0.2", "old"], "the second file was not read");
    let wakes = follow(&discovery, &second, found);
    table.set("svc", Ok(&["10.0.0.3"]));
    assert_eq!(names(&next(&discovery, &wakes)), ["svc/10.0.0.3", "old"], "it still is not");
    write(&folder, "second", &["new"]);
    assert_eq!(names(&next(&discovery, &wakes)), ["svc/10.0.0.3", "new"]);
}

/// If a configuration is refused after its backends were looked up, the file in use is still
/// watched.
#[test]
fn a_refused_reload_leaves_the_file_in_use() {
    let folder = Folder::new("discovery-refused");
    let discovery = Names::default().discovery();
    write(&folder, "first", &["a"]);
    write(&folder, "second", &["x"]);
    let first = watching(&folder, "first", "");
    let found = discovery.look(&first, DEADLINE).expect("found");
    let wakes = follow(&discovery, &first, found);
    let second = watching(&folder, "second", "");
    assert_eq!(names(&discovery.look(&second, DEADLINE).expect("found")), ["x"]);
    write(&folder, "first", &["a", "b"]);
    assert_eq!(names(&next(&discovery, &wakes)), ["a", "b"]);
}

/// If the thread does not respond, the program starts with only the backends that need no look-up,
/// and a reload is refused, so that it does not remove the others.
#[test]
fn a_reload_without_a_result_is_refused() {
    let discovery = Names::default().discovery();
    // Receives the messages but never replies.
    let (sender, _messages) = crossbeam_channel::unbounded();
    *discovery.thread.lock().expect("no panic") = Some(sender);
    let config = config(&format!(r#"{SVC}, {{"name": "ip", "url": "http://10.9.9.9"}}"#));
    let found = discovery.look(&config, Duration::ZERO).expect("a start");
    assert_eq!(names(&found), ["ip"]);
    let _ = follow(&discovery, &config, found);
    assert_eq!(discovery.look(&config, Duration::ZERO), Err(LATE.to_owned()));
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
