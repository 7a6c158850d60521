//! The arguments of `intelliproxy replay`.
use std::ffi::OsString;
use std::time::Duration;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};
use intelliproxy_core::PolicyKind;
use intelliproxy_replay::{Options, Question, Which};

use crate::cli::flags::known_policies;

/// The text of `intelliproxy replay --help`.
pub(in crate::cli) const HELP: &str = "\
intelliproxy replay: run a recording through the router again

usage: intelliproxy replay FILE... [--html FILE]
       intelliproxy replay FILE... --at TIME | --request N
       intelliproxy replay FILE... [--policy NAME] [--rules FILE] [--html FILE]
       intelliproxy replay FILE... --fit FILE

Files are what --record wrote; those of a ring belong together. Without a flag every decision is
checked against the recorded one, bit for bit.

  --at TIME      explain the first decision this long after the start: 12.5, 90s, 250ms, 3m
  --request N    explain the decision of request number N
  --policy NAME  decide again by another policy
  --rules FILE   decide again by other rules: JSON, the routing object of a configuration file
  --fit FILE     write a scenario for the lab with backends as they were in the recording
  --html FILE    also write a report with curves, as one HTML file
  --progress     show the progress on stderr also if that is not a terminal

exit codes: 0 if all decisions are the same, or the question was answered; 1 if a decision differs
or cannot be checked, or a file is damaged; 2 for an invalid argument";

/// The arguments of `replay`.
pub(super) struct Call {
    pub(super) options: Options,
    /// Whether the progress is shown wherever stderr goes.
    pub(super) has_progress: bool,
}

/// Parses the arguments; `None` for `--help`.
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Call>, ArgumentError> {
    let mut files = Vec::new();
    let (mut which, mut policy, mut rules, mut fit) = (None, None, None, None);
    let (mut html, mut has_progress) = (None, false);
    let mut args = Arguments::new(args, []);
    while let Some(argument) = args.next()? {
        let name = match argument {
            Argument::Flag(name) => name,
            Argument::Plain(file) => {
                files.push(file);
                continue;
            }
        };
        match name.as_str() {
            "--help" | "-h" => return args.no_value().map(|()| None),
            "--at" => {
                let text = args.value()?;
                let at = parse_time(&text).ok_or_else(|| {
                    ArgumentError::value(&name, "a time such as 12.5, 90s, 250ms or 3m", &text)
                })?;
                set(&mut which, Which::At(at), "--at and --request")?;
            }
            "--request" => {
                let text = args.value()?;
                let number =
                    text.parse().map_err(|_| ArgumentError::value(&name, "a number", &text))?;
                set(&mut which, Which::Request(number), "--at and --request")?;
            }
            "--policy" => {
                let text = args.value()?;
                let kind = PolicyKind::named(&text);
                let unknown = || ArgumentError::value(&name, &known_policies(), &text);
                policy = Some(kind.ok_or_else(unknown)?);
            }
            "--rules" => rules = Some(args.value()?),
            "--html" => html = Some(args.value()?),
            "--progress" => args.no_value().map(|()| has_progress = true)?,
            "--fit" => fit = Some(args.value()?),
            _ => return Err(ArgumentError::new(&name, "no such argument; see replay --help")),
        }
    }
    if files.is_empty() {
        return Err(ArgumentError::new("replay", "needs a file; see replay --help"));
    }
    let question = match (which, policy.is_some() || rules.is_some(), fit) {
        (None, false, None) => Question::Check,
        (Some(which), false, None) => Question::Explain(which),
        (None, true, None) => Question::Decide { policy, rules },
        (None, false, Some(file)) => Question::Fit { file },
        _ => {
            let wrong = "one question at a time; see replay --help";
            return Err(ArgumentError::new("replay", wrong));
        }
    };
    if html.is_some() && matches!(question, Question::Explain(_) | Question::Fit { .. }) {
        let wrong = "not together with --at, --request or --fit";
        return Err(ArgumentError::new("--html", wrong));
    }
    Ok(Some(Call { options: Options { files, question, html }, has_progress }))
}

fn set<T>(place: &mut Option<T>, value: T, flags: &str) -> Result<(), ArgumentError> {
    match place.replace(value) {
        Some(_) => Err(ArgumentError::new(flags, "only one of them")),
        None => Ok(()),
    }
}

/// Parses a time with its unit; without a unit it is in seconds.
fn parse_time(text: &str) -> Option<Duration> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Option<Options>, ArgumentError> {
        let parsed = super::parse(args.split(' ').map(OsString::from))?;
        Ok(parsed.map(|call| call.options))
    }

    /// Each question is parsed. Two questions at once are an error, as are other invalid arguments.
    #[test]
    fn questions_are_understood() {
        let question = |args: &str| parse(args).expect(args).expect(args).question;
        assert_eq!(question("f g"), Question::Check);
        let at = |millis| Question::Explain(Which::At(Duration::from_millis(millis)));
        for (args, millis) in [
            ("f --at 12.5", 12_500),
            ("--at=3m f", 180_000),
            ("f --at 250ms", 250),
            ("f --at 1h", 3_600_000),
        ] {
            assert_eq!(question(args), at(millis), "{args}");
        }
        assert_eq!(question("f --request 7"), Question::Explain(Which::Request(7)));
        let policy = Some(PolicyKind::Random);
        assert_eq!(question("f --policy random"), Question::Decide { policy, rules: None });
        let rules = Some("r".to_owned());
        assert_eq!(question("f --rules r"), Question::Decide { policy: None, rules });
        assert_eq!(question("f --fit o"), Question::Fit { file: "o".to_owned() });
        assert_eq!(parse("--help"), Ok(None));
        let html = |args: &str| parse(args).expect(args).expect(args).html;
        assert_eq!(html("f --html r"), Some("r".to_owned()));
        assert_eq!(html("f --policy p2c --html=r"), Some("r".to_owned()));
        for args in [
            "--at 1",
            "f --at",
            "f --at x",
            "f --at -1",
            "f --at 1 --request 1",
            "f --fit a --at 1",
            "f --policy best",
            "f --what",
            "f --request one",
            "f --fit a --policy random",
            "f --fit a --html r",
            "f --at 1 --html r",
        ] {
            assert!(parse(args).is_err(), "{args}");
        }
    }
}
