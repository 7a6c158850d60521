//! The lab: routing policies compared on scenarios, in virtual time.
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    intelliproxy_lab::main(env::args_os().skip(1))
}
