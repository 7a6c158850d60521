//! The lab's program: distributes scenarios over threads and prints tables as they become complete.
//!
//! Runs are independent of each other and of their threads, so the output does not depend on the
//! number of threads.
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::catalogue::{catalogue, wide_catalogue};
use super::contender::Contender;
use super::detail::OverTime;
use super::options::{self, Command, HELP, Options};
use super::random::{random_named, random_scenarios};
use super::report;
use super::scenario::Scenario;
use super::summary::{Overall, ScenarioResult, SeedRun};
use super::table::{scenario_line, scenario_table, summary_table};
use super::world::{Run, run, run_over_time};

/// Runs the program with its arguments, without its name.
///
/// | exit code | reason |
/// |---|---|
/// | 0 | all ran |
/// | 1 | a file cannot be read, or the output's reader has closed it |
/// | 2 | an argument or a scenario is invalid |
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let text = match options::parse(arguments) {
        Ok(Command::Run(options)) => return run_options(&options),
        Ok(Command::Help) => HELP.to_owned(),
        Ok(Command::List) => list(),
        Ok(Command::Show(name)) => match named(&name) {
            Ok(scenario) => scenario.to_json() + "\n",
            Err(error) => return refuse(&error),
        },
        Err(error) => return refuse(&error.to_string()),
    };
    print(&text)
}

/// Runs a scenario for every contender and seed on this thread.
///
/// # Errors
/// If a router refuses the scenario's backends or rules. A parsed scenario cannot cause this.
pub fn run_all(
    scenario: &Scenario,
    contenders: &[Contender],
    seeds: &[u64],
) -> Result<ScenarioResult, intelliproxy_core::ConfigError> {
    let runs = contenders.iter().map(|contender| {
        let runs = seeds
            .iter()
            .map(|seed| run(scenario, *contender, *seed).map(|run| SeedRun { seed: *seed, run }));
        Ok((contender.to_string(), runs.collect::<Result<_, _>>()?))
    });
    Ok(ScenarioResult::new(scenario, runs.collect::<Result<_, _>>()?))
}

fn run_options(options: &Options) -> ExitCode {
    let scenarios = match scenarios(options) {
        Ok(scenarios) => scenarios,
        Err(Unready::Refused(error)) => return refuse(&error),
        Err(Unready::Unread(error)) => {
            eprintln!("lab: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tasks = Tasks { scenarios: &scenarios, options };
    // The runs may take minutes, so an unusable file is reported before them.
    let html = options.html.as_ref().map(|file| (file, File::create(file)));
    let mut html = match html {
        None => None,
        Some((file, Ok(open))) => Some((file, open)),
        Some((file, Err(error))) => {
            eprintln!("lab: {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let bins = options.html.is_some().then(|| report::bins(&scenarios, options.contenders.len()));
    let next = AtomicUsize::new(0);
    let refusal = Mutex::new(None);
    let (sender, results) = channel();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = if options.jobs == 0 { cores } else { options.jobs };
    thread::scope(|scope| {
        for _ in 0..jobs.min(tasks.count()) {
            let (sender, tasks, next, refusal) = (sender.clone(), &tasks, &next, &refusal);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= tasks.count() {
                        return;
                    }
                    let (scenario, contender, seed) = tasks.get(number);
                    let bins = bins.filter(|_| seed == tasks.options.first_seed);
                    let result = match bins {
                        Some(bins) => run_over_time(scenario, contender, seed, bins)
                            .map(|(run, over_time)| (run, Some(over_time))),
                        None => run(scenario, contender, seed).map(|run| (run, None)),
                    };
                    let result = result.map(|(mut run, over_time)| {
                        if !tasks.options.timeline {
                            run.routed_by_second = Vec::new();
                        }
                        Done { run, over_time }
                    });
                    let result = result.map_err(|error| {
                        *refusal.lock().unwrap_or_else(|e| e.into_inner()) =
                            Some(format!("{}: {error}", scenario.name));
                    });
                    // If the receiver has gone, no more runs are started.
                    if result.is_err() || sender.send((number, result.ok())).is_err() {
                        next.store(tasks.count(), Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
        drop(sender);
        let code =
            report(&tasks, &results, html.as_mut().map(|(file, open)| (file.as_str(), open)));
        next.store(tasks.count(), Ordering::Relaxed);
        match refusal.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(error) => refuse(&error),
            None => code,
        }
    })
}

/// A finished run, and its figures over time if a report shows them.
struct Done {
    run: Run,
    over_time: Option<OverTime>,
}

/// The runs in order: by scenario, then by contender, then by seed.
struct Tasks<'a> {
    scenarios: &'a [Scenario],
    options: &'a Options,
}

impl Tasks<'_> {
    const fn per_scenario(&self) -> usize {
        self.options.contenders.len() * self.options.seeds as usize
    }

    const fn count(&self) -> usize {
        self.scenarios.len() * self.per_scenario()
    }

    fn get(&self, number: usize) -> (&Scenario, Contender, u64) {
        let (scenario, rest) = (number / self.per_scenario(), number % self.per_scenario());
        let (contender, seed) =
            (rest / self.options.seeds as usize, rest as u64 % self.options.seeds);
        let seed = self.options.first_seed.wrapping_add(seed);
        (&self.scenarios[scenario], self.options.contenders[contender], seed)
    }

    fn result(&self, scenario: usize, runs: &[Option<Done>]) -> ScenarioResult {
        let first = scenario * self.per_scenario();
        let mut by_contender = Vec::with_capacity(self.options.contenders.len());
        for (index, contender) in self.options.contenders.iter().enumerate() {
            let start = first + index * self.options.seeds as usize;
            let numbers = start..start + self.options.seeds as usize;
            let runs = numbers.filter_map(|number| {
                let seed = self.get(number).2;
                runs[number].as_ref().map(|done| SeedRun { seed, run: done.run.clone() })
            });
            by_contender.push((contender.to_string(), runs.collect()));
        }
        ScenarioResult::new(&self.scenarios[scenario], by_contender)
    }

    fn html(
        &self,
        results: &[ScenarioResult],
        runs: &[Option<Done>],
        overall: &[Overall],
    ) -> String {
        let parts = results.iter().enumerate().map(|(number, result)| {
            let runs = &runs[number * self.per_scenario()..][..self.per_scenario()];
            let first = runs.iter().step_by(self.options.seeds as usize);
            let over_time = first.filter_map(|done| done.as_ref()?.over_time.as_ref());
            report::Part {
                scenario: &self.scenarios[number],
                result,
                over_time: over_time.collect(),
            }
        });
        let parts: Vec<_> = parts.collect();
        report::report(&parts, overall, self.options.seeds, self.options.first_seed)
    }
}

/// Prints the tables in order, each as soon as its scenario is complete. Writes the report at the
/// end.
fn report(
    tasks: &Tasks<'_>,
    results: &Receiver<(usize, Option<Done>)>,
    html: Option<(&str, &mut File)>,
) -> ExitCode {
    let mut runs: Vec<Option<Done>> = (0..tasks.count()).map(|_| None).collect();
    let mut complete = Vec::new();
    let shows_progress = io::stderr().is_terminal() || tasks.options.progress;
    let begun = Instant::now();
    for (done, (number, run)) in results.iter().enumerate() {
        runs[number] = run;
        if shows_progress {
            let (scenario, contender, seed) = tasks.get(number);
            let (done, count) = (done + 1, tasks.count());
            let left = time_left(begun.elapsed(), done, count);
            let name = scenario.name.escape_debug();
            eprint!("\r\x1b[K{done}/{count}: {name} {contender} seed {seed}{left}");
        }
        while complete.len() < tasks.scenarios.len() {
            let first = complete.len() * tasks.per_scenario();
            if runs[first..first + tasks.per_scenario()].iter().any(Option::is_none) {
                break;
            }
            let result = tasks.result(complete.len(), &runs);
            if shows_progress {
                eprint!("\r\x1b[K");
            }
            if !tasks.options.json {
                let text = if tasks.options.random == 0 {
                    scenario_table(&tasks.scenarios[complete.len()], &result)
                } else {
                    scenario_line(&result, complete.is_empty())
                };
                if print(&text) != ExitCode::SUCCESS {
                    return ExitCode::FAILURE;
                }
            } else if !shows_progress {
                eprintln!("lab: {} done", result.name);
            }
            complete.push(result);
        }
    }
    let overall = Overall::of(&complete);
    if let Some((file, open)) = html {
        let text = tasks.html(&complete, &runs, &overall);
        if let Err(error) = open.write_all(text.as_bytes()) {
            eprintln!("lab: {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if tasks.options.json {
        let json = serde_json::json!({ "scenarios": complete, "summary": overall });
        return print(&format!("{json:#}\n"));
    }
    print(&summary_table(complete.len(), tasks.options.seeds, &overall))
}

/// Returns the estimated time left as text; empty during the first two seconds.
fn time_left(elapsed: Duration, done: usize, count: usize) -> String {
    if elapsed < Duration::from_secs(2) || done == 0 {
        return String::new();
    }
    let left = elapsed.as_secs_f64() * (count - done) as f64 / done as f64;
    if left < 90.0 {
        format!(", {left:.0} s left")
    } else {
        format!(", {:.0} min left", left / 60.0)
    }
}

enum Unready {
    Refused(String),
    Unread(String),
}

fn scenarios(options: &Options) -> Result<Vec<Scenario>, Unready> {
    let mut scenarios = Vec::new();
    for name in &options.scenarios {
        if name == WIDE {
            scenarios.extend(wide_catalogue());
        } else {
            scenarios.push(named(name).map_err(Unready::Refused)?);
        }
    }
    scenarios.extend(random_scenarios(options.random_seed, options.random, options.half));
    for file in &options.files {
        let text = fs::read_to_string(file)
            .map_err(|error| Unready::Unread(format!("{file}: {error}")))?;
        let mut scenario = Scenario::from_json(&text)
            .map_err(|error| Unready::Refused(format!("{file}:{error}")))?;
        let folder = Path::new(file).parent().unwrap_or_else(|| Path::new(""));
        scenario
            .load_trace(|trace| fs::read_to_string(folder.join(trace)))
            .map_err(|error| Unready::Refused(format!("{file}: arrivals.trace: {error}")))?;
        scenarios.push(scenario);
    }
    if scenarios.is_empty() {
        scenarios = catalogue();
    }
    Ok(scenarios.into_iter().map(|scenario| scenario.scaled(options.duration_scale)).collect())
}

fn named(name: &str) -> Result<Scenario, String> {
    let mut all = catalogue().into_iter().chain(wide_catalogue());
    let found = all.find(|scenario| scenario.name == name).or_else(|| random_named(name));
    found.ok_or_else(|| format!("no scenario {name:?}, see --list"))
}

fn list() -> String {
    let described = |scenarios: Vec<Scenario>| -> String {
        scenarios.into_iter().map(|s| format!("  {:15}{}\n", s.name, s.about)).collect()
    };
    let lines = |contenders: Vec<Contender>| -> String {
        contenders.into_iter().map(|contender| format!("  {contender}\n")).collect()
    };
    let (policies, baselines) = (lines(Contender::all()), lines(Contender::baselines()));
    let (scenarios, wide) = (described(catalogue()), described(wide_catalogue()));
    format!("scenarios:\n{scenarios}{WIDE}:\n{wide}policies:\n{policies}baselines:\n{baselines}")
}

/// The argument for the scenarios of the second catalogue.
const WIDE: &str = "wide";

fn print(text: &str) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("lab: {error}");
    ExitCode::from(2)
}
