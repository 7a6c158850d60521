//! The lab's command line.
use std::ffi::OsString;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use super::contender::Contender;
use super::random::Half;

/// A parsed command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Print the help text.
    Help,
    /// Print the names of scenarios and policies.
    List,
    /// Print a named scenario as JSON.
    Show(String),
    /// Run scenarios.
    Run(Options),
}

/// Settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    /// Named scenarios. If no name, file or random scenario is given, the first catalogue runs.
    pub(super) scenarios: Vec<String>,
    /// Files of further scenarios.
    pub(super) files: Vec<String>,
    /// The contenders, with the oracle first.
    pub(super) contenders: Vec<Contender>,
    /// Number of random scenarios.
    pub(super) random: u64,
    /// The seed of the random scenarios.
    pub(super) random_seed: u64,
    /// The half of the random scenarios to run; `None` runs both.
    pub(super) half: Option<Half>,
    /// Number of seeds.
    pub(super) seeds: u64,
    /// The first seed.
    pub(super) first_seed: u64,
    /// Factor of every scenario's times.
    pub(super) duration_scale: f64,
    /// Threads; 0 for one per core.
    pub(super) jobs: usize,
    /// Print JSON instead of tables.
    pub(super) json: bool,
    /// Add the requests per second and backend to the JSON.
    pub(super) timeline: bool,
    /// The file of a report.
    pub(super) html: Option<String>,
    /// Show the progress even if stderr is not a terminal.
    pub(super) progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenarios: Vec::new(),
            files: Vec::new(),
            contenders: Contender::all(),
            random: 0,
            random_seed: 1,
            half: None,
            seeds: 5,
            first_seed: 1,
            duration_scale: 1.0,
            jobs: 0,
            json: false,
            timeline: false,
            html: None,
            progress: false,
        }
    }
}

/// Reads arguments, without the program's name.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut options = Options::default();
    let mut arguments = Arguments::new(arguments, ["--scenario"]);
    while let Some(argument) = arguments.next()? {
        let flag = match argument {
            Argument::Flag(flag) => flag,
            Argument::Plain(scenario) => {
                options.scenarios.push(scenario);
                continue;
            }
        };
        match flag.as_str() {
            "-h" | "--help" => return arguments.no_value().map(|()| Command::Help),
            "--list" => return arguments.no_value().map(|()| Command::List),
            "--show" => return arguments.value().map(Command::Show),
            "--json" => arguments.no_value().map(|()| options.json = true)?,
            "--timeline" => {
                arguments.no_value()?;
                (options.json, options.timeline) = (true, true);
            }
            "--html" => options.html = Some(arguments.value()?),
            "--progress" => arguments.no_value().map(|()| options.progress = true)?,
            "--scenario" => options.files.push(arguments.value()?),
            "--policies" => options.contenders = contenders(&flag, &arguments.value()?)?,
            "--random" => options.random = number(&flag, &arguments.value()?, 1..=100_000)?,
            "--seed" => options.random_seed = number(&flag, &arguments.value()?, 0..=u64::MAX)?,
            "--half" => options.half = Some(half(&flag, &arguments.value()?)?),
            "--seeds" => options.seeds = number(&flag, &arguments.value()?, 1..=1000)?,
            "--first-seed" => {
                options.first_seed = number(&flag, &arguments.value()?, 0..=u64::MAX)?;
            }
            "--jobs" => options.jobs = number(&flag, &arguments.value()?, 1..=1024)? as usize,
            "--duration-scale" => options.duration_scale = scale(&flag, &arguments.value()?)?,
            _ => return Err(ArgumentError::unknown(&flag)),
        }
    }
    Ok(Command::Run(options))
}

/// Reads the named contenders. The oracle comes first.
fn contenders(flag: &str, value: &str) -> Result<Vec<Contender>, ArgumentError> {
    let mut contenders = vec![Contender::Oracle];
    for name in value.split(',') {
        let named = match name {
            "all" => Contender::all(),
            "baselines" => Contender::baselines(),
            _ => Contender::named(name).into_iter().collect(),
        };
        if named.is_empty() {
            let names = Contender::all().into_iter().chain(Contender::baselines());
            let names: Vec<_> = names.map(|contender| contender.to_string()).collect();
            let allowed = format!("one of all, baselines, {}", names.join(", "));
            return Err(ArgumentError::value(flag, &allowed, name));
        }
        for contender in named {
            if !contenders.contains(&contender) {
                contenders.push(contender);
            }
        }
    }
    Ok(contenders)
}

fn number(
    flag: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, ArgumentError> {
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        ArgumentError::value(flag, &allowed, value)
    })
}

fn half(flag: &str, value: &str) -> Result<Half, ArgumentError> {
    match value {
        "tune" => Ok(Half::Tune),
        "report" => Ok(Half::Report),
        _ => Err(ArgumentError::value(flag, "tune or report", value)),
    }
}

fn scale(flag: &str, value: &str) -> Result<f64, ArgumentError> {
    let scale = value.parse().ok().filter(|scale| (0.001..=1000.0).contains(scale));
    scale.ok_or_else(|| ArgumentError::value(flag, "a number from 0.001 to 1000", value))
}

/// The text of `--help`.
pub(super) const HELP: &str = "\
Compares routing policies on scenarios, in virtual time, on the router that the proxy runs.

Usage: cargo lab [SCENARIO...] [OPTIONS]

Without a SCENARIO the fourteen scenarios of the first catalogue run; `wide` selects the second one.
Each runs under the oracle, which knows every true speed, queue and fault, and under every policy.
All of them get the same requests with the same random draws.

Options:
      --policies A,B       only these policies, and the oracle (all); `all` for every policy,
                           `baselines` for other products and the oracle of one proxy
      --seeds N            runs of each, with different seeds (5)
      --first-seed N       the first seed (1)
      --duration-scale X   factor of every scenario's duration, for short or long runs (1)
      --scenario FILE      also run the scenario in this JSON file, see sim/lab/SCENARIOS.md; without a
                           SCENARIO, run only files
      --random N           also run N random scenarios, with a line for each; rS.K is the name of
                           number K of seed S
      --seed S             the seed of the random scenarios (1)
      --half HALF          only one half of them: `tune` for tuning, `report` for judging (both)
      --json               results as JSON, every run with its figures
      --timeline           as --json, with the requests sent to each backend in each second
      --html FILE          also write a report with curves, as one HTML file
      --progress           show the progress on stderr also if that is not a terminal
      --jobs N             runs at a time (one for each core)
      --list               list scenarios and policies
      --show SCENARIO      print a named scenario as JSON, as a start for your own
  -h, --help               print this

Columns, times in ms:
  mean                     of the requests that did not fail
  p50, p99, p99.9, cost    with the charge for failed requests; cost is the mean
  failed                   in % of requests
  back                     the longest time from the return of a backend until it has 0.8 of its fair
                           share, s
  unfair                   the difference between the most and the fewest requests of equal backends,
                           in % of their mean
  switches                 of the current backend, per second
  p99 and cost over the oracle's: the geometric mean over seeds
  share                    in %, the least and the most in a group of equal backends

Summary: the geometric means of p99 and cost over the oracle's, the worst p99, the most failures above
the oracle, and the share of scenarios in which p99 or cost is over 5 % above the best of
least_request, p2c and peak_ewma, if these run.

Baselines, each with its documented defaults: envoy is least request with outlier detection, haproxy
is leastconn with observe and slow start, nginx is least_conn with max_fails. local_oracle knows
everything except the requests of other proxies. learning_oracle also has to find out speeds and faults,
by one response each. NAME_again is the policy NAME with other random draws of its own: the
difference between the two is noise.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, ArgumentError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    /// Every flag of the help text is read in both spellings. The others keep their defaults.
    #[test]
    fn flags_are_read() {
        type Change = fn(&mut Options);
        let runs: [(&str, Change); 13] = [
            ("--html r.html", |o| o.html = Some("r.html".to_owned())),
            ("--progress", |o| o.progress = true),
            ("", |_| {}),
            ("llm burst120", |o| o.scenarios = vec!["llm".to_owned(), "burst120".to_owned()]),
            ("--seeds 3", |o| o.seeds = 3),
            ("--first-seed 9", |o| o.first_seed = 9),
            ("--json", |o| o.json = true),
            ("--timeline", |o| (o.json, o.timeline) = (true, true)),
            ("--jobs 1", |o| o.jobs = 1),
            ("--duration-scale .5", |o| o.duration_scale = 0.5),
            ("--random 40 --seed 7 --half report", |o| {
                (o.random, o.random_seed, o.half) = (40, 7, Some(Half::Report));
            }),
            ("--scenario a.json", |o| o.files = vec!["a.json".to_owned()]),
            ("--policies score,score", |o| {
                let named = ["oracle", "score"].iter().filter_map(|n| Contender::named(n));
                o.contenders = named.collect();
            }),
        ];
        let runs = runs.map(|(line, change)| {
            let mut options = Options::default();
            change(&mut options);
            (line, Command::Run(options))
        });
        let others = [
            ("--list", Command::List),
            ("--show llm", Command::Show("llm".to_owned())),
            ("x --help", Command::Help),
            ("x -h", Command::Help),
        ];
        let cases: Vec<_> = runs.into_iter().chain(others).collect();
        for (line, expected) in &cases {
            assert_eq!(read(line).as_ref(), Ok(expected), "{line}");
            if line.starts_with("--") {
                // A value follows its flag: `--flag value` becomes `--flag=value`.
                let joined = line.replace(' ', "=").replace("=--", " --");
                assert_eq!(read(&joined).as_ref(), Ok(expected), "{joined}");
            }
        }
        let words = HELP.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.']));
        for flag in words.filter(|word| word.starts_with("--")) {
            let is_case = |(line, _): &(&str, Command)| line.split(' ').any(|word| word == flag);
            assert!(cases.iter().any(is_case), "{flag}");
        }
    }

    /// Errors name the flag of an invalid value.
    #[test]
    fn faults_are_named() {
        let cases = [
            ("--seeds 0", "--seeds: must be a whole number from 1 to 1000, not \"0\""),
            ("--seeds", "--seeds: needs a value"),
            ("--half both", "--half: must be tune or report, not \"both\""),
            ("--jobs x", "--jobs: must be a whole number from 1 to 1024, not \"x\""),
            (
                "--duration-scale NaN",
                "--duration-scale: must be a number from 0.001 to 1000, not \"NaN\"",
            ),
            ("--policy x", "--policy: no such argument; see --help"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line).expect_err(line).to_string(), expected);
        }
        let error = read("--policies oracle,best").expect_err("no such policy").to_string();
        assert!(
            error.starts_with("--policies: must be one of all, baselines, oracle, score"),
            "{error}"
        );
    }
}
