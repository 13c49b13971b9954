//! Measurement: what a device reaches, beside what it can reach.

pub mod figures;

pub use figures::{Figures, Limits, OpFigure, OpsBench};
