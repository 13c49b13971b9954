//! Rotary tables on a device.

use std::ops::Range;

use qiao_core::{Binding, Device, Stream};

use crate::error::Result;
use crate::rope::{RopeRegime, RopeTables};
use crate::sides::alloc_padded;

/// Cos and sin for every position of a cache, f32 `[capacity, rotary_dim / 2]` each.
#[derive(Debug)]
pub(crate) struct Rotary {
    pub(crate) cos: Binding,
    pub(crate) sin: Binding,
    capacity: usize,
    /// What the rows from the end of the sequence on hold.
    regime: RopeRegime,
}

impl Rotary {
    /// Tables for the frequencies of a short sequence.
    pub(crate) fn new(
        device: &dyn Device,
        stream: &mut dyn Stream,
        tables: &RopeTables,
        capacity: usize,
    ) -> Result<Self> {
        let bytes = capacity * tables.rotary_dim() / 2 * size_of::<f32>();
        let regime = tables.for_length(1);
        let rotary = Rotary { cos: alloc_padded(device, bytes)?, sin: alloc_padded(device, bytes)?, capacity, regime };
        rotary.upload(stream, tables, regime, 0..capacity)?;
        Ok(rotary)
    }

    /// Puts the frequencies in force for a sequence of `length` tokens into the rows of a step's positions. Rows before them
    /// stay: keys in the cache keep the rotation they were written with, as in the reference implementation.
    pub(crate) fn prepare(
        &mut self,
        stream: &mut dyn Stream,
        tables: &RopeTables,
        length: usize,
        positions: Range<usize>,
    ) -> Result<()> {
        let regime = tables.for_length(length);
        match regime {
            // Another one at every length: the rows beyond this step would not be read.
            RopeRegime::Dynamic(_) => self.upload(stream, tables, regime, positions)?,
            _ if regime != self.regime => self.upload(stream, tables, regime, positions.start..self.capacity)?,
            _ => {}
        }
        self.regime = regime;
        Ok(())
    }

    fn upload(
        &self,
        stream: &mut dyn Stream,
        tables: &RopeTables,
        regime: RopeRegime,
        rows: Range<usize>,
    ) -> Result<()> {
        let table = tables.table(regime, rows.clone());
        let row = table.half * size_of::<f32>();
        for (binding, values) in [(&self.cos, &table.cos), (&self.sin, &table.sin)] {
            let part = Binding::part(&binding.buffer, binding.offset + rows.start * row, rows.len() * row);
            stream.upload(&part, bytemuck::cast_slice(values))?;
        }
        Ok(())
    }
}
