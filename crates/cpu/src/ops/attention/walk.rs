//! From positions to addresses, through the block table.

use qiao_kernels_cpu::KEYS;

use super::super::cache::Cache;
use super::queries::Queries;
use super::{Attention, Exec};

/// Where the keys and values of one chunk lie, and their scales.
pub(super) struct Chunk {
    pub(super) keys: [*const u8; KEYS],
    pub(super) values: [*const u8; KEYS],
    pub(super) key_scales: [f32; KEYS],
    pub(super) value_scales: [f32; KEYS],
}

impl Chunk {
    pub(super) fn new() -> Self {
        let nowhere = [std::ptr::null(); KEYS];
        Chunk { keys: nowhere, values: nowhere, key_scales: [0.0; KEYS], value_scales: [0.0; KEYS] }
    }
}

/// Tokens that lie side by side in one block.
#[derive(Clone, Copy)]
struct Span {
    block: usize,
    token: usize,
    count: usize,
}

impl Cache {
    /// The addresses and scales of a span.
    ///
    /// # Safety
    /// The span lies in the cache.
    unsafe fn addresses(
        &self,
        exec: &Exec<'_>,
        head: usize,
        span: Span,
        addresses: &mut [*const u8],
        scales: &mut [f32],
    ) {
        let size = self.dtype.block_bytes();
        let start = exec.address(self.tensor).cast_const().wrapping_add(self.at(span.block, head, span.token) * size);
        let step = self.strides[2] * size;
        for (i, address) in addresses.iter_mut().enumerate() {
            *address = start.wrapping_add(i * step);
        }
        if let Some((tensor, at)) = self.scale_at(span.block, head, span.token) {
            let step = self.scale.map_or(0, |(_, strides)| strides[2]);
            for (i, scale) in scales.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the span; the scales have the dims of the cache but the last.
                *scale = unsafe { *exec.address(tensor).cast::<f32>().add(at + i * step) };
            }
        }
    }
}

impl Attention {
    /// Finds the tokens `at..end` of a sequence, which are in one chunk; false where the block table leads outside the
    /// cache. Every address of the chunk is that of a token.
    pub(super) fn walk(
        &self,
        exec: &Exec<'_>,
        q: &Queries,
        head: usize,
        (at, end): (usize, usize),
        chunk: &mut Chunk,
    ) -> bool {
        let (first, last) = (at % KEYS, at % KEYS + (end - at));
        let mut i = first;
        while i < last {
            let Some(span) = self.span(exec, q, at + (i - first), last - i) else { return false };
            let next = i + span.count;
            // SAFETY: the span lies in the caches.
            unsafe {
                self.k.addresses(exec, head, span, &mut chunk.keys[i..next], &mut chunk.key_scales[i..next]);
                self.v.addresses(exec, head, span, &mut chunk.values[i..next], &mut chunk.value_scales[i..next]);
            }
            i = next;
        }
        let (key, value) = (chunk.keys[first], chunk.values[first]);
        for range in [0..first, last..KEYS] {
            chunk.keys[range.clone()].fill(key);
            chunk.values[range].fill(value);
        }
        true
    }

    /// The next tokens that lie side by side, at most `most`.
    fn span(&self, exec: &Exec<'_>, q: &Queries, at: usize, most: usize) -> Option<Span> {
        let size = self.k.pages.block_size;
        let Some(table) = &self.table else {
            let token = q.start.checked_add(at)?;
            token.checked_add(most).filter(|&end| end <= size)?;
            return Some(Span { block: 0, token, count: most });
        };
        let entry = at.checked_div(size).filter(|&entry| entry < table.len)?;
        let index = table.offset(q.sequence) + entry * table.step();
        // SAFETY: the entry is inside the table.
        let block = unsafe { table.index(exec.address(table.tensor), index) };
        let block = usize::try_from(block).ok().filter(|&b| b < self.k.pages.blocks)?;
        let token = at % size;
        Some(Span { block, token, count: most.min(size - token) })
    }
}
