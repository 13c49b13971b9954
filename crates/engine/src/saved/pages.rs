//! Values of tokens between the pages of a device and rows `[tokens, heads, width]`, which are the same for every layout and block
//! size.

use std::ops::Range;

use qiao_core::{Binding, KvLayout, Stream};

use crate::error::Result;
use crate::model::CacheShape;

/// The pages of one buffer of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'a> {
    layout: KvLayout,
    block_size: usize,
    table: &'a [i32],
    heads: usize,
    /// Bytes of one head of one token.
    width: usize,
    tokens: usize,
}

/// Bytes that lie together in the pages: `[heads, tokens, width]`, or `[tokens, heads, width]` where the layout has it so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    offset: usize,
    heads: Range<usize>,
    tokens: Range<usize>,
}

impl<'a> Pages<'a> {
    /// The first `tokens` tokens of a sequence whose blocks are `table`.
    pub(super) fn new(shape: CacheShape, table: &'a [i32], heads: usize, width: usize, tokens: usize) -> Pages<'a> {
        Pages { layout: shape.layout, block_size: shape.block_size, table, heads, width, tokens }
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> usize {
        self.tokens * self.heads * self.width
    }

    /// Fills `rows` from a buffer of pages.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn download(&self, stream: &mut dyn Stream, pages: &Binding, rows: &mut [u8]) -> Result<()> {
        let mut staging = Vec::new();
        for run in self.runs() {
            let part = self.part(pages, &run);
            if self.is_rows(&run) {
                stream.download(&mut rows[self.row(run.tokens.start)..][..part.bytes], &part)?;
                continue;
            }
            staging.resize(part.bytes, 0);
            stream.download(&mut staging, &part)?;
            for (at, from) in self.places(&run).zip(staging.chunks_exact(self.width)) {
                rows[at..at + self.width].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Puts `rows` into a buffer of pages.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn upload(&self, stream: &mut dyn Stream, pages: &Binding, rows: &[u8]) -> Result<()> {
        let mut staging = Vec::new();
        for run in self.runs() {
            let part = self.part(pages, &run);
            if self.is_rows(&run) {
                stream.upload(&part, &rows[self.row(run.tokens.start)..][..part.bytes])?;
                continue;
            }
            staging.clear();
            for at in self.places(&run) {
                staging.extend_from_slice(&rows[at..at + self.width]);
            }
            stream.upload(&part, &staging)?;
        }
        Ok(())
    }

    /// Whole blocks, and of the last one what is held.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let blocks = (0..self.tokens).step_by(self.block_size).zip(self.table);
        blocks.flat_map(move |(first, &block)| {
            let tokens = first..self.tokens.min(first + self.block_size);
            let whole = tokens.len() == self.block_size || self.layout == KvLayout::BlockTokenHead;
            let at_once = if whole { self.heads } else { 1 };
            (0..self.heads).step_by(at_once).map(move |head| Run {
                offset: (block as usize * self.heads + head) * self.block_size * self.width,
                heads: head..head + at_once,
                tokens: tokens.clone(),
            })
        })
    }

    fn part(&self, pages: &Binding, run: &Run) -> Binding {
        let bytes = run.heads.len() * run.tokens.len() * self.width;
        Binding::part(&pages.buffer, pages.offset + run.offset, bytes)
    }

    /// Whether a run lies as rows do.
    fn is_rows(&self, run: &Run) -> bool {
        let one_head = self.heads == 1 || run.tokens.len() == 1 && run.heads.len() == self.heads;
        one_head || self.layout == KvLayout::BlockTokenHead
    }

    fn row(&self, token: usize) -> usize {
        token * self.heads * self.width
    }

    /// Where each head of each token of a run stands among the rows, in the order of the run.
    fn places(&self, run: &Run) -> impl Iterator<Item = usize> + '_ {
        let tokens = run.tokens.clone();
        run.heads.clone().flat_map(move |head| tokens.clone().map(move |token| self.row(token) + head * self.width))
    }
}
