//! The scheduler over real models: whatever happens around it, a request says what it says alone.
#![allow(unreachable_pub, reason = "modules of a test, not of a crate")]

#[path = "../fixture/mod.rs"]
mod fixture;

mod crowd;

mod guesses;
mod pressure;
