//! A backend's command line and environment: preset, then variables, then flags.
use std::ffi::OsString;
use std::fmt::Write;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use crate::config::{Config, LogLevel};
use crate::parameters::{Faults, Field, Parameters, Preset, RANGES};

/// The command of the command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Print the help text.
    Help,
    /// Run a backend.
    Run(Config),
}

/// Reads arguments (without the program's name) and the environment's variables.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, ArgumentError> {
    let mut preset = None;
    let mut flags = Vec::new();
    let mut arguments = Arguments::new(arguments, []);
    while let Some(argument) = arguments.next()? {
        match argument {
            Argument::Flag(flag) if flag == "-h" || flag == "--help" => {
                return arguments.no_value().map(|()| Command::Help);
            }
            Argument::Flag(flag) => {
                let name = setting_of(&flag).ok_or_else(|| ArgumentError::unknown(&flag))?;
                flags.push((name, flag, arguments.value()?));
            }
            Argument::Plain(text) => match (text.as_str(), preset) {
                ("A", None) => preset = Some(Preset::A),
                ("B", None) => preset = Some(Preset::B),
                _ => return Err(ArgumentError::unknown(&text)),
            },
        }
    }

    let mut draft = Draft {
        port: preset.unwrap_or(Preset::A).port(),
        is_public: false,
        seed: None,
        log: LogLevel::Info,
        parameters: preset.map_or_else(Parameters::default, Preset::parameters),
    };
    for name in names() {
        if let Some(value) = variable(name) {
            draft.set(name, name, &value.to_string_lossy())?;
        }
    }
    for (name, flag, value) in flags {
        draft.set(name, &flag, &value)?;
    }
    let Draft { port, is_public, seed, log, parameters } = draft;
    Ok(Command::Run(Config {
        port,
        is_public,
        seed: seed.unwrap_or_else(|| u64::from(port)),
        log,
        connections_max: Config::CONNECTIONS_MAX,
        parameters,
    }))
}

/// The help text, defaults included.
pub(crate) fn help() -> String {
    let mut text = String::from(HELP_HEAD);
    let mut defaults = Parameters::default();
    let mut line = |name: &str, default: String, help: &str| {
        let flag = flag_of(name);
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {flag:<28}{name:<26}{default:<9}{help}");
    };
    line(PORT, Preset::A.port().to_string(), "port on 127.0.0.1 and ::1; 0: any that is free");
    line(LISTEN, "loopback".to_owned(), "loopback, or all: every address of the host");
    for range in &RANGES {
        let default = match range.field {
            Field::Fraction(field) => field(&mut defaults).to_string(),
            Field::Whole { field, .. } => field(&mut defaults).to_string(),
        };
        line(range.name, default, range.help);
    }
    line(FAULTS, "all".to_owned(), "all, or health: faults affect only /health");
    line(SEED, "the port".to_owned(), "the same seed gives the same faults");
    line(LOG, "info".to_owned(), "off, info or debug: every fault");
    text + HELP_TAIL
}

/// A configuration under construction.
struct Draft {
    port: u16,
    is_public: bool,
    seed: Option<u64>,
    log: LogLevel,
    parameters: Parameters,
}

impl Draft {
    /// Sets `name` to `value`, which came from the flag or variable `origin`.
    fn set(&mut self, name: &str, origin: &str, value: &str) -> Result<(), ArgumentError> {
        let (is_set, allowed) = match name {
            PORT => (put(&mut self.port, value.parse().ok()), "a port from 0 to 65535".to_owned()),
            SEED => (
                put(&mut self.seed, value.parse().ok().map(Some)),
                format!("a whole number from 0 to {}", u64::MAX),
            ),
            LISTEN => {
                let is_public = match value {
                    "loopback" => Some(false),
                    "all" => Some(true),
                    _ => None,
                };
                (put(&mut self.is_public, is_public), "loopback or all".to_owned())
            }
            FAULTS => {
                let faults = match value {
                    "health" => Some(Faults::Health),
                    "all" => Some(Faults::All),
                    _ => None,
                };
                (put(&mut self.parameters.faults, faults), "health or all".to_owned())
            }
            LOG => {
                let level = match value {
                    "off" => Some(LogLevel::Off),
                    "info" => Some(LogLevel::Info),
                    "debug" => Some(LogLevel::Debug),
                    _ => None,
                };
                (put(&mut self.log, level), "off, info or debug".to_owned())
            }
            _ => {
                let Some(range) = RANGES.iter().find(|range| range.name == name) else {
                    return Err(ArgumentError::unknown(origin));
                };
                let parameters = &mut self.parameters;
                let is_parsed = match range.field {
                    Field::Fraction(field) => put(field(parameters), value.parse().ok()),
                    Field::Whole { field, .. } => put(field(parameters), value.parse().ok()),
                };
                (is_parsed && self.parameters.check().is_ok(), range.allowed())
            }
        };
        if is_set { Ok(()) } else { Err(ArgumentError::value(origin, &allowed, value)) }
    }
}

fn put<T>(place: &mut T, value: Option<T>) -> bool {
    value.map(|value| *place = value).is_some()
}

/// Returns all variables, in the order of the help text.
fn names() -> impl Iterator<Item = &'static str> {
    RANGES.iter().map(|range| range.name).chain([PORT, LISTEN, FAULTS, SEED, LOG])
}

/// Returns the flag of a variable: `--p-g-to-b` for `P_G_TO_B`.
fn flag_of(name: &str) -> String {
    let name = if name == LOG { "LOG" } else { name };
    format!("--{}", name.to_ascii_lowercase().replace('_', "-"))
}

fn setting_of(flag: &str) -> Option<&'static str> {
    names().find(|name| flag_of(name) == flag)
}

const PORT: &str = "PORT";
const LISTEN: &str = "LISTEN_ON";
const FAULTS: &str = "FAULTS";
const SEED: &str = "SEED";
/// The name is not just LOG, because other programs also read that.
const LOG: &str = "SIM_LOG";

const HELP_HEAD: &str = "\
A simulated backend: an HTTP server with configurable faults.

Usage: sim [A|B] [OPTIONS]

  A  port 3000, 4 % of the responses late by 300 ms, 16 ms of CPU work per request
  B  port 3002, 12 % of the responses late by 850 ms, 8 ms of CPU work per request

Each option has a flag and an environment variable. A flag overrides the variable, and
both override A and B:

  flag                        variable                  default  meaning
";

const HELP_TAIL: &str = "  -h, --help                                                     this text

The paths are /health (a ping), /metrics (its figures as JSON) and any other (traffic).
Loss follows the Gilbert-Elliott model: a lost ping gets no response; lost traffic is
late by retransmissions (200 ms, 600 ms, ... 6200 ms), as with TCP.

Exit codes: 0 after SIGINT or SIGTERM, 1 if it cannot run, 2 for a bad option.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Command, ArgumentError> {
        parse(arguments.iter().map(OsString::from), |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[track_caller]
    fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Config {
        match parse_with(arguments, variables) {
            Ok(Command::Run(config)) => config,
            other => panic!("{arguments:?} {variables:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn error(arguments: &[&str], variables: &[(&str, &str)]) -> String {
        parse_with(arguments, variables).unwrap_err().to_string()
    }

    /// Without settings the documented defaults apply, with the port as the seed.
    #[test]
    fn defaults() {
        let config = config(&[], &[]);
        assert_eq!((config.port, config.seed, config.log), (3000, 3000, LogLevel::Info));
        assert_eq!(config.parameters, Parameters::default());
    }

    /// A variable overrides a preset, and a flag overrides a variable, in any position.
    #[test]
    fn flags_win_over_variables_over_presets() {
        let preset = config(&["B"], &[]);
        assert_eq!((preset.port, preset.seed), (3002, 3002));
        assert_eq!(preset.parameters, Preset::B.parameters());
        let by_variable = config(&["B"], &[("SLOW_MS", "10"), ("PORT", "4000")]);
        assert_eq!((by_variable.port, by_variable.parameters.slow_ms), (4000, 10));
        assert_eq!(by_variable.parameters.slow_rate, 0.12);
        let by_flag = config(&["--slow-ms", "20", "B", "--port=0"], &[("SLOW_MS", "10")]);
        assert_eq!((by_flag.port, by_flag.parameters.slow_ms), (0, 20));
    }

    /// Every setting can be set by its flag in both spellings and by its variable, and changes the
    /// configuration compared with the defaults.
    #[test]
    fn every_setting_has_flag_and_variable() {
        for name in names() {
            let value = match name {
                FAULTS => "health",
                LISTEN => "all",
                LOG => "debug",
                _ => "1",
            };
            let flag = flag_of(name);
            let inline = format!("{flag}={value}");
            let by_variable = config(&[], &[(name, value)]);
            assert_ne!(by_variable, config(&[], &[]), "{name}");
            assert_eq!(config(&[&flag, value], &[]), by_variable, "{name}");
            assert_eq!(config(&[&inline], &[]), by_variable, "{name}");
            assert!(help().contains(&flag) && help().contains(name), "{name} lacks help");
        }
    }

    /// Errors for bad values name the flag or variable, and the permitted values.
    #[test]
    fn bad_values_name_their_origin() {
        let fraction = "must be a number from 0 to 1, not";
        for (arguments, variables, expected) in [
            (&["--slow-rate", "1.5"][..], &[][..], format!("--slow-rate: {fraction} \"1.5\"")),
            (&["--err-rate=nan"], &[], format!("--err-rate: {fraction} \"nan\"")),
            (&[], &[("ERR_RATE", "")], format!("ERR_RATE: {fraction} \"\"")),
            (&[], &[("P_G_TO_B", "x")], format!("P_G_TO_B: {fraction} \"x\"")),
            (
                &[],
                &[("SIM_QUEUE_MAX", "0")],
                "SIM_QUEUE_MAX: must be a whole number from 1 to 1000000, not \"0\"".to_owned(),
            ),
            (
                &["--cpu-load-ms", "-1"],
                &[],
                "--cpu-load-ms: must be a whole number from 0 to 60000, not \"-1\"".to_owned(),
            ),
            (
                &["A"],
                &[("PORT", "65536")],
                "PORT: must be a port from 0 to 65535, not \"65536\"".to_owned(),
            ),
            (
                &["--faults", "none"],
                &[],
                "--faults: must be health or all, not \"none\"".to_owned(),
            ),
            (&["--listen-on=x"], &[], "--listen-on: must be loopback or all, not \"x\"".to_owned()),
            (&["--log", "all"], &[], "--log: must be off, info or debug, not \"all\"".to_owned()),
        ] {
            assert_eq!(error(arguments, variables), expected);
        }
    }

    /// Arguments without a meaning, and flags without a value, are refused.
    #[test]
    fn stray_arguments_are_refused() {
        for (arguments, expected) in [
            (&["C"][..], "C: no such argument; see --help"),
            (&["A", "B"], "B: no such argument; see --help"),
            (&["--prot", "1"], "--prot: no such argument; see --help"),
            (&["--port=1", "2"], "2: no such argument; see --help"),
            (&["--port"], "--port: needs a value"),
        ] {
            assert_eq!(error(arguments, &[]), expected);
        }
    }

    /// `--help` takes precedence over all other arguments.
    #[test]
    fn help_wins() {
        assert_eq!(parse_with(&["B", "--help"], &[("PORT", "x")]), Ok(Command::Help));
        assert_eq!(parse_with(&["-h"], &[]), Ok(Command::Help));
    }
}
