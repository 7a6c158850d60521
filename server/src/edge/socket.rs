//! The Unix socket for commands. Only the owner of the socket's file may use it.
//!
//! When the socket is dropped, its file is removed, unless another file has replaced it. A stale
//! socket of a dead process is replaced, but not a socket on which a process listens. Links are not
//! followed. `reactor/control.rs` accepts its connections.
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};

use super::disk;
use crate::plain::os_error_text;

/// A bound socket. Its name is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    /// Taken by `take_listener`.
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the name.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Binds and listens. The name appears with mode 0600. It replaces a stale socket or, if
    /// `takes_over` is set, the socket of the process before this one.
    ///
    /// # Errors
    /// One line that names the path: it belongs to something else, another process listens there,
    /// or the system's error.
    pub(crate) fn open(path: &str, takes_over: bool) -> Result<Self, String> {
        let file = PathBuf::from(path);
        let fail = |wrong: &str| format!("cannot listen on {path}: {wrong}");
        match fs::symlink_metadata(&file) {
            Ok(found) if found.is_symlink() => {
                return Err(fail("is a symbolic link, which is not followed"));
            }
            Ok(found) if !found.file_type().is_socket() => return Err(fail("is not a socket")),
            Ok(_) if takes_over => {}
            // Other errors, such as missing rights or a full backlog, do not show that the socket
            // is stale.
            Ok(_) => match connect_at_once(&file).map_err(|error| error.kind()) {
                Err(ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
                Ok(()) | Err(_) => return Err(fail("another process listens there")),
            },
            Err(_) => {}
        }
        Self::bind(file).map_err(|error| fail(&os_error_text(&error)))
    }

    fn bind(path: PathBuf) -> io::Result<Self> {
        let beside = disk::beside(&path, ".new");
        match fs::symlink_metadata(&beside) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(&beside)?,
            _ => {}
        }
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        // A successor opens its own.
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        // On Linux the name inherits this mode. No client can connect before the listen below.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(&beside)?)?;
        // The rename comes last, so that nothing can fail afterwards.
        let result = restrict(&beside).and_then(|identity| {
            listen(&socket, BACKLOG)?;
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            fs::rename(&beside, &path)?;
            Ok(Self { listener: Some(listener), path, identity })
        });
        if result.is_err() {
            // If this fails, the next start removes it.
            let _ = fs::remove_file(&beside);
        }
        result
    }

    /// Takes the listener, once.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // If this fails, a stale name stays, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives a socket file the mode [`MODE`]. Returns its identity.
fn restrict(file: &Path) -> io::Result<(u64, u64)> {
    let mut found = fs::symlink_metadata(file)?;
    if found.mode() & 0o777 != MODE {
        fs::set_permissions(file, fs::Permissions::from_mode(MODE))?;
        found = fs::symlink_metadata(file)?;
    }
    Ok((found.dev(), found.ino()))
}

/// Connects without waiting for room in the backlog.
fn connect_at_once(file: &Path) -> io::Result<()> {
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    ioctl_fionbio(&socket, true)?;
    Ok(connect(&socket, &SocketAddrUnix::new(file)?)?)
}

/// The mode of the name.
const MODE: u32 = 0o600;
/// The maximum number of connections that wait to be accepted: as many as can be open.
const BACKLOG: i32 = crate::control::CONNECTIONS_MAX as i32;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::folder::Folder;

    const TIME: Duration = Duration::from_secs(30);

    /// The name has mode 0600 and is removed with the socket. A stale name is replaced.
    #[test]
    fn names_come_and_go() {
        let folder = Folder::new("socket-names");
        let path = folder.file("s");
        let text = path.display().to_string();
        let mut socket = ControlSocket::open(&text, false).expect("a free name");
        let mode = fs::symlink_metadata(&path).expect("a name").mode();
        assert_eq!(mode & 0o777, MODE);
        assert!(socket.take_listener().is_some());
        UnixStream::connect(&path).expect_err("the listener is closed");
        // Its process has died without removing the name.
        std::mem::forget(socket);
        let socket = ControlSocket::open(&text, false).expect("the name is stale");
        UnixStream::connect(&path).expect("it listens");
        drop(socket);
        assert_eq!(fs::read_dir(folder.root()).expect("the folder").count(), 0);
    }

    /// A process takes over the name of the previous process, which then does not remove it when it
    /// ends.
    #[test]
    fn a_name_passes_on() {
        let folder = Folder::new("socket-passes");
        let text = folder.file("s").display().to_string();
        let first = ControlSocket::open(&text, false).expect("a free name");
        let second = ControlSocket::open(&text, true).expect("it is taken over");
        drop(first);
        UnixStream::connect(&text).expect("the second one listens");
        drop(second);
        assert_eq!(fs::read_dir(folder.root()).expect("the folder").count(), 0);
    }

    /// A socket whose backlog is full is in use. Opening does not wait for that process.
    #[test]
    fn a_full_backlog_is_in_use() {
        let folder = Folder::new("socket-full");
        let path = folder.file("s");
        let busy = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        bind(&busy, &SocketAddrUnix::new(&path).expect("a short name")).expect("a free name");
        listen(&busy, 0).expect("it is bound");
        let mut waiting = 0;
        while connect_at_once(&path).is_ok() {
            waiting += 1;
            assert!(waiting < 100, "the backlog is bounded");
        }
        let text = path.display().to_string();
        let (sender, opened) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(ControlSocket::open(&text, false).err()));
        let error = opened.recv_timeout(TIME).expect("it does not wait");
        assert!(error.is_some_and(|error| error.ends_with(": another process listens there")));
    }

    /// A name is refused if it is in use, too long, a link, a file, or in a missing folder. A name
    /// that now belongs to another file is not removed.
    #[test]
    fn other_names_are_left_alone() {
        let folder = Folder::new("socket-others");
        let path = |name: &str| folder.file(name).display().to_string();
        let socket = ControlSocket::open(&path("s"), false).expect("a free name");
        fs::write(path("file"), "precious").expect("a file");
        std::os::unix::fs::symlink(path("s"), path("link")).expect("a link");
        for (name, wrong) in [
            ("s", "another process listens there"),
            ("link", "is a symbolic link, which is not followed"),
            ("file", "is not a socket"),
            ("absent/s", "no such file or directory"),
        ] {
            let error = ControlSocket::open(&path(name), false).expect_err(name);
            assert_eq!(error, format!("cannot listen on {}: {wrong}", path(name)));
        }
        let long = path(&"x".repeat(200));
        assert!(
            ControlSocket::open(&long, false)
                .expect_err("too long")
                .starts_with("cannot listen on ")
        );
        assert_eq!(fs::read_to_string(path("file")).expect("still there"), "precious");
        fs::remove_file(path("s")).expect("the name");
        fs::write(path("s"), "another's").expect("a file");
        drop(socket);
        assert_eq!(fs::read_to_string(path("s")).expect("still there"), "another's");
    }
}
