//! The number of connections that the system's limit of open files allows.
use std::fs;

use log::{info, warn};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors kept free for short uses: the state file, a reload with its resolver, a socket that
/// is accepted only to be refused.
const SPARE: usize = 6;
/// The number of descriptors assumed to be open if the system does not report it.
const OPEN_GUESSED: usize = 32;

/// Raises the limit of open files as far as the system allows. Returns the number of connections
/// that fit in addition to the files that are open now.
pub(super) fn connections_max() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!("cannot raise the limit of open files: {error}");
            limit = before;
        }
    }
    let Some(descriptors) = limit.current else { return usize::MAX };
    let open = fs::read_dir("/dev/fd").map_or(OPEN_GUESSED, Iterator::count);
    let connections = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let connections = connections.saturating_sub(open + SPARE);
    info!("open files: {descriptors}, room for {connections} connections");
    connections
}
