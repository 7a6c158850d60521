//! Moves bytes between the sockets and the proxy. Reads what has arrived, within a connection's
//! share (`budget.rs`), and writes pending output until the system accepts no more.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use super::Reactor;
use super::budget::{COSTLY_READ, READS_MAX, is_costly, share_end};
use super::socket::Moved;
use crate::proxy::{ConnId, Output};

impl Reactor {
    /// Continues with connections that had more bytes than their share.
    #[cold]
    pub(super) fn read_on(&mut self) {
        self.budget.begin(self.work());
        for _ in 0..self.unread.len() {
            if self.budget.is_spent(self.work()) {
                break;
            }
            if let Some(conn) = self.unread.pop_front() {
                if let Some(socket) = self.socket(conn) {
                    socket.is_queued = false;
                }
                self.proxy.handle_unread(conn, false);
                self.read(conn);
                self.flush();
            }
        }
    }

    /// Reads what arrived, up to a connection's share.
    pub(super) fn read(&mut self, conn: ConnId) {
        let begun = self.work();
        let mut work = begun;
        let others_wait = !self.unread.is_empty();
        for _ in 0..READS_MAX {
            let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else {
                return;
            };
            if socket.conn != conn || !socket.is_readable || socket.is_connecting {
                return;
            }
            let space = self.proxy.read_space(conn);
            if space.is_empty() {
                let is_client = !socket.is_outgoing;
                let (is_ending, is_broken) = (socket.is_ending, socket.is_broken);
                if is_client && is_ending {
                    // If the connection broke, bytes that arrived before are no longer read.
                    socket.is_readable &= !is_broken;
                    self.see_end(conn, is_broken);
                }
                return;
            }
            let most = if socket.is_costly { space.len().min(COSTLY_READ) } else { space.len() };
            let moved = socket.read(&mut space[..most], &mut self.scratch);
            let has_more = socket.is_readable;
            let Moved::Bytes(count) = moved else {
                self.take_moved(conn, moved);
                if has_more {
                    // Much ciphertext was read without yielding bytes for the proxy.
                    self.queue(conn);
                }
                return;
            };
            self.proxy.handle_read(self.now, conn, count);
            self.flush();
            if !has_more {
                return;
            }
            let before = std::mem::replace(&mut work, self.work());
            if let Some(socket) = self.socket(conn) {
                socket.is_costly = is_costly(count, work - before);
            }
            if work >= share_end(begun, others_wait) {
                break;
            }
        }
        self.queue(conn);
    }

    /// Reports that a client ended or broke its connection while its earlier bytes cannot be read
    /// yet.
    #[cold]
    fn see_end(&mut self, conn: ConnId, is_broken: bool) {
        if is_broken {
            self.proxy.handle_failed(self.now, conn);
        } else {
            self.proxy.handle_end_seen(self.now, conn);
        }
        self.flush();
    }

    /// Reads once from a connection, although the poll has reported nothing. The caller handles the
    /// effects.
    pub(super) fn look(&mut self, conn: ConnId) {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
        let space = self.proxy.read_space(conn);
        if socket.conn != conn || space.is_empty() {
            return;
        }
        let moved = socket.read(space, &mut self.scratch);
        self.take_moved(conn, moved);
    }

    /// Reports the result of a read. Most reads return bytes, which [`read`](Self::read) reports
    /// itself.
    fn take_moved(&mut self, conn: ConnId, moved: Moved) {
        match moved {
            Moved::Bytes(count) => self.proxy.handle_read(self.now, conn, count),
            Moved::Blocked => self.proxy.handle_read(self.now, conn, 0),
            Moved::Ended => self.proxy.handle_eof(self.now, conn),
            Moved::Failed => {
                self.note_tls_fault(conn);
                self.proxy.handle_failed(self.now, conn);
            }
        }
    }

    /// Reports the TLS fault of a backend's connection that has just failed.
    #[cold]
    fn note_tls_fault(&mut self, conn: ConnId) {
        let socket = self.socket(conn).filter(|socket| socket.is_outgoing);
        let secured = socket.and_then(|socket| socket.secured.as_mut());
        if let Some(fault) = secured.and_then(|secured| secured.take_fault()) {
            self.proxy.handle_tls_fault(conn, fault);
        }
    }

    /// Lets a connection continue reading later in this turn or in the next one.
    #[cold]
    pub(super) fn queue(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn)
            && !socket.is_queued
        {
            socket.is_queued = true;
            self.proxy.handle_unread(conn, true);
            self.unread.push_back(conn);
        }
    }

    /// Writes as much of the pending output as the system accepts. Returns whether the connection
    /// has input to read.
    pub(super) fn write(&mut self, conn: ConnId) -> bool {
        let socket = self.sockets.get_mut(conn.slot()).and_then(Option::as_mut);
        let Some(socket) = socket.filter(|socket| socket.conn == conn) else {
            return false;
        };
        loop {
            let Output { bytes, is_last } = self.proxy.output(conn);
            if bytes.is_empty() || socket.is_connecting {
                if socket.secured.is_some() {
                    socket.flush_secured(self.poll.registry());
                }
                if socket.is_connecting {
                    return false;
                }
                break;
            }
            if !socket.is_writable {
                if socket.watch_writes(self.poll.registry()).is_err() {
                    self.proxy.handle_failed(self.now, conn);
                }
                break;
            }
            let length = bytes.len();
            match socket.write(bytes, is_last) {
                Moved::Bytes(count) => {
                    self.proxy.handle_written(self.now, conn, count);
                    if count == length {
                        // More output would have marked the connection dirty again.
                        break;
                    }
                }
                Moved::Blocked => {}
                Moved::Ended | Moved::Failed => {
                    // The peer accepts no more output; its input is still read.
                    socket.is_writable = false;
                    self.proxy.handle_write_failed(self.now, conn);
                    break;
                }
            }
        }
        socket.is_readable
    }
}
