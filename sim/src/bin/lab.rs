//! The lab: routing policies compared on scenarios, in virtual time.
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    intelliproxy_sim::lab::main(arguments)
}
