//! A reference device with one thing wrong.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qiao_conformance::Check;
use qiao_core::host::{HostStream, host_range};
use qiao_core::{
    Binding, Buffer, DType, Device, DeviceInfo, Error, Graph, NodeSupport, NodeView, OpKind, Plan, PlanInfo, Reason,
    Result, Storage, Stream, Support, TensorDesc, TensorId, device,
};
use qiao_reference::{ReferenceDevice, round, value::Output};

use crate::queued::Fault;
use crate::scene::{Scene, places, poke};

/// What is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Sabotage {
    /// Nothing.
    Nothing,
    /// Operator or operands are changed before the truth is asked.
    Before(fn(&mut Scene<'_>)),
    /// Results come from this instead of the truth.
    Kernel(fn(&mut Scene<'_>) -> Result<Vec<Output>>),
    /// Results are rounded so.
    Rounding(fn(DType, f64, &mut [u8])),
    /// Elements of results are not written: of the scene, the result, and the element in row-major order.
    Lost(fn(&Scene<'_>, usize, usize) -> bool),
    /// Memory is changed after everything was done rightly.
    After(fn(&Scene<'_>)),
    /// The answers about a graph are these, given the right ones and how often was asked before.
    Support(fn(usize, Vec<NodeSupport>) -> Vec<NodeSupport>),
    /// Planning ends so: whatever it answers in place of the plan.
    Plan(fn(&Graph) -> Option<Error>),
    /// Constants of products are packed, and packed so, from what is right: see [`LAYOUT`].
    Pack(fn(&mut Vec<u8>)),
    /// Constants of products are packed, and read where they were packed from.
    PackKeepsSource,
    /// The plan asks for 64 bytes of workspace, and results come from this instead of the truth.
    Scratch(fn(&mut Scene<'_>) -> Result<Vec<Output>>),
    /// Every execution uses the bindings of the first.
    FirstBindings,
    /// Every execution has the results of the first.
    FirstValues,
    /// Every execution has the results of the first one with its bindings.
    ValuesByPlace,
    /// Results come from this, on a device that says it has memory of its own; honest products are added in f32.
    Chip(fn(&mut Scene<'_>) -> Result<Vec<Output>>),
    /// A plan of several nodes is one of this graph.
    Rewired(fn(&Graph) -> Result<Graph>),
    /// The plan asks for this many bytes of workspace, and writes this many.
    Workspace(usize, usize),
    /// The contract is broken, by a device that runs behind its caller.
    Fault(Fault),
}

/// A device that the suite must fail.
pub(crate) struct Mutant {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// The cases that must find it.
    pub(crate) caught_by: &'static str,
    /// The checks that may be the first to say so.
    pub(crate) checks: &'static [Check],
    /// How it is wrong.
    pub(crate) sabotage: Sabotage,
    /// When it is wrong.
    pub(crate) when: fn(&Scene<'_>) -> bool,
}

impl Mutant {
    /// A mutant that is wrong always.
    pub(crate) const fn new(
        name: &'static str,
        caught_by: &'static str,
        checks: &'static [Check],
        sabotage: Sabotage,
    ) -> Mutant {
        Mutant { name, caught_by, checks, sabotage, when: |_| true }
    }

    /// The same, wrong only then.
    pub(crate) const fn when(self, when: fn(&Scene<'_>) -> bool) -> Mutant {
        Mutant { when, ..self }
    }

    /// The operator that is wrong: the one that its cases name. None where they name none.
    fn op(&self) -> Option<OpKind> {
        let name = self.caught_by.strip_prefix("op/")?.split(['/', '.']).next()?;
        name.parse().ok()
    }
}

/// A device that is right, and not like others.
pub(crate) struct Unusual {
    /// What it is like.
    pub(crate) name: &'static str,
    /// What it says of itself.
    pub(crate) info: fn(&mut DeviceInfo),
    /// Which nodes it does not run.
    pub(crate) refuses: fn(NodeView<'_>) -> bool,
    /// How it computes.
    pub(crate) manner: Sabotage,
}

/// The private layout: every byte is the complement of itself, in reverse order.
pub(crate) const LAYOUT: u64 = 0x5eed;

/// Packs, and unpacks.
pub(crate) fn packed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().map(|b| !b).collect()
}

/// A reference device with one thing wrong.
pub(crate) struct Saboteur {
    inner: ReferenceDevice,
    info: DeviceInfo,
    wrong: Wrong,
    asked: AtomicUsize,
    /// Nodes that it does not run.
    refuses: fn(NodeView<'_>) -> bool,
    /// The source of what was packed last.
    source: Arc<Mutex<Option<Binding>>>,
}

#[derive(Clone, Copy)]
struct Wrong {
    sabotage: Sabotage,
    when: fn(&Scene<'_>) -> bool,
    op: Option<OpKind>,
}

impl Saboteur {
    /// The device of a mutant.
    pub(crate) fn of(mutant: &Mutant) -> Saboteur {
        Saboteur::with(Wrong { sabotage: mutant.sabotage, when: mutant.when, op: mutant.op() })
    }

    /// A device that is right in its own way.
    pub(crate) fn unusual(unusual: &Unusual) -> Saboteur {
        let mut device = Saboteur::with(Wrong { sabotage: unusual.manner, when: |_| true, op: None });
        device.info.name = unusual.name.into();
        (unusual.info)(&mut device.info);
        device.refuses = unusual.refuses;
        device
    }

    /// The device on which a mutant is based: with nothing wrong.
    pub(crate) fn honest(mutant: &Mutant) -> Saboteur {
        let sabotage = match mutant.sabotage {
            Sabotage::Pack(_) | Sabotage::PackKeepsSource => Sabotage::Pack(|_| ()),
            Sabotage::Chip(_) => Sabotage::Chip(in_f32),
            Sabotage::Workspace(reported, _) => Sabotage::Workspace(reported, reported),
            Sabotage::Scratch(_) => Sabotage::Workspace(64, 64),
            _ => Sabotage::Nothing,
        };
        Saboteur::with(Wrong { sabotage, when: |_| true, op: mutant.op() })
    }

    fn with(wrong: Wrong) -> Saboteur {
        let inner = ReferenceDevice::default();
        let mut info = DeviceInfo { name: "saboteur".into(), ..inner.info().clone() };
        if matches!(wrong.sabotage, Sabotage::Chip(_)) {
            info.memories[0].kind.host_visible = false;
        }
        Saboteur { inner, info, wrong, asked: AtomicUsize::new(0), refuses: |_| false, source: Arc::default() }
    }

    fn packs(&self) -> bool {
        matches!(self.wrong.sabotage, Sabotage::Pack(_) | Sabotage::PackKeepsSource)
    }

    /// The honest answers: native, constants of products in the private layout where the device packs.
    fn answers(&self, graph: &Graph) -> Vec<NodeSupport> {
        let answer = |view: NodeView<'_>| {
            if (self.refuses)(view) {
                return NodeSupport::no(Reason::operator());
            }
            let layout = view.node.inputs.get(1).copied().flatten().map(|id| graph.desc(id));
            match layout {
                Some(w) if view.kind() == OpKind::Matmul && w.constant && self.packs() && w.layout != LAYOUT => {
                    let answer = Support::Relayout { operand: 1, layout: LAYOUT };
                    NodeSupport { answer, ..NodeSupport::native("matmul.packed") }
                }
                _ => NodeSupport::native(format!("{}.saboteur", view.kind())),
            }
        };
        graph.views().map(answer).collect()
    }
}

impl Device for Saboteur {
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
        let answers = self.answers(graph);
        let mine = graph.nodes().iter().any(|n| self.wrong.op.is_none_or(|op| n.op.kind() == op));
        match self.wrong.sabotage {
            Sabotage::Support(lie) if mine => lie(self.asked.fetch_add(1, Ordering::Relaxed), answers),
            _ => answers,
        }
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let mine = graph.nodes().iter().any(|n| self.wrong.op.is_none_or(|op| n.op.kind() == op));
        if let Sabotage::Plan(fail) = self.wrong.sabotage
            && mine
            && let Some(error) = fail(graph)
        {
            return Err(error);
        }
        let answers = self.answers(graph);
        if answers.iter().any(|s| s.answer != Support::Native) {
            return Err(device::refuse(&self.info, graph, &answers));
        }
        if graph.nodes().len() != 1 {
            return match self.wrong.sabotage {
                Sabotage::Rewired(rewire) => self.inner.plan(&rewire(graph)?),
                _ => self.inner.plan(graph),
            };
        }
        let workspace_bytes = match self.wrong.sabotage {
            Sabotage::Workspace(reported, _) if mine => reported,
            Sabotage::Scratch(_) if mine => 64,
            _ => 0,
        };
        let info = PlanInfo { workspace_bytes, workspace_align: 1, resident_bytes: 0 };
        Ok(Arc::new(SaboteurPlan {
            graph: graph.clone(),
            info,
            wrong: self.wrong,
            active: mine,
            executions: AtomicUsize::new(0),
            first: Mutex::new(None),
            results: Mutex::new(None),
            by_place: Mutex::default(),
            source: self.source.clone(),
        }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        if !self.packs() || layout != LAYOUT {
            return self.inner.prepack_bytes(tensor, layout);
        }
        TensorDesc { layout: 0, ..tensor.clone() }.bytes()
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let mut bytes = vec![0; self.prepack_bytes(tensor, layout)?];
        stream.download(&mut bytes, src)?;
        let mut out = packed(&bytes);
        if let Sabotage::Pack(fault) = self.wrong.sabotage {
            fault(&mut out);
        }
        *lock(&self.source) = Some(src.clone());
        stream.upload(dst, &out)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A product of f32 whose sums are added one after the other in f32, as a plain chip does.
pub(crate) fn in_f32(s: &mut Scene<'_>) -> Result<Vec<Output>> {
    if s.kind() != OpKind::Matmul {
        return s.truth();
    }
    let (a, b) = (s.value(0), s.value(1));
    let dot =
        |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0f32, |sum, (a, b)| (*a as f32).mul_add(*b as f32, sum)) as f64;
    let rows = a.rows().flat_map(|a| b.rows().map(|b| dot(a, b)).collect::<Vec<_>>()).collect();
    Ok(vec![Output::Values(rows)])
}

struct SaboteurPlan {
    graph: Graph,
    info: PlanInfo,
    wrong: Wrong,
    active: bool,
    executions: AtomicUsize,
    first: Mutex<Option<Vec<Binding>>>,
    /// What the first execution came to.
    results: Mutex<Option<Vec<Output>>>,
    /// The same, by where the first operand lies.
    by_place: Mutex<HashMap<(usize, usize), Vec<Output>>>,
    source: Arc<Mutex<Option<Binding>>>,
}

impl SaboteurPlan {
    /// Where a tensor of the one node lies.
    fn locate(&self, id: TensorId, bindings: &[Binding]) -> Result<Binding> {
        let (root, inside) = self.graph.root(id);
        let Storage::Bound(position) = self.graph.tensor(root).storage else {
            return Err(Error::internal("plan", "a graph of one node has no temporary tensors"));
        };
        let desc = self.graph.desc(id);
        let bytes = TensorDesc { layout: 0, ..desc.clone() }.bytes()?;
        let binding = &bindings[position];
        Ok(Binding::part(&binding.buffer, binding.offset + inside, bytes))
    }

    fn operand(&self, id: TensorId, binding: &Binding) -> Result<(TensorDesc, Vec<u8>)> {
        let desc = self.graph.desc(id);
        let (buffer, range) = host_range(binding)?;
        let bytes = buffer.read(range, <[u8]>::to_vec);
        if desc.layout == 0 {
            return Ok((desc.clone(), bytes));
        }
        let plain = TensorDesc { layout: 0, ..desc.clone() };
        if matches!(self.wrong.sabotage, Sabotage::PackKeepsSource) {
            let source = lock(&self.source);
            let source = source.as_ref().ok_or_else(|| Error::internal("plan", "nothing was packed"))?;
            let (buffer, range) = host_range(source)?;
            return Ok((plain, buffer.read(range, <[u8]>::to_vec)));
        }
        Ok((plain, packed(&bytes)))
    }

    fn run(&self, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let node = &self.graph.nodes()[0];
        let mut kept = lock(&self.first);
        let first = kept.get_or_insert_with(|| bindings.to_vec());
        let bindings =
            if matches!(self.wrong.sabotage, Sabotage::FirstBindings) && self.active { &first[..] } else { bindings };
        let mut sources = Vec::new();
        let mut operands = Vec::new();
        for id in &node.inputs {
            let source = id.map(|id| self.locate(id, bindings)).transpose()?;
            operands.push(match (id, &source) {
                (Some(id), Some(source)) => Some(self.operand(*id, source)?),
                _ => None,
            });
            sources.push(source);
        }
        let targets = node.outputs.iter().map(|&id| self.locate(id, bindings)).collect::<Result<Vec<_>>>()?;
        let outs = node.outputs.iter().map(|&id| self.graph.desc(id).clone()).collect();
        let execution = self.executions.fetch_add(1, Ordering::Relaxed);
        let mut scene = Scene { op: node.op, operands, outs, execution, sources, targets: &targets, workspace };
        let wrong = if self.active && (self.wrong.when)(&scene) { self.wrong.sabotage } else { Sabotage::Nothing };
        let outputs = match wrong {
            Sabotage::Before(change) => {
                change(&mut scene);
                scene.truth()?
            }
            Sabotage::Kernel(kernel) | Sabotage::Scratch(kernel) => kernel(&mut scene)?,
            Sabotage::Chip(kernel) => kernel(&mut scene)?,
            _ => scene.truth()?,
        };
        let outputs = match (wrong, scene.sources.first()) {
            (Sabotage::ValuesByPlace, Some(Some(x))) => {
                let place = (Arc::as_ptr(&x.buffer).cast::<()>() as usize, x.offset);
                lock(&self.by_place).entry(place).or_insert(outputs).clone()
            }
            _ => outputs,
        };
        let mut kept = lock(&self.results);
        let outputs = match (wrong, &*kept) {
            (Sabotage::FirstValues, Some(first)) => first.clone(),
            _ => outputs,
        };
        kept.get_or_insert_with(|| outputs.clone());
        for (i, output) in outputs.iter().enumerate() {
            store(&scene, i, output, wrong)?;
        }
        match wrong {
            Sabotage::After(change) => change(&scene),
            Sabotage::Workspace(_, written) => poke(workspace, 0, written, |_| 0x77),
            _ => {}
        }
        Ok(())
    }
}

/// Writes a result, rounded and complete unless that is what is wrong.
fn store(scene: &Scene<'_>, index: usize, output: &Output, wrong: Sabotage) -> Result<()> {
    let desc = &scene.outs[index];
    let (buffer, range) = host_range(&scene.targets[index])?;
    match (wrong, output) {
        (Sabotage::Rounding(round), Output::Values(data)) if !desc.dtype.is_packed() => buffer.write(range, |bytes| {
            let size = desc.dtype.block_bytes();
            for (&x, at) in data.iter().zip(places(desc)) {
                round(desc.dtype, x, &mut bytes[at * size..(at + 1) * size]);
            }
            Ok(())
        }),
        (Sabotage::Lost(lost), Output::Values(data)) => buffer.write(range, |bytes| {
            let size = desc.dtype.block_bytes();
            for (i, (&x, at)) in data.iter().zip(places(desc)).enumerate().filter(|(i, _)| !lost(scene, index, *i)) {
                let _ = i;
                round::encode(desc.dtype, x, &mut bytes[at * size..]);
            }
            Ok(())
        }),
        (Sabotage::Lost(lost), Output::Exact(data)) => buffer.write(range, |bytes| {
            let size = desc.dtype.block_bytes();
            for (i, (block, at)) in data.chunks_exact(size).zip(places(desc)).enumerate() {
                if !lost(scene, index, i) {
                    bytes[at * size..][..size].copy_from_slice(block);
                }
            }
            Ok(())
        }),
        _ => buffer.write(range, |bytes| output.store(desc, bytes)),
    }
}

impl Plan for SaboteurPlan {
    fn info(&self) -> PlanInfo {
        self.info
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any).downcast_mut::<HostStream>().ok_or_else(|| {
            Error::invalid("stream", "it belongs to another device", "make it with the device that made the plan")
        })?;
        self.graph.check_bindings(bindings)?;
        workspace.check("workspace", self.info.workspace_bytes)?;
        for binding in bindings.iter().chain([workspace]) {
            host_range(binding)?;
        }
        stream.run(|| self.run(bindings, workspace))
    }
}
