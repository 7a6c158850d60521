//! The levels of log lines: one for all modules, and exceptions for some.
use intelliproxy_core::sorting::sort_by;
use log::LevelFilter;

/// The lowest level that is written, for each module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Levels {
    /// The level of modules that are not named.
    others: LevelFilter,
    /// Paths of modules and their levels, the longest path first.
    modules: Vec<(String, LevelFilter)>,
}

impl Default for Levels {
    fn default() -> Self {
        Self { others: LevelFilter::Info, modules: Vec::new() }
    }
}

impl Levels {
    /// Parses `LEVEL`, or a list such as `info,proxy=debug,edge::state=warn`. A module includes
    /// those inside it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut others = None;
        let mut modules: Vec<(String, LevelFilter)> = Vec::new();
        for part in text.split(',') {
            match part.split_once('=') {
                None if others.is_none() => others = Some(level(part)?),
                None => return None,
                Some((module, of_module)) => {
                    let module = module.strip_prefix(CRATE).unwrap_or(module);
                    let is_new = modules.iter().all(|(known, _)| known != module);
                    if modules.len() == MODULES_MAX || !is_new || !is_path(module) {
                        return None;
                    }
                    modules.push((module.to_owned(), level(of_module)?));
                }
            }
        }
        sort_by(&mut modules, |one, other| other.0.len().cmp(&one.0.len()));
        Some(Self { others: others.unwrap_or(LevelFilter::Info), modules })
    }

    /// Returns the level of the module with this path in the program.
    pub(crate) fn of(&self, module: &str) -> LevelFilter {
        if self.modules.is_empty() {
            return self.others;
        }
        let module = module.strip_prefix(CRATE).unwrap_or(module);
        let is_inside = |path: &str| {
            let rest = module.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let named = self.modules.iter().find(|(path, _)| is_inside(path));
        named.map_or(self.others, |(_, level)| *level)
    }

    /// Returns the most detailed level of any module.
    pub(crate) fn lowest(&self) -> LevelFilter {
        self.modules.iter().map(|(_, level)| *level).fold(self.others, Ord::max)
    }
}

fn level(text: &str) -> Option<LevelFilter> {
    Some(match text {
        "error" => LevelFilter::Error,
        "warn" => LevelFilter::Warn,
        "info" => LevelFilter::Info,
        "debug" => LevelFilter::Debug,
        "trace" => LevelFilter::Trace,
        _ => return None,
    })
}

/// Whether a text is the path of a module, without its crate.
fn is_path(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    text.split("::").all(is_name)
}

/// The crate of the program's modules, which may be left out.
const CRATE: &str = "intelliproxy::";
/// The maximum number of modules with their own level. Each is compared with each line.
const MODULES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A text sets the level of a module or is invalid (`None`); row by row.
    #[test]
    fn modules_have_their_levels() {
        use LevelFilter::{Debug, Error, Info, Trace, Warn};
        let rows = [
            ("warn", "intelliproxy::proxy", Some(Warn)),
            ("proxy=debug", "intelliproxy::proxy::session", Some(Debug)),
            ("proxy=debug", "intelliproxy::edge", Some(Info)),
            ("proxy=debug,warn", "intelliproxy::edge", Some(Warn)),
            ("proxy=debug", "intelliproxy::proxying", Some(Info)),
            ("error,edge=info,edge::state=trace", "intelliproxy::edge::state", Some(Trace)),
            ("error,edge::state=trace,edge=info", "intelliproxy::edge::state", Some(Trace)),
            ("error,edge::state=trace,edge=info", "intelliproxy::edge", Some(Info)),
            ("error,intelliproxy::reactor=warn", "intelliproxy::reactor::accept", Some(Warn)),
            ("error,intelliproxy_core=warn", "intelliproxy_core::router", Some(Warn)),
            ("error", "", Some(Error)),
            ("", "", None),
            ("warning", "", None),
            ("info,warn", "", None),
            ("info,", "", None),
            ("=info", "", None),
            ("a:b=info", "", None),
            ("proxy=", "", None),
            ("proxy=info,proxy=warn", "", None),
        ];
        for (text, module, expected) in rows {
            let level = Levels::parse(text).map(|levels| levels.of(module));
            assert_eq!(level, expected, "{text} {module}");
        }
        let many = |count| {
            let parts: Vec<String> = (0..count).map(|number| format!("m{number}=warn")).collect();
            Levels::parse(&parts.join(",")).is_some()
        };
        assert!(many(MODULES_MAX) && !many(MODULES_MAX + 1));
        let lowest = |text: &str| Levels::parse(text).map(|levels| levels.lowest());
        assert_eq!(lowest("warn,a=debug,b=error"), Some(Debug));
        assert_eq!(lowest("warn,b=error"), Some(Warn));
    }
}
