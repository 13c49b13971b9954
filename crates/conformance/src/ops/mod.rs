//! The families, one file for each kind of operator.

mod norms;
mod products;

use crate::family::Family;

/// Every family. An operator without one fails `every_op_has_cases`.
pub(crate) const FAMILIES: &[&[Family]] = &[norms::FAMILIES, products::FAMILIES];
