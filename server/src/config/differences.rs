//! The differences between two configurations. A new top-level key needs a row here.
use std::collections::BTreeMap;

use super::{BackendConfig, Config};
use crate::collect::one_by_one;

impl Config {
    /// Returns the top-level keys in which this configuration differs from `old`, except
    /// `backends`.
    pub(crate) fn settings_unlike(&self, old: &Self) -> Vec<&'static str> {
        let settings = [
            ("listen", self.listen != old.listen),
            ("routing", self.routing != old.routing),
            ("limits", self.limits != old.limits),
            ("timeouts", self.timeouts != old.timeouts),
            ("forwarding", self.forwarding != old.forwarding),
            ("pool", self.pool != old.pool),
            ("overflow", self.overflow != old.overflow),
            ("stats", self.stats != old.stats),
            ("admin", self.admin != old.admin),
            ("log", self.log != old.log),
            ("accessLog", self.access_log != old.access_log),
            ("probePaths", self.probe_paths != old.probe_paths),
            ("health", self.health != old.health),
            ("reports", self.reports != old.reports),
            ("tls", self.tls != old.tls),
            ("discovery", self.discovery != old.discovery),
            ("requestId", self.request_id != old.request_id),
            ("recording", self.recording != old.recording),
            ("stateFile", self.state_file != old.state_file),
        ];
        settings.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect()
    }

    /// Returns the names of the backends that are also in `old`, but with another limit, weight,
    /// health check, report or role.
    pub(crate) fn backends_unlike(&self, old: &Self) -> Vec<String> {
        let share = |backend: &BackendConfig| {
            (
                backend.limit,
                backend.weight,
                backend.backup,
                backend.health.clone(),
                backend.reports.clone(),
            )
        };
        let old = old.backends.iter().map(|backend| (backend.name.as_str(), share(backend)));
        let old: BTreeMap<&str, _> = one_by_one(old);
        let is_other = |backend: &&BackendConfig| {
            old.get(backend.name.as_str()).is_some_and(|old| *old != share(backend))
        };
        self.backends.iter().filter(is_other).map(|backend| backend.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::Overflow;

    /// Every top-level key except `backends` is reported when it changes.
    #[test]
    fn every_key_is_told() {
        let old = Config::default();
        let mut new = Config {
            listen: vec!["[::1]:1".into()],
            backends: Vec::new(),
            overflow: Overflow::Reject,
            state_file: Some("s".to_owned()),
            ..Config::default()
        };
        new.routing.switch.threshold = 1.0;
        new.limits.clients = 1;
        new.timeouts.connect *= 2;
        new.forwarding.keep_host = false;
        new.pool.idle_per_backend = 1;
        new.stats.allow.clear();
        new.probe_paths.ping.push('x');
        new.reports.port = Some(1);
        new.health.port = Some(1);
        new.tls.verify = false;
        new.discovery.file = Some("d".to_owned());
        new.request_id.to_client = true;
        new.admin.listen = Some("[::1]:2".to_owned());
        new.log.level = "warn".to_owned();
        new.access_log.query = false;
        new.recording.files += 1;
        let told = new.settings_unlike(&old);
        let mut all = [&told[..], &["backends"]].concat();
        all.sort_unstable();
        let json = old.to_value();
        let mut keys: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        keys.sort_unstable();
        assert_eq!(all, keys);
        assert_eq!(old.settings_unlike(&old), [""; 0]);
    }
}
