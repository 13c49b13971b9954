//! Rotary embedding.

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, RopeStyle, Row};

use super::access::Operand;
use super::exec::{Core, Prepare, Prepared, activations, row};

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

fn rope(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Rope(attrs) = *node.op() else { unreachable!("the table pairs rope with its kernel") };
    let [x, positions, cos, sin] = [0, 1, 2, 3].map(|i| Operand::required(node, i));
    let y = Operand::whole_rows(node, 0);
    let heads = x.shape[1];
    let rotary = if attrs.rotary_dim == 0 { x.len } else { attrs.rotary_dim as usize };
    let offset = attrs.offset as usize;
    let table_rows = cos.rows();
    Prepared::with_scratch(2 * x.len + rotary, move |exec| {
        let k = exec.kernels();
        let rotate = match attrs.style {
            RopeStyle::HalfSplit => k.rope_half_split.run,
            RopeStyle::Interleaved => k.rope_interleaved.run,
        };
        let at = [&x, &positions, &cos, &sin, &y].map(|o| exec.address(o.tensor) as usize);
        exec.rows(x.rows(), x.len, &|first, last, thread| {
            // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
            // with the operands.
            unsafe {
                let (buf, rest) = exec.scratch(thread).split_at_mut(x.len);
                let (out, tables) = rest.split_at_mut(x.len);
                let (buf_cos, buf_sin) = tables.split_at_mut(rotary / 2);
                for r in first..last {
                    out.copy_from_slice(x.read(k, at[0] as *const u8, r, buf));
                    let position = positions.index(at[1] as *const u8, r / heads * positions.step());
                    match usize::try_from(position).ok().filter(|&p| p < table_rows) {
                        Some(p) if rotary > 0 => {
                            let cos = cos.read(k, at[2] as *const u8, p, buf_cos);
                            let sin = sin.read(k, at[3] as *const u8, p, buf_sin);
                            rotate(&mut out[offset..], cos, sin, rotary);
                        }
                        Some(_) => {}
                        None => out[offset..offset + rotary].fill(f32::NAN),
                    }
                    y.write(k, at[4] as *mut u8, r, 0, out);
                }
            }
        });
        Ok(())
    })
}
