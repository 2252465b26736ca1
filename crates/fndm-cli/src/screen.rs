//! Words for people, on a screen that may be gone.
//!
//! A reader that closes the pipe (`| head`), or a full disk behind `>`, must not end a program that has work to do: `println!` would
//! panic. What can't be printed is left unsaid; [`end`] tells at last whether that is worth an error.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first error of standard output. Nothing is printed after it.
static FAULT: Mutex<Option<io::Error>> = Mutex::new(None);

fn fault() -> MutexGuard<'static, Option<io::Error>> {
    FAULT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As `println!`, without its panic.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::screen::print(format_args!("{}\n", format_args!($($words)*)))
    };
}

/// As `eprintln!`, without its panic.
macro_rules! tell {
    ($($words:tt)*) => {
        $crate::screen::note(format_args!($($words)*))
    };
}

/// Prints to standard output.
pub(crate) fn print(words: Arguments<'_>) {
    let mut fault = fault();
    if fault.is_none() {
        *fault = io::stdout().lock().write_fmt(words).err();
    }
}

/// Remembers what came of printing to standard output by other means.
pub(crate) fn keep(printed: io::Result<()>) {
    let mut fault = fault();
    if fault.is_none() {
        *fault = printed.err();
    }
}

/// Prints a line to standard error, where errors of printing can be told to nobody.
pub(crate) fn note(words: Arguments<'_>) {
    // In one piece, so that lines of several processes don't mix.
    let line = format!("{words}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Brings out what was printed. An error where that failed, unless the reader has simply gone.
pub(crate) fn end() -> io::Result<()> {
    let mut fault = fault();
    if fault.is_none() {
        *fault = io::stdout().lock().flush().err();
    }
    match fault.take() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
