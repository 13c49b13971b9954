//! Rows that move: copies, casts, fills, rows of a table.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, Result, Row, TensorId};

use super::accept::{FLOATS, MOVED, all_of_one, among, dense, plain};
use super::launcher::Launcher;
use super::{Launch, row, row_in};
use crate::codes::data_type;
use crate::operators::{Calls, Tensor};

pub(super) fn rows() -> Vec<Row<Launch>> {
    vec![
        row(OpKind::Copy, "copy", &["aclnnInplaceCopy"], copied, copy),
        row(OpKind::Cast, "cast", &["aclnnCast"], casted, cast),
        row(OpKind::Fill, "fill", &["aclnnInplaceFillScalar"], filled, fill),
        row_in(row(OpKind::GatherRows, "gather_rows", GATHER, gathered, gather), |n| {
            gather_room(n.required(1).elements())
        }),
    ]
}

/// What a table's rows are taken with.
pub(super) const GATHER: &[&str] = &["aclnnClamp", "aclnnEmbedding", "aclnnNeTensor", "aclnnInplaceMaskedFillScalar"];

fn copied(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    all_of_one(node, MOVED)?;
    Ok(Accept::Native)
}

fn copy(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let (to, from) = (l.output(node, 0)?, l.input(node, 0)?);
    l.copy(to, from)
}

/// Floats among each other; integers whose values an f32 holds, to floats. How a float becomes an integer is not documented.
fn casted(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    among(node, 0, &[DType::F32, DType::F16, DType::BF16, DType::I8, DType::U8, DType::Bool])?;
    among(node, 1, FLOATS)?;
    Ok(Accept::Native)
}

fn cast(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let (x, out) = (l.input(node, 0)?, l.output(node, 0)?);
    l.cast(x, data_type(node.output(0).dtype).unwrap_or(0), out)
}

fn filled(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    all_of_one(node, FLOATS)?;
    Ok(Accept::Native)
}

fn fill(l: &mut Launcher<'_>, node: &NodeView<'_>, _: &[usize]) -> Result<()> {
    let Op::Fill(attrs) = node.op() else { unreachable!("the table pairs operators with rows") };
    let (to, value) = (l.output(node, 0)?, l.scalar(attrs.value)?);
    l.fill(to, value)
}

fn gathered(node: &NodeView<'_>) -> Result<Accept, Reason> {
    plain(node, None)?;
    among(node, 0, FLOATS)?;
    among(node, 1, &[DType::I32])?;
    among(node, 2, &[node.required(0).dtype])?;
    dense(1, node.required(1))?;
    Ok(Accept::Native)
}

/// Room for ids in range, and for which were not.
pub(super) fn gather_room(ids: usize) -> Vec<usize> {
    vec![4 * ids, ids]
}

fn gather(l: &mut Launcher<'_>, node: &NodeView<'_>, room: &[usize]) -> Result<()> {
    let (table, out) = (l.input(node, 0)?, l.output(node, 0)?);
    let ids = node.node.inputs[1].expect("the graph checked that ids are given");
    let rows = Rows::of(l, ids, node.required(0).shape[0], room)?;
    rows.take(l, table, out)
}

/// Rows that ids name: the ids in range, and a mask of those that were not.
pub(super) struct Rows {
    inside: Tensor,
    outside: Tensor,
}

impl Rows {
    /// Reads ids `[..]` without gaps for a table of so many rows. An operator of AscendCL may not be given an index out of
    /// range, so that each is brought into range, and its row is NaN afterwards.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn of(l: &mut Launcher<'_>, ids: TensorId, rows: usize, room: &[usize]) -> Result<Rows> {
        let desc = l.graph().desc(ids).clone();
        let mut column = desc.shape.to_vec();
        column.push(1);
        let given = l.tensor(ids)?;
        let inside = l.room(room[0], DType::I32, &desc.shape)?;
        let outside = l.room(room[1], DType::Bool, &desc.shape)?;
        let (least, most) = (l.whole(0)?, l.whole(i32::try_from(rows).unwrap_or(i32::MAX) - 1)?);
        l.clamp(given, least, most, inside)?;
        l.ne(given, inside, outside)?;
        let outside = l.room(room[1], DType::Bool, &column)?;
        Ok(Rows { inside, outside })
    }

    /// Takes the rows of a table into `out`.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn take(&self, l: &mut Launcher<'_>, table: Tensor, out: Tensor) -> Result<()> {
        l.embedding(table, self.inside, out)?;
        let nan = l.scalar(f32::NAN)?;
        l.masked_fill(out, self.outside, nan)
    }
}
