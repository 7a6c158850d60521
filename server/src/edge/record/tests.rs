use std::fs;
use std::path::Path;
use std::thread;

use intelliproxy_core::journal::{Entry, Reader, Record, RecordedRouter};
use intelliproxy_core::{RouterConfig, Rules};

use super::*;
use crate::folder::Folder;

fn rules(file: &Path, bytes_max: u64, files: u32) -> RecordingRules {
    RecordingRules { file: Some(file.to_string_lossy().into_owned()), bytes_max, files }
}

fn router() -> RecordedRouter {
    let backends = vec!["A".to_owned(), "B".to_owned()];
    let config = RouterConfig { backends, rules: Rules::default() };
    RecordedRouter::new(config, 1, Instant::ZERO).expect("a valid configuration")
}

/// Waits until all is written, for longer than the program does at its end.
fn finish(guard: RecordGuard) {
    assert!(guard.ended.wait(Duration::from_secs(30)), "it is written");
}

fn read(file: &Path) -> (Header, Vec<Entry>) {
    let bytes = fs::read(file).expect("a file");
    let (header, reader) = Reader::new(&bytes).expect("a header");
    (header, reader.collect::<Result<_, _>>().expect("a whole recording"))
}

/// Everything is in the file once the router and the guard are dropped. An older recording is
/// kept.
#[test]
fn all_is_written_at_the_end() {
    let folder = Folder::new("end");
    let file = folder.file("journal");
    fs::write(&file, "older").expect("a file");
    let Opened { recorder, guard } =
        open(&rules(&file, 0, 4), None).expect("a file").expect("a recorder");
    let mut router = router();
    router.record_into(Box::new(recorder), 5);
    for number in 0..20_000 {
        let lease = router.route(Instant::from_millis(number), &[]).expect("a backend");
        let _ = lease;
    }
    let counts = router.recording().expect("a recording");
    assert_eq!((counts.records, counts.lost), (20_000, 0));
    drop(router);
    finish(guard);
    let (header, entries) = read(&file);
    assert_eq!((header.part, header.wall_clock_nanos), (0, 5));
    assert_eq!(entries.len(), 20_001);
    assert_eq!(fs::read(folder.file("journal.old")).expect("a file"), b"older");
}

/// In a ring each file has its number and its end mark, and the oldest files are overwritten.
#[test]
fn rings_are_bounded() {
    let folder = Folder::new("ring");
    let file = folder.file("journal");
    let Opened { recorder, guard } =
        open(&rules(&file, 40_000, 3), None).expect("a file").expect("a recorder");
    let mut router = router();
    router.record_into(Box::new(recorder), 5);
    for number in 0..60_000 {
        // These are fewer than `BLOCKS_MAX` blocks, so none is lost on a slow disk.
        let _ = router.route(Instant::from_millis(number), &[]).expect("a backend");
    }
    drop(router);
    finish(guard);
    let mut parts = Vec::new();
    for number in 0..3 {
        let path = folder.file(&format!("journal.{number}"));
        assert!(fs::metadata(&path).expect("a file").len() < 42_000);
        let (header, entries) = read(&path);
        parts.push(header.part);
        let is_end = |is_continued| Record::Ended { is_continued };
        let last = entries.last().expect("an end").record.clone();
        assert!(last == is_end(true) || last == is_end(false));
    }
    assert!(!folder.file("journal.3").exists());
    let (first, last) = (parts.iter().min().copied(), parts.iter().max().copied());
    assert_eq!(last.zip(first).map(|(last, first)| last - first), Some(2), "{parts:?}");
    assert!(last > Some(3));
}

/// If the queue is full, blocks are lost at once, and the file contains the number of lost records.
#[test]
fn a_full_queue_loses_and_tells() {
    let folder = Folder::new("full");
    let file = folder.file("journal");
    let mut files = Files::create(file.clone(), 0, 1).expect("a file");
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let Worker { queue: messages, ended } = Worker::start("record", 2 + RESERVED, move |queued| {
        // Blocked until everything was recorded.
        let _ = released.recv();
        for message in queued {
            match message {
                Message::Begin(header) => files.begin(*header).expect("room"),
                Message::Block { payload, at, .. } => files.write(&payload, at, 0).expect("room"),
            }
        }
    })
    .expect("a thread");
    let (_spare, spares) = crossbeam_channel::bounded(2);
    let unwritten = Arc::new(AtomicU64::new(0));
    let recorder = Recorder { messages, blocks_max: 2, spares, unwritten, is_losing: false };
    let mut router = router();
    router.record_into(Box::new(recorder), 5);
    for second in 0..40 {
        let _ = router.route(Instant::from_millis(2000 * second), &[]).expect("a backend");
    }
    // The queue has two places, for the header and the first block. Each second of the recording
    // begins a new block.
    let counts = router.recording().expect("a recording");
    assert_eq!((counts.records, counts.lost), (40, 38));
    drop(release);
    drop(router);
    assert!(ended.wait(Duration::from_secs(30)), "the file is written");
    let (_, entries) = read(&file);
    let lost = entries.iter().find_map(|entry| match entry.record {
        Record::Lost { records } => Some(records),
        _ => None,
    });
    assert_eq!(lost, Some(38));
}

/// A recording that never begins leaves the names of files as they were. A recording takes over the
/// names that it shares with the previous one, which writes its remaining blocks into its current
/// file.
#[test]
fn names_pass_to_the_next_recording() {
    let folder = Folder::new("names");
    let file = folder.file("journal");
    let rules = rules(&file, 40_000, 2);
    let Opened { recorder, guard } = open(&rules, None).expect("a file").expect("a recorder");
    let mut first = router();
    first.record_into(Box::new(recorder), 1);
    let _ = first.route(Instant::ZERO, &[]).expect("a backend");
    drop(open(&rules, Some(guard.names())).expect("a file").map(|opened| opened.recorder));
    let is_free = || !*guard.names().lock() && !folder.file("journal.0.old").exists();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !is_free() {
        assert!(std::time::Instant::now() < deadline, "the older file has its name again");
        thread::yield_now();
    }
    let next = open(&rules, Some(guard.names())).expect("a file").expect("a recorder");
    let mut second = router();
    second.record_into(Box::new(next.recorder), 2);
    // Enough for several files, but the first recording must not begin another one.
    for number in 0..40_000 {
        let _ = first.route(Instant::from_millis(number), &[]).expect("a backend");
    }
    drop(first);
    finish(guard);
    drop(second);
    finish(next.guard);
    assert_eq!(read(&folder.file("journal.0")).0.wall_clock_nanos, 2);
    let (header, entries) = read(&folder.file("journal.0.old"));
    assert_eq!((header.wall_clock_nanos, header.part), (1, 0));
    let last = entries.last().map(|entry| &entry.record);
    assert_eq!(last, Some(&Record::Ended { is_continued: false }));
    assert!(!folder.file("journal.1").exists());
}

/// A path at which no file can be created is reported in one line before anything is served.
#[test]
fn impossible_files_are_told() {
    let error = open(&rules(Path::new("/nonexistent/journal"), 0, 4), None).expect_err("no folder");
    assert_eq!(error, "cannot record into /nonexistent/journal: no such file or directory");
    let none = RecordingRules::default();
    assert!(open(&none, None).expect("nothing to do").is_none());
}

/// A name that belongs to a link, a pipe or a folder is refused at once. The link's target does
/// not change, and the pipe is not opened. Later files of a ring are checked for links, too.
#[test]
fn planted_names_are_refused() {
    let folder = Folder::new("planted");
    let (victim, link) = (folder.file("victim"), folder.file("link"));
    fs::write(&victim, "precious").expect("a file");
    std::os::unix::fs::symlink(&victim, &link).expect("a link");
    std::os::unix::fs::symlink(folder.file("nowhere"), folder.file("dangling")).expect("a link");
    let pipe = folder.pipe("pipe");
    let linked = "is a symbolic link, which is not followed";
    for (path, wrong) in [
        (&link, linked),
        (&folder.file("dangling"), linked),
        (&pipe, "is not a regular file"),
        (&folder.root().to_owned(), "is not a regular file"),
    ] {
        let error = open(&rules(path, 0, 4), None).expect_err("not a place for a file");
        assert_eq!(error, format!("cannot record into {}: {wrong}", path.display()));
    }
    let file = folder.file("ring");
    std::os::unix::fs::symlink(&victim, folder.file("ring.1")).expect("a link");
    let mut files = Files::create(file, 10, 2).expect("a file");
    let header = router_header();
    files.begin(header).expect("room");
    let error = files.write(b"block", Instant::ZERO, 1).expect_err("a link");
    assert_eq!(error.to_string(), linked);
    fs::remove_file(folder.file("ring.1")).expect("it was there");
    files.write(b"block", Instant::ZERO, 1).expect("a free name");
    files.write(b"block", Instant::ZERO, 1).expect("the first file again");
    assert_eq!(fs::read(&victim).expect("a file"), b"precious");
}

/// The log has one line when writing fails, and one with the losses when it succeeds again.
#[test]
fn failures_are_told_twice() {
    let mut failure = Failure::default();
    let path = Path::new("r");
    let full = || Err(io::ErrorKind::StorageFull.into());
    assert_eq!(failure.note(path, &Ok(()), 3), None);
    let (_, line) = failure.note(path, &full(), 3).expect("a line");
    let expected = "recording r: no storage space: dropping records until writing succeeds";
    assert_eq!(line, expected);
    assert_eq!(failure.note(path, &full(), 4), None);
    let (_, line) = failure.note(path, &Ok(()), 5).expect("a line");
    assert_eq!(line, "recording r: written again, 7 records lost");
    assert_eq!(failure.note(path, &Ok(()), 5), None);
}

fn router_header() -> Header {
    let config = RouterConfig { backends: vec!["A".to_owned()], rules: Rules::default() };
    Header { config, seed: 1, started: Instant::ZERO, wall_clock_nanos: 0, part: 0 }
}
