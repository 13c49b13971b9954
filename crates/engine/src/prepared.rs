//! A graph planned for one kind of step, and where in one small buffer its changing inputs lie.

use qiao_core::{Binding, Device, Error, Plan};
use qiao_layers::{Account, Lowered};

use crate::border::Border;
use crate::cache::LayerBuffers;
use crate::entry::Entry;
use crate::error::Result;
use crate::model::{CacheShape, ModelGraph, Step};
use crate::placing::PlacedWeights;
use crate::sides::HostWork;

/// Which plan.
pub(crate) type Key = (Step, CacheShape);

/// Byte offsets of the integer inputs in one buffer, each aligned and padded as the device wants tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    ids: Option<usize>,
    positions: usize,
    slots: usize,
    cu_q: Option<usize>,
    kv_len: usize,
    block_table: usize,
    select: Option<usize>,
    bytes: usize,
}

impl Offsets {
    fn new(device: &dyn Device, g: &ModelGraph, step: Step, cache: CacheShape) -> Offsets {
        let info = device.info();
        let align = info.tensor_align.max(size_of::<i32>());
        let mut bytes = 0;
        let mut next = |count: usize| {
            let at = bytes;
            bytes = (at + count * size_of::<i32>() + info.tensor_tail_pad).next_multiple_of(align);
            at
        };
        let mut o = Offsets {
            ids: g.inputs.ids.map(|_| next(step.tokens)),
            positions: next(step.tokens),
            slots: next(step.tokens),
            cu_q: g.inputs.cu_q.map(|_| next(step.sequences + 1)),
            kv_len: next(step.sequences),
            block_table: next(step.sequences * cache.table),
            select: g.inputs.select.map(|_| next(step.rows)),
            bytes: 0,
        };
        o.bytes = bytes;
        o
    }
}

/// A graph on a device, ready for every session that takes such a step.
pub(crate) struct Prepared {
    pub(crate) step: Step,
    pub(crate) cache: CacheShape,
    /// Without its graph, which the plan keeps as it runs.
    g: ModelGraph,
    plan: Lowered,
    offsets: Offsets,
}

/// What is bound to a plan apart from weights.
pub(crate) struct SessionBuffers<'a> {
    pub(crate) input: &'a Binding,
    pub(crate) layers: &'a [LayerBuffers],
    pub(crate) cos: &'a Binding,
    pub(crate) sin: &'a Binding,
    pub(crate) logits: &'a Binding,
    /// The residual streams, one after the other; unused where they are not kept.
    pub(crate) hidden: &'a [Binding],
    /// Where the residual stream comes from the stage before, and goes to the one behind; where the model has several.
    pub(crate) border: Option<&'a Border>,
}

impl Prepared {
    pub(crate) fn new(device: &dyn Device, key: Key, g: ModelGraph, plan: Lowered) -> Prepared {
        let offsets = Offsets::new(device, &g, key.0, key.1);
        Prepared { step: key.0, cache: key.1, g, plan, offsets }
    }

    pub(crate) fn plan(&self) -> &Lowered {
        &self.plan
    }

    /// Whether the residual stream comes from a stage before.
    pub(crate) fn enters(&self) -> bool {
        self.g.enters.is_some()
    }

    /// Whether it goes on to a stage behind.
    pub(crate) fn leaves(&self) -> bool {
        self.g.leaves.is_some()
    }

    pub(crate) fn account(&self) -> Account {
        self.plan.account()
    }

    /// What the host did in this plan so far.
    pub(crate) fn host_work(&self) -> HostWork {
        if self.plan.account.on_host() == 0 {
            return HostWork::default();
        }
        let account = self.plan.account();
        let each = account.entries.iter().filter_map(|entry| entry.hosted());
        let work = each.map(|h| HostWork {
            operators: h.runs,
            down: h.down.saturating_mul(h.runs),
            up: h.up.saturating_mul(h.runs),
            time: h.time,
        });
        work.fold(HostWork::default(), |sum, work| sum + work)
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.plan.info().workspace_bytes
    }

    pub(crate) fn input_bytes(&self) -> usize {
        self.offsets.bytes
    }

    /// Every binding of the plan, in order.
    ///
    /// # Errors
    /// A bound tensor that nobody gives.
    pub(crate) fn bindings(&self, weights: &PlacedWeights, own: &SessionBuffers<'_>) -> Result<Vec<Binding>> {
        self.bindings_with(weights, own, &[])
    }

    /// As [`Prepared::bindings`], where the last tensors of the plan are these.
    pub(crate) fn bindings_with(
        &self,
        weights: &PlacedWeights,
        own: &SessionBuffers<'_>,
        last: &[Binding],
    ) -> Result<Vec<Binding>> {
        let count = self.plan.graph.bound().len();
        let mut all: Vec<Option<Binding>> = vec![None; count];
        for (place, binding) in all[count.saturating_sub(last.len())..].iter_mut().zip(last) {
            *place = Some(binding.clone());
        }
        for c in &self.g.constants {
            all[c.bound] = weights.binding(c);
        }
        let (i, o) = (self.g.inputs, self.offsets);
        let (t, sequences) = (self.step.tokens, self.step.sequences);
        let mut input = |at: usize, offset: usize, count: usize| {
            let (start, bytes) = (own.input.offset + offset, count * size_of::<i32>());
            all[at] = Some(Binding::part(&own.input.buffer, start, bytes));
        };
        input(i.positions, o.positions, t);
        input(i.slots, o.slots, t);
        input(i.kv_len, o.kv_len, sequences);
        input(i.block_table, o.block_table, sequences * self.cache.table);
        for (at, offset, count) in
            [(i.ids, o.ids, t), (i.cu_q, o.cu_q, sequences + 1), (i.select, o.select, self.step.rows)]
        {
            if let (Some(at), Some(offset)) = (at, offset) {
                input(at, offset, count);
            }
        }
        (all[i.cos], all[i.sin]) = (Some(own.cos.clone()), Some(own.sin.clone()));
        for (&(k, v), layer) in self.g.caches.iter().zip(own.layers) {
            (all[k], all[v]) = (Some(layer.k.clone()), Some(layer.v.clone()));
        }
        for (&(k, v), layer) in self.g.scales.iter().zip(own.layers) {
            [all[k], all[v]] = layer.scales.clone().map_or([None, None], |scales| scales.map(Some));
        }
        if let Some(at) = self.g.logits {
            all[at] = Some(own.logits.clone());
        }
        for (&at, binding) in self.g.hidden.iter().zip(own.hidden) {
            all[at] = Some(binding.clone());
        }
        if let Some(border) = own.border {
            for (at, given) in [(self.g.enters, &border.enters), (self.g.leaves, &border.leaves)] {
                for (at, binding) in at.into_iter().flatten().zip(given) {
                    all[at] = Some(binding.clone());
                }
            }
        }
        let graph = &self.plan.graph;
        let name = |at: usize| &graph.tensor(graph.bound()[at]).name;
        let given = all.into_iter().enumerate().map(|(at, b)| {
            b.ok_or_else(|| Error::internal(format!("binding '{}'", name(at)), "nothing was placed for it").into())
        });
        given.collect()
    }

    /// Writes a step's inputs into the bytes that are uploaded for it. Places beyond the entries' tokens and sequences are idle:
    /// they belong to no sequence and are written nowhere.
    ///
    /// Gives the row of the logits where each row wanted stands, entry by entry.
    pub(crate) fn write_inputs(&self, entries: &[Entry<'_>], out: &mut Vec<u8>) -> Vec<usize> {
        out.clear();
        out.resize(self.offsets.bytes, 0);
        let (o, size, step) = (self.offsets, self.cache.block_size, self.step);
        let tokens = || entries.iter().flat_map(|e| e.ids.iter().zip(e.start..).map(move |(&id, at)| (e, id, at)));
        if let Some(at) = o.ids {
            put(out, at, tokens().map(|(_, id, _)| id as i32));
        }
        put(out, o.positions, tokens().map(|(_, _, at)| at as i32));
        let idle = std::iter::repeat_n(-1, step.tokens);
        put(out, o.slots, tokens().map(|(e, _, at)| e.slot(at, size)).chain(idle).take(step.tokens));
        put(out, o.kv_len, entries.iter().map(|e| e.end() as i32));
        for (i, entry) in entries.iter().enumerate() {
            let at = o.block_table + i * self.cache.table * size_of::<i32>();
            put(out, at, entry.table.iter().copied().take(self.cache.table));
        }
        let ends = entries.iter().scan(0, |end, e| {
            *end += e.ids.len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let total = ends.last().copied().unwrap_or(0);
        if let Some(at) = o.cu_q {
            let idle = std::iter::repeat_n(total, step.sequences - entries.len());
            put(out, at, std::iter::once(0).chain(ends.iter().copied()).chain(idle).map(|end| end as i32));
        }
        let wanted: Vec<usize> = entries.iter().zip(&ends).flat_map(|(e, &end)| end - e.rows..end).collect();
        let Some(at) = o.select else { return wanted };
        put(out, at, wanted.iter().map(|&i| i as i32));
        (0..wanted.len()).collect()
    }
}

fn put(out: &mut [u8], offset: usize, values: impl IntoIterator<Item = i32>) {
    let words = out[offset..].as_chunks_mut::<4>().0;
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
}
