//! Operators that are computed as the truth has them: in f64, rounded once.

use qiao_core::{NodeView, Result};
use qiao_reference::truth::{class, eval};
use qiao_reference::value::Output;
use qiao_reference::{Class, round};

use crate::limits::Numerics;
use crate::numbers::flush_bytes;

/// A node as the truth has it, with numbers below the smallest normal f32 as the chip has them.
///
/// # Errors
/// Data that breaks the operator's meaning.
pub(super) fn truth(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    if !numerics.flush || matches!(class(node.kind()), Class::Exact | Class::Quantised | Class::Discrete) {
        return eval(node, bytes);
    }
    let flushed: Vec<Option<Vec<u8>>> = bytes.iter().enumerate().map(|(i, bytes)| flushed(&node, i, *bytes)).collect();
    let operands: Vec<Option<&[u8]>> = flushed.iter().zip(bytes).map(|(f, b)| f.as_deref().or(*b)).collect();
    let mut outputs = eval(node, &operands)?;
    let least = round::min_normal(qiao_core::DType::F32);
    for output in &mut outputs {
        if let Output::Values(values) = output {
            values.iter_mut().filter(|x| x.abs() < least).for_each(|x| *x = 0f64.copysign(*x));
        }
    }
    Ok(outputs)
}

/// An operand without such numbers, where it has any.
fn flushed(node: &NodeView<'_>, operand: usize, bytes: Option<&[u8]>) -> Option<Vec<u8>> {
    let (desc, bytes) = (node.input(operand)?, bytes?);
    let mut copy = bytes.to_vec();
    flush_bytes(desc.dtype, &mut copy).then_some(copy)
}
