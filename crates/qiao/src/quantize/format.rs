//! What weights can be encoded as, and what those are called on a command line.

use std::fmt;
use std::str::FromStr;

use qiao_core::DType;
use qiao_quant::group::Grouping;

use super::fault;
use crate::{Error, Result};

/// Sides of a block of fp8 codes that share a scale.
pub(super) const FP8_BLOCK: usize = 128;

/// What one weight matrix is encoded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is stored.
    Keep,
    /// Floats: f32, f16 or bf16.
    Float(DType),
    /// A block format of GGUF.
    Block(DType),
    /// Integer codes with scales beside them, for float activations: `pack-quantized` of compressed-tensors.
    Packed {
        /// 4 or 8.
        bits: u32,
        /// Elements along K under one scale; 0 = all of K.
        group_size: usize,
        /// Without zero points.
        symmetric: bool,
    },
    /// int8 codes with one scale per output, for activations quantised to int8 on the way: `int-quantized`.
    Int8,
    /// fp8 e4m3 codes with one scale per output, for activations quantised to fp8 on the way: `float-quantized`.
    Fp8,
    /// The same with one scale per 128 × 128 block.
    Fp8Block,
}

impl Encoding {
    /// The group quantisation of packed codes, scales in a dtype.
    pub(super) fn grouping(self, scales: DType) -> Option<Grouping> {
        match self {
            Encoding::Packed { bits, group_size, symmetric } => Some(Grouping { bits, symmetric, group_size, scales }),
            _ => None,
        }
    }

    /// Whether it is written into GGUF files.
    pub(super) fn in_gguf(self) -> bool {
        matches!(self, Encoding::Keep | Encoding::Float(_) | Encoding::Block(_))
    }

    /// Whether it is written into safetensors folders.
    pub(super) fn in_folder(self) -> bool {
        !matches!(self, Encoding::Block(_))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Encoding::Keep => f.write_str("keep"),
            Encoding::Float(dtype) | Encoding::Block(dtype) => f.write_str(dtype.name()),
            Encoding::Packed { bits, group_size, symmetric } => {
                write!(f, "w{bits}a16{}", if symmetric { "" } else { "-asym" })?;
                if group_size > 0 { write!(f, " g{group_size}") } else { Ok(()) }
            }
            Encoding::Int8 => f.write_str("w8a8"),
            Encoding::Fp8 => f.write_str("fp8"),
            Encoding::Fp8Block => f.write_str("fp8-block"),
        }
    }
}

/// What a model is quantised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One encoding for every weight matrix; the output head takes at least Q6_K beside a block format, or Q8_0 beside MXFP4.
    One(Encoding),
    /// llama.cpp's mixture: Q4_K, with Q6_K for the output, and for v and down projections of some layers.
    Q4KM,
}

const W4A16: Encoding = Encoding::Packed { bits: 4, group_size: 128, symmetric: true };

/// Formats that are not called as their dtype is.
const NAMED: [(&str, Format); 7] = [
    ("q4_k_m", Format::Q4KM),
    ("w4a16", Format::One(W4A16)),
    ("w4a16-asym", Format::One(Encoding::Packed { bits: 4, group_size: 128, symmetric: false })),
    ("w8a16", Format::One(Encoding::Packed { bits: 8, group_size: 0, symmetric: true })),
    ("w8a8", Format::One(Encoding::Int8)),
    ("fp8", Format::One(Encoding::Fp8)),
    ("fp8-block", Format::One(Encoding::Fp8Block)),
];

impl Format {
    /// The names of all formats.
    pub fn names() -> Vec<&'static str> {
        let floats = [DType::F32, DType::F16, DType::BF16];
        let blocks = DType::ALL.iter().copied().filter(|d| d.is_block());
        floats.into_iter().chain(blocks).map(DType::name).chain(NAMED.map(|(name, _)| name)).collect()
    }

    /// With another size of groups, where the format has groups.
    ///
    /// # Errors
    /// A format without groups; a size that 4-bit codes can't be packed in.
    pub fn with_group_size(self, size: usize) -> Result<Format> {
        match self {
            Format::One(Encoding::Packed { bits, symmetric, .. }) if size.is_multiple_of(8) && size > 0 => {
                Ok(Format::One(Encoding::Packed { bits, group_size: size, symmetric }))
            }
            Format::One(Encoding::Packed { .. }) => {
                Err(fault(format!("groups of {size}"), "give a multiple of 8 above 0, as 32, 64 or 128"))
            }
            other => Err(fault(format!("a group size for {other}"), "groups have w4a16, w4a16-asym and w8a16")),
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Format> {
        let lower = name.to_ascii_lowercase();
        if let Some((_, format)) = NAMED.iter().find(|(known, _)| *known == lower) {
            return Ok(*format);
        }
        let dtype = DType::ALL.iter().copied().find(|dtype| dtype.name() == lower);
        match dtype {
            Some(dtype) if dtype.is_block() => Ok(Format::One(Encoding::Block(dtype))),
            Some(dtype) if dtype.is_activation() => Ok(Format::One(Encoding::Float(dtype))),
            _ => Err(fault(format!("{name:?} is no format"), format!("formats are {}", Format::names().join(", ")))),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::One(encoding) => encoding.fmt(f),
            Format::Q4KM => f.write_str("q4_k_m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_name_that_reads_back() {
        for name in Format::names() {
            let format: Format = name.parse().unwrap();
            assert!(format.to_string().starts_with(name), "{name} prints as {format}");
        }
        assert_eq!("Q4_K_M".parse::<Format>().unwrap(), Format::Q4KM);
        let error = "q9_0".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("q9_0") && error.contains("q8_0") && error.contains("w4a16"), "{error}");
        assert!("i8".parse::<Format>().is_err());
    }

    #[test]
    fn groups_can_be_sized_where_there_are_groups() {
        let format: Format = "w4a16".parse().unwrap();
        assert_eq!(format.with_group_size(32).unwrap().to_string(), "w4a16 g32");
        assert!(format.with_group_size(12).is_err());
        assert!("q8_0".parse::<Format>().unwrap().with_group_size(32).is_err());
    }
}
