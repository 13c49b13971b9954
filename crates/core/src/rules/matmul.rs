//! Rules of the matrix products.

use super::{Operands, OutDtype, OutSpec, bad_attr};
use crate::attrs::Epilogue;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::Op;

/// Checks bias and residual against the epilogue and gives the shape of the result `[.., M, N]`.
fn epilogue(x: &Operands<'_>, epilogue: Epilogue, bias: usize, residual: usize, shape: &[usize]) -> Result<Vec<usize>> {
    let n = shape[shape.len() - 1];
    x.float(bias)?;
    x.opt_shape(bias, &[n])?;
    let has_bias = x.opt(bias).is_some();
    let (wants_bias, takes_bias, wants_residual) = match epilogue {
        Epilogue::None => (false, false, false),
        Epilogue::Bias => (true, true, false),
        Epilogue::BiasResidual => (false, true, true),
        Epilogue::SiluMul | Epilogue::Gelu => (false, true, false),
    };
    if has_bias && !takes_bias || !has_bias && wants_bias {
        return Err(
            x.bad(bias, format!("epilogue {epilogue} {} a bias", if wants_bias { "needs" } else { "takes no" }))
        );
    }
    if x.opt(residual).is_some() != wants_residual {
        let verb = if wants_residual { "needs" } else { "takes no" };
        return Err(x.bad(residual, format!("epilogue {epilogue} {verb} a residual")));
    }
    x.float(residual)?;
    let mut out = shape.to_vec();
    if epilogue == Epilogue::SiluMul {
        if !n.is_multiple_of(2) {
            return Err(bad_attr(x.kind, "epilogue", epilogue, format!("N = {n} must be even")));
        }
        *out.last_mut().expect("a matmul result has rank 2 or more") = n / 2;
    }
    x.opt_shape(residual, &out)?;
    Ok(out)
}

fn check_k(x: &Operands<'_>, k: usize, found: usize) -> Result<()> {
    x.check(1, k == found, || format!("its K = {found} must equal the first operand's K = {k}"))
}

pub(crate) fn matmul(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Matmul(attrs) = op else { unreachable!("the list pairs matmul with its rule") };
    let (a, b) = (x.get(0)?, x.get(1)?);
    x.float(0)?;
    x.float(1)?;
    x.check(0, a.rank() >= 2, || "give it rank 2 or more, [.., M, K]".into())?;
    let shared = b.rank() == 2;
    let batched = b.rank() == a.rank() && b.shape[..b.rank() - 2] == a.shape[..a.rank() - 2];
    x.check(1, shared || batched, || "give it rank 2, or the first operand's batch dims in front".into())?;
    let (r, c) = (b.shape[b.rank() - 2], b.shape[b.rank() - 1]);
    let (n, k) = if attrs.trans_b { (r, c) } else { (c, r) };
    check_k(x, a.shape.last_dim(), k)?;
    let mut shape = a.shape.to_vec();
    shape[a.rank() - 1] = n;
    let shape = epilogue(x, attrs.epilogue, 2, 3, &shape)?;
    Ok(vec![OutSpec::new(&shape, OutDtype::Float(a.dtype))?])
}

pub(crate) fn matmul_quant(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::MatmulQuant(attrs) = op else { unreachable!("the list pairs matmul_quant with its rule") };
    let (a, w) = (x.get(0)?, x.rank(1, 2)?);
    x.float(0)?;
    x.check(0, a.rank() >= 2, || "give it rank 2 or more, [.., M, K]".into())?;
    let (n, k) = (w.shape[0], w.shape[1]);
    check_k(x, a.shape.last_dim(), k)?;
    if w.dtype.is_block() {
        for i in 2..5 {
            x.check(i, x.opt(i).is_none(), || format!("leave it out: {} carries its own scales", w.dtype))?;
        }
    } else {
        let codes = w.dtype.is_int() || matches!(w.dtype, DType::F8E4M3 | DType::F8E5M2 | DType::F4E2M1);
        x.check(1, codes, || "give it a block format, integer codes, fp8 or fp4".into())?;
        let group = if attrs.group_size == 0 { k } else { attrs.group_size as usize };
        let rows = (attrs.group_rows as usize).max(1);
        let scales = x.get(2)?;
        x.check(2, scales.dtype.is_float(), || "give it a floating point dtype".into())?;
        let groups = if group == 0 { 0 } else { k.div_ceil(group) };
        x.shape(2, &[n.div_ceil(rows), groups])?;
        x.opt_shape(3, &[n.div_ceil(rows), groups])?;
        if let Some(zeros) = x.opt(3) {
            x.check(3, zeros.dtype.is_int() || zeros.dtype.is_float(), || "give it codes or floats".into())?;
        }
        x.index(4)?;
        x.opt_shape(4, &[k])?;
    }
    let mut shape = a.shape.to_vec();
    shape[a.rank() - 1] = n;
    let shape = epilogue(x, attrs.epilogue, 5, 6, &shape)?;
    Ok(vec![OutSpec::new(&shape, OutDtype::Float(a.dtype))?])
}

pub(crate) fn scaled_matmul(_: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let (a, b) = (x.rank(0, 2)?, x.rank(1, 2)?);
    for i in 0..2 {
        x.check(i, x.get(i)?.dtype == DType::I8, || "give it dtype i8".into())?;
    }
    let (m, n) = (a.shape[0], b.shape[0]);
    check_k(x, a.shape[1], b.shape[1])?;
    x.check(0, a.shape[1] <= 131_071, || "an exact int32 sum needs K of at most 131071".into())?;
    for (i, want) in [(2, m), (3, n)] {
        x.f32(i)?;
        let s = x.rank(i, 1)?;
        x.check(i, s.shape[0] == want || s.shape[0] == 1, || format!("give it shape [{want}] or [1]"))?;
    }
    x.float(4)?;
    x.opt_shape(4, &[n])?;
    if let Some(joins) = x.opt(5) {
        x.check(5, joins.dtype == DType::I32, || "give it dtype i32".into())?;
        x.shape(5, &[n])?;
    }
    Ok(vec![OutSpec::new(&[m, n], OutDtype::Float(DType::F32))?])
}
