//! Changes that leave a description valid, each with the reason: operators that are free in what is changed.

use qiao_core::{DType, OpKind};

use super::draft::{Draft, Place};
use super::mutation::{Change, Mutation, Side};

/// Sizes that no other operand and no output depends on: operator, operand, and which axis.
const FREE_SIZES: &[(OpKind, usize, Axis, &str)] = &[
    (OpKind::GatherRows, 0, Axis::First, "a table has any number of rows"),
    (OpKind::Slice, 0, Axis::Attribute, "what is left over is not cut"),
    (OpKind::Reduce, 0, Axis::Attribute, "the reduced axis does not appear in the result"),
    (OpKind::Argmax, 0, Axis::Last, "the reduced axis does not appear in the result"),
    (OpKind::TopK, 0, Axis::Last, "the reduced axis does not appear in the result"),
    (OpKind::Sample, 0, Axis::Last, "the reduced axis does not appear in the result"),
    (OpKind::AttentionPrefill, 5, Axis::Last, "a block table has room for any number of blocks"),
    (OpKind::AttentionDecode, 4, Axis::Last, "a block table has room for any number of blocks"),
];

#[derive(Clone, Copy)]
enum Axis {
    First,
    Last,
    /// The one that the attribute `axis` names.
    Attribute,
}

/// Why a change leaves the description valid; `None` where it must be refused.
pub(crate) fn reason(mutation: &Mutation, draft: &Draft) -> Option<&'static str> {
    match *mutation {
        Mutation::Tensor(Side::Input(i), change) => input(draft, i, change),
        Mutation::Tensor(Side::Output(o), change) => output(draft, o, change),
        Mutation::Word(at, what, _) => word(draft, draft.kind.attr_names()[at], what),
        _ => None,
    }
}

fn broadcasts(kind: OpKind, operand: usize) -> bool {
    matches!(kind, OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div) || kind == OpKind::Softmax && operand == 1
}

fn input(draft: &Draft, operand: usize, change: Change) -> Option<&'static str> {
    let sketch = draft.input(operand)?;
    let shape = &sketch.shape;
    match (draft.kind, change) {
        (kind, Change::RankDown) if broadcasts(kind, operand) => one_operand_carries_the_shape(draft, operand),
        (OpKind::Matmul, Change::RankDown) if operand == 1 && shape.len() > 2 => {
            (shape.len() == 3).then_some("one matrix may serve every batch")
        }
        (OpKind::Matmul, Change::RankUp) if operand == 1 => {
            let a = &draft.input(0)?.shape;
            let fits = a.len() == 3 && shape.len() == 2 && a[0] == 1;
            fits.then_some("a batch of one is a batch")
        }
        (OpKind::Cast, Change::Dtype(_)) => Some("anything is cast"),
        (OpKind::MatmulQuant, Change::Dtype(DType::F32)) if operand == 1 => None,
        (OpKind::MatmulQuant, Change::Dtype(_)) if operand == 1 => {
            (draft.input(2).is_some()).then_some("codes are integers of any width")
        }
        (OpKind::MatmulQuant, Change::Dtype(_)) if operand == 3 => Some("zeros are codes or floats"),
        (kind, Change::Longer(axis)) => {
            let named = |which: Axis| match which {
                Axis::First => axis == 0,
                Axis::Last => axis + 1 == shape.len(),
                Axis::Attribute => draft.word("axis") == Some(axis as u32),
            };
            let free = FREE_SIZES.iter().find(|(op, o, which, _)| *op == kind && *o == operand && named(*which));
            free.map(|(.., why)| *why)
        }
        _ => None,
    }
}

/// Without its first dim an operand still broadcasts to the same result, if another has the dim or it is 1.
fn one_operand_carries_the_shape(draft: &Draft, operand: usize) -> Option<&'static str> {
    let rank = draft.outputs.first()?.sketch.shape.len();
    let shape = &draft.input(operand)?.shape;
    if shape.is_empty() {
        return None;
    }
    let lead = draft.outputs[0].sketch.shape[rank - shape.len()];
    let other = draft.input(1 - operand.min(1))?;
    let carried = other.shape.len() >= shape.len() && other.shape[other.shape.len() - shape.len()] == lead;
    carried.then_some("operands broadcast")
}

fn output(draft: &Draft, _output: usize, change: Change) -> Option<&'static str> {
    match (draft.kind, change) {
        (OpKind::Fill, Change::RankUp | Change::RankDown | Change::Longer(_)) => Some("its shape is the caller's"),
        (OpKind::Fill, Change::Dtype(d)) if !d.is_packed() => Some("its dtype is the caller's"),
        (OpKind::Cast, Change::Dtype(d)) if !d.is_packed() => {
            (!draft.input(0)?.dtype.is_block()).then_some("its dtype is the caller's")
        }
        (_, Change::Place(Place::WithInput(i))) => {
            let none = draft.input(i).is_none();
            none.then_some("there is no such operand")
        }
        _ => None,
    }
}

fn word(draft: &Draft, name: &str, what: &str) -> Option<&'static str> {
    match (draft.kind, name, what) {
        (OpKind::Fill, "value", _) => Some("any number can be filled in"),
        (OpKind::Softmax, "scale", "negative") => Some("a scale of either sign is one"),
        (_, "window", "beyond") => Some("a window may be larger than the context"),
        (OpKind::MatmulQuant, "group_size" | "group_rows", _) => {
            let scales = draft.input(2);
            match (scales, name) {
                (None, _) => Some("a block format has its own groups"),
                (Some(s), "group_size") if s.shape.last() == Some(&1) => Some("there is one group either way"),
                (Some(s), "group_rows") if s.shape.first() == Some(&1) => Some("there is one group either way"),
                _ => None,
            }
        }
        _ => None,
    }
}
