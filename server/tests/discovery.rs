//! Backends that are found while the program runs: in a watched file, and by names.
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use process::{Folder, Program};

/// Starts a backend that responds with its letter. Returns its address.
fn backend(letter: char) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                while lines.by_ref().take_while(|line| !line.is_empty()).count() > 0 {
                    // The proxy has closed the connection if this fails.
                    let _ = write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{letter}");
                }
            });
        }
    });
    address
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Returns the letters of 20 responses.
fn letters(program: &Program) -> String {
    (0..20).map(|_| program.ask(GET).chars().next_back().expect("a body")).collect()
}

fn count(letters: &str, letter: char) -> usize {
    letters.chars().filter(|one| *one == letter).count()
}

/// Replaces a file in one step.
fn replace(folder: &Folder, text: &str) {
    fs::write(folder.file("new"), text).expect("a file");
    fs::rename(folder.file("new"), folder.file("found.json")).expect("one file system");
}

/// The backends of a watched file join and leave, in both forms, together with a configured one. A
/// bad or missing file, or a pipe in its place, changes nothing and is logged once.
#[test]
fn a_watched_file_is_followed() {
    let folder = Folder::new("discovery-file");
    let (a, b, c) = (backend('a'), backend('b'), backend('c'));
    let file = folder.path("found.json");
    let text = format!(
        r#"{{"backends": [{{"name": "A", "url": "http://{a}"}}], "discovery": {{"file": "{file}"}},
            "routing": {{"policy": "round_robin"}}}}"#
    );
    fs::write(folder.file("c.json"), text).expect("a file");
    let mut program = Program::start(&["--config", &folder.path("c.json")]);
    let missing = "found.json: cannot be read: no such file or directory: no backends from it yet";
    let told = program.first_lines().iter().filter(|line| line.ends_with(missing)).count();
    assert_eq!(told, 1, "{:?}", program.first_lines());
    assert_eq!(letters(&program), "a".repeat(20), "it starts without the file");
    replace(&folder, &format!(r#"[{{"targets": ["{b}"], "labels": {{"job": "web"}}}}]"#));
    let line = program.line_with("discovery: added");
    assert!(line.ends_with(&format!("discovery: added web/{b}")), "{line}");
    let all = letters(&program);
    assert!(count(&all, 'a') >= 8 && count(&all, 'b') >= 8, "{all}");
    replace(&folder, "[{");
    let line = program.line_with("found.json:1:2: ");
    assert!(line.ends_with("keeping the last backends from it"), "{line}");
    let all = letters(&program);
    assert!(count(&all, 'b') >= 8, "{all}");
    replace(&folder, &format!(r#"{{"backends": [{{"name": "C", "url": "http://{c}"}}]}}"#));
    let lines = program.lines_until("can be used again");
    assert!(lines.iter().all(|line| !line.contains("keeping")), "logged once: {lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("INFO ")), "{lines:?}");
    let line = program.line_with("discovery: added");
    assert!(line.ends_with(&format!("discovery: added C; removed web/{b}")), "{line}");
    let all = letters(&program);
    assert!(count(&all, 'b') == 0 && count(&all, 'c') >= 8, "{all}");
    program.signal("-HUP");
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
    fs::remove_file(folder.file("found.json")).expect("it was there");
    let line = program.line_with("cannot be read");
    assert!(line.ends_with("keeping the last backends from it"), "{line}");
    assert!(count(&letters(&program), 'c') >= 8);
    // A pipe without a writer does not stop the watch.
    folder.pipe("found.json");
    let line = program.line_with("found.json: cannot be read: is not a regular file");
    assert!(line.ends_with("keeping the last backends from it"), "{line}");
    replace(&folder, &format!(r#"{{"backends": [{{"name": "B", "url": "http://{b}"}}]}}"#));
    program.line_with("can be used again");
    let line = program.line_with("discovery: added");
    assert!(line.ends_with("discovery: added B; removed C"), "{line}");
    // The A of the configuration stays in use.
    replace(&folder, &format!(r#"[{{"name": "A", "url": "http://{c}"}}]"#));
    let lines = program.lines_until("discovery: removed B");
    let told = format!("not using A (discovery.file {file}): its name is taken");
    let count = lines.iter().filter(|line| line.contains("WARN ") && line.ends_with(&told)).count();
    assert_eq!(count, 1, "{lines:?}");
    assert_eq!(letters(&program), "a".repeat(20));
    program.signal("-HUP");
    let lines = program.lines_until("configuration: nothing changed");
    assert!(lines.iter().all(|line| !line.contains("not using")), "logged once: {lines:?}");
}

/// If a name does not resolve, the program does not end: it is not ready, logs this once, and
/// serves the other backends.
#[test]
fn an_unknown_name_is_left_out() {
    let folder = Folder::new("discovery-name");
    let text = |more: &str| {
        format!(
            r#"{{"backends": [{{"name": "N", "url": "http://nowhere.invalid", "expand": true}}{more}],
                "discovery": {{"resolveMs": 100}}}}"#
        )
    };
    fs::write(folder.file("c.json"), text("")).expect("a file");
    let mut program = Program::start(&["--config", &folder.path("c.json")]);
    let mut lines = program.first_lines().to_vec();
    assert!(program.ask(GET).starts_with("HTTP/1.1 503 "));
    let more = format!(r#", {{"name": "A", "url": "http://{}"}}"#, backend('a'));
    fs::write(folder.file("c.json"), text(&more)).expect("a file");
    // The reload looks the name up again before it applies the configuration.
    program.signal("-HUP");
    lines.extend(program.lines_until("configuration: "));
    assert!(lines.last().is_some_and(|line| line.ends_with("configuration: added A")), "{lines:?}");
    assert_eq!(letters(&program), "a".repeat(20));
    program.signal("-TERM");
    lines.extend(program.lines_until("stopped"));
    lines.retain(|line| line.contains("nowhere.invalid: "));
    assert!(lines.len() == 1 && lines[0].contains("WARN "), "logged once: {lines:?}");
    assert!(lines[0].contains("discovery: cannot resolve nowhere.invalid: "), "{lines:?}");
    assert!(lines[0].ends_with(": its backends are not used yet"), "{lines:?}");
    assert_eq!(program.exit_code(), Some(0));
}
