//! A graph of the boundary as a graph of `core`, through its checked methods.

use qiao_core::{Graph, TensorId};

use crate::export::fault::{Fault, Result};
use crate::export::request::{Refusal, Request};

/// A graph, and where the operators that were asked about are in it.
pub(super) struct Translated {
    pub(super) graph: Graph,
    /// For each operator that was asked about: its node, or why it has none.
    pub(super) nodes: Vec<Result<usize, Refusal>>,
}

impl Request {
    /// The graph with every operator.
    ///
    /// # Errors
    /// An operator that is not known here; whatever `core` refuses.
    pub(super) fn graph(self) -> Result<Graph> {
        for (index, asked) in self.ops.iter().enumerate() {
            if let Err(refusal) = &asked.op {
                return Err(Fault::from(refusal.clone()).of(format!("op {index}")));
            }
        }
        Ok(self.translate()?.graph)
    }

    /// The graph with every operator that is known here. What the others write is taken as given.
    ///
    /// # Errors
    /// Whatever `core` refuses.
    pub(super) fn translate(self) -> Result<Translated> {
        let mut graph = Graph::new();
        let ids = self.tensors_into(&mut graph)?;
        let mut nodes = Vec::with_capacity(self.ops.len());
        for (index, asked) in self.ops.into_iter().enumerate() {
            let op = match asked.op {
                Ok(op) => op,
                Err(refusal) => {
                    nodes.push(Err(refusal));
                    continue;
                }
            };
            // An operand without an id is of an unknown dtype, and its operator was refused for that.
            let inputs: Vec<_> = asked.inputs.iter().map(|i| i.and_then(|i| ids[i])).collect();
            let outputs: Vec<_> = asked.outputs.iter().filter_map(|&i| ids[i]).collect();
            let node = graph.add_into(op, &inputs, &outputs).map_err(|e| Fault::from(e).of(format!("op {index}")))?;
            nodes.push(Ok(node.index()));
        }
        Ok(Translated { graph, nodes })
    }

    /// Adds the tensors: bound ones in the order of their bindings, then temporaries, then views of either.
    fn tensors_into(&self, graph: &mut Graph) -> Result<Vec<Option<TensorId>>> {
        let given = self.given();
        let mut ids = vec![None; self.tensors.len()];
        let temporaries = (0..self.tensors.len()).filter(|&i| self.tensors[i].bound.is_none());
        for index in self.bound.iter().map(|&i| i as usize).chain(temporaries) {
            let tensor = &self.tensors[index];
            if let (Ok(desc), None) = (&tensor.desc, tensor.view) {
                let name = format!("tensor {index}");
                ids[index] = Some(match tensor.bound.is_some() || given[index] {
                    true => graph.bind(name, desc.clone()),
                    false => graph.temporary(name, desc.clone()),
                });
            }
        }
        for (index, tensor) in self.tensors.iter().enumerate() {
            if let (Ok(desc), Some((of, offset))) = (&tensor.desc, tensor.view)
                && let Some(of) = ids[of]
            {
                let id =
                    graph.view(of, desc.clone(), offset).map_err(|e| Fault::from(e).of(format!("tensor {index}")))?;
                ids[index] = Some(id);
            }
        }
        for (&id, tensor) in ids.iter().zip(&self.tensors) {
            if let (Some(id), true) = (id, tensor.layout != 0) {
                graph.set_layout(id, tensor.layout)?;
            }
        }
        Ok(ids)
    }

    /// Which tensors an operator that is refused here would write, so that later operators may read them.
    fn given(&self) -> Vec<bool> {
        let mut given = vec![false; self.tensors.len()];
        for asked in self.ops.iter().filter(|a| a.op.is_err()) {
            for &output in &asked.outputs {
                given[self.tensors[output].view.map_or(output, |(of, _)| of)] = true;
            }
        }
        given
    }
}
