//! Products of one operand that run as one launch, beside the nodes by themselves.

mod rig;

use std::time::Duration;

use qiao_core::*;
use qiao_reference::Value;
use qiao_reference::data::to_bytes;
use rig::*;

/// Columns of q, k and v, of a gate, and the inputs of all.
const HEADS: [usize; 3] = [96, 32, 32];
const INNER: usize = 88;
const K: usize = 256;

/// Weights as a model has them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Plain,
    Codes,
}

/// A graph and what it binds, small integers all, so that sums are exact in any order.
struct Draft {
    graph: Graph,
    bytes: Vec<Vec<u8>>,
    dtype: DType,
    form: Form,
    seed: u64,
}

impl Draft {
    fn new(dtype: DType, form: Form) -> Self {
        Draft { graph: Graph::new(), bytes: Vec::new(), dtype, form, seed: 7 }
    }

    fn bind(&mut self, desc: TensorDesc, most: u64) -> TensorId {
        let data: Vec<f64> = (0..desc.elements())
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.seed >> 33) as f64 % (2 * most + 1) as f64 - most as f64
            })
            .collect();
        self.bytes.push(to_bytes(desc.dtype, &data));
        self.graph.bind(format!("t{}", self.bytes.len()), desc)
    }

    fn operand(&mut self, rows: usize) -> TensorId {
        self.bind(plain(self.dtype, &[rows, K]), 1)
    }

    /// A product whose result is a temporary.
    fn project(&mut self, x: TensorId, n: usize, bias: bool) -> TensorId {
        let epilogue = if bias { Epilogue::Bias } else { Epilogue::None };
        let (op, mut operands) = match self.form {
            Form::Plain => {
                let w = self.bind(plain(self.dtype, &[n, K]).as_constant(), 1);
                (Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() }), vec![Some(x), Some(w)])
            }
            Form::Codes => {
                let w = self.bind(plain(DType::I8, &[n, K]).as_constant(), 1);
                let scales = self.bind(plain(DType::F16, &[n, K / 64]).as_constant(), 1);
                let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: 64, epilogue, ..Default::default() });
                (op, vec![Some(x), Some(w), Some(scales), None, None])
            }
        };
        if bias {
            operands.push(Some(self.bind(plain(self.dtype, &[n]), 8)));
        }
        self.graph.add(op, &operands).unwrap()[0]
    }

    /// Binds a copy of a temporary.
    fn keep(&mut self, y: TensorId) -> TensorId {
        let out = self.bind(self.graph.desc(y).clone(), 0);
        self.graph.add_into(Op::Copy(NoAttrs {}), &[Some(y)], &[out]).unwrap();
        out
    }

    /// What was bound in this place, as numbers.
    fn numbers(&self, id: TensorId) -> Vec<f64> {
        let position = self.graph.bound().iter().position(|&b| b == id).unwrap();
        Value::load(self.graph.desc(id), &self.bytes[position]).unwrap().data
    }

    /// What a product is in real numbers.
    fn truth(&self, y: TensorId) -> Vec<f64> {
        let node = self.graph.nodes().iter().find(|n| n.outputs[0] == y).unwrap();
        let operand = |i: usize| node.inputs.get(i).copied().flatten().map(|id| self.numbers(id));
        let (x, w) = (operand(0).unwrap(), operand(1).unwrap());
        let (scales, bias) = match self.form {
            Form::Plain => (None, operand(2)),
            Form::Codes => (operand(2), operand(5)),
        };
        let n = w.len() / K;
        let weight = |o: usize, k: usize| w[o * K + k] * scales.as_ref().map_or(1.0, |s| s[o * (K / 64) + k / 64]);
        let sum = |i: usize| -> f64 { (0..K).map(|k| x[i / n * K + k] * weight(i % n, k)).sum() };
        (0..x.len() / K * n).map(|i| sum(i) + bias.as_ref().map_or(0.0, |b| b[i % n])).collect()
    }

    /// The graph with its weights packed, run once: what it binds afterwards, and how many kernels it launched.
    fn run(&self) -> (Vec<Vec<f64>>, u64) {
        let device = device();
        let mut stream = device.stream().unwrap();
        let alloc = |bytes: usize| Binding::whole(device.alloc(0, bytes.max(1)).unwrap());
        let mut bindings: Vec<Binding> = self.bytes.iter().map(|b| alloc(b.len())).collect();
        bindings.iter().zip(&self.bytes).for_each(|(binding, b)| stream.upload(binding, b).unwrap());
        let mut graph = self.graph.clone();
        for (node, answer) in device.support(&graph).into_iter().enumerate() {
            let Support::Relayout { operand, layout } = answer.answer else { continue };
            let id = graph.nodes()[node].inputs[operand].unwrap();
            let position = graph.bound().iter().position(|&b| b == id).unwrap();
            let desc = graph.desc(id).clone();
            let target = alloc(device.prepack_bytes(&desc, layout).unwrap());
            device.prepack(&mut *stream, &desc, &bindings[position], layout, &target).unwrap();
            bindings[position] = target;
            graph.set_layout(id, layout).unwrap();
        }
        let plan = device.plan(&graph).unwrap();
        let workspace = alloc(plan.info().workspace_bytes);
        stream.sync(Duration::MAX).unwrap();
        let before = launches_so_far();
        plan.execute(&mut *stream, &bindings, &workspace).unwrap();
        stream.sync(Duration::MAX).unwrap();
        let launches = launches_so_far() - before;
        let mut read = |(b, &id): (&Binding, &TensorId)| {
            let mut out = vec![0; b.bytes];
            stream.download(&mut out, b).unwrap();
            let desc = self.graph.desc(id);
            if desc.constant { Vec::new() } else { Value::load(desc, &out).unwrap().data }
        };
        (bindings.iter().zip(self.graph.bound()).map(&mut read).collect(), launches)
    }

    /// What a run left in a bound tensor.
    fn found<'a>(&self, run: &'a [Vec<f64>], id: TensorId) -> &'a [f64] {
        &run[self.graph.bound().iter().position(|&b| b == id).unwrap()]
    }
}

/// How many kernels the driver was asked to start.
fn launches_so_far() -> u64 {
    ["cuLaunchKernel", "cuLaunchKernelEx"].iter().map(|call| card().calls(call)).sum()
}

const FORMS: [(DType, Form); 4] =
    [(DType::F16, Form::Plain), (DType::BF16, Form::Plain), (DType::F16, Form::Codes), (DType::BF16, Form::Codes)];

#[test]
fn queries_keys_and_values_are_one_launch() {
    let _alone = card().alone();
    for (dtype, form) in FORMS {
        for (rows, biased) in [(1, [true; 3]), (1, [false; 3]), (5, [false, true, false]), (8, [true, false, false])] {
            let mut g = Draft::new(dtype, form);
            let x = g.operand(rows);
            let products: Vec<TensorId> = HEADS.iter().zip(biased).map(|(&n, bias)| g.project(x, n, bias)).collect();
            let kept: Vec<TensorId> = products.iter().map(|&y| g.keep(y)).collect();
            let (run, launches) = g.run();
            for (&y, &to) in products.iter().zip(&kept) {
                assert!(g.found(&run, to) == g.truth(y), "{dtype} {form:?}, {rows} rows");
            }
            assert_eq!(launches, 1 + 3, "{dtype} {form:?}, {rows} rows: one product, and three copies");
        }
    }
}

#[test]
fn a_gate_and_what_it_gates_are_one_launch() {
    let _alone = card().alone();
    for (dtype, form) in FORMS {
        for (rows, up_first) in [(1, false), (3, true), (8, false)] {
            let mut g = Draft::new(dtype, form);
            let x = g.operand(rows);
            let (one, other) = (g.project(x, INNER, false), g.project(x, INNER, false));
            let [gate, up] = if up_first { [other, one] } else { [one, other] };
            let out = g.bind(plain(dtype, &[rows, INNER]), 0);
            let op = Op::SiluMul(SiluMulAttrs::default());
            g.graph.add_into(op, &[Some(gate), Some(up)], &[out]).unwrap();
            let (run, launches) = g.run();
            let silu = |x: f64| x / (1.0 + (-x).exp());
            for ((got, gate), up) in g.found(&run, out).iter().zip(g.truth(gate)).zip(g.truth(up)) {
                let want = silu(gate) * up;
                let off = (got - want).abs();
                assert!(off <= want.abs() / 200.0 + 1e-7, "{dtype} {form:?}, {rows} rows: {got} for {want}");
            }
            assert_eq!(launches, 1, "{dtype} {form:?}, {rows} rows");
        }
    }
}

#[test]
fn what_cannot_be_one_launch_is_not() {
    let _alone = card().alone();
    for (dtype, form) in FORMS {
        // A gate that somebody else reads stays; a fourth product is another launch.
        let mut g = Draft::new(dtype, form);
        let x = g.operand(2);
        let products: Vec<TensorId> = (0..4).map(|_| g.project(x, 32, false)).collect();
        let kept: Vec<TensorId> = products.iter().map(|&y| g.keep(y)).collect();
        let (run, launches) = g.run();
        assert_eq!(launches, 2 + 4, "{dtype} {form:?}");
        for (&y, &to) in products.iter().zip(&kept) {
            assert!(g.found(&run, to) == g.truth(y), "{dtype} {form:?}");
        }
        let mut g = Draft::new(dtype, form);
        let x = g.operand(2);
        let (gate, up) = (g.project(x, 32, false), g.project(x, 32, false));
        let y = g.graph.op1(Op::SiluMul(SiluMulAttrs::default()), &[gate, up]).unwrap();
        let kept = [gate, y].map(|y| g.keep(y));
        let (run, launches) = g.run();
        assert_eq!(launches, 1 + 1 + 2, "{dtype} {form:?}: both products, what joins them, two copies");
        assert!(g.found(&run, kept[0]) == g.truth(gate), "{dtype} {form:?}");
    }
}
