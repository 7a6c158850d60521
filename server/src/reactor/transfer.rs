//! Reading and writing a stream, with cheaper calls than the standard library's where the system
//! has them.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io;

use mio::net::TcpStream;

/// Reads what has arrived.
#[cfg(target_os = "linux")]
#[inline]
pub(crate) fn receive(stream: &TcpStream, space: &mut [u8]) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let (count, _) = recv(stream, space, RecvFlags::empty())?;
    Ok(count)
}

/// Writes bytes. If `is_last` is set, the system holds them until the end of the stream and sends
/// both together.
#[cfg(target_os = "linux")]
pub(crate) fn send(stream: &TcpStream, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};
    let more = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    Ok(send(stream, bytes, SendFlags::NOSIGNAL | more)?)
}

/// Writes several pieces of bytes, as [`send`] does.
#[cfg(target_os = "linux")]
pub(crate) fn send_all(
    stream: &TcpStream,
    pieces: &[io::IoSlice<'_>],
    is_last: bool,
) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    if let [piece] = pieces {
        return send(stream, piece, is_last);
    }
    let more = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    let mut none = SendAncillaryBuffer::default();
    Ok(sendmsg(stream, pieces, &mut none, SendFlags::NOSIGNAL | more)?)
}

/// Writes several pieces of bytes; `is_last` has no effect on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send_all(
    mut stream: &TcpStream,
    pieces: &[io::IoSlice<'_>],
    _is_last: bool,
) -> io::Result<usize> {
    io::Write::write_vectored(&mut stream, pieces)
}

/// Reads what has arrived.
#[cfg(not(target_os = "linux"))]
pub(crate) fn receive(mut stream: &TcpStream, space: &mut [u8]) -> io::Result<usize> {
    io::Read::read(&mut stream, space)
}

/// Writes bytes; `is_last` has no effect on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send(mut stream: &TcpStream, bytes: &[u8], _is_last: bool) -> io::Result<usize> {
    io::Write::write(&mut stream, bytes)
}
