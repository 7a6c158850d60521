//! Sets the terminal's mode: keys arrive as they are typed, and frames use the alternate screen.
//! The mode is restored when the program ends, after a panic, and after the signals that `live.rs`
//! handles.
use std::io::{self, Write};
use std::panic;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// A terminal in use. Dropping it restores the terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The previous mode. `None` if stdin is not a terminal, in which case no keys are read.
    saved: Option<Termios>,
}

impl Terminal {
    /// Takes the terminal of stdin and stdout.
    ///
    /// # Errors
    /// Its mode cannot be set, or a write to it fails.
    pub(crate) fn take() -> io::Result<Self> {
        let terminal = Self { saved: tcgetattr(io::stdin()).ok() };
        let saved = terminal.saved.clone();
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // Restores the terminal first, so that the panic message is on the normal screen.
            leave(saved.as_ref());
            report(panic);
        }));
        terminal.enter()?;
        Ok(terminal)
    }

    /// Sets the mode, also after [`release`](Self::release).
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(saved) = &self.saved {
            let mut mode = saved.clone();
            // ISIG stays on: Ctrl-C and Ctrl-Z send their signals as usual.
            mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            mode.special_codes[SpecialCodeIndex::VMIN] = 1;
            mode.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(io::stdin(), OptionalActions::Flush, &mode)?;
        }
        write(ENTER)
    }

    /// Restores the terminal.
    pub(crate) fn release(&self) {
        leave(self.saved.as_ref());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.release();
        // The terminal is restored, so the panic hook is no longer needed.
        if !std::thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

/// Returns the columns and rows of the window.
pub(crate) fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok();
    let known = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Writes to the terminal at once.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn leave(saved: Option<&Termios>) {
    // A closed terminal need not be restored.
    let _ = write(LEAVE);
    if let Some(saved) = saved {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, saved);
    }
}

/// Selects the alternate screen, without cursor and without wrapping at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
