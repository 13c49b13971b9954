//! Two devices in lock step: a device with one broken operator in one layer is caught at that operator, layer and token, and
//! correct devices agree.

use std::sync::{Arc, Mutex};

use qiao::core::*;
use qiao::{Divergence, LockStep};
use qiao_cpu::CpuBackend;
use qiao_layers::Validate;
use qiao_reference::ReferenceBackend;

/// Nodes before the first layer of the demo model, and nodes of each layer.
const HEAD: usize = 2;
const LAYER: usize = 16;

/// The node of a layer of the demo model at this place within it.
fn node(layer: usize, place: usize) -> usize {
    HEAD + LAYER * layer + place
}

const K_ROPE: usize = 4;
const Q_ROPE: usize = 7;
const ATTENTION: usize = 8;
const O_PROJ: usize = 9;
const DOWN_PROJ: usize = 14;

/// How an operator is broken.
enum Fault {
    /// It is another operator, or reads other operands.
    Graph(fn(&mut Graph, Op, &mut [Option<TensorId>]) -> Op),
    /// Its first result is changed, given its inputs and its result.
    Result(fn(&[Vec<f32>], &mut [f32])),
}

/// A device on which one operator of the demo model's graph is broken.
struct Broken {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    /// The name of the operator's result.
    target: String,
    fault: Fault,
    /// Whether it is broken within larger graphs only.
    in_plan_only: bool,
    hits: Arc<Mutex<usize>>,
}

impl Broken {
    fn new(inner: Arc<dyn Device>, op: &str, node: usize, fault: Fault) -> Broken {
        let mut info = inner.info().clone();
        // One plan per node, so that results can be changed between nodes.
        info.caps.multi_op = matches!(fault, Fault::Graph(_));
        let target = format!("{op}.{node}");
        Broken { inner, info, target, fault, in_plan_only: false, hits: Arc::default() }
    }

    fn is_target(&self, graph: &Graph, node: &Node) -> bool {
        let whole = graph.nodes().len() > 1;
        node.outputs.iter().any(|&id| graph.tensor(id).name == self.target) && (whole || !self.in_plan_only)
    }
}

impl Device for Broken {
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
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let mut broken = graph.without_nodes();
        let mut hit = None;
        for node in graph.nodes() {
            let (mut op, mut inputs) = (node.op, node.inputs.clone());
            if self.is_target(graph, node) {
                *self.hits.lock().unwrap() += 1;
                match self.fault {
                    Fault::Graph(fault) => op = fault(&mut broken, op, &mut inputs),
                    Fault::Result(fault) => hit = Some((fault, node.clone())),
                }
            }
            broken.add_into(op, &inputs, &node.outputs)?;
        }
        let plan = self.inner.plan(&broken)?;
        Ok(match hit {
            Some((fault, node)) => Arc::new(BrokenPlan { plan, graph: graph.clone(), node, fault }),
            None => plan,
        })
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        t: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.inner.prepack(stream, t, src, layout, dst)
    }
}

/// A plan of one node in f32, whose result is changed afterwards.
struct BrokenPlan {
    plan: Arc<dyn Plan>,
    graph: Graph,
    node: Node,
    fault: fn(&[Vec<f32>], &mut [f32]),
}

impl Plan for BrokenPlan {
    fn info(&self) -> PlanInfo {
        self.plan.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        self.plan.execute(stream, bindings, workspace)?;
        let mut read = |id: TensorId| -> Result<Vec<f32>> {
            let Storage::Bound(at) = self.graph.tensor(id).storage else {
                panic!("all is bound in a plan of one node")
            };
            let mut bytes = vec![0; bindings[at].bytes];
            stream.download(&mut bytes, &bindings[at])?;
            Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
        };
        let plain = |id: &&TensorId| self.graph.desc(**id).dtype == DType::F32 && self.graph.desc(**id).layout == 0;
        let inputs = self.node.inputs.iter().flatten().filter(plain).map(|&id| read(id)).collect::<Result<Vec<_>>>()?;
        let mut result = read(self.node.outputs[0])?;
        (self.fault)(&inputs, &mut result);
        let Storage::Bound(at) = self.graph.tensor(self.node.outputs[0]).storage else { unreachable!() };
        let bytes: Vec<u8> = result.iter().flat_map(|x| x.to_le_bytes()).collect();
        stream.upload(&bindings[at], &bytes)
    }
}

fn cpu() -> Arc<dyn Device> {
    CpuBackend.open(0).unwrap()
}

fn reference() -> Arc<dyn Device> {
    ReferenceBackend.open(0).unwrap()
}

fn run(device: Broken, against: &Arc<dyn Device>, dtype: DType) -> Divergence {
    let hits = device.hits.clone();
    let device: Arc<dyn Device> = Arc::new(device);
    let found = LockStep::new("床前明月光").tokens(2).dtype(dtype).demo(&device, against).unwrap();
    assert!(*hits.lock().unwrap() > 0, "the fault was reached");
    found
}

/// The culprit as operator, weight, layer and token.
fn culprit(found: &Divergence) -> (&str, &str, Option<usize>, usize) {
    let site = found.culprit().unwrap_or_else(|| panic!("{found}"));
    (site.op, &site.part, site.layer, site.token)
}

/// Angles of the next position.
fn next_position(g: &mut Graph, op: Op, inputs: &mut [Option<TensorId>]) -> Op {
    for table in &mut inputs[2..4] {
        let id = table.unwrap();
        let desc = g.desc(id).clone();
        let rows = TensorDesc::new(desc.dtype, &[desc.shape[0] - 1, desc.shape[1]]).unwrap();
        let row = desc.shape[1] * desc.dtype.block_bytes();
        *table = Some(g.view(id, rows, row).unwrap());
    }
    op
}

#[test]
fn correct_devices_agree() {
    for dtype in [DType::BF16, DType::F32] {
        let found = LockStep::new("床前明月光").tokens(3).dtype(dtype).demo(&cpu(), &reference()).unwrap();
        assert!(found.agrees() && found.culprit().is_none(), "{found}");
        assert_eq!((found.prompt, found.effects.len(), found.top1()), (5, 8, 8), "{found}");
        assert_eq!(found.compared, 4 * (HEAD + 5 * LAYER + 1) as u64, "every node of four steps");
        assert!(found.largest_margin.as_ref().is_some_and(|(_, margin)| *margin <= 1.0), "{found}");
        assert!(found.mean_kl() < 1e-2 && found.max_difference() < 1.0, "{found}");
        assert!(found.to_string().ends_with("The devices agree."), "{found}");
    }
    let same = LockStep::new("春").tokens(1).demo(&cpu(), &Validate::wrap(cpu())).unwrap();
    assert_eq!((same.mean_kl(), same.largest_drift, same.largest_margin), (0.0, None, None));
}

#[test]
fn devices_with_other_pages_are_compared_token_by_token() {
    for (layout, block_size) in
        [(KvLayout::BlockTokenHead, 0), (KvLayout::BlockTokenHead, 16), (KvLayout::BlockHeadToken, 32)]
    {
        let mut paged = Broken::new(cpu(), "nothing", 0, Fault::Graph(next_position));
        paged.info.kv = vec![KvInfo { layout, block_size }];
        let paged: Arc<dyn Device> = Arc::new(paged);
        for (device, against) in [(&paged, &reference()), (&reference(), &paged)] {
            let found = LockStep::new("床前明月光").tokens(2).demo(device, against).unwrap();
            assert!(found.agrees(), "{layout:?} of {block_size}: {found}");
        }
    }
}

#[test]
fn the_tokens_are_those_that_the_trusted_device_chooses() {
    let model = qiao::ModelOptions::new().device("reference").demo().unwrap();
    let greedy = qiao::Params::new().temperature(0.0).max_tokens(4);
    let want = model.generate("床前明月光", &greedy).unwrap().collect_all().unwrap().token_ids;
    let found = LockStep::new("床前明月光").tokens(3).demo(&cpu(), &reference()).unwrap();
    let fed: Vec<u32> = found.effects[5..].iter().map(|e| e.id).chain(found.effects.last().map(|e| e.next)).collect();
    assert_eq!(fed, want);
    assert_eq!(found.effects.iter().map(|e| e.position).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_rotation_by_the_next_position_is_named() {
    for (device, against) in [(cpu(), reference()), (reference(), cpu())] {
        let broken = Broken::new(device, "rope", node(2, K_ROPE), Fault::Graph(next_position));
        let found = run(broken, &against, DType::BF16);
        assert_eq!(culprit(&found), ("rope", "self_attn.k_norm", Some(2), 0), "{found}");
        assert_eq!(found.local.len(), 1, "every other operator is right by itself\n{found}");
        assert_eq!(found.local[0].tokens, 5 + 2, "at every token");
        assert!(found.drift.is_some() && found.in_plan.is_none(), "{found}");
        let text = found.to_string();
        assert!(text.contains("parts first at rope (self_attn.k_norm) of layer 2, token 0, in a step of 5"), "{text}");
    }
}

#[test]
fn an_epsilon_outside_the_root_is_named() {
    /// `x / (√(mean x²) + eps)` from `x / √(mean x² + eps)`.
    fn outside(inputs: &[Vec<f32>], result: &mut [f32]) {
        const EPS: f32 = 1e-6;
        for (x, y) in inputs[0].chunks_exact(192).zip(result.chunks_exact_mut(192)) {
            let mean = x.iter().map(|x| x * x).sum::<f32>() / 192.0;
            y.iter_mut().for_each(|y| *y *= (mean + EPS).sqrt() / (mean.sqrt() + EPS));
        }
    }
    // Rows of the embedding are small, so that the place of epsilon shows.
    let broken = Broken::new(reference(), "rms_norm", 1, Fault::Result(outside));
    let found = run(broken, &reference(), DType::F32);
    assert_eq!(culprit(&found), ("rms_norm", "input_layernorm", Some(0), 0), "{found}");
    assert_eq!((found.local.len(), found.local[0].tokens), (1, 7), "{found}");
    assert!(found.local[0].judgement.margin < 1e5, "a small error, found all the same\n{found}");
}

#[test]
fn a_result_that_is_wrong_at_one_token_names_that_token() {
    fn third(_: &[Vec<f32>], result: &mut [f32]) {
        // Only a step of the prompt has a third token.
        if let Some(x) = result.get_mut(2 * 192 + 7) {
            *x += 0.5;
        }
    }
    let broken = Broken::new(reference(), "matmul", node(4, DOWN_PROJ), Fault::Result(third));
    let found = run(broken, &reference(), DType::F32);
    assert_eq!(culprit(&found), ("matmul", "mlp.down_proj", Some(4), 2), "{found}");
    assert_eq!((found.local[0].tokens, found.local[0].judgement.element, found.local[0].judgement.failures), (1, 7, 1));
    let changed: Vec<_> = found.effects.iter().filter(|e| e.kl > 0.0).map(|e| e.position).collect();
    assert_eq!(changed, [2], "the last layer's error reaches no other token");
    assert_eq!(found.worst().map(|e| e.position), Some(2));
}

#[test]
fn a_decode_step_alone_may_be_wrong() {
    fn alone(_: &[Vec<f32>], result: &mut [f32]) {
        if result.len() == 192 {
            result[0] = f32::NAN;
        }
    }
    let broken = Broken::new(reference(), "matmul", node(0, O_PROJ), Fault::Result(alone));
    let found = run(broken, &reference(), DType::F32);
    assert_eq!(culprit(&found), ("matmul", "self_attn.o_proj", Some(0), 5), "{found}");
    let parting = &found.local[0];
    assert_eq!((parting.site.step, parting.judgement.margin), (1, f64::INFINITY));
    assert!(found.effects[..5].iter().all(|e| e.kl == 0.0) && found.effects[5].kl == f64::INFINITY);
    assert!(found.to_json()["logits"]["kl_max"].is_null());
}

#[test]
fn an_ignored_scale_and_a_swapped_style_are_named() {
    fn unscaled(_: &mut Graph, op: Op, _: &mut [Option<TensorId>]) -> Op {
        match op {
            Op::AttentionPrefill(a) => Op::AttentionPrefill(AttentionAttrs { scale: 1.0, ..a }),
            other => other,
        }
    }
    fn swapped(_: &mut Graph, op: Op, _: &mut [Option<TensorId>]) -> Op {
        match op {
            Op::Rope(a) => Op::Rope(RopeAttrs { style: RopeStyle::Interleaved, ..a }),
            other => other,
        }
    }
    let broken = Broken::new(cpu(), "attention_prefill", node(1, ATTENTION), Fault::Graph(unscaled));
    let found = run(broken, &reference(), DType::BF16);
    // The first token sees itself alone, whatever the scale.
    assert_eq!(culprit(&found), ("attention_prefill", "", Some(1), 1), "{found}");
    let broken = Broken::new(cpu(), "rope", node(4, Q_ROPE), Fault::Graph(swapped));
    let found = run(broken, &reference(), DType::BF16);
    // At position 0 every angle is 0.
    assert_eq!(culprit(&found), ("rope", "self_attn.q_norm", Some(4), 1), "{found}");
}

#[test]
fn an_operator_that_is_wrong_within_the_plan_alone_is_named() {
    let mut broken = Broken::new(cpu(), "rope", node(1, K_ROPE), Fault::Graph(next_position));
    broken.in_plan_only = true;
    let found = run(broken, &reference(), DType::F32);
    assert!(found.local.is_empty(), "{found}");
    let parting = found.in_plan.as_ref().unwrap_or_else(|| panic!("{found}"));
    assert_eq!((parting.site.op, parting.site.layer, parting.site.token), ("rope", Some(1), 0));
    assert_eq!(culprit(&found), ("rope", "self_attn.k_norm", Some(1), 0));
    assert_eq!(found.drift.as_ref().map(|d| (d.site.op, d.site.layer)), Some(("rope", Some(1))));
}

#[test]
fn what_can_not_run_is_refused_with_what_is_allowed() {
    let refusal = |run: LockStep| run.demo(&cpu(), &reference()).err().unwrap().to_string();
    assert!(refusal(LockStep::new("")).contains("no tokens"));
    assert!(refusal(LockStep::new(vec![1, 3382])).contains("ids 0 to 3381"));
    assert!(refusal(LockStep::new("月").tokens(600)).contains("601 tokens do not fit into a context of 512"));
    assert!(refusal(LockStep::new("月").tokens(usize::MAX)).contains("context of 512"));
    assert!(refusal(LockStep::new("月").context(1000)).contains("at most 512"));
}
