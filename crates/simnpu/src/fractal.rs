//! The private layout of weights: fractal blocks, as FRACTAL_NZ has them.
//!
//! A weight `[R, C]` is cut into blocks of 16 rows by 16 columns (32 columns of i8). Blocks follow each other down the
//! rows first, then along the columns; within a block elements are row-major. Blocks that the weight does not fill hold
//! zeros. A weight with one row or one column has no such layout, nor has one of f32.

use qiao_core::{DType, Error, Result, TensorDesc};

/// The layout with blocks of 16 columns, for elements of 16 bits.
pub const FRACTAL_16: u64 = 0x4e5a_1010;

/// The layout with blocks of 32 columns, for elements of 8 bits.
pub const FRACTAL_32: u64 = 0x4e5a_1020;

const ROWS: usize = 16;

/// A weight in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fractal {
    rows: usize,
    columns: usize,
    size: usize,
    width: usize,
}

impl Fractal {
    /// The layout that a weight can have, if any.
    pub(crate) fn of(desc: &TensorDesc) -> Option<(u64, Fractal)> {
        let (id, width) = match desc.dtype {
            DType::F16 | DType::BF16 => (FRACTAL_16, 16),
            DType::I8 => (FRACTAL_32, 32),
            _ => return None,
        };
        match *desc.shape {
            [rows, columns] if rows > 1 && columns > 1 => {
                Some((id, Fractal { rows, columns, size: desc.dtype.block_bytes(), width }))
            }
            _ => None,
        }
    }

    /// Checks that a tensor can have a layout.
    ///
    /// # Errors
    /// The layout is none of these, or the tensor can't have it.
    pub(crate) fn check(desc: &TensorDesc, layout: u64) -> Result<Fractal> {
        match Fractal::of(desc) {
            Some((id, fractal)) if id == layout && desc.is_contiguous() => Ok(fractal),
            _ => Err(Error::invalid(
                format!("private layout {layout:#x} of {desc}"),
                "it has no such layout",
                format!(
                    "ask for {FRACTAL_16:#x} of contiguous f16 or bf16 weights and {FRACTAL_32:#x} of i8, of two rows \
                     and two columns or more"
                ),
            )),
        }
    }

    /// Bytes of the blocks.
    pub(crate) fn bytes(&self) -> Result<usize> {
        let across = self.columns.div_ceil(self.width) * self.width;
        let total = self.rows.div_ceil(ROWS).checked_mul(ROWS).and_then(|r| r.checked_mul(across));
        total
            .and_then(|n| n.checked_mul(self.size))
            .ok_or_else(|| Error::invalid("packed weight", "its size overflows", "use a smaller weight"))
    }

    /// Bytes between a piece of a row and the next.
    fn step(&self) -> usize {
        self.rows.div_ceil(ROWS) * ROWS * self.width * self.size
    }

    /// Where a row's first piece starts.
    fn start(&self, row: usize) -> usize {
        row * self.width * self.size
    }

    /// The blocks of a weight's bytes, row-major.
    pub(crate) fn pack(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bytes()?];
        let (line, piece) = (self.columns * self.size, self.width * self.size);
        for (row, bytes) in bytes.chunks_exact(line).enumerate().take(self.rows) {
            for (i, bytes) in bytes.chunks(piece).enumerate() {
                let at = self.start(row) + i * self.step();
                out[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(out)
    }

    /// Pieces of the weight's rows from `first` on, out of the blocks: calls `f(row, column, bytes)`, rows counted from
    /// `first`, so that what lies side by side is read together.
    pub(crate) fn pieces(&self, blocks: &[u8], first: usize, rows: usize, mut f: impl FnMut(usize, usize, &[u8])) {
        for (i, column) in (0..self.columns).step_by(self.width).enumerate() {
            let bytes = (self.columns - column).min(self.width) * self.size;
            for row in 0..rows {
                let at = i * self.step() + self.start(first + row);
                f(row, column, &blocks[at..at + bytes]);
            }
        }
    }

    /// The weight's bytes, row-major, out of the blocks.
    pub(crate) fn unpack(&self, blocks: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.rows * self.columns * self.size];
        self.pieces(blocks, 0, self.rows, |row, column, bytes| {
            let at = (row * self.columns + column) * self.size;
            out[at..at + bytes.len()].copy_from_slice(bytes);
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(dtype: DType, shape: &[usize]) -> TensorDesc {
        TensorDesc::new(dtype, shape).unwrap().as_constant()
    }

    #[test]
    fn an_element_lies_in_its_block() {
        let desc = weight(DType::F16, &[18, 33]);
        let (id, fractal) = Fractal::of(&desc).unwrap();
        assert_eq!((id, fractal.bytes().unwrap()), (FRACTAL_16, 32 * 48 * 2));
        let bytes: Vec<u8> = (0..18 * 33u16).flat_map(u16::to_le_bytes).collect();
        let packed = fractal.pack(&bytes).unwrap();
        let element = |at: usize| u16::from_le_bytes([packed[2 * at], packed[2 * at + 1]]);
        // Row 17, column 20: second block across, second block down, row 1 and column 4 in it.
        assert_eq!(element((2 + 1) * 256 + 16 + 4), 17 * 33 + 20);
        // The last column stands alone in its block; beside it are zeros.
        assert_eq!([element(4 * 256), element(4 * 256 + 1)], [32, 0]);
        assert_eq!(fractal.unpack(&packed), bytes);
    }

    #[test]
    fn what_has_no_blocks_is_refused() {
        for desc in [
            weight(DType::F32, &[32, 32]),
            weight(DType::F16, &[1, 32]),
            weight(DType::F16, &[32, 1]),
            weight(DType::F16, &[2, 32, 32]),
        ] {
            assert!(Fractal::of(&desc).is_none(), "{desc}");
            assert!(Fractal::check(&desc, FRACTAL_16).is_err());
        }
        assert_eq!(Fractal::of(&weight(DType::I8, &[2, 33])).unwrap().1.bytes().unwrap(), 16 * 64);
        assert!(Fractal::check(&weight(DType::I8, &[32, 32]), FRACTAL_16).is_err());
    }
}
