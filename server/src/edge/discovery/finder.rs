//! The thread that keeps what is known: which names are due, which look-ups are under way, and what
//! the watched file has said. It never blocks but for its next message.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{info, warn};

use super::watched::{self, Watched};
use super::{LookUp, Results};
use crate::config::{Config, Found, Known};

/// A message for the thread.
pub(super) enum Message {
    /// Look up the names of a configuration and read its file, and reply what is known when all of it
    /// has ended, or at `until`.
    Look { config: Box<Config>, until: Instant, reply: Sender<Known> },
    /// Find the backends of this configuration. It replaces the last one; `used` are the backends
    /// in use.
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
    file: Option<Watched>,
    followed: Option<Followed>,
    /// Those who wait for the first results.
    waiting: Vec<Waiting>,
}

/// A configuration that is followed.
struct Followed {
    config: Box<Config>,
    /// The backends that the reactor has, or will take.
    used: Box<Found>,
    generation: u64,
    /// The last complaint about the number of backends.
    told: Option<String>,
}

/// One who waits for results.
struct Waiting {
    config: Box<Config>,
    until: Instant,
    reply: Sender<Known>,
}

/// One host.
#[derive(Default)]
struct Host {
    /// The last result.
    addresses: Option<Vec<IpAddr>>,
    /// The start of the look-up that is under way.
    since: Option<Instant>,
    /// The start of the last look-up.
    looked_at: Option<Instant>,
    /// Whether a look-up was asked for while another one was under way.
    is_fresh: bool,
    /// Whether the log says that its look-ups fail.
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
            file: None,
            followed: None,
            waiting: Vec::new(),
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
            let now = Instant::now();
            self.work(now);
            self.reply(now);
        }
    }

    fn handle(&mut self, now: Instant, message: Message) {
        match message {
            Message::Look { config, until, reply } => {
                for host in config.hosts(&self.backends_in_file(&config)).into_keys() {
                    self.hosts.entry(host).or_default().is_fresh = true;
                }
                self.watch(&config);
                if let Some(file) = &mut self.file {
                    file.ask();
                }
                self.waiting.push(Waiting { config, until, reply });
            }
            Message::Follow { config, used, generation } => {
                self.watch(&config);
                let hosts = config.hosts(&self.backends_in_file(&config));
                self.hosts.retain(|name, host| hosts.contains_key(name) || host.since.is_some());
                self.followed = Some(Followed { config, used, generation, told: None });
                self.publish();
            }
            Message::LookedUp { host, result } => self.looked_up(now, &host, result),
            Message::Read { path, content } => {
                if let Some(file) = self.file.as_mut().filter(|file| file.path == path)
                    && file.handle_read(content)
                {
                    self.publish();
                }
            }
        }
    }

    /// Watches the file of a configuration.
    fn watch(&mut self, config: &Config) {
        let path = config.discovery.file.as_ref();
        if self.file.as_ref().map(|file| &file.path) != path {
            self.file = path.map(|path| Watched::new(path.clone()));
        }
    }

    /// Returns the backends in the watched file, if the configuration has the same file.
    fn backends_in_file(&self, config: &Config) -> Vec<crate::config::BackendConfig> {
        let file = self.file.as_ref();
        let file = file.filter(|file| Some(&file.path) == config.discovery.file.as_ref());
        file.map(|file| file.backends.clone()).unwrap_or_default()
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
                if is_news {
                    self.publish();
                }
            }
            Err(wrong) => {
                host.looked_at = Some(now);
                host.tell_failure(name, &wrong);
            }
        }
    }

    /// Starts the look-ups that are due, and reports those that hang.
    fn work(&mut self, now: Instant) {
        let every = self.intervals();
        let mut under_way = self.hosts.values().filter(|host| host.since.is_some()).count();
        for (name, host) in &mut self.hosts {
            if host.since.is_some_and(|since| now >= since + SLOW) {
                host.tell_failure(name, "the look-up takes long");
            }
            let is_due = host.due(now, every.get(name)).is_some_and(|at| at <= now);
            if !is_due || under_way >= LOOK_UPS_MAX {
                continue;
            }
            under_way += 1;
            (host.since, host.is_fresh) = (Some(now), false);
            let (look_up, sender) = (Arc::clone(&self.look_up), self.sender.clone());
            let of = name.clone();
            let work = move || {
                let result = look_up(&of);
                // Without a receiver the proxy has ended.
                let _ = sender.send(Message::LookedUp { host: of, result });
            };
            if let Err(error) = thread::Builder::new().name("resolve".to_owned()).spawn(work) {
                (host.since, host.looked_at) = (None, Some(now));
                host.tell_failure(name, &format!("cannot start a thread: {error}"));
            }
        }
        if let Some(file) = self.file.as_mut().filter(|file| file.is_due(now)) {
            file.begin(now);
            let (path, sender) = (file.path.clone(), self.sender.clone());
            let work = move || {
                let content = watched::read(&path);
                let _ = sender.send(Message::Read { path, content });
            };
            if let Err(error) = thread::Builder::new().name("watch".to_owned()).spawn(work) {
                let wrong = Err(format!("cannot start a thread: {error}"));
                file.handle_read(wrong);
            }
        }
    }

    /// Replies to those whose results are complete, or whose time is over.
    fn reply(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting);
        for one in waiting {
            let hosts = one.config.hosts(&self.backends_in_file(&one.config));
            // The file may have named further hosts meanwhile.
            let new: Vec<String> = hosts.into_keys().filter(|name| self.is_missing(name)).collect();
            let is_reading = self.file.as_ref().is_some_and(Watched::is_pending);
            let is_complete = new.is_empty() && !is_reading;
            if is_complete || now >= one.until {
                let _ = one.reply.send(self.known(&one.config));
                continue;
            }
            for name in new {
                let host = self.hosts.entry(name).or_default();
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
            hosts: self.hosts.iter().filter_map(addresses).collect(),
            file: self.backends_in_file(config),
        }
    }

    /// Hands over the backends of the followed configuration if they differ from those in use.
    fn publish(&mut self) {
        let Some(config) = self.followed.as_ref().map(|followed| followed.config.clone()) else {
            return;
        };
        let known = self.known(&config);
        let Some(followed) = &mut self.followed else { return };
        match config.found(&known) {
            Ok(found) if !is_same(&found, &followed.used) => {
                followed.told = None;
                *followed.used = found.clone();
                let Ok(mut results) = self.results.lock() else { return };
                results.found = Some((followed.generation, found));
                if let Some(wake) = &results.wake {
                    wake();
                }
            }
            Ok(_) => {}
            Err(wrong) => {
                if followed.told.as_ref() != Some(&wrong) {
                    warn!("discovery: {wrong}: keeping those in use");
                    followed.told = Some(wrong);
                }
            }
        }
    }

    /// Returns the time between two look-ups of each host that is followed.
    fn intervals(&self) -> BTreeMap<String, Duration> {
        let followed = self.followed.as_ref();
        followed.map_or_else(BTreeMap::new, |followed| {
            followed.config.hosts(&self.backends_in_file(&followed.config))
        })
    }

    /// Returns the time of the next work.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let every = self.intervals();
        // A host that the file has just named.
        for name in every.keys() {
            self.hosts.entry(name.clone()).or_default();
        }
        let is_full =
            self.hosts.values().filter(|host| host.since.is_some()).count() >= LOOK_UPS_MAX;
        let due = self.hosts.iter().filter_map(|(name, host)| match host.since {
            Some(since) if !host.is_told => Some(since + SLOW),
            Some(_) => None,
            None if is_full => None,
            None => host.due(now, every.get(name)),
        });
        let due: Option<Instant> = due.min();
        let file = self.file.as_ref().and_then(Watched::due);
        let waiting = self.waiting.iter().map(|one| one.until).min();
        [due, file, waiting].into_iter().flatten().min().map(|at| at.max(now))
    }
}

impl Host {
    /// Returns the time of the next look-up, `every` after the last; `None` while one is under way,
    /// or if the host is not followed.
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

/// Whether both are the same backends. The order of the addresses of one does not matter: resolvers
/// rotate them.
fn is_same(a: &Found, b: &Found) -> bool {
    let is_alike = |(a, b): (&crate::config::BackendTarget, &crate::config::BackendTarget)| {
        a.name == b.name
            && a.url == b.url
            && a.authority == b.authority
            && a.addresses.iter().all(|address| b.addresses.contains(address))
            && b.addresses.iter().all(|address| a.addresses.contains(address))
    };
    a.backends == b.backends
        && a.targets.len() == b.targets.len()
        && a.targets.iter().zip(&b.targets).all(is_alike)
}

/// The maximum number of look-ups under way at the same time, including those that hang.
const LOOK_UPS_MAX: usize = 16;
/// Time after which the log tells of a look-up that has not ended: the first timeout of the resolver
/// of glibc.
const SLOW: Duration = Duration::from_secs(5);
/// The longest wait without anything due.
const IDLE: Duration = Duration::from_secs(3600);
