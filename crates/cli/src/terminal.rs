//! Standard output and standard error as this command writes them.

use std::io::{self, IsTerminal, StdoutLock, Write};

/// Standard output, whose errors say that it is theirs.
pub(crate) struct Output(StdoutLock<'static>);

impl Output {
    pub(crate) fn new() -> Output {
        Output(io::stdout().lock())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
}

/// Writes to standard error. Where that can not be written, there is nobody to tell.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes a line to standard error.
pub(crate) fn tell_line(line: &str) {
    tell(&format!("{line}\n"));
}

/// Ends the line that a prompt or a progress bar has left open on a terminal.
pub(crate) fn end_open_line() {
    if io::stderr().is_terminal() {
        tell("\n");
    }
}
