//! The layer of a build without TLS.
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;

use crate::proxy::ClientIdentity;

/// A TLS connection. Uninhabited in a build without TLS.
#[derive(Debug)]
pub(crate) enum Layer {}

impl Layer {
    pub(crate) fn take(&self, _: &[u8], _: &mut [u8]) -> Result<usize, Infallible> {
        match *self {}
    }

    pub(crate) fn take_work(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn write(&self, _: &[u8], _: &mut dyn Write) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn flush(&self, _: &mut dyn Write) -> io::Result<bool> {
        match *self {}
    }

    pub(crate) fn end(&self) {
        match *self {}
    }

    pub(crate) fn source(&self) -> Option<SocketAddr> {
        match *self {}
    }

    pub(crate) fn identity(&self) -> Option<ClientIdentity> {
        match *self {}
    }

    pub(crate) fn has_input(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_output(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_answered(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_ended(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match *self {}
    }
}
