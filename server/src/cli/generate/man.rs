//! The manual page in the `man` macros, which groff and mandoc read.
use std::fmt::Write;

use super::outline::{Command, Entry, Outline};
use crate::cli::help::{EXIT_CODES, FILE, SIGNALS};
use crate::config::Config;

/// Returns the page.
pub(super) fn page(outline: &Outline) -> String {
    let mut page = Page(String::new());
    let version = env!("CARGO_PKG_VERSION");
    // The page has no date, so that it depends only on the program.
    page.line(&format!(".TH INTELLIPROXY 1 \"\" \"intelliproxy {version}\" \"User Commands\""));
    page.section("NAME");
    page.line("intelliproxy \\- an adaptive HTTP/1.1 reverse proxy");
    page.section("SYNOPSIS");
    page.line(".B intelliproxy\n.RI [ FLAG ]...");
    for command in &outline.commands {
        page.line(&format!(".br\n.B intelliproxy {}\n.RI [ ARGUMENT ]...", command.name));
    }
    page.section("DESCRIPTION");
    for (index, paragraph) in DESCRIPTION.iter().enumerate() {
        if index > 0 {
            page.line(".PP");
        }
        page.text(paragraph);
    }
    page.section("OPTIONS");
    page.text("A flag and its value may also be written \\fB\\-\\-flag=value\\fR.");
    page.line(".SS Program");
    outline.program.iter().for_each(|entry| page.entry(entry));
    page.line(".SS Routing and forwarding");
    outline.routing.iter().for_each(|entry| page.entry(entry));
    page.section("COMMANDS");
    for command in &outline.commands {
        page.command(command);
    }
    page.section("SIGNALS");
    page.text(&one_line(SIGNALS));
    page.section("EXIT STATUS");
    page.text(&one_line(EXIT_CODES));
    page.section("CONFIGURATION FILE");
    page.text(&one_line(FILE));
    page.verbatim(&Config::default().to_json());
    page.section("FILES");
    for (file, text) in FILES {
        page.line(&format!(".TP\n.I {}", escaped(file)));
        page.text(text);
    }
    page.section("SEE ALSO");
    page.text("The documentation: https://github.com/intelliproxy/intelliproxy");
    page.0
}

/// Lines of the page.
struct Page(String);

impl Page {
    /// Adds a line that is already in the form of the macros.
    fn line(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn section(&mut self, name: &str) {
        self.line(&format!(".SH {name}"));
    }

    /// Adds text that is filled. A backslash before `f` or `-` is already an escape.
    fn text(&mut self, text: &str) {
        let is_marked = text.contains("\\f");
        self.line(&if is_marked { text.to_owned() } else { escaped(text) });
    }

    /// Adds lines that keep their breaks and spaces.
    fn verbatim(&mut self, text: &str) {
        self.line(".PP\n.nf");
        for line in text.lines() {
            self.line(&escaped(line));
        }
        self.line(".fi");
    }

    /// Adds a flag with its effect.
    fn entry(&mut self, entry: &Entry) {
        let names: Vec<String> =
            entry.names.iter().map(|name| format!("\\fB{}\\fR", escaped(name))).collect();
        let value = entry.value.as_deref().unwrap_or_default();
        let value = value.split(' ').filter(|word| !word.is_empty());
        let value: String = value.map(|word| format!(" \\fI{}\\fR", escaped(word))).collect();
        self.line(&format!(".TP\n{}{value}", names.join(", ")));
        self.text(&entry.text);
    }

    /// Adds a command with its help. The first line is the title. The rest is printed verbatim,
    /// because its columns are aligned.
    fn command(&mut self, command: &Command) {
        self.line(&format!(".SS intelliproxy {}", command.name));
        self.text(command.about());
        let rest = command.help.split_once("\n\n").map_or("", |(_, rest)| rest);
        self.verbatim(rest);
    }
}

/// Returns the text with macros and escapes disabled.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // A dot or an apostrophe would begin a macro at the start of a line.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Joins the lines of a text, which were broken for the help.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const DESCRIPTION: [&str; 3] = [
    "intelliproxy forwards HTTP requests to several interchangeable backends, and picks the backend \
     that can serve each request best. It judges backends by its own pings, by figures that they \
     report, and by the responses to real requests.",
    "Without flags it listens on 127.0.0.1:3001 and routes to the backends A=http://localhost:3000 \
     and B=http://localhost:3002. A configuration file can set more than the flags. Where both set \
     a value, the flag wins.",
    "It is one process in the foreground. It logs to stderr unless the configuration names a file.",
];

/// The files that the package uses, and their purposes.
const FILES: [(&str, &str); 3] = [
    (
        "/etc/intelliproxy/proxy.json",
        "The configuration that the service of the package reads. The program itself reads no file \
         without --config.",
    ),
    (
        "/run/intelliproxy/control.sock",
        "The control socket that the commands ctl, top and stats use, where admin.socket of the \
         configuration names it.",
    ),
    (
        "/var/lib/intelliproxy",
        "The state that the policy has learned, if stateFile names a file in this directory.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Dots, apostrophes, dashes and backslashes in a text do not act as macros or escapes.
    #[test]
    fn text_is_not_a_macro() {
        for (text, expected) in [
            (".SH x", "\\&.SH x"),
            ("'quoted'", "\\&'quoted'"),
            ("--flag", "\\-\\-flag"),
            ("a\\b", "a\\eb"),
        ] {
            assert_eq!(escaped(text), expected);
        }
        let page = page(&Outline::new());
        assert!(page.starts_with(".TH INTELLIPROXY 1 "), "{page}");
        let known = [".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".RI", ".br", ".nf", ".fi"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(known.contains(&name), "{line}");
        }
        assert!(page.contains("\n.TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\n"), "{page}");
        assert!(page.contains("\n.TP\n\\fB\\-\\-listen\\fR \\fIHOST:PORT\\fR\n"), "{page}");
    }
}
