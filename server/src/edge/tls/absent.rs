//! Replaces TLS in a build without it. `config/check.rs` refuses configurations with `tls`.
use std::io;
use std::path::Path;
use std::sync::Arc;

use intelliproxy_core::ConfigError;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ListenTls, TargetTls};
use crate::tls::{Layer, TlsFault};

/// TLS of a listener. Uninhabited in a build without TLS.
#[derive(Debug)]
pub(crate) enum Server {}

impl Server {
    pub(crate) fn layer(&self, _: bool) -> Option<Layer> {
        match *self {}
    }

    pub(crate) fn rules(&self) -> Arc<ListenTls> {
        match *self {}
    }
}

/// TLS of the listeners: always empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers;

impl Servers {
    pub(crate) fn load(_: &Config, _: &Tickets) -> Result<Self, String> {
        Ok(Self)
    }

    pub(crate) fn of(&self, _: &ListenTls) -> Option<Arc<Server>> {
        None
    }

    pub(crate) fn renewed(&self, _: &Self) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn tickets(&self) -> Tickets {
        Tickets
    }
}

/// The ticket keys: always empty.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct TicketKeys {}

/// The ticket keys of a process, like [`TicketKeys`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Tickets;

impl Tickets {
    pub(crate) fn continuing(_: &TicketKeys) -> Self {
        Self
    }

    pub(crate) fn keys(&self) -> TicketKeys {
        TicketKeys {}
    }
}

/// Watches no files, since a build without TLS has no certificates.
#[derive(Debug, Default)]
pub(crate) struct Watch {}

impl Watch {
    #[allow(clippy::needless_pass_by_ref_mut)] // As in a build with TLS.
    pub(crate) fn follow(&mut self, _: &Servers, _: &Clients, _: impl Fn() + Send + 'static) {}

    pub(crate) fn take(&self) -> Option<(Servers, Clients, Vec<String>)> {
        None
    }
}

/// TLS towards backends, which no backend uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients;

impl Clients {
    pub(crate) fn load(_: &Config) -> Result<Self, String> {
        Ok(Self)
    }

    pub(crate) fn layer(&self, _: &TargetTls) -> Result<Layer, TlsFault> {
        Err(TlsFault::InvalidName)
    }
}

/// Finds no fault, since there are no files to check.
pub(crate) fn check_clients(
    _: &Config,
    _: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<(), ConfigError> {
    Ok(())
}

/// Finds no fault, since there are no files to check.
pub(crate) fn check(
    _: &Config,
    _: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<(), ConfigError> {
    Ok(())
}
