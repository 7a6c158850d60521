//! Bytes from and to a stream: where the system has a cheaper way than the standard library's.
use std::io;

use mio::net::TcpStream;

/// Reads what came.
#[cfg(target_os = "linux")]
pub(crate) fn receive(stream: &TcpStream, space: &mut [u8]) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let (count, _) = recv(stream, space, RecvFlags::empty())?;
    Ok(count)
}

/// Writes; what `is_last` is held back until the end of the stream, which leaves with it.
#[cfg(target_os = "linux")]
pub(crate) fn send(stream: &TcpStream, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};
    let more = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    Ok(send(stream, bytes, SendFlags::NOSIGNAL | more)?)
}

/// Reads what came.
#[cfg(not(target_os = "linux"))]
pub(crate) fn receive(mut stream: &TcpStream, space: &mut [u8]) -> io::Result<usize> {
    io::Read::read(&mut stream, space)
}

/// Writes; nothing is held back here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send(mut stream: &TcpStream, bytes: &[u8], _is_last: bool) -> io::Result<usize> {
    io::Write::write(&mut stream, bytes)
}
