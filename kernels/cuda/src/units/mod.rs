//! The rows, a file for each unit.

mod cast;
mod elementwise;
mod moves;
mod unpack;

use crate::kernel::Unit;

/// Every unit.
pub const UNITS: &[Unit] = &[elementwise::UNIT, moves::UNIT, cast::UNIT, unpack::UNIT];
