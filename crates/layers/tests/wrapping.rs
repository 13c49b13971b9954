//! Wrappers are devices: what they check, log and time, and that they compose in any order.

mod toy;

use std::sync::Arc;

use qiao_core::*;
use qiao_layers::*;
use toy::*;

const PLAIN: NoAttrs = NoAttrs {};

/// `y = silu(x) + x`.
fn small() -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[4]));
    let y = g.bind("y", desc(&[4]));
    let t = g.op1(Op::Silu(PLAIN), &[x]).unwrap();
    g.add_into(Op::Add(PLAIN), &[Some(t), Some(x)], &[y]).unwrap();
    g
}

/// Lowers and runs [`small`] on a device and checks its values.
fn check(device: &Arc<dyn Device>) {
    let lowered = lower(device, small(), &Policy::DeviceOnly).unwrap();
    let mut stream = device.stream().unwrap();
    let x = values(4);
    let bindings = [upload(&**device, &mut *stream, &x), upload(&**device, &mut *stream, &[f32::NAN; 4])];
    let space = workspace(&**device, &lowered);
    lowered.execute(&mut *stream, &bindings, &space).unwrap();
    let want: Vec<f32> = x.iter().map(|v| v / (1.0 + (-v).exp()) + v).collect();
    assert_eq!(download(&mut *stream, &bindings[1]), want);
}

#[test]
fn wrappers_compose_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for multi_op in [false, true] {
            let mut device = if multi_op { Toy::new().whole_graphs().open() } else { Toy::new().open() };
            for which in order {
                device = match which {
                    0 => Validate::wrap(device),
                    1 => Record::new(device),
                    _ => Profile::new(device),
                };
            }
            check(&device);
        }
    }
}

struct Bench {
    device: Arc<dyn Device>,
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

/// A validated device with everything ready for an execution that is right.
fn bench() -> Bench {
    let device = Validate::wrap(Toy::new().whole_graphs().open());
    let plan = device.plan(&small()).unwrap();
    let stream = device.stream().unwrap();
    let part = |_| Binding::part(&device.alloc(0, 256).unwrap(), 64, 16);
    let bindings = [0, 1].map(part).to_vec();
    let workspace = workspace(&*device, &*plan);
    Bench { device, plan, stream, bindings, workspace }
}

impl Bench {
    fn run(&mut self) -> Result<()> {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// The execution must fail with an error that holds all these words.
    fn fails(&mut self, words: &[&str]) {
        let error = self.run().expect_err("the execution is wrong");
        let text = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }), "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
}

#[test]
fn a_right_execution_passes() {
    bench().run().unwrap();
}

#[test]
fn bindings_are_held_to_number_size_and_bounds() {
    let mut b = bench();
    b.bindings.pop();
    b.fails(&["1 were given", "give 2"]);
    let mut b = bench();
    b.bindings[1].bytes = 12;
    b.fails(&["'y'", "give it 16 bytes"]);
    let mut b = bench();
    b.bindings[0].offset = 256;
    b.fails(&["'x'", "stay within the buffer"]);
    let mut b = bench();
    b.bindings[0].offset = usize::MAX;
    b.fails(&["'x'", "stay within the buffer"]);
}

#[test]
fn bindings_are_held_to_alignment_and_tail_padding() {
    let mut b = bench();
    b.bindings[0].offset = 32;
    b.fails(&["'x'", "byte 32", "multiple of 64"]);
    let mut b = bench();
    let tight = b.device.alloc(0, 64 + 16 + 15).unwrap();
    b.bindings[0] = Binding::part(&tight, 64, 16);
    b.fails(&["'x'", "15 bytes follow", "16 spare bytes"]);
}

#[test]
fn written_bytes_are_shared_with_nothing() {
    let mut b = bench();
    b.bindings[1] = b.bindings[0].clone();
    b.fails(&["'y', which is written", "shares bytes with 'x'"]);
    let mut b = bench();
    let buffer = b.device.alloc(0, 4096).unwrap();
    b.bindings[0] = Binding::part(&buffer, 0, 16);
    b.workspace = Binding::part(&buffer, 0, 2048);
    b.fails(&["workspace", "shares bytes with 'x'"]);
    // Operands that are only read may be one.
    let device = Validate::wrap(Toy::new().open());
    let mut g = Graph::new();
    let [x, y, z] = ["x", "y", "z"].map(|n| g.bind(n, desc(&[4])));
    g.add_into(Op::Add(PLAIN), &[Some(x), Some(y)], &[z]).unwrap();
    let plan = device.plan(&g).unwrap();
    let [a, c] = [0, 1].map(|_| Binding::part(&device.alloc(0, 64).unwrap(), 0, 16));
    let space = workspace(&*device, &*plan);
    plan.execute(&mut *device.stream().unwrap(), &[a.clone(), a, c], &space).unwrap();
}

#[test]
fn the_workspace_is_held_to_size_and_alignment() {
    let mut b = bench();
    b.workspace.bytes = 1;
    b.fails(&["workspace", "1 bytes"]);
    let mut b = bench();
    let buffer = b.device.alloc(0, 4096).unwrap();
    b.workspace = Binding::part(&buffer, 8, 2048);
    b.fails(&["workspace", "byte 8", "multiple of 64"]);
}

#[test]
fn streams_of_another_device_are_refused() {
    let mut b = bench();
    b.stream = bench().stream;
    b.fails(&["stream", "another device"]);
    b.stream = Toy::new().open().stream().unwrap();
    b.fails(&["stream", "another device"]);
}

#[test]
fn streams_are_held_to_their_ranges() {
    let mut b = bench();
    let buffer = b.device.alloc(0, 8).unwrap();
    let (inside, outside) = (Binding::part(&buffer, 0, 8), Binding::part(&buffer, 4, 8));
    assert!(b.stream.upload(&outside, &[0; 4]).is_err());
    assert!(b.stream.download(&mut [0; 4], &outside).is_err());
    assert!(b.stream.fill(&outside, 0).is_err());
    assert!(b.stream.copy(&inside, &Binding::part(&buffer, 4, 4)).is_err(), "the two overlap");
    assert!(b.stream.copy(&Binding::part(&buffer, 0, 4), &Binding::part(&buffer, 4, 4)).is_ok());
}

#[test]
fn memories_that_are_not_there_are_refused() {
    let error = bench().device.alloc(1, 8).err().unwrap().to_string();
    assert!(error.contains("memory 1") && error.contains("toy has 1"), "{error}");
}

#[test]
fn only_what_is_native_is_planned() {
    let device = Validate::wrap(Toy::new().whole_graphs().without(&[OpKind::Silu]).open());
    assert!(matches!(device.plan(&small()), Err(Error::Unsupported { .. })));
    let device = Validate::wrap(Toy::new().open());
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let w = g.bind("w", desc(&[3, 4]).as_constant());
    g.op1(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[x, w]).unwrap();
    let error = device.plan(&g).err().unwrap().to_string();
    assert!(error.contains("operand 1 is not in private layout 0x71"), "{error}");
}

#[test]
fn a_device_that_lies_about_support_is_named() {
    let device = Validate::wrap(Toy { lies: true, ..Toy::new().whole_graphs() }.open());
    let error = device.plan(&small()).err().unwrap();
    assert!(matches!(error, Error::Internal { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("toy breaks the contract in plan") && text.contains("no plan today"), "{text}");
}

#[test]
fn packed_constants_are_held_to_their_packed_size() {
    let device = Validate::wrap(Toy::new().open());
    let mut stream = device.stream().unwrap();
    let w = desc(&[3, 4]).as_constant();
    let place = |bytes| Binding::part(&device.alloc(0, 256).unwrap(), 0, bytes);
    let mut pack = |src: &Binding, dst: &Binding| device.prepack(&mut *stream, &w, src, TRANSPOSED, dst);
    assert!(pack(&place(47), &place(48)).is_err());
    assert!(pack(&place(48), &place(47)).is_err());
    let same = place(48);
    assert!(pack(&same, &same).is_err());
    pack(&place(48), &place(48)).unwrap();

    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let packed = g.bind("w", TensorDesc { layout: TRANSPOSED, ..w });
    let y = g.bind("y", desc(&[2, 3]));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    g.add_into(op, &[Some(x), Some(packed)], &[y]).unwrap();
    let plan = device.plan(&g).unwrap();
    let mut stream = device.stream().unwrap();
    let space = place(64);
    let error = plan.execute(&mut *stream, &[place(32), place(44), place(24)], &space).unwrap_err().to_string();
    assert!(error.contains("'w'") && error.contains("give it 48 bytes"), "{error}");
    plan.execute(&mut *stream, &[place(32), place(48), place(24)], &space).unwrap();
}

#[test]
fn the_log_holds_every_call_in_order() {
    let record = Record::new(Toy::new().open());
    let device: Arc<dyn Device> = record.clone();
    check(&device);
    let size = |bytes| Call::Alloc { memory: 0, bytes };
    let plan = |plan, bound| Call::Plan { plan, nodes: 1, bound };
    let execute =
        |plan, bindings: &[usize]| Call::Execute { stream: 0, plan, bindings: bindings.to_vec(), workspace: 0 };
    let want = [
        Call::Support { nodes: 2 },
        plan(0, 2),
        plan(1, 3),
        Call::Stream { stream: 0 },
        size(32),
        Call::Upload { stream: 0, bytes: 16 },
        size(32),
        Call::Upload { stream: 0, bytes: 16 },
        size(64),
        execute(0, &[16, 16]),
        execute(1, &[16, 16, 16]),
        Call::Sync { stream: 0 },
        Call::Download { stream: 0, bytes: 16 },
    ];
    assert_eq!(record.calls(), want);
    assert!(record.calls().is_empty(), "the log was taken");
}

#[test]
fn the_log_says_how_calls_ended() {
    let record = Record::new(Toy::new().open());
    assert!(record.plan(&small()).is_err());
    let log = record.take();
    assert!(matches!(log[0].call, Call::Plan { nodes: 2, .. }));
    assert!(log[0].error.as_ref().unwrap().to_string().contains("2 nodes at once"));
}

#[test]
fn times_are_kept_per_operator_and_kernel() {
    for toy in [Toy::new(), Toy::new().whole_graphs()] {
        let profile = Profile::new(toy.open());
        let device: Arc<dyn Device> = profile.clone();
        check(&device);
        check(&device);
        let times = profile.times();
        let mut found: Vec<_> = times.usages.iter().map(|u| (u.op, u.kernel.as_str(), u.count)).collect();
        found.sort();
        assert_eq!(found, [(OpKind::Add, "add_f32.toy", 2), (OpKind::Silu, "silu_f32.toy", 2)]);
        let add = times.usages.iter().find(|u| u.op == OpKind::Add).unwrap();
        assert_eq!((add.cost.flops, add.cost.read, add.cost.written), (8, 64, 32));
        assert!(add.time.as_nanos() > 0 && add.gb_per_s() > 0.0 && add.gflop_per_s() > 0.0);
        assert!(times.usages[0].time >= times.usages[1].time);
        let text = times.to_string();
        assert!(text.contains("silu_f32.toy") && text.contains("ms in all"), "{text}");
        profile.reset();
        assert!(profile.times().usages.is_empty());
    }
}
