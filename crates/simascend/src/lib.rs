//! A simulated AscendCL for tests.
//!
//! The library that this crate builds has the functions of `libascendcl`, `libnnopbase` and `libopapi` which `qiao-ascend`
//! uses, by name and signature, over host memory. [`install`] lays it down under those names in a folder that a backend can be
//! pointed at, and gives the handle by which tests turn its knobs.
//!
//! - Work in a stream is done when somebody waits for it: what relies on a wait that is not there goes wrong each time.
//! - Memory that nobody wrote is NaN, and around each allocation lie bytes that nobody may write. Freed memory is out of reach.
//!   An allocation starts on 64 bytes and on nothing better.
//! - Objects are numbers and never pointers: one that was destroyed, or is of another kind, is an error of the call.
//! - The documented rules are held to: an executor runs once, with its own second phase, on a workspace at least as large as it
//!   told; tensors live until then, start on 64 bytes and lie in one allocation; dtypes are those of the operator and the chip;
//!   NZ weights have NZ storage and more than one row and column; indices are in range; lengths come from the host.
//! - A call without a current context answers 107002. A stream, an event or memory of another device is refused.
//! - Faults come when asked: the nth call fails, a device is lost, a kernel fails behind the call.
//! - Arithmetic is that of `qiao-reference`, each result rounded once; products are summed in f32.
//!
//! It proves what the host's code does with the documented interface, and nothing about a real chip's numbers or speed.

#![allow(unreachable_pub, reason = "what C calls is exported by its name and used by nobody here")]

mod codes;

mod memory;
mod tensors;

mod world;

mod streams;

mod executors;

mod objects;
mod runtime;

mod ops;

mod control;

mod card;

pub use card::{Alone, Card, Kind, Knob, Soc, install};
