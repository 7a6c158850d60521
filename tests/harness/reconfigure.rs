//! Applies a new configuration to a running world.
use std::net::SocketAddr;

use intelliproxy::config::{BackendConfig, BackendTarget};

use crate::reload::{Named, Wanted};
use crate::world::World;

impl World {
    /// Applies the scripted configuration `index`. An invalid one must be refused and change
    /// nothing.
    pub(crate) fn reload(&mut self, index: usize) {
        let mut wanted = Wanted { config: self.config.clone(), backends: self.configured.clone() };
        (self.reloads[index])(&mut wanted);
        let Wanted { config, backends } = wanted;
        let policy = config.routing.policy;
        self.net.trace.note(self.net.now, format_args!("reload {backends:?} by {policy:?}"));
        let targets = self.targets_of(&backends);
        let mut names: Vec<usize> = backends.iter().map(|named| named.name).collect();
        names.sort_unstable();
        names.dedup();
        let is_good = config.validate().is_ok() && names.len() == backends.len();
        let Some(driver) = &mut self.driver else { return };
        if !is_good {
            let before = format!("{:?}", driver.proxy);
            let result = driver.proxy.handle_reconfigured(self.net.now, config, targets);
            assert!(result.is_err(), "an invalid configuration is refused");
            assert_eq!(before, format!("{:?}", driver.proxy), "and changes nothing");
            driver.proxy.handle_config_refused(self.net.now, "not this one".to_owned());
            return driver.carry_out(&mut self.net);
        }
        let gone: Vec<SocketAddr> = self
            .configured
            .iter()
            .filter(|old| !backends.contains(old))
            .map(|old| self.backends[old.machine].address)
            .collect();
        let is_gone = |address| gone.contains(&address);
        let mut displaced = Vec::new();
        for (number, link) in self.net.links.iter_mut().enumerate() {
            if link.address.is_some_and(is_gone) && !link.is_closed_by_proxy {
                link.is_displaced = true;
                displaced.push(number);
            }
        }
        self.net.configured = targets.iter().flat_map(|to| to.addresses.clone()).collect();
        let before = driver.links_in_excess(config.limits.clients);
        // Without other changes the backends may have been found.
        let is_found = index % 2 == 1 && self.dead_address.is_none() && config == self.config;
        let result = if is_found {
            let found = targets.iter().map(|one| BackendConfig::new(&one.name, &one.url)).collect();
            driver.proxy.handle_discovered(self.net.now, found, targets)
        } else {
            driver.proxy.handle_reconfigured(self.net.now, config.clone(), targets)
        };
        assert_eq!(result, Ok(()), "a valid configuration is accepted");
        driver.carry_out(&mut self.net);
        let is_closed = |link: &&usize| self.net.links[**link].is_closed_by_proxy;
        self.reloaded.closed += displaced.iter().filter(is_closed).count();
        self.config = config;
        self.configured = backends;
        self.note_given_way(&before);
    }

    /// Returns the backends as passed to the proxy.
    pub(crate) fn targets_of(&self, backends: &[Named]) -> Vec<BackendTarget> {
        let target = |named: &Named| {
            let Named { name, machine } = *named;
            let host = if name == machine {
                format!("b{name}.test")
            } else {
                format!("b{name}-at-{machine}.test")
            };
            let address = self.backends[machine].address;
            BackendTarget {
                name: format!("b{name}"),
                url: format!("http://{host}"),
                authority: host,
                tls: None,
                addresses: match self.dead_address {
                    Some(dead) => vec![dead, address],
                    None => vec![address],
                },
            }
        };
        backends.iter().map(target).collect()
    }
}
