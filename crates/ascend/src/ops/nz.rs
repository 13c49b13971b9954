//! FRACTAL_NZ, the layout of weights: blocks of 16 rows by 16 columns of 16-bit elements, down the rows first, then along the
//! columns; inside a block row by row. What a weight does not fill is zero.

use qiao_core::{DType, Error, Result, TensorDesc};

/// The layout's number at the contract.
pub(crate) const NZ: u64 = 0x4e5a_1010;

/// Rows and columns of a block.
const BLOCK: usize = 16;

/// A weight `[rows, columns]` in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    rows: usize,
    columns: usize,
}

impl Blocks {
    /// The blocks of a weight that can lie in them: a matrix of f16 or bf16 without gaps, with more than one row and column.
    pub(crate) fn of(desc: &TensorDesc) -> Option<Blocks> {
        match *desc.shape {
            [rows, columns] if rows > 1 && columns > 1 => {
                let plain = matches!(desc.dtype, DType::F16 | DType::BF16) && desc.is_contiguous();
                plain.then_some(Blocks { rows, columns })
            }
            _ => None,
        }
    }

    /// The blocks of a weight for a layout that was asked for.
    ///
    /// # Errors
    /// Another layout, or a weight that can't lie in it.
    pub(crate) fn check(desc: &TensorDesc, layout: u64) -> Result<Blocks> {
        let of = if layout == NZ { Blocks::of(desc) } else { None };
        of.ok_or_else(|| {
            let mend = format!("ask for {NZ:#x} (FRACTAL_NZ) of f16 or bf16 matrices of two rows and columns or more");
            Error::invalid(format!("private layout {layout:#x} of {desc}"), "it has no such layout", mend)
        })
    }

    /// The dims of the storage: blocks along the columns, blocks down the rows, and a block.
    pub(crate) fn storage(&self) -> [i64; 4] {
        let blocks = |n: usize| n.div_ceil(BLOCK) as i64;
        [blocks(self.columns), blocks(self.rows), BLOCK as i64, BLOCK as i64]
    }

    /// Bytes of the storage.
    ///
    /// # Errors
    /// The size overflows.
    pub(crate) fn bytes(&self) -> Result<usize> {
        let whole = |n: usize| n.checked_next_multiple_of(BLOCK);
        let all = whole(self.rows).zip(whole(self.columns)).and_then(|(r, c)| r.checked_mul(c)?.checked_mul(2));
        all.ok_or_else(|| Error::invalid("packed weight", "its size overflows", "use a smaller weight"))
    }

    /// A weight's bytes, row by row, in blocks.
    ///
    /// # Errors
    /// As [`Blocks::bytes`].
    pub(crate) fn pack(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bytes()?];
        let (line, piece) = (2 * self.columns, 2 * BLOCK);
        let step = self.rows.next_multiple_of(BLOCK) * piece;
        for (row, bytes) in bytes.chunks_exact(line).enumerate().take(self.rows) {
            for (i, bytes) in bytes.chunks(piece).enumerate() {
                let at = i * step + row * piece;
                out[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_lies_in_its_block() {
        let desc = TensorDesc::new(DType::F16, &[18, 33]).unwrap();
        let blocks = Blocks::of(&desc).unwrap();
        assert_eq!((blocks.storage(), blocks.bytes().unwrap()), ([3, 2, 16, 16], 32 * 48 * 2));
        let bytes: Vec<u8> = (0..18 * 33u16).flat_map(u16::to_le_bytes).collect();
        let packed = blocks.pack(&bytes).unwrap();
        let element = |at: usize| u16::from_le_bytes([packed[2 * at], packed[2 * at + 1]]);
        // Row 17, column 20: the second block across, the second down, row 1 and column 4 in it.
        assert_eq!(element((2 + 1) * 256 + 16 + 4), 17 * 33 + 20);
        // The last column stands alone in its block; beside it are zeros.
        assert_eq!([element(4 * 256), element(4 * 256 + 1)], [32, 0]);
    }

    #[test]
    fn what_has_no_blocks_is_refused() {
        for (dtype, shape) in [(DType::F32, vec![32, 32]), (DType::F16, vec![1, 32]), (DType::BF16, vec![2, 32, 32])] {
            let desc = TensorDesc::new(dtype, &shape).unwrap();
            assert!(Blocks::of(&desc).is_none() && Blocks::check(&desc, NZ).is_err(), "{desc}");
        }
        assert!(Blocks::check(&TensorDesc::new(DType::F16, &[32, 32]).unwrap(), 7).is_err());
    }
}
