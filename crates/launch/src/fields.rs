//! A struct that a kernel takes by value, field by field as C lays it out.

use crate::launch::Arg;

/// Fields in order, the eight-byte ones first so that none needs padding before it.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// Adds numbers of eight bytes.
    pub fn longs(mut self, values: &[usize]) -> Self {
        values.iter().for_each(|&v| self.0.extend((v as u64).to_le_bytes()));
        self
    }

    /// Adds numbers of four bytes; one that has no room there becomes the largest.
    pub fn words(mut self, values: &[usize]) -> Self {
        values.iter().for_each(|&v| self.0.extend(u32::try_from(v).unwrap_or(u32::MAX).to_le_bytes()));
        self
    }

    /// Adds numbers of four bytes.
    pub fn floats(mut self, values: &[f32]) -> Self {
        values.iter().for_each(|v| self.0.extend(v.to_le_bytes()));
        self
    }

    /// Ends a struct that has a number of eight bytes: its size is a multiple of that.
    pub fn end(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    /// The struct as an argument.
    pub fn arg(self) -> Arg {
        Arg::Struct(self.0)
    }
}
