//! The instrument with which a chip is tested: cases, the device contract, profiles, measurement and reports.
//!
//! - A [`Case`](case::Case) is one thing that a device is held to. Operators come in families ([`family::Family`]): data that
//!   says which points of their space are walked, and a function that makes one. The device contract is a list of clauses
//!   ([`contract::Clause`]).
//! - Cases know no backend, and backends know no cases: they meet in a [`Subject`](subject::Subject).
//! - The truth is that of `qiao_reference`, in f64; every record keeps error, limit and margin.
//!
//! Modules, from ground to roof: `sets`, `point`, `verdict`, `make`, `family` with `ops`, `subject`, `contract`, `harness`,
//! `case`.
#![forbid(unsafe_code)]

mod sets;

pub mod point;
pub mod verdict;

pub mod make;

pub mod family;
mod ops;

pub mod subject;

pub mod contract;

mod harness;

pub mod case;

pub use case::Case;
pub use family::{Depth, Family};
pub use subject::Subject;
pub use verdict::{Check, Failure, Measured, Outcome, Record, Status};
