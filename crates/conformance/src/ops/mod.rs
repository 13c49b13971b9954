//! The families, one file for each kind of operator.

mod attention;
mod kv;
mod norms;
mod products;
mod quantised;

use crate::family::Family;

/// Every family. An operator without one fails `every_op_has_cases`.
pub(crate) const FAMILIES: &[&[Family]] = &[norms::FAMILIES, products::FAMILIES, kv::FAMILIES, attention::FAMILIES, quantised::FAMILIES];
