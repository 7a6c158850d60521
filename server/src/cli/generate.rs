//! `intelliproxy generate`: prints the man page or shell completions. Both are made from the same
//! tables and texts as `--help`.
use std::ffi::OsString;
use std::process::ExitCode;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use super::{EXIT_USAGE, complain, print};

mod bash;
mod fish;
mod man;
mod outline;
mod zsh;

use self::outline::Outline;

/// The text of `intelliproxy generate --help`.
pub(super) const HELP: &str = "\
intelliproxy generate: print the man page, or completions for a shell

usage: intelliproxy generate WHAT

  man    the man page: save it as /usr/local/share/man/man1/intelliproxy.1
  bash   completions: save them as /usr/local/share/bash-completion/completions/intelliproxy
  zsh    completions: save them as /usr/local/share/zsh/site-functions/_intelliproxy
  fish   completions: save them as ~/.config/fish/completions/intelliproxy.fish

exit codes: 0 if it was printed, 2 for an invalid argument";

/// A function that generates a text.
type Generator = fn(&Outline) -> String;

/// The generators by the name of their text.
const KINDS: [(&str, Generator); 4] =
    [("man", man::page), ("bash", bash::script), ("zsh", zsh::script), ("fish", fish::script)];

/// Prints the text named by the arguments after `generate`.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(args) {
        Ok(Some(generate)) => print(generate(&Outline::new()).trim_end()),
        Ok(None) => print(HELP),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Parses the arguments; `None` for `--help`.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Generator>, ArgumentError> {
    let wrong = |text: &str| ArgumentError::new("generate", text);
    let mut chosen = None;
    let mut args = Arguments::new(args, []);
    while let Some(argument) = args.next()? {
        match argument {
            Argument::Flag(name) if name == "--help" || name == "-h" => {
                return args.no_value().map(|()| None);
            }
            Argument::Plain(text) if chosen.is_none() => {
                let kind = KINDS.iter().find(|(name, _)| *name == text);
                let (_, generate) = kind.ok_or_else(|| {
                    let names = KINDS.map(|(name, _)| name).join(", ");
                    ArgumentError::new(&text, format!("must be one of {names}"))
                })?;
                chosen = Some(*generate);
            }
            Argument::Flag(text) | Argument::Plain(text) => {
                return Err(ArgumentError::unknown(&text));
            }
        }
    }
    chosen.map(Some).ok_or_else(|| wrong("needs a name; see generate --help"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::FLAGS;

    /// Each text has every flag of the program and every word of `ctl`.
    #[test]
    fn nothing_is_missing() {
        let outline = Outline::new();
        for (kind, generate) in KINDS {
            let text = generate(&outline);
            for flag in &FLAGS {
                let name = flag.name.trim_start_matches('-');
                let as_written = match kind {
                    "man" => format!("\\-\\-{}", name.replace('-', "\\-")),
                    "fish" => format!("-l {name} "),
                    _ => flag.name.to_owned(),
                };
                assert!(text.contains(&as_written), "{kind}: {name}");
            }
            for word in ["drain", "maintain", "weight", "--socket", "--samples", "--request"] {
                let word = match kind {
                    "man" => word.replace('-', "\\-"),
                    "fish" => word.trim_start_matches('-').to_owned(),
                    _ => word.to_owned(),
                };
                assert!(text.contains(&word), "{kind}: {word}");
            }
        }
    }

    /// A single name is accepted. Any other argument is an error that names it.
    #[test]
    fn arguments_are_read() {
        let parsed = |args: &[&str]| {
            let parsed = parse(args.iter().map(OsString::from));
            parsed.map(|kind| kind.is_some()).map_err(|error| error.to_string())
        };
        assert_eq!(parsed(&["zsh"]), Ok(true));
        assert_eq!(parsed(&["-h"]), Ok(false));
        for (args, wrong) in [
            (&[][..], "generate: needs a name; see generate --help"),
            (&["tcsh"], "tcsh: must be one of man, bash, zsh, fish"),
            (&["man", "bash"], "bash: no such argument; see --help"),
            (&["--man"], "--man: no such argument; see --help"),
        ] {
            assert_eq!(parsed(args), Err(wrong.to_owned()), "{args:?}");
        }
    }
}
