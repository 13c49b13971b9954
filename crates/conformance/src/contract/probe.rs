//! An operator that a device runs, whichever it is, and data for it: what clauses about plans stand on.

use std::sync::Arc;

use qiao_core::{
    Binding, DType, Device, Graph, KvLayout, KvWriteAttrs, MatmulAttrs, NoAttrs, Op, Plan, SoftmaxAttrs, Stream,
    Support, TensorDesc,
};
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use qiao_reference::trial::Golden;
use qiao_reference::{Trial, Value};

use super::scene::{Found, Scene, read};
use super::{Broken, Held, ensure};
use crate::subject::Subject;

/// What outputs hold before they are written.
pub(crate) const POISON: u8 = 0xa5;

/// Rows and columns of every operand.
const SHAPE: [usize; 2] = [24, 64];

/// A plain operator on plain tensors, as a graph of one node: operands first, then the result.
pub(crate) struct Candidate {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<TensorDesc>,
    pub(crate) graph: Graph,
}

impl Candidate {
    fn new(op: Op, dtype: DType, count: usize) -> Found<Candidate> {
        let inputs = (0..count).map(|_| TensorDesc::new(dtype, &SHAPE)).collect::<qiao_core::Result<Vec<_>>>()?;
        let mut graph = Graph::new();
        add_to(&mut graph, op, &inputs)?;
        Ok(Candidate { op, inputs, graph })
    }

    /// The simplest operators there are, in the dtypes that activations have.
    pub(crate) fn all() -> Found<Vec<Candidate>> {
        let plain = NoAttrs {};
        let matmul = MatmulAttrs { trans_b: true, ..Default::default() };
        let softmax = Op::Softmax(SoftmaxAttrs::default());
        let ops = [
            (Op::Add(plain), 2),
            (Op::Silu(plain), 1),
            (Op::Copy(plain), 1),
            (Op::Matmul(matmul), 2),
            (softmax, 1),
            (Op::Argmax(plain), 1),
        ];
        let dtypes = [DType::F32, DType::F16, DType::BF16];
        dtypes.iter().flat_map(|&d| ops.iter().map(move |&(op, n)| Candidate::new(op, d, n))).collect()
    }

    /// Adds the same node to a graph of others.
    pub(crate) fn add_to(&self, graph: &mut Graph) -> Held {
        add_to(graph, self.op, &self.inputs)
    }
}

fn add_to(graph: &mut Graph, op: Op, inputs: &[TensorDesc]) -> Held {
    let ids: Vec<_> = inputs.iter().map(|desc| Some(graph.bind(op.kind().name(), desc.clone()))).collect();
    let mut sketch = graph.clone();
    let out = sketch.add(op, &ids)?[0];
    let out = graph.bind("result", sketch.desc(out).clone());
    graph.add_into(op, &ids, &[out])?;
    Ok(())
}

/// An operator that the device under test runs, planned.
pub(crate) struct Probe {
    pub(crate) what: Candidate,
    pub(crate) plan: Arc<dyn Plan>,
}

/// Data for one execution, and the truth about it.
pub(crate) struct Data {
    pub(crate) inputs: Vec<Vec<u8>>,
    golden: Golden,
}

/// Operands in buffers of their own.
pub(crate) struct Bound {
    pub(crate) bindings: Vec<Binding>,
    pub(crate) workspace: Binding,
}

impl Bound {
    pub(crate) fn output(&self) -> &Binding {
        self.bindings.last().expect("a probe has a result")
    }
}

impl Probe {
    /// The first candidate that the device runs as it is.
    pub(crate) fn find(device: &dyn Device) -> Found<Probe> {
        for what in Candidate::all()? {
            let kind = what.op.kind();
            if device.support(&what.graph).iter().all(|s| s.answer == Support::Native) {
                let plan = device.plan(&what.graph).map_err(|e| {
                    Broken::contract(format!("support calls {kind} native, yet it can't be planned: {e}"))
                })?;
                return Ok(Probe { what, plan });
            }
        }
        Err(Broken::unsupported("it runs none of add, silu, copy, matmul, softmax and argmax as they are"))
    }

    /// A probe and a scene on one device.
    pub(crate) fn with_scene(subject: &Subject) -> Found<(Probe, Scene)> {
        Ok((Probe::find(&*subject.device)?, Scene::new(subject)?))
    }

    /// A graph of several nodes with the bindings of the probe, which needs room for what lies between them; where the
    /// device plans more than one.
    pub(crate) fn chained(&self, device: &dyn Device) -> Found<Option<Graph>> {
        if !device.info().caps.multi_op {
            return Ok(None);
        }
        let count = self.what.inputs.len();
        let mut graph = Graph::new();
        let ids: Vec<_> = self.what.inputs.iter().map(|d| Some(graph.bind("x", d.clone()))).collect();
        let mut x = graph.add(self.what.op, &ids)?[0];
        if *graph.desc(x).shape != *self.what.inputs[0].shape {
            return Ok(None);
        }
        for _ in 0..3 {
            let mut next = ids.clone();
            next[count - 1] = Some(x);
            x = graph.add(self.what.op, &next)?[0];
        }
        let out = graph.bind("y", graph.desc(x).clone());
        let mut last = ids.clone();
        last[count - 1] = Some(x);
        graph.add_into(self.what.op, &last, &[out])?;
        let native = device.support(&graph).iter().all(|s| s.answer == Support::Native);
        Ok(native.then_some(graph))
    }

    /// Operands of a seed, and the truth about them.
    pub(crate) fn data(&self, seed: u64) -> Found<Data> {
        let mut rng = Rng::new(seed.wrapping_add(11));
        let mut trial = Trial::new(self.what.op);
        let mut inputs = Vec::new();
        for desc in &self.what.inputs {
            let bytes = to_bytes(desc.dtype, &values(&mut rng, Fill::Normal, desc.dtype, desc.elements()));
            trial = trial.input(desc.clone(), bytes.clone());
            inputs.push(bytes);
        }
        Ok(Data { inputs, golden: trial.golden(None)? })
    }

    /// What the result is.
    pub(crate) fn result(&self) -> &TensorDesc {
        self.what.graph.desc(*self.what.graph.bound().last().expect("a probe has a result"))
    }

    /// Bytes of each bound tensor.
    pub(crate) fn sizes(&self) -> Found<Vec<usize>> {
        let bound = self.what.graph.bound().iter();
        Ok(bound.map(|&id| self.what.graph.desc(id).bytes()).collect::<qiao_core::Result<Vec<_>>>()?)
    }

    /// Room for one execution, nothing in it yet.
    pub(crate) fn room(&self, device: &dyn Device) -> Found<Bound> {
        let pad = device.info().tensor_tail_pad;
        let bindings = self.sizes()?.into_iter().map(|bytes| {
            let buffer = device.alloc(0, bytes + pad)?;
            Ok(Binding::part(&buffer, 0, bytes))
        });
        let bindings = bindings.collect::<qiao_core::Result<Vec<_>>>()?;
        let bytes = self.plan.info().workspace_bytes;
        let workspace = Binding::part(&device.alloc(0, bytes)?, 0, bytes);
        Ok(Bound { bindings, workspace })
    }

    /// Fills operands, and poisons the result.
    pub(crate) fn load(&self, stream: &mut dyn Stream, bound: &Bound, data: &Data) -> Held {
        for (binding, bytes) in bound.bindings.iter().zip(&data.inputs) {
            stream.upload(binding, bytes)?;
        }
        Ok(stream.fill(bound.output(), POISON)?)
    }

    /// Executes on what is bound.
    pub(crate) fn execute(&self, stream: &mut dyn Stream, bound: &Bound) -> Held {
        Ok(self.plan.execute(stream, &bound.bindings, &bound.workspace)?)
    }

    /// The bytes must be the result for these operands.
    pub(crate) fn right(&self, data: &Data, got: &[u8], what: &str) -> Held {
        let value = Value::load(self.result(), got)?;
        let found = data.golden.compare(&[value]);
        let kind = self.what.op.kind();
        ensure(found.iter().all(|c| c.passes()), || {
            let unwritten = if got.iter().all(|b| *b == POISON) { "it was not written" } else { "it is wrong" };
            format!(
                "{what}: the result of {kind}: {unwritten} ({} of {} elements)",
                found[0].failures, found[0].elements
            )
        })
    }

    /// Loads, executes and checks, on one stream.
    pub(crate) fn run(&self, stream: &mut dyn Stream, bound: &Bound, data: &Data, what: &str) -> Held {
        self.load(stream, bound, data)?;
        self.execute(stream, bound)?;
        self.right(data, &read(stream, bound.output())?, what)
    }
}

/// A plan that fails while it runs, with what it is bound to: two tokens go to one slot of a cache.
pub(crate) struct Failing {
    plan: Arc<dyn Plan>,
    bound: Bound,
}

impl Failing {
    /// The plan, where the device runs `kv_write` at all.
    pub(crate) fn new(scene: &mut Scene) -> Found<Option<Failing>> {
        let device = scene.device.clone();
        let mut kv: Vec<(KvLayout, usize)> = device.info().kv.iter().map(|kv| (kv.layout, kv.block_size)).collect();
        kv.extend(KvLayout::ALL.iter().map(|&layout| (layout, 16)));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for &(layout, size) in &kv {
                let graph = duplicate_slots(dtype, layout, if size == 0 { 16 } else { size })?;
                if device.support(&graph).iter().all(|s| s.answer == Support::Native) {
                    let plan = device.plan(&graph)?;
                    return Ok(Some(Failing { bound: bind_slots(scene, &graph, &*plan)?, plan }));
                }
            }
        }
        Ok(None)
    }

    /// Makes a stream fail, and tells its error; nothing where the device takes it.
    pub(crate) fn fail(&self, scene: &mut Scene) -> Option<qiao_core::Error> {
        let result = self.execute(&mut *scene.stream);
        result.and_then(|()| scene.stream.sync(scene.timeout)).err()
    }

    /// Executes it.
    pub(crate) fn execute(&self, stream: &mut dyn Stream) -> qiao_core::Result<()> {
        self.plan.execute(stream, &self.bound.bindings, &self.bound.workspace)
    }
}

fn duplicate_slots(dtype: DType, layout: KvLayout, block: usize) -> Found<Graph> {
    const HEAD: usize = 64;
    let mut graph = Graph::new();
    let cache = match layout {
        KvLayout::BlockTokenHead => [1, block, 1, HEAD],
        KvLayout::BlockHeadToken => [1, 1, block, HEAD],
    };
    let mut bind =
        |name: &str, dtype, shape: &[usize]| -> Found<_> { Ok(Some(graph.bind(name, TensorDesc::new(dtype, shape)?))) };
    let (k, v) = (bind("k", dtype, &[2, 1, HEAD])?, bind("v", dtype, &[2, 1, HEAD])?);
    let slots = bind("slots", DType::I32, &[2])?;
    let (k_cache, v_cache) = (bind("k_cache", dtype, &cache)?, bind("v_cache", dtype, &cache)?);
    graph.add(Op::KvWrite(KvWriteAttrs { kv_layout: layout }), &[k, v, slots, k_cache, v_cache])?;
    Ok(graph)
}

/// Zeros everywhere: both tokens go to slot 0.
fn bind_slots(scene: &mut Scene, graph: &Graph, plan: &dyn Plan) -> Found<Bound> {
    let pad = scene.device.info().tensor_tail_pad;
    let mut bindings = Vec::new();
    for &id in graph.bound() {
        let bytes = graph.desc(id).bytes()?;
        let buffer = scene.device.alloc(0, bytes + pad)?;
        let binding = Binding::part(&buffer, 0, bytes);
        scene.stream.fill(&binding, 0)?;
        bindings.push(binding);
    }
    scene.done()?;
    Ok(Bound { bindings, workspace: scene.alloc(plan.info().workspace_bytes)? })
}
