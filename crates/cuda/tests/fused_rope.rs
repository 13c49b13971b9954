//! Rotations that run with the write of the KV cache, beside the three nodes by themselves.

mod rig;

use std::time::Duration;

use qiao_core::*;
use qiao_reference::data::{Fill, to_bytes};
use rig::*;

/// Plans a graph and runs it once: the bytes of every bound tensor afterwards, and those of the workspace.
fn run(graph: &Graph, bytes: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
    let device = device();
    let plan = device.plan(graph).unwrap();
    let mut stream = device.stream().unwrap();
    let bindings: Vec<Binding> = bytes.iter().map(|b| Binding::whole(device.alloc(0, b.len()).unwrap())).collect();
    bindings.iter().zip(bytes).for_each(|(binding, b)| stream.upload(binding, b).unwrap());
    let size = plan.info().workspace_bytes;
    let workspace = Binding::whole(device.alloc(0, size.max(1)).unwrap());
    plan.execute(&mut *stream, &bindings, &workspace).unwrap();
    stream.sync(Duration::MAX).unwrap();
    let mut read = |b: &Binding| {
        let mut out = vec![0; b.bytes];
        stream.download(&mut out, b).map(|()| out).unwrap()
    };
    (bindings.iter().map(&mut read).collect(), size)
}

const TOKENS: usize = 5;
const TABLE: usize = 11;

/// A layer's rotations and its cache.
#[derive(Clone, Copy, Debug)]
struct Layer {
    dtype: DType,
    index: DType,
    style: RopeStyle,
    layout: KvLayout,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    v_dim: usize,
    rotary: usize,
    /// Whether q, k and v are parts of one row.
    joined: bool,
}

impl Layer {
    /// The graph, with what it binds. Turned keys are a temporary, or bound, so that they must be written.
    fn graph(&self, bound_keys: bool) -> (Graph, Vec<Vec<u8>>) {
        let make = &mut Maker::new(31);
        let (mut graph, mut bytes) = (Graph::new(), Vec::new());
        let mut bind = |graph: &mut Graph, (desc, data): Data| {
            bytes.push(data);
            graph.bind(format!("t{}", bytes.len()), desc)
        };
        let wide = self.heads * self.dim + self.kv_heads * (self.dim + self.v_dim);
        let shapes =
            [[TOKENS, self.heads, self.dim], [TOKENS, self.kv_heads, self.dim], [TOKENS, self.kv_heads, self.v_dim]];
        let [q, k, v] = [0, 1, 2].map(|i| {
            let shape = shapes[i];
            let pitch = if self.joined { wide } else { shape[1] * shape[2] };
            let desc = TensorDesc::strided(self.dtype, &shape, &[pitch, shape[2], 1]).unwrap();
            // Values keep their bits, those of a NaN too.
            bind(&mut graph, if i == 2 { make.any(desc) } else { make.fill(Fill::Normal, desc) })
        });
        let list =
            |values: &[f64]| (TensorDesc::new(self.index, &[values.len()]).unwrap(), to_bytes(self.index, values));
        let positions = bind(&mut graph, list(&[3.0, 0.0, -1.0, 10.0, 11.0]));
        let half = if self.rotary == 0 { self.dim } else { self.rotary } / 2;
        let cos = bind(&mut graph, make.of(DType::F32, &[TABLE, half]));
        let sin = bind(&mut graph, make.of(DType::F32, &[TABLE, half]));
        // Eight slots; one token has none.
        let slots = bind(&mut graph, list(&[7.0, -1.0, 0.0, 4.0, 3.0]));
        let pages = |d: usize| match self.layout {
            KvLayout::BlockTokenHead => [2, 4, self.kv_heads, d],
            KvLayout::BlockHeadToken => [2, self.kv_heads, 4, d],
        };
        let k_cache = bind(&mut graph, make.of(self.dtype, &pages(self.dim)));
        let v_cache = bind(&mut graph, make.of(self.dtype, &pages(self.v_dim)));
        let poison = |shape: &[usize]| {
            let desc = TensorDesc::new(self.dtype, shape).unwrap();
            let bytes = desc.bytes().unwrap();
            (desc, vec![0xa5; bytes])
        };
        let turned_q = bind(&mut graph, poison(&shapes[0]));
        let turned_k = match bound_keys {
            true => bind(&mut graph, poison(&shapes[1])),
            false => graph.temporary("k", poison(&shapes[1]).0),
        };
        let rope = Op::Rope(RopeAttrs { style: self.style, rotary_dim: self.rotary as u32, offset: 0 });
        let tables = [Some(positions), Some(cos), Some(sin)];
        graph.add_into(rope, &[&[Some(k)], &tables[..]].concat(), &[turned_k]).unwrap();
        let write = Op::KvWrite(KvWriteAttrs { kv_layout: self.layout });
        let operands = [turned_k, v, slots, k_cache, v_cache].map(Some);
        graph.add_into(write, &operands, &[k_cache, v_cache]).unwrap();
        graph.add_into(rope, &[&[Some(q)], &tables[..]].concat(), &[turned_q]).unwrap();
        (graph, bytes)
    }
}

#[test]
fn caches_and_queries_are_those_of_the_nodes_by_themselves() {
    let layer = Layer {
        dtype: DType::BF16,
        index: DType::I32,
        style: RopeStyle::HalfSplit,
        layout: KvLayout::BlockTokenHead,
        heads: 6,
        kv_heads: 2,
        dim: 64,
        v_dim: 64,
        rotary: 0,
        joined: false,
    };
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            for layout in [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken] {
                all.push(Layer { dtype, style, layout, ..layer });
            }
            all.push(Layer { dtype, style, rotary: 20, index: DType::I64, ..layer });
            all.push(Layer { dtype, style, dim: 18, v_dim: 7, joined: true, ..layer });
            all.push(Layer { dtype, style, heads: 14, dim: 128, v_dim: 96, joined: true, ..layer });
        }
    }
    for layer in all {
        let (fused, bytes) = layer.graph(false);
        let (got, workspace) = run(&fused, &bytes);
        assert_eq!(workspace, 0, "{layer:?}: turned keys have no memory");
        let (apart, bytes) = layer.graph(true);
        let (want, _) = run(&apart, &bytes);
        assert!(got == want[..got.len()], "{layer:?}");
    }
}

#[test]
fn a_cache_in_another_dtype_keeps_three_nodes() {
    let (mut graph, mut bytes) = (Graph::new(), Vec::new());
    let make = &mut Maker::new(32);
    let mut bind = |graph: &mut Graph, (desc, data): Data| {
        bytes.push(data);
        graph.bind(format!("t{}", bytes.len()), desc)
    };
    let [q, k, v] = [(); 3].map(|()| bind(&mut graph, make.of(DType::F16, &[1, 2, 16])));
    let index = (TensorDesc::new(DType::I32, &[1]).unwrap(), to_bytes(DType::I32, &[1.0]));
    let positions = bind(&mut graph, index);
    let [cos, sin] = [(); 2].map(|()| bind(&mut graph, make.of(DType::F32, &[4, 8])));
    let caches = [(); 2].map(|()| bind(&mut graph, make.bits(DType::F8E4M3, &[1, 4, 2, 16], 0)));
    let rope = Op::Rope(RopeAttrs { style: RopeStyle::HalfSplit, rotary_dim: 0, offset: 0 });
    let turned = graph.op1(rope, &[k, positions, cos, sin]).unwrap();
    let operands = [turned, v, positions, caches[0], caches[1]].map(Some);
    let write = Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockTokenHead });
    graph.add_into(write, &operands, &caches).unwrap();
    let to = bind(&mut graph, make.of(DType::F16, &[1, 2, 16]));
    graph.add_into(rope, &[q, positions, cos, sin].map(Some), &[to]).unwrap();
    let (_, workspace) = run(&graph, &bytes);
    assert!(workspace >= 64);
}
