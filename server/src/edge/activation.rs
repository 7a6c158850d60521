//! Listeners that the service manager has opened (socket activation): the protocol of
//! sd_listen_fds(3).
use std::{env, io, process};

use listenfd::ListenFd;

use super::listen::{BoundListener, Place};
use crate::plain::os_error_text;

/// Takes the listeners that this process was started with. The list is empty without
/// `LISTEN_FDS`, or if they are meant for another process (`LISTEN_PID`).
///
/// # Errors
/// One line: a descriptor is not a TCP listener.
pub(crate) fn take() -> Result<Vec<BoundListener>, String> {
    let pid = env::var("LISTEN_PID").ok().and_then(|text| text.parse().ok());
    // The library would also accept listeners without `LISTEN_PID`.
    if pid != Some(process::id()) {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let mut all = Vec::new();
    for index in 0..passed.len() {
        let fail = |error: io::Error| format!("LISTEN_FDS, {index}: {}", os_error_text(&error));
        let Some(socket) = passed.take_tcp_listener(index).map_err(fail)? else { continue };
        socket.set_nonblocking(true).map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        let entry = (&*address.to_string()).into();
        all.push(BoundListener { socket, place: Place { address, entry } });
    }
    Ok(all)
}
