//! The row of the KV cache: slots are read by the host, since the operator takes no slot that is to be skipped, and rows are
//! scattered run by run.

use std::collections::HashSet;
use std::ops::Range;

use qiao_core::{
    Accept, DType, Error, KvLayout, NodeView, Op, OpKind, Pages, Property, Reason, Result, Row, Rule, TensorDesc,
};

use super::accept::{FLOATS, absent, among, dense, plain};
use super::launcher::{At, Launcher};
use super::{Launch, row};
use crate::operators::Calls;

/// Tokens of a page.
pub(crate) const BLOCK: usize = 128;

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![row(OpKind::KvWrite, "kv_write", &["aclnnScatterNdUpdate"], accepts, write)]
}

/// # Errors
/// A cache of another layout or page than the device declares.
pub(super) fn paged(layout: KvLayout, operand: usize, cache: &TensorDesc) -> Result<(), Reason> {
    if layout != KvLayout::BlockTokenHead {
        return Err(Reason::attribute("kv_layout", Rule::Equal, layout.to_string().as_str(), "block_token_head"));
    }
    dense(operand, cache)?;
    match Pages::of(cache, layout) {
        Some(pages) if pages.block_size == BLOCK => Ok(()),
        Some(pages) => Err(Reason::operand(operand, Property::Dim(1), Rule::Equal, pages.block_size, BLOCK)),
        None => Err(Reason::operand(operand, Property::Rank, Rule::Equal, cache.rank(), 4usize)),
    }
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let Op::KvWrite(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    plain(node, None)?;
    absent(node, 5)?;
    absent(node, 6)?;
    for (rows, cache) in [(0, 3), (1, 4)] {
        among(node, rows, FLOATS)?;
        among(node, cache, &[node.required(rows).dtype])?;
        paged(attrs.kv_layout, cache, node.required(cache))?;
        let desc = node.required(rows);
        let inner = TensorDesc {
            shape: qiao_core::Dims::new(&desc.shape[1..]).unwrap_or_default(),
            strides: qiao_core::Dims::new(&desc.strides[1..]).unwrap_or_default(),
            ..desc.clone()
        };
        dense(rows, &inner)?;
    }
    among(node, 2, &[DType::I32])?;
    dense(2, node.required(2))?;
    Ok(Accept::Native)
}

/// Runs of tokens that have a slot.
///
/// # Errors
/// A slot that is not there, or stands twice.
fn runs(slots: &[i32], capacity: usize) -> Result<Vec<Range<usize>>> {
    let mut taken = HashSet::with_capacity(slots.len());
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (token, &slot) in slots.iter().enumerate() {
        if slot == -1 {
            continue;
        }
        if slot < 0 || slot as usize >= capacity {
            return Err(Error::internal("kv_write", format!("slot {slot} of {capacity}: use -1 to skip a token")));
        }
        if !taken.insert(slot) {
            return Err(Error::internal(
                "kv_write",
                format!("slot {slot} stands twice: write each slot once in a call"),
            ));
        }
        match runs.last_mut() {
            Some(run) if run.end == token => run.end += 1,
            _ => runs.push(token..token + 1),
        }
    }
    Ok(runs)
}

fn write(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let id = |i: usize| node.node.inputs[i].expect("the graph checked that operands are given");
    let slots = l.integers(id(2))?;
    let pages = Pages::of(node.required(3), KvLayout::BlockTokenHead).expect("the row asks for pages");
    for run in runs(&slots, pages.blocks * pages.block_size)? {
        let indices = TensorDesc::new(DType::I32, &[run.len(), 1])?;
        let at = l.at(id(2));
        let indices = l.view(At { offset: at.offset + run.start, ..at }, &indices)?;
        for (rows, cache) in [(0, 3), (1, 4)] {
            let (desc, place) = (node.required(rows), l.at(id(rows)));
            let width = desc.shape[1] * desc.shape[2];
            let updates = TensorDesc::strided(desc.dtype, &[run.len(), width], &[desc.strides[0], 1])?;
            let updates = l.view(At { offset: place.offset + run.start * desc.strides[0], ..place }, &updates)?;
            let cells = TensorDesc::new(desc.dtype, &[pages.blocks * pages.block_size, width])?;
            let cells = l.view(l.at(id(cache)), &cells)?;
            l.scatter(cells, indices, updates)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_a_slot_part_the_runs() {
        assert_eq!(runs(&[-1, 3, 2, -1, -1, 7], 8).unwrap(), [1..3, 5..6]);
        assert_eq!(runs(&[-1, -1], 8).unwrap(), []);
    }

    #[test]
    fn slots_that_are_not_there_or_stand_twice_are_refused() {
        for (slots, words) in
            [(vec![0, 8], "slot 8 of 8"), (vec![-2], "slot -2"), (vec![1, -1, 1], "slot 1 stands twice")]
        {
            let why = runs(&slots, 8).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }
}
