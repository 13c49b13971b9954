//! Products that run together, behind a norm of their rows, and gates that meet what they gate on the way, give the bytes that
//! they give one by one. A result that is bound is written in its turn, so a graph whose results are all bound runs product by
//! product.

mod trials;

use proptest::prelude::*;
use qiao_core::*;
use qiao_cpu::CpuDevice;
use trials::{Data, Maker, devices, execute, pack};

/// A graph while it is built, and the bytes of what is bound.
struct Build {
    graph: Graph,
    bytes: Vec<Vec<u8>>,
    /// Whether every result is bound.
    bound: bool,
}

impl Build {
    fn new(bound: bool) -> Self {
        Build { graph: Graph::new(), bytes: Vec::new(), bound }
    }

    fn bind(&mut self, (desc, bytes): Data) -> TensorId {
        self.bytes.push(bytes);
        self.graph.bind(format!("t{}", self.bytes.len()), desc)
    }

    fn blank(&mut self, dtype: DType, shape: &[usize]) -> TensorId {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let bytes = vec![0x5a; desc.bytes().unwrap()];
        self.bind((desc, bytes))
    }

    fn add(&mut self, op: Op, inputs: &[Option<TensorId>], dtype: DType, shape: &[usize]) -> TensorId {
        if self.bound {
            let out = self.blank(dtype, shape);
            self.graph.add_into(op, inputs, &[out]).unwrap();
            return out;
        }
        self.graph.add_as(op, inputs, dtype).unwrap()[0]
    }

    /// As [`Build::add`], of an operator with two results of a shape.
    fn add_two(&mut self, op: Op, inputs: &[Option<TensorId>], dtype: DType, shape: &[usize]) -> [TensorId; 2] {
        if self.bound {
            let out = [(); 2].map(|()| self.blank(dtype, shape));
            self.graph.add_into(op, inputs, &out).unwrap();
            return out;
        }
        self.graph.add_as(op, inputs, dtype).unwrap().try_into().unwrap()
    }

    fn product(&mut self, x: TensorId, w: TensorId, bias: Option<TensorId>, dtype: DType) -> TensorId {
        let (x_desc, w_desc) = (self.graph.desc(x).clone(), self.graph.desc(w).clone());
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        let (op, inputs) = if w_desc.dtype.is_activation() {
            let attrs = MatmulAttrs { trans_b: true, epilogue, ..Default::default() };
            (Op::Matmul(attrs), vec![Some(x), Some(w), bias])
        } else {
            let attrs = MatmulQuantAttrs { epilogue, ..Default::default() };
            (Op::MatmulQuant(attrs), vec![Some(x), Some(w), None, None, None, bias])
        };
        self.add(op, &inputs, dtype, &[x_desc.shape[0], w_desc.shape[0]])
    }

    fn gate(&mut self, gate: TensorId, up: TensorId) -> TensorId {
        let desc = self.graph.desc(gate).clone();
        self.add(Op::SiluMul(SiluMulAttrs::default()), &[Some(gate), Some(up)], desc.dtype, &desc.shape)
    }

    /// Copies a tensor to one that is bound in either graph; its position among those.
    fn keep(&mut self, from: TensorId) -> usize {
        let desc = self.graph.desc(from).clone();
        let out = self.blank(desc.dtype, &desc.shape);
        self.graph.add_into(Op::Copy(NoAttrs {}), &[Some(from)], &[out]).unwrap();
        self.bytes.len() - 1
    }

    /// What lies in these bound tensors afterwards, and the bytes of the workspace.
    fn run(mut self, device: &CpuDevice, kept: &[usize]) -> (Vec<Vec<u8>>, usize) {
        pack(device, &mut self.graph, &mut self.bytes).unwrap();
        let plan = device.plan(&self.graph).unwrap();
        let all = execute(device, &*plan, &self.bytes).unwrap();
        (kept.iter().map(|&at| all[at].clone()).collect(), plan.info().workspace_bytes)
    }
}

/// A weight `[n, k]`; what is no dtype of activations is blocks with small scales.
fn weight(m: &mut Maker, dtype: DType, n: usize, k: usize) -> Data {
    if dtype.is_activation() {
        let (desc, bytes) = m.of(dtype, &[n, k]);
        return (desc.as_constant(), bytes);
    }
    let desc = TensorDesc::new(dtype, &[n, k]).unwrap();
    let block = dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
    // Both formats begin a block with an f16 scale: one of about 2^-8.
    bytes.chunks_exact_mut(block).for_each(|b| (b[0], b[1]) = (b[2], 0x1c));
    (desc.as_constant(), bytes)
}

/// A norm, queries, keys and values with an activation between them, then another norm, a gate and what it gates.
fn layer(bound: bool, tokens: usize, compute: DType, [attention, gate, up]: [DType; 3]) -> (Build, Vec<usize>) {
    let (mut m, mut b) = (Maker::new(31), Build::new(bound));
    let (d, inter) = (96, 160);
    let x = b.bind(m.of(compute, &[tokens, d]));
    let [wq, wk, wv] = [d, 48, 40].map(|n| b.bind(weight(&mut m, attention, n, d)));
    let [gate, up] = [gate, up].map(|dtype| b.bind(weight(&mut m, dtype, inter, d)));
    let bias = b.bind(m.of(DType::F32, &[inter]));
    let norm = NormAttrs { eps: 1e-5, ..Default::default() };
    let weight = b.bind(m.of(DType::F32, &[d]));
    let h = b.add(Op::RmsNorm(norm), &[Some(x), Some(weight)], compute, &[tokens, d]);
    let k = b.product(h, wk, None, compute);
    let turned = b.add(Op::Silu(NoAttrs {}), &[Some(k)], compute, &[tokens, 48]);
    let v = b.product(h, wv, None, compute);
    let q = b.product(h, wq, None, compute);
    let [sum, h] = b.add_two(Op::AddRmsNorm(norm), &[Some(q), Some(x), Some(weight)], compute, &[tokens, d]);
    let (gate, up) = (b.product(h, gate, None, compute), b.product(h, up, Some(bias), compute));
    let y = b.gate(gate, up);
    let kept = [turned, v, sum, y].map(|t| b.keep(t)).into();
    (b, kept)
}

#[test]
fn a_layer_is_the_same_fused_and_node_by_node() {
    use DType::*;
    for device in devices() {
        for tokens in [1, 3, 17, 40, 530] {
            for compute in [F32, F16, BF16] {
                for weights in [[F32, F16, F16], [BF16, BF16, BF16], [Q4_0, Q8_0, Q8_0], [Q8_0, Q4_0, Q8_0]] {
                    let run = |bound| {
                        let (build, kept) = layer(bound, tokens, compute, weights);
                        build.run(&device, &kept)
                    };
                    let at = format!("{tokens} tokens of {compute}, {weights:?} on {}", device.info().arch);
                    let [(fused, _), (single, _)] = [run(false), run(true)];
                    assert!(fused.iter().flatten().any(|&byte| byte != 0x5a), "{at}: nothing was written");
                    assert!(fused == single, "{at}");
                }
            }
        }
    }
}

#[test]
fn a_gate_and_what_it_gates_take_no_workspace() {
    for device in devices() {
        let (tokens, inter) = (512, 1024);
        let workspace = |both: bool| {
            let (mut m, mut b) = (Maker::new(32), Build::new(false));
            let x = b.bind(m.of(DType::F32, &[tokens, 32]));
            let [gate, up] = [(); 2].map(|()| b.bind(weight(&mut m, DType::Q8_0, inter, 32)));
            let gate = b.product(x, gate, None, DType::F32);
            let up = b.product(x, up, None, DType::F32);
            let y = b.gate(gate, up);
            let mut kept = vec![b.keep(y)];
            if both {
                kept.push(b.keep(gate));
            }
            b.run(&device, &kept).1
        };
        let one = tokens * inter * size_of::<f32>();
        let (less, more) = (workspace(false), workspace(true));
        // What waits in the scratch of three threads is less than either.
        assert!(less + one < more, "{less} and {more} bytes: a gate that is read later has a place");
    }
}

/// What the nodes of a random graph do: an operator and two operands, by number.
type Nodes = Vec<(u8, usize, usize)>;

/// Products of a few tensors with a few weights, gates, sums, and copies into tensors that others read.
fn random(bound: bool, tokens: usize, nodes: &Nodes) -> (Build, Vec<usize>) {
    const N: usize = 32;
    let (mut m, mut b) = (Maker::new(33), Build::new(bound));
    let written = [(); 2].map(|()| b.bind(m.of(DType::F32, &[tokens, N])));
    let weights = [DType::Q4_0, DType::Q4_0, DType::Q8_0, DType::BF16].map(|w| b.bind(weight(&mut m, w, N, N)));
    let mut known: Vec<TensorId> = written.into();
    let mut read = vec![true; 2];
    for &(what, i, j) in nodes {
        let (i, at) = (i % known.len(), j % known.len());
        let (one, other) = (known[i], known[at]);
        read[i] = true;
        let shape = [tokens, N];
        match what % 10 {
            0..=4 => known.push(b.product(one, weights[j % 4], None, DType::F32)),
            5..=7 => {
                read[at] = true;
                known.push(b.gate(one, other));
            }
            8 => {
                read[at] = true;
                known.push(b.add(Op::Add(NoAttrs {}), &[Some(one), Some(other)], DType::F32, &shape));
            }
            _ if one != written[j % 2] => {
                b.graph.add_into(Op::Copy(NoAttrs {}), &[Some(one)], &[written[j % 2]]).unwrap();
            }
            _ => {}
        }
        read.resize(known.len(), false);
    }
    let leaves: Vec<TensorId> = known.iter().zip(&read).filter(|(_, read)| !**read).map(|(id, _)| *id).collect();
    let kept = leaves.into_iter().map(|id| b.keep(id)).chain([0, 1]);
    let kept = kept.collect();
    (b, kept)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_random_graph_is_the_same_fused_and_node_by_node(
        nodes in prop::collection::vec((0u8..10, 0usize..64, 0usize..64), 1..16),
        tokens in prop::sample::select(vec![1, 2, 20]),
    ) {
        for device in devices() {
            let run = |bound| {
                let (build, kept) = random(bound, tokens, &nodes);
                build.run(&device, &kept).0
            };
            prop_assert_eq!(run(false), run(true), "on {}", device.info().arch);
        }
    }
}
