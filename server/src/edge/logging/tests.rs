use super::*;
use crate::folder::Folder;

/// Much longer than anything here takes: only a failing test waits this long.
const TIME: Duration = Duration::from_secs(30);

/// Logs one line through a queue.
fn log(queue: &LineQueue, level: Level, text: &str) {
    queue.log(&Record::builder().level(level).target("t").args(format_args!("{text}")).build());
}

/// A writer that passes each line to a function.
struct Out<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Out<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F> fmt::Debug for Out<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Out")
    }
}

impl<F: FnMut(&[u8]) -> io::Result<usize> + Send> Target for Out<F> {}

fn text(out: impl Target + 'static) -> Output {
    Output { format: LogFormat::Text, out: Box::new(out) }
}

fn levels(text: &str) -> Levels {
    Levels::parse(text).expect("valid levels")
}

/// The text of a written line.
fn text_of(bytes: &[u8]) -> String {
    let line = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (_, text) = line.split_once("] ").expect("time, level and module first");
    text.trim_end().to_owned()
}

/// Lines are written in order, without those below the level. The end waits until they are written.
#[test]
fn lines_are_written_in_order() {
    let (written, lines) = crossbeam_channel::unbounded();
    let write = move |bytes: &[u8]| {
        written.send(text_of(bytes)).expect("a reader");
        Ok(bytes.len())
    };
    let (queue, guard) = spawn(levels("info"), text(Out(write)), 8).expect("a thread");
    log(&queue, Level::Info, "one");
    log(&queue, Level::Debug, "hidden");
    log(&queue, Level::Error, "two\u{1b}[m");
    guard.finish_within(TIME);
    assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["one", "two\\u{1b}[m"]);
}

/// A line has its time in UTC to the millisecond, its level in five columns, and its module.
#[test]
fn lines_have_their_form() {
    let line = Line {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_007),
        level: Level::Warn,
        target: Cow::Borrowed("t"),
        text: "x".to_owned(),
    };
    assert_eq!(line.to_string(), "2000-02-29T00:00:00.007Z WARN  [t] x");
}

/// While the writer is blocked, lines beyond the queue are dropped at once; their count is reported
/// after the queued lines.
#[test]
fn lines_beyond_the_queue_are_counted() {
    let (written, lines) = crossbeam_channel::unbounded();
    let (gate, opened) = crossbeam_channel::bounded::<()>(0);
    let write = move |bytes: &[u8]| {
        written.send(text_of(bytes)).expect("a reader");
        // Held up until the gate is gone.
        let _ = opened.recv();
        Ok(bytes.len())
    };
    let (queue, guard) = spawn(levels("info"), text(Out(write)), 2).expect("a thread");
    let watch = guard.watch();
    log(&queue, Level::Info, "0");
    let first = lines.recv().expect("the first line, then the writer is held up");
    for text in ["1", "2", "3", "4", "5"] {
        log(&queue, Level::Info, text);
    }
    drop(gate);
    guard.finish_within(TIME);
    let rest: Vec<String> = lines.try_iter().collect();
    assert_eq!(first, "0");
    let told = "3 log lines dropped: stderr was not read fast enough";
    assert_eq!(rest, ["1", "2", told]);
    assert_eq!(watch.counts(), LogCounts { dropped: 3, failed_writes: 0, limited: 0 });
}

/// A line whose write fails is continued later at the byte where it stopped. Then the log reports
/// the failed writes.
#[test]
fn failed_writes_are_repeated() {
    let (written, lines) = crossbeam_channel::unbounded();
    let mut calls = 0;
    let mut line = Vec::new();
    let write = move |bytes: &[u8]| {
        calls += 1;
        match calls {
            1 => {
                line.extend_from_slice(&bytes[..10]);
                Ok(10)
            }
            2 => Err(ErrorKind::StorageFull.into()),
            3 => Err(ErrorKind::BrokenPipe.into()),
            _ => {
                line.extend_from_slice(bytes);
                written.send(text_of(&line)).expect("a reader");
                line.clear();
                Ok(bytes.len())
            }
        }
    };
    let (queue, guard) = spawn(levels("info"), text(Out(write)), 8).expect("a thread");
    let watch = guard.watch();
    log(&queue, Level::Info, "one");
    log(&queue, Level::Info, "two");
    let next = || lines.recv_timeout(TIME).expect("a line");
    let told = "log: written again after 2 failed writes: no storage space";
    assert_eq!([next(), next(), next()], ["one", told, "two"]);
    assert_eq!(watch.counts(), LogCounts { dropped: 0, failed_writes: 2, limited: 0 });
    guard.finish_within(TIME);
}

/// If the output never accepts any bytes, lines are lost, but neither logging nor the end of the
/// program waits for it.
#[test]
fn a_dead_place_is_harmless() {
    let write = |_: &[u8]| Err(ErrorKind::BrokenPipe.into());
    let (queue, guard) = spawn(levels("info"), text(Out(write)), 1).expect("a thread");
    let (watch, ended) = (guard.watch(), guard.ended.clone());
    for _ in 0..5 {
        log(&queue, Level::Info, "lost");
    }
    guard.finish_within(TIME);
    assert!(ended.wait(TIME), "the writer has ended");
    assert!(watch.counts().failed_writes > 0);
    assert!(watch.counts().dropped >= 5, "{:?}", watch.counts());
}

/// A JSON line has time, level, module and text. Quotes and invisible characters are escaped.
#[test]
fn json_lines_have_their_form() {
    let line = Line {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_007),
        level: Level::Warn,
        target: Cow::Borrowed("t"),
        text: "\"x\"\u{1b}[m\u{202e}ö".to_owned(),
    };
    let mut out = Vec::new();
    line.write_json(&mut out).expect("memory");
    let text = String::from_utf8(out).expect("UTF-8");
    assert_eq!(
        text,
        "{\"time\":\"2000-02-29T00:00:00.007Z\",\"level\":\"warn\",\"module\":\"t\",\
         \"text\":\"\\\"x\\\"\\u001b[m\\u202eö\"}\n"
    );
}

/// An existing file is appended to. After a rename and `reopen`, lines go to a new file. If that
/// cannot be opened, they go to the open one.
#[test]
fn a_renamed_file_is_let_go() {
    let folder = Folder::new("log");
    let (path, old) = (folder.file("log"), folder.file("log.1"));
    let name = path.to_str().expect("UTF-8").to_owned();
    let texts = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("a file");
        text.lines().map(|line| text_of(line.as_bytes())).collect::<Vec<_>>()
    };
    let open = || LogFile::open(&name).expect("a file");
    for one in ["one", "two"] {
        let (queue, guard) = spawn(levels("info"), text(open()), 8).expect("a thread");
        log(&queue, Level::Info, one);
        guard.finish_within(TIME);
    }
    std::fs::rename(&path, &old).expect("a rename");
    let (queue, guard) = spawn(levels("info"), text(open()), 8).expect("a thread");
    let planted = folder.file("log.2");
    std::fs::rename(&path, &planted).expect("a rename");
    guard.watch().reopen();
    log(&queue, Level::Info, "three");
    guard.finish_within(TIME);
    assert_eq!(texts(&old), ["one", "two"]);
    assert_eq!(texts(&planted), [""; 0]);
    assert_eq!(texts(&path), ["three"]);
    let (queue, guard) = spawn(levels("info"), text(open()), 8).expect("a thread");
    std::fs::rename(&path, &planted).expect("a rename");
    std::os::unix::fs::symlink(&old, &path).expect("a link");
    guard.watch().reopen();
    log(&queue, Level::Info, "four");
    guard.finish_within(TIME);
    let wrong = "log: cannot be opened again: is a symbolic link, which is not followed: keeping the open file";
    assert_eq!(texts(&planted), ["three", wrong, "four"]);
}

/// The log changes to another file even if its queue is full and its old file accepts no more
/// lines, or only one. No line is lost.
#[test]
fn a_full_queue_does_not_keep_the_log() {
    for fails in [false, true] {
        let (gate, opened) = crossbeam_channel::bounded::<()>(0);
        let (begun, begins) = crossbeam_channel::unbounded();
        let (moved, lines) = crossbeam_channel::unbounded();
        let old = move |bytes: &[u8]| {
            begun.send(text_of(bytes)).expect("a reader");
            // Held up until the gate is gone.
            let _ = opened.recv();
            if fails { Err(ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        };
        let new = move |bytes: &[u8]| {
            moved.send(text_of(bytes)).expect("a reader");
            Ok(bytes.len())
        };
        let (queue, guard) = spawn(levels("info"), text(Out(old)), 2).expect("a thread");
        log(&queue, Level::Info, "0");
        let first = begins.recv_timeout(TIME).expect("the writer is held up");
        assert_eq!(first, "0");
        log(&queue, Level::Info, "1");
        log(&queue, Level::Info, "2");
        guard.watch().set(Opened { levels: levels("info"), output: text(Out(new)) });
        drop(gate);
        let told = "log: written again after 1 failed writes: no storage space";
        let expected = if fails { &["0", told, "1", "2"][..] } else { &["1", "2"] };
        for line in expected {
            let next = lines.recv_timeout(TIME);
            assert_eq!(next.as_deref(), Ok(*line), "{fails}");
        }
        guard.finish_within(TIME);
        assert_eq!(lines.try_iter().count(), 0, "none is reported as dropped");
        assert_eq!(begins.try_iter().count(), 0, "nothing more went to the old file");
    }
}

/// With room in the queue, the lines before a change go to the old file.
#[test]
fn a_change_keeps_the_order() {
    let (written, lines) = crossbeam_channel::unbounded();
    let out = |name: &'static str| {
        let written = written.clone();
        text(Out(move |bytes: &[u8]| {
            written.send(format!("{name} {}", text_of(bytes))).expect("a reader");
            Ok(bytes.len())
        }))
    };
    let (queue, guard) = spawn(levels("info"), out("old"), 8).expect("a thread");
    log(&queue, Level::Info, "0");
    guard.watch().set(Opened { levels: levels("info"), output: out("new") });
    log(&queue, Level::Info, "1");
    guard.finish_within(TIME);
    assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["old 0", "new 1"]);
}
