//! Where the bound tensors of a model's graphs live: on the device, or on the host that it falls back to.
//!
//! Inputs, logits and residual streams are on the device. The plan of a decode step decides for the weights; that step and a
//! chunk of a prompt together decide for keys and values, which never move. Whatever comes later keeps to it.

use qiao_core::Device;
use qiao_layers::{Home, Policy, survey};

use crate::error::Result;
use crate::model::{Constant, ModelGraph};

/// Where that lives which belongs to a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SequenceHomes {
    /// Keys and values of each layer.
    pub(crate) caches: Vec<[Home; 2]>,
    /// The rotary tables.
    pub(crate) rotary: Home,
}

impl SequenceHomes {
    /// Everything on the device.
    pub(crate) fn on_device(layers: usize) -> SequenceHomes {
        SequenceHomes { caches: vec![[Home::Device; 2]; layers], rotary: Home::Device }
    }

    /// On the host what a decode step keeps there, and keys and values also where a chunk of a prompt does.
    ///
    /// # Errors
    /// As [`survey`].
    pub(crate) fn decide(
        device: &dyn Device,
        policy: &Policy,
        decode: &ModelGraph,
        chunk: Option<&ModelGraph>,
    ) -> Result<SequenceHomes> {
        let mut homes = SequenceHomes::on_device(decode.caches.len());
        if policy.host().is_none() {
            return Ok(homes);
        }
        for (g, is_decode) in [(Some(decode), true), (chunk, false)] {
            let Some(g) = g else { continue };
            let found = survey(device, g.graph.clone(), policy, &fixed(g, |_| None, None))?.homes;
            for (pair, &(k, v)) in homes.caches.iter_mut().zip(&g.caches) {
                for (home, at) in pair.iter_mut().zip([k, v]) {
                    *home = if found[at] == Home::Host { Home::Host } else { *home };
                }
            }
            if is_decode {
                homes.rotary = found[g.inputs.cos];
            }
        }
        Ok(homes)
    }
}

/// The constraints on where a graph's bound tensors live. A weight for which nothing is known is free, as is all that belongs to
/// a sequence where nothing is.
pub(crate) fn fixed(
    g: &ModelGraph,
    weight: impl Fn(&Constant) -> Option<Home>,
    sequence: Option<&SequenceHomes>,
) -> Vec<Option<Home>> {
    let mut homes = vec![Some(Home::Device); g.graph.bound().len()];
    for c in &g.constants {
        homes[c.bound] = weight(c);
    }
    for (layer, &(k, v)) in g.caches.iter().enumerate() {
        let of = |which: usize| sequence.map(|s| s.caches[layer][which]);
        (homes[k], homes[v]) = (of(0), of(1));
        if let Some(&(k, v)) = g.scales.get(layer) {
            (homes[k], homes[v]) = (of(0), of(1));
        }
    }
    let rotary = sequence.map(|s| s.rotary);
    (homes[g.inputs.cos], homes[g.inputs.sin]) = (rotary, rotary);
    homes
}
