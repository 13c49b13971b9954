//! The truth: every operator in f64, slow and plain, and itself a device.
//!
//! - A truth is a function from operands to values, written like its formula. [`truth::eval`] finds it by the op list;
//!   an operator without a truth does not compile.
//! - Operands are decoded exactly to f64, whatever their dtype and strides; a result is rounded once, from f64, to the
//!   dtype of its output. Operators that only move elements move bytes.
//! - [`ReferenceBackend`] is the device: host memory, any graph, no private layouts.
//! - [`tolerance`] says how far a device may be from the truth, [`compare()`] how far it is, [`data`] makes inputs, and
//!   a [`Trial`] runs one operator on any device beside its truth.
//!
//! Modules, from ground to roof: `round`, `value`, `args`, `ops`, `class`, `truth`, `tolerance`, `compare`, `data`, `trial`,
//! `device`, `backend`.
#![forbid(unsafe_code)]

pub mod round;

pub mod value;

pub mod args;

mod ops;

mod class;

pub mod truth;

pub mod compare;
pub mod data;
pub mod tolerance;

pub mod trial;

mod device;

mod backend;

pub use args::Args;
pub use backend::ReferenceBackend;
pub use class::Class;
pub use compare::{Comparison, compare};
pub use device::ReferenceDevice;
pub use trial::Trial;
pub use value::{Output, Value};
