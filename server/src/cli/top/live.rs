//! The loop of `top`: takes readings, keys and signals, and draws frames.
//!
//! Threads read the proxy, the keys and the signals, and send events to the thread that draws. A
//! proxy that does not respond therefore never delays a key.
use std::io::{self, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::top::history::{History, Rates};
use crate::cli::top::keys::{Key, keys};
use crate::cli::top::options::Options;
use crate::cli::top::reading::Reading;
use crate::cli::top::screen::Screen;
use crate::cli::top::table::Layout;
use crate::cli::top::terminal::{Terminal, size, write};
use crate::cli::top::{can_move, has_colours};

/// An event for the thread that draws.
enum Event {
    Reading(Result<Box<Reading>, String>),
    Keys(Vec<Key>),
    /// The terminal is gone, so no more keys arrive.
    Closed,
    Signal(i32),
}

/// Shows the proxy until `q`, a signal, or the last reading.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    if io::stdout().is_terminal() && can_move() {
        on_screen(options)
            .map_err(|error| format!("the terminal: {}", crate::cli::top::http::reason(&error)))
    } else {
        in_lines(options)
    }
}

fn on_screen(options: &Options) -> io::Result<()> {
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let ends = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM];
    let signals = Signals::new(ends.into_iter().chain([SIGWINCH, SIGTSTP]))?;
    let terminal = Terminal::take()?;
    let wants_decisions = Arc::new(AtomicBool::new(false));
    let (wake, waker) = mpsc::sync_channel(1);
    read_on(options, Arc::clone(&wants_decisions), waker, sender.clone())?;
    if io::stdin().is_terminal() {
        let sender = sender.clone();
        thread::Builder::new().spawn(move || read_keys(&sender))?;
    }
    thread::Builder::new().spawn(move || pass_signals(signals, &sender))?;

    let started = Instant::now();
    let mut screen = Screen::new(options.source.to_string());
    let mut readings = 0;
    loop {
        draw(&mut screen, started.elapsed())?;
        // Draws at least once a second, because the age of the last reading is shown.
        let event = match events.recv_timeout(Duration::from_secs(1)) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        match event {
            Event::Reading(reading) => {
                screen.handle_reading(started.elapsed(), reading.map(|reading| *reading));
                readings += 1;
                if options.samples.is_some_and(|samples| readings >= samples) {
                    draw(&mut screen, started.elapsed())?;
                    return Ok(());
                }
            }
            Event::Keys(keys) if keys.contains(&Key::Letter('q')) => return Ok(()),
            Event::Keys(keys) => {
                let had = screen.has_selection();
                keys.into_iter().for_each(|key| screen.handle_key(key));
                wants_decisions.store(screen.has_selection(), Ordering::Relaxed);
                if screen.has_selection() && !had {
                    // If the channel is full, the reading thread is already being woken.
                    let _ = wake.try_send(());
                }
            }
            Event::Signal(SIGWINCH) => {}
            Event::Signal(SIGTSTP) => {
                terminal.release();
                emulate_default_handler(SIGTSTP)?;
                terminal.enter()?;
            }
            Event::Closed | Event::Signal(_) => return Ok(()),
        }
    }
}

fn draw(screen: &mut Screen, now: Duration) -> io::Result<()> {
    let (wide, high) = size();
    let mut text = "\x1b[H".to_owned();
    let lines = screen.draw(now, wide, high);
    for (at, line) in lines.iter().enumerate() {
        // The row is cleared before it is written: after a full line the cursor is still on the
        // last column.
        text.push_str(if at == 0 { "\x1b[2K" } else { "\n\x1b[2K" });
        line.write(&mut text, has_colours());
    }
    if lines.len() < high {
        text.push_str("\x1b[J");
    }
    write(&text)
}

/// Reads the proxy at intervals, and immediately when woken.
fn read_on(
    options: &Options,
    wants_decisions: Arc<AtomicBool>,
    waker: Receiver<()>,
    events: SyncSender<Event>,
) -> io::Result<()> {
    let (source, interval) = (options.source.clone(), options.interval);
    thread::Builder::new().spawn(move || {
        loop {
            let begun = Instant::now();
            let reading = source.read(wants_decisions.load(Ordering::Relaxed));
            if events.send(Event::Reading(reading.map(Box::new))).is_err() {
                return;
            }
            let left = interval.saturating_sub(begun.elapsed());
            if waker.recv_timeout(left) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    })?;
    Ok(())
}

fn read_keys(events: &SyncSender<Event>) {
    let mut bytes = [0; 64];
    loop {
        match io::stdin().lock().read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if events.send(Event::Keys(keys(&bytes[..count]))).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // If the receiver is gone, the program is already ending.
    let _ = events.send(Event::Closed);
}

fn pass_signals(mut signals: Signals, events: &SyncSender<Event>) {
    for signal in signals.forever() {
        if events.send(Event::Signal(signal)).is_err() {
            return;
        }
    }
}

/// Writes a line for each backend and reading.
fn in_lines(options: &Options) -> Result<(), String> {
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let (_wake, waker) = mpsc::sync_channel(1);
    read_on(options, Arc::default(), waker, sender).map_err(|error| {
        format!("cannot start a thread: {}", crate::cli::top::http::reason(&error))
    })?;
    let started = Instant::now();
    let mut history = History::default();
    let mut heading = String::new();
    let mut layout = None;
    let mut readings = 0;
    for event in events {
        let Event::Reading(reading) = event else { continue };
        let mut text = String::new();
        let time = time_of_day();
        let result = match reading {
            Ok(reading) => {
                history.add(started.elapsed(), &reading);
                let Rates { rows, .. } = history.rates(&reading);
                let layout = layout.insert(Layout::of_lines(&reading, layout.as_ref()));
                let mut own = "time     ".to_owned();
                layout.heading().write(&mut own, false);
                if own != heading {
                    text.push_str(&own);
                    text.push('\n');
                    heading = own;
                }
                for (row, traffic) in reading.rows.iter().zip(&rows) {
                    text.push_str(&time);
                    layout.row(row, traffic, false).write(&mut text, false);
                    text.push('\n');
                }
                Ok(())
            }
            Err(wrong) => {
                let wrong = crate::cli::top::text::visible(&wrong, usize::MAX);
                text.push_str(&format!("{time}  no proxy: {wrong}\n"));
                Err(wrong)
            }
        };
        let mut output = io::stdout().lock();
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
            // The reader has closed the output.
            return Ok(());
        }
        readings += 1;
        if options.samples.is_some_and(|samples| readings >= samples) {
            return result;
        }
    }
    Ok(())
}

/// Returns the time of day, UTC.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", now / 3600, now / 60 % 60, now % 60)
}

/// The maximum number of queued events. A thread that sends more waits.
const EVENTS_MAX: usize = 16;
