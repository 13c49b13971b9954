//! The instrument with which a chip is tested: cases, the device contract, profiles, measurement and reports.
//!
//! - A [`Case`] is one thing that a device is held to. Operators come in families ([`family::Family`]): data that
//!   says which points of their space are walked, and a function that makes one. The device contract is a list of clauses
//!   ([`contract::Clause`]).
//! - Cases know no backend, and backends know no cases: they meet in a [`Subject`].
//! - The truth is that of `qiao_reference`, in f64; every record keeps error, limit and margin.
//!
//! Modules, from ground to roof: `sets`, `point`, `verdict`, `make`, `family` with `ops`, `subject`, `contract`, `refusal`,
//! `harness`, `case`; `glob`, `platform`, `save`; `expect`, `profile`, `replay`, `shrink`, `worker`; `select`, `journal`, `run`,
//! `suite`; `trials`; `measure`; `report`.
#![forbid(unsafe_code)]

mod sets;

pub mod point;
pub mod verdict;

pub mod make;

pub mod family;
mod ops;

pub mod subject;

pub mod contract;
pub mod refusal;

mod harness;

pub mod case;

pub mod glob;
pub mod platform;
pub mod save;

pub mod expect;
pub mod profile;
pub mod replay;
pub mod shrink;
pub mod worker;

pub mod select;

pub mod journal;

pub mod run;

pub mod suite;

pub mod trials;

pub mod measure;

pub mod report;

pub use case::Case;
pub use expect::Expectations;
pub use family::{Depth, Family};
pub use glob::Glob;
pub use platform::{DeviceFacts, Platform};
pub use profile::{Held, Profile, Required};
pub use replay::Replay;
pub use run::{Executor, Progress, Run, run};
pub use select::Selection;
pub use subject::Subject;

/// The words that cases and devices are written in.
pub use qiao_core as core;
pub use verdict::{Check, Failure, Measured, Outcome, Record, Status};
