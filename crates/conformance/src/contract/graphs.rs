//! Graphs of several nodes: what lies between them, what is read twice, what lives on, parts of tensors.
//!
//! Each graph runs in two forms. Where every result is bound, each node is held to what its operands hold, which the device
//! wrote itself. Where results between nodes are left to the plan, the last ones are those of the first form, but for
//! roundings that a kernel of several nodes leaves out.

use qiao_core::{
    Binding, DType, Epilogue, Error, Graph, MatmulAttrs, MatmulQuantAttrs, NoAttrs, NormAttrs, Op, Plan, Result,
    SiluMulAttrs, SoftmaxAttrs, TensorDesc, TensorId,
};
use qiao_layers::{Lowered, Policy, lower};
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use qiao_reference::{Trial, Value};

use super::probe::POISON;
use super::scene::{Found, Scene, read};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/graphs/a_residual_lives_on", depth: Depth::Standard, run: |s| held(s, residual) },
    Clause { id: "device/graphs/operands_are_parts_of_rows", depth: Depth::Standard, run: |s| held(s, parts_of_rows) },
    Clause { id: "device/graphs/operands_are_some_rows", depth: Depth::Standard, run: |s| held(s, some_rows) },
    Clause { id: "device/graphs/a_result_is_read_twice", depth: Depth::Standard, run: |s| held(s, twice) },
    Clause { id: "device/graphs/the_first_result_is_read_last", depth: Depth::Standard, run: |s| held(s, first_last) },
    Clause { id: "device/graphs/what_is_bound_is_read_on", depth: Depth::Standard, run: |s| held(s, read_on) },
    Clause { id: "device/graphs/two_chains_meet", depth: Depth::Standard, run: |s| held(s, two_chains) },
    Clause { id: "device/graphs/products_share_a_norm", depth: Depth::Standard, run: |s| held(s, shared_norm) },
    Clause { id: "device/graphs/few_rows_share_products", depth: Depth::Standard, run: |s| held(s, few_rows) },
    Clause { id: "device/graphs/few_rows_share_codes", depth: Depth::Standard, run: |s| held(s, few_rows_of_codes) },
    Clause { id: "device/graphs/a_gate_meets_its_half", depth: Depth::Standard, run: |s| held(s, gate) },
    Clause {
        id: "device/graphs/a_gate_of_codes_meets_its_half",
        depth: Depth::Standard,
        run: |s| held(s, gate_of_codes),
    },
    Clause { id: "device/graphs/a_gate_is_read_twice", depth: Depth::Standard, run: |s| held(s, gate_twice) },
    Clause { id: "device/graphs/a_product_waits_for_another", depth: Depth::Standard, run: |s| held(s, product_waits) },
];

/// Rows and columns of most tensors.
const SIDE: usize = 64;

const PLAIN: NoAttrs = NoAttrs {};

/// A graph while it is made.
struct Draft {
    graph: Graph,
    dtype: DType,
    /// Whether results between nodes are bound, too.
    bound: bool,
}

impl Draft {
    fn bind(&mut self, shape: &[usize]) -> Result<TensorId> {
        Ok(self.graph.bind("operand", TensorDesc::new(self.dtype, shape)?))
    }

    /// An operand of `SIDE` by `SIDE`.
    fn operand(&mut self) -> Result<TensorId> {
        self.bind(&[SIDE, SIDE])
    }

    /// Weights, which are constant.
    fn weights(&mut self, shape: &[usize]) -> Result<TensorId> {
        Ok(self.graph.bind("weights", TensorDesc::new(self.dtype, shape)?.as_constant()))
    }

    /// A node whose result the plan may keep to itself.
    fn between(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId> {
        self.node(op, &inputs.iter().copied().map(Some).collect::<Vec<_>>(), self.bound)
    }

    /// A node whose result is bound.
    fn result(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId> {
        self.node(op, &inputs.iter().copied().map(Some).collect::<Vec<_>>(), true)
    }

    fn node(&mut self, op: Op, inputs: &[Option<TensorId>], bound: bool) -> Result<TensorId> {
        if !bound {
            return Ok(self.graph.add(op, inputs)?[0]);
        }
        let mut sketch = self.graph.clone();
        let out = sketch.add(op, inputs)?[0];
        let out = self.graph.bind("result", sketch.desc(out).clone());
        self.graph.add_into(op, inputs, &[out])?;
        Ok(out)
    }

    /// The product of a tensor with weights of its own, or with int8 codes in groups, which the plan may keep to itself.
    fn projected(&mut self, x: TensorId, n: usize, bias: Option<TensorId>, codes: bool) -> Result<TensorId> {
        let k = self.graph.desc(x).shape.last_dim();
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        if !codes {
            let w = self.weights(&[n, k])?;
            let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
            return self.node(op, &[Some(x), Some(w), bias], self.bound);
        }
        let w = self.graph.bind("codes", TensorDesc::new(DType::I8, &[n, k])?.as_constant());
        let scales = self.graph.bind("scales", TensorDesc::new(DType::F32, &[n, k / 32])?.as_constant());
        let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: 32, epilogue, ..Default::default() });
        self.node(op, &[Some(x), Some(w), Some(scales), None, None, bias], self.bound)
    }

    /// A part of a tensor with the tensor's strides, from an element on.
    fn part(&mut self, of: TensorId, shape: &[usize], first: usize) -> Result<TensorId> {
        let strides = self.graph.desc(of).strides.to_vec();
        let desc = TensorDesc::strided(self.dtype, shape, &strides)?;
        self.graph.view(of, desc, first * self.dtype.block_bytes())
    }
}

fn product() -> Op {
    Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() })
}

fn norm() -> Op {
    Op::RmsNorm(NormAttrs { eps: 1e-5, ..Default::default() })
}

fn residual(g: &mut Draft) -> Result<()> {
    let (a, b, w, m) = (g.operand()?, g.operand()?, g.weights(&[SIDE])?, g.weights(&[SIDE, SIDE])?);
    let sum = g.between(Op::Add(PLAIN), &[a, b])?;
    let n = g.between(norm(), &[sum, w])?;
    let y = g.between(product(), &[n, m])?;
    g.result(Op::Add(PLAIN), &[y, sum]).map(drop)
}

fn parts_of_rows(g: &mut Draft) -> Result<()> {
    let (x, m) = (g.operand()?, g.weights(&[2 * SIDE, SIDE])?);
    let both = g.between(product(), &[x, m])?;
    let (gate, up) = (g.part(both, &[SIDE, SIDE], 0)?, g.part(both, &[SIDE, SIDE], SIDE)?);
    g.result(Op::Mul(PLAIN), &[gate, up]).map(drop)
}

fn some_rows(g: &mut Draft) -> Result<()> {
    let (x, m) = (g.operand()?, g.weights(&[SIDE, SIDE])?);
    let y = g.between(product(), &[x, m])?;
    let half = SIDE / 2;
    let (first, second) = (g.part(y, &[half, SIDE], 0)?, g.part(y, &[half, SIDE], half * SIDE)?);
    let sum = g.between(Op::Add(PLAIN), &[first, second])?;
    g.result(Op::Mul(PLAIN), &[second, sum]).map(drop)
}

fn twice(g: &mut Draft) -> Result<()> {
    let x = g.operand()?;
    let square = g.between(Op::Mul(PLAIN), &[x, x])?;
    let silu = g.between(Op::Silu(PLAIN), &[square])?;
    let sum = g.between(Op::Add(PLAIN), &[square, silu])?;
    g.result(Op::Mul(PLAIN), &[sum, silu]).map(drop)
}

fn first_last(g: &mut Draft) -> Result<()> {
    let (a, b) = (g.operand()?, g.operand()?);
    let first = g.between(Op::Add(PLAIN), &[a, b])?;
    let mut x = first;
    for _ in 0..4 {
        x = g.between(Op::Silu(PLAIN), &[x])?;
        x = g.between(Op::Add(PLAIN), &[x, b])?;
    }
    g.result(Op::Mul(PLAIN), &[x, first]).map(drop)
}

fn read_on(g: &mut Draft) -> Result<()> {
    let (a, b) = (g.operand()?, g.operand()?);
    let sum = g.result(Op::Add(PLAIN), &[a, b])?;
    let product = g.result(Op::Mul(PLAIN), &[sum, a])?;
    let silu = g.between(Op::Silu(PLAIN), &[product])?;
    g.result(Op::Add(PLAIN), &[silu, sum]).map(drop)
}

fn two_chains(g: &mut Draft) -> Result<()> {
    let (a, b, m) = (g.operand()?, g.operand()?, g.weights(&[SIDE, SIDE])?);
    let (one, other) = (g.between(product(), &[a, m])?, g.between(product(), &[b, m])?);
    let share = g.between(Op::Softmax(SoftmaxAttrs::default()), &[one])?;
    let silu = g.between(Op::Silu(PLAIN), &[other])?;
    g.result(Op::Add(PLAIN), &[share, silu]).map(drop)
}

fn shared_norm(g: &mut Draft) -> Result<()> {
    let (x, w) = (g.operand()?, g.weights(&[SIDE])?);
    let n = g.between(norm(), &[x, w])?;
    for rows in [SIDE, SIDE / 2, SIDE / 2] {
        let m = g.weights(&[rows, SIDE])?;
        g.result(product(), &[n, m])?;
    }
    Ok(())
}

/// Rows of which a kernel takes a few, and columns that make whole blocks of every format.
const FEW: [usize; 2] = [3, 128];

/// Products of one operand that differ in size and in what follows.
fn share(g: &mut Draft, codes: bool) -> Result<()> {
    let (x, bias) = (g.bind(&FEW)?, g.weights(&[SIDE])?);
    let wide = g.projected(x, 3 * SIDE, None, codes)?;
    let one = g.projected(x, SIDE, Some(bias), codes)?;
    let silu = g.between(Op::Silu(PLAIN), &[wide])?;
    let other = g.projected(x, SIDE, None, codes)?;
    let narrow = g.projected(x, SIDE / 2, None, codes)?;
    g.result(Op::Silu(PLAIN), &[narrow])?;
    g.result(Op::Mul(PLAIN), &[silu, silu])?;
    g.result(Op::Mul(PLAIN), &[one, other]).map(drop)
}

fn few_rows(g: &mut Draft) -> Result<()> {
    share(g, false)
}

fn few_rows_of_codes(g: &mut Draft) -> Result<()> {
    share(g, true)
}

/// A gate and the half that it gates, which come in either order.
fn gates(g: &mut Draft, codes: bool) -> Result<()> {
    let x = g.bind(&FEW)?;
    let pairs: Vec<[TensorId; 2]> = (0..2)
        .map(|_| Ok([g.projected(x, SIDE + 8, None, codes)?, g.projected(x, SIDE + 8, None, codes)?]))
        .collect::<Result<_>>()?;
    g.result(Op::SiluMul(SiluMulAttrs::default()), &pairs[0])?;
    g.result(Op::SiluMul(SiluMulAttrs::default()), &[pairs[1][1], pairs[1][0]]).map(drop)
}

fn gate(g: &mut Draft) -> Result<()> {
    gates(g, false)
}

fn gate_of_codes(g: &mut Draft) -> Result<()> {
    gates(g, true)
}

fn gate_twice(g: &mut Draft) -> Result<()> {
    let x = g.bind(&FEW)?;
    let (gate, up) = (g.projected(x, SIDE, None, false)?, g.projected(x, SIDE, None, false)?);
    let y = g.between(Op::SiluMul(SiluMulAttrs::default()), &[gate, up])?;
    g.result(Op::Add(PLAIN), &[y, gate])?;
    let both = g.projected(x, SIDE, None, false)?;
    g.result(Op::SiluMul(SiluMulAttrs { clamp: 0.5, ..Default::default() }), &[both, both]).map(drop)
}

/// Products of one operand of which the last adds what comes of the first.
fn product_waits(g: &mut Draft) -> Result<()> {
    let x = g.bind(&FEW)?;
    let first = g.projected(x, SIDE, None, false)?;
    let silu = g.between(Op::Silu(PLAIN), &[first])?;
    let row = TensorDesc::new(g.dtype, &[SIDE])?;
    let row = g.graph.view(silu, row, SIDE * g.dtype.block_bytes())?;
    let second = g.projected(x, SIDE, Some(row), false)?;
    g.result(Op::Mul(PLAIN), &[first, second]).map(drop)
}

/// Both forms of a graph in every dtype in which the device runs it.
fn held(subject: &Subject, draft: fn(&mut Draft) -> Result<()>) -> Held {
    let mut reasons = Vec::new();
    let mut ran = false;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let form = |bound: bool| -> Result<Graph> {
            let mut made = Draft { graph: Graph::new(), dtype, bound };
            draft(&mut made)?;
            Ok(made.graph)
        };
        let forms = [form(true)?, form(false)?];
        let lowered = forms.each_ref().map(|g| lower(&subject.device, g.clone(), &Policy::DeviceOnly));
        match lowered {
            [Ok(whole), Ok(free)] => {
                ran = true;
                both(subject, dtype, &forms, [&whole, &free])?;
            }
            [Err(Error::Unsupported { list, .. }), _] | [_, Err(Error::Unsupported { list, .. })] => {
                reasons.extend(list.iter().map(|u| format!("{dtype}: {}: {}", u.op, u.reason)));
            }
            [Err(e), _] | [_, Err(e)] => return Err(e.into()),
        }
    }
    if ran { Ok(()) } else { Err(Broken::unsupported(reasons.join("; "))) }
}

fn both(subject: &Subject, dtype: DType, forms: &[Graph; 2], lowered: [&Lowered; 2]) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut runs = [Run::new(&mut scene, &forms[0], lowered[0])?, Run::new(&mut scene, &forms[1], lowered[1])?];
    // The first data once more, so that what a plan has kept shows.
    for seed in [1, 2, 1] {
        let [whole, free] = runs.each_mut().map(|run| run.execute(&mut scene, seed));
        let (whole, free) = (whole?, free?);
        each_node(subject, &forms[0], &whole)?;
        let ends = |graph: &Graph, held: &[Vec<u8>]| -> Found<Vec<Value>> { last(graph, held, &forms[1]) };
        let (want, got) = (ends(&forms[0], &whole)?, ends(&forms[1], &free)?);
        for (want, got) in want.iter().zip(&got) {
            alike(dtype, want, got)?;
        }
    }
    scene.done()
}

/// One form, bound.
struct Run<'a> {
    graph: &'a Graph,
    lowered: &'a Lowered,
    bindings: Vec<Binding>,
    workspace: Binding,
}

impl<'a> Run<'a> {
    fn new(scene: &mut Scene, graph: &'a Graph, lowered: &'a Lowered) -> Found<Run<'a>> {
        let pad = scene.device.info().tensor_tail_pad;
        let room =
            |scene: &Scene, bytes: usize| -> Found<Binding> { Ok(Binding { bytes, ..scene.alloc(bytes + pad)? }) };
        let mut bindings = Vec::new();
        for &id in graph.bound() {
            bindings.push(room(scene, graph.desc(id).bytes()?)?);
        }
        let workspace = scene.alloc(lowered.info().workspace_bytes)?;
        let mut run = Run { graph, lowered, bindings, workspace };
        // Constants are what they are from the first execution on.
        run.load(scene, 0, true)?;
        for pack in &lowered.packs {
            let target = room(scene, pack.bytes)?;
            let source = &run.bindings[pack.bound];
            scene.device.prepack(&mut *scene.stream, &pack.tensor, source, pack.layout, &target)?;
            run.bindings[pack.bound] = target;
        }
        Ok(run)
    }

    /// Uploads constants, or everything else that no node writes.
    fn load(&self, scene: &mut Scene, seed: u64, constants: bool) -> Held {
        let operands = self.graph.bound().iter().zip(&self.bindings).enumerate();
        let mut nth = 0;
        for (position, (&id, binding)) in operands {
            let desc = self.graph.desc(id);
            if self.graph.writes_bound(position) {
                scene.stream.fill(binding, POISON)?;
            } else {
                nth += 1;
                if desc.constant == constants {
                    scene.stream.upload(binding, &numbers(desc, 100 * seed + nth))?;
                }
            }
        }
        Ok(())
    }

    /// What every bound tensor holds after an execution; constants as they were given.
    fn execute(&mut self, scene: &mut Scene, seed: u64) -> Found<Vec<Vec<u8>>> {
        self.load(scene, seed, false)?;
        scene.stream.fill(&self.workspace, POISON)?;
        self.lowered.execute(&mut *scene.stream, &self.bindings, &self.workspace)?;
        let mut held = Vec::new();
        let mut nth = 0;
        for (position, (&id, binding)) in self.graph.bound().iter().zip(&self.bindings).enumerate() {
            let desc = self.graph.desc(id);
            nth += u64::from(!self.graph.writes_bound(position));
            held.push(if desc.constant { numbers(desc, nth) } else { read(&mut *scene.stream, binding)? });
        }
        Ok(held)
    }
}

/// Normal numbers of a seed; those of a matrix of weights have a product of their size, and codes more than a few values.
fn numbers(desc: &TensorDesc, seed: u64) -> Vec<u8> {
    let mut data = values(&mut Rng::new(seed), Fill::Normal, desc.dtype, desc.elements());
    if desc.constant && desc.shape.len() == 2 {
        let size = if desc.dtype == DType::I8 { 20.0 } else { 0.125 };
        data.iter_mut().for_each(|x| *x *= size);
    }
    to_bytes(desc.dtype, &data)
}

/// Each node's result must be right for what its operands hold.
fn each_node(subject: &Subject, graph: &Graph, held: &[Vec<u8>]) -> Held {
    let answers = subject.device.support(graph);
    let bytes = |id: TensorId| -> Found<&[u8]> {
        let (root, inside) = graph.root(id);
        let position = graph.bound().iter().position(|b| *b == root).expect("every tensor is bound");
        Ok(&held[position][inside..][..graph.desc(id).bytes()?])
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        let mut trial = Trial::new(node.op);
        for &id in &node.inputs {
            trial = match id {
                Some(id) => trial.input(graph.desc(id).clone(), bytes(id)?.to_vec()),
                None => trial.without(),
            };
        }
        let golden = trial.golden(answers.get(index).and_then(|a| a.act_dtype))?;
        let got = Value::load(graph.desc(node.outputs[0]), bytes(node.outputs[0])?)?;
        let found = golden.compare(&[got]);
        ensure(found.iter().all(|c| c.passes()), || {
            let (kind, nodes) = (node.op.kind(), graph.nodes().len());
            let (wrong, all) = (found[0].failures, found[0].elements);
            format!("node {index} ({kind}) of {nodes}, every result bound: {wrong} of {all} elements are wrong")
        })?;
    }
    Ok(())
}

/// The results that both forms bind: those of the nodes whose results the second form binds.
fn last(graph: &Graph, held: &[Vec<u8>], second: &Graph) -> Found<Vec<Value>> {
    let mut found = Vec::new();
    for (node, kept) in graph.nodes().iter().zip(second.nodes()) {
        if second.bound().contains(&kept.outputs[0]) {
            let id = node.outputs[0];
            let position = graph.bound().iter().position(|b| *b == id).expect("it is bound in both");
            found.push(Value::load(graph.desc(id), &held[position])?);
        }
    }
    Ok(found)
}

/// A result that comes out of one plan must be that of nodes one by one, up to what roundings between them may do.
fn alike(dtype: DType, want: &Value, got: &Value) -> Held {
    let share = match dtype {
        DType::F32 => 2f64.powi(-14),
        DType::F16 => 2f64.powi(-6),
        _ => 2f64.powi(-4),
    };
    let largest = want.data.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let far = |(x, y): (&f64, &f64)| (x - y).abs() > share * largest || x.is_nan() != y.is_nan();
    let wrong = got.data.iter().zip(&want.data).filter(|pair| far(*pair)).count();
    ensure(wrong == 0, || {
        let all = want.data.len();
        format!(
            "in {dtype}, results between nodes left to the plan: {wrong} of {all} elements are not what they are with every result bound"
        )
    })
}
