//! From positions to addresses, through the block table.

use std::ops::Range;

use qiao_kernels_cpu::{KEYS, fetch_ahead};

use super::super::cache::Cache;
use super::queries::Queries;
use super::{Attention, Exec};

/// Where the tokens of one chunk lie.
pub(super) struct Chunk {
    pub(super) keys: Places,
    pub(super) values: Places,
    /// A bit for each token that is nowhere in the cache; where it has a place, it is that of another.
    missing: u128,
}

const _: () = assert!(KEYS == u128::BITS as usize);

impl Chunk {
    pub(super) fn new() -> Self {
        Chunk { keys: Places::new(), values: Places::new(), missing: 0 }
    }

    /// Whether some token is nowhere in the cache.
    pub(super) fn has_holes(&self) -> bool {
        self.missing != 0
    }

    /// Whether one of these tokens, counted from the start of the chunk, is nowhere in the cache.
    pub(super) fn lacks(&self, mut tokens: Range<usize>) -> bool {
        tokens.any(|token| self.missing >> token & 1 == 1)
    }
}

/// Where the keys, or the values, of one chunk lie, and their scales.
pub(super) struct Places {
    pub(super) at: [*const u8; KEYS],
    /// Tokens that lie side by side, and where their scales start.
    spans: [(Range<u8>, *const f32); KEYS],
    span_count: usize,
    /// Elements from a scale to the next in a span.
    scale_step: usize,
    scales: [f32; KEYS],
}

impl Places {
    fn new() -> Self {
        let spans = [const { (0..0, std::ptr::null()) }; KEYS];
        Places { at: [std::ptr::null(); KEYS], spans, span_count: 0, scale_step: 0, scales: [0.0; KEYS] }
    }

    /// Reads the scales of the chunk's tokens.
    ///
    /// # Safety
    /// The chunk was [found](Attention::walk), and nothing writes its scales meanwhile.
    pub(super) unsafe fn read_scales(&mut self) {
        let step = self.scale_step;
        for (tokens, start) in &self.spans[..self.span_count] {
            let to = &mut self.scales[usize::from(tokens.start)..usize::from(tokens.end)];
            // SAFETY: as the caller vouches, the scales of the span are there.
            unsafe {
                if step == 1 {
                    to.copy_from_slice(std::slice::from_raw_parts(*start, to.len()));
                } else {
                    to.iter_mut().enumerate().for_each(|(i, scale)| *scale = *start.add(i * step));
                }
            }
        }
    }

    /// The scales of the chunk, or none where the cache has none.
    pub(super) fn scales(&self, cache: &Cache) -> &[f32] {
        if cache.scale.is_some() { &self.scales } else { &[] }
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
    /// The addresses of the tokens of a span, and of their scales, which are asked for.
    fn places(&self, exec: &Exec<'_>, head: usize, span: Span, first: usize, places: &mut Places) {
        let size = self.dtype.block_bytes();
        let mut place =
            exec.address(self.tensor).cast_const().wrapping_add(self.at(span.block, head, span.token) * size);
        let step = self.strides[2] * size;
        for at in &mut places.at[first..first + span.count] {
            *at = place;
            place = place.wrapping_add(step);
        }
        if let (Some((tensor, at)), Some((_, strides))) = (self.scale_at(span.block, head, span.token), self.scale) {
            let start = exec.address(tensor).cast_const().cast::<f32>().wrapping_add(at);
            fetch_ahead(start.cast(), 4 * ((span.count - 1) * strides[2] + 1));
            // A chunk's tokens are counted in a byte.
            places.spans[places.span_count] = (first as u8..(first + span.count) as u8, start);
            (places.span_count, places.scale_step) = (places.span_count + 1, strides[2]);
        }
    }
}

impl Attention {
    /// Finds the tokens `at..end` of a sequence, which are in one chunk; false where the block table leads outside the
    /// cache for all of them. Otherwise every address of the chunk is that of a token.
    pub(super) fn walk(
        &self,
        exec: &Exec<'_>,
        q: &Queries,
        head: usize,
        (at, end): (usize, usize),
        chunk: &mut Chunk,
    ) -> bool {
        let (first, last) = (at % KEYS, at % KEYS + (end - at));
        (chunk.keys.span_count, chunk.values.span_count, chunk.missing) = (0, 0, 0);
        let (mut i, mut found) = (first, None);
        while i < last {
            let Some(span) = self.span(exec, q, at + (i - first), last - i) else {
                chunk.missing |= 1 << i;
                i += 1;
                continue;
            };
            self.k.places(exec, head, span, i, &mut chunk.keys);
            self.v.places(exec, head, span, i, &mut chunk.values);
            found = Some(i);
            i += span.count;
        }
        let Some(found) = found else { return false };
        for places in [&mut chunk.keys, &mut chunk.values] {
            let some = places.at[found];
            places.at[..first].fill(some);
            places.at[last..].fill(some);
            if chunk.missing != 0 {
                (first..last).filter(|token| chunk.missing >> token & 1 == 1).for_each(|token| places.at[token] = some);
            }
        }
        true
    }

    /// The next tokens that lie side by side, at most `most`.
    fn span(&self, exec: &Exec<'_>, q: &Queries, at: usize, most: usize) -> Option<Span> {
        let size = self.k.pages.block_size;
        let Some(table) = &self.table else {
            let token = q.start.checked_add(at)?;
            let left = size.checked_sub(token).filter(|&left| left > 0)?;
            return Some(Span { block: 0, token, count: most.min(left) });
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
