//! A command of the control socket: one line of text.
use intelliproxy_core::{BackendLimits, Mode, PolicyKind};

/// A command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    /// Take a backend out of service, or back.
    Service { backend: String, mode: Mode },
    /// Set a backend's relative capacity, percent.
    Weight { backend: String, weight: u32 },
    /// Route by another policy.
    Policy(PolicyKind),
    /// Read the configuration again.
    Reload,
    /// The text of /stats.
    Stats,
    /// The figures of the proxy as a whole, which are header fields of /stats.
    Totals,
    /// Whether the proxy can serve requests.
    Readiness,
}

impl Command {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// A description of the fault in the line.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().ok_or("empty command")?;
        let mut value = |what: &str| {
            words.next().map(str::to_owned).ok_or_else(|| format!("{name}: needs {what}"))
        };
        let command = match name {
            "drain" => Self::Service { backend: value(BACKEND)?, mode: Mode::Drain },
            "maintain" => Self::Service { backend: value(BACKEND)?, mode: Mode::Maintain },
            "ready" => words.next().map_or(Self::Readiness, |backend| Self::Service {
                backend: backend.to_owned(),
                mode: Mode::Ready,
            }),
            "weight" => {
                let (backend, text) = (value(BACKEND)?, value("a number")?);
                let most = BackendLimits::WEIGHT_MAX;
                let weight = text.parse().ok().filter(|weight| *weight <= most);
                let wrong = || format!("weight: must be a whole number from 0 to {most}");
                Self::Weight { backend, weight: weight.ok_or_else(wrong)? }
            }
            "policy" => {
                let text = value("a name")?;
                Self::Policy(PolicyKind::named(&text).ok_or_else(|| {
                    let names = PolicyKind::ALL.map(PolicyKind::name).join(", ");
                    format!("policy: must be one of {names}")
                })?)
            }
            "reload" => Self::Reload,
            "stats" => Self::Stats,
            "totals" => Self::Totals,
            _ => {
                let names = NAMES.join(", ");
                return Err(format!("{name}: no such command; the commands are {names}"));
            }
        };
        match words.next() {
            Some(_) => Err(format!("{name}: takes no further words")),
            None => Ok(command),
        }
    }

    /// The line of the command.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Service { backend, mode } => format!("{} {backend}", mode.name()),
            Self::Weight { backend, weight } => format!("weight {backend} {weight}"),
            Self::Policy(policy) => format!("policy {}", policy.name()),
            Self::Reload => "reload".to_owned(),
            Self::Stats => "stats".to_owned(),
            Self::Totals => "totals".to_owned(),
            Self::Readiness => "ready".to_owned(),
        }
    }
}

/// The names of all commands.
const NAMES: [&str; 8] =
    ["drain", "ready", "maintain", "weight", "policy", "reload", "stats", "totals"];
const BACKEND: &str = "the name of a backend";

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command is read and written as the same line. All other lines are refused with the
    /// reason; row by row.
    #[test]
    fn lines_are_read() {
        for line in [
            "drain A",
            "ready b-1.x",
            "maintain A",
            "weight A 0",
            "weight A 1000",
            "policy least_request",
            "reload",
            "stats",
            "totals",
            "ready",
        ] {
            let command = Command::parse(line).expect(line);
            assert_eq!(command.line(), line);
            assert_eq!(Command::parse(&format!("  {}\t", line.replace(' ', "  "))), Ok(command));
        }
        let range = "weight: must be a whole number from 0 to 1000";
        let names = "drain, ready, maintain, weight, policy, reload, stats, totals";
        let rows = [
            ("", "empty command".to_owned()),
            ("drain", "drain: needs the name of a backend".to_owned()),
            ("weight A", "weight: needs a number".to_owned()),
            ("weight A 1001", range.to_owned()),
            ("weight A -1", range.to_owned()),
            ("weight A 1.5", range.to_owned()),
            ("reload now", "reload: takes no further words".to_owned()),
            ("drain A B", "drain: takes no further words".to_owned()),
            ("ready A B", "ready: takes no further words".to_owned()),
            ("Drain A", format!("Drain: no such command; the commands are {names}")),
        ];
        for (line, wrong) in rows {
            assert_eq!(Command::parse(line), Err(wrong), "{line}");
        }
        let wrong = Command::parse("policy best").expect_err("unknown");
        assert!(wrong.starts_with("policy: must be one of score, learned, "), "{wrong}");
    }
}
