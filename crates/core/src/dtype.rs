//! Element types, block formats included: one table, read by everything that needs a name or a size.

use std::fmt;
use std::str::FromStr;

/// What the codes of a dtype stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DTypeKind {
    /// A floating point number.
    Float,
    /// A two's complement integer.
    Int,
    /// An unsigned integer.
    Uint,
    /// A self-contained block of quantised values with its scales inside (GGUF style).
    Block,
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $kind:ident $elems:literal $bytes:literal;)*) => {
        /// An element type or block format. Sizes are those of one block; a plain type is a block of one element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// Every dtype, in the order of the table.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The name used in files, flags, case ids and reports, e.g. `bf16`, `q4_k`.
            pub const fn name(self) -> &'static str { match self { $(DType::$variant => $name,)* } }

            /// What the codes stand for.
            pub const fn kind(self) -> DTypeKind { match self { $(DType::$variant => DTypeKind::$kind,)* } }

            /// Elements in one block.
            pub const fn block_elems(self) -> usize { match self { $(DType::$variant => $elems,)* } }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize { match self { $(DType::$variant => $bytes,)* } }
        }
    };
}

dtypes! {
    /// IEEE binary64.
    F64 "f64" Float 1 8;
    /// IEEE binary32.
    F32 "f32" Float 1 4;
    /// IEEE binary16.
    F16 "f16" Float 1 2;
    /// The upper half of binary32.
    BF16 "bf16" Float 1 2;
    /// OCP fp8, 1-4-3, finite and NaN only (e4m3fn).
    F8E4M3 "f8_e4m3" Float 1 1;
    /// OCP fp8, 1-5-2, with infinities.
    F8E5M2 "f8_e5m2" Float 1 1;
    /// An exponent alone: 2^(x−127), 0xFF is NaN.
    F8E8M0 "f8_e8m0" Float 1 1;
    /// fp8, 1-4-3, bias 8, one NaN and no −0.
    F8E4M3Fnuz "f8_e4m3fnuz" Float 1 1;
    /// fp8, 1-5-2, bias 16, one NaN and no −0.
    F8E5M2Fnuz "f8_e5m2fnuz" Float 1 1;
    /// fp4, 1-2-1, two codes per byte, element 0 in the low nibble.
    F4E2M1 "f4_e2m1" Float 2 1;
    /// Signed 64-bit integer.
    I64 "i64" Int 1 8;
    /// Signed 32-bit integer, the index type.
    I32 "i32" Int 1 4;
    /// Signed 16-bit integer.
    I16 "i16" Int 1 2;
    /// Signed 8-bit integer.
    I8 "i8" Int 1 1;
    /// Signed 4-bit integer, two codes per byte, element 0 in the low nibble.
    I4 "i4" Int 2 1;
    /// Unsigned 64-bit integer.
    U64 "u64" Uint 1 8;
    /// Unsigned 32-bit integer.
    U32 "u32" Uint 1 4;
    /// Unsigned 16-bit integer.
    U16 "u16" Uint 1 2;
    /// Unsigned 8-bit integer.
    U8 "u8" Uint 1 1;
    /// Unsigned 4-bit integer, two codes per byte, element 0 in the low nibble.
    U4 "u4" Uint 2 1;
    /// A byte that is 0 or 1.
    Bool "bool" Uint 1 1;
    /// 32 × 4 bits, one f16 scale.
    Q4_0 "q4_0" Block 32 18;
    /// 32 × 4 bits, f16 scale and minimum.
    Q4_1 "q4_1" Block 32 20;
    /// 32 × 5 bits, one f16 scale.
    Q5_0 "q5_0" Block 32 22;
    /// 32 × 5 bits, f16 scale and minimum.
    Q5_1 "q5_1" Block 32 24;
    /// 32 × 8 bits, one f16 scale.
    Q8_0 "q8_0" Block 32 34;
    /// 256 × 2 bits with 4-bit scales and minima.
    Q2K "q2_k" Block 256 84;
    /// 256 × 3 bits with 6-bit scales.
    Q3K "q3_k" Block 256 110;
    /// 256 × 4 bits with 6-bit scales and minima.
    Q4K "q4_k" Block 256 144;
    /// 256 × 5 bits with 6-bit scales and minima.
    Q5K "q5_k" Block 256 176;
    /// 256 × 6 bits with 8-bit scales.
    Q6K "q6_k" Block 256 210;
    /// 32 × 4 bits into a non-linear table.
    Iq4Nl "iq4_nl" Block 32 18;
    /// 256 × 4 bits into a non-linear table, with 6-bit scales.
    Iq4Xs "iq4_xs" Block 256 136;
    /// 32 × fp4 with one power-of-two scale.
    Mxfp4 "mxfp4" Block 32 17;
}

impl DType {
    /// Whether elements are plain floating point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self.kind(), DTypeKind::Float)
    }

    /// Whether elements are plain integers.
    pub const fn is_int(self) -> bool {
        matches!(self.kind(), DTypeKind::Int | DTypeKind::Uint)
    }

    /// Whether the dtype is a block format.
    pub const fn is_block(self) -> bool {
        matches!(self.kind(), DTypeKind::Block)
    }

    /// Whether several elements share a byte or a block, so that an element alone has no address.
    pub const fn is_packed(self) -> bool {
        self.block_elems() > 1
    }

    /// f32, f16 or bf16: what activations are stored in.
    pub const fn is_activation(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// i32 or i64: what indices are stored in.
    pub const fn is_index(self) -> bool {
        matches!(self, DType::I32 | DType::I64)
    }

    /// Bits per element, averaged over a block (4.5 for `q4_0`).
    pub fn bits(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_elems() as f64
    }

    /// Bytes that `elems` contiguous elements take, or `None` on overflow or when `elems` is no whole number of blocks.
    pub fn bytes_for(self, elems: usize) -> Option<usize> {
        if !elems.is_multiple_of(self.block_elems()) {
            return None;
        }
        (elems / self.block_elems()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Every name, for an error text.
fn names() -> String {
    let names: Vec<_> = DType::ALL.iter().map(|d| d.name()).collect();
    names.join(", ")
}

/// A name that no dtype has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dtype '{name}' is not known; use one of {}", names())]
pub struct UnknownDtype {
    /// The name.
    pub name: String,
}

impl FromStr for DType {
    type Err = UnknownDtype;

    fn from_str(s: &str) -> Result<Self, UnknownDtype> {
        DType::ALL.iter().copied().find(|d| d.name() == s).ok_or_else(|| UnknownDtype { name: s.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_its_dtype() {
        for &d in DType::ALL {
            assert_eq!(d.name().parse::<DType>().unwrap(), d);
        }
        assert!("float".parse::<DType>().is_err());
    }

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(DType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(DType::Q4_0.bytes_for(33), None);
        assert_eq!(DType::I4.bytes_for(6), Some(3));
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
    }
}
