//! Operators that move elements: bytes go where they belong, unchanged.

use qiao_core::{ConcatAttrs, DType, DTypeKind, FillAttrs, NoAttrs, SliceAttrs, SplitAttrs, TransposeAttrs};

use super::{Outputs, one};
use crate::args::Args;
use crate::round;
use crate::value::{Output, Value, Walk};

fn exact(bytes: Vec<u8>) -> Outputs {
    Ok(vec![Output::Exact(bytes)])
}

pub(crate) fn copy(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    exact(x.exact(0)?.1)
}

pub(crate) fn fill(attrs: &FillAttrs, x: &Args<'_>) -> Outputs {
    one(vec![attrs.value as f64; x.out(0).elements()])
}

/// Rounded once to the output's dtype. To its own dtype nothing changes, so that a graph may drop such a cast: an
/// infinity in fp8 stays, which from elsewhere would saturate.
pub(crate) fn cast(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    let (from, to) = (x.desc(0).dtype, x.out(0).dtype);
    if from == to {
        return exact(x.exact(0)?.1);
    }
    if !matches!(from, DType::I64 | DType::U64) {
        return one(x.value(0)?.data);
    }
    let wide = x.exact(0)?.1.chunks_exact(8).map(|b| wide(from, b)).collect::<Vec<i128>>();
    match to {
        DType::F64 => one(wide.into_iter().map(|v| v as f64).collect()),
        d if d.is_int() => exact(wide.into_iter().flat_map(|v| narrow(v, d)).collect()),
        _ => one(wide.into_iter().map(to_odd).collect()),
    }
}

fn wide(dtype: DType, bytes: &[u8]) -> i128 {
    let bytes = bytes.try_into().expect("the element has eight bytes");
    if dtype == DType::I64 { i64::from_le_bytes(bytes) as i128 } else { u64::from_le_bytes(bytes) as i128 }
}

/// An integer saturated to an integer dtype, as bytes.
fn narrow(v: i128, dtype: DType) -> Vec<u8> {
    let bits = if dtype == DType::Bool { 1 } else { 8 * dtype.block_bytes() as u32 };
    let (low, high) = match dtype.kind() {
        DTypeKind::Int => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        _ => (0, (1i128 << bits) - 1),
    };
    v.clamp(low, high).to_le_bytes()[..dtype.block_bytes()].to_vec()
}

/// An integer as f64, rounded to odd where it is inexact, so that one more rounding to fewer bits is the right one.
fn to_odd(v: i128) -> f64 {
    let near = v as f64;
    let error = v - near as i128;
    if error == 0 || near.to_bits() & 1 == 1 {
        near
    } else if (error > 0) == (near > 0.0) {
        f64::from_bits(near.to_bits() + 1)
    } else {
        f64::from_bits(near.to_bits() - 1)
    }
}

/// `out[i] = table[ids[i]]`.
pub(crate) fn gather_rows(_: &NoAttrs, x: &Args<'_>) -> Outputs {
    let (table, out) = (x.desc(0), x.out(0).dtype);
    let (rows, columns) = (table.shape[0] as f64, table.shape[1]);
    let ids = x.value(1)?.data;
    let found = |id: f64| (0.0..rows).contains(&id).then_some(id as usize);
    if table.dtype != out {
        let mut data = Vec::with_capacity(ids.len() * columns);
        for &id in &ids {
            match found(id) {
                Some(row) => data.extend(x.row(0, &[row])?),
                None => data.extend(std::iter::repeat_n(f64::NAN, columns)),
            }
        }
        return one(data);
    }
    let (shape, bytes) = x.exact(0)?;
    let stride = shape[1] * out.block_bytes();
    let nan: Vec<u8> = if out.is_packed() { vec![0; stride] } else { nan_row(out, columns) };
    exact(
        ids.iter()
            .flat_map(|&id| found(id).map_or(&nan[..], |r| &bytes[r * stride..(r + 1) * stride]))
            .copied()
            .collect(),
    )
}

/// A row of NaN; of 0 in a dtype that has none.
fn nan_row(dtype: DType, columns: usize) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut row = vec![0; columns * size];
    row.chunks_exact_mut(size).for_each(|e| round::encode(dtype, f64::NAN, e));
    row
}

/// Bytes of a box out of a row-major tensor: `len` indices from `start` along `axis`.
fn cut(shape: &[usize], bytes: &[u8], size: usize, axis: usize, start: usize, len: usize) -> Vec<u8> {
    if bytes.is_empty() || len == 0 {
        return Vec::new();
    }
    let inner = shape[axis + 1..].iter().product::<usize>() * size;
    let step = shape[axis] * inner;
    bytes.chunks_exact(step).flat_map(|outer| &outer[start * inner..(start + len) * inner]).copied().collect()
}

/// `y[.., i, ..] = x[.., start + i, ..]`.
pub(crate) fn slice(attrs: &SliceAttrs, x: &Args<'_>) -> Outputs {
    let (shape, bytes) = x.exact(0)?;
    let (dtype, axis) = (x.desc(0).dtype, attrs.axis as usize);
    let block = if axis + 1 == shape.len() { dtype.block_elems() } else { 1 };
    let (start, len) = (attrs.start as usize / block, attrs.len as usize / block);
    exact(cut(&shape, &bytes, dtype.block_bytes(), axis, start, len))
}

/// `y_p[.., i, ..] = x[.., p·len + i, ..]`.
pub(crate) fn split(attrs: &SplitAttrs, x: &Args<'_>) -> Outputs {
    let (shape, bytes) = x.exact(0)?;
    let (size, axis, parts) = (x.desc(0).dtype.block_bytes(), attrs.axis as usize, attrs.parts as usize);
    let len = shape[axis] / parts;
    Ok((0..parts).map(|p| Output::Exact(cut(&shape, &bytes, size, axis, p * len, len))).collect())
}

/// Operands one after the other along an axis.
pub(crate) fn concat(attrs: &ConcatAttrs, x: &Args<'_>) -> Outputs {
    let axis = attrs.axis as usize;
    let parts = (0..x.len()).map(|i| x.exact(i)).collect::<Result<Vec<_>, _>>()?;
    let total: usize = parts.iter().map(|p| p.1.len()).sum();
    let mut out = Vec::with_capacity(total);
    if total == 0 {
        return exact(out);
    }
    let outer: usize = parts[0].0[..axis].iter().product();
    for o in 0..outer {
        for (_, bytes) in &parts {
            let step = bytes.len() / outer;
            out.extend_from_slice(&bytes[o * step..(o + 1) * step]);
        }
    }
    exact(out)
}

/// `y[i_perm] = x[i]`: output axis a is input axis `perm[a]`.
pub(crate) fn transpose(attrs: &TransposeAttrs, x: &Args<'_>) -> Outputs {
    let (shape, bytes) = x.exact(0)?;
    let size = x.desc(0).dtype.block_bytes();
    let strides = x.desc(0).shape.contiguous_strides();
    let axes = attrs.perm.axes(shape.len()).unwrap_or_default();
    let (to, by): (Vec<_>, Vec<_>) = axes.iter().map(|&a| (shape[a], strides[a])).unzip();
    exact(Walk::new(&to, &by).flat_map(|i| &bytes[i * size..(i + 1) * size]).copied().collect())
}

/// The operand repeated to the shape of the first output.
pub(crate) fn spread(x: &Value, args: &Args<'_>) -> Vec<f64> {
    x.broadcast(&args.out(0).shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_integers_round_once() {
        // 2^60 + 2^36 is the midpoint of two f32; one more unit is above it, which f64 alone can't tell.
        let v = (1i128 << 60) + (1 << 36);
        assert_eq!(to_odd(v) as f32, 2f32.powi(60));
        assert_eq!(to_odd(v + 1) as f32, 2f32.powi(60) + 2f32.powi(37));
        assert_eq!(to_odd(-v - 1) as f32, -(2f32.powi(60) + 2f32.powi(37)));
        assert_eq!(to_odd(12), 12.0);
    }

    #[test]
    fn wide_integers_saturate() {
        assert_eq!(narrow(300, DType::U8), [255]);
        assert_eq!(narrow(-300, DType::I8), [128]);
        assert_eq!(narrow(-1, DType::U64), [0; 8]);
        assert_eq!(narrow(u64::MAX as i128, DType::I64), i64::MAX.to_le_bytes());
        assert_eq!(narrow(5, DType::Bool), [1]);
    }
}
