//! What a model takes of a device's memory.

use std::collections::{HashMap, HashSet};

use qiao_core::{DType, TensorDesc};
use qiao_layers::Home;

use super::ask::{Asked, Planner};
use crate::error::Result;

/// Bytes of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The weights as they are stored; one that is used in two ways counts once.
    pub weights: u64,
    /// The weights as the device holds them, in its private layouts where it asks for some; those on the host apart.
    pub weights_placed: u64,
    /// Keys and values of all sequences at the full context, in whole pages; those on the host apart.
    pub cache: u64,
    /// Weights, keys and values that live on the host of the policy.
    pub host: u64,
    /// Rotary tables, inputs of the larger step, and its logits.
    pub inputs: u64,
    /// The larger step's workspace and what the device's plans keep; the reason where the device can not plan it.
    pub workspace: Result<u64, String>,
    /// The device's first memory; 0 = not known.
    pub total: u64,
    /// What of it is free; 0 = not known.
    pub free: u64,
}

impl Memory {
    /// All that is known together.
    pub fn needed(&self) -> u64 {
        let workspace = self.workspace.as_ref().copied().unwrap_or(0);
        [self.weights_placed, self.cache, self.inputs, workspace].iter().fold(0, |n: u64, &b| n.saturating_add(b))
    }

    /// Whether the device's memory holds it; `None` where its size is not known.
    pub fn fits(&self) -> Option<bool> {
        (self.total > 0).then(|| self.needed() <= self.total)
    }
}

/// The memory of a decode step and the steps of a prompt together.
pub(super) fn memory<'a>(
    plan: &Planner<'_>,
    decode: &'a Asked,
    prefill: impl Iterator<Item = &'a Asked>,
) -> Result<Memory> {
    let info = plan.device.info();
    let (mut inputs, mut workspace) = (inputs(decode)?, plan.workspace(decode));
    for asked in prefill {
        inputs = inputs.max(self::inputs(asked)?);
        workspace = match (workspace, plan.workspace(asked)) {
            (Ok(a), Ok(b)) => Ok(a.max(b)),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
    }
    let memory = info.memories.first();
    Ok(Memory {
        weights: stored(decode, plan.stored, plan.placed)?,
        weights_placed: placed(decode, Home::Device, info.caps.import_host)?,
        cache: plan.cache_bytes(Home::Device)?,
        host: placed(decode, Home::Host, true)?.saturating_add(plan.cache_bytes(Home::Host)?),
        inputs,
        workspace,
        total: memory.map_or(0, |m| m.total_bytes),
        free: memory.map_or(0, |m| m.free_bytes),
    })
}

fn bound_bytes(asked: &Asked, bound: usize) -> Result<u64> {
    Ok(asked.given().desc(asked.given().bound()[bound]).bytes()? as u64)
}

/// Everything bound that is neither a weight nor a cache.
fn inputs(asked: &Asked) -> Result<u64> {
    let constants = asked.g.constants.iter().map(|c| c.bound);
    let caches = asked.g.caches.iter().chain(&asked.g.scales).flat_map(|&(k, v)| [k, v]);
    let others: HashSet<usize> = constants.chain(caches).collect();
    let bound = (0..asked.given().bound().len()).filter(|at| !others.contains(at));
    let bound = bound.filter(|&at| asked.home(at) == Home::Device);
    bound.map(|at| bound_bytes(asked, at)).sum()
}

/// Bytes of the weights in the dtype of their files.
fn stored(asked: &Asked, dtype: DType, placed: DType) -> Result<u64> {
    let graph = asked.given();
    let mut all: HashMap<&str, u64> = HashMap::new();
    for c in &asked.g.constants {
        let own = graph.desc(graph.bound()[c.bound]);
        // Codes, tables of scales and blocks are stored as they are placed; floats may have been converted.
        let floats = own.dtype == placed && !c.name.ends_with(".scales");
        let desc = TensorDesc::new(if floats { dtype } else { own.dtype }, &own.shape)?;
        all.insert(&c.name, desc.bytes()? as u64);
    }
    Ok(all.values().sum())
}

/// Bytes of the weights on a side. One that is packed has a place of its own for each use; one that is not is shared where the
/// side reads host memory.
fn placed(asked: &Asked, home: Home, import: bool) -> Result<u64> {
    let mut shared = HashSet::new();
    let mut bytes = 0u64;
    for c in asked.g.constants.iter().filter(|c| asked.home(c.bound) == home) {
        bytes += match asked.pack(c.bound) {
            Some(pack) => pack.bytes as u64,
            None if import && !shared.insert(c.name.as_str()) => 0,
            None => bound_bytes(asked, c.bound)?,
        };
    }
    Ok(bytes)
}
