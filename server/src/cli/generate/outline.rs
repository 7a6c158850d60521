//! The commands, words and flags of the command line, for the man page and the completions.
use crate::cli::top::{STATS_HELP, TOP_HELP};
use intelliproxy_core::PolicyKind;

use crate::cli::flags::{FLAGS, Flag};
use crate::cli::help::{PROGRAM_FLAGS, explanation, usage};
use crate::cli::{ctl, generate, replay};

/// All flags of the program, and its commands.
pub(super) struct Outline {
    /// The flags about the program itself.
    pub(super) program: Vec<Entry>,
    /// The flags that set a value of the configuration.
    pub(super) routing: Vec<Entry>,
    /// The commands, in the order of the help.
    pub(super) commands: Vec<Command>,
}

/// A command such as `ctl`.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// The complete help.
    pub(super) help: &'static str,
    /// The words that may follow the command, and its flags.
    pub(super) entries: Vec<Entry>,
    /// Whether other words are file names.
    pub(super) takes_files: bool,
}

/// A flag or a word.
pub(super) struct Entry {
    /// All names, flags with their dashes.
    pub(super) names: Vec<String>,
    /// The placeholder of its value, in capitals, such as `FILE`.
    pub(super) value: Option<String>,
    /// The effect.
    pub(super) text: String,
    /// The allowed values.
    pub(super) values: Values,
    pub(super) is_repeatable: bool,
}

/// The values that a shell can complete.
#[derive(Debug, PartialEq)]
pub(super) enum Values {
    /// Any value, or no value.
    Any,
    /// A path.
    Files,
    /// One of these.
    Names(Vec<&'static str>),
}

impl Outline {
    pub(super) fn new() -> Self {
        let program = PROGRAM_FLAGS.iter().map(|(usage, text)| Entry::new(usage, text));
        let routing = FLAGS.iter().map(|flag| Entry {
            values: values_of(flag),
            is_repeatable: flag.is_repeatable(),
            ..Entry::new(&usage(flag), &explanation(flag))
        });
        let commands = [
            ("replay", replay::HELP, true),
            ("ctl", ctl::HELP, false),
            ("top", TOP_HELP, false),
            ("stats", STATS_HELP, false),
            ("generate", generate::HELP, false),
        ];
        Self {
            program: program.collect(),
            routing: routing.collect(),
            commands: commands.map(|(name, help, files)| Command::new(name, help, files)).into(),
        }
    }

    /// All flags of the program without a command.
    pub(super) fn flags(&self) -> impl Iterator<Item = &Entry> {
        self.program.iter().chain(&self.routing)
    }
}

impl Command {
    fn new(name: &'static str, help: &'static str, takes_files: bool) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for line in help.lines() {
            let Some(rest) = line.strip_prefix("  ") else { continue };
            if rest.starts_with(' ') {
                // A more indented line continues the text of the last entry. Before the first entry
                // it belongs to the usage.
                if let Some(last) = entries.last_mut() {
                    last.text.push_str(&format!(" {}", rest.trim()));
                }
            } else if let Some((usage, text)) = rest.split_once("  ") {
                entries.push(Entry::new(usage, text.trim()));
            }
        }
        if !entries.iter().any(Entry::is_help) {
            entries.push(Entry::new("-h, --help", "print the help of this command, then exit"));
        }
        Self { name, help, entries, takes_files }
    }

    pub(super) fn flags(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_flag())
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_flag())
    }

    /// The effect of the command: the first line of its help without the program's name.
    pub(super) fn about(&self) -> &'static str {
        let first = self.help.lines().next().unwrap_or_default();
        first.split_once(": ").map_or(first, |(_, about)| about)
    }
}

impl Entry {
    /// Reads a usage such as `-h, --help` or `weight BACKEND N`.
    fn new(usage: &str, text: &str) -> Self {
        let (names, value): (Vec<&str>, Vec<&str>) =
            usage.split(' ').partition(|word| word.starts_with(|c: char| c == '-' || is_lower(c)));
        let value = (!value.is_empty()).then(|| value.join(" "));
        let names: Vec<String> =
            names.iter().map(|name| name.trim_end_matches(',').to_owned()).collect();
        let values = match value.as_deref() {
            Some("FILE" | "PATH") => Values::Files,
            Some("NAME") if names.iter().any(|name| name.ends_with("policy")) => policies(),
            _ => Values::Any,
        };
        Self { names, value, text: text.to_owned(), values, is_repeatable: false }
    }

    pub(super) fn is_flag(&self) -> bool {
        self.names.iter().any(|name| name.starts_with('-'))
    }

    fn is_help(&self) -> bool {
        self.names.iter().any(|name| name == "--help")
    }
}

/// Returns the allowed values of a flag.
fn values_of(flag: &Flag) -> Values {
    match (flag.path, flag.value) {
        ("routing.policy", _) => policies(),
        ("log.format", _) => Values::Names(vec!["text", "json"]),
        ("accessLog.format", _) => Values::Names(vec!["json", "combined"]),
        ("log.level", _) => Values::Names(vec!["error", "warn", "info", "debug", "trace"]),
        (_, Some("FILE")) => Values::Files,
        _ => Values::Any,
    }
}

fn policies() -> Values {
    Values::Names(PolicyKind::ALL.map(PolicyKind::name).into())
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::Change;
    use crate::config::Config;

    /// The words and flags of a help text are read with their values.
    #[test]
    fn helps_are_read() {
        let outline = Outline::new();
        let command =
            |name: &str| outline.commands.iter().find(|one| one.name == name).expect(name);
        let names = |entries: Vec<&Entry>| -> Vec<String> {
            entries.iter().map(|entry| entry.names.join(" ")).collect()
        };
        let ctl = command("ctl");
        let words = [
            "drain", "maintain", "ready", "weight", "policy", "reload", "stats", "totals", "ready",
        ];
        assert_eq!(names(ctl.words().collect()), words);
        assert_eq!(names(ctl.flags().collect()), ["--socket", "-h --help"]);
        let weight = ctl.words().find(|word| word.names == ["weight"]).expect("weight");
        assert_eq!(weight.value.as_deref(), Some("BACKEND N"));
        let policy = ctl.words().find(|word| word.names == ["policy"]).expect("policy");
        assert_eq!(policy.values, policies());
        let top = names(command("top").flags().collect());
        assert_eq!(top, ["--socket", "--interval", "--samples", "-h --help"]);
        assert_eq!(names(command("generate").words().collect()), ["man", "bash", "zsh", "fish"]);
        assert_eq!(command("replay").about(), "run a recording through the router again");
        let version = outline.program.last().expect("flags");
        assert_eq!(version.names, ["-V", "--version"]);
    }

    /// Each proposed value is accepted by its flag and valid in a configuration.
    #[test]
    fn proposed_values_are_accepted() {
        let mut seen = 0;
        for flag in &FLAGS {
            let Values::Names(names) = values_of(flag) else { continue };
            for name in names {
                let mut config = Config::default();
                let Change::Set(set) = flag.change else { panic!("{} sets no value", flag.name) };
                assert_eq!(set(&mut config, name), Ok(()), "{} {name}", flag.name);
                assert_eq!(config.validate(), Ok(()), "{} {name}", flag.name);
                seen += 1;
            }
        }
        assert!(seen > 10, "{seen} values were found");
    }
}
