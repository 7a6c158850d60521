//! The program: from its arguments to its exit code.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | it served until a signal requested its end, or `--help`, `--version`, `--check` or `--print-config` succeeded |
//! | 1 | it could not run (a port is in use, a file cannot be opened), or `--check` found a fault outside the file (a name does not resolve) |
//! | 2 | an argument or the configuration file is invalid |
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use log::{info, warn};

use crate::config::{Config, Found, ListenAddress};
use crate::edge::activation;
use crate::edge::discovery::{read_backends, unused_line};
use crate::edge::disk;
use crate::edge::early::Early;
use crate::edge::folders;
use crate::edge::handover::Taken;
use crate::edge::logging;
use crate::edge::notify::Environment;
use crate::edge::reload::Source;
use crate::edge::resolve::{known, resolve};
use crate::edge::setup::Setup;
use crate::edge::state;
use crate::edge::upgrade::{self, Program};
use crate::edge::user::User;
use crate::plain::{os_error_text, plain, plain_lines};
use crate::reactor;

mod command;
mod ctl;
mod flags;
mod generate;
mod help;
mod replay;
mod top;

pub use command::{Command, UsageError};

/// Runs the program with its arguments, the first of which is its own name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.peekable();
    let name = args.next();
    if args.next_if(|arg| arg == "replay").is_some() {
        return replay::main(args);
    }
    if args.next_if(|arg| arg == "ctl").is_some() {
        return ctl::main(args);
    }
    if args.next_if(|arg| arg == "generate").is_some() {
        return generate::main(args);
    }
    if args.next_if(|arg| arg == "top").is_some() {
        return top::top(args);
    }
    if args.next_if(|arg| arg == "stats").is_some() {
        return top::stats(args);
    }
    // SIGHUP, SIGUSR1 and SIGUSR2 must not end the program while it starts; SIGTERM and SIGINT may.
    let early = Early::catch();
    let args: Vec<OsString> = args.collect();
    let read_file = |path: &Path| read_file_within(path, READ_TIME);
    match Command::parse(args.iter().cloned(), read_file) {
        Ok(Command::Run { config, file, user }) => {
            let start = Start { name, args, early, user };
            run(*config, file, start)
        }
        Ok(Command::Check { config, file, is_offline }) => {
            check(config, file.as_deref(), is_offline)
        }
        Ok(Command::PrintConfig { config }) => print(&config.to_json()),
        Ok(Command::Help) => print(help::text().trim_end()),
        Ok(Command::Version) => print(concat!("intelliproxy ", env!("CARGO_PKG_VERSION"))),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Reports that the configuration is valid, and which parts of it are not used. Resolves its names
/// unless `is_offline` is set.
fn check(config: Box<Config>, file: Option<&str>, is_offline: bool) -> ExitCode {
    if let Some(line) = state::unused(&config) {
        complain(&line);
    }
    if let Some(line) = state::unusable(&config).or_else(|| folders::missing(&config)) {
        complain(&line);
        return ExitCode::FAILURE;
    }
    if !is_offline {
        let wanted = config.clone();
        match resolve_within(config, READ_TIME) {
            Ok(found) => unused_line(&wanted, &found).iter().for_each(|line| complain(line)),
            Err(line) => {
                complain(&line);
                return ExitCode::FAILURE;
            }
        }
    }
    let prefix = file.map_or_else(String::new, |file| format!("{file}: "));
    print(&format!("{prefix}configuration is valid"))
}

/// The circumstances of the start of this process.
struct Start {
    /// The name by which the program was called.
    name: Option<OsString>,
    /// Its arguments.
    args: Vec<OsString>,
    /// The signals received so far.
    early: io::Result<Early>,
    /// The user that the process becomes.
    user: Option<String>,
}

/// Serves until a signal ends the program. SIGHUP reads the file again with the same arguments;
/// SIGUSR2 starts the program again with them.
fn run(config: Config, file: Option<String>, start: Start) -> ExitCode {
    if let Some(line) = folders::missing(&config) {
        complain(&line);
        return ExitCode::FAILURE;
    }
    // This precedes the start of the log: the user can change only while the process has a single
    // thread.
    let rules = config.log.clone();
    let setup = match set_up(config, &start) {
        Ok(setup) => setup,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let log = match logging::start(&rules) {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("cannot start the log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let Start { args, early, .. } = start;
    let mut setup = setup;
    // This follows the start of the log, which gets lines about names that do not resolve.
    let result = setup.find().and_then(|()| {
        reactor::serve(Setup {
            log: log.watch(),
            early: early.ok(),
            reload: Some(Source::new(move || reload(file.as_deref(), &args))),
            ..setup
        })
    });
    log.finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Takes over the listeners of the process that started this one, or of the service manager, and
/// opens the remaining ones. Then becomes the configured user.
fn set_up(config: Config, start: &Start) -> Result<Setup, String> {
    let user = start.user.as_deref().map(User::find).transpose()?;
    let taken = match upgrade::take_over()? {
        Some(taken) => taken,
        None => Taken { listeners: activation::take()?, ..Taken::default() },
    };
    let mut setup = Setup::following(config, Some(taken))?;
    if let Some(user) = user {
        user.become_it(&setup.config)?;
    }
    setup.manager = Environment::current();
    match Program::new(start.name.as_deref(), start.args.clone()) {
        Ok(program) => setup.program = Some(program),
        Err(error) => complain(&format!("SIGUSR2 will be ignored: {}", os_error_text(&error))),
    }
    Ok(setup)
}

/// Reads the configuration file again and applies the arguments.
fn reload(file: Option<&str>, args: &[OsString]) -> Result<Config, String> {
    match file {
        Some(file) => info!("reading {file} again"),
        None => info!("no --config FILE, so only the backends' names are resolved again"),
    }
    let command = Command::parse(args.iter().cloned(), read_file);
    let Command::Run { config, .. } = command.map_err(|error| error.to_string())? else {
        // The arguments are the same as at startup, so this does not occur.
        return Err("these arguments serve nothing".to_owned());
    };
    if let Some(line) = state::unusable(&config).or_else(|| folders::missing(&config)) {
        return Err(line);
    }
    if let Some(line) = state::unused(&config) {
        warn!("{line}");
    }
    Ok(*config)
}

/// Resolves all names of a configuration and reads its watched file, for at most `time`. Returns
/// the backends.
fn resolve_within(config: Box<Config>, time: Duration) -> Result<Found, String> {
    let (sender, resolved) = crossbeam_channel::bounded(1);
    let work = move || {
        // If the time is up, the result is dropped.
        let _ = sender.send(names(&config));
    };
    let thread = thread::Builder::new().name("names".to_owned()).spawn(work);
    thread.map_err(|error| format!("cannot start a thread: {}", os_error_text(&error)))?;
    let late = || format!("resolving names took longer than {} ms", time.as_millis());
    resolved.recv_timeout(time).unwrap_or_else(|_| Err(late()))
}

/// Resolves the names of backends and listeners. Returns the backends that the proxy would use.
fn names(config: &Config) -> Result<Found, String> {
    let file = config.discovery.file.as_ref();
    let file = file.map_or_else(|| Ok(Vec::new()), |file| read_backends(file))?;
    let found = config.found(&known(config, file)?)?;
    let used = Config { backends: found.backends.clone(), ..config.clone() };
    used.validate().map_err(|error| format!("backends that were found: {error}"))?;
    let admin = config.admin.listen.as_deref();
    for address in config.listen.iter().map(|listen| listen.address.as_str()).chain(admin) {
        let fail = |wrong: String| format!("cannot listen on {address}: {wrong}");
        let parsed = ListenAddress::parse(address).map_err(|error| fail(error.to_string()))?;
        let host = &parsed.host;
        resolve(host, parsed.port)
            .map_err(|wrong| fail(format!("cannot resolve {host}: {wrong}")))?;
    }
    Ok(found)
}

/// Reads a file of at most [`FILE_BYTES_MAX`] bytes.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    disk::read_bounded(File::open(path)?, FILE_BYTES_MAX)
}

/// Reads a file as [`read_file`] does, and gives up after `time`: a pipe without a writer, or a
/// dead mount, would block startup forever. A thread that hangs ends with the process.
fn read_file_within(path: &Path, time: Duration) -> io::Result<Vec<u8>> {
    let (sender, read) = crossbeam_channel::bounded(1);
    let owned = path.to_owned();
    let reader = thread::Builder::new().name("config".to_owned()).spawn(move || {
        // If the time is up, the result is dropped.
        let _ = sender.send(read_file(&owned));
    })?;
    match read.recv_timeout(time) {
        Ok(result) => {
            // The thread is ending. Waits for its end, because `--user` needs a process with one
            // thread.
            let _ = reader.join();
            result
        }
        Err(_) => {
            let wrong = format!("reading took longer than {} ms", time.as_millis());
            Err(io::Error::other(wrong))
        }
    }
}

/// Prints to stdout. Ignores a closed stdout.
fn print(text: &str) -> ExitCode {
    let _ = writeln!(io::stdout(), "{}", plain_lines(text));
    ExitCode::SUCCESS
}

/// Prints one line about a fault to stderr.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "intelliproxy: {}", plain(text));
}

/// The time limit for reading the configuration, at startup and for `--check`, and for resolving
/// its names for `--check`. The same as the default of `timeouts.reloadMs`.
const READ_TIME: Duration = Duration::from_secs(30);
/// Exit code for invalid arguments and files.
const EXIT_USAGE: u8 = 2;
/// The maximum size of a configuration file, in bytes. A thousand backends, each with a name and a
/// URL of 25 characters, take 75 kB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::Folder;

    /// A file is read. Reading a pipe without a writer ends with an error.
    #[test]
    fn a_silent_pipe_is_given_up() {
        let folder = Folder::new("config");
        let (file, pipe) = (folder.file("file"), folder.pipe("pipe"));
        fs::write(&file, "{}").expect("a file");
        assert_eq!(read_file_within(&file, READ_TIME).expect("it is short"), b"{}");
        let error =
            read_file_within(&pipe, Duration::from_millis(20)).expect_err("it has no writer");
        assert_eq!(error.to_string(), "reading took longer than 20 ms");
        // Lets the abandoned thread end: it still waits for a writer.
        fs::write(&pipe, "{}").expect("a reader waits");
    }
}
