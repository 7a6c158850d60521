//! Reads the files of certificates and keys, and finds out when they change. Errors name the file
//! and its key.
use std::io;
use std::path::Path;

use intelliproxy_core::ConfigError;
use ring::digest::{Context, SHA256};

use crate::plain::os_error_text;

/// TLS made from files, in several parts.
pub(super) trait Watched {
    /// Whether there are no parts.
    fn is_empty(&self) -> bool;

    /// Returns the index and the path of each part whose files have changed.
    fn changed(&self) -> Vec<(usize, String)>;

    /// Reads the files of one part again.
    ///
    /// # Errors
    /// The digest of the contents, and one line about the fault. In that case nothing has changed.
    fn reload(&mut self, index: usize) -> Result<(), (Digest, String)>;
}

/// A digest of the contents of files, or of the reasons why they cannot be read.
pub(super) type Digest = Vec<u8>;

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

/// Returns an error as one line.
pub(super) fn line(error: &ConfigError) -> String {
    format!("{}: must be {}", error.path, error.allowed)
}

/// Returns the log line for a part of the configuration whose files have changed.
pub(super) fn renewed(path: &str) -> String {
    format!("{path}: certificates changed, using the new ones")
}

/// Returns the digest of files.
pub(super) fn digest<'f>(
    files: impl Iterator<Item = &'f String>,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Digest {
    let mut sum = Context::new(&SHA256);
    for file in files {
        let (mark, content) = match read_file(Path::new(file)) {
            Ok(content) => (b'r', content),
            Err(error) => (b'e', error.to_string().into_bytes()),
        };
        sum.update(&[mark]);
        sum.update(&(content.len() as u64).to_be_bytes());
        sum.update(&content);
    }
    sum.finish().as_ref().to_vec()
}
