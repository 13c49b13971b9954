//! Where a node of a model's graph stands: in which layer, and beside which weight.

use std::collections::HashMap;

use qiao_core::{OpKind, TensorId};

use super::{DecoderSpec, ModelGraph, Use};

/// Where a node stands in its model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The decoder layer, from 0; `None` before the first layer and after the last.
    pub layer: Option<usize>,
    /// The weight that the node reads, as the checkpoint names it within its layer, e.g. `mlp.down_proj`; for a rotation that
    /// of the node whose result it rotates. Empty where there is none.
    pub part: String,
}

impl ModelGraph {
    /// The place of every node of the graph, in order. A node without weights stands in the layer of the node before it.
    pub fn places(&self, spec: &DecoderSpec) -> Vec<Place> {
        let constants: HashMap<TensorId, usize> =
            self.constants.iter().enumerate().map(|(i, c)| (self.graph.bound()[c.bound], i)).collect();
        let mut parts: HashMap<TensorId, String> = HashMap::new();
        let mut places: Vec<Place> = Vec::with_capacity(self.graph.nodes().len());
        for node in self.graph.nodes() {
            // A matrix says more about a node than its bias.
            let weights = node.inputs.iter().flatten().filter_map(|id| constants.get(id)).map(|&i| &self.constants[i]);
            let weight = weights.min_by_key(|c| c.usage == Use::Vector && c.name.ends_with(".bias"));
            let place = match weight {
                Some(weight) => split(&weight.name, spec.names.layers),
                None => {
                    let source = node.inputs.first().copied().flatten().filter(|_| node.op.kind() == OpKind::Rope);
                    let part = source.and_then(|id| parts.get(&self.graph.root(id).0)).cloned().unwrap_or_default();
                    Place { layer: places.last().and_then(|p| p.layer), part }
                }
            };
            for &output in &node.outputs {
                parts.insert(self.graph.root(output).0, place.part.clone());
            }
            places.push(place);
        }
        places
    }
}

/// A weight's layer and its name within it.
fn split(name: &str, layers: &str) -> Place {
    let short = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
    let in_layer = short.strip_prefix(layers).and_then(|rest| rest.split_once('.'));
    match in_layer.and_then(|(layer, part)| Some((layer.parse().ok()?, part))) {
        Some((layer, part)) => Place { layer: Some(layer), part: part.to_string() },
        None => Place { layer: None, part: short.to_string() },
    }
}
