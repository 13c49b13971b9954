//! Ctrl-C: the first one stops the generation that runs, and the command prints what there is; where none runs, or at
//! the second, the command ends at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::exit::Exit;
use crate::terminal::end_open_line;

static PRESSED: AtomicBool = AtomicBool::new(false);
static RUNNING: Mutex<Option<qiao::Canceller>> = Mutex::new(None);

/// Installs the handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let again = PRESSED.swap(true, Ordering::SeqCst);
        match &*RUNNING.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(canceller) if !again => canceller.cancel(),
            _ => {
                end_open_line();
                std::process::exit(Exit::Interrupted as i32)
            }
        }
    })?;
    Ok(())
}

/// Whether Ctrl-C was pressed.
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::SeqCst)
}

/// While this lives, Ctrl-C cancels its generation.
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new(canceller: qiao::Canceller) -> Guard {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(canceller);
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
