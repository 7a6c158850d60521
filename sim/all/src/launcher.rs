//! Starts the three processes, shows their log lines, and ends them together.
use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::child::{Child, Event, Role};
use crate::demo::Demo;
use crate::options::Options;
use crate::traffic::Traffic;

/// The reason for the end of the demonstration.
#[derive(Debug)]
enum Stop {
    Signal,
    Ended { role: Role, status: ExitStatus },
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The launcher and its children, in the order in which they end.
pub(crate) struct Launcher {
    children: Vec<Child>,
    events: Receiver<Event>,
    sender: SyncSender<Event>,
    has_colours: bool,
    /// The first address of each child, from its log.
    urls: Vec<(Role, String)>,
    /// The address of the proxy's admin pages.
    admin: Option<String>,
    /// Traffic and faults, once they have begun.
    demo: Option<(Demo, Traffic)>,
}

impl Launcher {
    /// Runs the demonstration to its end.
    pub(crate) fn run(options: &Options) -> ExitCode {
        let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
        if let Err(error) = forward_signals(sender.clone()) {
            eprintln!("all: cannot handle signals: {error}");
            return ExitCode::FAILURE;
        }
        let has_colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        let mut launcher = Self {
            children: Vec::new(),
            events,
            sender,
            has_colours,
            urls: Vec::new(),
            admin: None,
            demo: None,
        };
        let stop = match launcher.start(options) {
            Ok(()) => launcher.watch(None, |_| false).err(),
            Err(stop) => Some(stop),
        };
        let code = match stop {
            None | Some(Stop::Signal) => ExitCode::SUCCESS,
            Some(Stop::Ended { role, status }) => {
                launcher.say(&format!("{} ended by itself ({status})", role.name()));
                ExitCode::FAILURE
            }
            Some(Stop::Failed(error)) => {
                eprintln!("all: {error}");
                ExitCode::FAILURE
            }
        };
        launcher.end();
        code
    }

    /// Starts the servers, then the proxy, whose first pings should reach them.
    fn start(&mut self, options: &Options) -> Result<(), Stop> {
        for (role, port) in [(Role::A, options.port_a), (Role::B, options.port_b)] {
            let port = ["--port".into(), port.to_string().into()];
            self.spawn(role, &[&port, options.server_arguments.as_slice()].concat())?;
        }
        self.watch(Some(START_MAX), |launcher| {
            launcher.url(Role::A).is_some() && launcher.url(Role::B).is_some()
        })?;
        let port_a = self.port(Role::A).unwrap_or(options.port_a);
        let port_b = self.port(Role::B).unwrap_or(options.port_b);

        let mut arguments = Vec::new();
        if !options.names_backends {
            for (name, port) in [("A", port_a), ("B", port_b)] {
                let backend = format!("{name}=http://localhost:{port}");
                arguments.extend(["--backend".into(), backend.into()]);
            }
        }
        if let Some(port) = options.port_admin {
            arguments.extend(["--admin".into(), format!("127.0.0.1:{port}").into()]);
        }
        arguments.extend(options.proxy_arguments.iter().cloned());
        self.spawn(Role::Proxy, &arguments)?;
        self.watch(Some(START_MAX), |launcher| launcher.url(Role::Proxy).is_some())?;
        // Shows the rest of their first lines before the introduction.
        self.watch(Some(LOOK_EVERY), |_| false)?;
        self.introduce(port_a, port_b)?;
        if let (Some(period), Some(url)) = (options.demo, self.url(Role::Proxy)) {
            let address = url.strip_prefix("http://").unwrap_or(url);
            let traffic = Traffic::start(address)?;
            self.demo = Some((Demo::new(Instant::now(), period), traffic));
            let seconds = period.as_secs_f64();
            self.print("demo", &format!("50 requests a second, and a fault every {seconds} s"))?;
        }
        Ok(())
    }

    /// Begins or ends a fault if it is time.
    fn demonstrate(&mut self) -> Result<(), Stop> {
        let Some((mut demo, traffic)) = self.demo.take() else { return Ok(()) };
        let busiest = || {
            let port = traffic.busiest();
            if port.is_some() && port == self.port(Role::B) { Role::B } else { Role::A }
        };
        if let Some(order) = demo.handle_time(Instant::now(), busiest) {
            self.print("demo", &demo.sentence(order))?;
            let mut children = self.children.iter_mut();
            if let Some(child) = children.find(|child| child.role == order.role) {
                child.order(&order.line());
            }
        }
        self.demo = Some((demo, traffic));
        Ok(())
    }

    fn spawn(&mut self, role: Role, arguments: &[OsString]) -> Result<(), Stop> {
        self.children.push(Child::spawn(role, arguments, &self.sender)?);
        Ok(())
    }

    fn introduce(&self, port_a: u16, port_b: u16) -> Result<(), Stop> {
        let proxy = self.url(Role::Proxy);
        let mut lines = vec![
            format!("proxy     {}", proxy.unwrap_or("where its options say")),
            format!("server A  http://localhost:{port_a}"),
            format!("server B  http://localhost:{port_b}"),
        ];
        if let Some(proxy) = proxy {
            lines.push(format!("try       curl {proxy}/"));
            lines.push(format!("          curl {proxy}/stats"));
        }
        if let Some(admin) = &self.admin {
            lines.push(format!("          curl {admin}/metrics"));
            lines.push(format!("look      {admin}/ in a browser"));
            lines.push(format!("          cargo all top {admin}"));
        }
        lines.push("Ctrl-C ends all three".to_owned());
        for line in lines {
            self.print("all", &line)?;
        }
        Ok(())
    }

    fn url(&self, role: Role) -> Option<&str> {
        self.urls.iter().find(|(whose, _)| *whose == role).map(|(_, url)| url.as_str())
    }

    fn port(&self, role: Role) -> Option<u16> {
        self.url(role)?.rsplit(':').next()?.parse().ok()
    }

    /// Shows lines until an event ends the demonstration, `is_done` returns true, or `wait_max` is
    /// over.
    fn watch(
        &mut self,
        wait_max: Option<Duration>,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), Stop> {
        let end = wait_max.map(|wait_max| Instant::now() + wait_max);
        let mut looked_at = Instant::now();
        while !is_done(self) && end.is_none_or(|end| Instant::now() < end) {
            match self.events.recv_timeout(LOOK_EVERY) {
                Ok(Event::Signal) => return Err(Stop::Signal),
                Ok(Event::Line { role, text }) => self.show(role, &text)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if looked_at.elapsed() < LOOK_EVERY {
                continue;
            }
            looked_at = Instant::now();
            self.demonstrate()?;
            for index in 0..self.children.len() {
                let child = &mut self.children[index];
                let role = child.role;
                if let Some(status) = child.status()? {
                    self.show_rest();
                    return Err(Stop::Ended { role, status });
                }
            }
        }
        Ok(())
    }

    /// Ends the children, the proxy first: it still needs the servers for its requests in flight.
    fn end(mut self) {
        // No new requests for a proxy that is ending.
        self.demo = None;
        let (proxy, servers): (Vec<Child>, Vec<Child>) =
            self.children.drain(..).partition(|child| child.role == Role::Proxy);
        for group in [proxy, servers] {
            self.end_group(group);
        }
        self.show_rest();
        self.say("all have ended");
    }

    /// Requests the end of a group and waits. Kills children that have not ended in time, or at
    /// another signal.
    fn end_group(&mut self, mut group: Vec<Child>) {
        let deadline = Instant::now() + END_MAX;
        group.iter_mut().for_each(Child::end);
        let mut is_impatient = false;
        loop {
            // A child with an unavailable status is killed when it is dropped.
            group.retain_mut(|child| matches!(child.status(), Ok(None)));
            if group.is_empty() {
                return;
            }
            if is_impatient || Instant::now() >= deadline {
                for child in &mut group {
                    self.say(&format!("{} is killed", child.role.name()));
                    child.kill();
                }
                // The drop waits for them.
                return;
            }
            match self.events.recv_timeout(END_LOOK_EVERY) {
                Ok(Event::Signal) => is_impatient = true,
                // A closed output must not keep the children from ending.
                Ok(Event::Line { role, text }) => drop(self.show(role, &text)),
                Err(_) => {}
            }
        }
    }

    fn show(&mut self, role: Role, text: &str) -> io::Result<()> {
        if self.url(role).is_none()
            && let Some((_, after)) = text.split_once("listening on ")
            && let Some(url) = after.split(' ').next()
        {
            self.urls.push((role, url.to_owned()));
        }
        if let (Role::Proxy, None) = (role, &self.admin) {
            let admin = text.split_once("admin pages on ").map(|(_, url)| url.to_owned());
            self.admin = admin;
        }
        self.print(role.label(), text)
    }

    fn show_rest(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Line { role, text } = event {
                // As in `end_group`.
                drop(self.show(role, &text));
            }
        }
    }

    /// Prints a line of the launcher's own, and ignores a closed output.
    fn say(&self, text: &str) {
        drop(self.print("all", text));
    }

    fn print(&self, label: &str, text: &str) -> io::Result<()> {
        let label = format!("[{label}]");
        let (colour, plain) = match label.as_str() {
            _ if !self.has_colours => ("", ""),
            "[proxy]" => ("\x1b[36m", "\x1b[0m"),
            "[A]" => ("\x1b[32m", "\x1b[0m"),
            "[B]" => ("\x1b[33m", "\x1b[0m"),
            "[demo]" => ("\x1b[35m", "\x1b[0m"),
            _ => ("\x1b[1m", "\x1b[0m"),
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{colour}{label:<7}{plain} {text}")?;
        stdout.flush()
    }
}

/// Forwards signals that request the end as events.
fn forward_signals(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().spawn(move || {
        for _ in signals.forever() {
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Interval of the checks whether all children still run.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const END_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Maximum number of lines that wait for a slow output. After that the children wait as well.
const EVENTS_MAX: usize = 256;
/// Time after which a child counts as listening even if it has logged no address.
const START_MAX: Duration = Duration::from_secs(5);
/// The proxy takes up to 10 s for its requests in flight.
const END_MAX: Duration = Duration::from_secs(11);
