//! TLS of a build without it. `config/check.rs` refuses configurations that ask for it.
use std::io;
use std::path::Path;
use std::sync::Arc;

use intelliproxy_core::ConfigError;

use crate::config::{Config, ListenTls};
use crate::tls::Layer;

/// TLS of a listener, of which this build has none.
#[derive(Debug)]
pub(crate) enum Server {}

impl Server {
    pub(crate) fn layer(&self) -> Option<Layer> {
        match *self {}
    }
}

/// TLS of the listeners: none has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers;

impl Servers {
    pub(crate) fn load(_: &Config, _: Option<&Self>) -> Result<Self, String> {
        Ok(Self)
    }

    pub(crate) fn of(&self, _: &ListenTls) -> Option<Arc<Server>> {
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
