//! What the launcher is asked for; nearly everything is the proxy's.
use std::error::Error;
use std::ffi::OsString;
use std::fmt;

use intelliproxy_sim::Preset;

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Command {
    /// Print the help text.
    Help,
    /// Run the demonstration.
    Run(Options),
}

/// How the demonstration is run.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// The port of server A.
    pub(crate) port_a: u16,
    /// The port of server B.
    pub(crate) port_b: u16,
    /// Where the proxy will listen; `None` when only its configuration file says so.
    pub(crate) proxy_address: Option<String>,
    /// The proxy's arguments.
    pub(crate) proxy_arguments: Vec<OsString>,
}

/// A variable that holds no port.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct UsageError {
    variable: &'static str,
    value: String,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:?} is not a port from 1 to 65535",
            self.variable, self.value
        )
    }
}

impl Error for UsageError {}

/// Reads arguments (without the program's name) and the environment's variables.
pub(crate) fn parse(
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Command, UsageError> {
    if arguments
        .iter()
        .any(|argument| argument == "-h" || argument == "--help")
    {
        return Ok(Command::Help);
    }
    let port = |name: &'static str, preset: Preset| match variable(name) {
        None => Ok(preset.port()),
        Some(value) => match value.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(UsageError {
                variable: name,
                value,
            }),
        },
    };
    let port_a = port("A_PORT", Preset::A)?;
    let port_b = port("B_PORT", Preset::B)?;
    let has_config = value_of("--config", &arguments).is_some();
    let listen = value_of("--listen", &arguments);
    let mut proxy_arguments = Vec::new();
    let are_elsewhere = (port_a, port_b) != (Preset::A.port(), Preset::B.port());
    if are_elsewhere && !has_config && value_of("--backend", &arguments).is_none() {
        for (name, port) in [("A", port_a), ("B", port_b)] {
            let backend = format!("{name}=http://localhost:{port}");
            proxy_arguments.extend(["--backend".into(), backend.into()]);
        }
    }
    proxy_arguments.extend(arguments);
    let proxy_address = listen.or_else(|| (!has_config).then(|| PROXY_ADDRESS.to_owned()));
    Ok(Command::Run(Options {
        port_a,
        port_b,
        proxy_address,
        proxy_arguments,
    }))
}

/// The value of a flag, in the forms `--flag value` and `--flag=value`; the last one counts.
fn value_of(flag: &str, arguments: &[OsString]) -> Option<String> {
    let mut value = None;
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        if argument == flag {
            value = arguments.next().map(|next| next.into_owned());
        } else if let Some(inline) = argument.strip_prefix(flag)
            && let Some(inline) = inline.strip_prefix('=')
        {
            value = Some(inline.to_owned());
        }
    }
    value
}

/// Where the proxy listens unless it is told otherwise.
const PROXY_ADDRESS: &str = "127.0.0.1:3001";

/// The help text.
pub(crate) const HELP: &str = "\
Starts the proxy IntelliProxy and the simulated servers A and B, shows the log lines of
all three, and ends them on Ctrl-C.

Usage: all [PROXY OPTIONS]

Every argument is handed to the proxy; `cargo proxy --help` explains them. Examples:
  cargo all --policy learned
  cargo all --listen 127.0.0.1:8080

Environment:
  A_PORT  port of server A (3000)
  B_PORT  port of server B (3002)
  and those of `cargo A --help` but PORT, for both servers: SLOW_RATE=0.5 cargo all

Exit codes: 0 after Ctrl-C or SIGTERM, 1 when one of the three ends by itself, 2 for a
bad variable.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command, UsageError> {
        parse(arguments.iter().map(OsString::from).collect(), |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// Arguments pass to the proxy as they are; its address is known from the last --listen, from
    /// its default, or not at all.
    #[test]
    fn arguments_are_the_proxys() {
        for (arguments, address) in [
            (&[][..], Some("127.0.0.1:3001")),
            (&["--policy", "learned"], Some("127.0.0.1:3001")),
            (
                &["--listen", "[::1]:1", "--listen=127.0.0.1:2"],
                Some("127.0.0.1:2"),
            ),
            (&["--config", "x.json"], None),
            (&["--config=x.json", "--listen", "[::1]:1"], Some("[::1]:1")),
        ] {
            assert_eq!(
                options(arguments, &[]),
                Ok(Command::Run(Options {
                    port_a: 3000,
                    port_b: 3002,
                    proxy_address: address.map(str::to_owned),
                    proxy_arguments: arguments.iter().map(OsString::from).collect(),
                }))
            );
        }
    }

    /// Servers on other ports are announced to the proxy, unless the user names backends himself.
    #[test]
    fn other_ports_are_announced() {
        let moved = &[("A_PORT", "4000")];
        let announced = ["--backend", "A=http://localhost:4000", "--backend"];
        let Ok(Command::Run(with)) = options(&["--policy", "p2c"], moved) else {
            panic!("a port is no reason to refuse");
        };
        assert_eq!((with.port_a, with.port_b), (4000, 3002));
        assert_eq!(with.proxy_arguments[..3], announced.map(OsString::from));
        assert_eq!(with.proxy_arguments[3], "B=http://localhost:3002");
        for own in [&["--backend", "X=http://x"][..], &["--config", "x.json"]] {
            let Ok(Command::Run(without)) = options(own, moved) else {
                panic!("a port is no reason to refuse");
            };
            assert_eq!(without.proxy_arguments.len(), own.len());
        }
    }

    /// Ports that are none are refused by the variable's name.
    #[test]
    fn bad_ports_are_refused() {
        for value in ["0", "65536", "x", ""] {
            let error = options(&[], &[("B_PORT", value)]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("B_PORT: {value:?} is not a port from 1 to 65535")
            );
        }
    }

    /// Help is this program's own.
    #[test]
    fn help_is_not_passed_on() {
        assert_eq!(
            options(&["--policy", "x", "--help"], &[]),
            Ok(Command::Help)
        );
    }
}
