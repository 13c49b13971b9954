//! Quantised weights in panels: their scales as the kernels take them, and their decoding.

use std::ops::Range;

use qiao_core::{MatmulQuantAttrs, NodeView};
use qiao_kernels_cpu::{CHUNK, NR, QuantBlock, QuantFormat, QuantKernel};

use super::blocks::Panels;
use super::exec::{Core, Exec};
use super::groups::Groups;
use super::quant_panels::format;

/// Chunks of a panel that are multiplied together: their decoded weights fit a first-level cache.
pub(super) const STRETCH: usize = 16;

/// How far ahead of its use a panel is asked for, in bytes.
const AHEAD: usize = 8192;

/// f32 of scratch for the scales of so many chunks, for offsets, and for reading either.
pub(super) const fn scales_of(chunks: usize) -> usize {
    3 * 2 * chunks * NR
}

/// [`scales_of`] a stretch.
pub(super) const SCALES: usize = scales_of(STRETCH);

/// Weights in panels.
pub(super) struct Weights {
    pub(super) tensor: usize,
    pub(super) format: QuantFormat,
    pub(super) kernel: QuantKernel,
    pub(super) groups: Option<Groups>,
    k: usize,
    /// Bytes of a panel, chunks of a row, and the share of the bytes that each chunk has.
    panel: usize,
    chunks: usize,
    step: usize,
}

impl Weights {
    /// The weights of a product; the table accepted its node.
    pub(super) fn new(node: &NodeView<'_>, attrs: &MatmulQuantAttrs, core: &Core) -> Self {
        let w = node.required(1);
        let format = format(w.dtype).expect("the table accepts only formats with panels");
        let (panel, chunks) = (format.panel_len(w.shape[1]), w.shape[1].div_ceil(CHUNK));
        // Inputs that name their groups are scaled once they are decoded.
        let kernel = core.kernels.quant(format, node.input(3).is_some() && node.input(4).is_none());
        Weights {
            tensor: node.node.inputs[1].expect("matmul_quant has its weights").index(),
            format,
            kernel: *kernel.expect("the table accepts only codes and zeros that have a kernel"),
            groups: (!format.carries_scales()).then(|| Groups::new(node, attrs)),
            k: w.shape[1],
            panel,
            chunks,
            step: panel / chunks.max(1),
        }
    }

    /// Chunks `chunks` of a panel; `scratch` holds [`scales_of`] as many.
    ///
    /// # Safety
    /// The operands are live and initialised; the panel and the chunks exist.
    pub(super) unsafe fn stretch<'a>(
        &'a self,
        exec: &Exec<'_>,
        panel: usize,
        chunks: Range<usize>,
        scratch: &'a mut [f32],
    ) -> QuantBlock<'a> {
        let len = self.panel;
        let count = chunks.len() * self.format.scales_per_chunk() * NR;
        let (scales, rest) = scratch.split_at_mut(count);
        let (offsets, spare) = rest.split_at_mut(count);
        // SAFETY: as the caller vouches; the plan checked that the binding holds all panels.
        let data = unsafe { std::slice::from_raw_parts(exec.address(self.tensor).add(panel * len), len) };
        match &self.groups {
            Some(groups) if groups.ordered() => scales.fill(1.0),
            // SAFETY: as the caller vouches.
            Some(groups) => unsafe { groups.expand(exec, panel, chunks.start, scales, offsets, spare) },
            None => {
                let expand = exec.kernels().quant_scales.run;
                expand(scales, offsets, self.format, data, self.k, chunks.start, chunks.len());
            }
        }
        let bytes = self.format.codes().chunk_bytes();
        let codes = &data[chunks.start * bytes..chunks.end * bytes];
        let ahead = (AHEAD + chunks.start * (self.step - bytes), self.step);
        QuantBlock { format: self.format, codes, chunks: chunks.len(), scales, offsets, ahead }
    }

    /// f32 of scratch for [`Weights::decode`].
    pub(super) fn scratch(&self) -> usize {
        SCALES + self.groups.as_ref().map_or(0, Groups::scratch)
    }

    /// The weights of chunks `chunks` of a panel, at most [`STRETCH`] of them, `[inputs][16]`; `scratch` holds
    /// [`Weights::scratch`].
    ///
    /// # Safety
    /// As [`Weights::stretch`].
    pub(super) unsafe fn decode(
        &self,
        exec: &Exec<'_>,
        panel: usize,
        chunks: Range<usize>,
        scratch: &mut [f32],
        out: &mut [f32],
    ) {
        let (scales, rest) = scratch.split_at_mut(SCALES);
        let first = chunks.start * CHUNK;
        // SAFETY: as the caller vouches.
        unsafe {
            (self.kernel.decode)(out, &self.stretch(exec, panel, chunks, scales));
            if let Some(groups) = &self.groups {
                groups.apply(exec, panel, first, out, rest);
            }
        }
    }

    /// Whether inputs name their groups, so that only decoded weights can be multiplied.
    pub(super) fn ordered(&self) -> bool {
        self.groups.as_ref().is_some_and(Groups::ordered)
    }

    /// Chunks of a row.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether zeros are taken off codes while they are multiplied.
    pub(super) fn zeros(&self) -> bool {
        self.groups.as_ref().is_some_and(Groups::subtracts)
    }
}

impl Panels<f32> for Weights {
    fn check(&self, exec: &Exec<'_>) -> qiao_core::Result<()> {
        self.groups.as_ref().map_or(Ok(()), |groups| groups.check(exec))
    }

    /// Decodes the block.
    fn block<'a>(
        &self,
        exec: &Exec<'a>,
        scratch: &'a mut [f32],
        panels: Range<usize>,
        inputs: Range<usize>,
    ) -> (&'a [f32], usize) {
        let chunks = inputs.start / CHUNK..inputs.end.div_ceil(CHUNK);
        let stride = chunks.len() * CHUNK * NR;
        let (scratch, decoded) = scratch.split_at_mut(self.scratch());
        let decoded = &mut decoded[..panels.len() * stride];
        for (panel, out) in panels.zip(decoded.chunks_exact_mut(stride)) {
            for first in chunks.clone().step_by(STRETCH) {
                let part = first..(first + STRETCH).min(chunks.end);
                let out = &mut out[(first - chunks.start) * CHUNK * NR..][..part.len() * CHUNK * NR];
                // SAFETY: the plan resolved all operands, and the caller asks for panels and inputs that exist.
                unsafe { self.decode(exec, panel, part, scratch, out) };
            }
        }
        (decoded, stride)
    }
}
