//! Every operator that has a decomposition is right in pieces: the reference and the CPU without that operator pass its
//! cases.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qiao_conformance::{Case, Depth, Record, Status, Subject};
use qiao_core::decompose::{decompose, is_composite};
use qiao_core::device::refuse;
use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_layers::{Policy, lower};
use qiao_reference::{ReferenceDevice, Trial};

const SEED: u64 = 1;

/// A device without the operators that `refused` names, as far as they have a decomposition.
struct Without {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    refused: Refused,
}

/// Which operators are left out where they have a decomposition.
#[derive(Clone, Copy)]
enum Refused {
    /// This one.
    Only(OpKind),
    /// All; and the device plans one operator at a time, its tensors aligned.
    All,
}

impl Without {
    fn open(inner: Arc<dyn Device>, refused: Refused) -> Arc<dyn Device> {
        let mut info = inner.info().clone();
        if let Refused::All = refused {
            info.caps.multi_op = false;
            info.tensor_align = 32;
        }
        Arc::new(Without { inner, info, refused })
    }
}

/// Whether a node comes apart, seen by taking it apart.
fn comes_apart(node: &NodeView<'_>) -> bool {
    let mut graph = node.graph.without_nodes();
    for earlier in &node.graph.nodes()[..node.index] {
        graph.add_into(earlier.op, &earlier.inputs, &earlier.outputs).unwrap();
    }
    // A graph lets pieces write no temporary twice; lowering finds them another, and this question needs no answer for it.
    decompose(node.op(), &mut graph, &node.node.inputs, &node.node.outputs).unwrap_or(true)
}

impl Device for Without {
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
        let answer = |(node, answer): (NodeView<'_>, NodeSupport)| {
            let named = match self.refused {
                Refused::Only(kind) => node.kind() == kind,
                Refused::All => true,
            };
            if named && comes_apart(&node) { NodeSupport::no(Reason::operator()) } else { answer }
        };
        graph.views().zip(answers).map(answer).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let answers = self.support(graph);
        if answers.iter().any(|a| a.answer != Support::Native) {
            return Err(refuse(self.info(), graph, &answers));
        }
        self.inner.plan(graph)
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        source: &Binding,
        layout: u64,
        target: &Binding,
    ) -> Result<()> {
        self.inner.prepack(stream, tensor, source, layout, target)
    }
}

/// Whether an operator has a decomposition and the case lies where it has none.
fn declined(id: &str, kind: OpKind) -> bool {
    match kind {
        // The list has no erf.
        OpKind::Gelu => !id.contains("form=tanh"),
        // The one form that the others are made of.
        OpKind::Matmul => !["b=kn", "epilogue=", "precision="].iter().any(|word| id.contains(word)),
        _ => false,
    }
}

fn reference() -> Arc<dyn Device> {
    Arc::new(ReferenceDevice::default())
}

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(1), ..Default::default() }).unwrap())
}

/// A walk over the cases of operators on devices without them.
#[derive(Clone, Copy)]
struct Walk {
    devices: &'static [fn() -> Arc<dyn Device>],
    refused: fn(OpKind) -> Refused,
    depth: Depth,
}

/// The cases of an operator as records that show trouble, and how many ran in pieces.
fn walk(kind: OpKind, how: Walk) -> (Vec<Record>, usize) {
    // They share the truth of the case that is under way.
    let open = |device: fn() -> Arc<dyn Device>| move || Ok(Without::open(device(), (how.refused)(kind)));
    let first = Subject::open(open(how.devices[0])).unwrap();
    let others = how.devices[1..].iter().map(|device| first.beside(open(*device)).unwrap());
    let subjects: Vec<Subject> = std::iter::once(first.clone()).chain(others).collect();
    let of = |c: &Case| matches!(c, Case::Op { family, .. } if family.op == kind);
    let (mut troubles, mut apart) = (Vec::new(), 0);
    for case in Case::all(how.depth).into_iter().filter(of) {
        for subject in &subjects {
            let record = case.run(subject, SEED);
            let in_pieces = record.way.starts_with("decomposed");
            // An output without elements is only filled, whatever the instance.
            let filled = record.way == "decomposed: fill";
            apart += usize::from(in_pieces && !filled);
            let as_said = !is_composite(kind) || filled || in_pieces != declined(&record.id, kind);
            if record.status != Status::Passed || !as_said {
                troubles.push(record);
            }
        }
    }
    (troubles, apart)
}

/// Walks operators on two threads; what went wrong, a line each.
fn walk_all(kinds: &[OpKind], how: Walk) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(&kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (troubles, apart) = walk(kind, how);
            println!("{kind}: {apart} cases in pieces");
            let mut found = found.lock().unwrap();
            if is_composite(kind) && apart == 0 {
                found.push(format!("{kind} has a decomposition that no case reached"));
            }
            let told = |r: &Record| format!("{} {:?} {} {:?}", r.id, r.status, r.way, r.failure);
            found.extend(troubles.iter().take(4).map(told));
            found.extend((troubles.len() > 4).then(|| format!("{kind}: {} in all", troubles.len())));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    found.into_inner().unwrap()
}

#[test]
fn every_composite_operator_passes_its_cases_in_pieces() {
    let composite: Vec<OpKind> = OpKind::ALL.iter().copied().filter(|k| is_composite(*k)).collect();
    // The CPU rounds as chips do, in f32 between the pieces and within them.
    let how = Walk { devices: &[reference, cpu], refused: Refused::Only, depth: Depth::Standard };
    let troubles = walk_all(&composite, how);
    assert!(troubles.is_empty(), "{}", troubles.join("\n"));
}

#[test]
fn primitive_operators_alone_pass_the_plain_cases_of_all() {
    let how = Walk { devices: &[reference], refused: |_| Refused::All, depth: Depth::Smoke };
    let troubles = walk_all(OpKind::ALL, how);
    assert!(troubles.is_empty(), "{}", troubles.join("\n"));
}

/// A device whose plans are lowered ones, so that a trial runs on it.
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
        Ok(Arc::new(lowered))
    }
}

/// Operators with operands of f32, `[2, columns]` for the first, at which a decomposition is most easily wrong.
fn awkward() -> Vec<(Op, Vec<f64>)> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let causal = Op::Softmax(SoftmaxAttrs { causal: true, scale: 2.0 });
    let softmax = Op::Softmax(SoftmaxAttrs::default());
    let codes = Op::QuantizeDynamic(NoAttrs {});
    let cut = |gate_second| Op::SiluMul(SiluMulAttrs { gate_second, clamp: 0.5 });
    let (relu, gelu) = (Op::Relu(NoAttrs {}), Op::Gelu(GeluAttrs { form: GeluForm::Tanh }));
    let norm = Op::LayerNorm(LayerNormAttrs { eps: 1e-5 });
    let smallest = 2f64.powi(-149);
    vec![
        // What the first row does not see is no number; then all that a row sees.
        (causal, vec![1.0, 2.0, nan, 3.0, 4.0, 5.0]),
        (causal, vec![1.0, 2.0, inf, 3.0, 4.0, -5.0]),
        (causal, vec![nan, 2.0, 7.0, 3.0, 4.0, 5.0]),
        (causal, vec![-inf, -inf, 7.0, 3.0, inf, 5.0]),
        (softmax, vec![-inf, -inf, -inf, -3e38, -inf, 3e38]),
        (softmax, vec![nan, 1.0, -inf, inf, 1.0, 2.0]),
        // Numbers whose scale vanishes, or is the smallest there is; a zero row; no numbers.
        (codes, vec![smallest, -3.0 * smallest, 0.0, 127.0 * smallest, -50.0 * smallest, smallest]),
        (codes, vec![0.0, -0.0, 0.0, nan, 1.0, 2.0]),
        (codes, vec![inf, 1.0, -2.0, -inf, 1.0, 0.0]),
        (codes, vec![3.4e38, -3.4e38, 1.7e38, 1e-30, 2e-30, -1.27e-28]),
        (cut(false), vec![nan, 0.25, 1.0, 7.0, -7.0, 0.3, nan, 0.4]),
        (cut(true), vec![-7.0, 0.25, 1.0, 7.0, inf, -inf, 9.0, -0.4]),
        (relu, vec![nan, inf, -inf, -0.0, 1e-45, -1e-45]),
        (gelu, vec![nan, inf, -inf, 1e30, -1e30, -1e-30]),
        (norm, vec![inf, 1.0, 2.0, 5.0, 5.0, 5.0]),
    ]
}

#[test]
fn awkward_numbers_come_out_as_the_truth_has_them() {
    for (op, values) in awkward() {
        let trial = Trial::new(op).values(DType::F32, &[2, values.len() / 2], &values);
        let device = Lowering(Without::open(reference(), Refused::Only(op.kind())));
        for found in trial.golden(None).unwrap().compare(&trial.run(&device).unwrap()) {
            assert!(found.passes(), "{op} of {values:?}: {found:?}");
        }
    }
}
