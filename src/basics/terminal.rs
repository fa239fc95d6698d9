//! The one way to standard output and standard error.
//!
//! What cannot be written never ends a command in a panic: a reader that went away has seen enough, and of a full disk the exit status tells
//! ([`NOT_SAID`]), since by then an act may have been carried out.

pub mod leftovers;
pub mod progress;

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    sync::OnceLock,
};

/// The exit status of a command that was carried out, and whose answer could not be written.
pub const NOT_SAID: u8 = 3;

static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output, at once. After the first failure nothing more is written; [`unwritten`] knows of it.
pub fn print(text: &str) {
    // The failure is kept, and told at the end.
    _ = Stdout.write_all(text.as_bytes());
}

/// Writes to standard error. Where even that fails there is nobody to tell.
pub fn tell(text: &str) {
    _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Why not all of the answer was written.
pub fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN.get()
}

/// `noshi batch list | head`: the reader went away.
pub fn is_unread() -> bool {
    unwritten().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Standard output for what is written piece by piece. Its first failure is kept for [`unwritten`].
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(error) = unwritten() {
            return Err(error.kind().into());
        }
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let kind = error.kind();
                _ = UNWRITTEN.set(error);
                Err(kind.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Columns that a line may fill: of the terminal, or as `COLUMNS` says. `None`: it goes to a program, and as wide as it is.
pub fn columns() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    said.or_else(|| {
        let out = io::stdout();
        out.is_terminal()
            .then(|| rustix::termios::tcgetwinsize(out).map_or(80, |size| usize::from(size.ws_col)).max(20))
    })
}

/// Whether standard output is coloured: on a terminal, unless `NO_COLOR` says otherwise; `CLICOLOR_FORCE` says yes anywhere.
pub fn is_coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|text| !text.is_empty());
    let forced = set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|text| text != "0");
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    !set("NO_COLOR") && (forced || (io::stdout().is_terminal() && !dumb))
}

/// A line on standard output.
#[cfg(feature = "lab")]
macro_rules! say {
    ($($text:tt)*) => { $crate::basics::terminal::print(&(format!($($text)*) + "\n")) };
}

/// A line on standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::basics::terminal::tell(&(format!($($text)*) + "\n")) };
}

pub(crate) use note;
#[cfg(feature = "lab")]
pub(crate) use say;
