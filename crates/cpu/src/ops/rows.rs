//! Operators that look at a whole row: norms, softmax, reductions.

use half::{bf16, f16};
use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, ReduceKind, Row};
use qiao_kernels_cpu::{Element, Kernels, RowMut};

use super::access::Operand;
use super::by_rows::Rows;
use super::exec::{Core, Exec, Prepare, Prepared, all_activations, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::RmsNorm, "rms_norm", all_activations, rms_norm),
        row(OpKind::AddRmsNorm, "add_rms_norm", all_activations, add_rms_norm),
        row(OpKind::LayerNorm, "layer_norm", all_activations, layer_norm),
        row(OpKind::Softmax, "softmax", all_activations, softmax),
        row(OpKind::Reduce, "reduce", reducible, reduce),
    ]
}

/// What an RMS norm does to one row of f32.
#[derive(Clone, Copy)]
struct Norm {
    eps: f32,
    offset: f32,
    /// The dtype to which the normalised value is rounded before it meets the weight.
    round: Option<DType>,
}

impl Norm {
    fn of(op: &Op, weighted: bool, storage: DType) -> Self {
        let (Op::RmsNorm(a) | Op::AddRmsNorm(a)) = op else { unreachable!("the table pairs norms with their kernel") };
        let round = (a.round_before_weight && storage != DType::F32).then_some(storage);
        Norm { eps: a.eps, offset: if weighted { a.weight_offset as f32 } else { 0.0 }, round }
    }

    /// `w` is all ones where no weight was given; then the offset is 0.
    fn apply(&self, k: &Kernels, out: &mut [f32], x: &[f32], w: &[f32]) {
        let Some(storage) = self.round else {
            return (k.rows_f32.rms_norm.run)(RowMut::kept(out), x, w, self.eps, self.offset);
        };
        let square = (k.sum_squares.run)(x) / x.len() as f32 + self.eps;
        if (f32::MIN_POSITIVE..f32::INFINITY).contains(&square) {
            let inv = 1.0 / square.sqrt();
            self.weigh(storage, out, x, w, |x| x * inv);
        } else {
            self.apply_in_f64(storage, out, x, w);
        }
    }

    /// As [`Norm::apply`] where it rounds, of a row whose squares are beyond f32.
    #[cold]
    fn apply_in_f64(&self, storage: DType, out: &mut [f32], x: &[f32], w: &[f32]) {
        let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let inv = 1.0 / (square + f64::from(self.eps)).sqrt();
        self.weigh(storage, out, x, w, |x| (f64::from(x) * inv) as f32);
    }

    /// The normalised values, rounded, times their weights.
    fn weigh(&self, storage: DType, out: &mut [f32], x: &[f32], w: &[f32], normal: impl Fn(f32) -> f32) {
        for ((o, &x), &w) in out.iter_mut().zip(x).zip(w) {
            let rounded = match storage {
                DType::F16 => f16::from_f32(normal(x)).to_f32(),
                _ => bf16::from_f32(normal(x)).to_f32(),
            };
            *o = rounded * (w + self.offset);
        }
    }
}

/// The weights of a row operator as f32: the memory itself, or converted, or `default` where none were given.
///
/// # Safety
/// The weights' memory is live, initialised and not written meanwhile.
unsafe fn weights<'a>(exec: &Exec<'_>, w: Option<&Operand>, default: f32, buf: &'a mut [f32]) -> &'a [f32] {
    match w {
        // SAFETY: as the caller vouches; a weight is one row.
        Some(w) => unsafe { w.read(exec.kernels(), exec.address(w.tensor), 0, buf) },
        None => {
            buf.fill(default);
            buf
        }
    }
}

/// Returns what the function for the elements of a dtype gives, where operands have one in common; goes on where they do not.
macro_rules! of_dtype {
    ($operands:expr, $function:ident($($argument:expr),*)) => {
        match Operand::common($operands) {
            Some(DType::F32) => return $function::<f32>($($argument),*),
            Some(DType::F16) => return $function::<f16>($($argument),*),
            Some(DType::BF16) => return $function::<bf16>($($argument),*),
            _ => {}
        }
    };
}

fn rms_norm(node: &NodeView<'_>, _: &Core) -> Prepared {
    let (x, w, y) = (Operand::required(node, 0), Operand::input(node, 1), Operand::whole_rows(node, 0));
    let norm = Norm::of(node.op(), w.is_some(), y.dtype);
    if norm.round.is_none() {
        of_dtype!([&x, &y], rms_norm_of(x, w, y, norm));
    }
    Prepared::by_rows(Rows::of(&[&x, &y]), 3 * x.len, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf_x, rest) = exec.scratch(thread).split_at_mut(x.len);
            let (buf_w, buf_y) = rest.split_at_mut(x.len);
            let w = weights(exec, w.as_ref(), 1.0, &mut buf_w[..x.len]);
            for r in rows {
                let row = x.read(k, at[0] as *const u8, r, buf_x);
                let ahead = [x.ahead(at[0] as *const u8, r + 1)];
                y.fill(k, at[1] as *mut u8, r, buf_y, &ahead, |out| norm.apply(k, out, row, w));
            }
        }
    })
}

/// As [`rms_norm`], of rows that are read and written as they lie.
fn rms_norm_of<T: Element>(x: Operand, w: Option<Operand>, y: Operand, norm: Norm) -> Prepared {
    Prepared::by_rows(Rows::of(&[&x, &y]), x.len, move |exec, rows, thread| {
        let run = T::rows(exec.kernels()).rms_norm.run;
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let w = weights(exec, w.as_ref(), 1.0, &mut exec.scratch(thread)[..x.len]);
            for r in rows {
                let out = y.row_to::<T>(at[1] as *mut u8, r, x.ahead(at[0] as *const u8, r + 1));
                run(out, x.row(at[0] as *const u8, r), w, norm.eps, norm.offset);
            }
        }
    })
}

fn add_rms_norm(node: &NodeView<'_>, _: &Core) -> Prepared {
    let [a, b] = [0, 1].map(|i| Operand::required(node, i));
    let w = Operand::input(node, 2);
    let [sum, y] = [0, 1].map(|i| Operand::whole_rows(node, i));
    let norm = Norm::of(node.op(), w.is_some(), y.dtype);
    if norm.round.is_none() {
        of_dtype!([&a, &b, &sum, &y], add_rms_norm_of([a, b, sum, y], w, norm));
    }
    let n = a.len;
    Prepared::by_rows(Rows::of(&[&a, &b, &sum, &y]), 5 * n, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [&a, &b, &sum, &y].map(|o| exec.address(o.tensor) as usize);
        // SAFETY: the pool gave this thread, and tasks touch disjoint rows. `sum` may be the storage of `a` or
        // `b`: a row is read into scratch whole before it is written.
        unsafe {
            let (buf_a, rest) = exec.scratch(thread).split_at_mut(n);
            let (buf_b, rest) = rest.split_at_mut(n);
            let (buf_w, rest) = rest.split_at_mut(n);
            let (total, buf_y) = rest.split_at_mut(n);
            let w = weights(exec, w.as_ref(), 1.0, buf_w);
            for r in rows {
                let row_a = a.read(k, at[0] as *const u8, r, buf_a);
                let row_b = b.read(k, at[1] as *const u8, r, buf_b);
                (k.add.run)(total, row_a, row_b);
                sum.write(k, at[2] as *mut u8, r, 0, total);
                let ahead = [a.ahead(at[0] as *const u8, r + 1), b.ahead(at[1] as *const u8, r + 1)];
                y.fill(k, at[3] as *mut u8, r, buf_y, &ahead, |out| norm.apply(k, out, total, w));
            }
        }
    })
}

/// As [`add_rms_norm`], of rows that are read and written as they lie.
fn add_rms_norm_of<T: Element>([a, b, sum, y]: [Operand; 4], w: Option<Operand>, norm: Norm) -> Prepared {
    let n = a.len;
    Prepared::by_rows(Rows::of(&[&a, &b, &sum, &y]), 2 * n, move |exec, rows, thread| {
        let k = T::rows(exec.kernels());
        let at = [&a, &b, &sum, &y].map(|o| exec.address(o.tensor) as usize);
        // SAFETY: the pool gave this thread, and tasks touch disjoint rows. `sum` may be the storage of `a` or
        // `b`: a row is read whole before it is written.
        unsafe {
            let (buf_w, total) = exec.scratch(thread)[..2 * n].split_at_mut(n);
            let w = weights(exec, w.as_ref(), 1.0, buf_w);
            for r in rows {
                (k.sum_of.run)(total, a.row(at[0] as *const u8, r), b.row(at[1] as *const u8, r));
                let [next_a, next_b] = [(&a, at[0]), (&b, at[1])].map(|(o, at)| o.ahead(at as *const u8, r + 1));
                (k.scaled.run)(sum.row_to(at[2] as *mut u8, r, next_a), total, 1.0);
                let out = y.row_to(at[3] as *mut u8, r, next_b);
                (k.rms_norm_of_f32.run)(out, total, w, norm.eps, norm.offset);
            }
        }
    })
}

fn layer_norm(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::LayerNorm(attrs) = *node.op() else { unreachable!("the table pairs layer_norm with its kernel") };
    let (x, y) = (Operand::required(node, 0), Operand::whole_rows(node, 0));
    let (w, b) = (Operand::input(node, 1), Operand::input(node, 2));
    of_dtype!([&x, &y], layer_norm_of([x, y], w, b, attrs.eps));
    let n = x.len;
    Prepared::by_rows(Rows::of(&[&x, &y]), 4 * n, move |exec, rows, thread| {
        let k = exec.kernels();
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf_x, rest) = exec.scratch(thread).split_at_mut(n);
            let (buf_w, rest) = rest.split_at_mut(n);
            let (buf_b, buf_y) = rest.split_at_mut(n);
            let w = weights(exec, w.as_ref(), 1.0, buf_w);
            let b = weights(exec, b.as_ref(), 0.0, buf_b);
            for r in rows {
                let row = x.read(k, at[0] as *const u8, r, buf_x);
                let ahead = [x.ahead(at[0] as *const u8, r + 1)];
                y.fill(k, at[1] as *mut u8, r, buf_y, &ahead, |out| {
                    (k.rows_f32.layer_norm.run)(RowMut::kept(out), row, w, b, attrs.eps);
                });
            }
        }
    })
}

/// As [`layer_norm`], of rows that are read and written as they lie.
fn layer_norm_of<T: Element>([x, y]: [Operand; 2], w: Option<Operand>, b: Option<Operand>, eps: f32) -> Prepared {
    let n = x.len;
    Prepared::by_rows(Rows::of(&[&x, &y]), 2 * n, move |exec, rows, thread| {
        let run = T::rows(exec.kernels()).layer_norm.run;
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
        // with the operands.
        unsafe {
            let (buf_w, buf_b) = exec.scratch(thread)[..2 * n].split_at_mut(n);
            let w = weights(exec, w.as_ref(), 1.0, buf_w);
            let b = weights(exec, b.as_ref(), 0.0, buf_b);
            for r in rows {
                let out = y.row_to::<T>(at[1] as *mut u8, r, x.ahead(at[0] as *const u8, r + 1));
                run(out, x.row(at[0] as *const u8, r), w, b, eps);
            }
        }
    })
}

fn softmax(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Softmax(attrs) = *node.op() else { unreachable!("the table pairs softmax with its kernel") };
    let (x, y) = (Operand::required(node, 0), Operand::whole_rows(node, 0));
    let mask = Operand::broadcast(node, 1, &x.shape);
    let scale = if attrs.scale == 0.0 { 1.0 } else { attrs.scale };
    if mask.is_none() && scale == 1.0 && !attrs.causal {
        of_dtype!([&x, &y], softmax_of([x, y]));
    }
    let n = x.len;
    let queries = if x.shape.len() >= 2 { x.shape[x.shape.len() - 2] } else { 1 };
    Prepared::with_scratch(4 * n, move |exec| {
        let k = exec.kernels();
        let at = [x.tensor, mask.as_ref().map_or(x.tensor, |m| m.tensor), y.tensor];
        let at = at.map(|t| exec.address(t) as usize);
        exec.rows(x.rows(), n, &|first, last, thread| {
            // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
            // with the operands.
            unsafe {
                let (buf_x, rest) = exec.scratch(thread).split_at_mut(n);
                let (buf_m, rest) = rest.split_at_mut(n);
                let (scores, p) = rest.split_at_mut(n);
                for r in first..last {
                    // Query i sees keys j ≤ Tk − Tq + i.
                    let seen = if attrs.causal { (r % queries + n + 1).saturating_sub(queries).min(n) } else { n };
                    let mut row = &x.read(k, at[0] as *const u8, r, buf_x)[..seen];
                    if scale != 1.0 || mask.is_some() {
                        let scores = &mut scores[..seen];
                        scores.copy_from_slice(row);
                        if scale != 1.0 {
                            (k.scale.run)(scores, scale);
                        }
                        if let Some(mask) = &mask {
                            let row = &mask.read(k, at[1] as *const u8, r, buf_m)[..seen];
                            scores.iter_mut().zip(row).for_each(|(v, m)| *v += m);
                        }
                        row = scores;
                    }
                    let ahead = [x.ahead(at[0] as *const u8, r + 1)];
                    y.fill(k, at[2] as *mut u8, r, p, &ahead, |out| {
                        let (live, hidden) = out.split_at_mut(seen);
                        hidden.fill(0.0);
                        let sum = (k.rows_f32.exp_sub_sum.run)(live, row, (k.rows_f32.max.run)(row));
                        if sum != 0.0 {
                            (k.scale.run)(live, 1.0 / sum);
                        }
                    });
                }
            }
        });
        Ok(())
    })
}

/// The softmax of rows that are read and written as they lie: a row is written beside the exponentials of the next.
fn softmax_of<T: Element>([x, y]: [Operand; 2]) -> Prepared {
    Prepared::with_scratch(2 * x.len, move |exec| {
        let run = T::rows(exec.kernels()).softmax.run;
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        exec.rows(x.rows(), x.len, &|first, last, thread| {
            // SAFETY: the pool gave this thread, and tasks write disjoint rows of a result that shares no storage
            // with the operands.
            unsafe {
                let (mut p, mut next) = exec.scratch(thread)[..2 * x.len].split_at_mut(x.len);
                let row = |r| x.row::<T>(at[0] as *const u8, r);
                let mut factor = run(RowMut::kept(&mut []), (&[], 1.0), p, row(first));
                for r in first..last {
                    let out = y.row_to::<T>(at[1] as *mut u8, r, x.ahead(at[0] as *const u8, r + 2));
                    let after = if r + 1 < last { row(r + 1) } else { &[] };
                    factor = run(out, (p, factor), &mut next[..after.len()], after);
                    (p, next) = (next, p);
                }
            }
        });
        Ok(())
    })
}

fn reducible(node: &NodeView<'_>) -> Result<Accept, Reason> {
    all_activations(node)
}

fn reduce(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::Reduce(attrs) = *node.op() else { unreachable!("the table pairs reduce with its kernel") };
    let rank = node.required(0).rank();
    let axis = attrs.axis as usize;
    // The reduced axis innermost, the others in their order: result element r is row r.
    let axes: Vec<usize> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
    let x = Operand::permuted(node, node.node.inputs[0].expect("reduce has its operand"), &axes);
    let y = Operand::output(node, 0);
    let count = node.output(0).elements();
    Prepared::with_scratch(x.room_to_read(), move |exec| {
        let k = exec.kernels();
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        exec.rows(count, x.len, &|first, last, thread| {
            // SAFETY: the pool gave this thread, and tasks write disjoint elements of a result that shares no
            // storage with the operand.
            unsafe {
                let buf = exec.scratch(thread);
                for r in first..last {
                    let row = x.read(k, at[0] as *const u8, r, buf);
                    let value = match attrs.kind {
                        ReduceKind::Sum => sum(k, row, 1.0),
                        ReduceKind::Mean => sum(k, row, row.len() as f32),
                        ReduceKind::Max => (k.rows_f32.max.run)(row),
                    };
                    y.write(k, at[1] as *mut u8, r / y.len, r % y.len, &[value]);
                }
            }
        });
        Ok(())
    })
}

/// `Σ x / count`; in f64 where the sum in f32 is not finite, which the quotient, or the whole sum, may be yet.
fn sum(k: &Kernels, x: &[f32], count: f32) -> f32 {
    let sum = (k.sum.run)(x);
    if sum.is_finite() { sum / count } else { sum_in_f64(x, count) }
}

#[cold]
fn sum_in_f64(x: &[f32], count: f32) -> f32 {
    (x.iter().map(|&x| f64::from(x)).sum::<f64>() / f64::from(count)) as f32
}
