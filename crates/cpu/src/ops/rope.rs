//! Rotary embedding.

use half::{bf16, f16};
use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, RopeAttrs, RopeStyle, Row};
use qiao_kernels_cpu::{Element, RowMut};

use super::access::Operand;
use super::by_rows::Rows;
use super::exec::{Core, Exec, Prepare, Prepared, activations, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::Rope, "rope", accepts, rope)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for i in [2, 3] {
        let table = node.required(i);
        if table.dtype != DType::F32 || !table.rows_are_contiguous() {
            return Err(Reason::strides(i, "contiguous within a row"));
        }
    }
    activations(node, &[0, 4])
}

/// Bytes of what is fetched ahead: short rows are read in whole stretches.
const AHEAD: usize = 4096;

/// A rope, and where its operands lie.
struct Rope {
    x: Operand,
    positions: Operand,
    cos: Operand,
    sin: Operand,
    y: Operand,
    rotary: usize,
    offset: usize,
}

impl Rope {
    fn of(node: &NodeView<'_>, attrs: &RopeAttrs) -> Rope {
        let [x, positions, cos, sin] = [0, 1, 2, 3].map(|i| Operand::required(node, i));
        let y = Operand::whole_rows(node, 0);
        let rotary = if attrs.rotary_dim == 0 { x.len } else { attrs.rotary_dim as usize };
        Rope { x, positions, cos, sin, y, rotary, offset: attrs.offset as usize }
    }

    /// How many rows of one token lie side by side: all of its heads, or one.
    fn heads(&self) -> usize {
        let heads = self.x.shape[1];
        let together = |o: &Operand| o.rows() <= 1 || o.is_even() && o.pitch() == o.len;
        if together(&self.x) && together(&self.y) { heads.max(1) } else { 1 }
    }

    /// The rows, so many heads at a time.
    fn rows(&self, heads: usize) -> Rows {
        Rows::split(&[&self.x, &self.positions, &self.y], self.x.rows() / heads, heads * self.x.len)
    }

    /// The angles of row `r`; none where its position is outside the tables.
    ///
    /// # Safety
    /// The operands' memory is live, initialised and not written meanwhile; `r` is one of the rows of `x`.
    unsafe fn angles<'a>(&self, exec: &Exec<'_>, r: usize) -> Option<(&'a [f32], &'a [f32])> {
        let [positions, cos, sin] =
            [&self.positions, &self.cos, &self.sin].map(|o| exec.address(o.tensor).cast_const());
        let token = r / self.x.shape[1];
        // SAFETY: as the caller vouches; there is a position for each token, and tables are dense f32.
        unsafe {
            let position = self.positions.index(positions, token * self.positions.step());
            let p = usize::try_from(position).ok().filter(|&p| p < self.cos.rows())?;
            Some((&self.cos.row(cos, p)[..self.rotary / 2], &self.sin.row(sin, p)[..self.rotary / 2]))
        }
    }
}

fn rope(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Rope(attrs) = node.op() else { unreachable!("the table pairs rope with its kernel") };
    let rope = Rope::of(node, attrs);
    match Operand::common([&rope.x, &rope.y]) {
        Some(DType::F32) => as_they_lie::<f32>(rope, attrs.style),
        Some(DType::F16) => as_they_lie::<f16>(rope, attrs.style),
        Some(DType::BF16) => as_they_lie::<bf16>(rope, attrs.style),
        _ => by_way_of_f32(rope, attrs.style),
    }
}

/// Rows that are read and written as they lie, all heads of a token at once where they lie side by side.
fn as_they_lie<T: Element>(rope: Rope, style: RopeStyle) -> Prepared {
    let heads = rope.heads();
    Prepared::by_rows(rope.rows(heads), 0, move |exec, rows, _| {
        let kernels = T::rows(exec.kernels());
        let rotate = match style {
            RopeStyle::HalfSplit => kernels.rope_half_split.run,
            RopeStyle::Interleaved => kernels.rope_neighbours.run,
        };
        let Rope { x, y, .. } = &rope;
        let at = [x, y].map(|o| exec.address(o.tensor) as usize);
        let lead = AHEAD / (x.len * size_of::<T>()).max(1) + 1;
        // SAFETY: tasks write disjoint rows of a result that shares no storage with the operands; the rows that are taken
        // together lie side by side.
        unsafe {
            for r in (rows.start * heads..rows.end * heads).step_by(heads) {
                let row = x.rows_from::<T>(at[0] as *const u8, r, heads);
                let out = y.rows_to::<T>(at[1] as *mut u8, r, heads, x.ahead(at[0] as *const u8, r + lead));
                match rope.angles(exec, r) {
                    Some((cos, sin)) => rotate(out, row, cos, sin, (rope.offset, x.len)),
                    None => {
                        out.row.copy_from_slice(row);
                        for head in out.row.chunks_exact_mut(x.len) {
                            head[rope.offset..rope.offset + rope.rotary].fill(T::narrow(f32::NAN));
                        }
                    }
                }
            }
        }
    })
}

/// Rows of any dtypes and strides.
fn by_way_of_f32(rope: Rope, style: RopeStyle) -> Prepared {
    Prepared::by_rows(rope.rows(1), 2 * rope.x.len, move |exec, rows, thread| {
        let k = exec.kernels();
        let Rope { x, y, rotary, offset, .. } = &rope;
        let at = [x, y].map(|o| exec.address(o.tensor) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf, out) = exec.scratch(thread)[..2 * x.len].split_at_mut(x.len);
            for r in rows {
                let row = x.read(k, at[0] as *const u8, r, buf);
                match (rope.angles(exec, r), style) {
                    (Some((cos, sin)), RopeStyle::HalfSplit) => {
                        (k.rows_f32.rope_half_split.run)(RowMut::kept(out), row, cos, sin, (*offset, x.len));
                    }
                    (Some((cos, sin)), RopeStyle::Interleaved) => {
                        out.copy_from_slice(row);
                        (k.rope_interleaved.run)(&mut out[*offset..], cos, sin, *rotary);
                    }
                    (None, _) => {
                        out.copy_from_slice(row);
                        out[*offset..offset + rotary].fill(f32::NAN);
                    }
                }
                y.write(k, at[1] as *mut u8, r, 0, out);
            }
        }
    })
}
