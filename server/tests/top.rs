//! `intelliproxy top` and `intelliproxy stats` as processes: in a terminal, into a pipe, and with a
//! server that is not a proxy.
mod process;
mod terminal;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use serde_json::Value;

use process::{Folder, Program, empty_backend, free_port, output};
use terminal::{Ended, Terminal, strip};

/// Starts a proxy with two backends and admin pages. Returns the proxy and the URL of the pages.
fn start_proxy(flags: &[&str]) -> (Program, String) {
    let [a, b] = ["A", "B"].map(|name| format!("--backend={name}={}", empty_backend()));
    let own = ["--admin", "127.0.0.1:0", &a, &b];
    let mut proxy = Program::start(&[&own[..], flags].concat());
    let line = proxy.line_with("admin pages on http://");
    let url = line.split("admin pages on ").nth(1).expect("a URL").to_owned();
    (proxy, url)
}

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_intelliproxy"));
    command.arg("top").args(arguments).env("TERM", "xterm").env_remove("NO_COLOR");
    command
}

/// A server that responds to each request with the same body. It ends when the returned sender is
/// dropped, and reports its port.
fn serve(port: u16, body: &str) -> (u16, Sender<()>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (stop, stopped): (Sender<()>, Receiver<()>) = channel();
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                return;
            }
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            drop(stream.get_mut().write_all(response.as_bytes()));
        }
    });
    (port, stop)
}

/// `stats` prints one table from the admin pages, and the same from the control socket. Without a
/// proxy it prints one line and exits with 1.
#[test]
fn stats_is_one_table() {
    let folder = Folder::new("stats");
    let config = folder.path("proxy.json");
    let socket = folder.path("control.sock");
    let rules = format!(r#"{{"admin": {{"socket": {socket:?}}}}}"#);
    std::fs::write(&config, rules).expect("a file");
    let (proxy, url) = start_proxy(&["--config", &config]);
    let response = proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 204"), "{response}");
    for source in [&[&*url][..], &["--socket", &socket]] {
        let output = output(&[&["stats"][..], source].concat());
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("BACKEND  STATE"), "{text}");
        assert!(lines[1].starts_with("A ") && lines[2].starts_with("B "), "{text}");
        assert!(text.contains("\n1 requests, p50 ") && text.contains("\npolicy score"), "{text}");
        assert!(lines[1..3].iter().any(|line| line.contains("100.0%")), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    drop(proxy);
    let output = output(&["stats", &url]);
    assert_eq!(output.status.code(), Some(1));
    let wrong = String::from_utf8(output.stderr).expect("text");
    let address = url.trim_start_matches("http://");
    assert_eq!(wrong, format!("intelliproxy: {address}: connection refused\n"));
}

/// Over the control socket `top` shows the times of all backends, too, as the proxy measured them.
#[test]
fn the_socket_has_the_same_times() {
    let folder = Folder::new("times");
    let (config, socket) = (folder.path("proxy.json"), folder.path("control.sock"));
    std::fs::write(&config, format!(r#"{{"admin": {{"socket": {socket:?}}}}}"#)).expect("a file");
    let backend = format!("--backend=A={}", empty_backend());
    let proxy = Program::start(&["--config", &config, &backend]);
    let mut terminal = Terminal::start(top(&["--socket", &socket, "--interval", "0.1"]), (80, 24));
    let is_measured = |line: &String| line.contains("  p50 ") && !line.contains("  p50 -");
    // They are measured once a second.
    while !terminal.next_frame().iter().any(is_measured) {
        proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    let totals = output(&["ctl", "--socket", &socket, "totals"]);
    let totals: Value = serde_json::from_slice(&totals.stdout).expect("JSON");
    let times = totals["times"].as_str().expect("times");
    assert!(times.starts_with("p50Ms=") && times.contains(", p99Ms="), "{totals}");
    terminal.press("q");
    assert_eq!(terminal.end(), Ended::CLEAN);
}

/// In a terminal the table is redrawn. Keys sort and select, the window can be resized, and q
/// restores the terminal.
#[test]
fn top_is_redrawn_in_a_terminal() {
    let (proxy, url) = start_proxy(&[]);
    proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut terminal = Terminal::start(top(&[&url, "--interval", "0.1"]), (80, 24));
    terminal.wait_for("\x1b[?1049h");
    terminal.wait_for("2 of 2 usable  policy score");
    // One of the two got the request.
    for name in ["A", "B"] {
        terminal.press("j");
        let heading = format!("{name}  http://");
        terminal.frame_with(&format!("decisions about {name}"), |frame| {
            frame.iter().any(|line| line.starts_with(&heading))
                && frame.iter().any(|line| line.contains(" decisions"))
        });
    }
    assert!(terminal.written.contains("first choice: "), "{:?}", terminal.written);
    terminal.press("\x1b");
    terminal.press("n");
    terminal.wait_for("  by name");
    terminal.press("n");
    terminal.wait_for("  by name, reversed");
    let frame = terminal.frame_with("B before A", |frame| {
        let is_row =
            |line: &str, name: &str| line.get(3..).is_some_and(|row| row.starts_with(name));
        let row = |name: &str| frame.iter().position(|line| is_row(line, name));
        row("B ").is_some() && row("B ") < row("A ")
    });
    assert_eq!(frame.len(), 24, "{frame:#?}");
    terminal.resize((40, 8));
    let frame = terminal.frame_with("8 lines", |frame| frame.len() == 8);
    assert!(frame.iter().all(|line| line.chars().count() <= 40), "{frame:#?}");
    terminal.press("q");
    assert_eq!(terminal.end(), Ended::CLEAN, "{:?}", terminal.written);
}

/// The terminal is also restored on signals that end the program, with exit code 0.
#[test]
fn signals_restore_the_terminal() {
    let (_proxy, url) = start_proxy(&[]);
    for signal in ["-INT", "-TERM", "-HUP", "-USR1", "-USR2", "-ALRM"] {
        let mut terminal = Terminal::start(top(&[&url, "--interval", "0.1"]), (80, 24));
        terminal.wait_for("2 of 2 usable");
        terminal.signal(signal);
        assert_eq!(terminal.end(), Ended::CLEAN, "{signal}: {:?}", terminal.written);
    }
}

/// While the proxy is gone, `top` keeps its last figures, and it continues when the proxy is back.
#[test]
fn a_lost_proxy_comes_back() {
    let body = r#"[{"name": "A", "health": "up", "standing": "in"}]"#;
    let (port, stop) = serve(free_port(), body);
    let url = format!("http://127.0.0.1:{port}");
    let mut terminal = Terminal::start(top(&[&url, "--interval", "0.1"]), (80, 24));
    terminal.wait_for("1 of 1 usable");
    drop(stop);
    // The next connection, of this test or of the program, ends the listener.
    drop(TcpStream::connect(("127.0.0.1", port)));
    terminal.wait_for("no proxy for ");
    terminal.wait_for("connection refused");
    let is_kept = |frame: &[String]| {
        frame.iter().any(|line| line.contains("connection refused"))
            && frame.iter().any(|line| line.starts_with("   A "))
    };
    terminal.frame_with("the last figures", is_kept);
    let (_, _stop) = serve(port, &body.replace("\"A\"", "\"again\""));
    terminal.wait_for("again ");
    terminal.frame_with("no error", |frame| frame.get(2).is_some_and(String::is_empty));
    terminal.press("q");
    assert_eq!(terminal.end(), Ended::CLEAN);
}

/// Whatever a server sends, the terminal gets only the program's own control sequences. With
/// NO_COLOR it gets no colours, and with TERM=dumb no control sequences.
#[test]
fn foreign_text_does_not_reach_the_terminal() {
    let name = r#"\u001b]0;title\u0007\u001b[2J\u009b31m\r\nx\u202e漢字"#;
    let body = format!(
        r#"[{{"name": "{name}", "url": "http://\u001b[5m", "health": "down", "standing": {{"\u001b[1m": "\u001b[1m"}},
            "policy": {{"kind": "\u001b[41m", "\u001b[42m": 1}}, "scoreParts": {{"\u001b[43m": 1e308}}}}]"#
    );
    let (port, _stop) = serve(free_port(), &body);
    let url = format!("http://127.0.0.1:{port}");
    for (variable, value) in [("COLUMNS", "80"), ("NO_COLOR", "1")] {
        let mut command = top(&[&url, "--interval", "0.1"]);
        command.env(variable, value);
        let mut terminal = Terminal::start(command, (200, 40));
        terminal.wait_for("\\u{1b}]0;title");
        terminal.press("j");
        terminal.wait_for("\\u{1b}[5m");
        terminal.wait_for("\x1b[H");
        terminal.press("q");
        assert_eq!(terminal.end(), Ended::CLEAN);
        let (plain, sequences) = strip(&terminal.written);
        let plain = plain.replace("\r\n", "");
        assert!(!plain.contains(char::is_control), "{plain:?}");
        let own = ["H", "2K", "J", "?1049h", "?1049l", "?25h", "?25l", "?7h", "?7l"];
        let colours: Vec<&String> =
            sequences.iter().filter(|sequence| !own.contains(&sequence.as_str())).collect();
        let known = ["0m", "1m", "2m", "7m", "31m", "32m", "33m", "36m"];
        let is_colour = |text: &&String| known.contains(&text.as_str());
        assert!(colours.iter().all(is_colour), "{colours:?}");
        assert_eq!(colours.is_empty(), variable == "NO_COLOR", "{colours:?}");
    }
    let mut command = top(&[&url, "--samples", "1"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command, (80, 24));
    terminal.wait_for("\\u{1b}]0;title");
    assert_eq!(terminal.end().code, Some(0));
    assert!(!terminal.written.contains('\x1b'), "{:?}", terminal.written);
}

/// Into a pipe `top` writes a line per backend and reading, and ends after the requested number of
/// readings.
#[test]
fn lines_go_into_a_pipe() {
    let (_proxy, url) = start_proxy(&[]);
    let command = &mut top(&[&url, "--interval", "0.1", "--samples", "3"]);
    let output = command.stdin(Stdio::null()).output().expect("a process");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("time  ") && lines[0].contains("REQ/S"), "{text}");
    assert_eq!(lines.len(), 7, "{text}");
    assert!(lines[1..].iter().all(|line| line.contains("Z  ")), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    let command = &mut top(&["http://127.0.0.1:1", "--samples", "1"]);
    let output = command.stdin(Stdio::null()).output().expect("a process");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no proxy: 127.0.0.1:1: "));
}
