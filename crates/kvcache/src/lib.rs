//! Paged KV cache bookkeeping: which blocks a sequence has, and which it shares. Host only; contents live on a device.
//!
//! - A **block** holds keys and values of `block_size` tokens, in all layers. Block 0, [`NULL`], belongs to nobody and is never
//!   written.
//! - A **sequence** is tokens and a table of blocks; the token at position `p` lies in slot
//!   `table[p / block_size] · block_size + p % block_size`.
//! - A **full** block is found again by the SHA-256 of all tokens up to its end and of a salt, so sequences of one salt that begin
//!   alike share memory. A block that nobody uses stays findable until its room is needed; the one unused longest goes first,
//!   and of one sequence the tail goes before the head.
//! - A block is written by one sequence only: what others use too is **copied** before the first write.
//! - The books have one owner, who changes them by `&mut`: nothing here is shared between threads, so there is nothing to lock.
//!
//! # A step of a sequence
//! 1. [`Cache::open`] takes what is known of the prompt.
//! 2. [`Cache::reserve`] finds room for more tokens; its copies are made on the device, in the order given, before anything else is
//!    written.
//! 3. The device writes keys and values into the slots of [`Cache::slot`] and reads by [`Cache::table`].
//! 4. [`Cache::commit`] says that these tokens are written. Only now others may find them.
//! 5. [`Cache::close`] gives all back.
//!
//! Modules, from ground to roof: `error`, `hash`, `pool`, `prefix`, `usage`, `store`, `sequence`, `cache`, `audit`.
#![forbid(unsafe_code)]

mod error;

mod hash;

mod pool;
mod prefix;

mod usage;

mod store;

mod sequence;

mod cache;

mod audit;

pub use cache::{BlockCopy, Cache, Config};
pub use error::{Error, Result};
pub use pool::NULL;
pub use sequence::SequenceId;
pub use usage::{Counters, Usage};
