//! Limits are refused with their reason, queues are honest, and bytes that nobody wrote are dirt.

mod rig;

use std::time::Duration;

use qiao_core::{
    Backend, Binding, DType, Device, Error, Graph, KvLayout, KvWriteAttrs, MatmulAttrs, MatmulQuantAttrs, NoAttrs, Op,
    RopeAttrs, Support, TensorDesc,
};
use qiao_simnpu::{FRACTAL_16, FRACTAL_32, Settings, SimBackend, presets};
use rig::{LONG, N, Sum, bytes_of};

fn backend(options: &str) -> SimBackend {
    SimBackend::new(Settings::from_words(options.split(' ')).unwrap())
}

fn desc(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).unwrap()
}

/// The answer for one operator on operands that are bound as they are described.
fn answer(options: &str, op: Op, operands: &[TensorDesc]) -> Support {
    let mut graph = Graph::new();
    let ids: Vec<_> = operands.iter().map(|d| Some(graph.bind("x", d.clone()))).collect();
    graph.add(op, &ids).unwrap();
    backend(options).open(0).unwrap().support(&graph).remove(0).answer
}

/// The refusal in words.
fn refusal(options: &str, op: Op, operands: &[TensorDesc]) -> String {
    match answer(options, op, operands) {
        Support::No(reason) => reason.to_string(),
        other => panic!("{options}: {other:?}"),
    }
}

const MATMUL: Op = Op::Matmul(MatmulAttrs {
    trans_b: true,
    epilogue: qiao_core::Epilogue::None,
    precision: qiao_core::Precision::Ieee,
});

#[test]
fn a_limit_is_refused_with_its_reason() {
    let add = Op::Add(NoAttrs {});
    let x = |dtype| [desc(dtype, &[4, 32]), desc(dtype, &[4, 32])];
    assert!(refusal("sim.bf16=off", add, &x(DType::BF16)).starts_with("operand 0: dtype = bf16 is not one of"));
    assert!(refusal("sim.preset=ascend-like", add, &x(DType::F64)).contains("f64 is not one of f32, f16"));
    assert_eq!(refusal("sim.max_rank=1", add, &x(DType::F32)), "operand 0: rank = 2 is above 1");
    assert_eq!(refusal("sim.k_multiple=64", MATMUL, &x(DType::F32)), "operand 0: dim 1 = 32 is not a multiple of 64");
    let gapped = TensorDesc::strided(DType::F32, &[4, 32], &[40, 1]).unwrap();
    let operands = [gapped.clone(), desc(DType::F32, &[4, 32])];
    assert!(refusal("sim.strided=off", add, &operands).starts_with("operand 0: strides must be"));
    assert_eq!(answer("sim.strided=off", Op::Copy(NoAttrs {}), &[gapped]), Support::Native);
}

#[test]
fn rope_caches_and_quantised_weights_have_limits_of_their_own() {
    let rope = |rotary_dim| Op::Rope(RopeAttrs { rotary_dim, ..Default::default() });
    let operands = |pairs: usize| {
        let table = desc(DType::F32, &[9, pairs]);
        [desc(DType::F16, &[3, 2, 64]), desc(DType::I32, &[3]), table.clone(), table]
    };
    let preset = "sim.preset=ascend-310p-like";
    assert_eq!(answer(preset, rope(64), &operands(32)), Support::Native);
    assert_eq!(refusal(preset, rope(32), &operands(16)), "attribute rotary_dim = 32 must be 64");

    let cache = |block| desc(DType::F16, &[2, block, 2, 64]);
    let row = desc(DType::F16, &[3, 2, 64]);
    let write = Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockTokenHead });
    let written = |block| [row.clone(), row.clone(), desc(DType::I32, &[3]), cache(block), cache(block)];
    assert_eq!(answer("sim.preset=ascend-like", write, &written(128)), Support::Native);
    let reason = refusal("sim.preset=ascend-like", write, &written(16));
    assert!(reason.contains("block_token_head:16 is not one of block_token_head:128"), "{reason}");

    let quant = |group_size| Op::MatmulQuant(MatmulQuantAttrs { group_size, ..Default::default() });
    let weights =
        |groups: usize| [desc(DType::F16, &[2, 64]), desc(DType::I8, &[8, 64]), desc(DType::F32, &[8, groups])];
    assert_eq!(answer(preset, quant(0), &weights(1)), Support::Native);
    assert_eq!(refusal(preset, quant(32), &weights(2)), "attribute group_size = 32 must be 0");
}

#[test]
fn constant_weights_are_wanted_in_blocks() {
    let product = |dtype, n: usize, k: usize| [desc(dtype, &[3, k]), desc(dtype, &[n, k]).as_constant()];
    let ascend = |dtype, n, k| answer("sim.preset=ascend-like", MATMUL, &product(dtype, n, k));
    assert_eq!(ascend(DType::F16, 40, 64), Support::Relayout { operand: 1, layout: FRACTAL_16 });
    assert_eq!(ascend(DType::F32, 40, 64), Support::Native, "f32 has no blocks");
    assert_eq!(ascend(DType::F16, 1, 64), Support::Native);
    let strict = refusal("sim.preset=ascend-310p-like", MATMUL, &product(DType::F16, 1, 64));
    assert_eq!(strict, "operand 1: dim 0 = 1 is below 2");
    let not_constant = [desc(DType::F16, &[3, 64]), desc(DType::F16, &[40, 64])];
    assert_eq!(answer("sim.preset=ascend-like", MATMUL, &not_constant), Support::Native);

    let device = backend("sim.preset=ascend-like").open(0).unwrap();
    let weight = desc(DType::I8, &[17, 33]).as_constant();
    assert_eq!(device.prepack_bytes(&weight, FRACTAL_32).unwrap(), 32 * 64);
    assert!(device.prepack_bytes(&weight, FRACTAL_16).is_err());
    let plain = backend("sim.preset=plain").open(0).unwrap();
    assert!(plain.prepack_bytes(&weight, FRACTAL_32).is_err());
    let mut graph = Graph::new();
    let [a, b] = product(DType::F16, 40, 64);
    let ids = [graph.bind("a", a), graph.bind("b", b)];
    graph.op1(MATMUL, &ids).unwrap();
    let unpacked = device.plan(&graph).err().unwrap().to_string();
    assert!(unpacked.contains("prepack"), "{unpacked}");
}

#[test]
fn operands_off_their_place_are_named() {
    let device = backend("sim.align=64 sim.tail_pad=32").open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    let room = device.alloc(0, 4096).unwrap();
    let mut refused = |position: usize, binding: Binding| {
        let mut bindings = sum.bindings.clone();
        bindings[position] = binding;
        let error = sum.plan.execute(&mut *stream, &bindings, &sum.workspace).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        error.to_string()
    };
    let error = refused(1, Binding::part(&room, 8, 4 * N));
    assert_eq!(error, "binding of 'b': it starts at byte 8 of its buffer; start it on a multiple of 64");
    let exact = device.alloc(0, 4 * N).unwrap();
    let error = refused(2, Binding::whole(exact));
    assert_eq!(error, "binding of 'y': 0 bytes of its buffer lie behind it; allocate 32 bytes behind it");
    let error = refused(0, Binding::part(&room, 64, 4 * N - 1));
    assert!(error.contains("binding of 'a'") && error.contains("give it 256 bytes"), "{error}");
    let pinned = device.alloc(1, 4096).unwrap();
    let error = refused(0, Binding::part(&pinned, 0, 4 * N));
    assert!(error.contains("memory 1") && error.contains("memory 0"), "{error}");
    sum.run(&mut *stream).unwrap();
    stream.sync(LONG).unwrap();
}

#[test]
fn streams_and_plans_are_counted() {
    let device = backend("sim.streams=2 sim.multi_op=off").open(0).unwrap();
    let held = [device.stream().unwrap(), device.stream().unwrap()];
    assert!(matches!(device.stream().err(), Some(Error::Invalid { .. })));
    drop(held);
    assert!(device.stream().is_ok());
    let mut graph = rig::sum_graph();
    let again = rig::sum_graph();
    let ids: Vec<_> = (0..2).map(|_| Some(graph.bind("x", again.desc(again.bound()[0]).clone()))).collect();
    graph.add(Op::Add(NoAttrs {}), &ids).unwrap();
    let error = device.plan(&graph).err().unwrap().to_string();
    assert!(error.contains("2 nodes") && error.contains("by itself"), "{error}");
}

#[test]
fn an_executor_is_spent_by_one_execution() {
    for (options, made) in [("sim.one_shot=on", 5), ("sim.one_shot=off", 1)] {
        let backend = backend(options);
        let device = backend.open_device(0).unwrap();
        let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&device).unwrap());
        for _ in 0..5 {
            sum.run(&mut *stream).unwrap();
            assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
        }
        assert_eq!(device.executors(), made, "{options}");
    }
}

#[test]
fn the_gate_holds_everything_and_shows_a_missing_wait() {
    let backend = backend("sim.engines=1");
    let device = backend.open_device(0).unwrap();
    let (mut producer, mut consumer) = (device.stream().unwrap(), device.stream().unwrap());
    let (cell, copy) = (rig::alloc(&device, 8).unwrap(), rig::alloc(&device, 8).unwrap());
    device.close_gate();
    let event = device.event().unwrap();
    producer.upload(&cell, &[7; 8]).unwrap();
    producer.record(&*event).unwrap();
    consumer.wait(&*event).unwrap();
    consumer.copy(&copy, &cell).unwrap();
    assert!(matches!(producer.sync(Duration::from_millis(30)), Err(Error::Timeout { .. })));
    assert!(!event.is_reached().unwrap() && device.trace().is_empty());
    device.open_gate();
    let mut got = [0; 8];
    consumer.download(&mut got, &copy).unwrap();
    assert_eq!(got, [7; 8]);

    // Without the wait, some seed lets the consumer go first; it then finds what the cell held before.
    let early = |seed: u64| {
        let backend = SimBackend::new(Settings::from_words(["sim.engines=1", &format!("sim.seed={seed}")]).unwrap());
        let device = backend.open_device(0).unwrap();
        let (mut producer, mut consumer) = (device.stream().unwrap(), device.stream().unwrap());
        let (cell, copy) = (rig::alloc(&device, 8).unwrap(), rig::alloc(&device, 8).unwrap());
        device.close_gate();
        producer.upload(&cell, &[7; 8]).unwrap();
        consumer.copy(&copy, &cell).unwrap();
        device.open_gate();
        let mut got = [0; 8];
        consumer.download(&mut got, &copy).unwrap();
        got != [7; 8]
    };
    let found: Vec<bool> = (0..16).map(early).collect();
    assert!(found.contains(&true) && found.contains(&false), "{found:?}");
    assert_eq!(found, (0..16).map(early).collect::<Vec<_>>(), "the seed alone decides");
}

#[test]
fn a_gate_opens_when_nobody_is_left_to_open_it() {
    let backend = backend("sim.preset=plain");
    let device = backend.open_device(0).unwrap();
    let mut stream = device.stream().unwrap();
    let cell = rig::alloc(&device, 8).unwrap();
    device.close_gate();
    stream.upload(&cell, &[1; 8]).unwrap();
    drop(device);
    stream.sync(LONG).unwrap();
}

#[test]
fn what_nobody_wrote_is_not_a_number() {
    let device = backend("sim.preset=plain").open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    stream.upload(&sum.bindings[0], &bytes_of(&[1.0; N])).unwrap();
    sum.execute(&mut *stream).unwrap();
    assert!(sum.result(&mut *stream).unwrap().iter().all(|x| x.is_nan()), "b was never written");
}

#[test]
fn subnormals_are_flushed_where_the_chip_says_so() {
    for (options, want) in [("sim.flush=on", 0.0), ("sim.flush=off", 1e-40f32 + 1e-40f32)] {
        let device = backend(options).open(0).unwrap();
        assert_eq!(device.info().caps.flush_subnormals, want == 0.0);
        let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
        for operand in 0..2 {
            stream.upload(&sum.bindings[operand], &bytes_of(&[1e-40; N])).unwrap();
        }
        sum.execute(&mut *stream).unwrap();
        assert_eq!(sum.result(&mut *stream).unwrap(), [want; N], "{options}");
    }
}

#[test]
fn devices_know_their_own_things() {
    let backend = backend("sim.devices=2");
    let (a, b) = (backend.open(0).unwrap(), backend.open(1).unwrap());
    assert!(backend.open(2).is_err());
    let (mut stream, buffer, event) = (a.stream().unwrap(), b.alloc(0, 8).unwrap(), b.event().unwrap());
    assert!(stream.upload(&Binding::whole(buffer), &[0; 8]).is_err());
    assert!(stream.record(&*event).is_err() && stream.wait(&*event).is_err());
    let sum = Sum::new(&*b).unwrap();
    assert!(sum.execute(&mut *stream).is_err());
    stream.sync(LONG).unwrap();
}

#[test]
fn every_limit_of_a_preset_has_its_source() {
    let plain = presets::find("plain").unwrap().limits;
    for preset in presets::all() {
        let l = &preset.limits;
        let differs = [
            ("sim.align", l.align != plain.align),
            ("sim.tail_pad", l.tail_pad != plain.tail_pad),
            ("sim.memory", l.memory != plain.memory),
            ("sim.max_alloc", l.max_alloc != plain.max_alloc),
            ("sim.memory_info", l.memory_info != plain.memory_info),
            ("sim.host_visible", l.host_visible != plain.host_visible),
            ("sim.pinned", l.pinned != plain.pinned),
            ("sim.streams", l.streams != plain.streams),
            ("sim.dtypes", l.dtypes != plain.dtypes),
            ("sim.formats", l.formats != plain.formats),
            ("sim.grouped", l.grouped != plain.grouped),
            ("sim.max_rank", l.max_rank != plain.max_rank),
            ("sim.strided", l.strided != plain.strided),
            ("sim.multi_op", l.multi_op != plain.multi_op),
            ("sim.one_shot", l.one_shot != plain.one_shot),
            ("sim.k_multiple", l.k_multiple != plain.k_multiple),
            ("sim.weights", l.weights != plain.weights),
            ("sim.kv", l.kv != plain.kv),
            ("sim.partial_rope", l.partial_rope != plain.partial_rope),
            ("sim.event_timing", l.event_timing != plain.event_timing),
            ("sim.fill", l.fill != plain.fill),
            ("sim.alloc_us", l.alloc_us != plain.alloc_us),
            ("sim.plan_ms", l.plan_ms != plain.plan_ms),
            ("sim.accumulate", l.numerics.accumulate != plain.numerics.accumulate),
            ("sim.flush", l.numerics.flush != plain.numerics.flush),
        ];
        let told: Vec<&str> = preset.sources.iter().map(|(key, _)| *key).collect();
        let want: Vec<&str> = differs.into_iter().filter(|(_, d)| *d).map(|(key, _)| key).collect();
        let missing: Vec<_> = want.iter().filter(|k| !told.contains(k)).collect();
        let stale: Vec<_> = told.iter().filter(|k| !want.contains(k)).collect();
        assert!(
            missing.is_empty() && stale.is_empty(),
            "{}: no source for {missing:?}, no limit for {stale:?}",
            preset.name
        );
    }
}
