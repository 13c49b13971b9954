//! Rotary positions, and their turning of keys on the way into the cache.

use qiao_core::{
    Accept, DType, Graph, KvLayout, NodeView, Op, OpKind, Pages, Reason, Result, RopeStyle, Row, Storage, TensorDesc,
    TensorId,
};

use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row};
use crate::rowwise::{Fields, Rows, accessor, floats};

/// Threads of a block.
const THREADS: usize = 128;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::Rope, "rope", accepts, rope)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    floats(node, &[0, 4])
}

/// The kernels' struct.
fn described(node: &NodeView<'_>) -> Fields {
    let Op::Rope(attrs) = *node.op() else { unreachable!("the callers pair rope with its kernels") };
    let [x, positions, cos, sin] = [0, 1, 2, 3].map(|i| node.required(i));
    let (heads, dim) = (x.shape[1], x.shape[2]);
    let rotary = if attrs.rotary_dim == 0 { dim } else { attrs.rotary_dim as usize };
    let fields = Fields::default().rows(&Rows::of(x)).rows(&Rows::of(node.output(0)));
    let fields = fields.size(heads).size(dim).size(rotary / 2).u32(attrs.offset);
    let fields = fields.flag(attrs.style == RopeStyle::Interleaved).flag(positions.dtype == DType::I64);
    let fields = fields.size(cos.shape[0]).u32(0).u64(positions.strides[0] as u64);
    [cos, sin].iter().flat_map(|t| t.strides.iter()).fold(fields, |f, &stride| f.u64(stride as u64))
}

/// Blocks for tokens of so many elements, of which a thread takes as many at once as sixteen bytes hold; threads go on where
/// that is too few.
fn grid(tokens: usize, elements: usize, how: &str, dtype: DType) -> [u32; 3] {
    let at_once = if how == "any" { 1 } else { 16 / dtype.block_bytes() };
    [tokens as u32, elements.div_ceil(at_once * THREADS).clamp(1, 64) as u32, 1]
}

fn rope(node: &NodeView<'_>, _: &Chip) -> Result<Prepared> {
    let x = node.required(0);
    if x.elements() == 0 {
        return Ok(Prepared::default());
    }
    let inputs = [0, 1, 2, 3].map(|i| Arg::input(node, i));
    let args = inputs.into_iter().chain([Arg::output(node, 0), described(node).arg()]).collect();
    let how = accessor(&[&Rows::of(x), &Rows::of(node.output(0))]);
    // Half of the elements turn with the other half.
    let grid = grid(x.shape[0], x.shape[1] * x.shape[2] / 2, how, x.dtype);
    Ok(Prepared { launches: vec![Launch::new(&format!("rope_{how}"), grid, 0, args)], scratch: 0 })
}

/// The nodes that turn keys, write them to the cache and turn queries.
struct Trio {
    keys: usize,
    write: usize,
    queries: usize,
}

impl Trio {
    /// The three of which this node is the first.
    fn find(graph: &Graph, keys: usize) -> Option<Self> {
        let turn = graph.node(keys);
        let turned = *turn.node.outputs.first().filter(|_| turn.kind() == OpKind::Rope)?;
        let root = |id: TensorId| graph.root(id).0;
        let nodes = graph.nodes();
        let mut readers =
            (keys + 1..nodes.len()).filter(|&n| nodes[n].inputs.iter().flatten().any(|&i| root(i) == root(turned)));
        let write = readers.next()?;
        let only = readers.next().is_none() && graph.tensor(turned).storage == Storage::Temporary;
        let into = &nodes[write];
        if !only
            || into.op.kind() != OpKind::KvWrite
            || into.inputs[0] != Some(turned)
            || into.inputs[1] == Some(turned)
        {
            return None;
        }
        // The next rotation, by the same tables.
        let next = |n: &usize| nodes[*n].op.kind() == OpKind::Rope;
        let queries = (write + 1..nodes.len()).find(next)?;
        let alike = nodes[queries].op == nodes[keys].op && nodes[queries].inputs[1..] == nodes[keys].inputs[1..];
        let trio = Trio { keys, write, queries };
        (alike && trio.may_move(graph)).then_some(trio)
    }

    /// Whether all three may run where the last stands: nothing before it changes what they read, or reads or changes what
    /// they write, and none writes what another's part of the launch reads.
    fn may_move(&self, graph: &Graph) -> bool {
        let root = |id: &TensorId| graph.root(*id).0;
        let nodes = graph.nodes();
        let inputs = |n: usize| nodes[n].inputs.iter().flatten().map(root);
        let outputs = |n: usize| nodes[n].outputs.iter().map(root);
        let moved = [self.keys, self.write];
        let reads: Vec<_> = moved.iter().flat_map(|&n| inputs(n)).collect();
        let writes: Vec<_> = moved.iter().flat_map(|&n| outputs(n)).collect();
        let mut between = (self.keys + 1..self.queries).filter(|&n| n != self.write);
        // The write's operands may still be made before it stands in the graph.
        let read_by = |n: usize, o: &TensorId| {
            if n > self.write { reads.contains(o) } else { inputs(self.keys).any(|i| i == *o) }
        };
        let in_order = |n: usize| {
            outputs(n).all(|o| !writes.contains(&o) && !read_by(n, &o)) && inputs(n).all(|i| !writes.contains(&i))
        };
        let apart = outputs(self.queries).all(|o| !reads.contains(&o) && !writes.contains(&o))
            && inputs(self.queries).all(|i| !writes.contains(&i));
        apart && between.all(in_order)
    }
}

/// The strides between blocks, heads and tokens of a cache.
fn cache_strides(cache: &TensorDesc, layout: KvLayout) -> [u64; 3] {
    let s = &cache.strides;
    let order = match layout {
        KvLayout::BlockHeadToken => [s[0], s[1], s[2]],
        KvLayout::BlockTokenHead => [s[0], s[2], s[1]],
    };
    order.map(|stride| stride as u64)
}

/// A rotation of keys, their write to the cache and the rotation of queries as one launch: the positions of the nodes, and what
/// runs. Nothing where the cache holds anything but the keys and values as they are.
pub(crate) fn with_cache(graph: &Graph, index: usize) -> Option<(Vec<usize>, Prepared)> {
    let trio = Trio::find(graph, index)?;
    let [keys, write, queries] = [trio.keys, trio.write, trio.queries].map(|n| graph.node(n));
    let Op::KvWrite(attrs) = *write.op() else { return None };
    let (q, k, v) = (queries.required(0), keys.required(0), write.required(1));
    let caches = [3, 4].map(|i| write.required(i));
    let pages = caches.map(|c| Pages::of(c, attrs.kv_layout));
    let (k_pages, v_pages) = (pages[0]?, pages[1]?);
    let scaled = [5, 6].iter().any(|&i| write.input(i).is_some());
    let fits = !scaled && k_pages.block_size == v_pages.block_size && k_pages.blocks == v_pages.blocks;
    let tensors = [q, queries.output(0), k, keys.output(0), v, caches[0], caches[1]];
    let rows = tensors.map(Rows::of);
    let how = accessor(&rows.each_ref());
    let empty = q.elements() == 0 || k.elements() == 0 || v.elements() == 0 || k_pages.block_size == 0;
    if !fits || how == "any" || empty || q.shape[0] != k.shape[0] || q.shape[2] != k.shape[2] {
        return None;
    }
    let slots = write.required(2);
    let strides = caches.iter().flat_map(|c| cache_strides(c, attrs.kv_layout));
    let numbers = strides.chain([slots.strides[0] as u64, (k_pages.blocks * k_pages.block_size) as u64]);
    let fields = numbers.fold(described(&queries).rows(&rows[2]).rows(&rows[4]), Fields::u64);
    let fields = fields.size(k_pages.heads).size(v_pages.head_dim).size(k_pages.block_size);
    let fields = fields.flag(slots.dtype == DType::I64);
    let args = vec![
        Arg::input(&queries, 0),
        Arg::input(&keys, 0),
        Arg::input(&write, 1),
        Arg::input(&queries, 1),
        Arg::input(&queries, 2),
        Arg::input(&queries, 3),
        Arg::input(&write, 2),
        Arg::output(&queries, 0),
        Arg::input(&write, 3),
        Arg::input(&write, 4),
        fields.arg(),
    ];
    let elements = [q, k, v].iter().map(|d| d.elements()).sum::<usize>() / q.shape[0];
    let grid = grid(q.shape[0], elements, how, q.dtype);
    let launches = vec![Launch::new(&format!("rope_kv_{how}"), grid, 0, args)];
    Some((vec![trio.keys, trio.write, trio.queries], Prepared { launches, scratch: 0 }))
}
