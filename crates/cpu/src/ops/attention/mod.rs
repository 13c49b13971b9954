//! Attention that never holds a score matrix: keys are taken a chunk at a time, and each query row keeps its running
//! maximum, sum and weighted values (online softmax; Milakov and Gimelshein 2018, Dao et al. 2022).
//!
//! A unit of work is a few query tokens of one sequence times one key/value head: the query rows of a group share each
//! key that is read. Where there are few units, their keys are split over the threads, too (flash-decoding).
//!
//! The result of a query token depends on itself, on the keys and values that it sees and on the attributes, to the bit:
//! not on the tokens and sequences beside it, on the operator, on pages and their layout, on threads. For that the order
//! of every sum is a matter of the keys' positions alone: chunks of [`KEYS`] keys lie at multiples of that, a chunk moves
//! the running numbers of a part of [`PART`] keys, and the parts of a row are joined in their order. Within a chunk the
//! kernels hold to the order of keys, and a row takes those it sees and no others.

mod digits;
mod queries;
mod tile;
mod typed;
mod walk;

use qiao_core::{Accept, AttentionAttrs, DType, NodeView, Op, OpKind, Property, Reason, Row, Rule};
use qiao_kernels_cpu::{AttentionDigits, AttentionPairs, DIGIT_DIM, KEYS, Kernels};

use super::access::Operand;
use super::cache::{self, Cache};
use super::exec::{Core, Exec, Prepare, Prepared, activations, no_layouts, row};
use queries::Queries;
use tile::{Scratch, State};

pub(super) fn rows(kernels: &Kernels) -> Vec<Row<Prepare>> {
    let mut rows = Vec::new();
    if kernels.attention_pairs.is_some() {
        // Weights are rounded to bf16 before they meet the values.
        let pairs = |op, name| Row { act_dtype: Some(DType::BF16), ..row(op, name, accepts_pairs, attention) };
        rows.push(pairs(OpKind::AttentionPrefill, "attention_prefill_pairs"));
        rows.push(pairs(OpKind::AttentionDecode, "attention_decode_pairs"));
    }
    if kernels.attention_digits.is_some() {
        // Queries and weights have 16 bits beside the largest of their row.
        let digits = |op, name| Row { act_dtype: Some(DType::F16), ..row(op, name, accepts_digits, attention) };
        rows.push(digits(OpKind::AttentionPrefill, "attention_prefill_digits"));
        rows.push(digits(OpKind::AttentionDecode, "attention_decode_digits"));
    }
    rows.push(row(OpKind::AttentionPrefill, "attention_prefill", accepts, attention));
    rows.push(row(OpKind::AttentionDecode, "attention_decode", accepts, attention));
    rows
}

/// Keys whose running numbers are kept apart; a multiple of [`KEYS`].
const PART: usize = 4 * KEYS;

/// Query rows that share each key, about.
const QUERY_ROWS: usize = 48;

/// Units of work for each thread below which keys are split over the threads.
const UNITS_A_THREAD: usize = 4;

/// Bytes that the running numbers of split keys may take.
const SPLIT_BYTES: usize = 64 << 20;

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

/// Queries in bf16 meet keys and values in bf16 or fp8 pair by pair.
fn accepts_pairs(node: &NodeView<'_>) -> Result<Accept, Reason> {
    const CACHES: [DType; 3] = [DType::BF16, DType::F8E4M3, DType::F8E5M2];
    for i in 0..3 {
        let (dtype, taken) = (node.required(i).dtype, if i == 0 { &CACHES[..1] } else { &CACHES[..] });
        if !taken.contains(&dtype) {
            return Err(Reason::dtype(i, dtype, taken));
        }
    }
    accepts(node)
}

/// Keys and values in i8, in heads whose products are sums of integers.
fn accepts_digits(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for i in [1, 2] {
        let cache = node.required(i);
        if cache.dtype != DType::I8 {
            return Err(Reason::dtype(i, cache.dtype, &[DType::I8]));
        }
        let dim = cache.shape.last_dim();
        if dim > DIGIT_DIM {
            return Err(Reason::operand(i, Property::Dim(cache.shape.len() - 1), Rule::AtMost, dim, DIGIT_DIM));
        }
    }
    accepts(node)
}

/// How queries meet keys, and weights values.
enum Way {
    /// In f32.
    Wide,
    /// Where queries are bf16, keys and values bf16 or fp8: pair by pair.
    Pairs(AttentionPairs),
    /// Where keys and values are i8: in integers.
    Digits(AttentionDigits),
}

impl Way {
    fn of(node: &NodeView<'_>, kernels: &Kernels) -> Self {
        let pairs = kernels.attention_pairs.filter(|_| accepts_pairs(node).is_ok()).map(Way::Pairs);
        let digits = || kernels.attention_digits.filter(|_| accepts_digits(node).is_ok()).map(Way::Digits);
        pairs.or_else(digits).unwrap_or(Way::Wide)
    }
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
    /// Query tokens of a unit, at most.
    tile: usize,
    scale: f32,
    way: Way,
}

fn attention(node: &NodeView<'_>, core: &Core) -> Prepared {
    let attrs = attrs(node);
    let decode = node.kind() == OpKind::AttentionDecode;
    let (cu_q, kv_len, table, sinks, scales) =
        if decode { (None, 3, 4, 5, [6, 7]) } else { (Some(3), 4, 5, 6, [7, 8]) };
    let paged = node.input(table).is_some();
    let q = Operand::required(node, 0);
    let cache = |i: usize| Cache::new(node, i, scales[i - 1], attrs.kv_layout, paged);
    let (k, v, heads) = (cache(1), cache(2), q.shape[1]);
    let group = heads.checked_div(k.pages.heads).unwrap_or(0);
    let most = if decode { 1 } else { QUERY_ROWS / group.max(1) };
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
        tile: most.clamp(1, q.shape[0].max(1)),
        scale,
        way: Way::of(node, &core.kernels),
        q,
        k,
        v,
    };
    let (list, states) = (step.list_bytes(), step.states(core.pool.threads()));
    let shared = list + states * step.state_floats() * 4;
    let per_thread = 4 * Scratch::floats(&step);
    let run = move |exec: &Exec<'_>| {
        let (start, bytes) = exec.shared();
        debug_assert!(bytes >= shared);
        // SAFETY: the plan laid out these bytes for this step, aligned to 64; the list takes the first of them.
        let room = unsafe { std::slice::from_raw_parts_mut(start.cast::<Queries>(), step.most_tiles()) };
        let count = step.cut(exec, room);
        let tiles = &room[..count];
        // SAFETY: the states take the bytes behind the list, whose size is a multiple of 64.
        let states = unsafe { States { first: start.add(list).cast::<f32>(), count: states } };
        step.execute(exec, tiles, &states);
        Ok(())
    };
    Prepared::new(run, shared, per_thread)
}

/// Room for the running numbers of parts that different threads compute.
struct States {
    first: *mut f32,
    count: usize,
}

// SAFETY: each state is written by the one task that has its index, and read after all of those have ended.
unsafe impl Sync for States {}

impl States {
    /// A state of `rows` rows.
    ///
    /// # Safety
    /// `index` is below the count, and nobody else uses that state meanwhile.
    unsafe fn state(&self, step: &Attention, index: usize, rows: usize) -> State<'_> {
        let floats = step.state_floats();
        // SAFETY: the plan laid out `count` states.
        let all = unsafe { std::slice::from_raw_parts_mut(self.first.add(index * floats), floats) };
        State::new(all, rows, step.v.pages.head_dim)
    }
}

impl Attention {
    /// Query heads that share a key.
    fn group(&self) -> usize {
        self.heads.checked_div(self.k.pages.heads).unwrap_or(0)
    }

    /// Tokens that the cache, or a row of the block table, has room for.
    fn capacity(&self) -> usize {
        let size = self.k.pages.block_size;
        self.table.as_ref().map_or(size, |table| table.len.saturating_mul(size))
    }

    /// Tiles that the query tokens can be cut into, at most.
    fn most_tiles(&self) -> usize {
        self.batch + self.q.shape[0].div_ceil(self.tile)
    }

    fn list_bytes(&self) -> usize {
        (self.most_tiles() * size_of::<Queries>()).next_multiple_of(64)
    }

    fn state_floats(&self) -> usize {
        self.tile * self.group() * (self.v.pages.head_dim + 2)
    }

    /// How many parts may be computed before any are joined; 0 where keys are never split.
    fn states(&self, threads: usize) -> usize {
        let parts = self.capacity().div_ceil(PART).saturating_add(1);
        if threads == 1 || parts <= 2 {
            return 0;
        }
        let units = self.most_tiles().saturating_mul(self.k.pages.heads).min(UNITS_A_THREAD * threads);
        units.saturating_mul(parts).min(SPLIT_BYTES / (4 * self.state_floats().max(1)))
    }

    /// Every tile of queries against the keys it sees.
    fn execute(&self, exec: &Exec<'_>, tiles: &[Queries], states: &States) {
        let heads = self.k.pages.heads;
        let units = tiles.len() * heads;
        // Later tiles see more keys: the longest tasks first.
        let unit = |i: usize| (&tiles[tiles.len() - 1 - i / heads], i % heads);
        let parts = tiles.iter().map(|q| self.parts(q).len()).max().unwrap_or(0);
        let threads = exec.core.pool.threads();
        let split = threads > 1
            && parts > 1
            && units < UNITS_A_THREAD * threads
            && units.checked_mul(parts).is_some_and(|all| all <= states.count);
        if !split {
            // SAFETY: the pool gave this thread, and no other task has this tile and head.
            exec.run(units, &|i, thread| unsafe { self.whole(exec, unit(i), thread) });
            return;
        }
        // Parts in runs: within one, the next keys are asked for while these are worked on.
        let run = (units * parts).div_ceil(UNITS_A_THREAD * threads);
        exec.run(units * parts.div_ceil(run), &|task, thread| {
            let (i, first) = (task % units, task / units * run);
            let (q, head) = unit(i);
            let all = self.parts(q);
            let of_run = (all.start + first).min(all.end)..(all.start + first + run).min(all.end);
            // SAFETY: as above; the index is below the count, and this task's alone.
            unsafe {
                let state = |part| states.state(self, i * parts + part - all.start, q.count * self.group());
                self.alone(exec, q, head, of_run, thread, state);
            }
        });
        exec.run(units, &|i, thread| {
            let (q, head) = unit(i);
            // SAFETY: as above, and the tasks that wrote the states have ended.
            unsafe {
                let state = |nth| states.state(self, i * parts + nth, q.count * self.group());
                self.join(exec, q, head, thread, state);
            }
        });
    }
}
