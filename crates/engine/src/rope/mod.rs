//! Rotary embedding: what a configuration says, and the cos/sin tables that follow from it.
//!
//! Every scaling rule is table construction; the `rope` operator only rotates by rows of a table. The arithmetic is that of
//! transformers: inverse frequencies in f32, angle = position · frequency in f32. Exact mathematics would differ from the
//! reference by 0.005 rad at position 131071.

mod config;
mod tables;

pub(crate) use config::MAX_POSITIONS;
pub use config::{RopeConfig, RopeScaling};
pub use tables::{RopeRegime, RopeTable, RopeTables};

#[cfg(test)]
mod tests;
