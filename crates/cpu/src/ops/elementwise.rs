//! Operators that work element by element: arithmetic with broadcasting, activations, silu_mul.

use qiao_core::{NodeView, Op, OpKind, Row};
use qiao_kernels_cpu::Kernels;

use super::access::Operand;
use super::by_rows::Rows;
use super::exec::{Core, Prepare, Prepared, all_activations, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    let unary_ops = [
        (OpKind::Silu, "silu"),
        (OpKind::Gelu, "gelu"),
        (OpKind::Relu, "relu"),
        (OpKind::Sigmoid, "sigmoid"),
        (OpKind::Tanh, "tanh"),
        (OpKind::Exp, "exp"),
    ];
    let binary_ops = [(OpKind::Add, "add"), (OpKind::Sub, "sub"), (OpKind::Mul, "mul"), (OpKind::Div, "div")];
    let mut out: Vec<_> = unary_ops.into_iter().map(|(op, name)| row(op, name, all_activations, unary)).collect();
    out.extend(binary_ops.into_iter().map(|(op, name)| row(op, name, all_activations, binary)));
    out.push(row(OpKind::SiluMul, "silu_mul", all_activations, silu_mul));
    out
}

fn unary(node: &NodeView<'_>, core: &Core) -> Prepared {
    let [x, y] = Operand::in_pieces([Operand::required(node, 0), Operand::whole_rows(node, 0)]);
    let k = &core.kernels;
    let f = match node.op() {
        Op::Silu(_) => k.silu.run,
        Op::Gelu(a) => match a.form {
            qiao_core::GeluForm::Erf => k.gelu_erf.run,
            qiao_core::GeluForm::Tanh => k.gelu_tanh.run,
        },
        Op::Relu(_) => k.relu.run,
        Op::Sigmoid(_) => k.sigmoid.run,
        Op::Tanh(_) => k.tanh.run,
        _ => k.exp.run,
    };
    let room = x.room_to_read();
    Prepared::by_rows(Rows::of(&[&y, &x]).costly(), room + y.room_to_fill(), move |exec, rows, thread| {
        let k = exec.kernels();
        let (from, to) = (exec.address(x.tensor) as usize, exec.address(y.tensor) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operand.
        unsafe {
            let (buf_x, buf_y) = exec.scratch(thread).split_at_mut(room);
            for r in rows {
                let row = x.read(k, from as *const u8, r, buf_x);
                y.fill(k, to as *mut u8, r, buf_y, &[x.ahead(from as *const u8, r + 1)], |out| f(out, row));
            }
        }
    })
}

type BinaryKernel = fn(&Kernels, &mut [f32], &[f32], &[f32]);

/// Rows of two operands into rows of the result.
fn pairwise(node: &NodeView<'_>, operands: [Operand; 3], dear: bool, f: BinaryKernel) -> Prepared {
    let [a, b, y] = Operand::in_pieces(operands);
    // What is repeated along an axis is touched by more rows than one.
    let own = |&(i, _): &(usize, &Operand)| node.required(i).shape == node.output(0).shape;
    let touched = [&a, &b].into_iter().enumerate().filter(own).map(|(_, o)| o);
    let rows = Rows::of(&[&y].into_iter().chain(touched).collect::<Vec<_>>());
    let rows = if dear { rows.costly() } else { rows };
    let room = [&a, &b].map(Operand::room_to_read);
    let floats = room[0] + room[1] + y.room_to_fill();
    Prepared::by_rows(rows, floats, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [&a, &b, &y].map(|o| exec.address(o.tensor) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf_a, rest) = exec.scratch(thread).split_at_mut(room[0]);
            let (buf_b, buf_y) = rest.split_at_mut(room[1]);
            for r in rows {
                let row_a = a.read(k, at[0] as *const u8, r, buf_a);
                let row_b = b.read(k, at[1] as *const u8, r, buf_b);
                let ahead = [a.ahead(at[0] as *const u8, r + 1), b.ahead(at[1] as *const u8, r + 1)];
                y.fill(k, at[2] as *mut u8, r, buf_y, &ahead, |out| f(k, out, row_a, row_b));
            }
        }
    })
}

fn binary(node: &NodeView<'_>, _: &Core) -> Prepared {
    let y = Operand::whole_rows(node, 0);
    let a = Operand::broadcast(node, 0, &y.shape).expect("a binary operator has its first operand");
    let b = Operand::broadcast(node, 1, &y.shape).expect("a binary operator has its second operand");
    let f: BinaryKernel = match node.kind() {
        OpKind::Add => |k, out, a, b| (k.add.run)(out, a, b),
        OpKind::Sub => |k, out, a, b| (k.sub.run)(out, a, b),
        OpKind::Mul => |k, out, a, b| (k.mul.run)(out, a, b),
        _ => |k, out, a, b| (k.div.run)(out, a, b),
    };
    pairwise(node, [a, b, y], false, f)
}

fn silu_mul(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::SiluMul(attrs) = *node.op() else { unreachable!("the table pairs silu_mul with its kernel") };
    let (x, y) = (Operand::required(node, 0), Operand::whole_rows(node, 0));
    let up = Operand::input(node, 1);
    if let (Some(up), true) = (&up, attrs.clamp == 0.0) {
        return pairwise(node, [x, up.clone(), y], true, |k, out, gate, up| (k.silu_mul.run)(out, gate, up));
    }
    let half = y.len;
    let rows = Rows::of(&[&y, &x].into_iter().chain(&up).collect::<Vec<_>>()).costly();
    Prepared::by_rows(rows, x.len + 4 * half, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [x.tensor, up.as_ref().map_or(x.tensor, |u| u.tensor), y.tensor].map(|t| exec.address(t) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf_x, rest) = exec.scratch(thread).split_at_mut(x.len);
            let (buf_up, rest) = rest.split_at_mut(half);
            let (cut_gate, rest) = rest.split_at_mut(half);
            let (cut_up, buf_y) = rest.split_at_mut(half);
            for r in rows {
                let row = x.read(k, at[0] as *const u8, r, buf_x);
                let (mut gate, mut other) = match &up {
                    Some(up) => (row, up.read(k, at[1] as *const u8, r, buf_up)),
                    None if attrs.gate_second => (&row[half..], &row[..half]),
                    None => row.split_at(half),
                };
                if attrs.clamp != 0.0 {
                    clamp(cut_gate, gate, f32::NEG_INFINITY, attrs.clamp);
                    clamp(cut_up, other, -attrs.clamp, attrs.clamp);
                    (gate, other) = (&*cut_gate, &*cut_up);
                }
                y.fill(k, at[2] as *mut u8, r, buf_y, &[], |out| (k.silu_mul.run)(out, gate, other));
            }
        }
    })
}

fn clamp(out: &mut [f32], x: &[f32], low: f32, high: f32) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = if v.is_nan() { v } else { v.clamp(low, high) };
    }
}
