//! One tile of queries against keys: running numbers of a part, parts joined in their order, results.

use std::ops::Range;

use qiao_kernels_cpu::{Ahead, KEY_BLOCK, KEYS, Kernels, Soften};

use super::super::cache::Cache;
use super::digits::Digits;
use super::queries::Queries;
use super::typed::{Weights, pack, pack_pairs, weigh, weigh_pairs, with_dtype, with_pairs, words};
use super::walk::Chunk;
use super::{Attention, Exec, PART, Way};

/// The running numbers of a few query rows.
pub(super) struct State<'a> {
    /// Weighted values, `[rows, Dv]`.
    pub(super) acc: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl<'a> State<'a> {
    pub(super) fn new(buf: &'a mut [f32], rows: usize, dv: usize) -> Self {
        let (acc, buf) = buf.split_at_mut(rows * dv);
        let (max, buf) = buf.split_at_mut(rows);
        State { acc, max, sum: &mut buf[..rows] }
    }

    fn clear(&mut self) {
        self.acc.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    /// Takes in what a later part found for a row.
    fn join(&mut self, part: &State<'_>, row: usize) {
        let (old, new) = (self.max[row], part.max[row]);
        let top = if old.is_nan() || new <= old { old } else { new };
        let share = |max: f32| if max == f32::NEG_INFINITY { 0.0 } else { (max - top).exp() };
        let (a, b) = (share(old), share(new));
        self.max[row] = top;
        self.sum[row] = self.sum[row] * a + part.sum[row] * b;
        let dv = self.acc.len() / self.max.len();
        for (x, y) in self.acc[row * dv..][..dv].iter_mut().zip(&part.acc[row * dv..][..dv]) {
            *x = *x * a + *y * b;
        }
    }
}

/// A thread's scratch for one tile.
pub(super) struct Scratch<'a> {
    /// Queries, `[rows, D]`.
    pub(super) q: &'a mut [f32],
    /// A block of keys, turned around.
    pub(super) packed: &'a mut [f32],
    /// Scores, then weights, `[rows, KEYS]`.
    pub(super) scores: &'a mut [f32],
    pub(super) alpha: &'a mut [f32],
    /// Of all rows where the step takes digits, else of none.
    pub(super) digits: Digits<'a>,
}

impl<'a> Scratch<'a> {
    /// What a thread needs for the largest tile: this, and two states.
    pub(super) fn floats(step: &Attention) -> usize {
        let (rows, dk) = (step.tile * step.group(), step.k.pages.head_dim);
        rows * (dk + KEYS + 1) + dk * KEY_BLOCK + 2 * step.state_floats() + Digits::floats(step.digit_rows(rows), dk)
    }

    /// The scratch of a tile, and two states.
    fn new(buf: &'a mut [f32], step: &Attention, rows: usize) -> (Self, State<'a>, State<'a>) {
        let (dk, dv) = (step.k.pages.head_dim, step.v.pages.head_dim);
        let (packed, buf) = buf.split_at_mut(dk * KEY_BLOCK);
        let (scores, buf) = buf.split_at_mut(rows * KEYS);
        let (q, buf) = buf.split_at_mut(rows * dk);
        let (alpha, buf) = buf.split_at_mut(rows);
        let (digits, buf) = Digits::new(buf, step.digit_rows(rows), dk);
        let (first, second) = buf.split_at_mut(step.state_floats());
        (Scratch { q, packed, scores, alpha, digits }, State::new(first, rows, dv), State::new(second, rows, dv))
    }
}

impl Attention {
    /// Of so many rows of a tile, those that take digits.
    fn digit_rows(&self, rows: usize) -> usize {
        if matches!(self.way, Way::Digits(_)) { rows } else { 0 }
    }

    /// A tile against all the keys it sees.
    ///
    /// # Safety
    /// The pool gave `thread` to the running task, and no other task has this tile and head.
    pub(super) unsafe fn whole(&self, exec: &Exec<'_>, (q, head): (&Queries, usize), thread: usize) {
        // SAFETY: as the caller vouches.
        let (mut s, mut total, mut state) = Scratch::new(unsafe { exec.scratch(thread) }, self, q.count * self.group());
        self.read(exec, q, head, &mut s);
        total.clear();
        let mut chunks = [Chunk::new(), Chunk::new()];
        for part in self.parts(q) {
            self.part(exec, q, head, part, &mut s, &mut state, &mut chunks);
            self.take(q, part, &mut total, &state);
        }
        // SAFETY: as the caller vouches.
        unsafe { self.finish(exec, q, head, &mut total) };
    }

    /// A tile against the keys of a run of parts, whose numbers are kept apart.
    ///
    /// # Safety
    /// As [`Attention::whole`].
    pub(super) unsafe fn alone<'a>(
        &self,
        exec: &Exec<'_>,
        q: &Queries,
        head: usize,
        parts: Range<usize>,
        thread: usize,
        state: impl Fn(usize) -> State<'a>,
    ) {
        // SAFETY: as the caller vouches.
        let (mut s, ..) = Scratch::new(unsafe { exec.scratch(thread) }, self, q.count * self.group());
        self.read(exec, q, head, &mut s);
        let mut chunks = [Chunk::new(), Chunk::new()];
        for part in parts {
            self.part(exec, q, head, part, &mut s, &mut state(part), &mut chunks);
        }
    }

    /// Joins the parts of a tile, each computed [`alone`](Attention::alone).
    ///
    /// # Safety
    /// As [`Attention::whole`].
    pub(super) unsafe fn join<'a>(
        &self,
        exec: &Exec<'_>,
        q: &Queries,
        head: usize,
        thread: usize,
        state: impl Fn(usize) -> State<'a>,
    ) {
        // SAFETY: as the caller vouches.
        let (_, mut total, _) = Scratch::new(unsafe { exec.scratch(thread) }, self, q.count * self.group());
        total.clear();
        for (nth, part) in self.parts(q).enumerate() {
            self.take(q, part, &mut total, &state(nth));
        }
        // SAFETY: as the caller vouches.
        unsafe { self.finish(exec, q, head, &mut total) };
    }

    /// Reads the queries of a tile: wide, as pairs of bf16, or as digits too.
    fn read(&self, exec: &Exec<'_>, q: &Queries, head: usize, s: &mut Scratch<'_>) {
        let (group, dk) = (self.group(), self.k.pages.head_dim);
        for i in 0..q.count * group {
            let r = (q.first + i / group) * self.heads + head * group + i % group;
            let out = &mut s.q[i * dk..][..dk];
            // SAFETY: the row is in the operand, which nothing writes.
            unsafe { self.q.read_part(exec.kernels(), exec.address(self.q.tensor), r, 0, out) };
        }
        match &self.way {
            Way::Wide => {}
            Way::Digits(digits) => self.split_queries(digits, s),
            Way::Pairs(_) => {
                // What was read of bf16 is exact in its upper half; words are written behind what is still to be read.
                let (q, pairs) = (words(s.q), dk.div_ceil(2));
                for i in 0..q.len().checked_div(dk).unwrap_or(0) {
                    for w in 0..pairs {
                        let second = if 2 * w + 1 < dk { q[i * dk + 2 * w + 1] } else { 0 };
                        q[i * pairs + w] = q[i * dk + 2 * w] >> 16 | second & 0xffff_0000;
                    }
                }
            }
        }
    }

    /// Takes a part into the rows that see keys of it.
    fn take(&self, q: &Queries, part: usize, total: &mut State<'_>, state: &State<'_>) {
        for token in 0..q.count {
            let (lo, hi) = self.seen(q, token);
            if lo.max(part * PART) < hi.min((part + 1) * PART) {
                (token * self.group()..(token + 1) * self.group()).for_each(|row| total.join(state, row));
            }
        }
    }

    /// A tile against the keys of one part: the part's own running numbers.
    #[allow(clippy::too_many_arguments, reason = "as for a chunk")]
    fn part(
        &self,
        exec: &Exec<'_>,
        q: &Queries,
        head: usize,
        part: usize,
        s: &mut Scratch<'_>,
        state: &mut State<'_>,
        chunks: &mut [Chunk; 2],
    ) {
        let (lo, hi) = self.visible(q);
        let (mut at, end) = (lo.max(part * PART), hi.min((part + 1) * PART));
        let stop = |at: usize| hi.min((at / KEYS + 1) * KEYS);
        let [mut here, mut next] = chunks.each_mut();
        state.clear();
        let mut found = self.walk(exec, q, head, (at, stop(at)), here);
        while at < end {
            let after = stop(at);
            // The next chunk is fetched while this one is worked on.
            let more = after < hi && self.walk(exec, q, head, (after, stop(after)), next);
            if found {
                // SAFETY: the chunk's addresses were found in the caches.
                unsafe { self.chunk(exec.kernels(), q, s, state, (at, after), here, more.then_some(&*next)) };
            }
            if here.has_holes() {
                self.spoil(q, state, (at, after), here);
            }
            std::mem::swap(&mut here, &mut next);
            (at, found) = (after, more);
        }
    }

    /// Makes NaN of the rows that see keys which cannot be found: a sum that is NaN stays so.
    #[cold]
    fn spoil(&self, q: &Queries, state: &mut State<'_>, (at, end): (usize, usize), chunk: &Chunk) {
        let base = at / KEYS * KEYS;
        for token in 0..q.count {
            let (lo, hi) = self.seen(q, token);
            let (lo, hi) = (lo.clamp(at, end), hi.clamp(at, end));
            if chunk.lacks(lo - base..hi - base) {
                state.sum[token * self.group()..(token + 1) * self.group()].fill(f32::NAN);
            }
        }
    }

    /// One chunk of keys for all query rows; `ahead` is the chunk after it.
    ///
    /// # Safety
    /// The addresses in the chunk are those of tokens in the caches, which nothing writes meanwhile.
    #[allow(clippy::too_many_arguments, reason = "a chunk, what it is of, and where its numbers go")]
    unsafe fn chunk(
        &self,
        k: &Kernels,
        q: &Queries,
        s: &mut Scratch<'_>,
        state: &mut State<'_>,
        (at, end): (usize, usize),
        chunk: &mut Chunk,
        ahead: Option<&Chunk>,
    ) {
        let (dk, rows) = (self.k.pages.head_dim, state.max.len());
        let base = at / KEYS * KEYS;
        // SAFETY: as the caller vouches.
        unsafe {
            if self.k.scale.is_some() {
                chunk.keys.read_scales();
            }
            if self.v.scale.is_some() {
                chunk.values.read_scales();
            }
        }
        let chunk = &*chunk;
        let ahead = ahead.unwrap_or(chunk);
        let bytes = |cache: &Cache| cache.pages.head_dim * cache.dtype.block_bytes();
        let blocks = (at - base) / KEY_BLOCK..(end - base).div_ceil(KEY_BLOCK);
        for block in blocks.clone() {
            let tokens = block * KEY_BLOCK..(block + 1) * KEY_BLOCK;
            let keys = &chunk.keys.at[tokens.clone()];
            // The next chunk is asked for all along: keys first, they are wanted first; half of the values while this chunk's
            // are added up.
            let half = block * KEY_BLOCK / 2..(block + 1) * KEY_BLOCK / 2;
            let next_keys = Ahead { rows: &ahead.keys.at[tokens.clone()], bytes: bytes(&self.k) };
            let next_values = Ahead { rows: &ahead.values.at[half], bytes: bytes(&self.v) };
            let scores = &mut s.scores[tokens.start..];
            match &self.way {
                Way::Pairs(pairs) => {
                    // SAFETY: as the caller vouches; the dtype is that of the keys.
                    unsafe { with_pairs!(self.k.dtype, pack_pairs(pairs, s.packed, keys, dk, next_keys)) };
                    (pairs.qk.run)(scores, (words(s.q), rows), words(s.packed), dk.div_ceil(2), next_values);
                }
                Way::Digits(digits) => {
                    // SAFETY: as the caller vouches.
                    unsafe { self.score_digits(digits, s, tokens.start, keys, [next_keys, next_values]) };
                }
                Way::Wide => {
                    // SAFETY: as the caller vouches; the dtype is that of the keys.
                    unsafe { with_dtype!(self.k.dtype, pack(k, s.packed, keys, dk, next_keys)) };
                    (k.qk.run)(scores, (s.q, rows), s.packed, dk, next_values);
                }
            }
        }
        // SAFETY: as the caller vouches.
        unsafe { self.score_rest(k, s, blocks, chunk) };
        let tokens = (at - base, end - base);
        let seen = |token: usize| {
            let (lo, hi) = self.seen(q, token);
            let inside = |i: usize| i.saturating_sub(base).clamp(tokens.0, tokens.1);
            inside(lo)..inside(hi)
        };
        for token in 0..q.count {
            self.soften(k, s, state, token, seen(token), chunk);
        }
        let rest = Ahead { rows: &ahead.values.at[KEYS / 2..], bytes: bytes(&self.v) };
        // SAFETY: as the caller vouches.
        unsafe {
            match &self.way {
                Way::Digits(digits) => self.weigh_digits((k, digits), q.count, s, state, &seen, chunk, rest),
                _ => self.weigh(k, q.count, s, state, &seen, chunk, rest),
            }
        }
    }

    /// Turns the scores of a token's rows into weights and moves their maxima and sums along.
    fn soften(
        &self,
        k: &Kernels,
        s: &mut Scratch<'_>,
        state: &mut State<'_>,
        token: usize,
        seen: Range<usize>,
        chunk: &Chunk,
    ) {
        for i in token * self.group()..(token + 1) * self.group() {
            if seen.is_empty() {
                s.alpha[i] = 1.0;
                if let Way::Digits(digits) = &self.way {
                    self.split_weights(digits, s, i, 0..0);
                }
                continue;
            }
            let (top, sum) = (k.soften.run)(&mut Soften {
                row: &mut s.scores[i * KEYS..][..KEYS],
                first: seen.start,
                end: seen.end,
                scale: self.scale,
                key_scales: chunk.keys.scales(&self.k),
                value_scales: chunk.values.scales(&self.v),
                softcap: self.attrs.softcap,
                max: state.max[i],
            });
            s.alpha[i] = if state.max[i] == f32::NEG_INFINITY { 0.0 } else { (state.max[i] - top).exp() };
            state.sum[i] = state.sum[i] * s.alpha[i] + sum;
            state.max[i] = top;
            match &self.way {
                Way::Wide => {}
                Way::Pairs(pairs) => {
                    (pairs.round_weights.run)(words(&mut s.scores[i * KEYS..][..KEYS]), seen.start, seen.end);
                }
                Way::Digits(digits) => self.split_weights(digits, s, i, seen.clone()),
            }
        }
    }

    /// Adds the weighted values of a chunk: those that all tokens see for all rows at once, others token by token, each
    /// row in the order of its keys.
    ///
    /// # Safety
    /// As [`Attention::chunk`].
    #[allow(clippy::too_many_arguments, reason = "as for a chunk")]
    unsafe fn weigh(
        &self,
        k: &Kernels,
        count: usize,
        s: &mut Scratch<'_>,
        state: &mut State<'_>,
        seen: &dyn Fn(usize) -> Range<usize>,
        chunk: &Chunk,
        mut ahead: Ahead<'_>,
    ) {
        let (group, dim) = (self.group(), self.v.pages.head_dim);
        let mut add = |alpha: &[f32], of: Range<usize>, tokens: Range<usize>| {
            let rows = of.start * group..of.end * group;
            let w = Weights {
                acc: &mut state.acc[rows.start * dim..rows.end * dim],
                alpha: &alpha[rows.clone()],
                p: &s.scores[rows.start * KEYS..rows.end * KEYS],
                tokens,
                dim,
                ahead: std::mem::take(&mut ahead),
            };
            // SAFETY: as the caller vouches; the dtype is that of the values.
            unsafe {
                match &self.way {
                    Way::Pairs(pairs) => with_pairs!(self.v.dtype, weigh_pairs(pairs, w, &chunk.values.at)),
                    _ => with_dtype!(self.v.dtype, weigh(k, w, &chunk.values.at)),
                }
            };
        };
        let (mut first, mut end, mut least) = (0, KEYS, KEYS);
        for range in (0..count).map(seen) {
            (first, end, least) = (first.max(range.start), end.min(range.end), least.min(range.start));
        }
        if matches!(self.way, Way::Pairs(_)) {
            // A pair is never torn: what a row sees of it is added at once.
            (first, end) = (first.next_multiple_of(2), end / 2 * 2);
        }
        if first >= end {
            for token in (0..count).filter(|&token| !seen(token).is_empty()) {
                add(s.alpha, token..token + 1, seen(token));
            }
            return;
        }
        if least < first {
            for token in 0..count {
                add(s.alpha, token..token + 1, seen(token).start..first);
            }
            s.alpha.fill(1.0);
        }
        add(s.alpha, 0..count, first..end);
        s.alpha.fill(1.0);
        for token in (0..count).filter(|&token| seen(token).end > end) {
            add(s.alpha, token..token + 1, end..seen(token).end);
        }
    }

    /// Writes the results of a tile.
    ///
    /// # Safety
    /// As [`Attention::whole`].
    unsafe fn finish(&self, exec: &Exec<'_>, q: &Queries, head: usize, total: &mut State<'_>) {
        let (k, group, dv) = (exec.kernels(), self.group(), self.v.pages.head_dim);
        for i in 0..q.count * group {
            let h = head * group + i % group;
            let r = (q.first + i / group) * self.heads + h;
            let row = &mut total.acc[i * dv..][..dv];
            let (lo, hi) = self.seen(q, i / group);
            if lo < hi {
                (k.scale.run)(row, self.normaliser(exec, h, total.max[i], total.sum[i]));
            }
            // SAFETY: as the caller vouches.
            unsafe { self.y.write(k, exec.address(self.y.tensor), r, 0, row) };
        }
    }

    /// What the weighted values are multiplied by in the end, a learned sink included.
    fn normaliser(&self, exec: &Exec<'_>, head: usize, max: f32, sum: f32) -> f32 {
        if sum.is_nan() {
            return f32::NAN;
        }
        let Some(sinks) = &self.sinks else { return if sum == 0.0 { 0.0 } else { 1.0 / sum } };
        let mut sink = [0.0];
        // SAFETY: there is one sink per head.
        unsafe { sinks.read_part(exec.kernels(), exec.address(sinks.tensor), 0, head, &mut sink) };
        let top = max.max(sink[0]);
        if top == f32::NEG_INFINITY {
            return 0.0;
        }
        let shrink = if max == f32::NEG_INFINITY { 0.0 } else { (max - top).exp() };
        shrink / (sum * shrink + (sink[0] - top).exp())
    }
}
