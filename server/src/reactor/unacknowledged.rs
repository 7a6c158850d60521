//! The number of bytes written to a connection that its peer has not acknowledged.
//!
//! Linux reports them through a netlink socket, identified by the addresses of the connection. The
//! proxy queries only connections that have accepted no bytes for seconds. Elsewhere, and where the
//! system lacks such a socket, the number is unknown.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use crate::proxy::ConnId;

impl super::Reactor {
    /// Reports to the proxy how much of its output the peer has not acknowledged.
    #[cold]
    pub(super) fn measure(&mut self, conn: ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        let addresses = socket.addresses();
        let unacknowledged =
            addresses.and_then(|(own, peer)| self.diagnosis.unacknowledged(own, peer));
        self.proxy.handle_measured(self.now, conn, unacknowledged);
    }
}

#[cfg(target_os = "linux")]
pub(super) use self::linux::Diagnosis;
#[cfg(not(target_os = "linux"))]
pub(super) use self::other::Diagnosis;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    };

    /// Bytes of a netlink message's header.
    const HEADER: usize = 16;
    /// Bytes of a request: header, 8 bytes from the family to the states, addresses.
    const REQUEST: usize = HEADER + 8 + 48;
    /// `SOCK_DIAG_BY_FAMILY`, of request and response.
    const BY_FAMILY: u16 = 20;
    /// Range of the send queue's length in a response.
    const QUEUE: std::ops::Range<usize> = HEADER + 60..HEADER + 64;
    /// The maximum number of datagrams read for one question. Responses to earlier questions are
    /// skipped.
    const ANSWERS_MAX: usize = 4;

    /// Queries the system about connections.
    #[derive(Debug, Default)]
    pub(crate) struct Diagnosis {
        /// Opened at the first question.
        socket: Option<OwnedFd>,
        is_missing: bool,
        sequence: u32,
    }

    impl Diagnosis {
        /// Bytes that the peer of a TCP connection has not acknowledged; `None` when unknown.
        pub(crate) fn unacknowledged(&mut self, own: SocketAddr, peer: SocketAddr) -> Option<u64> {
            if self.socket.is_none() && !self.is_missing {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let kind = SocketType::DGRAM;
                let protocol = Some(netlink::SOCK_DIAG);
                match socket_with(AddressFamily::NETLINK, kind, flags, protocol) {
                    Ok(socket) => self.socket = Some(socket),
                    // If only descriptors were missing, the next call may succeed.
                    Err(error) => self.is_missing = ![Errno::MFILE, Errno::NFILE].contains(&error),
                }
            }
            let socket = self.socket.as_ref()?;
            self.sequence = self.sequence.wrapping_add(1);
            send(socket, &request(self.sequence, own, peer), SendFlags::empty()).ok()?;
            // The system responds within the call.
            let mut answer = [0; 512];
            for _ in 0..ANSWERS_MAX {
                let (count, _) = recv(socket, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
                let answer = &answer[..count];
                if answer.get(8..12)? == self.sequence.to_ne_bytes() {
                    let is_answer = answer.get(4..6)? == BY_FAMILY.to_ne_bytes();
                    let queue: [u8; 4] = answer.get(QUEUE)?.try_into().ok()?;
                    return is_answer.then(|| u32::from_ne_bytes(queue).into());
                }
            }
            None
        }
    }

    /// `struct inet_diag_req_v2` behind a `struct nlmsghdr`.
    fn request(sequence: u32, own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        const REQUEST_FLAG: u16 = 1;
        const TCP: u8 = 6;
        let family = if own.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let mut bytes = Vec::with_capacity(REQUEST);
        bytes.extend((REQUEST as u32).to_ne_bytes());
        bytes.extend(BY_FAMILY.to_ne_bytes());
        bytes.extend(REQUEST_FLAG.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([family.as_raw() as u8, TCP, 0, 0]);
        // In any state.
        bytes.extend(u32::MAX.to_ne_bytes());
        bytes.extend(own.port().to_be_bytes());
        bytes.extend(peer.port().to_be_bytes());
        for address in [own.ip(), peer.ip()] {
            let octets = match address {
                IpAddr::V4(address) => {
                    let mut octets = [0; 16];
                    octets[..4].copy_from_slice(&address.octets());
                    octets
                }
                IpAddr::V6(address) => address.octets(),
            };
            bytes.extend(octets);
        }
        // Any interface, no cookie.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([u8::MAX; 8]);
        debug_assert!(bytes.len() == REQUEST, "the length is what the header says");
        bytes
    }

    #[cfg(test)]
    mod tests {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};

        use super::*;

        /// Written bytes that were not read are counted, over IPv4 and IPv6. After some reads the
        /// count is lower.
        #[test]
        fn what_a_peer_takes_is_known() {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = TcpListener::bind(address) else { continue };
                let local = listener.local_addr().expect("bound");
                let mut reader = TcpStream::connect(local).expect("it listens");
                let (mut writer, peer) = listener.accept().expect("it connected");
                writer.set_nonblocking(true).expect("an option");
                let mut diagnosis = Diagnosis::default();
                assert_eq!(diagnosis.unacknowledged(local, peer), Some(0), "{address}");
                while writer.write(&[0; 65_536]).is_ok() {}
                let full = diagnosis.unacknowledged(local, peer).expect("known");
                assert!(full > 0, "{address}");
                let mut rest = full;
                while rest >= full {
                    reader.read_exact(&mut [0; 65_536]).expect("bytes");
                    rest = diagnosis.unacknowledged(local, peer).expect("known");
                }
                drop((reader, writer));
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::net::SocketAddr;

    /// Nothing is known here.
    #[derive(Debug, Default)]
    pub(crate) struct Diagnosis;

    impl Diagnosis {
        /// `None`: unknown.
        pub(crate) fn unacknowledged(
            &mut self,
            _own: SocketAddr,
            _peer: SocketAddr,
        ) -> Option<u64> {
            None
        }
    }
}
