//! The whole demonstration by one command: the proxy and the servers A and B.
//!
//! Each of the three is a process of its own, run out of this same executable by `--role`, so that
//! one build step is enough. Their log lines come out here, labelled. They end in order: first the
//! proxy, which still needs the servers for its requests in flight, then the servers.
//!
//! A child ends when its standard input does. That holds however this process ends, a SIGKILL
//! included, so nothing is left running; and because the children are in process groups of their
//! own, Ctrl-C in the terminal reaches this process alone and each child is notified exactly once.
mod child;
mod launcher;
mod options;

use std::env;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::thread;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level;

use crate::launcher::Launcher;
use crate::options::Command;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let [flag, role, rest @ ..] = arguments.as_slice()
        && flag == ROLE_FLAG
    {
        return run_role(role, rest.to_vec());
    }
    match options::parse(arguments, |name| env::var(name).ok()) {
        Ok(Command::Help) => {
            print!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Ok(Command::Run(options)) => Launcher::run(&options),
        Err(error) => {
            eprintln!("all: {error}");
            ExitCode::from(2)
        }
    }
}

/// Is one of the three, until standard input ends.
fn run_role(role: &OsString, arguments: Vec<OsString>) -> ExitCode {
    thread::spawn(|| {
        // The end and a failure mean the same: the launcher is gone or wants this process to go.
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        drop(low_level::raise(SIGTERM));
    });
    if role == "proxy" {
        intelliproxy::cli::main([OsString::from("intelliproxy")].into_iter().chain(arguments))
    } else {
        intelliproxy_sim::cli::main([role.clone()].into_iter().chain(arguments))
    }
}

/// Makes this executable one of the three; for the launcher, not for users.
const ROLE_FLAG: &str = "--role";
