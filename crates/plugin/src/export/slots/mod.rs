//! The functions of the table. Each lends the pointers it is given for the call (R7) and runs behind a guard (R5).

pub(super) mod backend;
pub(super) mod device;
pub(super) mod events;
pub(super) mod memory;
pub(super) mod plans;
pub(super) mod streams;

use crate::export::fault::{Fault, Result};

/// Refuses flags of a call, of which none is known.
fn no_flags(flags: u32) -> Result<()> {
    if flags == 0 {
        return Ok(());
    }
    Err(Fault::unsupported(format!("flags {flags:#x} are not known to this plugin; leave them 0")))
}

/// The duration of a time-out.
fn timeout(ns: u64) -> std::time::Duration {
    if ns == crate::abi::WAIT_FOREVER { std::time::Duration::MAX } else { std::time::Duration::from_nanos(ns) }
}
