//! The folders of the files that a configuration names.
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::state;
use crate::config::Config;

/// Returns the error line for the first file of a configuration whose folder does not exist.
/// Startup, `--check` and SIGHUP share this rule. Other faults are found when the file is opened.
pub(crate) fn missing(config: &Config) -> Option<String> {
    let is_state_used = state::unused(config).is_none();
    config.files().into_iter().find_map(|(key, path)| {
        let path = path.filter(|_| key != "stateFile" || is_state_used)?;
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty())?;
        let wrong = match fs::metadata(folder) {
            Ok(found) if !found.is_dir() => "is not a directory",
            Err(error) if error.kind() == ErrorKind::NotFound => "does not exist",
            Err(error) if error.kind() == ErrorKind::NotADirectory => "is not a directory",
            _ => return None,
        };
        Some(format!("{key} {path}: the folder {} {wrong}", folder.display()))
    })
}
