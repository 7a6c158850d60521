//! Opens files in folders where other users may have placed files or links.
//!
//! Opening never waits: pipes and devices are refused. Symbolic links are not followed, except by
//! [`read_named`].
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Creates a file. Fails if anything has the name, even a dangling link (`O_EXCL`).
pub(crate) fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}

/// Whether a regular file has this name; false if the name is free.
///
/// # Errors
/// Something other than a regular file has the name, or the system's error.
pub(crate) fn is_regular(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(found) if found.is_symlink() => Err(io::Error::other(LINKED)),
        Ok(_) => Err(io::Error::other(IRREGULAR)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a regular file for appending, and creates it if the name is free. A symbolic link is not
/// followed, and opening never waits. Only owner and group can read a new file.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    // Opening a pipe would wait for a reader. `NONBLOCK` has no effect on a regular file.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    options.append(true).create(true).mode(0o640).custom_flags(flags.bits() as i32);
    let opened = options.open(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match opened {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(io::Error::other(IRREGULAR)),
        // A link, a pipe without a reader, a socket or a folder.
        Err(error) => Err(irregular(path).map_or(error, io::Error::other)),
    }
}

/// A file that is about to be created. Dropping this removes it while it is empty.
#[derive(Debug)]
pub(crate) struct Fresh(Option<PathBuf>);

impl Fresh {
    /// `None` if something has this name already.
    pub(crate) fn new(path: &str) -> Option<Self> {
        let found = fs::symlink_metadata(path);
        let is_free = found.is_err_and(|error| error.kind() == ErrorKind::NotFound);
        is_free.then(|| Self(Some(path.into())))
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) {
            // If this fails, an empty file stays, which is harmless.
            let _ = fs::remove_file(path);
        }
    }
}

/// Creates a file, replacing a regular one of the same name.
pub(crate) fn replace(path: &Path) -> io::Result<File> {
    if is_regular(path)? {
        fs::remove_file(path)?;
    }
    create(path)
}

/// The reason why a file was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It is a link, a pipe, a device or a folder; the text names the kind.
    Irregular(&'static str),
    /// The system's error, or an error of size or encoding.
    Failed(io::Error),
}

/// Returns the error text for a name that belongs to something other than a regular file. `None`
/// for a regular file and for a free name. Nothing is opened.
pub(crate) fn irregular(path: &Path) -> Option<&'static str> {
    let found = fs::symlink_metadata(path).ok()?;
    match (found.is_symlink(), found.is_file()) {
        (true, _) => Some(LINKED),
        (false, is_file) => (!is_file).then_some(IRREGULAR),
    }
}

/// Reads the text of a regular file of at most `bytes_max` bytes; `None` when it does not
/// exist. A symbolic link is not followed.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>, Unread> {
    let mut options = File::options();
    // Opening a pipe would wait for a writer. `NONBLOCK` has no effect on a regular file.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    options.read(true).custom_flags(flags.bits() as i32);
    let file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            // A link, a socket or a device without a driver.
            let wrong = irregular(path).map(Unread::Irregular);
            return Err(wrong.unwrap_or(Unread::Failed(error)));
        }
        Ok(file) => file,
    };
    if !file.metadata().map_err(Unread::Failed)?.is_file() {
        return Err(Unread::Irregular(IRREGULAR));
    }
    let bytes = read_bounded(file, bytes_max).map_err(Unread::Failed)?;
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Unread::Failed(io::Error::other("is not UTF-8")))
}

/// Reads a regular file of at most `bytes_max` bytes that the operator named. Links are followed.
pub(crate) fn read_named(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    // Opening a pipe would wait for a writer.
    options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(IRREGULAR));
    }
    read_bounded(file, bytes_max)
}

/// Reads at most `bytes_max` bytes. Waits for the end of a pipe.
///
/// # Errors
/// The system's error, or that there are more bytes.
pub(crate) fn read_bounded(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length is not known in advance: the file may grow, and those in /proc report 0.
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes)? as u64;
    if read > bytes_max {
        return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// The path with `suffix` appended to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The error for a pipe, a device or a folder.
pub(crate) const IRREGULAR: &str = "is not a regular file";
/// The error for a symbolic link.
const LINKED: &str = "is a symbolic link, which is not followed";
