//! The launcher's options. Nearly all belong to the proxy.
use std::ffi::OsString;
use std::time::Duration;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};
use intelliproxy_sim::Preset;

/// The command of the command line.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Command {
    /// Print the help text.
    Help,
    /// Run the demonstration.
    Run(Options),
}

/// Settings of the demonstration.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// The port of server A; 0 for any free one.
    pub(crate) port_a: u16,
    /// The port of server B; 0 for any free one.
    pub(crate) port_b: u16,
    /// The port of the admin pages; 0 for any free one, `None` if the proxy's arguments set it.
    pub(crate) port_admin: Option<u16>,
    /// The proxy's arguments.
    pub(crate) proxy_arguments: Vec<OsString>,
    /// Whether the proxy's arguments name backends.
    pub(crate) names_backends: bool,
    /// The period of the faults, if there are traffic and faults.
    pub(crate) demo: Option<Duration>,
    /// Arguments of both servers, for a demonstration whose only faults are the announced ones.
    pub(crate) server_arguments: Vec<OsString>,
}

/// Reads arguments (without the program's name) and the environment's variables.
pub(crate) fn parse(
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Command, ArgumentError> {
    let (mut names_backends, mut names_admin) = (false, false);
    let (arguments, demo) = take_demo(arguments)?;
    let mut proxy_arguments = Arguments::new(arguments.iter().cloned(), []);
    // The launcher does not know which of the proxy's flags take a value, so it checks each
    // argument separately. The proxy refuses invalid ones.
    while let Ok(Some(argument)) = proxy_arguments.next() {
        if let Argument::Flag(flag) = argument {
            match flag.as_str() {
                "-h" | "--help" => return Ok(Command::Help),
                "--backend" => names_backends = true,
                "--admin" => names_admin = true,
                "--config" => (names_backends, names_admin) = (true, true),
                _ => {}
            }
        }
        drop(proxy_arguments.inline_value());
    }
    let port = |name: &str, preset: u16| match variable(name) {
        None => Ok(preset),
        Some(value) => {
            value.parse().map_err(|_| ArgumentError::value(name, "a port from 0 to 65535", &value))
        }
    };
    if demo.is_some() && names_backends {
        return Err(ArgumentError::new(DEMO, "not together with --backend or --config"));
    }
    let calm = CALM.iter().filter(|(name, ..)| demo.is_some() && variable(name).is_none());
    let calm = calm.flat_map(|(_, flag, value)| [OsString::from(flag), OsString::from(value)]);
    Ok(Command::Run(Options {
        demo,
        server_arguments: calm.collect(),
        port_a: port("A_PORT", Preset::A.port())?,
        port_b: port("B_PORT", Preset::B.port())?,
        port_admin: if names_admin { None } else { Some(port("ADMIN_PORT", ADMIN_PORT)?) },
        proxy_arguments: arguments,
        names_backends,
    }))
}

/// Removes the launcher's own arguments. Returns the others, and the period of the faults.
fn take_demo(arguments: Vec<OsString>) -> Result<(Vec<OsString>, Option<Duration>), ArgumentError> {
    let (mut is_demo, mut period) = (false, None);
    let mut others = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let text = argument.to_string_lossy();
        if text == DEMO {
            is_demo = true;
        } else if let Some(value) =
            text.strip_prefix(PERIOD).and_then(|rest| rest.strip_prefix('='))
        {
            let millis = value.parse().ok().filter(|millis| (100..=3_600_000).contains(millis));
            let allowed = "a whole number from 100 to 3600000";
            let wrong = || ArgumentError::value(PERIOD, allowed, value);
            period = Some(Duration::from_millis(millis.ok_or_else(wrong)?));
        } else {
            others.push(argument);
        }
    }
    if period.is_some() && !is_demo {
        return Err(ArgumentError::new(PERIOD, "only together with --demo"));
    }
    Ok((others, is_demo.then_some(period.unwrap_or(DEMO_PERIOD))))
}

const DEMO: &str = "--demo";
const PERIOD: &str = "--demo-period-ms";
/// Long enough to see a fault begin, have its effect and end.
const DEMO_PERIOD: Duration = Duration::from_secs(20);
/// Parameters of the servers in a demonstration, unless a variable sets them: few faults of their
/// own, and little work for the machine.
const CALM: [(&str, &str, &str); 6] = [
    ("P_G_TO_B", "--p-g-to-b", "0"),
    ("LOSS_IN_G", "--loss-in-g", "0"),
    ("OVERLOAD_DROP_MULTIPLIER", "--overload-drop-multiplier", "0"),
    ("ERR_RATE", "--err-rate", "0.002"),
    ("SLOW_RATE", "--slow-rate", "0.02"),
    ("CPU_LOAD_MS", "--cpu-load-ms", "2"),
];

/// The port of the admin pages.
const ADMIN_PORT: u16 = 3003;

/// The help text.
pub(crate) const HELP: &str = "\
Starts the proxy IntelliProxy and the simulated servers A and B, shows the log lines of
all three, and ends them on Ctrl-C.

Usage: all [--demo] [PROXY OPTIONS]
       all top|stats|ctl [ARGUMENT]...  runs this command of the proxy program

  --demo  also makes 50 requests a second, and every 20 s a fault in turn for 10 s: slow,
          errors, silent, gone. The log names it and the server that has it, which is the
          one with the most traffic. The servers have few other faults.
  --demo-period-ms=N  with --demo: a fault every N ms (20000), for half of that time

Every other argument is handed to the proxy; `cargo proxy --help` explains them. Examples:
  cargo all --demo --policy learned
  cargo all --listen 127.0.0.1:8080

Environment:
  A_PORT  port of server A (3000), 0: any that is free
  B_PORT  port of server B (3002), 0: any that is free
  ADMIN_PORT  port of the proxy's admin pages (3003), 0: any that is free
  and those of `cargo A --help` but PORT, for both servers: SLOW_RATE=0.5 cargo all

Exit codes: 0 after Ctrl-C or SIGTERM, 1 when one of the three ends by itself, 2 for a
bad variable.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command, ArgumentError> {
        parse(arguments.iter().map(OsString::from).collect(), |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// Arguments are passed to the proxy unchanged, and the launcher detects whether they name
    /// backends.
    #[test]
    fn arguments_are_the_proxys() {
        let admin = Some(3003);
        for (arguments, names_backends, port_admin) in [
            (&[][..], false, admin),
            (&["--policy", "learned"], false, admin),
            (&["--backends", "--listen=127.0.0.1:2"], false, admin),
            (&["--config", "x.json"], true, None),
            (&["--config=x.json"], true, None),
            (&["--listen", "[::1]:1", "--backend", "X=http://x"], true, admin),
            (&["--backend=X=http://x"], true, admin),
            (&["--admin=127.0.0.1:1"], false, None),
            (&["--listen=--config", "--policy=--help"], false, admin),
        ] {
            assert_eq!(
                options(arguments, &[]),
                Ok(Command::Run(Options {
                    port_a: 3000,
                    port_b: 3002,
                    port_admin,
                    proxy_arguments: arguments.iter().map(OsString::from).collect(),
                    names_backends,
                    demo: None,
                    server_arguments: Vec::new(),
                }))
            );
        }
    }

    /// `--demo` is the launcher's own. It reduces the servers' faults, except those that a variable
    /// sets.
    #[test]
    fn a_demonstration_is_asked_for() {
        let Ok(Command::Run(read)) = options(&["--policy", "p2c", "--demo"], &[]) else {
            panic!("it is valid");
        };
        assert_eq!(read.demo, Some(Duration::from_secs(20)));
        assert_eq!(read.proxy_arguments, ["--policy", "p2c"]);
        assert_eq!(read.server_arguments.len(), 2 * CALM.len());
        let period = options(&["--demo", "--demo-period-ms=400"], &[("CPU_LOAD_MS", "9")]);
        let Ok(Command::Run(read)) = period else { panic!("it is valid") };
        assert_eq!(read.demo, Some(Duration::from_millis(400)));
        assert!(!read.server_arguments.contains(&"--cpu-load-ms".into()));
        for (arguments, wrong) in [
            (&["--demo", "--config", "x"][..], "--demo: not together with --backend or --config"),
            (&["--demo-period-ms=400"], "--demo-period-ms: only together with --demo"),
            (
                &["--demo-period-ms=1"],
                "--demo-period-ms: must be a whole number from 100 to 3600000, not \"1\"",
            ),
        ] {
            assert_eq!(options(arguments, &[]).unwrap_err().to_string(), wrong);
        }
    }

    /// The servers' ports come from their variables.
    #[test]
    fn ports_come_from_variables() {
        let ports = [("A_PORT", "0"), ("B_PORT", "65535"), ("ADMIN_PORT", "1")];
        let Ok(Command::Run(options)) = options(&[], &ports) else {
            panic!("ports are no reason to refuse");
        };
        assert_eq!((options.port_a, options.port_b, options.port_admin), (0, 65535, Some(1)));
    }

    /// Errors for invalid ports name the variable.
    #[test]
    fn bad_ports_are_refused() {
        for value in ["-1", "65536", "x", ""] {
            let error = options(&[], &[("B_PORT", value)]).unwrap_err().to_string();
            assert_eq!(error, format!("B_PORT: must be a port from 0 to 65535, not {value:?}"));
        }
    }

    /// `--help` prints this program's help.
    #[test]
    fn help_is_not_passed_on() {
        assert_eq!(options(&["--policy", "x", "--help"], &[]), Ok(Command::Help));
    }
}
