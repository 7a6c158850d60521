use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::*;
use crate::access::{Access, Ending};
use crate::config::{BackendTarget, Config};
use crate::folder::Folder;

const TIME: Duration = Duration::from_secs(30);

fn rules(file: Option<&str>) -> AccessLogRules {
    AccessLogRules { file: file.map(str::to_owned), ..AccessLogRules::default() }
}

/// A block with a line for each of these targets.
fn block(targets: impl IntoIterator<Item = String>) -> Message {
    let config = Config { access_log: rules(Some("f")), ..Config::default() };
    let mut access = Access::new(&config, 1);
    let now = Instant::from_millis(5);
    for target in targets {
        let mut visit = access.begin(now);
        visit.take_fragment(now, format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes(), b"");
        visit.end(Ending::Complete);
        visit.finish(now, SocketAddr::from(([127, 0, 0, 1], 7)));
        access.end(visit);
    }
    let records = access.take(Records::default());
    Message::Block { records, now, time_of_day: SystemTime::UNIX_EPOCH }
}

fn target_of(line: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
    json["target"].as_str().expect("a target").to_owned()
}

fn targets_in(path: &PathBuf) -> Vec<String> {
    fs::read_to_string(path).expect("a file of UTF-8").lines().map(target_of).collect()
}

fn spawn(sink: Sink, blocks_max: usize) -> AccessLog {
    AccessLog::spawn(AccessLogFormat::Json, sink, blocks_max, &Arc::default()).expect("a thread")
}

/// Closes the queue of a log and waits until everything is written. Returns whether its thread
/// ended.
fn end(log: AccessLog) -> bool {
    let AccessLog { messages, patience, ended, .. } = log;
    drop(messages);
    let is_over = ended.wait(TIME);
    drop(patience);
    is_over
}

/// Lines before a rename are in the renamed file, lines after the signal in a new one. No line is
/// lost, and an existing file is appended to.
#[test]
fn a_renamed_file_is_let_go() {
    let folder = Folder::new("access-reopen");
    let (path, old) = (folder.file("log"), folder.file("log.1"));
    let name = path.to_str().expect("UTF-8");
    for run in ["/a", "/b"] {
        let log = spawn(Sink::open(name).expect("a file"), 4);
        log.messages.offer(block([run.to_owned()])).expect("room");
        assert!(end(log));
    }
    let log = spawn(Sink::open(name).expect("a file"), 4);
    log.messages.offer(block(["/c".to_owned()])).expect("room");
    // The block has been written when its memory is returned.
    let _ = log.spares.recv_timeout(TIME).expect("it is written");
    fs::rename(&path, &old).expect("a rename");
    log.reopen();
    log.messages.offer(block(["/d".to_owned()])).expect("room");
    assert!(end(log));
    assert_eq!(targets_in(&old), ["/a", "/b", "/c"]);
    assert_eq!(targets_in(&path), ["/d"]);
}

/// If the file cannot be opened again because a link was planted in its place, the open file is
/// kept and no line is lost.
#[test]
fn a_planted_link_is_not_followed() {
    let folder = Folder::new("access-link");
    let (path, old) = (folder.file("log"), folder.file("log.1"));
    let name = path.to_str().expect("UTF-8");
    let log = spawn(Sink::open(name).expect("a file"), 4);
    fs::rename(&path, &old).expect("a rename");
    std::os::unix::fs::symlink(folder.file("target"), &path).expect("a link");
    let refused = Opened::new(&rules(Some(name))).expect_err("a link");
    assert!(refused.ends_with("/log: is a symbolic link, which is not followed"), "{refused}");
    log.reopen();
    log.messages.offer(block(["/a".to_owned()])).expect("room");
    assert!(end(log));
    assert_eq!(targets_in(&old), ["/a"]);
    assert!(!folder.file("target").exists());
    let refused = Opened::new(&rules(folder.root().to_str())).expect_err("a folder");
    assert!(refused.ends_with(": is not a regular file"), "{refused}");
}

/// On a full disk, writes fail and are counted. After the operator has moved the file to another
/// disk and sent SIGUSR1, all lines are complete.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_delays_lines() {
    let folder = Folder::new("access-full");
    let path = folder.file("log");
    let file = File::options().write(true).open("/dev/full").expect("the full device");
    let sink = Sink::of(file, path.to_str().expect("UTF-8"));
    let log = spawn(sink, 4);
    log.messages.offer(block((0..3).map(|number| format!("/{number}")))).expect("room");
    let end_of_wait = std::time::Instant::now() + TIME;
    while log.state.totals.counts().failed_writes < 2 {
        assert!(std::time::Instant::now() < end_of_wait, "failed writes are repeated");
        std::thread::yield_now();
    }
    log.reopen();
    log.messages.offer(block(["/3".to_owned()])).expect("room");
    assert!(end(log));
    assert_eq!(targets_in(&path), ["/0", "/1", "/2", "/3"]);
}

/// While a full disk fails every write, the end of the program is not delayed. All lines are
/// counted as lost.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_does_not_delay_the_end() {
    let file = File::options().write(true).open("/dev/full").expect("the full device");
    let log = spawn(Sink::of(file, "/no/such/folder/log"), 4);
    log.messages.offer(block(["/a".to_owned(), "/b".to_owned()])).expect("room");
    log.reopen();
    log.messages.offer(block(["/c".to_owned()])).expect("room");
    let AccessLog { messages, patience, ended, state, .. } = log;
    drop(patience);
    drop(messages);
    assert!(ended.wait(TIME));
    assert_eq!(state.dropped(), 3);
    assert!(!state.has_news(), "the writer has reported them");
}

/// A pipe that is not read blocks the writer. Blocks beyond the queue are dropped and their lines
/// counted. When the pipe is read again, all other lines are complete.
#[test]
fn a_slow_reader_costs_lines_only() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut log = spawn(Sink::of(File::from(OwnedFd::from(writer)), "a pipe"), 2);
    let mut proxy = logging_proxy();
    let mut now = Instant::from_millis(1);
    let mut sent = 0;
    // A pipe holds 64 KiB.
    while log.state.totals.counts().dropped == 0 {
        assert!(sent < 100_000, "the queue is bounded");
        now += FLUSH_EVERY;
        for _ in 0..100 {
            bad_request(&mut proxy, now);
            sent += 1;
        }
        log.handle_turn(now, &mut proxy);
        log.handle_turn(now + FLUSH_EVERY, &mut proxy);
    }
    let dropped = log.state.totals.counts().dropped;
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines.fold(0, |count, line| {
            target_of(&line.expect("UTF-8"));
            count + 1
        })
    });
    assert!(end(log));
    assert_eq!(lines.join().expect("it read all"), sent - dropped);
}

/// One log replaces another: earlier lines are in the old file, later ones in the new one. Without
/// a file there is no log.
#[test]
fn a_log_is_replaced() {
    let folder = Folder::new("access-replace");
    let paths = [folder.file("one"), folder.file("two")];
    let mut proxy = logging_proxy();
    let now = Instant::from_millis(1);
    let (mut slot, totals) = (None, Arc::default());
    let mut ends = Vec::new();
    for path in &paths {
        let opened = Opened::new(&rules(path.to_str())).expect("a file");
        AccessLog::replace(&mut slot, opened, &totals, now, &mut proxy).expect("a thread");
        ends.push(slot.as_ref().expect("a log").ended.clone());
        for _ in 0..3 {
            bad_request(&mut proxy, now);
        }
    }
    let none = Opened::new(&rules(None)).expect("nothing to open");
    AccessLog::replace(&mut slot, none, &totals, now, &mut proxy).expect("nothing to start");
    assert!(slot.is_none());
    assert!(ends.iter().all(|ended| ended.wait(TIME)), "the old writers end by themselves");
    assert_eq!(paths.map(|path| targets_in(&path).len()), [3, 3]);
}

fn logging_proxy() -> Proxy {
    let config = Config { access_log: rules(Some("f")), ..Config::default() };
    let target = BackendTarget {
        name: "A".to_owned(),
        url: "http://a".to_owned(),
        authority: "a".to_owned(),
        tls: None,
        addresses: Vec::new(),
    };
    let mut config = config;
    config.backends.truncate(1);
    Proxy::new(config, vec![target], 1, Instant::ZERO).expect("a valid configuration")
}

/// Lets a client send a request without Host and leave after its response.
fn bad_request(proxy: &mut Proxy, now: Instant) {
    let request = b"GET /long-enough-to-fill-a-pipe-soon HTTP/1.1\r\n\r\n";
    let client = proxy.handle_accept(now, SocketAddr::from(([127, 0, 0, 1], 9)));
    proxy.read_space(client)[..request.len()].copy_from_slice(request);
    proxy.handle_read(now, client, request.len());
    let count = proxy.write_ready(client).len();
    assert!(count > 0, "400");
    proxy.handle_written(now, client, count);
    proxy.handle_eof(now, client);
    while proxy.poll_action().is_some() {}
    while proxy.poll_dirty().is_some() {}
}
