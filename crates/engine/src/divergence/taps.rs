//! A graph whose every intermediate result can be read, and the graph of one of its nodes.

use std::collections::HashMap;

use qiao_core::{Graph, Storage, TensorDesc, TensorId};

use crate::error::Result;

/// A graph with every temporary bound after the tensors that were bound before, so that a device leaves each where it can be
/// read. Nodes are the same in the same order.
pub(super) struct Tapped {
    pub(super) graph: Graph,
    /// The temporaries, as the graph that was given names them, in the order in which they are bound.
    pub(super) taps: Vec<TensorId>,
}

impl Tapped {
    pub(super) fn new(graph: &Graph) -> Result<Tapped> {
        let mut out = Graph::new();
        let mut ids: HashMap<TensorId, TensorId> = HashMap::new();
        for &id in graph.bound() {
            ids.insert(id, out.bind(&graph.tensor(id).name, graph.desc(id).clone()));
        }
        let mut taps = Vec::new();
        let mut now = |out: &mut Graph, id: TensorId| -> Result<TensorId> {
            let (root, offset) = graph.root(id);
            let own = match ids.get(&root) {
                Some(&own) => own,
                None => {
                    taps.push(root);
                    let own = out.bind(&graph.tensor(root).name, graph.desc(root).clone());
                    ids.insert(root, own);
                    own
                }
            };
            if id == root {
                return Ok(own);
            }
            match ids.get(&id) {
                Some(&view) => Ok(view),
                None => {
                    let view = out.view(own, graph.desc(id).clone(), offset)?;
                    ids.insert(id, view);
                    Ok(view)
                }
            }
        };
        for node in graph.nodes() {
            let inputs = node.inputs.iter().map(|id| id.map(|id| now(&mut out, id)).transpose());
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let outputs = node.outputs.iter().map(|&id| now(&mut out, id)).collect::<Result<Vec<_>>>()?;
            out.add_into(node.op, &inputs, &outputs)?;
        }
        Ok(Tapped { graph: out, taps })
    }
}

/// Where an operand's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// What the caller binds at this position of the whole graph.
    Bound(usize),
    /// `bytes` of an intermediate result, from `offset` on.
    Value { root: TensorId, offset: usize, bytes: usize },
}

/// The graph of one node, everything bound, in no private layout.
pub(super) struct Single {
    pub(super) graph: Graph,
    /// For each bound tensor of the graph its source.
    pub(super) sources: Vec<Source>,
    /// The bound position of each input of the node.
    pub(super) inputs: Vec<Option<usize>>,
    /// The bound position of each output of the node.
    pub(super) outputs: Vec<usize>,
}

impl Single {
    /// The node at this position. `values` are bound tensors that count as results all the same.
    pub(super) fn new(whole: &Graph, index: usize, values: &[usize]) -> Result<Single> {
        let node = &whole.nodes()[index];
        let (mut graph, mut sources) = (Graph::new(), Vec::new());
        let mut own: HashMap<TensorId, (usize, TensorId)> = HashMap::new();
        let mut bind = |id: TensorId| -> Result<usize> {
            if let Some(&(position, _)) = own.get(&id) {
                return Ok(position);
            }
            let (root, offset) = whole.root(id);
            let desc = TensorDesc { layout: 0, ..whole.desc(id).clone() };
            sources.push(match whole.tensor(root).storage {
                Storage::Bound(position) if root == id && !values.contains(&position) => Source::Bound(position),
                _ => Source::Value { root, offset, bytes: desc.bytes()? },
            });
            let bound = graph.bind(&whole.tensor(id).name, desc);
            own.insert(id, (sources.len() - 1, bound));
            Ok(sources.len() - 1)
        };
        let inputs = node.inputs.iter().map(|id| id.map(&mut bind).transpose()).collect::<Result<Vec<_>>>()?;
        let outputs = node.outputs.iter().map(|&id| bind(id)).collect::<Result<Vec<_>>>()?;
        let id = |id: &TensorId| own[id].1;
        let operands: Vec<_> = node.inputs.iter().map(|input| input.as_ref().map(id)).collect();
        let results: Vec<_> = node.outputs.iter().map(id).collect();
        graph.add_into(node.op, &operands, &results)?;
        Ok(Single { graph, sources, inputs, outputs })
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::{DType, NoAttrs, NormAttrs, Op};

    use super::*;

    fn graph() -> Graph {
        let mut g = Graph::new();
        let desc = |shape: &[usize]| TensorDesc::new(DType::F32, shape).unwrap();
        let x = g.bind("x", desc(&[2, 4]));
        let y = g.bind("y", desc(&[4, 2]));
        let h = g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
        let sums = g.add(Op::AddRmsNorm(NormAttrs { eps: 1e-6, ..Default::default() }), &[Some(h), Some(x)]).unwrap();
        let v = g.reshape(sums[1], &[4, 2]).unwrap();
        g.add_into(Op::Copy(NoAttrs {}), &[Some(v)], &[y]).unwrap();
        g
    }

    #[test]
    fn every_intermediate_is_bound_behind_what_was_bound() {
        let g = graph();
        let tapped = Tapped::new(&g).unwrap();
        assert_eq!(tapped.taps.len(), 3, "one of silu, two of add_rms_norm, none of a view");
        assert_eq!(tapped.graph.bound().len(), 2 + 3);
        assert_eq!(tapped.graph.nodes().len(), g.nodes().len());
        assert!(tapped.graph.tensors().iter().all(|t| t.storage != Storage::Temporary));
        let ops = |g: &Graph| g.nodes().iter().map(|n| n.op).collect::<Vec<_>>();
        assert_eq!(ops(&tapped.graph), ops(&g));
    }

    #[test]
    fn one_node_binds_each_operand_once() {
        let g = graph();
        let single = Single::new(&g, 2, &[1]).unwrap();
        assert_eq!(single.graph.bound().len(), 2);
        let Source::Value { root, offset: 0, bytes: 32 } = single.sources[0] else { panic!("{:?}", single.sources) };
        assert_eq!(root, g.nodes()[1].outputs[1], "the tensor behind the view");
        assert_eq!((&single.inputs[..], &single.outputs[..]), (&[Some(0)][..], &[1][..]));
        assert!(matches!(single.sources[1], Source::Value { .. }), "a bound result is a value where it is asked to be");
        let single = Single::new(&g, 1, &[1]).unwrap();
        assert_eq!(single.sources[1], Source::Bound(0));
        assert_eq!(single.outputs, [2, 3]);
    }
}
