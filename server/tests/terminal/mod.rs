//! A terminal without a window: the program writes to one end, the test reads the other.
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::process::DEADLINE;

/// The end of a program.
#[derive(Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// Whether the terminal is as it was before.
    pub(crate) is_restored: bool,
}

impl Ended {
    pub(crate) const CLEAN: Self = Self { code: Some(0), is_restored: true };
}

/// A program in a terminal. Dropping it kills the program.
pub(crate) struct Terminal {
    ours: File,
    /// Keeps the terminal open when the program ends, so that its mode can be read.
    theirs: File,
    child: Child,
    before: Termios,
    /// All that the program wrote.
    pub(crate) written: String,
    /// The part that `wait_for` has passed.
    seen: usize,
}

impl Terminal {
    /// Starts a command in a terminal of this size.
    pub(crate) fn start(mut command: Command, (columns, rows): (u16, u16)) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("its other end");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let name = name.into_string().expect("a path");
        let theirs = OpenOptions::new().read(true).write(true).open(name).expect("a terminal");
        let end = || Stdio::from(OwnedFd::from(theirs.try_clone().expect("a descriptor")));
        command.stdin(end()).stdout(end()).stderr(end());
        let before = tcgetattr(&theirs).expect("a mode");
        let ours = File::from(ours);
        set_size(&ours, (columns, rows));
        let child = command.spawn().expect("a process");
        Self { ours, theirs, child, before, written: String::new(), seen: 0 }
    }

    pub(crate) fn resize(&self, size: (u16, u16)) {
        set_size(&self.ours, size);
        self.signal("-WINCH");
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("room for keys");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("the kill program");
        assert!(status.success());
    }

    /// Waits until the program has written `what` after the last such text.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.written[self.seen..].find(what) {
                self.seen += at + what.len();
                return;
            }
            let is_more = self.read_until(end);
            assert!(
                is_more,
                "no {what:?} within {DEADLINE:?} after:\n{:?}",
                &self.written[self.seen..]
            );
        }
    }

    /// Returns the lines of the last complete frame.
    fn frame(&self) -> Vec<String> {
        let mut frames: Vec<&str> = self.written.split("\x1b[H").collect();
        frames.pop();
        let last = frames.pop().unwrap_or_default();
        last.split("\r\n").map(|line| strip(line).0).collect()
    }

    /// Waits for a frame for which the condition holds, and returns it. Frames that the program has
    /// drawn before this call count, too.
    #[track_caller]
    pub(crate) fn frame_with(
        &mut self,
        what: &str,
        is_wanted: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let end = Instant::now() + DEADLINE;
        loop {
            let frame = self.frame();
            if is_wanted(&frame) {
                return frame;
            }
            assert!(self.read_until(end), "no frame with {what} within {DEADLINE:?}: {frame:#?}");
        }
    }

    /// Waits for a frame, and returns one that is at least as new.
    #[track_caller]
    pub(crate) fn next_frame(&mut self) -> Vec<String> {
        // The rest of the current frame, a complete frame, and the beginning of the next one.
        (0..3).for_each(|_| self.wait_for("\x1b[H"));
        self.frame()
    }

    /// Waits for the end of the program.
    pub(crate) fn end(&mut self) -> Ended {
        let status = self.child.wait().expect("a status");
        while self.read_until(Instant::now()) {}
        let after = tcgetattr(&self.theirs).expect("a mode");
        let is_same = after.local_modes == self.before.local_modes
            && after.input_modes == self.before.input_modes
            && after.output_modes == self.before.output_modes;
        let is_left = self.written.ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l");
        Ended { code: status.code(), is_restored: is_same && is_left }
    }

    /// Reads what arrives before `end`. Returns whether anything did.
    fn read_until(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a short time");
        let mut ends = [PollFd::new(&self.ours, PollFlags::IN)];
        if poll(&mut ends, Some(&left)).expect("a terminal to poll") == 0 {
            return false;
        }
        let mut bytes = [0; 4096];
        let count = self.ours.read(&mut bytes).unwrap_or(0);
        // Two reads may split a character, but no test looks for such a character.
        self.written.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails if the process has ended as expected.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set_size(terminal: &File, (ws_col, ws_row): (u16, u16)) {
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a size");
}

/// Returns the text without its control sequences, and the control sequences.
pub(crate) fn strip(text: &str) -> (String, Vec<String>) {
    let (mut plain, mut sequences) = (String::new(), Vec::new());
    let mut pieces = text.split("\x1b[");
    plain.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| ('@'..='~').contains(&c)).map_or(piece.len(), |at| at + 1);
        sequences.push(piece[..end].to_owned());
        plain.push_str(&piece[end..]);
    }
    (plain, sequences)
}
