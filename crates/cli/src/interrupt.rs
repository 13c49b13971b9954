//! Ctrl-C: the first one stops the generation that runs, and the command prints what there is; where none runs, or at
//! the second, the command ends at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::exit::Exit;
use crate::terminal::end_open_line;

static PRESSED: AtomicBool = AtomicBool::new(false);
/// Runs that look at [`pressed`] by themselves.
static PATIENT: AtomicUsize = AtomicUsize::new(0);
static RUNNING: Mutex<Option<qiao::Canceller>> = Mutex::new(None);

/// Installs the handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let again = PRESSED.swap(true, Ordering::SeqCst);
        match &*RUNNING.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(canceller) if !again => canceller.cancel(),
            None if !again && PATIENT.load(Ordering::SeqCst) > 0 => {}
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

/// While this lives, the first Ctrl-C only sets [`pressed`], and whoever made this ends what runs.
pub(crate) struct Patient;

impl Patient {
    pub(crate) fn new() -> Patient {
        PATIENT.fetch_add(1, Ordering::SeqCst);
        Patient
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        PATIENT.fetch_sub(1, Ordering::SeqCst);
    }
}
