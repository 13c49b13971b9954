//! Products of matrices, and rotations.

use qiao_core::DType;
use qiao_reference::value::Output;

use super::{FLOATS, Handle, among, dense, store_all};
use crate::codes::{ND, NN_INVALID, NZ};
use crate::executors::{Operands, Prepared};
use crate::memory::Memory;
use crate::tensors::Shared;
use crate::world::{Refused, refused};

/// A product is done in pieces of so many bytes of workspace, so that its size is told and none is taken for granted.
const WORKSPACE: u64 = 192;

fn check(o: &Operands<'_>, a: &Shared, b: &Shared, out: &Shared, cube: i8) -> Result<(), Refused> {
    among(o, a, "self", FLOATS)?;
    among(o, b, "mat2", &[a.dtype])?;
    among(o, out, "out", &[a.dtype])?;
    dense(out, "out")?;
    if a.dtype == DType::F32 && cube == 0 && super::soc(o).starts_with("Ascend310P") {
        return refused(NN_INVALID, "cubeMathType 0 of f32 is not for this chip");
    }
    if !(0..=4).contains(&cube) {
        return refused(NN_INVALID, format!("cubeMathType {cube}"));
    }
    Ok(())
}

/// Sums in f32, product by product, as a chip's cube does; rounded to the result's dtype at the end.
fn product(a: &Shared, b: &Shared, out: &Shared, memory: &Memory) -> Result<Output, String> {
    let (x, y) = (a.load(memory)?, b.load(memory)?);
    let [.., m, k] = x.shape[..] else { return Err("self has two dims or more".into()) };
    let [.., _, n] = y.shape[..] else { return Err("mat2 has two dims or more".into()) };
    // One matrix for all of the batch, or one for each.
    let each = if y.shape.len() > 2 { k * n } else { 0 };
    let mut sums = vec![0f32; out.elements()];
    for (row, sums) in sums.chunks_exact_mut(n.max(1)).enumerate() {
        let b = &y.data[row / m.max(1) * each..];
        for (i, left) in x.data[row * k..][..k].iter().enumerate() {
            for (sum, right) in sums.iter_mut().zip(&b[i * n..]) {
                *sum += *left as f32 * *right as f32;
            }
        }
    }
    Ok(Output::Values(sums.into_iter().map(f64::from).collect()))
}

fn prepared(a: Shared, b: Shared, out: Shared) -> Prepared {
    Prepared {
        workspace: WORKSPACE,
        work: Box::new(move |memory| {
            let found = product(&a, &b, &out, memory)?;
            out.store(memory, &found)
        }),
    }
}

/// Whether the shapes are those of a product.
fn fits(a: &[usize], b: &[usize], out: &[usize]) -> bool {
    let ([.., m, k], [.., k2, n], [.., m2, n2]) = (a, b, out) else { return false };
    let batch = &a[..a.len() - 2];
    k == k2 && m == m2 && n == n2 && out[..out.len() - 2] == *batch && (b.len() == 2 || b[..b.len() - 2] == *batch)
}

pub(super) fn matmul(o: &mut Operands<'_>, a: Handle, b: Handle, out: Handle, cube: i8) -> Result<Prepared, Refused> {
    let (a, b, out) = (o.tensor(a, "self")?, o.tensor(b, "mat2")?, o.tensor(out, "out")?);
    check(o, &a, &b, &out, cube)?;
    if b.format != ND || a.view.len() > 6 {
        return refused(NN_INVALID, "mat2 is ND, and self has up to six dims");
    }
    if !fits(&a.view, &b.view, &out.view) {
        return refused(NN_INVALID, format!("{:?} · {:?} is not {:?}", a.view, b.view, out.view));
    }
    Ok(prepared(a, b, out))
}

pub(super) fn matmul_nz(
    o: &mut Operands<'_>,
    a: Handle,
    b: Handle,
    out: Handle,
    cube: i8,
) -> Result<Prepared, Refused> {
    let (a, b, out) = (o.tensor(a, "self")?, o.tensor(b, "mat2")?, o.tensor(out, "out")?);
    check(o, &a, &b, &out, cube)?;
    if b.format != NZ || a.view.len() != 2 || !fits(&a.view, &b.view, &out.view) {
        return refused(NN_INVALID, format!("{:?} · NZ {:?} is not {:?}", a.view, b.view, out.view));
    }
    Ok(prepared(a, b, out))
}

pub(super) fn rotary(
    o: &mut Operands<'_>,
    x: Handle,
    cos: Handle,
    sin: Handle,
    mode: i64,
    out: Handle,
) -> Result<Prepared, Refused> {
    let (x, cos, sin, out) = (o.tensor(x, "x")?, o.tensor(cos, "cos")?, o.tensor(sin, "sin")?, o.tensor(out, "out")?);
    among(o, &x, "x", FLOATS)?;
    for (tensor, what) in [(&cos, "cos"), (&sin, "sin"), (&out, "out")] {
        among(o, tensor, what, &[x.dtype])?;
    }
    dense(&out, "out")?;
    let [_, t, _, d] = x.view[..] else { return refused(NN_INVALID, "x has four dims") };
    if *cos.view != [1, t, 1, d] || cos.view != sin.view || x.view != out.view || !d.is_multiple_of(2) || d > 1024 {
        return refused(NN_INVALID, format!("cos {:?} and sin {:?} of x {:?}", cos.view, sin.view, x.view));
    }
    if mode != 0 && mode != 1 {
        return refused(NN_INVALID, format!("mode {mode}"));
    }
    Ok(Prepared::new(move |memory| {
        let (v, c, s) = (x.load(memory)?.data, cos.load(memory)?.data, sin.load(memory)?.data);
        let heads = x.view[2];
        let rotated = (0..v.len()).map(|i| {
            let (row, j) = (i / d, i % d);
            let token = row / heads % t;
            let (partner, sign) = match mode {
                0 if j < d / 2 => (j + d / 2, -1.0),
                0 => (j - d / 2, 1.0),
                _ if j % 2 == 0 => (j + 1, -1.0),
                _ => (j - 1, 1.0),
            };
            v[i] * c[token * d + j] + sign * v[row * d + partner] * s[token * d + j]
        });
        let rotated = rotated.collect();
        store_all(&out, memory, rotated)
    }))
}
