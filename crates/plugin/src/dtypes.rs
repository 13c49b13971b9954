//! Dtypes as they cross the boundary: DLPack's `DLDataType` bit for bit, block formats under a code of their own with the
//! number that GGUF gives the format.

use qiao_core::DType;

/// The code of block formats.
pub const BLOCK: u32 = 0xf0;

/// Code and bits of a dtype. `None` for one that has no number at the boundary yet.
const fn parts(dtype: DType) -> Option<(u32, u32)> {
    Some(match dtype {
        DType::I64 => (0, 64),
        DType::I32 => (0, 32),
        DType::I16 => (0, 16),
        DType::I8 => (0, 8),
        DType::I4 => (0, 4),
        DType::U64 => (1, 64),
        DType::U32 => (1, 32),
        DType::U16 => (1, 16),
        DType::U8 => (1, 8),
        DType::U4 => (1, 4),
        DType::F64 => (2, 64),
        DType::F32 => (2, 32),
        DType::F16 => (2, 16),
        DType::BF16 => (4, 16),
        DType::Bool => (6, 8),
        DType::F8E4M3 => (10, 8),
        DType::F8E4M3Fnuz => (11, 8),
        DType::F8E5M2 => (12, 8),
        DType::F8E5M2Fnuz => (13, 8),
        DType::F8E8M0 => (14, 8),
        DType::F4E2M1 => (17, 4),
        DType::Q4_0 => (BLOCK, 2),
        DType::Q4_1 => (BLOCK, 3),
        DType::Q5_0 => (BLOCK, 6),
        DType::Q5_1 => (BLOCK, 7),
        DType::Q8_0 => (BLOCK, 8),
        DType::Q2K => (BLOCK, 10),
        DType::Q3K => (BLOCK, 11),
        DType::Q4K => (BLOCK, 12),
        DType::Q5K => (BLOCK, 13),
        DType::Q6K => (BLOCK, 14),
        DType::Iq4Nl => (BLOCK, 20),
        DType::Iq4Xs => (BLOCK, 23),
        DType::Mxfp4 => (BLOCK, 39),
        _ => return None,
    })
}

/// The number of a dtype at the boundary.
pub const fn to_c(dtype: DType) -> Option<u32> {
    match parts(dtype) {
        Some((code, bits)) => Some(code | bits << 8 | 1 << 16),
        None => None,
    }
}

/// The dtype of a number, if it is one.
pub fn from_c(number: u32) -> Option<DType> {
    DType::ALL.iter().copied().find(|&d| to_c(d) == Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_a_number_of_its_own() {
        for &dtype in DType::ALL {
            let number = to_c(dtype).unwrap_or_else(|| panic!("{dtype} has no number"));
            assert_eq!(from_c(number), Some(dtype));
        }
        assert_eq!(from_c(0), None);
        assert_eq!(to_c(DType::BF16), Some(0x1_1004));
    }
}
