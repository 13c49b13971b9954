//! One weight matrix encoded, over threads, with the error that it costs.

use std::ops::Range;
use std::thread;

use qiao_core::DType;
use qiao_engine::weights::convert;
use qiao_quant::compensate::{self, Factor};
use qiao_quant::error::Comparison;
use qiao_quant::group::{self, Grouping};
use qiao_quant::minifloat::F8E4M3;
use qiao_quant::{decode_row, encode_row, nibble};

use super::compensation::passes_on;
use super::fault;
use super::format::{Encoding, FP8_BLOCK};
use super::recipe::unit_rows;
use crate::Result;

/// Rows that go through their columns together where errors are passed on.
const COMPENSATED_ROWS: usize = 64;

/// A matrix `[rows, k]` as it is stored, row-major.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
    pub(super) rows: usize,
    pub(super) k: usize,
    /// Where each row is taken from; `None` = as they stand.
    pub(super) order: Option<&'a [usize]>,
    /// Weights of the columns' squared errors.
    pub(super) importance: Option<&'a [f32]>,
    /// By which errors are passed on from column to column, where they are.
    pub(super) factor: Option<&'a Factor>,
}

impl Matrix<'_> {
    /// A row as it is stored.
    fn stored(&self, row: usize) -> &[u8] {
        let row = self.order.map_or(row, |order| order[row]);
        let bytes = self.dtype.block_bytes() * self.k;
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    /// A row as f32.
    fn row(&self, row: usize, out: &mut Vec<f32>) {
        let mut wide = Vec::with_capacity(4 * self.k);
        convert::floats(self.dtype, self.stored(row), DType::F32, &mut wide);
        out.extend(wide.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
    }
}

/// What a matrix has become.
#[derive(Default)]
pub(super) struct Encoded {
    /// Codes, row by row; of 4-bit ones two a byte.
    pub(super) codes: Vec<u8>,
    /// Scales, row by row.
    pub(super) scales: Vec<f32>,
    /// Zero points, one a byte, row by row.
    pub(super) zeros: Vec<u8>,
    /// Source and decoded; nothing where the encoding keeps every value.
    pub(super) error: Comparison,
}

impl Encoded {
    fn append(&mut self, mut next: Encoded) {
        self.codes.append(&mut next.codes);
        self.scales.append(&mut next.scales);
        self.zeros.append(&mut next.zeros);
        self.error.merge(&next.error);
    }
}

/// Encodes a matrix over threads. `scales` is the dtype that scales of groups are stored in; `None` when cancelled.
///
/// # Errors
/// Values that are not finite, or beyond the range of the encoding; the tensor is named.
pub(super) fn encode(
    matrix: &Matrix<'_>,
    encoding: Encoding,
    scales: DType,
    threads: usize,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Option<Encoded>> {
    let unit = match matrix.factor {
        Some(_) if passes_on(encoding) => COMPENSATED_ROWS,
        _ => unit_rows(encoding),
    };
    let share = matrix.rows.div_ceil(unit).div_ceil(threads.max(1)).max(1) * unit;
    let kept = floats(encoding, matrix.dtype) == Some(matrix.dtype);
    let part = |rows: Range<usize>| -> Result<Option<Encoded>> {
        let mut all = Encoded::default();
        if kept {
            rows.clone().for_each(|row| all.codes.extend_from_slice(matrix.stored(row)));
            return Ok(Some(all));
        }
        for start in rows.clone().step_by(unit) {
            if cancelled() {
                return Ok(None);
            }
            let mut x = Vec::new();
            (start..rows.end.min(start + unit)).for_each(|row| matrix.row(row, &mut x));
            let one = encode_unit(matrix, encoding, scales, &x);
            all.append(one.map_err(|e| refuse(matrix.name, e))?);
        }
        Ok(Some(all))
    };
    let part = &part;
    thread::scope(|scope| {
        let ranges = (0..matrix.rows).step_by(share).map(|at| at..matrix.rows.min(at + share));
        let parts: Vec<_> = ranges.map(|rows| scope.spawn(move || part(rows))).collect();
        let mut all = Some(Encoded::default());
        for part in parts {
            let next = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            match (&mut all, next) {
                (Some(all), Some(next)) => all.append(next),
                _ => all = None,
            }
        }
        Ok(all)
    })
}

fn refuse(name: &str, error: qiao_core::Error) -> crate::Error {
    fault(format!("tensor {name:?}: {error}"), "check the checkpoint; a plan can keep single tensors as they are")
}

/// Rows that share their scales.
fn encode_unit(matrix: &Matrix<'_>, encoding: Encoding, scales: DType, x: &[f32]) -> qiao_core::Result<Encoded> {
    let mut out = Encoded::default();
    let mut back = vec![0f32; x.len()];
    match encoding {
        Encoding::Keep | Encoding::Float(_) => {
            let dtype = floats(encoding, matrix.dtype).unwrap_or(DType::F32);
            out.codes = narrow(dtype, x)?;
            widen(dtype, &out.codes, &mut back);
        }
        Encoding::Block(dtype) => {
            match matrix.factor {
                Some(factor) => out.codes = compensate::encode(dtype, x, factor)?.0,
                None => {
                    out.codes = vec![0; x.len() / dtype.block_elems() * dtype.block_bytes()];
                    encode_row(dtype, x, matrix.importance, &mut out.codes)?;
                }
            }
            decode_row(dtype, &out.codes, &mut back)?;
        }
        Encoding::Packed { .. } => {
            let grouping = encoding.grouping(scales).expect("packed codes have groups");
            let rows = match matrix.factor {
                Some(factor) => compensate::group(&grouping, x, factor)?.0,
                None => vec![grouping.encode_row(x, matrix.importance)?],
            };
            for (mut row, back) in rows.into_iter().zip(back.chunks_mut(matrix.k.max(1))) {
                unpack_groups(&grouping, &row, back);
                out.codes.append(&mut row.codes);
                out.scales.append(&mut row.scales);
                out.zeros.append(&mut row.zeros);
            }
        }
        Encoding::Int8 => {
            let (codes, scale) = group::int8_channel(x)?;
            back.iter_mut().zip(&codes).for_each(|(b, &code)| *b = f32::from(code) * scale);
            out.codes = codes.into_iter().map(|code| code as u8).collect();
            out.scales = vec![scale];
        }
        Encoding::Fp8 | Encoding::Fp8Block => {
            let block = if encoding == Encoding::Fp8 { [1, matrix.k.max(1)] } else { [FP8_BLOCK; 2] };
            (out.codes, out.scales) = group::fp8_blocks(x, matrix.k, block)?;
            for (i, (b, &code)) in back.iter_mut().zip(&out.codes).enumerate() {
                // A unit is one row of blocks.
                let scale = out.scales[i % matrix.k / block[1]];
                *b = (F8E4M3.decode(u32::from(code)) * f64::from(scale)) as f32;
            }
        }
    }
    out.error.add(x, &back);
    Ok(out)
}

/// The dtype of an encoding that is floats.
fn floats(encoding: Encoding, stored: DType) -> Option<DType> {
    match encoding {
        Encoding::Keep => Some(stored),
        Encoding::Float(dtype) => Some(dtype),
        _ => None,
    }
}

/// Floats in another dtype, refused where they do not fit.
fn narrow(dtype: DType, x: &[f32]) -> qiao_core::Result<Vec<u8>> {
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    if let Some(value) = convert::first_overflow(DType::F32, &bytes, dtype) {
        return Err(qiao_core::Error::invalid(
            format!("storing {dtype}"),
            format!("the value {value}"),
            "store bf16 or f32",
        ));
    }
    let mut out = Vec::new();
    convert::floats(DType::F32, &bytes, dtype, &mut out);
    Ok(out)
}

fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let mut wide = Vec::new();
    convert::floats(dtype, bytes, DType::F32, &mut wide);
    out.iter_mut().zip(wide.as_chunks().0).for_each(|(o, &b)| *o = f32::from_le_bytes(b));
}

fn unpack_groups(grouping: &Grouping, row: &group::Row, out: &mut [f32]) {
    let size = if grouping.group_size == 0 { out.len().max(1) } else { grouping.group_size };
    for (j, out) in out.iter_mut().enumerate() {
        let code = match (grouping.bits, grouping.symmetric) {
            (4, true) => nibble::i4(&row.codes, j) as f32,
            (4, false) => nibble::u4(&row.codes, j) as f32,
            (_, true) => f32::from(row.codes[j] as i8),
            (_, false) => f32::from(row.codes[j]),
        };
        let zero = row.zeros.get(j / size).map_or(0.0, |&zero| f32::from(zero));
        *out = (code - zero) * row.scales[j / size];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: usize, k: usize) -> Vec<u8> {
        (0..rows * k).flat_map(|i| ((i as f32 * 0.37).sin() * (1.0 + (i % 7) as f32)).to_le_bytes()).collect()
    }

    fn matrix<'a>(bytes: &'a [u8], rows: usize, k: usize) -> Matrix<'a> {
        Matrix { name: "w", dtype: DType::F32, bytes, rows, k, order: None, importance: None, factor: None }
    }

    fn run(m: &Matrix<'_>, encoding: Encoding, threads: usize) -> Encoded {
        encode(m, encoding, DType::F16, threads, &|| false).unwrap().unwrap()
    }

    const ALL: [(Encoding, f64); 8] = [
        (Encoding::Float(DType::BF16), 45.0),
        (Encoding::Block(DType::Q4_0), 15.0),
        (Encoding::Block(DType::Q6K), 30.0),
        (Encoding::Packed { bits: 4, group_size: 32, symmetric: true }, 15.0),
        (Encoding::Packed { bits: 4, group_size: 32, symmetric: false }, 15.0),
        (Encoding::Packed { bits: 8, group_size: 0, symmetric: true }, 35.0),
        (Encoding::Int8, 35.0),
        (Encoding::Fp8Block, 25.0),
    ];

    #[test]
    fn threads_change_nothing() {
        let bytes = wave(301, 256);
        for (encoding, least) in ALL {
            let one = run(&matrix(&bytes, 301, 256), encoding, 1);
            let many = run(&matrix(&bytes, 301, 256), encoding, 7);
            assert_eq!((&one.codes, &one.scales, &one.zeros), (&many.codes, &many.scales, &many.zeros), "{encoding}");
            assert!(one.error.sqnr_db() > least, "{encoding}: {} dB", one.error.sqnr_db());
            assert_eq!(one.error.count(), 301 * 256);
        }
    }

    #[test]
    fn rows_are_taken_in_the_order_that_is_given() {
        let bytes = wave(4, 32);
        let order = [2, 0, 3, 1];
        let moved = run(&Matrix { order: Some(&order), ..matrix(&bytes, 4, 32) }, Encoding::Float(DType::F32), 2);
        let row = 32 * 4;
        for (to, from) in order.into_iter().enumerate() {
            assert_eq!(moved.codes[to * row..(to + 1) * row], bytes[from * row..(from + 1) * row]);
        }
        assert_eq!(moved.error.sqnr_db(), f64::INFINITY);
    }

    #[test]
    fn what_does_not_fit_names_the_tensor() {
        let bytes: Vec<u8> = [1.0f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).cycle().take(32 * 4).collect();
        let m = matrix(&bytes, 1, 32);
        let error = encode(&m, Encoding::Block(DType::Q8_0), DType::F16, 1, &|| false).err().unwrap().to_string();
        assert!(error.contains("\"w\"") && error.contains("NaN"), "{error}");
        let bytes = 1e30f32.to_le_bytes().repeat(32);
        let m = matrix(&bytes, 1, 32);
        let error = encode(&m, Encoding::Float(DType::F16), DType::F16, 1, &|| false).err().unwrap().to_string();
        assert!(error.contains("f16"), "{error}");
        assert!(encode(&m, Encoding::Int8, DType::F16, 1, &|| true).unwrap().is_none());
    }
}
