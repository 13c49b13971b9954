//! The families, one file for each kind of operator.

mod attention;
mod casts;
mod choices;
mod elementwise;
mod gather;
mod kv;
mod moves;
mod norms;
mod products;
mod quantised;
mod rope;
mod rows;

use crate::family::Family;

/// Every family. An operator without one fails `every_op_has_cases`.
pub(crate) const FAMILIES: &[&[Family]] = &[
    moves::FAMILIES,
    casts::FAMILIES,
    gather::FAMILIES,
    elementwise::FAMILIES,
    norms::FAMILIES,
    rope::FAMILIES,
    rows::FAMILIES,
    choices::FAMILIES,
    products::FAMILIES,
    kv::FAMILIES,
    attention::FAMILIES,
    quantised::FAMILIES,
];
