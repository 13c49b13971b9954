//! A graph planned for one kind of step, and where in one small buffer its changing inputs lie.

use qiao_core::{Binding, Device, Error, Plan};
use qiao_layers::{Account, Lowered};

use crate::cache::KvCache;
use crate::error::Result;
use crate::model::{CacheShape, ModelGraph, Step};
use crate::placing::PlacedWeights;
use crate::sides::HostWork;

/// Which plan.
pub(crate) type Key = (Step, CacheShape);

/// Byte offsets of the integer inputs in one buffer, each aligned and padded as the device wants tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    ids: usize,
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
            ids: next(step.tokens),
            positions: next(step.tokens),
            slots: next(step.tokens),
            cu_q: g.inputs.cu_q.map(|_| next(2)),
            kv_len: next(1),
            block_table: next(cache.table),
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

/// What a session binds to a plan.
pub(crate) struct SessionBuffers<'a> {
    pub(crate) input: &'a Binding,
    pub(crate) cache: &'a dyn KvCache,
    pub(crate) cos: &'a Binding,
    pub(crate) sin: &'a Binding,
    pub(crate) logits: &'a Binding,
    /// The residual streams, one after the other; unused where they are not kept.
    pub(crate) hidden: &'a [Binding],
}

impl Prepared {
    pub(crate) fn new(device: &dyn Device, key: Key, g: ModelGraph, plan: Lowered) -> Prepared {
        let offsets = Offsets::new(device, &g, key.0, key.1);
        Prepared { step: key.0, cache: key.1, g, plan, offsets }
    }

    pub(crate) fn plan(&self) -> &Lowered {
        &self.plan
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
        let t = self.step.tokens;
        let mut input = |at: usize, offset: usize, count: usize| {
            let (start, bytes) = (own.input.offset + offset, count * size_of::<i32>());
            all[at] = Some(Binding::part(&own.input.buffer, start, bytes));
        };
        input(i.ids, o.ids, t);
        input(i.positions, o.positions, t);
        input(i.slots, o.slots, t);
        input(i.kv_len, o.kv_len, 1);
        input(i.block_table, o.block_table, self.cache.table);
        for (at, offset, count) in [(i.cu_q, o.cu_q, 2), (i.select, o.select, self.step.rows)] {
            if let (Some(at), Some(offset)) = (at, offset) {
                input(at, offset, count);
            }
        }
        (all[i.cos], all[i.sin]) = (Some(own.cos.clone()), Some(own.sin.clone()));
        for (layer, &(k, v)) in self.g.caches.iter().enumerate() {
            let (keys, values) = own.cache.layer(layer);
            (all[k], all[v]) = (Some(keys.clone()), Some(values.clone()));
        }
        if let Some(at) = self.g.logits {
            all[at] = Some(own.logits.clone());
        }
        for (&at, binding) in self.g.hidden.iter().zip(own.hidden) {
            all[at] = Some(binding.clone());
        }
        let graph = &self.plan.graph;
        let name = |at: usize| &graph.tensor(graph.bound()[at]).name;
        let given = all.into_iter().enumerate().map(|(at, b)| {
            b.ok_or_else(|| Error::internal(format!("binding '{}'", name(at)), "nothing was placed for it").into())
        });
        given.collect()
    }

    /// Writes a step's inputs into the bytes that are uploaded for it. The tokens are the cache's last ones; `select` names
    /// the last of them.
    pub(crate) fn write_inputs(&self, ids: &[u32], cache: &dyn KvCache, out: &mut Vec<u8>) {
        out.resize(self.offsets.bytes, 0);
        let (o, len) = (self.offsets, cache.len());
        let start = len - ids.len();
        put(out, o.ids, ids.iter().map(|&id| id as i32));
        put(out, o.positions, (start..len).map(|p| p as i32));
        put(out, o.slots, (start..len).map(|p| cache.slot(p)));
        put(out, o.kv_len, [len as i32]);
        put(out, o.block_table, cache.block_table().iter().copied());
        if let Some(at) = o.cu_q {
            put(out, at, [0, ids.len() as i32]);
        }
        if let Some(at) = o.select {
            let first = ids.len() - self.step.rows;
            put(out, at, (first..ids.len()).map(|i| i as i32));
        }
    }
}

fn put(out: &mut [u8], offset: usize, values: impl IntoIterator<Item = i32>) {
    let words = out[offset..].as_chunks_mut::<4>().0;
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
}
