//! Operators that choose: argmax, top_k, sample.

use std::cmp::Ordering;

use qiao_core::{Accept, DType, NodeView, Op, OpKind, Reason, Row};

use super::access::Operand;
use super::exec::{Core, Prepare, Prepared, activations, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Argmax, "argmax", first_is_activation, argmax),
        row(OpKind::TopK, "top_k", first_is_activation, top_k),
        row(OpKind::Sample, "sample", first_is_activation, sample),
    ]
}

fn first_is_activation(node: &NodeView<'_>) -> Result<Accept, Reason> {
    activations(node, &[0])
}

/// Largest first; NaN is larger than all, and ties go to the lower index.
fn descending(row: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |&a, &b| {
        let (x, y) = (row[a as usize], row[b as usize]);
        let by_value = match (x.is_nan(), y.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            _ => y.partial_cmp(&x).expect("neither is NaN"),
        };
        by_value.then(a.cmp(&b))
    }
}

fn argmax(node: &NodeView<'_>, _: &Core) -> Prepared {
    let (x, y) = (Operand::required(node, 0), Operand::output(node, 0));
    Prepared::with_scratch(x.len, move |exec| {
        let k = exec.kernels();
        let at = [x.tensor, y.tensor].map(|t| exec.address(t) as usize);
        exec.rows(x.rows(), x.len, &|first, last, thread| {
            for r in first..last {
                // SAFETY: the pool gave this thread; tasks write disjoint elements of the result.
                unsafe {
                    let row = x.read(k, at[0] as *const u8, r, exec.scratch(thread));
                    let max = (k.rows_f32.max.run)(row);
                    let found = row.iter().position(|v| *v == max || v.is_nan() && max.is_nan()).unwrap_or(0);
                    let to = y.offset(r / y.len.max(1)) + r % y.len.max(1) * y.step();
                    *(at[1] as *mut i32).add(to) = found as i32;
                }
            }
        });
        Ok(())
    })
}

/// The first `count` of all indices in descending order, in `order`, which holds all of them.
fn order_first(row: &[f32], order: &mut [u32], count: usize) {
    order.iter_mut().enumerate().for_each(|(i, o)| *o = i as u32);
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, descending(row));
    }
    order[..count].sort_unstable_by(descending(row));
}

/// The second half of a thread's scratch as indices.
fn as_indices(buf: &mut [f32]) -> &mut [u32] {
    let (start, len) = (buf.as_mut_ptr().cast::<u32>(), buf.len());
    // SAFETY: f32 and u32 have one size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts_mut(start, len) }
}

fn top_k(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::TopK(attrs) = *node.op() else { unreachable!("the table pairs top_k with its kernel") };
    let x = Operand::required(node, 0);
    let [values, indices] = [0, 1].map(|i| Operand::output(node, i));
    let count = attrs.k as usize;
    Prepared::with_scratch(2 * x.len, move |exec| {
        let k = exec.kernels();
        let at = [&x, &values, &indices].map(|o| exec.address(o.tensor) as usize);
        exec.rows(x.rows(), x.len, &|first, last, thread| {
            for r in first..last {
                // SAFETY: the pool gave this thread; tasks write disjoint rows of the results.
                unsafe {
                    let (buf, order) = exec.scratch(thread).split_at_mut(x.len);
                    let row = x.read(k, at[0] as *const u8, r, buf);
                    let order = &mut as_indices(order)[..x.len];
                    order_first(row, order, count);
                    for (i, &index) in order[..count].iter().enumerate() {
                        values.write(k, at[1] as *mut u8, r, i, &[row[index as usize]]);
                        *(at[2] as *mut i32).add(indices.offset(r) + i * indices.step()) = index as i32;
                    }
                }
            }
        });
        Ok(())
    })
}

/// What narrows the choice of one row.
struct Narrow {
    u: f32,
    temperature: f32,
    top_k: i64,
    top_p: f32,
    min_p: f32,
}

impl Narrow {
    /// The chosen index; `order` has as many elements as the row.
    fn choose(&self, row: &[f32], order: &mut [u32]) -> u32 {
        if self.temperature == 0.0 {
            order_first(row, order, 1);
            return order[0];
        }
        let kept = usize::try_from(self.top_k).ok().filter(|&k| k > 0).map_or(row.len(), |k| k.min(row.len()));
        order_first(row, order, kept);
        let order = &order[..kept];
        if row[order[0] as usize].is_nan() {
            return order[0];
        }
        let (top, t) = (f64::from(row[order[0] as usize]), f64::from(self.temperature));
        let weight = |i: u32| {
            let v = f64::from(row[i as usize]);
            if v == top { 1.0 } else { ((v - top) / t).exp() }
        };
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        // top-p: the smallest set of the largest with this much of the mass, at least one.
        let (mut mass, mut count) = (0.0, order.len());
        if self.top_p < 1.0 {
            count = 0;
            while count == 0 || count < order.len() && mass < f64::from(self.top_p) * total {
                mass += weight(order[count]);
                count += 1;
            }
        }
        // min-p: at least this share of the largest, whose weight is 1.
        if self.min_p > 0.0 {
            let enough = |&&i: &&u32| weight(i) >= f64::from(self.min_p);
            count = order[..count].iter().take_while(enough).count().max(1);
        }
        let mass: f64 = order[..count].iter().map(|&i| weight(i)).sum();
        let mut seen = 0.0;
        for &i in &order[..count] {
            seen += weight(i);
            if seen > f64::from(self.u) * mass {
                return i;
            }
        }
        order[count - 1]
    }
}

fn sample(node: &NodeView<'_>, _: &Core) -> Prepared {
    let operands: [Operand; 6] = std::array::from_fn(|i| Operand::required(node, i));
    let y = Operand::output(node, 0);
    let n = operands[0].len;
    Prepared::with_scratch(2 * n, move |exec| {
        let k = exec.kernels();
        let [logits, u, temperature, top_k, top_p, min_p] = &operands;
        let to = exec.address(y.tensor) as usize;
        let base = operands.each_ref().map(|o| exec.address(o.tensor) as usize);
        exec.rows(logits.rows(), n, &|first, last, thread| {
            for r in first..last {
                // SAFETY: the pool gave this thread; every operand has an entry for row r; tasks write disjoint
                // elements of the result.
                unsafe {
                    let (buf, order) = exec.scratch(thread).split_at_mut(n);
                    let row = logits.read(k, base[0] as *const u8, r, buf);
                    let f = |o: &Operand, i: usize| super::access::load(DType::F32, base[i] as *const u8, r * o.step());
                    let narrow = Narrow {
                        u: f(u, 1),
                        temperature: f(temperature, 2),
                        top_k: top_k.index(base[3] as *const u8, r * top_k.step()),
                        top_p: f(top_p, 4),
                        min_p: f(min_p, 5),
                    };
                    let chosen = narrow.choose(row, &mut as_indices(order)[..n]);
                    *(to as *mut i32).add(r * y.step()) = chosen as i32;
                }
            }
        });
        Ok(())
    })
}
