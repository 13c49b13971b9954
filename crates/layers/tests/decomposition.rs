//! A composite operator and its decomposition give the same values: both are held to the truth by one tolerance, on the
//! device of the truth, with whole graphs and node by node.

use std::sync::Arc;

use qiao_core::*;
use qiao_layers::*;
use qiao_reference::data::{Fill, Rng, block_bytes, values};
use qiao_reference::{ReferenceBackend, Trial};

/// The reference without kernels for composite operators; plans go through lowering.
struct Primitive {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
}

impl Primitive {
    fn open(multi_op: bool) -> Arc<dyn Device> {
        let inner = ReferenceBackend.open(0).unwrap();
        let mut info = inner.info().clone();
        info.caps.multi_op = multi_op;
        info.tensor_align = 32;
        Arc::new(Primitive { inner: Validate::wrap(inner), info })
    }
}

/// Whether the list calls an operator composite, seen by decomposing a trial of it.
fn is_composite(node: &NodeView<'_>) -> bool {
    let mut graph = node.graph.without_nodes();
    for earlier in &node.graph.nodes()[..node.index] {
        graph.add_into(earlier.op, &earlier.inputs, &earlier.outputs).unwrap();
    }
    // A graph lets pieces write no temporary twice; lowering finds them another, and this question needs no answer for it.
    decompose::decompose(node.op(), &mut graph, &node.node.inputs, &node.node.outputs).unwrap_or(true)
}

impl Device for Primitive {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let answers = self.inner.support(graph);
        let refuse = |(node, answer)| if is_composite(&node) { NodeSupport::no(Reason::operator()) } else { answer };
        graph.views().zip(answers).map(refuse).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.inner.plan(graph)
    }
}

/// A primitive device whose plans are lowered ones, so that a trial can run on it.
struct Lowering(Arc<dyn Device>);

impl Device for Lowering {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.0.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.0.stream()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let lowered = lower(&self.0, graph.clone(), &Policy::DeviceOnly)?;
        assert_eq!(lowered.account.decomposed(), 1, "{}", lowered.account);
        assert!(lowered.graph.views().all(|n| !is_composite(&n)), "{}", lowered.graph);
        Ok(Arc::new(lowered))
    }
}

fn check(trial: &Trial) {
    let golden = trial.golden(None).unwrap();
    for multi_op in [true, false] {
        let device = Lowering(Primitive::open(multi_op));
        let got = trial.run(&device).unwrap();
        for found in golden.compare(&got) {
            assert!(found.passes(), "{}{found:?}", trial.graph().unwrap());
        }
    }
}

/// Appends operands of these shapes, drawn from a seed.
fn operands(mut trial: Trial, dtype: DType, shapes: &[Option<&[usize]>]) -> Trial {
    let mut rng = Rng::new(7);
    for shape in shapes {
        trial = match shape {
            Some(shape) => {
                let data = values(&mut rng, Fill::Normal, dtype, shape.iter().product());
                trial.values(dtype, shape, &data)
            }
            None => trial.without(),
        };
    }
    trial
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn silu_mul_of_one_tensor_or_two() {
    for dtype in DTYPES {
        for gate_second in [false, true] {
            let op = Op::SiluMul(SiluMulAttrs { gate_second, clamp: 0.0 });
            check(&operands(Trial::new(op), dtype, &[Some(&[3, 10])]));
        }
        check(&operands(Trial::new(Op::SiluMul(SiluMulAttrs::default())), dtype, &[Some(&[3, 5]), Some(&[3, 5])]));
    }
}

#[test]
fn matmul_with_every_epilogue() {
    let (a, b): (Option<&[usize]>, Option<&[usize]>) = (Some(&[3, 8]), Some(&[6, 8]));
    let (bias, residual): (Option<&[usize]>, Option<&[usize]>) = (Some(&[6]), Some(&[3, 6]));
    let cases: [(Epilogue, &[Option<&[usize]>]); 7] = [
        (Epilogue::Bias, &[a, b, bias]),
        (Epilogue::BiasResidual, &[a, b, bias, residual]),
        (Epilogue::BiasResidual, &[a, b, None, residual]),
        (Epilogue::SiluMul, &[a, b]),
        (Epilogue::SiluMul, &[a, b, bias]),
        (Epilogue::Gelu, &[a, b]),
        (Epilogue::Gelu, &[a, b, bias]),
    ];
    for dtype in DTYPES {
        for (epilogue, shapes) in cases {
            let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
            check(&operands(Trial::new(op), dtype, shapes));
        }
    }
}

#[test]
fn add_rms_norm_with_and_without_weights() {
    for dtype in DTYPES {
        let op = Op::AddRmsNorm(NormAttrs { eps: 1e-6, weight_offset: 1, round_before_weight: false });
        check(&operands(Trial::new(op), dtype, &[Some(&[3, 8]), Some(&[3, 8]), Some(&[8])]));
        check(&operands(Trial::new(op), dtype, &[Some(&[3, 8]), Some(&[3, 8])]));
    }
}

#[test]
fn an_operator_in_place_of_a_temporary_is_seen_by_later_readers() {
    // t = silu(x); t += x in place, y = its norm; z = the second row of t, by a view made before t was written twice.
    let mut graph = Graph::new();
    let desc = |rows| TensorDesc::new(DType::F32, &[rows, 4]).unwrap();
    let [x, y] = ["x", "y"].map(|name| graph.bind(name, desc(2)));
    let z = graph.bind("z", desc(1));
    let t = graph.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
    let row = graph.view(t, desc(1), 16).unwrap();
    let op = Op::AddRmsNorm(NormAttrs { eps: 1e-6, ..Default::default() });
    graph.add_into(op, &[Some(t), Some(x)], &[t, y]).unwrap();
    graph.add_into(Op::Copy(NoAttrs {}), &[Some(row)], &[z]).unwrap();
    let data: Vec<f32> = (0..8).map(|i| i as f32 / 2.0 - 1.5).collect();
    let want: Vec<f32> = data[4..].iter().map(|v| v / (1.0 + (-v).exp()) + v).collect();
    for multi_op in [true, false] {
        let device = Primitive::open(multi_op);
        let lowered = lower(&device, graph.clone(), &Policy::DeviceOnly).unwrap();
        assert_eq!(lowered.account.decomposed(), 2, "silu is composite too");
        let mut stream = device.stream().unwrap();
        let bindings = [32, 32, 16].map(|bytes| Binding::whole(device.alloc(0, bytes).unwrap()));
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        stream.upload(&bindings[0], &bytes).unwrap();
        let space = Binding::whole(device.alloc(0, lowered.info().workspace_bytes).unwrap());
        lowered.execute(&mut *stream, &bindings, &space).unwrap();
        let mut out = [0; 16];
        stream.download(&mut out, &bindings[2]).unwrap();
        let got: Vec<f32> = out.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-6), "{got:?} instead of {want:?}");
    }
}

#[test]
fn split_along_every_axis() {
    for (axis, parts) in [(0, 2), (1, 3), (2, 5)] {
        let op = Op::Split(SplitAttrs { axis, parts });
        check(&operands(Trial::new(op), DType::BF16, &[Some(&[4, 3, 5])]));
    }
}

#[test]
fn matmul_quant_of_blocks_and_groups() {
    let mut rng = Rng::new(11);
    let activations = |dtype| operands(Trial::new(Op::MatmulQuant(MatmulQuantAttrs::default())), dtype, &[]);
    for weights in [DType::Q8_0, DType::Q4_0, DType::Q4K] {
        let k = weights.block_elems();
        let a = values(&mut rng, Fill::Normal, DType::F32, 2 * k);
        let w = TensorDesc::new(weights, &[3, k]).unwrap();
        let blocks = block_bytes(&mut rng, weights, 3);
        check(&activations(DType::F32).values(DType::F32, &[2, k], &a).input(w, blocks));
    }
    let (n, k, group) = (4, 12, 6);
    let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: group as u32, ..Default::default() });
    let codes: Vec<f64> = (0..n * k).map(|i| (i * 29 % 255) as f64 - 127.0).collect();
    let scales: Vec<f64> = (0..n * k / group).map(|i| 0.01 * (i + 1) as f64).collect();
    let zeros: Vec<f64> = (0..n * k / group).map(|i| i as f64 - 3.0).collect();
    let a = values(&mut rng, Fill::Normal, DType::F32, 2 * k);
    let trial = Trial::new(op).values(DType::F32, &[2, k], &a).values(DType::I8, &[n, k], &codes).values(
        DType::F32,
        &[n, k / group],
        &scales,
    );
    check(&trial.clone());
    check(&trial.values(DType::I8, &[n, k / group], &zeros));
    // Two output channels to a row of scales; channels in the order of their activations.
    let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: group as u32, group_rows: 2, ..Default::default() });
    let trial = Trial::new(op).values(DType::F32, &[2, k], &a).values(DType::I8, &[n, k], &codes);
    let trial = trial.values(DType::F16, &[n / 2, k / group], &scales[..4]);
    check(&trial.clone());
    let trial = trial.values(DType::I8, &[n / 2, k / group], &zeros[..4]);
    let order: Vec<f64> = rng.permutation(k).iter().map(|c| (c / group) as f64).collect();
    check(&trial.values(DType::I64, &[k], &order));
}
