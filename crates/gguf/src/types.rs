//! The tensor types that ggml has given ids to, and which of them have a [`DType`] (ggml.h, `enum ggml_type`).

use qiao_core::DType;

/// A tensor type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// The id in files.
    pub id: u32,
    /// ggml's name, e.g. `Q4_K`.
    pub name: &'static str,
    /// Elements in one block.
    pub elems: usize,
    /// Bytes of one block.
    pub bytes: usize,
    /// The dtype with the same blocks, where there is one.
    pub dtype: Option<DType>,
}

const fn like(id: u32, name: &'static str, dtype: DType) -> GgmlType {
    GgmlType { id, name, elems: dtype.block_elems(), bytes: dtype.block_bytes(), dtype: Some(dtype) }
}

const fn other(id: u32, name: &'static str, elems: usize, bytes: usize) -> GgmlType {
    GgmlType { id, name, elems, bytes, dtype: None }
}

/// Every id in use; ids between are taken back, ids above belong to forks and mean different things in each.
pub(crate) const TYPES: &[GgmlType] = &[
    like(0, "F32", DType::F32),
    like(1, "F16", DType::F16),
    like(2, "Q4_0", DType::Q4_0),
    like(3, "Q4_1", DType::Q4_1),
    like(6, "Q5_0", DType::Q5_0),
    like(7, "Q5_1", DType::Q5_1),
    like(8, "Q8_0", DType::Q8_0),
    other(9, "Q8_1", 32, 36),
    like(10, "Q2_K", DType::Q2K),
    like(11, "Q3_K", DType::Q3K),
    like(12, "Q4_K", DType::Q4K),
    like(13, "Q5_K", DType::Q5K),
    like(14, "Q6_K", DType::Q6K),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    like(20, "IQ4_NL", DType::Iq4Nl),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    like(23, "IQ4_XS", DType::Iq4Xs),
    like(24, "I8", DType::I8),
    like(25, "I16", DType::I16),
    like(26, "I32", DType::I32),
    like(27, "I64", DType::I64),
    like(28, "F64", DType::F64),
    other(29, "IQ1_M", 256, 56),
    like(30, "BF16", DType::BF16),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    like(39, "MXFP4", DType::Mxfp4),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
    other(42, "Q2_0", 64, 18),
];

/// The type with an id, `None` for one that ggml has not given out.
pub fn ggml_type(id: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.id == id)
}

/// The ggml type whose blocks are those of a dtype, `None` where files can not hold it (fp8, unsigned integers, …).
pub fn dtype_of(dtype: DType) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.dtype == Some(dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_every_block_format_has_one() {
        for (i, t) in TYPES.iter().enumerate() {
            assert!(TYPES[..i].iter().all(|other| other.id < t.id), "{}", t.name);
        }
        for dtype in DType::ALL.iter().filter(|d| d.is_block()) {
            let found = dtype_of(*dtype).unwrap_or_else(|| panic!("{dtype} has no id"));
            assert_eq!(found.name.to_lowercase(), dtype.name());
        }
        assert_eq!(ggml_type(4), None, "Q4_2 is taken back");
        assert_eq!(ggml_type(97), None, "forks only");
    }
}
