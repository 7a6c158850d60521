//! Configurations from any text: an accepted one is valid, survives writing and reading, and starts
//! a proxy.
use std::net::{Ipv4Addr, SocketAddr};

use intelliproxy_core::Instant;

use intelliproxy::config::{BackendTarget, BackendUrl, Config};
use intelliproxy::proxy::Proxy;

/// Reads any bytes as a configuration file.
///
/// # Panics
/// If an accepted configuration is invalid, is changed by writing and reading, or cannot start a
/// proxy, or if an error lacks its place.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::from_json(text) {
        Ok(config) => config,
        Err(error) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&error.line), "an error has a line of the text");
            assert!(error.column >= 1, "an error has a column");
            assert!(!error.wrong.is_empty(), "an error has a reason");
            assert!(!error.to_string().is_empty(), "an error has a text");
            return;
        }
    };
    assert_eq!(config.validate(), Ok(()), "an accepted configuration is valid");
    let json = config.to_json();
    assert_eq!(
        Config::from_json(&json).as_ref(),
        Ok(&config),
        "a configuration reads back as itself"
    );
    assert_eq!(config.stats.networks().len(), config.stats.allow.len(), "every network is valid");
    let mut targets = Vec::new();
    for backend in &config.backends {
        let url = BackendUrl::parse(&backend.url).expect("a valid configuration has valid URLs");
        targets.push(BackendTarget {
            name: backend.name.clone(),
            url: backend.url.clone(),
            authority: url.authority,
            tls: None,
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, url.port))],
        });
    }
    let mut proxy =
        Proxy::new(config, targets, 1, Instant::ZERO).expect("a valid configuration makes a proxy");
    proxy.handle_timeout(Instant::ZERO);
    proxy.check_invariants();
    assert!(proxy.is_at_rest(), "a new proxy is at rest");
}
