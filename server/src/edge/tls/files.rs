//! Reads the files of certificates and keys. Errors name the file and its key.
use std::io;
use std::path::Path;

use intelliproxy_core::ConfigError;

use crate::plain::os_error_text;

/// Reads a file that the configuration names at `path`.
pub(super) fn read(
    path: &str,
    file: &str,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, ConfigError> {
    read_file(Path::new(file)).map_err(|error| {
        let wrong = format!("cannot be read: {}", os_error_text(&error));
        refuse(path, "the path of a file", file, &wrong)
    })
}

/// Returns the error for an invalid file. `allowed` describes valid ones.
pub(super) fn refuse(path: &str, allowed: &str, file: &str, wrong: &str) -> ConfigError {
    ConfigError::new(path, &format!("{allowed}, and {file} {wrong}"))
}
