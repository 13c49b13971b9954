//! A graph reaches a device whole: natively, as smaller operators, with packed constants, node by node.

mod toy;

use std::sync::Arc;

use qiao_core::*;
use qiao_layers::*;
use toy::*;

const PLAIN: NoAttrs = NoAttrs {};

fn matmul(epilogue: Epilogue) -> Op {
    Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() })
}

/// `y = silu_mul(x·gᵀ, x·uᵀ)·dᵀ + x`, the feed-forward part of a model, with a bound result.
fn feed_forward(t: usize, k: usize, n: usize) -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[t, k]));
    let gate = g.bind("gate", desc(&[n, k]).as_constant());
    let up = g.bind("up", desc(&[n, k]).as_constant());
    let down = g.bind("down", desc(&[k, n]).as_constant());
    let y = g.bind("y", desc(&[t, k]));
    let a = g.op1(matmul(Epilogue::None), &[x, gate]).unwrap();
    let b = g.op1(matmul(Epilogue::None), &[x, up]).unwrap();
    let h = g.op1(Op::SiluMul(SiluMulAttrs::default()), &[a, b]).unwrap();
    let inputs = [Some(h), Some(down), None, Some(x)];
    g.add_into(matmul(Epilogue::BiasResidual), &inputs, &[y]).unwrap();
    g
}

fn feed_forward_by_hand(t: usize, k: usize, n: usize, x: &[f32], w: [&[f32]; 3]) -> Vec<f32> {
    let product = |a: &[f32], b: &[f32], rows: usize, inner: usize, columns: usize| -> Vec<f32> {
        let dot = |i: usize, j: usize| (0..inner).map(|p| a[i * inner + p] * b[j * inner + p]).sum();
        (0..rows * columns).map(|at| dot(at / columns, at % columns)).collect()
    };
    let (a, b) = (product(x, w[0], t, k, n), product(x, w[1], t, k, n));
    let h: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a / (1.0 + (-a).exp()) * b).collect();
    product(&h, w[2], t, n, k).iter().zip(x).map(|(c, x)| c + x).collect()
}

/// Packs what the lowering wants packed, runs, and gives the last binding's values.
fn run(device: &Arc<dyn Device>, lowered: &Lowered, inputs: &[Vec<f32>], result: usize) -> Vec<f32> {
    let mut stream = device.stream().unwrap();
    let mut bindings: Vec<Binding> = inputs.iter().map(|x| upload(&**device, &mut *stream, x)).collect();
    bindings.push(upload(&**device, &mut *stream, &vec![f32::NAN; result]));
    for pack in &lowered.packs {
        let buffer = device.alloc(0, pack.bytes + device.info().tensor_tail_pad).unwrap();
        let packed = Binding::part(&buffer, 0, pack.bytes);
        device.prepack(&mut *stream, &pack.tensor, &bindings[pack.bound], pack.layout, &packed).unwrap();
        bindings[pack.bound] = packed;
    }
    let space = workspace(&**device, lowered);
    for _ in 0..2 {
        lowered.execute(&mut *stream, &bindings, &space).unwrap();
    }
    download(&mut *stream, bindings.last().unwrap())
}

fn check_feed_forward(toy: Toy) -> Lowered {
    let (t, k, n) = (3, 5, 7);
    let device = toy.open();
    let lowered = lower(&device, feed_forward(t, k, n), &Policy::DeviceOnly).unwrap();
    let (x, g, u, d) = (values(t * k), values(n * k), values(n * k + 1)[1..].to_vec(), values(k * n));
    let want = feed_forward_by_hand(t, k, n, &x, [&g, &u, &d]);
    let got = run(&device, &lowered, &[x, g, u, d], t * k);
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() < 1e-4, "{got:?} instead of {want:?}");
    }
    lowered
}

#[test]
fn a_device_of_single_operators_runs_a_graph() {
    let lowered = check_feed_forward(Toy::new());
    assert!(lowered.info().workspace_bytes > 0);
    assert_eq!(lowered.info().resident_bytes, 6 * 8, "one plan per node of the rewritten graph");
}

#[test]
fn a_device_of_whole_graphs_gets_one_plan() {
    assert_eq!(check_feed_forward(Toy::new().whole_graphs()).info().resident_bytes, 8);
}

#[test]
fn constants_are_packed_where_the_device_asks() {
    let lowered = check_feed_forward(Toy::new());
    let packs: Vec<_> = lowered.packs.iter().map(|p| (p.bound, p.layout, p.bytes)).collect();
    assert_eq!(packs, [(1, TRANSPOSED, 140), (2, TRANSPOSED, 140), (3, TRANSPOSED, 140)]);
    assert!(lowered.packs.iter().all(|p| p.tensor.layout == 0));
    assert_eq!(lowered.graph.bound().len(), 5);
    let names: Vec<_> = lowered.graph.bound().iter().map(|&id| lowered.graph.tensor(id).name.as_str()).collect();
    assert_eq!(names, ["x", "gate", "up", "down", "y"]);
}

#[test]
fn the_account_says_what_became_of_every_node() {
    let account = check_feed_forward(Toy { relayout: false, ..Toy::new() }).account;
    assert_eq!((account.native(), account.decomposed()), (2, 2));
    let ops: Vec<_> = account.entries.iter().map(|e| e.op).collect();
    assert_eq!(ops, ["matmul", "matmul", "silu_mul", "matmul"]);
    assert_eq!(account.entries[0].way, Way::Native { kernel: "matmul_f32.toy".into() });
    let Way::Decomposed { into, reason } = &account.entries[2].way else { panic!("{account}") };
    assert_eq!(into.iter().map(|p| p.op).collect::<Vec<_>>(), ["silu", "mul"]);
    assert_eq!(into[0].kernel, "silu_f32.toy");
    assert_eq!(*reason, Reason::operator());
    let text = account.to_string();
    assert!(text.contains("2 × matmul    native matmul_f32.toy"), "{text}");
    assert!(text.ends_with("toy: 4 operators, 2 native, 2 decomposed"), "{text}");
    assert_eq!(account.entries[0].cost.flops, 2 * 3 * 5 * 7);
}

#[test]
fn pieces_that_are_refused_are_taken_apart_again() {
    // matmul with SwiGLU → matmul + silu_mul → matmul + slice + slice + silu + mul.
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let w = g.bind("w", desc(&[6, 4]).as_constant());
    let y = g.bind("y", desc(&[2, 3]));
    g.add_into(matmul(Epilogue::SiluMul), &[Some(x), Some(w)], &[y]).unwrap();
    let device = Toy::new().open();
    let lowered = lower(&device, g, &Policy::DeviceOnly).unwrap();
    let Way::Decomposed { into, reason } = &lowered.account.entries[0].way else { panic!("{}", lowered.account) };
    assert_eq!(into.iter().map(|p| p.op).collect::<Vec<_>>(), ["matmul", "slice", "slice", "silu", "mul"]);
    assert!(reason.to_string().contains("epilogue"), "the first reason is kept, not a piece's: {reason}");
    let (x, w) = (values(8), values(24));
    let c: Vec<f32> = (0..12).map(|at| (0..4).map(|p| x[at / 6 * 4 + p] * w[at % 6 * 4 + p]).sum::<f32>()).collect();
    let want: Vec<f32> = (0..6)
        .map(|at| {
            let (gate, up) = (c[at / 3 * 6 + at % 3], c[at / 3 * 6 + 3 + at % 3]);
            gate / (1.0 + (-gate).exp()) * up
        })
        .collect();
    let got = run(&device, &lowered, &[x, w], 6);
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?} instead of {want:?}");
}

#[test]
fn every_refusal_is_listed_with_its_own_reason() {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let h = g.bind("h", TensorDesc::new(DType::F16, &[2, 4]).unwrap());
    g.op1(Op::Add(PLAIN), &[x, x]).unwrap();
    g.op1(Op::Softmax(SoftmaxAttrs::default()), &[x]).unwrap();
    g.op1(Op::Add(PLAIN), &[h, h]).unwrap();
    g.op1(Op::SiluMul(SiluMulAttrs::default()), &[x, x]).unwrap();
    let device = Toy::new().without(&[OpKind::Silu]).open();
    let error = lower(&device, g, &Policy::DeviceOnly).err().unwrap();
    let Error::Unsupported { device, list } = error else { panic!("{error}") };
    assert_eq!(device, "toy");
    let found: Vec<_> = list.iter().map(|u| (u.node, u.op, u.reason.to_string())).collect();
    let none = "no kernel for this operator".to_string();
    assert_eq!(
        found,
        [
            (1, "softmax", none.clone()),
            (2, "add", "operand 0: dtype = f16 is not one of f32".into()),
            (3, "silu_mul", none)
        ]
    );
}

#[test]
fn a_survey_tells_what_runs_beside_what_does_not() {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let w = g.bind("w", desc(&[4, 4]).as_constant());
    g.op1(matmul(Epilogue::None), &[x, w]).unwrap();
    g.op1(Op::Exp(PLAIN), &[x]).unwrap();
    g.op1(Op::SiluMul(SiluMulAttrs::default()), &[x, x]).unwrap();
    let found = survey(&Toy::new().without(&[OpKind::Silu]), g.clone(), &Policy::DeviceOnly, &[]).unwrap();
    let none = Reason::operator;
    let Ok(Way::Native { kernel }) = &found.ways[0] else { panic!("{:?}", found.ways[0]) };
    assert_eq!(kernel, "matmul_f32.toy");
    assert_eq!(found.ways[1], Err(Refusal { reason: none(), pieces: vec![], host: None }));
    let pieces = ["fill", "exp", "div"].map(|op| (op, none())).to_vec();
    assert_eq!(found.ways[2], Err(Refusal { reason: none(), pieces, host: None }));
    assert_eq!(found.origin, [0, 1, 2, 2, 2, 2, 2, 2, 2], "silu_mul is mul and what silu is made of");
    assert_eq!(found.packs.iter().map(|p| (p.bound, p.layout)).collect::<Vec<_>>(), [(1, TRANSPOSED)]);
    let found = survey(&Toy::new(), g, &Policy::DeviceOnly, &[]).unwrap();
    assert!(matches!(&found.ways[2], Ok(Way::Decomposed { into, .. }) if into.len() == 2), "{:?}", found.ways[2]);
}

#[test]
fn a_device_without_kernels_refuses_every_node() {
    let device: Arc<dyn Device> = Arc::new(noop::NoopDevice::default());
    let error = lower(&device, feed_forward(1, 2, 3), &Policy::DeviceOnly).err().unwrap();
    let Error::Unsupported { list, .. } = error else { panic!("{error}") };
    assert_eq!(list.iter().map(|u| u.node).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_constant_that_one_node_packs_and_another_reads_is_an_error_naming_both() {
    let mut g = Graph::new();
    let ids = g.bind("ids", TensorDesc::new(DType::I32, &[2]).unwrap());
    let embedding = g.bind("embedding", desc(&[8, 4]).as_constant());
    let x = g.op1(Op::GatherRows(PLAIN), &[embedding, ids]).unwrap();
    g.op1(matmul(Epilogue::None), &[x, embedding]).unwrap();
    let error = lower(&Toy::new().open(), g, &Policy::DeviceOnly).err().unwrap().to_string();
    for word in ["'embedding'", "node 1 matmul", "node 0 gather_rows", "bind the constant a second time"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_view_is_bound_where_it_starts_aligned_or_not() {
    for columns in [16, 3] {
        // The second row of a temporary starts 64 bytes in, or 12.
        let mut g = Graph::new();
        let x = g.bind("x", desc(&[2, columns]));
        let y = g.bind("y", desc(&[1, columns]));
        let t = g.op1(Op::Silu(PLAIN), &[x]).unwrap();
        let row = g.view(t, desc(&[1, columns]), columns * 4).unwrap();
        g.add_into(Op::Add(PLAIN), &[Some(row), Some(row)], &[y]).unwrap();
        let device = Toy::new().open();
        let lowered = lower(&device, g, &Policy::DeviceOnly).unwrap();
        let x = values(2 * columns);
        let got = run(&device, &lowered, std::slice::from_ref(&x), columns);
        let want: Vec<f32> = x[columns..].iter().map(|v| 2.0 * (v / (1.0 + (-v).exp()))).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn a_device_that_packs_what_is_no_constant_is_named() {
    struct Odd(Toy);
    impl Device for Odd {
        fn info(&self) -> &DeviceInfo {
            &self.0.info
        }
        fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
            self.0.alloc(memory, bytes)
        }
        fn stream(&self) -> Result<Box<dyn Stream>> {
            self.0.stream()
        }
        fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
            let answer = Support::Relayout { operand: 0, layout: 9 };
            graph.views().map(|_| NodeSupport { answer: answer.clone(), ..NodeSupport::native("") }).collect()
        }
    }
    let device: Arc<dyn Device> = Arc::new(Odd(Toy::new()));
    let error = lower(&device, feed_forward(1, 2, 3), &Policy::DeviceOnly).err().unwrap();
    assert!(matches!(error, Error::Internal { .. }), "{error}");
    assert!(error.to_string().contains("toy asks for a private layout of operand 0 of node 0 matmul"), "{error}");
}

#[test]
fn bindings_and_workspace_that_do_not_fit_are_errors() {
    let device = Toy::new().open();
    let lowered = lower(&device, feed_forward(1, 2, 3), &Policy::DeviceOnly).unwrap();
    let mut stream = device.stream().unwrap();
    let buffer = Binding::whole(device.alloc(0, 1024).unwrap());
    let small = Binding::part(&buffer.buffer, 0, 4);
    let mut bindings = vec![buffer.clone(); 5];
    assert!(lowered.execute(&mut *stream, &bindings[1..], &buffer).is_err());
    assert!(lowered.execute(&mut *stream, &bindings, &small).is_err());
    bindings[3] = small;
    let error = lowered.execute(&mut *stream, &bindings, &buffer).unwrap_err().to_string();
    assert!(error.contains("'down'"), "{error}");
}

#[test]
fn two_layouts_for_one_constant_are_an_error_naming_both_nodes() {
    struct Fickle(Toy);
    impl Device for Fickle {
        fn info(&self) -> &DeviceInfo {
            &self.0.info
        }
        fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
            self.0.alloc(memory, bytes)
        }
        fn stream(&self) -> Result<Box<dyn Stream>> {
            self.0.stream()
        }
        fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
            let layout = |index: usize| Support::Relayout { operand: 1, layout: 8 + index as u64 };
            graph.views().map(|n| NodeSupport { answer: layout(n.index), ..NodeSupport::native("") }).collect()
        }
    }
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let w = g.bind("w", desc(&[4, 4]).as_constant());
    let y = g.op1(matmul(Epilogue::None), &[x, w]).unwrap();
    g.op1(matmul(Epilogue::None), &[y, w]).unwrap();
    let device: Arc<dyn Device> = Arc::new(Fickle(Toy::new()));
    let error = lower(&device, g, &Policy::DeviceOnly).err().unwrap().to_string();
    for word in ["private layout 0x9 of 'w' for node 1 matmul", "node 0 matmul wants it in layout 0x8"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn an_operator_in_place_is_decomposed_in_place() {
    // add_rms_norm whose sum replaces an operand that the caller bound.
    let mut g = Graph::new();
    let a = g.bind("a", desc(&[2, 4]));
    let b = g.bind("b", desc(&[2, 4]));
    let y = g.bind("y", desc(&[2, 4]));
    g.add_into(Op::AddRmsNorm(NormAttrs { eps: 1e-6, ..Default::default() }), &[Some(a), Some(b)], &[a, y]).unwrap();
    let error = lower(&Toy::new().open(), g, &Policy::DeviceOnly).err().unwrap();
    // The toy has no rms_norm, so that what is listed is the composite, and not an error of rewriting it.
    let Error::Unsupported { list, .. } = error else { panic!("{error}") };
    assert_eq!((list.len(), list[0].op), (1, "add_rms_norm"));
}
