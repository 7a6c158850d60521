//! A blocking HTTP/1.1 server that acts out a [`Model`]: one thread for each connection.
//!
//! Holds listeners, connections and the end of both; what happens on one connection is in
//! `connection.rs`. Time comes from the OS clock, counted from the start of the backend.
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use intelliproxy_core::Instant;

use crate::connection;
use crate::metrics::{self, Measured};
use crate::model::{Fate, Model, RequestKind};
use crate::parameters::{ParameterError, Parameters};
use crate::process::{self, CpuMeter};
use crate::work::Work;

/// What a backend is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The port on 127.0.0.1 and ::1; 0 for any that is free.
    pub port: u16,
    /// Decides every random draw.
    pub seed: u64,
    /// What is logged, on stderr.
    pub log: LogLevel,
    /// How the backend behaves.
    pub parameters: Parameters,
}

impl Config {
    /// A silent backend without faults on a free port: the ground for tests.
    pub fn faultless() -> Self {
        Self { port: 0, seed: 1, log: LogLevel::Off, parameters: Parameters::faultless() }
    }
}

/// What a backend logs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Start and end.
    Info,
    /// Every fault and every bad request too.
    Debug,
}

/// A running backend. Dropping it is [`Backend::kill`].
#[derive(Debug)]
pub struct Backend {
    host: Arc<Host>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    /// Starts a backend; on return it accepts connections.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.parameters.check().map_err(StartError::Parameter)?;
        let listeners = listen(config.port)?;
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let port = addresses.first().map_or(config.port, SocketAddr::port);
        let host = Arc::new(Host::new(port, config));
        let mut backend = Self { host, addresses, threads: Vec::new() };
        for listener in listeners {
            let host = Arc::clone(&backend.host);
            let accept = thread::Builder::new().spawn(move || host.accept(&listener))?;
            backend.threads.push(accept);
        }
        let host = Arc::clone(&backend.host);
        let measure = thread::Builder::new().spawn(move || host.measure())?;
        backend.threads.push(measure);
        backend.host.log(LogLevel::Info, || {
            let urls: Vec<String> =
                backend.addresses.iter().map(|address| format!("http://{address}")).collect();
            format!("listening on {}", urls.join(" and "))
        });
        Ok(backend)
    }

    /// Takes other parameters for all requests from now on.
    pub fn set_parameters(&self, parameters: Parameters) -> Result<(), ParameterError> {
        parameters.check()?;
        lock(&self.host.model).handle_parameters(self.host.now(), parameters);
        Ok(())
    }

    /// Accepts no more, closes idle and silent connections, lets answers in progress finish within
    /// `drain_max`, and cuts what is left. Says whether nothing had to be cut.
    pub fn stop(mut self, drain_max: Duration) -> bool {
        self.host.log(LogLevel::Info, || "ending".to_owned());
        self.end_threads(Phase::Draining);
        self.host.cut(|connection| connection.is_idle.load(Ordering::SeqCst));
        self.host.wait_for_connections(drain_max)
    }

    /// Ends at once, as a crash does: listeners and connections are closed, answers cut.
    pub fn kill(self) {
        drop(self);
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.host.port
    }

    /// The addresses it listens on: 127.0.0.1, and ::1 where that exists.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The parameters in force.
    pub fn parameters(&self) -> Parameters {
        lock(&self.host.model).parameters().clone()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        let connections_open = lock(&self.host.connections).len();
        Counters { connections_open, ..lock(&self.host.counters).clone() }
    }

    fn end_threads(&mut self, phase: Phase) {
        self.host.enter(phase);
        if self.threads.is_empty() {
            // Ended before: by now its port may be another's.
            return;
        }
        for address in &self.addresses {
            // Wakes the accepting thread; when this fails, a full backlog has woken it already.
            drop(TcpStream::connect_timeout(address, Duration::from_secs(1)));
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            drop(thread.join());
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end_threads(Phase::Killed);
        self.host.cut(|_| true);
        self.host.wait_for_connections(KILL_WAIT_MAX);
    }
}

/// Why a backend did not start.
#[derive(Debug)]
pub enum StartError {
    /// A parameter is out of its range.
    Parameter(ParameterError),
    /// The address cannot be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses a thread or a socket's data.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(error) => error.fmt(f),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is taken by another process")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::System(source) => write!(f, "cannot start: {source}"),
        }
    }
}

impl Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// What has happened at a backend since its start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections accepted, the refused ones included.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: usize,
    /// Connections answered 503 because too many were open.
    pub connections_refused: u64,
    /// Requests for `/health`.
    pub pings: u64,
    /// Requests for `/metrics`.
    pub polls: u64,
    /// All other requests.
    pub requests: u64,
    /// Pings that got no answer.
    pub dropped: u64,
    /// Pings and requests answered 500.
    pub errors: u64,
    /// Pings and requests answered late.
    pub delayed: u64,
    /// Bad requests, answered 400.
    pub malformed: u64,
}

/// How far a backend is on its way to the end; it only goes forward.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    Draining,
    Killed,
}

/// What the threads of a backend share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) port: u16,
    log: LogLevel,
    started: Clock,
    model: Mutex<Model>,
    work: OnceLock<Work>,
    cpu: Mutex<CpuMeter>,
    counters: Mutex<Counters>,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    connection_ended: Condvar,
}

/// One connection as others see it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    is_idle: AtomicBool,
}

impl Host {
    fn new(port: u16, config: Config) -> Self {
        Self {
            port,
            log: config.log,
            started: Clock::now(),
            model: Mutex::new(Model::new(config.parameters, config.seed, Instant::ZERO)),
            work: OnceLock::new(),
            cpu: Mutex::default(),
            counters: Mutex::default(),
            phase: Mutex::new(Phase::Running),
            phase_changed: Condvar::new(),
            connections: Mutex::default(),
            connection_ended: Condvar::new(),
        }
    }

    /// Lets the model decide about a request.
    pub(crate) fn request(&self, kind: RequestKind) -> Fate {
        let now = self.now();
        lock(&self.model).request(now, kind)
    }

    /// The /metrics answer of this moment.
    pub(crate) fn report(&self) -> String {
        let measured = Measured {
            port: self.port,
            cpu_busy_ms: lock(&self.cpu).busy_ms(),
            memory_rss: process::memory_rss(),
            uptime: self.started.elapsed(),
            unix_time: unix_time(),
        };
        let now = self.now();
        let mut model = lock(&self.model);
        model.handle_timeout(now);
        metrics::to_json(&model, &measured)
    }

    /// Works on the CPU, unless the backend is killed meanwhile.
    pub(crate) fn work(&self, cpu: Duration) {
        if cpu > Duration::ZERO {
            let work = self.work.get_or_init(Work::calibrate);
            work.run(cpu, || *lock(&self.phase) == Phase::Killed);
        }
    }

    /// Waits for `delay`, or until the backend is killed; says whether it still lives.
    pub(crate) fn pause(&self, delay: Duration) -> bool {
        delay.is_zero() || self.wait_for_phase(Phase::Killed, delay) < Phase::Killed
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut lock(&self.counters));
    }

    pub(crate) fn log(&self, level: LogLevel, message: impl FnOnce() -> String) {
        if level <= self.log {
            let name = if level == LogLevel::Debug { "DEBUG" } else { "INFO" };
            // A log that cannot be written is no reason to stop serving.
            drop(writeln!(io::stderr(), "{name} backend {}: {}", self.port, message()));
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        *lock(&self.phase) == Phase::Running
    }

    /// Marks a connection as one that may be closed at any time; false when it should close itself.
    pub(crate) fn enter_idle(&self, connection: &Connection) -> bool {
        // Under the lock: whoever ends the phase after this sees the mark.
        let phase = lock(&self.phase);
        connection.is_idle.store(true, Ordering::SeqCst);
        *phase == Phase::Running
    }

    pub(crate) fn leave_idle(&self, connection: &Connection) {
        connection.is_idle.store(false, Ordering::SeqCst);
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if !self.is_running() {
                return;
            }
            match stream {
                Ok(stream) => self.admit(stream),
                // Out of descriptors, or a client that has gone already: not to be met by spinning.
                Err(error) => {
                    self.log(LogLevel::Debug, || format!("cannot accept: {error}"));
                    self.wait_for_phase(Phase::Draining, ACCEPT_PAUSE);
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let connection = Arc::new(Connection { stream, is_idle: AtomicBool::new(false) });
        let id = {
            let mut counters = lock(&self.counters);
            counters.connections += 1;
            counters.connections
        };
        let is_full = {
            let mut connections = lock(&self.connections);
            let is_full = connections.len() >= CONNECTIONS_MAX;
            if !is_full {
                connections.insert(id, Arc::clone(&connection));
            }
            is_full
        };
        if is_full {
            self.count(|counters| counters.connections_refused += 1);
            connection::refuse(&connection.stream);
            return;
        }
        let guard = Registered { host: Arc::clone(self), id };
        let spawned = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
            connection::serve(&guard.host, &connection);
        });
        if let Err(error) = spawned {
            // The closure is gone, and with it guard and connection.
            self.log(LogLevel::Debug, || format!("cannot start a thread: {error}"));
        }
    }

    /// Samples the CPU time until the end.
    fn measure(&self) {
        loop {
            lock(&self.cpu).handle_sample(self.now(), process::cpu_time());
            if self.wait_for_phase(Phase::Draining, CPU_SAMPLE_EVERY) >= Phase::Draining {
                return;
            }
        }
    }

    fn enter(&self, phase: Phase) {
        let mut current = lock(&self.phase);
        *current = phase.max(*current);
        self.phase_changed.notify_all();
    }

    /// Waits until `phase` is reached, at most for `wait_max`; returns the phase then.
    fn wait_for_phase(&self, phase: Phase, wait_max: Duration) -> Phase {
        let current = lock(&self.phase);
        let (current, _) = self
            .phase_changed
            .wait_timeout_while(current, wait_max, |current| *current < phase)
            .unwrap_or_else(PoisonError::into_inner);
        *current
    }

    /// Closes the connections that `is_meant`; their threads then notice and end.
    fn cut(&self, is_meant: impl Fn(&Connection) -> bool) {
        for connection in lock(&self.connections).values() {
            if is_meant(connection) {
                // Fails when the client has closed it already.
                drop(connection.stream.shutdown(Shutdown::Both));
            }
        }
    }

    /// Waits until no connection is open, at most for `wait_max`; says whether it came to that.
    fn wait_for_connections(&self, wait_max: Duration) -> bool {
        let connections = lock(&self.connections);
        let (connections, _) = self
            .connection_ended
            .wait_timeout_while(connections, wait_max, |connections| !connections.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.is_empty()
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }
}

/// Takes a connection off the list when its thread ends, however that ends.
struct Registered {
    host: Arc<Host>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.host.connections).remove(&self.id);
        self.host.connection_ended.notify_all();
    }
}

/// Time since 1970; zero for a clock set before that.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Listens on 127.0.0.1 and, where it exists, on ::1, with the same port.
fn listen(port: u16) -> Result<Vec<TcpListener>, StartError> {
    let mut attempts = 1..=FREE_PORT_ATTEMPTS;
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v4 = TcpListener::bind(address)
            .map_err(|source| StartError::Listen { address, source })?;
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, v4.local_addr()?.port()));
        match TcpListener::bind(address) {
            Ok(v6) => return Ok(vec![v4, v6]),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                // A port that is free on 127.0.0.1 may be taken on ::1: then another one may do.
                if port != 0 || attempts.next().is_none() {
                    return Err(StartError::Listen { address, source });
                }
            }
            // No IPv6 here.
            Err(_) => return Ok(vec![v4]),
        }
    }
}

/// No thread here leaves shared data half changed when it panics, so a poisoned lock is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bounds the threads, and the memory that clients can take.
const CONNECTIONS_MAX: usize = 1024;
/// A connection's thread keeps its buffers on the heap.
const THREAD_STACK_BYTES: usize = 256 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const CPU_SAMPLE_EVERY: Duration = Duration::from_millis(100);
const FREE_PORT_ATTEMPTS: u32 = 16;
/// A killed connection ends at its next look at the phase: a slice of work, a read, a write.
const KILL_WAIT_MAX: Duration = Duration::from_secs(5);
