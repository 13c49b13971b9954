//! How each part of a linear layer is made of a module's tensors.

use qiao_core::{DType, Result};

use super::fields::Fields;
use super::tensors::{Module, numbers};
use super::{Linear, Part};

/// Where the parts of a layer come from.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// The scheme's name, for errors.
    pub(super) scheme: &'static str,
    pub(super) codes: Codes,
    pub(super) scales: Scales,
    pub(super) zeros: Zeros,
    /// The table that names each input channel's group.
    pub(super) index: Option<&'static str>,
    pub(super) input: Input,
}

/// Where codes come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Codes {
    /// Packed integers, less half their range where codes are signed.
    Fields(Fields),
    /// A tensor of codes as they are.
    Bytes(&'static str),
}

/// Where scales come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scales {
    pub(super) suffix: &'static str,
    pub(super) dtype: DType,
    /// Its elements as rows and columns.
    pub(super) shape: [usize; 2],
    pub(super) layout: Layout,
}

/// How a table of scales lies in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As it should; of wider rows the first columns count.
    Straight,
    /// Rows and columns are exchanged.
    Transposed,
    /// One f32 per output channel; a single number counts for all.
    PerOutput,
    /// Ascend's `deq_scale`, one per output channel, to be divided by the scale of the activations.
    Dequantising,
}

/// Where zero points come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Zeros {
    None,
    /// None is kept, and any that are stored must be half the range of the codes, or one less.
    Half(Option<Fields>),
    /// Packed integers, `plus` modulo their range.
    Fields {
        fields: Fields,
        plus: u8,
    },
    /// A tensor of integers that count from the middle of so many bits; in range they are moved to count from 0.
    Centred {
        suffix: &'static str,
        bits: u32,
    },
    /// A tensor as it is.
    Bytes(&'static str),
    /// A tensor of offsets that must all be 0.
    Absent(&'static str),
}

/// Where the scale of static activations comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// Activations are not static.
    None,
    /// Suffixes and dtypes of scale and zero point, and the tensor that joins the integer sum as it is; without one the
    /// zero point's correction is computed.
    Static { scale: DType, zero: Option<(&'static str, DType)>, sum_bias: Option<&'static str> },
}

impl Recipe {
    /// The bytes of a part of this dtype and shape.
    pub(super) fn unpack(
        &self,
        part: Part,
        dtype: DType,
        shape: &[usize],
        linear: &Linear,
        m: &Module<'_>,
    ) -> Result<Vec<u8>> {
        match part {
            Part::Codes => self.codes(dtype, linear, m),
            Part::Scales => self.scales(shape, m),
            Part::Zeros => self.zeros(dtype, [shape[0], shape[1]], m),
            Part::GroupIndex => self.index(linear, m),
            Part::Bias => self.bias(dtype, linear, m),
            Part::InputScale => Ok((self.input_scale(m)? as f32).to_le_bytes().to_vec()),
            Part::InputZero => Ok((self.input_zero(m)? as f32).to_le_bytes().to_vec()),
            Part::SumBias => self.sum_bias(linear, m),
        }
    }

    fn codes(&self, dtype: DType, linear: &Linear, m: &Module<'_>) -> Result<Vec<u8>> {
        let (n, k) = (linear.n, linear.k);
        if let Zeros::Half(Some(fields)) = self.zeros {
            check_half(fields, n, m)?;
        }
        match self.codes {
            Codes::Bytes(suffix) => {
                let bytes = m.bytes(suffix, dtype, n * k)?;
                if dtype == DType::F8E4M3
                    && let Some(i) = bytes.iter().position(|b| b & 0x7f == 0x7f)
                {
                    let found = format!("the code of output {}, input {} is NaN", i / k, i % k);
                    return Err(m.refuse(format!("tensor '{suffix}'"), found, "give weights that are numbers"));
                }
                Ok(bytes.into_owned())
            }
            Codes::Fields(fields) => {
                let bytes = m.bytes(fields.suffix, DType::I32, fields.total())?;
                let (wide, signed) = (dtype.block_elems() == 1, matches!(dtype, DType::I4 | DType::I8));
                let mut out = vec![0u8; n * k / dtype.block_elems()];
                for (row, out) in out.chunks_exact_mut(k / dtype.block_elems()).enumerate() {
                    fields.row(&bytes, row, k, wide, signed, out);
                }
                Ok(out)
            }
        }
    }

    fn scales(&self, shape: &[usize], m: &Module<'_>) -> Result<Vec<u8>> {
        let Scales { suffix, dtype, shape: [rows, columns], layout } = self.scales;
        if let Zeros::Absent(offsets) = self.zeros {
            check_absent(offsets, m)?;
        }
        let bytes = m.bytes(suffix, dtype, rows * columns)?;
        if layout == Layout::Dequantising {
            return self.dequantising(dtype, &bytes, m);
        }
        let size = dtype.block_bytes();
        let element = |row: usize, column: usize| {
            let at = if layout == Layout::Transposed { column * columns + row } else { row * columns + column };
            &bytes[at * size..][..size]
        };
        let groups = shape.get(1).copied().unwrap_or(1);
        let mut out = Vec::with_capacity(shape[0] * groups * 4);
        for row in 0..shape[0] {
            for column in 0..groups {
                let bytes = element(if rows * columns == 1 { 0 } else { row }, column);
                let value = numbers(dtype, bytes).map_or(f64::NAN, |v| v[0]);
                check_scale(m, suffix, row, column, value)?;
                if layout == Layout::PerOutput {
                    out.extend((value as f32).to_le_bytes());
                } else {
                    out.extend(bytes);
                }
            }
        }
        Ok(out)
    }

    /// Ascend's `deq_scale`, in f32 or as an i64 that holds the bits of one, over the scale of the activations.
    fn dequantising(&self, dtype: DType, bytes: &[u8], m: &Module<'_>) -> Result<Vec<u8>> {
        let input = self.input_scale(m)?;
        let size = dtype.block_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        for (row, b) in bytes.chunks_exact(size).enumerate() {
            let value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if b[4..].iter().any(|b| *b != 0) {
                let found = format!("that of output {row} has bits above the lower 32");
                return Err(m.refuse("tensor 'deq_scale'", found, "an i64 there holds the bits of an f32"));
            }
            let scale = (value as f64 / input) as f32;
            check_scale(m, "deq_scale", row, 0, scale as f64)?;
            out.extend(scale.to_le_bytes());
        }
        Ok(out)
    }

    fn zeros(&self, dtype: DType, [rows, groups]: [usize; 2], m: &Module<'_>) -> Result<Vec<u8>> {
        match self.zeros {
            Zeros::Fields { fields, plus } => {
                let bytes = m.bytes(fields.suffix, DType::I32, fields.total())?;
                let mask = ((1u32 << fields.bits) - 1) as u8;
                let each = || (0..rows).flat_map(|row| (0..groups).map(move |g| (row, g)));
                let half = 1u8 << (fields.bits - 1);
                // No quantiser gives every group the zero point next to the half: what is stored is the zero point.
                let plain = plus == 1 && fields.bits >= 4 && each().all(|(row, g)| fields.get(&bytes, row, g) == half);
                let plus = if plain { 0 } else { plus };
                Ok(each().map(|(row, g)| fields.get(&bytes, row, g).wrapping_add(plus) & mask).collect())
            }
            Zeros::Centred { suffix, bits } => {
                let half = 1i32 << (bits - 1);
                let values = m.numbers(suffix, DType::I8, rows * groups)?;
                let at = |(i, v): (usize, f64)| {
                    let moved = v as i32 + half;
                    if (0..2 * half).contains(&moved) {
                        return Ok(moved as u8);
                    }
                    let found = format!("the zero point of row {}, group {} is {v}", i / groups, i % groups);
                    let mend = format!("zero points of {bits} bits lie in {}..={}", -half, half - 1);
                    Err(m.refuse(format!("tensor '{suffix}'"), found, mend))
                };
                values.into_iter().enumerate().map(at).collect()
            }
            Zeros::Bytes(suffix) => {
                let bytes = m.bytes(suffix, dtype, rows * groups)?;
                if dtype.is_float()
                    && let Some(i) = numbers(dtype, &bytes).and_then(|v| v.iter().position(|v| !v.is_finite()))
                {
                    let found = format!("the zero point of row {}, group {} is not finite", i / groups, i % groups);
                    return Err(m.refuse(format!("tensor '{suffix}'"), found, "give finite zero points"));
                }
                Ok(bytes.into_owned())
            }
            Zeros::None | Zeros::Half(_) | Zeros::Absent(_) => {
                Err(m.refuse("zero points", "the layer has none", "ask `part` first"))
            }
        }
    }

    fn index(&self, linear: &Linear, m: &Module<'_>) -> Result<Vec<u8>> {
        let (Some(suffix), Some((_, table))) = (self.index, linear.part(Part::Scales)) else {
            return Err(m.refuse("group index", "the layer has none", "ask `part` first"));
        };
        let bytes = m.bytes(suffix, DType::I32, linear.k)?;
        let groups = table[1];
        for (i, b) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let g = i32::from_le_bytes(*b);
            if !usize::try_from(g).is_ok_and(|g| g < groups) {
                let found = format!("input channel {i} is of group {g}");
                return Err(m.refuse(format!("tensor '{suffix}'"), found, format!("groups are 0..{groups}")));
            }
        }
        Ok(bytes.into_owned())
    }

    fn input_scale(&self, m: &Module<'_>) -> Result<f64> {
        let Input::Static { scale, .. } = self.input else {
            return Err(m.refuse("input scale", "activations are not static", "ask `part` first"));
        };
        let value = m.numbers("input_scale", scale, 1)?[0];
        if !value.is_finite() || value <= 0.0 {
            return Err(m.refuse("tensor 'input_scale'", format!("it is {value}"), "give a finite scale above 0"));
        }
        Ok(value)
    }

    fn input_zero(&self, m: &Module<'_>) -> Result<f64> {
        let Input::Static { zero: Some((suffix, dtype)), .. } = self.input else { return Ok(0.0) };
        let value = m.numbers(suffix, dtype, 1)?[0];
        if !(-128.0..=127.0).contains(&value) || value.fract() != 0.0 {
            let mend = "a zero point of int8 is a whole number in -128..=127";
            return Err(m.refuse(format!("tensor '{suffix}'"), format!("it is {value}"), mend));
        }
        Ok(value)
    }

    /// The bias as it is stored, or what is in the tensor that joins the integer sum beside the correction for the input's zero
    /// point: `(sum_bias + input_zero·Σ codes)·scale·input_scale`.
    fn bias(&self, dtype: DType, linear: &Linear, m: &Module<'_>) -> Result<Vec<u8>> {
        let Input::Static { sum_bias: Some(suffix), .. } = self.input else {
            return Ok(m.bytes("bias", dtype, linear.n)?.into_owned());
        };
        let (scale, zero) = (self.input_scale(m)?, self.input_zero(m)?);
        let joins = m.numbers(suffix, DType::I32, linear.n)?;
        let scales = self.scales(&[linear.n], m)?;
        let mut out = Vec::with_capacity(4 * linear.n);
        for ((row, joins), scales) in self.row_sums(linear, m)?.into_iter().zip(joins).zip(scales.as_chunks::<4>().0) {
            let bias = (joins + zero * row as f64) * f64::from(f32::from_le_bytes(*scales)) * scale;
            out.extend((bias as f32).to_le_bytes());
        }
        Ok(out)
    }

    /// The sum of each output's int8 codes.
    fn row_sums(&self, linear: &Linear, m: &Module<'_>) -> Result<Vec<i64>> {
        let codes = self.codes(DType::I8, linear, m)?;
        Ok(codes.chunks_exact(linear.k).map(|row| row.iter().map(|c| *c as i8 as i64).sum()).collect())
    }

    fn sum_bias(&self, linear: &Linear, m: &Module<'_>) -> Result<Vec<u8>> {
        if let Input::Static { sum_bias: Some(suffix), .. } = self.input {
            return Ok(m.bytes(suffix, DType::I32, linear.n)?.into_owned());
        }
        let zero = self.input_zero(m)? as i64;
        let mut out = Vec::with_capacity(4 * linear.n);
        for (row, sum) in self.row_sums(linear, m)?.into_iter().enumerate() {
            let correction = -zero * sum;
            let correction = i32::try_from(correction).map_err(|_| {
                let found = format!("that of output {row} is {correction}");
                m.refuse("the correction for the input's zero point", found, "K is too large for an int32 sum")
            })?;
            out.extend(correction.to_le_bytes());
        }
        Ok(out)
    }
}

fn check_scale(m: &Module<'_>, suffix: &str, row: usize, group: usize, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let found = format!("the scale of row {row}, group {group} is {value}");
    Err(m.refuse(format!("tensor '{suffix}'"), found, "give finite scales: the file may be damaged"))
}

/// Refuses zero points that are neither half the range of the codes nor one less, which v1 stores for it.
fn check_half(fields: Fields, n: usize, m: &Module<'_>) -> Result<()> {
    let bytes = m.bytes(fields.suffix, DType::I32, fields.total())?;
    let half = 1u8 << (fields.bits - 1);
    for group in 0..fields.streams {
        for row in 0..n {
            let zero = fields.get(&bytes, row, group);
            if zero != half && zero != half - 1 {
                let found = format!("the stored zero point of output {row}, group {group} is {zero}");
                let mend = format!("symmetric codes have {half} or {}: say `sym: false` in the config", half - 1);
                return Err(m.refuse(format!("tensor '{}'", fields.suffix), found, mend));
            }
        }
    }
    Ok(())
}

/// Refuses offsets that are not 0.
fn check_absent(suffix: &str, m: &Module<'_>) -> Result<()> {
    match m.peek(suffix) {
        Some(values) if values.iter().all(|v| *v == 0.0) => Ok(()),
        Some(values) => {
            let i = values.iter().position(|v| *v != 0.0).unwrap_or(0);
            let found = format!("element {i} is {}", values[i]);
            Err(m.refuse(format!("tensor '{suffix}'"), found, "int8 products have no weight offsets: they should be 0"))
        }
        None => Err(m.refuse(format!("tensor '{suffix}'"), "its bytes are missing or truncated", "give all of them")),
    }
}
