//! Steps that take rows apart run as one job where they follow each other, and just before their rows are packed for a
//! product: they give the bytes that each of them gives in a plan of its own.

mod trials;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qiao_core::*;
use qiao_cpu::CpuDevice;
use qiao_reference::data::to_bytes;
use trials::{Data, Maker, devices, pack, run};

/// A graph all of whose tensors are bound, so that it can also run node by node.
struct Build {
    graph: Graph,
    bytes: Vec<Vec<u8>>,
}

impl Build {
    fn bind(&mut self, (desc, bytes): Data) -> TensorId {
        self.bytes.push(bytes);
        self.graph.bind(format!("t{}", self.bytes.len()), desc)
    }

    fn blank(&mut self, dtype: DType, shape: &[usize]) -> TensorId {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let bytes = vec![0x11; desc.bytes().unwrap()];
        self.bind((desc, bytes))
    }

    /// Adds a node, where the graph allows it.
    fn add(&mut self, op: Op, inputs: &[TensorId], outputs: &[TensorId]) -> bool {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.add_into(op, &inputs, outputs).is_ok()
    }

    /// What all tensors hold after one plan, and after a plan for each node.
    fn both(mut self, device: &CpuDevice) -> [Vec<Vec<u8>>; 2] {
        pack(device, &mut self.graph, &mut self.bytes).unwrap();
        let together = run(device, &self.graph, &self.bytes).unwrap();
        let mut bytes = self.bytes;
        for node in self.graph.nodes() {
            let mut alone = self.graph.without_nodes();
            alone.add_into(node.op, &node.inputs, &node.outputs).unwrap();
            bytes = run(device, &alone, &bytes).unwrap();
        }
        [together, bytes]
    }
}

fn norm() -> NormAttrs {
    NormAttrs { eps: 1e-5, ..Default::default() }
}

fn ints(data: impl Iterator<Item = usize>) -> Data {
    let data: Vec<f64> = data.map(|i| i as f64).collect();
    (TensorDesc::new(DType::I32, &[data.len()]).unwrap(), to_bytes(DType::I32, &data))
}

/// A layer with its norms, rotations, cache, gate and quantisation.
fn layer(tokens: usize, dtype: DType, weights: DType) -> Build {
    let (mut m, mut b) = (Maker::new(41), Build { graph: Graph::new(), bytes: Vec::new() });
    let (heads, dim) = (6, 16);
    let d = heads * dim;
    let x = b.bind(m.of(dtype, &[tokens, d]));
    let other = b.bind(m.of(dtype, &[tokens, d]));
    let w = b.bind(m.of(DType::F32, &[d]));
    let of_head = b.bind(m.of(DType::F32, &[dim]));
    let tables = [(); 2].map(|()| b.bind(m.of(DType::F32, &[2048, dim / 2])));
    let positions = b.bind(ints((0..tokens).map(|t| t % 999)));
    let slots = b.bind(ints((0..tokens).map(|t| t ^ 1)));
    let caches = [(); 2].map(|()| b.blank(DType::F16, &[(tokens + 2).div_ceil(16), heads, 16, dim]));
    let mut product = |b: &mut Build, from, n, k| {
        let desc = TensorDesc::new(weights, &[n, k]).unwrap().as_constant();
        let (attrs, quant) = (MatmulAttrs { trans_b: true, ..Default::default() }, MatmulQuantAttrs::default());
        let op = if weights.is_activation() { Op::Matmul(attrs) } else { Op::MatmulQuant(quant) };
        let data = match weights {
            // Blocks of Q8_0 with scales of about 2^-8.
            DType::Q8_0 => {
                let mut bytes: Vec<u8> = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
                bytes.chunks_exact_mut(34).for_each(|block| (block[0], block[1]) = (block[2], 0x1c));
                (desc, bytes)
            }
            dtype => (desc, m.of(dtype, &[n, k]).1),
        };
        let (weight, out) = (b.bind(data), b.blank(dtype, &[tokens, n]));
        assert!(b.add(op, &[from, weight], &[out]));
        out
    };
    let y = b.blank(dtype, &[tokens, d]);
    assert!(b.add(Op::RmsNorm(norm()), &[x, w], &[y]));
    let q = product(&mut b, y, d, d);
    let q = b.graph.reshape(q, &[tokens, heads, dim]).unwrap();
    let [normed, turned] = [(); 2].map(|()| b.blank(dtype, &[tokens, heads, dim]));
    assert!(b.add(Op::RmsNorm(norm()), &[q, of_head], &[normed]));
    assert!(b.add(Op::Rope(RopeAttrs::default()), &[normed, positions, tables[0], tables[1]], &[turned]));
    let write = KvWriteAttrs { kv_layout: KvLayout::BlockHeadToken };
    assert!(b.add(Op::KvWrite(write), &[turned, q, slots, caches[0], caches[1]], &caches));
    let y = b.blank(dtype, &[tokens, d]);
    let flat = b.graph.reshape(turned, &[tokens, d]).unwrap();
    assert!(b.add(Op::AddRmsNorm(norm()), &[flat, other, w], &[x, y]));
    let both = product(&mut b, y, 2 * 64, d);
    let act = b.blank(dtype, &[tokens, 64]);
    assert!(b.add(Op::SiluMul(SiluMulAttrs::default()), &[both], &[act]));
    product(&mut b, act, 40, 64);
    let (codes, scales) = (b.blank(DType::I8, &[tokens, d]), b.blank(DType::F32, &[tokens]));
    let summed = b.blank(dtype, &[tokens, d]);
    assert!(b.add(Op::Add(NoAttrs {}), &[x, other], &[summed]));
    assert!(b.add(Op::QuantizeDynamic(NoAttrs {}), &[summed], &[codes, scales]));
    b
}

#[test]
fn a_layer_is_the_same_in_one_plan_and_in_many() {
    for device in devices() {
        for tokens in [1, 2, 13, 64, 515] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for weights in [DType::Q8_0, DType::BF16, DType::F16] {
                    let [together, alone] = layer(tokens, dtype, weights).both(&device);
                    for (i, (one, many)) in together.iter().zip(&alone).enumerate() {
                        let at = format!("{tokens} tokens of {dtype}, {weights} on {}", device.info().arch);
                        assert!(one == many, "tensor {i}: {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_column_of_what_is_computed_is_computed_before_rows_are_multiplied_with_it() {
    const N: usize = 256;
    for device in devices() {
        let (mut m, mut b) = (Maker::new(43), Build { graph: Graph::new(), bytes: Vec::new() });
        let [x, y] = [(); 2].map(|()| b.bind(m.of(DType::F32, &[N, N])));
        let column = TensorDesc::strided(DType::F32, &[N], &[N]).unwrap();
        for _ in 0..16 {
            let [wide, out] = [(); 2].map(|()| b.blank(DType::F32, &[N, N]));
            let column = b.graph.view(wide, column.clone(), 0).unwrap();
            assert!(b.add(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }), &[x], &[wide]));
            assert!(b.add(Op::RmsNorm(norm()), &[y, column], &[out]));
        }
        let [together, alone] = b.both(&device);
        assert!(together == alone, "on {}", device.info().arch);
    }
}

/// What a node does, and the views that it takes and writes, by number.
type Node = (u8, [usize; 4]);

/// Nodes that read and write views of three tensors, whose rows lie on each other and across each other.
fn random(tokens: usize, n: usize, nodes: &[Node]) -> Build {
    let (mut m, mut b) = (Maker::new(42), Build { graph: Graph::new(), bytes: Vec::new() });
    let weight = b.bind((TensorDesc::new(DType::BF16, &[n, n]).unwrap().as_constant(), m.of(DType::BF16, &[n, n]).1));
    let roots = [(); 3].map(|()| b.bind(m.of(DType::F32, &[tokens + 1, n])));
    let [mut whole, mut halves, mut short] = [const { Vec::new() }; 3];
    for root in roots {
        let mut view = |shape: &[usize], strides: &[usize], at: usize| {
            b.graph.view(root, TensorDesc::strided(DType::F32, shape, strides).unwrap(), 4 * at).unwrap()
        };
        // Rows as they lie, a row further on, from the middle of one to that of the next, and across.
        whole.push(view(&[tokens, n], &[n, 1], 0));
        whole.push(view(&[tokens, n], &[n, 1], n));
        whole.push(view(&[tokens, n], &[n, 1], n / 2));
        if tokens == n {
            whole.push(view(&[tokens, n], &[1, n], 0));
        }
        halves.push(view(&[tokens, n / 2], &[n, 1], 0));
        halves.push(view(&[tokens, n / 2], &[n, 1], n / 2));
        short.push(view(&[n], &[1], 0));
        short.push(view(&[n], &[1], tokens / 2 * n));
    }
    for &(what, at) in nodes {
        let [a, c, to, and] = at.map(|i| whole[i % whole.len()]);
        let (half, w) = (halves[at[3] % halves.len()], short[at[3] % short.len()]);
        let product = MatmulAttrs { trans_b: true, ..Default::default() };
        _ = match what % 9 {
            0 => b.add(Op::RmsNorm(norm()), &[a, w], &[to]),
            1 => b.add(Op::AddRmsNorm(norm()), &[a, c, w], &[to, and]),
            2 => b.add(Op::Add(NoAttrs {}), &[a, c], &[to]),
            3 => b.add(Op::Mul(NoAttrs {}), &[a, w], &[to]),
            4 => b.add(Op::Tanh(NoAttrs {}), &[a], &[to]),
            5 => b.add(Op::SiluMul(SiluMulAttrs::default()), &[a, c], &[to]),
            6 => b.add(Op::SiluMul(SiluMulAttrs::default()), &[a], &[half]),
            7 => b.add(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }), &[a], &[to]),
            _ => b.add(Op::Matmul(product), &[a, weight], &[to]),
        };
    }
    b
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_random_graph_is_the_same_in_one_plan_and_in_many(
        nodes in prop::collection::vec((0u8..9, prop::array::uniform4(0usize..32)), 1..12),
        (tokens, n) in prop::sample::select(vec![(1, 32), (16, 32), (700, 32), (256, 256)]),
    ) {
        for device in devices() {
            let [together, alone] = random(tokens, n, &nodes).both(&device);
            prop_assert!(together == alone, "on {}", device.info().arch);
        }
    }
}
