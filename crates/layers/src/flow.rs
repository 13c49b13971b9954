//! What the nodes of a graph read and write, and parts of a graph as graphs of their own.

use std::collections::HashMap;

use qiao_core::{Graph, Result, Storage, TensorId};

/// The tensors behind what a node reads, views resolved. A tensor of which only a part is written counts as read, since the
/// rest stays.
pub(crate) fn reads(graph: &Graph, node: usize) -> impl Iterator<Item = TensorId> {
    let node = &graph.nodes()[node];
    let parts = node.outputs.iter().filter(|&&id| !covers(graph, id));
    node.inputs.iter().flatten().chain(parts).map(|&id| graph.root(id).0)
}

/// The tensors behind what a node writes, views resolved.
pub(crate) fn writes(graph: &Graph, node: usize) -> impl Iterator<Item = TensorId> {
    graph.nodes()[node].outputs.iter().map(|&id| graph.root(id).0)
}

/// The tensors behind what a node touches, each with its number as an operand: inputs first, then outputs.
pub(crate) fn touches(graph: &Graph, node: usize) -> impl Iterator<Item = (usize, TensorId)> {
    let node = &graph.nodes()[node];
    let outputs = node.outputs.iter().copied().map(Some);
    let all = node.inputs.iter().copied().chain(outputs).enumerate();
    all.filter_map(|(i, id)| Some((i, graph.root(id?).0)))
}

/// Whether writing `id` writes every byte of the tensor behind it.
fn covers(graph: &Graph, id: TensorId) -> bool {
    let (root, offset) = graph.root(id);
    let bytes = |id| graph.desc(id).bytes().ok();
    offset == 0 && graph.desc(id).is_contiguous() && bytes(id) == bytes(root)
}

/// Some nodes of a graph as a graph.
pub(crate) struct Part {
    /// The graph.
    pub(crate) graph: Graph,
    /// For each of its bound tensors, the tensor of the whole graph that it stands for; never a view.
    pub(crate) bound: Vec<TensorId>,
}

/// Takes nodes of a graph, in order, as a graph: bound tensors stay bound, and temporaries that are `outside` become so.
///
/// # Errors
/// The nodes read a temporary that none of them writes and that is not `outside`.
pub(crate) fn part(
    whole: &Graph,
    nodes: impl Iterator<Item = usize>,
    outside: &dyn Fn(TensorId) -> bool,
) -> Result<Part> {
    let mut taken = Taken { whole, outside, graph: Graph::new(), bound: Vec::new(), ids: HashMap::new() };
    for index in nodes {
        let node = &whole.nodes()[index];
        let inputs = node.inputs.iter().map(|id| id.map(|id| taken.id(id)).transpose()).collect::<Result<Vec<_>>>()?;
        let outputs = node.outputs.iter().map(|&id| taken.id(id)).collect::<Result<Vec<_>>>()?;
        taken.graph.add_into(node.op, &inputs, &outputs)?;
    }
    Ok(Part { graph: taken.graph, bound: taken.bound })
}

struct Taken<'a> {
    whole: &'a Graph,
    outside: &'a dyn Fn(TensorId) -> bool,
    graph: Graph,
    bound: Vec<TensorId>,
    ids: HashMap<TensorId, TensorId>,
}

impl Taken<'_> {
    fn id(&mut self, id: TensorId) -> Result<TensorId> {
        if let Some(&own) = self.ids.get(&id) {
            return Ok(own);
        }
        let tensor = self.whole.tensor(id);
        let (name, desc) = (tensor.name.clone(), tensor.desc.clone());
        let own = match tensor.storage {
            Storage::View(root, offset) => {
                let root = self.id(root)?;
                self.graph.view(root, desc, offset)?
            }
            Storage::Temporary if !(self.outside)(id) => self.graph.temporary(name, desc),
            _ => {
                self.bound.push(id);
                self.graph.bind(name, desc)
            }
        };
        self.ids.insert(id, own);
        Ok(own)
    }
}
