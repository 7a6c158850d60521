//! A world: the proxy, its clients and backends, the network between them, and the time.
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{Notice, Proxy};
use intelliproxy_core::Instant;

use crate::backend::{Backend, Received, Reply};
use crate::client::{Client, End, Pace, Response, Step};
use crate::driver::Driver;
use crate::ledger::{Ledger, Run};
use crate::net::{Happening, Listening, Net, Path};
use crate::oracle::Verdict;
use crate::reader::Head;
use crate::recording::Recording;
use crate::reload::{Named, Reload, Reloads, Wanted};
use crate::trace::Trace;
use crate::weather::Weather;

/// A scripted change at a time.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A backend's address behaves differently. Its connections break if it stops listening.
    Listening(usize, Listening),
    /// A backend closes its idle connections.
    CloseIdle(usize),
    /// Apply the scripted configuration of this number.
    Reload(usize),
    /// The proxy is stopped.
    Stop,
    /// No more faults.
    Calm,
}

/// Decides on the response of a backend without a script. The arguments: the network, the weather,
/// whether the backend never crashes, the request's head, the number of its run from 1.
pub type Decide = fn(&mut Net, Weather, bool, &Head, u64) -> (Reply, Run);

/// A world under construction, and then running.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) net: Net,
    pub(crate) driver: Option<Driver>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) clients: Vec<Client>,
    pub(crate) client_paths: (Path, Path),
    pub(crate) changes: Vec<Change>,
    pub(crate) reloads: Vec<Reload>,
    /// The configured backends with their names.
    pub(crate) configured: Vec<Named>,
    pub(crate) reloaded: Reloads,
    pub(crate) ledger: Ledger,
    pub(crate) weather: Weather,
    pub(crate) decide: Decide,
    pub(crate) backlog: VecDeque<usize>,
    pub(crate) owners: Vec<Option<usize>>,
    pub(crate) patience: Duration,
    /// An address of every backend at which none can be reached.
    pub(crate) dead_address: Option<SocketAddr>,
    pub(crate) has_stopped: bool,
    /// Whether there are no faults from the beginning to the end.
    pub(crate) is_fair: bool,
}

/// The outcome of a world.
#[derive(Debug)]
pub struct Report {
    /// The clients with their responses.
    pub clients: Vec<Client>,
    /// The backends with their requests.
    pub backends: Vec<Backend>,
    /// The notices of the proxy.
    pub notices: Vec<Notice>,
    /// The kinds of events of the router, and of actions and notices of the router and the proxy.
    pub kinds: BTreeSet<&'static str>,
    /// The effects of new configurations.
    pub reloads: Reloads,
    /// Hash of all events.
    pub hash: u64,
    /// Number of events.
    pub steps: u64,
    /// Bytes that the proxy read from backends.
    pub taken_from_backends: u64,
    /// Bytes that the proxy read from clients.
    pub taken_from_clients: u64,
    /// The time of its end.
    pub ended_at: Instant,
}

/// A response that a client got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shown {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: String,
    /// Whether it looks complete.
    pub is_whole: bool,
}

impl Shown {
    /// Returns a complete response.
    pub fn whole(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned(), is_whole: true }
    }

    /// Returns a response whose end is missing.
    pub fn cut(status: u16, body: &str) -> Self {
        Self { is_whole: false, ..Self::whole(status, body) }
    }
}

impl Report {
    /// Returns the responses of client `index`.
    pub fn responses(&self, index: usize) -> Vec<Shown> {
        let show = |response: &Response| Shown {
            status: response.head.status,
            body: String::from_utf8_lossy(&response.body).into_owned(),
            is_whole: response.is_whole,
        };
        self.clients[index].responses.iter().map(show).collect()
    }

    /// Returns the statuses that client `index` got.
    pub fn statuses(&self, index: usize) -> Vec<u16> {
        self.clients[index].responses.iter().map(|response| response.head.status).collect()
    }

    /// Returns the end of client `index`'s connection.
    pub fn end(&self, index: usize) -> Option<End> {
        self.clients[index].end
    }

    /// Returns `METHOD target` of the requests that backend `index` got, without probes.
    pub fn requests(&self, index: usize) -> Vec<String> {
        let show =
            |received: &Received| format!("{} {}", received.head.method, received.head.target);
        self.backends[index].requests.iter().map(show).collect()
    }
}

/// A network without delays or cuts.
pub const CALM_PATH: Path = Path {
    latency: Duration::from_micros(200),
    jitter: Duration::ZERO,
    segment_max: 64 * 1024,
    capacity: 256 * 1024,
    is_harsh: false,
};

/// Maximum virtual time for each goal of `World::run`. A link that lets 50 bytes through per second
/// needs this for a buffer of 300 000 bytes, and a client that takes them is not cut (seed 11978).
const PATIENCE: Duration = Duration::from_secs(6000);
/// One in this many seeds replays the recording of its router. The replay takes as long as the run.
const REPLAYED_EVERY: u64 = 4;
/// Maximum number of turns in which time does not advance.
const TURNS_MAX: u32 = 200_000;

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Returns an empty world with a network without surprises.
    pub fn new() -> Self {
        Self::seeded(1, false)
    }

    /// Returns an empty world of this seed. With `is_shown` it prints its events.
    pub fn seeded(seed: u64, is_shown: bool) -> Self {
        Self {
            seed,
            config: Config::default(),
            net: Net::new(seed, Trace::new(is_shown), (CALM_PATH, CALM_PATH)),
            driver: None,
            backends: Vec::new(),
            clients: Vec::new(),
            client_paths: (CALM_PATH, CALM_PATH),
            changes: Vec::new(),
            reloads: Vec::new(),
            configured: Vec::new(),
            reloaded: Reloads::default(),
            ledger: Ledger::default(),
            weather: Weather::Clear,
            decide: crate::response::decide,
            backlog: VecDeque::new(),
            owners: Vec::new(),
            patience: PATIENCE,
            dead_address: None,
            has_stopped: false,
            is_fair: false,
        }
    }

    /// Changes the proxy's configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Sets the faults that may occur.
    #[must_use]
    pub const fn weather(mut self, weather: Weather) -> Self {
        self.weather = weather;
        self
    }

    /// Adds a backend that sends these responses first.
    #[must_use]
    pub fn backend(self, script: Vec<Reply>) -> Self {
        self.backend_at(script, Listening::Yes)
    }

    /// Adds a backend with the given outcome of connections to its address.
    #[must_use]
    pub fn backend_at(mut self, script: Vec<Reply>, listening: Listening) -> Self {
        let index = self.backends.len();
        self.configured.push(Named { name: index, machine: index });
        self.machine_at(script, listening)
    }

    /// Adds a backend that is not configured at the beginning.
    #[must_use]
    pub fn spare(self, script: Vec<Reply>) -> Self {
        self.machine_at(script, Listening::Yes)
    }

    fn machine_at(mut self, script: Vec<Reply>, listening: Listening) -> Self {
        let last = u8::try_from(self.backends.len()).expect("few backends") + 1;
        let address = SocketAddr::from(([10, 1, 0, last], 80));
        self.net.listening.push((address, listening));
        let mut backend = Backend::new(address);
        backend.script = script.into();
        self.backends.push(backend);
        self
    }

    /// Gives every backend a first address that is unreachable.
    #[must_use]
    pub fn dead_address(mut self, listening: Listening) -> Self {
        let address = SocketAddr::from(([10, 2, 0, 1], 80));
        self.net.listening.push((address, listening));
        self.dead_address = Some(address);
        self
    }

    /// Sets the reading speed of the last backend.
    #[must_use]
    pub fn backend_pace(mut self, pace: Pace) -> Self {
        if let Some(backend) = self.backends.last_mut() {
            backend.pace = pace;
        }
        self
    }

    /// Adds a client that follows a script.
    #[must_use]
    pub fn client(self, script: Vec<Step>) -> Self {
        self.client_at(0, script)
    }

    /// Adds a client that connects after this number of milliseconds.
    #[must_use]
    pub fn client_at(mut self, millis: u64, script: Vec<Step>) -> Self {
        self.add_client(Instant::from_millis(millis), script);
        self
    }

    /// Sets the properties of clients' connections.
    #[must_use]
    pub const fn client_paths(mut self, inward: Path, outward: Path) -> Self {
        self.client_paths = (inward, outward);
        self
    }

    /// Sets the properties of connections to backends.
    #[must_use]
    pub const fn backend_paths(mut self, inward: Path, outward: Path) -> Self {
        self.net.paths = (inward, outward);
        self
    }

    /// Adds a change at a time.
    #[must_use]
    pub fn change_at(mut self, millis: u64, change: Change) -> Self {
        self.add_change(Instant::from_millis(millis), change);
        self
    }

    /// Adds a client, which the caller may still change.
    pub fn add_client(&mut self, starts: Instant, script: Vec<Step>) -> &mut Client {
        let index = self.clients.len();
        let last = u8::try_from(index % 200).expect("below 200") + 1;
        let peer = SocketAddr::from(([192, 0, 2, last], 40_000 + index as u16));
        self.clients.push(Client::new(peer, starts, script));
        self.net.at(starts, Happening::Client(index));
        &mut self.clients[index]
    }

    /// Declares that there are no faults: every polite client must be served.
    #[must_use]
    pub const fn fair(mut self) -> Self {
        self.is_fair = true;
        self
    }

    /// Adds a change.
    pub fn add_change(&mut self, at: Instant, change: Change) {
        self.changes.push(change);
        self.net.at(at, Happening::Change(self.changes.len() - 1));
    }

    /// Changes the proxy's configuration at a time.
    #[must_use]
    pub fn reload_at(mut self, millis: u64, reload: impl Fn(&mut Wanted) + 'static) -> Self {
        self.add_reload(Instant::from_millis(millis), Box::new(reload));
        self
    }

    /// Adds a new configuration.
    pub fn add_reload(&mut self, at: Instant, reload: Reload) {
        self.reloads.push(reload);
        self.add_change(at, Change::Reload(self.reloads.len() - 1));
    }

    /// Returns the record of all requests.
    pub const fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Returns a random script.
    pub fn script(&mut self, plan: fn(&mut Net, &mut Ledger) -> Vec<Step>) -> Vec<Step> {
        plan(&mut self.net, &mut self.ledger)
    }

    /// Returns the network, which has the only source of randomness.
    pub const fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// Runs the world to its end: all clients are done, nothing is held, the proxy has stopped.
    pub fn run(mut self) -> Report {
        let targets = self.targets_of(&self.configured);
        self.net.configured = targets.iter().flat_map(|to| to.addresses.clone()).collect();
        let mut proxy = Proxy::new(self.config.clone(), targets, self.seed, self.net.now)
            .expect("a valid configuration");
        proxy.handle_date("Sun, 06 Nov 1994 08:49:37 GMT");
        let recording = Recording::default();
        proxy.record_into(recording.sink(), 0);
        let reads_max = self.net.pick(1, 16) as usize;
        self.driver = Some(Driver::new(proxy, reads_max));
        self.run_until("every client is done", |world| world.clients.iter().all(Client::is_done));
        self.run_until("nothing is held for any peer", |world| world.proxy().is_at_rest());
        if !self.has_stopped {
            self.run_until("idle connections are closed", |world| world.proxy().connections() == 0);
            self.stop();
        }
        self.run_until("the proxy has stopped", |world| {
            world.proxy().is_stopped() && world.proxy().connections() == 0
        });
        self.hold(match self.proxy().is_at_rest() {
            true => Ok(()),
            false => Err("the proxy has stopped and holds something".to_owned()),
        });
        let driver = self.driver.take().expect("the driver was made above");
        let Driver { proxy, notices, mut kinds, .. } = driver;
        drop(proxy);
        kinds.extend(recording.events());
        if self.seed % REPLAYED_EVERY == 1 {
            self.hold(recording.replays());
        }
        Report {
            hash: self.net.trace.hash(),
            steps: self.net.trace.lines(),
            ended_at: self.net.now,
            taken_from_backends: self.net.taken_from_backends(),
            taken_from_clients: self.net.taken_from_clients(),
            clients: self.clients,
            backends: self.backends,
            notices,
            kinds,
            reloads: self.reloaded,
        }
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.driver.as_ref().expect("the world is at work").proxy
    }

    /// Panics with the virtual time if a rule was broken.
    #[track_caller]
    pub(crate) fn hold(&self, verdict: Verdict) {
        if let Err(text) = verdict {
            let now = Duration::from_nanos(self.net.now.as_nanos());
            panic!("at {now:?}: {text}");
        }
    }

    fn run_until(&mut self, what: &str, is_reached: impl Fn(&Self) -> bool) {
        let deadline = self.net.now + self.patience;
        let (mut last, mut turns) = (self.net.now, 0);
        while !is_reached(self) {
            if self.net.now > deadline || !self.turn() {
                let open: Vec<usize> =
                    (0..self.clients.len()).filter(|&i| !self.clients[i].is_done()).collect();
                self.hold(Err(format!("not reached in time: {what}; clients {open:?}")));
            }
            turns = if self.net.now > last { 0 } else { turns + 1 };
            last = self.net.now;
            if turns > TURNS_MAX {
                self.hold(Err("time does not advance".to_owned()));
            }
        }
    }
}
