//! What nodes must be for an operator to take them, in words that a refusal can give.

use qiao_core::{DType, Limit, NodeView, Property, Reason, Rule, TensorDesc, sound};

/// Floats that operators compute in, on some chip.
pub(crate) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// What is moved bit for bit.
pub(crate) const MOVED: &[DType] =
    &[DType::F32, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I16, DType::I32, DType::I64, DType::Bool];

/// # Errors
/// An operand's dtype is not one of these.
pub(crate) fn among(node: &NodeView<'_>, operand: usize, dtypes: &[DType]) -> Result<(), Reason> {
    match node.operands().find(|(i, _)| *i == operand) {
        Some((i, desc)) if !dtypes.contains(&desc.dtype) => Err(Reason::dtype(i, desc.dtype, dtypes)),
        _ => Ok(()),
    }
}

/// # Errors
/// An operand is of none of these dtypes, or they are not all of one.
pub(crate) fn all_of_one(node: &NodeView<'_>, dtypes: &[DType]) -> Result<DType, Reason> {
    let mut first = None;
    for (i, desc) in node.operands() {
        let dtype = *first.get_or_insert(desc.dtype);
        if !dtypes.contains(&desc.dtype) {
            return Err(Reason::dtype(i, desc.dtype, dtypes));
        }
        if desc.dtype != dtype {
            return Err(Reason::dtype(i, desc.dtype, &[dtype]));
        }
    }
    Ok(first.unwrap_or(DType::F32))
}

/// # Errors
/// A tensor has gaps.
pub(crate) fn dense(operand: usize, desc: &TensorDesc) -> Result<(), Reason> {
    if desc.is_contiguous() { Ok(()) } else { Err(Reason::strides(operand, "contiguous")) }
}

/// # Errors
/// An attribute is set that the operator does not have.
pub(crate) fn unset(name: &'static str, is_set: bool) -> Result<(), Reason> {
    if is_set { Err(Reason::attribute(name, Rule::None, "set", Limit::None)) } else { Ok(()) }
}

/// # Errors
/// An optional operand is given that the operator does not take.
pub(crate) fn absent(node: &NodeView<'_>, operand: usize) -> Result<(), Reason> {
    match node.input(operand) {
        Some(_) => Err(Reason::operand(operand, Property::Presence, Rule::None, Limit::None, Limit::None)),
        None => Ok(()),
    }
}

/// # Errors
/// An optional operand is left out that the operator needs.
pub(crate) fn present(node: &NodeView<'_>, operand: usize) -> Result<(), Reason> {
    match node.input(operand) {
        None => Err(Reason::operand(operand, Property::Presence, Rule::Equal, Limit::None, "given")),
        Some(_) => Ok(()),
    }
}

/// # Errors
/// What no operator takes: a private layout where none was asked for, or nothing to read where something is written.
pub(crate) fn plain(node: &NodeView<'_>, packed: Option<usize>) -> Result<(), Reason> {
    let idle = sound::writes_nothing(node);
    for (i, desc) in node.operands() {
        if desc.layout != 0 && packed != Some(i) {
            return Err(Reason::operand(i, Property::Layout, Rule::None, Limit::None, Limit::None));
        }
        if desc.elements() == 0 && !idle {
            return Err(Reason::operand(i, Property::Memory, Rule::AtLeast, 0usize, 1usize));
        }
    }
    Ok(())
}
