//! The scheduler over an executor whose every slot tells whether it was read or written out of turn.
#![allow(unreachable_pub, reason = "modules of a test, not of a crate")]

mod crowd;
mod slots;

mod batches;
mod faults;
mod guesses;
mod places;
mod prefixes;
mod pressure;
mod turns;
