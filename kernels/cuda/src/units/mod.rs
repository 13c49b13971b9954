//! The rows, a file for each unit.

mod elementwise;

use crate::kernel::Unit;

/// Every unit.
pub const UNITS: &[Unit] = &[elementwise::UNIT];
