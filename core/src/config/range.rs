//! Checks of a configured value against a range, and the error that names its path. The bounds
//! themselves are in `Rules::validate`; those of the server's own keys in its `config/check.rs`.
use std::fmt;
use std::time::Duration;

/// An invalid configured value: its path and the allowed range.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The path of the value, keys joined by dots.
    pub path: String,
    /// The allowed values.
    pub allowed: String,
}

impl ConfigError {
    /// The error for the value at `path`, which must be `allowed`.
    pub fn new(path: &str, allowed: &str) -> Self {
        Self { path: path.to_owned(), allowed: allowed.to_owned() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: must be {}", self.path, self.allowed)
    }
}

impl std::error::Error for ConfigError {}

/// The shortest allowed span where zero is invalid.
pub(crate) const TICK: Duration = Duration::from_millis(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Checks that a number is from `least` to `most`.
pub(crate) fn number(path: &str, value: f64, least: f64, most: f64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(path, &format!("a number from {least} to {most}")))
}

/// Checks that a whole number is from `least` to `most`.
pub(crate) fn count(path: &str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(path, &format!("a whole number from {least} to {most}")))
}

/// Checks that a span is from `least` to `most`.
pub(crate) fn span(
    path: &str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = format!("milliseconds from {} to {}", least.as_millis(), most.as_millis());
    Err(ConfigError::new(path, &range))
}
