//! TLS of a build without it. `config/check.rs` refuses configurations that ask for it.
use std::io;
use std::path::Path;
use std::sync::Arc;

use intelliproxy_core::ConfigError;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ListenTls};
use crate::tls::Layer;

/// TLS of a listener, of which this build has none.
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

/// TLS of the listeners: none has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers;

impl Servers {
    pub(crate) fn load(_: &Config, _: &Tickets) -> Result<Self, String> {
        Ok(Self)
    }

    pub(crate) fn of(&self, _: &ListenTls) -> Option<Arc<Server>> {
        None
    }

    pub(crate) fn tickets(&self) -> Tickets {
        Tickets
    }
}

/// The keys of tickets, of which this build has none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct TicketKeys {}

/// As [`TicketKeys`].
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

/// Watches the files of certificates, of which this build has none.
#[derive(Debug, Default)]
pub(crate) struct Watch {}

impl Watch {
    #[allow(clippy::needless_pass_by_ref_mut)] // As in a build with TLS.
    pub(crate) fn follow(&mut self, _: &Servers, _: impl Fn() + Send + 'static) {}

    pub(crate) fn take(&self) -> Option<Servers> {
        None
    }
}

/// Finds no fault, since there are no files to check.
pub(crate) fn check(
    _: &Config,
    _: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<(), ConfigError> {
    Ok(())
}
