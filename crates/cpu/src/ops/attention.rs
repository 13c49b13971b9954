//! Attention that never holds a score matrix: keys are taken in chunks, and each query row keeps its running maximum,
//! sum and weighted values (online softmax; Milakov and Gimelshein 2018, Dao et al. 2022).
//!
//! A task is a tile of query tokens times one key/value head: the query rows of a group share each key that is read.
//! Pages are walked in place through the block table.

use half::{bf16, f16};
use qiao_core::{Accept, AttentionAttrs, DType, NodeView, Op, OpKind, Reason, Row};
use qiao_kernels_cpu::{Element, Kernels, Rows};

use super::access::{Operand, fp8, load};
use super::cache::{self, Cache};
use super::exec::{Core, Exec, Prepare, Prepared, activations, no_layouts, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::AttentionPrefill, "attention_prefill", accepts, attention),
        row(OpKind::AttentionDecode, "attention_decode", accepts, attention),
    ]
}

/// Keys that are scored together.
const KEYS: usize = 128;

/// Query rows that share each key, about.
const QUERY_ROWS: usize = 48;

fn attrs(node: &NodeView<'_>) -> AttentionAttrs {
    let (Op::AttentionPrefill(a) | Op::AttentionDecode(a)) = *node.op() else {
        unreachable!("the table pairs attention with its kernel")
    };
    a
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let sinks = if node.kind() == OpKind::AttentionDecode { 5 } else { 6 };
    let first_output = node.node.inputs.len();
    // With the sinks left out, their position may be that of the output, or past it.
    activations(node, &[0, sinks, first_output])?;
    cache::accepts(node, [1, 2])?;
    no_layouts(node)
}

impl Cache {
    /// Neighbouring tokens of one head in their stored dtype.
    ///
    /// # Safety
    /// The tokens lie in the cache, whose memory is live and not written meanwhile, and `T` is its dtype.
    unsafe fn rows<T>(&self, exec: &Exec<'_>, span: Span) -> Rows<'_, T> {
        let dim = self.pages.head_dim;
        let stride = self.strides[2];
        // SAFETY: the caller vouches for the tokens.
        let data = unsafe {
            let start = exec.address(self.tensor).cast::<T>().add(self.at(span.block, span.head, span.token));
            std::slice::from_raw_parts(start, (span.count - 1) * stride + dim)
        };
        Rows { data, stride, count: span.count }
    }

    /// Neighbouring tokens of one head, decoded into `out` with a stride of the head size.
    ///
    /// # Safety
    /// As [`Cache::rows`], for a quantised cache.
    unsafe fn decode<'a>(&self, exec: &Exec<'_>, span: Span, out: &'a mut [f32]) -> Rows<'a, f32> {
        let dim = self.pages.head_dim;
        for i in 0..span.count {
            let at = self.at(span.block, span.head, span.token + i);
            // SAFETY: the caller vouches for the token; the scales have the dims of the cache but the last.
            let (codes, scale) = unsafe {
                let codes = std::slice::from_raw_parts(exec.address(self.tensor).add(at), dim);
                let scale = self
                    .scale_at(span.block, span.head, span.token + i)
                    .map_or(1.0, |(tensor, at)| *exec.address(tensor).cast::<f32>().add(at));
                (codes, scale)
            };
            for (o, &code) in out[i * dim..][..dim].iter_mut().zip(codes) {
                let value = match self.dtype {
                    DType::I8 => f32::from(code as i8),
                    dtype => fp8(dtype).decode(u32::from(code)) as f32,
                };
                *o = value * scale;
            }
        }
        Rows { data: &out[..span.count * dim], stride: dim, count: span.count }
    }
}

/// Neighbouring tokens of one head inside one block.
#[derive(Clone, Copy)]
struct Span {
    block: usize,
    head: usize,
    token: usize,
    count: usize,
}

struct Attention {
    attrs: AttentionAttrs,
    q: Operand,
    k: Cache,
    v: Cache,
    y: Operand,
    /// `cu_q[B+1]`; a decode step has one query per sequence.
    cu_q: Option<Operand>,
    kv_len: Operand,
    table: Option<Operand>,
    sinks: Option<Operand>,
    batch: usize,
    heads: usize,
    /// Query tokens of a task.
    tile: usize,
    scale: f32,
}

fn attention(node: &NodeView<'_>, _: &Core) -> Prepared {
    let attrs = attrs(node);
    let decode = node.kind() == OpKind::AttentionDecode;
    let (cu_q, kv_len, table, sinks, scales) =
        if decode { (None, 3, 4, 5, [6, 7]) } else { (Some(3), 4, 5, 6, [7, 8]) };
    let paged = node.input(table).is_some();
    let q = Operand::required(node, 0);
    let cache = |i: usize| Cache::new(node, i, scales[i - 1], attrs.kv_layout, paged);
    let (k, v, heads) = (cache(1), cache(2), q.shape[1]);
    let group = heads.checked_div(k.pages.heads).unwrap_or(0);
    let tile = (QUERY_ROWS / group.max(1)).max(1).min(q.shape[0].max(1));
    let scale = if attrs.scale == 0.0 { 1.0 / (q.len as f32).sqrt() } else { attrs.scale };
    let step = Attention {
        attrs,
        y: Operand::output(node, 0),
        cu_q: cu_q.map(|i| Operand::required(node, i)),
        kv_len: Operand::required(node, kv_len),
        table: Operand::input(node, table),
        sinks: Operand::input(node, sinks),
        batch: node.required(kv_len).elements(),
        heads,
        tile,
        scale,
        q,
        k,
        v,
    };
    let floats = Scratch::floats(tile * group, step.k.pages.head_dim, step.v.pages.head_dim);
    Prepared::with_scratch(floats, move |exec| {
        let tiles = step.q.shape[0].div_ceil(step.tile);
        let kv_heads = step.k.pages.heads;
        exec.run(tiles * kv_heads, &|task, thread| {
            // Later tiles see more keys: the longest tasks first.
            let tile = tiles - 1 - task / kv_heads;
            // SAFETY: the pool gave this thread; a task writes the rows of its own tile and heads.
            unsafe { step.task(exec, tile, task % kv_heads, thread) };
        });
        Ok(())
    })
}

/// A thread's scratch for one tile.
struct Scratch<'a> {
    q: &'a mut [f32],
    acc: &'a mut [f32],
    scores: &'a mut [f32],
    spare: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    alpha: &'a mut [f32],
    decoded: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn floats(rows: usize, dk: usize, dv: usize) -> usize {
        rows * (dk + dv + KEYS + 3) + KEYS + KEYS * dk.max(dv)
    }

    fn new(buf: &'a mut [f32], rows: usize, dk: usize, dv: usize) -> Self {
        let (q, buf) = buf.split_at_mut(rows * dk);
        let (acc, buf) = buf.split_at_mut(rows * dv);
        let (scores, buf) = buf.split_at_mut(rows * KEYS);
        let (spare, buf) = buf.split_at_mut(KEYS);
        let (max, buf) = buf.split_at_mut(rows);
        let (sum, buf) = buf.split_at_mut(rows);
        let (alpha, decoded) = buf.split_at_mut(rows);
        Scratch { q, acc, scores, spare, max, sum, alpha, decoded }
    }
}

/// Query tokens of one sequence in one tile.
#[derive(Clone, Copy)]
struct Queries {
    sequence: usize,
    /// The first query token, among all.
    first: usize,
    count: usize,
    /// The position of the first query token in its sequence; may be negative when there are more queries than keys.
    position: i64,
    keys: usize,
    /// Where the sequence's keys start, without a block table.
    start: usize,
}

impl Attention {
    fn group(&self) -> usize {
        self.heads / self.k.pages.heads
    }

    /// # Safety
    /// The pool gave `thread` to the running task, and no other task has this tile and head.
    unsafe fn task(&self, exec: &Exec<'_>, tile: usize, head: usize, thread: usize) {
        let total = self.q.shape[0];
        let (first, last) = (tile * self.tile, ((tile + 1) * self.tile).min(total));
        let cu = |b: usize| -> usize {
            match &self.cu_q {
                // SAFETY: `cu_q` has batch + 1 entries.
                Some(cu) => unsafe { cu.index(exec.address(cu.tensor), b * cu.step()) }.clamp(0, total as i64) as usize,
                None => b,
            }
        };
        let (mut start, mut done) = (0usize, first);
        for b in 0..self.batch {
            // SAFETY: `kv_len` has one entry per sequence.
            let keys = unsafe { self.kv_len.index(exec.address(self.kv_len.tensor), b * self.kv_len.step()) };
            let keys = usize::try_from(keys).unwrap_or(0);
            let (from, to) = (cu(b), cu(b + 1));
            let (lo, hi) = (from.max(first), to.min(last));
            if lo < hi {
                // SAFETY: as the caller vouches.
                unsafe {
                    self.fill(exec, done, lo, head, 0.0);
                    let position = keys as i64 - (to - from) as i64 + (lo - from) as i64;
                    let queries = Queries { sequence: b, first: lo, count: hi - lo, position, keys, start };
                    self.queries(exec, &queries, head, thread);
                }
                done = hi;
            }
            start = start.saturating_add(keys);
        }
        // SAFETY: as the caller vouches.
        unsafe { self.fill(exec, done, last, head, 0.0) };
    }

    /// One value in every element of these tokens: 0 where they belong to no sequence.
    ///
    /// # Safety
    /// As [`Attention::task`].
    unsafe fn fill(&self, exec: &Exec<'_>, first: usize, last: usize, head: usize, value: f32) {
        for t in first..last {
            for g in 0..self.group() {
                let r = t * self.heads + head * self.group() + g;
                for i in 0..self.y.len {
                    // SAFETY: as the caller vouches.
                    unsafe { self.y.write(exec.kernels(), exec.address(self.y.tensor), r, i, &[value]) };
                }
            }
        }
    }

    /// The query tokens of one sequence against all the keys they see.
    ///
    /// A value that is not finite makes NaN of a weight of 0, so a token that came out as NaN beside others is computed
    /// again alone, with the keys that it sees and no others.
    ///
    /// # Safety
    /// As [`Attention::task`].
    unsafe fn queries(&self, exec: &Exec<'_>, q: &Queries, head: usize, thread: usize) {
        // SAFETY: as the caller vouches.
        unsafe { self.together(exec, q, head, thread) };
        for t in 0..if q.count > 1 { q.count } else { 0 } {
            let alone = Queries { first: q.first + t, count: 1, position: q.position + t as i64, ..*q };
            let row = (q.first + t) * self.heads + head * self.group();
            // SAFETY: as the caller vouches.
            unsafe {
                if (row..row + self.group()).any(|r| self.has_nan(exec, r)) {
                    self.together(exec, &alone, head, thread);
                }
            }
        }
    }

    /// Whether a row of the result holds a NaN.
    ///
    /// # Safety
    /// As [`Attention::task`]; the row was written.
    unsafe fn has_nan(&self, exec: &Exec<'_>, r: usize) -> bool {
        let at = self.y.offset(r);
        // SAFETY: as the caller vouches.
        (0..self.y.len)
            .any(|i| unsafe { load(self.y.dtype, exec.address(self.y.tensor), at + i * self.y.step()) }.is_nan())
    }

    /// The query tokens of one sequence in one pass over the keys that some of them see.
    ///
    /// # Safety
    /// As [`Attention::task`].
    unsafe fn together(&self, exec: &Exec<'_>, q: &Queries, head: usize, thread: usize) {
        let k = exec.kernels();
        let (group, dk, dv) = (self.group(), self.k.pages.head_dim, self.v.pages.head_dim);
        let rows = q.count * group;
        // SAFETY: as the caller vouches.
        let mut s = Scratch::new(unsafe { exec.scratch(thread) }, self.tile * group, dk, dv);
        for i in 0..rows {
            let r = (q.first + i / group) * self.heads + head * group + i % group;
            let out = &mut s.q[i * dk..][..dk];
            // SAFETY: the row is in the operand, which nothing writes.
            unsafe { self.q.read_part(k, exec.address(self.q.tensor), r, 0, out) };
        }
        s.acc.fill(0.0);
        s.sum.fill(0.0);
        s.max.fill(f32::NEG_INFINITY);
        let (mut at, end) = self.visible(q);
        while at < end {
            let Some(span) = self.span(exec, q, head, at, end) else {
                // SAFETY: as the caller vouches.
                return unsafe { self.fill(exec, q.first, q.first + q.count, head, f32::NAN) };
            };
            // SAFETY: the span lies in the caches.
            unsafe { self.chunk(exec, q, &mut s, rows, at, span) };
            at += span.count;
        }
        for i in 0..rows {
            let h = head * group + i % group;
            let r = (q.first + i / group) * self.heads + h;
            let row = &mut s.acc[i * dv..][..dv];
            let (lo, hi) = self.seen(q, q.position + (i / group) as i64);
            if lo < hi {
                (k.scale.run)(row, self.normaliser(exec, h, s.max[i], s.sum[i]));
            } else {
                row.fill(0.0);
            }
            // SAFETY: as the caller vouches.
            unsafe { self.y.write(k, exec.address(self.y.tensor), r, 0, row) };
        }
    }

    /// What the weighted values are multiplied by in the end, a learned sink included.
    fn normaliser(&self, exec: &Exec<'_>, head: usize, max: f32, sum: f32) -> f32 {
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

    /// The keys that some query of the tile sees.
    fn visible(&self, q: &Queries) -> (usize, usize) {
        let (lo, _) = self.seen(q, q.position);
        let (_, hi) = self.seen(q, q.position + q.count as i64 - 1);
        (lo, hi)
    }

    /// The keys that the query at a position sees: a window ends at the query, causal or not.
    fn seen(&self, q: &Queries, position: i64) -> (usize, usize) {
        let cut = self.attrs.causal || self.attrs.window > 0;
        let end = if cut { (position + 1).clamp(0, q.keys as i64) as usize } else { q.keys };
        let start = match self.attrs.window {
            0 => 0,
            w => (position + 1 - i64::from(w)).clamp(0, end as i64) as usize,
        };
        (start, end)
    }

    /// The next keys that lie side by side; `None` where the block table or the lengths lead outside the cache.
    fn span(&self, exec: &Exec<'_>, q: &Queries, head: usize, at: usize, end: usize) -> Option<Span> {
        let size = self.k.pages.block_size;
        let Some(table) = &self.table else {
            q.start.checked_add(end).filter(|&end| end <= size)?;
            return Some(Span { block: 0, head, token: q.start + at, count: (end - at).min(KEYS) });
        };
        let entry = at.checked_div(size).filter(|&entry| entry < table.len)?;
        let index = table.offset(q.sequence) + entry * table.step();
        // SAFETY: the entry is inside the table.
        let block = unsafe { table.index(exec.address(table.tensor), index) };
        let block = usize::try_from(block).ok().filter(|&b| b < self.k.pages.blocks)?;
        let token = at % size;
        Some(Span { block, head, token, count: (end - at).min(size - token).min(KEYS) })
    }

    /// One chunk of keys for all query rows.
    ///
    /// # Safety
    /// The span lies in the caches, which nothing writes meanwhile.
    unsafe fn chunk(&self, exec: &Exec<'_>, q: &Queries, s: &mut Scratch<'_>, rows: usize, at: usize, span: Span) {
        let (k, dk, dv) = (exec.kernels(), self.k.pages.head_dim, self.v.pages.head_dim);
        // SAFETY: as the caller vouches; each arm names the dtype of the keys. Packed keys and values may differ in it.
        unsafe {
            match self.k.dtype {
                DType::F32 => score(k, s.scores, s.q, rows, self.k.rows::<f32>(exec, span), dk, self.scale),
                DType::F16 => score(k, s.scores, s.q, rows, self.k.rows::<f16>(exec, span), dk, self.scale),
                DType::BF16 => score(k, s.scores, s.q, rows, self.k.rows::<bf16>(exec, span), dk, self.scale),
                _ => score(k, s.scores, s.q, rows, self.k.decode(exec, span, s.decoded), dk, self.scale),
            }
        }
        self.soften(k, q, s, rows, at, span.count);
        let alpha = &s.alpha[..rows];
        // SAFETY: as above, for the values.
        unsafe {
            match self.v.dtype {
                DType::F32 => weigh(k, s.acc, alpha, s.scores, self.v.rows::<f32>(exec, span), dv),
                DType::F16 => weigh(k, s.acc, alpha, s.scores, self.v.rows::<f16>(exec, span), dv),
                DType::BF16 => weigh(k, s.acc, alpha, s.scores, self.v.rows::<bf16>(exec, span), dv),
                _ => weigh(k, s.acc, alpha, s.scores, self.v.decode(exec, span, s.decoded), dv),
            }
        }
    }

    /// Turns the scores of a chunk into weights and moves each row's maximum and sum along.
    fn soften(&self, k: &Kernels, q: &Queries, s: &mut Scratch<'_>, rows: usize, at: usize, count: usize) {
        let group = self.group();
        for i in 0..rows {
            let row = &mut s.scores[i * KEYS..][..count];
            if self.attrs.softcap != 0.0 {
                (k.scale.run)(row, 1.0 / self.attrs.softcap);
                (k.tanh.run)(&mut s.spare[..count], row);
                row.copy_from_slice(&s.spare[..count]);
                (k.scale.run)(row, self.attrs.softcap);
            }
            let (lo, hi) = self.seen(q, q.position + (i / group) as i64);
            row[..lo.saturating_sub(at).min(count)].fill(f32::NEG_INFINITY);
            row[hi.saturating_sub(at).min(count)..].fill(f32::NEG_INFINITY);
            let max = (k.max.run)(row);
            let top = if max.is_nan() { max } else { s.max[i].max(max) };
            let sum = (k.exp_sub_sum.run)(row, top);
            s.alpha[i] = if s.max[i] == f32::NEG_INFINITY { 0.0 } else { (s.max[i] - top).exp() };
            s.sum[i] = s.sum[i] * s.alpha[i] + sum;
            s.max[i] = top;
        }
    }
}

fn score<T: Element>(
    k: &Kernels,
    scores: &mut [f32],
    q: &[f32],
    rows: usize,
    keys: Rows<'_, T>,
    dim: usize,
    scale: f32,
) {
    (T::qk(k).run)(scores, KEYS, Rows { data: q, stride: dim, count: rows }, keys, dim, scale);
}

fn weigh<T: Element>(k: &Kernels, acc: &mut [f32], alpha: &[f32], p: &[f32], values: Rows<'_, T>, dim: usize) {
    (T::pv(k).run)(acc, dim, alpha, p, KEYS, values, dim);
}
