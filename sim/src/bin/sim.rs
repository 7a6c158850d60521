//! One simulated backend: `sim [A|B] [OPTIONS]`.
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    intelliproxy_sim::cli::main(env::args_os().skip(1))
}
