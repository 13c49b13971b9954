//! The truths, one function per operator, named as in the op list.

mod attention;
mod choose;
mod elementwise;
mod kv;
mod matmul;
mod movement;
mod norm;
mod quantised;
mod rope;
mod rows;

pub(crate) use attention::*;
pub(crate) use choose::*;
pub(crate) use elementwise::*;
pub(crate) use kv::*;
pub(crate) use matmul::*;
pub(crate) use movement::*;
pub(crate) use norm::*;
pub(crate) use quantised::*;
pub(crate) use rope::*;
pub(crate) use rows::*;

use qiao_core::{Error, Result};

use crate::value::Output;

/// The outputs of a node, in order.
pub(crate) type Outputs = Result<Vec<Output>>;

/// The one output of a node.
fn one(data: Vec<f64>) -> Outputs {
    Ok(vec![Output::Values(data)])
}

/// Data on the device that breaks the operator's meaning.
fn bad_data(what: &str, found: String, mend: &str) -> Error {
    Error::invalid(what, found, mend)
}
