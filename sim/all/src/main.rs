//! The whole demonstration by one command: the proxy and the servers A and B.
//!
//! Each of the three is a separate process that runs this executable with `--role`, so that one
//! build step is enough. This process prints their log lines with labels. They end in order: first
//! the proxy, which still needs the servers for its requests in flight, then the servers.
//!
//! A child ends when its standard input ends. That happens however this process ends, even by a
//! SIGKILL, so that no process is left. The children are in their own process groups, so Ctrl-C in
//! the terminal reaches only this process, and each child is notified exactly once.
mod child;
mod demo;
mod launcher;
mod options;
mod traffic;

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level;

use crate::demo::Order;
use crate::launcher::Launcher;
use crate::options::Command;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let [flag, role, rest @ ..] = arguments.as_slice()
        && flag == ROLE_FLAG
    {
        return run_role(role, rest.to_vec());
    }
    if arguments.first().is_some_and(|first| COMMANDS.iter().any(|name| first == name)) {
        // This executable contains them, so that they need no other build.
        return intelliproxy::cli::main(
            [OsString::from("intelliproxy")].into_iter().chain(arguments),
        );
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

/// Runs one of the three until standard input ends. Its lines are orders for a server.
fn run_role(role: &OsString, arguments: Vec<OsString>) -> ExitCode {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if let Some(order) = Order::outage_in(&line) {
                // Without a receiver the server is ending.
                let _ = sender.send(order);
            }
        }
        // The end of stdin and an error mean the same: the launcher has ended, or requests the end
        // of this process.
        drop(low_level::raise(SIGTERM));
    });
    if role == "proxy" {
        intelliproxy::cli::main([OsString::from("intelliproxy")].into_iter().chain(arguments))
    } else {
        intelliproxy_sim::cli::main_with([role.clone()].into_iter().chain(arguments), orders)
    }
}

/// The proxy's commands for a running proxy.
const COMMANDS: [&str; 3] = ["top", "stats", "ctl"];
/// Selects one of the three roles. For the launcher, not for users.
const ROLE_FLAG: &str = "--role";
