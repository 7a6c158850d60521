//! The `intelliproxy` binary; all of it is in the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    intelliproxy::cli::main(std::env::args_os())
}
