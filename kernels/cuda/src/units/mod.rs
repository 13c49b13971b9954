//! The rows, a file for each unit.

use crate::kernel::Unit;

/// Every unit.
pub const UNITS: &[Unit] = &[];
