//! The thread that keeps the results: which names are due, which look-ups are in progress, and the
//! contents of the watched file. It never blocks but for its next message.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use intelliproxy_core::sorting::sort_by;
use log::{info, log, warn};

use super::watched::{self, Reading, Watched};
use super::{LookUp, Results, unused_line};
use crate::collect::one_by_one;
use crate::config::{BackendConfig, BackendTarget, Config, Found, Known, is_same_set};
use crate::plain::os_error_text;

/// A message for the thread.
pub(super) enum Message {
    /// Look up the names of a configuration and read its file. Reply with the results when all have
    /// arrived, or at `until`.
    Look { config: Box<Config>, until: Instant, reply: Sender<Known> },
    /// Find the backends of this configuration, which replaces the last one. `used` are the
    /// backends in use.
    Follow { config: Box<Config>, used: Box<Found>, generation: u64 },
    /// A look-up has ended.
    LookedUp { host: String, result: Result<Vec<IpAddr>, String> },
    /// A reading of a watched file has ended.
    Read { path: String, content: Result<Vec<u8>, String> },
}

/// The state of the thread.
pub(super) struct Finder {
    look_up: Arc<LookUp>,
    sender: Sender<Message>,
    messages: Receiver<Message>,
    results: Arc<Mutex<Results>>,
    hosts: BTreeMap<String, Host>,
    /// The watched files by path: that of the followed configuration, and those of configurations
    /// looked up since.
    files: BTreeMap<String, Watched>,
    followed: Option<Followed>,
    /// Callers of [`Discovery::look`](super::Discovery::look) that wait for results.
    waiting: Vec<Waiting>,
    /// The hosts of the configuration last looked up. Empty once a configuration is followed.
    candidate: BTreeSet<String>,
    /// Whether the backends may have changed since they were published.
    is_changed: bool,
}

/// A configuration that is followed.
struct Followed {
    config: Box<Config>,
    /// The hosts to look up, each with the time between two look-ups.
    hosts: BTreeMap<String, Duration>,
    /// The backends that the reactor has, or will take.
    used: Box<Found>,
    generation: u64,
    /// The last logged error about too many backends.
    told: Option<String>,
    /// The last logged line about backends whose names are taken.
    told_unused: Option<String>,
}

/// A caller that waits for the results of a configuration.
struct Waiting {
    config: Box<Config>,
    /// The hosts to look up.
    hosts: BTreeSet<String>,
    until: Instant,
    reply: Sender<Known>,
}

/// The state of one host.
#[derive(Default)]
struct Host {
    /// The last result.
    addresses: Option<Vec<IpAddr>>,
    /// The start of the look-up in progress.
    since: Option<Instant>,
    /// The end of the last look-up.
    looked_at: Option<Instant>,
    /// Whether a look-up was requested that has not begun.
    is_fresh: bool,
    /// Whether the failure of its look-ups has been logged.
    is_told: bool,
}

impl Finder {
    pub(super) fn new(
        look_up: Arc<LookUp>,
        sender: Sender<Message>,
        messages: Receiver<Message>,
        results: Arc<Mutex<Results>>,
    ) -> Self {
        Self {
            look_up,
            sender,
            messages,
            results,
            hosts: BTreeMap::new(),
            files: BTreeMap::new(),
            followed: None,
            waiting: Vec::new(),
            candidate: BTreeSet::new(),
            is_changed: false,
        }
    }

    /// Works until the program ends.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            let patience = self.next(now).map_or(IDLE, |at| at.saturating_duration_since(now));
            match self.messages.recv_timeout(patience) {
                Ok(message) => self.handle(Instant::now(), message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Results that arrived together are published together.
            while let Ok(message) = self.messages.try_recv() {
                self.handle(Instant::now(), message);
            }
            if std::mem::take(&mut self.is_changed) {
                self.publish(|line| warn!("discovery: {line}"));
            }
            let now = Instant::now();
            self.work(now);
            self.reply(now);
        }
    }

    fn handle(&mut self, now: Instant, message: Message) {
        match message {
            Message::Look { config, until, reply } => {
                if let Some(path) = &config.discovery.file {
                    self.files.entry(path.clone()).or_insert_with(|| Watched::new(path)).ask();
                }
                let hosts: BTreeSet<String> =
                    one_by_one(config.hosts(self.backends_in_file(&config)).into_keys());
                // A reload looks up every name again, also those with a recent result.
                for host in &hosts {
                    self.hosts.entry(host.clone()).or_default().is_fresh = true;
                }
                self.waiting.push(Waiting { config, hosts, until, reply });
            }
            Message::Follow { config, used, generation } => self.follow(config, used, generation),
            Message::LookedUp { host, result } => self.looked_up(now, &host, result),
            Message::Read { path, content } => {
                let in_use = self.in_use().len();
                // The file may have been forgotten meanwhile, because no configuration names it any
                // more.
                let Some(file) = self.files.get_mut(&path) else { return };
                let Reading { is_news, line } = file.handle_read(content, in_use);
                if let Some((level, line)) = line {
                    log!(level, "discovery: {line}");
                }
                if is_news {
                    self.handle_file_changed(&path);
                }
            }
        }
    }

    /// Follows a configuration instead of the last one.
    fn follow(&mut self, config: Box<Config>, used: Box<Found>, generation: u64) {
        if let Some(path) = &config.discovery.file {
            // Until the file of this configuration has been read, the backends of the previous file
            // stay.
            let inherited = self.in_use().to_vec();
            let file = self.files.entry(path.clone()).or_insert_with(|| Watched::new(path));
            file.inherit(inherited);
        }
        let waiting = self.waiting.iter().filter_map(|one| one.config.discovery.file.as_ref());
        let waiting: BTreeSet<&String> = one_by_one(waiting);
        let followed = config.discovery.file.as_ref();
        self.files.retain(|path, _| followed == Some(path) || waiting.contains(path));
        let hosts = config.hosts(self.backends_in_file(&config));
        let last = self.followed.take();
        // Reading the same configuration again must not repeat the line.
        let told_unused = last.and_then(|followed| followed.told_unused);
        self.followed = Some(Followed { config, hosts, used, generation, told: None, told_unused });
        self.is_changed = true;
        // The candidate is followed now, or was given up.
        self.candidate.clear();
        self.arrange_hosts();
    }

    /// Adds the hosts of the followed configuration and removes unneeded ones. Without that, a
    /// watched file that keeps naming new hosts would use more and more memory.
    fn arrange_hosts(&mut self) {
        let Some(followed) = &self.followed else { return };
        for name in followed.hosts.keys() {
            self.hosts.entry(name.clone()).or_default();
        }
        let (waiting, candidate) = (&self.waiting, &self.candidate);
        self.hosts.retain(|name, host| {
            followed.hosts.contains_key(name)
                || candidate.contains(name)
                || waiting.iter().any(|one| one.hosts.contains(name))
                // Its thread exists until the look-up ends, and counts towards the maximum.
                || host.since.is_some()
        });
    }

    /// Updates the hosts after the backends of a file have changed.
    fn handle_file_changed(&mut self, path: &str) {
        let is_its = |config: &Config| config.discovery.file.as_deref() == Some(path);
        let backends = self.files.get(path).map(Watched::backends).unwrap_or_default();
        if let Some(followed) = self.followed.as_mut().filter(|followed| is_its(&followed.config)) {
            followed.hosts = followed.config.hosts(backends);
            self.is_changed = true;
        }
        for one in self.waiting.iter_mut().filter(|one| is_its(&one.config)) {
            one.hosts = one_by_one(one.config.hosts(backends).into_keys());
        }
        self.arrange_hosts();
    }

    /// Returns the backends in the file of a configuration. Until that has been read, returns those
    /// of the file in use.
    fn backends_in_file(&self, config: &Config) -> &[BackendConfig] {
        let Some(path) = &config.discovery.file else { return &[] };
        let file = self.files.get(path).filter(|file| file.is_good());
        file.map_or_else(|| self.in_use(), Watched::backends)
    }

    /// Returns the backends of the file of the followed configuration.
    fn in_use(&self) -> &[BackendConfig] {
        let followed = self.followed.as_ref();
        let path = followed.and_then(|followed| followed.config.discovery.file.as_ref());
        path.and_then(|path| self.files.get(path)).map(Watched::backends).unwrap_or_default()
    }

    fn looked_up(&mut self, now: Instant, name: &str, result: Result<Vec<IpAddr>, String>) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.since = None;
        match result {
            Ok(addresses) => {
                if std::mem::take(&mut host.is_told) {
                    info!("discovery: {name} resolves again");
                }
                host.looked_at = Some(now);
                let is_news = host.addresses.as_ref() != Some(&addresses);
                host.addresses = Some(addresses);
                self.is_changed |= is_news;
            }
            Err(wrong) => {
                // The last addresses stay, because a failing resolver says nothing about the
                // backends.
                host.looked_at = Some(now);
                host.tell_failure(name, &wrong);
            }
        }
    }

    /// Starts the look-ups and readings that are due, and reports look-ups that hang.
    fn work(&mut self, now: Instant) {
        let nothing = BTreeMap::new();
        let every = self.followed.as_ref().map_or(&nothing, |followed| &followed.hosts);
        let mut under_way = 0;
        let mut due = Vec::new();
        for (name, host) in &mut self.hosts {
            under_way += usize::from(host.since.is_some());
            if host.since.is_some_and(|since| now >= since + SLOW) {
                host.tell_failure(name, "the look-up takes long");
            }
            if host.due(now, every.get(name)).is_some_and(|at| at <= now) {
                due.push((host.looked_at, name, host));
            }
        }
        // Hosts that have waited longest come first, so that none is starved if all look-ups are in
        // use.
        sort_by(&mut due, |one, other| one.0.cmp(&other.0));
        for (_, name, host) in due.into_iter().take(LOOK_UPS_MAX.saturating_sub(under_way)) {
            (host.since, host.is_fresh) = (Some(now), false);
            let (look_up, sender) = (Arc::clone(&self.look_up), self.sender.clone());
            let of = name.clone();
            let work = move || {
                let result = look_up(&of);
                // If the receiver is gone, the proxy has ended.
                let _ = sender.send(Message::LookedUp { host: of, result });
            };
            if let Err(error) = thread::Builder::new().name("resolve".to_owned()).spawn(work) {
                // As after a failed look-up, the next attempt comes after the usual time.
                (host.since, host.looked_at) = (None, Some(now));
                let error = os_error_text(&error);
                host.tell_failure(name, &format!("cannot start a thread: {error}"));
            }
        }
        self.read_files(now);
    }

    /// Starts reading the files that are due.
    fn read_files(&mut self, now: Instant) {
        let followed = self.followed.as_ref();
        let followed = followed.and_then(|followed| followed.config.discovery.file.as_ref());
        for (path, file) in &mut self.files {
            if file.due(followed == Some(path)).is_none_or(|at| at > now) {
                continue;
            }
            file.begin();
            let (of, sender) = (path.clone(), self.sender.clone());
            let work = move || {
                let content = watched::read(&of);
                // If the receiver is gone, the proxy has ended.
                let _ = sender.send(Message::Read { path: of, content });
            };
            if let Err(error) = thread::Builder::new().name("watch".to_owned()).spawn(work) {
                let error = os_error_text(&error);
                // Handled like a failed reading, so that it is logged and repeated in the same way.
                let content = Err(format!("{path}: cannot start a thread: {error}"));
                // The sender is this thread's own, so it has a receiver.
                let _ = self.sender.send(Message::Read { path: path.clone(), content });
            }
        }
    }

    /// Replies to the callers whose results are complete or whose time is up.
    fn reply(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting);
        for one in waiting {
            // The file may have named further hosts meanwhile.
            let new: Vec<&String> = one.hosts.iter().filter(|name| self.is_missing(name)).collect();
            let file = one.config.discovery.file.as_ref();
            let is_reading =
                file.and_then(|path| self.files.get(path)).is_some_and(Watched::is_pending);
            let is_complete = new.is_empty() && !is_reading;
            if is_complete || now >= one.until {
                // A caller that has given up does not receive it.
                let _ = one.reply.send(self.known(&one.config));
                self.candidate = one.hosts;
                continue;
            }
            for name in new {
                let host = self.hosts.entry(name.clone()).or_default();
                // Only hosts that were never looked up. A failed look-up is a result too, else the
                // caller would wait until its time is up.
                host.is_fresh |= host.looked_at.is_none() && host.since.is_none();
            }
            self.waiting.push(one);
        }
    }

    /// Whether the result of a requested look-up is outstanding.
    fn is_missing(&self, name: &str) -> bool {
        self.hosts
            .get(name)
            .is_none_or(|host| host.is_fresh || host.since.is_some() || host.looked_at.is_none())
    }

    fn known(&self, config: &Config) -> Known {
        let addresses = |(name, host): (&String, &Host)| {
            host.addresses.clone().map(|addresses| (name.clone(), addresses))
        };
        Known {
            hosts: one_by_one(self.hosts.iter().filter_map(addresses)),
            file: self.backends_in_file(config).to_vec(),
        }
    }

    /// Publishes the backends of the followed configuration if they differ from those in use. If
    /// the set of backends with taken names has changed, passes a log line to `tell` before that,
    /// so that the line precedes those about the change.
    fn publish(&mut self, tell: impl FnOnce(&str)) {
        let Some(followed) = &self.followed else { return };
        let known = self.known(&followed.config);
        let Some(followed) = &mut self.followed else { return };
        match followed.config.found(&known) {
            Ok(found) => {
                followed.told = None;
                let line = unused_line(&followed.config, &found);
                if followed.told_unused != line {
                    if let Some(line) = &line {
                        tell(line);
                    }
                    followed.told_unused = line;
                }
                if is_same(&found, &followed.used) {
                    return;
                }
                *followed.used = found.clone();
                let Ok(mut results) = self.results.lock() else { return };
                results.found = Some((followed.generation, found));
                if let Some(wake) = &results.wake {
                    wake();
                }
            }
            Err(wrong) => {
                if followed.told.as_ref() != Some(&wrong) {
                    warn!("discovery: {wrong}: keeping those in use");
                    followed.told = Some(wrong);
                }
            }
        }
    }

    /// Returns the time of the next work.
    fn next(&self, now: Instant) -> Option<Instant> {
        let followed = self.followed.as_ref();
        let is_full =
            self.hosts.values().filter(|host| host.since.is_some()).count() >= LOOK_UPS_MAX;
        let due = self.hosts.iter().filter_map(|(name, host)| match host.since {
            // To report that it hangs. The end of a look-up is a message, and needs no time.
            Some(since) if !host.is_told => Some(since + SLOW),
            Some(_) => None,
            // The end of any look-up makes room and wakes the thread.
            None if is_full => None,
            None => host.due(now, followed.and_then(|followed| followed.hosts.get(name))),
        });
        let due: Option<Instant> = due.min();
        let path = followed.and_then(|followed| followed.config.discovery.file.as_ref());
        let files = self.files.iter().filter_map(|(of, file)| file.due(path == Some(of))).min();
        let waiting = self.waiting.iter().map(|one| one.until).min();
        [due, files, waiting].into_iter().flatten().min().map(|at| at.max(now))
    }
}

impl Host {
    /// Returns the time of the next look-up, `every` after the last; `None` while one is in
    /// progress, or if the host is not followed.
    fn due(&self, now: Instant, every: Option<&Duration>) -> Option<Instant> {
        if self.since.is_some() {
            return None;
        }
        match self.looked_at {
            Some(at) if !self.is_fresh => every.map(|every| at + *every),
            _ => Some(now),
        }
    }

    /// Reports that look-ups fail, once until one succeeds.
    fn tell_failure(&mut self, name: &str, wrong: &str) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        match self.addresses.as_ref().map(Vec::len) {
            Some(count) => {
                warn!(
                    "discovery: cannot resolve {name}: {wrong}: keeping its last {count} addresses"
                );
            }
            None => {
                warn!("discovery: cannot resolve {name}: {wrong}: its backends are not used yet")
            }
        }
    }
}

/// Whether both have the same backends. The order of a backend's addresses does not matter, because
/// resolvers rotate them.
fn is_same(a: &Found, b: &Found) -> bool {
    let is_alike = |(a, b): (&BackendTarget, &BackendTarget)| {
        a.name == b.name
            && a.url == b.url
            && a.authority == b.authority
            && is_same_set(&a.addresses, &b.addresses)
    };
    a.backends == b.backends
        && a.targets.len() == b.targets.len()
        && a.targets.iter().zip(&b.targets).all(is_alike)
}

/// The maximum number of simultaneous look-ups, including those that hang.
const LOOK_UPS_MAX: usize = 16;
/// Time after which a look-up that has not ended is logged: the first timeout of glibc's resolver.
const SLOW: Duration = Duration::from_secs(5);
/// The longest wait without anything due.
const IDLE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiscoveryRules;

    /// If there are more hosts than simultaneous look-ups, each host is looked up before any is
    /// looked up again, although the first ones are due again by then.
    #[test]
    fn no_host_is_passed_over() {
        let count = 2 * LOOK_UPS_MAX + 1;
        let (looked_up, names) = crossbeam_channel::unbounded();
        let look_up = move |host: &str| {
            looked_up.send(host.to_owned()).map_err(|error| error.to_string())?;
            Ok(vec![IpAddr::from([10, 0, 0, 1])])
        };
        let (sender, messages) = crossbeam_channel::unbounded();
        let mut finder = Finder::new(Arc::new(look_up), sender, messages, Arc::default());
        let one = |number| BackendConfig::new(&format!("{number}"), &format!("http://h{number}"));
        let config = Config { backends: (0..count).map(one).collect(), ..Config::default() };
        let (config, used) = (Box::new(config), Box::default());
        let mut now = Instant::now();
        finder.handle(now, Message::Follow { config, used, generation: 1 });
        for _ in 0..count.div_ceil(LOOK_UPS_MAX) {
            finder.work(now);
            for _ in 0..LOOK_UPS_MAX {
                let ended = finder.messages.recv_timeout(Duration::from_secs(30));
                finder.handle(now, ended.expect("a look-up that has ended"));
            }
            now += Duration::from_secs(3600);
        }
        let looked_up: BTreeSet<String> = names.try_iter().collect();
        assert_eq!(looked_up.len(), count, "{looked_up:?}");
    }

    /// If a file keeps naming new hosts, no state of the former ones remains.
    #[test]
    fn former_hosts_are_forgotten() {
        let (sender, messages) = crossbeam_channel::unbounded();
        let look_up = |_: &str| Ok(vec![IpAddr::from([10, 0, 0, 1])]);
        let mut finder = Finder::new(Arc::new(look_up), sender, messages, Arc::default());
        let config = Config {
            discovery: DiscoveryRules { file: Some("f.json".to_owned()), ..Default::default() },
            ..Config::default()
        };
        let now = Instant::now();
        let (config, used) = (Box::new(config), Box::default());
        finder.handle(now, Message::Follow { config, used, generation: 1 });
        for number in 0..10 {
            let content = Ok(format!(r#"[{{"targets": ["h{number}.test"]}}]"#).into_bytes());
            finder.handle(now, Message::Read { path: "f.json".to_owned(), content });
            finder.hosts.values_mut().for_each(|host| host.looked_at = Some(now));
        }
        assert_eq!(finder.hosts.keys().collect::<Vec<_>>(), ["h9.test"]);
    }

    /// Backends of the file whose names are taken are logged once, even if the configuration is
    /// read again. They are logged again when they change, and before the backends are published.
    #[test]
    fn taken_names_are_told_once() {
        let (sender, messages) = crossbeam_channel::unbounded();
        let look_up = |_: &str| Err("not used".to_owned());
        let mut finder = Finder::new(Arc::new(look_up), sender, messages, Arc::default());
        let config = Config {
            discovery: DiscoveryRules { file: Some("f.json".to_owned()), ..Default::default() },
            ..Config::default()
        };
        let now = Instant::now();
        let mut told = Vec::new();
        for (generation, names) in [(1, vec!["A"]), (2, vec!["A"]), (3, vec!["A", "B", "C"])] {
            let (config, used) = (Box::new(config.clone()), Box::default());
            finder.handle(now, Message::Follow { config, used, generation });
            let one = |name: &&str| format!(r#"{{"name": "{name}", "url": "http://10.0.0.9"}}"#);
            let list: Vec<String> = names.iter().map(one).collect();
            let content = Ok(format!("[{}]", list.join(",")).into_bytes());
            finder.handle(now, Message::Read { path: "f.json".to_owned(), content });
            finder.results.lock().expect("no panic").found = None;
            let results = Arc::clone(&finder.results);
            finder.publish(|line| {
                assert!(results.lock().expect("no panic").found.is_none(), "not published yet");
                told.push(line.to_owned());
            });
        }
        let line = |names, taken| format!("not using {names} (discovery.file f.json): {taken}");
        let lines = [line("A", "its name is taken"), line("A, B", "their names are taken")];
        assert_eq!(told, lines);
    }
}
