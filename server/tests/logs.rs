//! The program's own log as a file: its form, its levels, rotation and reloads.
mod process;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use process::{DEADLINE, program};
use serde_json::Value;

/// A running program whose log is a file, and a folder for its files. Dropping it ends both.
struct Logging {
    child: Child,
    folder: PathBuf,
}

impl Logging {
    /// Starts the program with this configuration, in which `DIR` is the folder.
    fn start(name: &str, config: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("intelliproxy-logs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let mut command = program();
        command.args(["--listen", "127.0.0.1:0", "--backend", "A=http://127.0.0.1:1"]);
        command.arg("--config").arg(folder.join("proxy.json")).stderr(Stdio::piped());
        fs::write(folder.join("proxy.json"), config.replace("DIR", &folder.to_string_lossy()))
            .expect("a file");
        Self { child: command.spawn().expect("a process"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Applies another configuration.
    fn reload(&self, config: &str) {
        let config = config.replace("DIR", &self.folder.to_string_lossy());
        fs::write(self.path("proxy.json"), config).expect("a file");
        self.signal("-HUP");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Ends the program. Returns what it wrote to stderr.
    fn stop(&mut self) -> String {
        self.signal("-TERM");
        assert_eq!(self.child.wait().expect("a status").code(), Some(0));
        let mut text = String::new();
        let stderr = self.child.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut text).expect("UTF-8");
        text
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until a file contains `what` and ends with a whole line. Returns its content.
#[track_caller]
fn await_text(path: &Path, what: &str) -> String {
    let end = Instant::now() + DEADLINE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.contains(what) && text.ends_with('\n') {
            return text;
        }
        assert!(Instant::now() < end, "{} has no {what:?}:\n{text}", path.display());
        std::thread::yield_now();
    }
}

/// The log as JSON lines in a file: each line is an object with four texts, and stderr is empty.
/// After a rename and SIGUSR1 the lines go to a new file.
#[test]
fn json_lines_go_to_a_file_that_rotates() {
    let config = r#"{"log": {"format": "json", "file": "DIR/log"}}"#;
    let mut logging = Logging::start("json", config);
    let (path, old) = (logging.path("log"), logging.path("log.1"));
    await_text(&path, "listening on http://127.0.0.1:");
    fs::rename(&path, &old).expect("a rename");
    logging.signal("-USR1");
    assert_eq!(logging.stop(), "");
    let new = await_text(&path, "\"stopped\"");
    let old = fs::read_to_string(&old).expect("a file");
    assert!(!old.contains("\"stopped\""), "{old}");
    for line in old.lines().chain(new.lines()) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let object = line.as_object().expect("an object");
        let keys: Vec<_> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["level", "module", "text", "time"]);
        assert!(object.values().all(Value::is_string), "{line}");
        assert!(line["module"].as_str().is_some_and(|module| module.starts_with("intelliproxy")));
    }
}

/// A reload moves the log to another file, in another form and with other levels. A file that
/// cannot be opened changes nothing.
#[test]
fn a_reload_changes_the_log() {
    let config = r#"{"log": {"level": "error,edge=info,reactor=info", "file": "DIR/one"}}"#;
    let mut logging = Logging::start("reload", config);
    let (one, two) = (logging.path("one"), logging.path("two"));
    await_text(&one, "[intelliproxy::reactor] listening on http://127.0.0.1:");
    logging.reload(r#"{"log": {"level": "error,edge=info,reactor=info", "file": "DIR/none/log"}}"#);
    let text = await_text(&one, "configuration not applied, keeping the current one: ");
    assert!(text.contains("/none does not exist"), "{text}");
    assert!(!text.contains("proxy.json again"), "cli is below its level: {text}");
    logging.reload(r#"{"log": {"level": "info", "format": "json", "file": "DIR/two"}}"#);
    await_text(&one, "configuration: other log\n");
    logging.reload(r#"{"log": {"level": "info", "format": "json", "file": "DIR/two"}}"#);
    await_text(&two, "\"text\":\"configuration: nothing changed\"");
    assert!(await_text(&two, "proxy.json again").starts_with('{'));
    assert_eq!(logging.stop(), "");
}
