//! Devices made of devices, and the lowering of a graph onto a device.
//!
//! - [`lower()`] turns a graph into a plan on one device: native where the device has a kernel, decomposed into smaller
//!   operators where it has none, constants in the private layouts that the device asks for, and on a host where a
//!   [`Policy`] names one. What became of every node stands in the [`Account`].
//! - [`Validate`], [`Record`], [`Profile`] and [`Faulty`] are `Device → Device`. They compose in any order, and whoever holds a
//!   device can't tell that it is wrapped: streams, buffers and plans of a wrapper go back to that wrapper.
//!
//! - [`Summary`] and [`Peaks`] are the figures that every measurement and forecast speaks in.
//!
//! Modules, from ground to roof: `summary`, `peaks`, `policy`, `steps`, `body`, `account`, `flow`, `draft`, `places`, `schedule`,
//! `hosted`, `mixed`, `lower`, `validate`, `record`, `profile`, `faulty`.
#![forbid(unsafe_code)]

pub mod peaks;
pub mod summary;

pub mod policy;

mod body;
mod steps;

pub mod account;

mod draft;
mod flow;
mod places;
mod schedule;

mod hosted;
mod mixed;

pub mod lower;

pub mod validate;

pub mod record;

pub mod profile;

pub mod faulty;

pub use account::{Account, Entry, Hosted, Line, Piece, Way};
pub use draft::Pack;
pub use faulty::{Faults, Faulty};
pub use lower::{Lowered, Refusal, Survey, lower, lower_with, survey};
pub use peaks::{Peaks, Provenance};
pub use policy::{Fallback, Home, Policy};
pub use profile::{Profile, Times, Usage};
pub use record::{Call, Entry as LogEntry, Record};
pub use summary::Summary;
pub use validate::Validate;
