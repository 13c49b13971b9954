//! Everything that a plugin can return, at random: statuses, structs, sizes, texts, handles. The loader answers with typed
//! errors; it does not panic, it allocates nothing of what a number claims, and it gives every handle back once, what was
//! made on a device before the device.

mod limit;
mod wildcard;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use qiao_core::{
    AttentionAttrs, Backend, Binding, DType, Device, Error, Graph, HostMemory, KvWriteAttrs, MatmulAttrs, NoAttrs, Op,
    Stream, Support, TensorDesc,
};
use qiao_plugin::{Options, Plugin};
use wildcard::Script;

struct Host(Vec<u8>);

impl HostMemory for Host {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn tensor(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).unwrap()
}

/// Graphs of one and of several operators: with attributes of every kind, optional operands, views and constants.
fn graphs() -> Vec<Graph> {
    let mut all = Vec::new();
    let mut g = Graph::new();
    let a = g.bind("a", tensor(DType::F32, &[4, 16]));
    let w = g.bind("w", tensor(DType::F32, &[8, 16]).as_constant());
    let c = g.bind("c", tensor(DType::F32, &[4, 8]));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    g.add_into(op, &[Some(a), Some(w)], &[c]).unwrap();
    all.push(g.clone());
    let v = g.view(c, tensor(DType::F32, &[2, 8]), 32).unwrap();
    let t = g.op1(Op::Silu(NoAttrs {}), &[v]).unwrap();
    g.op1(Op::Add(NoAttrs {}), &[t, v]).unwrap();
    all.push(g);
    let mut g = Graph::new();
    let kv = g.bind("k", tensor(DType::F16, &[3, 2, 64]));
    let slots = g.bind("slots", tensor(DType::I32, &[3]));
    let cache = g.bind("kc", tensor(DType::F16, &[2, 16, 2, 64]));
    let other = g.bind("vc", tensor(DType::F16, &[2, 16, 2, 64]));
    g.add(Op::KvWrite(KvWriteAttrs::default()), &[kv, kv, slots, cache, other].map(Some)).unwrap();
    let q = g.bind("q", tensor(DType::F16, &[1, 4, 64]));
    let len = g.bind("len", tensor(DType::I32, &[1]));
    let table = g.bind("table", tensor(DType::I32, &[1, 2]));
    let softcap = AttentionAttrs { softcap: 30.0, ..Default::default() };
    g.add(Op::AttentionDecode(softcap), &[q, cache, other, len, table].map(Some)).unwrap();
    all.push(g);
    all
}

/// An error must have words, one line of them.
fn spoken<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.trim().is_empty() && !text.chars().any(char::is_control), "{text:?}");
            None
        }
    }
}

fn streams(device: &dyn Device, buffers: &[Binding]) {
    let (Some(mut s), Some(mut other)) = (spoken(device.stream()), spoken(device.stream())) else { return };
    let short = Duration::from_millis(1);
    s.set_patience(short);
    let (Some(e), Some(f)) = (spoken(device.event()), spoken(device.event())) else { return };
    for a in buffers {
        let mut bytes = [7; 64];
        spoken(s.upload(a, &bytes[..a.bytes.min(64)]));
        spoken(s.record(&*e));
        spoken(s.fill(a, 3));
        for b in buffers {
            spoken(s.copy(b, a));
        }
        spoken(s.record(&*f));
        spoken(other.wait(&*f));
        spoken(e.sync(short));
        spoken(f.is_reached());
        f.since(&*e);
        e.since(&*e);
        spoken(s.download(&mut bytes[..a.bytes.min(64)], a));
        spoken(s.sync(short));
    }
    spoken(other.sync(Duration::ZERO));
}

fn plans(device: &dyn Device, graph: &Graph, s: &mut dyn Stream) {
    let answers = device.support(graph);
    assert_eq!(answers.len(), graph.nodes().len());
    for (node, answer) in graph.views().zip(&answers) {
        match &answer.answer {
            Support::No(reason) => assert!(!reason.to_string().trim().is_empty()),
            Support::Relayout { operand, layout } => {
                let desc = node.input(*operand).expect("an operand that there is");
                assert!(*layout != 0 && desc.constant);
                let Some(bytes) = spoken(device.prepack_bytes(desc, *layout)) else { continue };
                if bytes < 1 << 20
                    && let (Some(src), Some(dst)) = (spoken(device.alloc(0, 1 << 16)), spoken(device.alloc(0, bytes)))
                {
                    let (src, dst) = (Binding::whole(src), Binding::whole(dst));
                    spoken(device.prepack(s, desc, &src, *layout, &dst));
                }
            }
            Support::Native => {}
        }
    }
    let Some(plan) = spoken(device.plan(graph)) else { return };
    let info = plan.info();
    assert!(info.workspace_align.is_power_of_two() && info.workspace_bytes <= isize::MAX as usize);
    let room = |bytes: usize| spoken(device.alloc(0, bytes)).map(Binding::whole);
    let bindings = graph.bound().iter().map(|&id| room(graph.desc(id).bytes().unwrap()));
    let (Some(bindings), Some(scratch)) = (bindings.collect::<Option<Vec<_>>>(), room(info.workspace_bytes)) else {
        return;
    };
    for _ in 0..3 {
        spoken(plan.execute(s, &bindings, &scratch));
    }
}

/// Everything that the contract can be asked for, while the plugin answers as it likes.
fn everything(script: Script) {
    wildcard::play(script);
    // SAFETY: the wildcard answers wildly, but it keeps what no host can check: its pointers are what they seem.
    let Some(backend) = spoken(unsafe { Plugin::of_query(wildcard::query, &Options::default()) }) else { return };
    spoken(backend.devices());
    backend.interface("qiao.capture/1");
    for note in backend.notes() {
        assert!(!note.chars().any(char::is_control), "{note:?}");
    }
    let Some(device) = spoken(backend.open(0)) else { return };
    let info = device.info();
    assert!(!info.name.is_empty() && !info.memories.is_empty());
    assert!(info.tensor_align.is_power_of_two() && info.tensor_tail_pad <= 1 << 20);
    let sizes = [0, 64, 100, 5000];
    let mut buffers: Vec<_> = sizes.iter().filter_map(|&n| spoken(device.alloc(0, n))).map(Binding::whole).collect();
    buffers.extend(spoken(device.import(Arc::new(Host(vec![1; 256])), 8, 128)).map(Binding::whole));
    spoken(device.alloc(info.memories.len() - 1, usize::MAX));
    streams(&*device, &buffers);
    for graph in graphs() {
        if let Some(mut s) = spoken(device.stream()) {
            plans(&*device, &graph, &mut *s);
        }
    }
}

fn run(script: Script) -> Result<(), TestCaseError> {
    let most = limit::largest_during(|| everything(script));
    prop_assert!(most <= 4 << 20, "one allocation of {} bytes", most);
    let faults = wildcard::faults();
    prop_assert!(faults.is_empty(), "{:?}", faults);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_plugin_that_answers_wildly_gets_typed_errors(seed in any::<u64>(), wildness in 1u32..400) {
        run(Script { seed, wildness, sane_head: false })?;
    }

    #[test]
    fn one_that_is_sane_until_it_is_opened_does_too(seed in any::<u64>(), wildness in 1u32..200) {
        run(Script { seed, wildness, sane_head: true })?;
    }
}

#[test]
fn one_that_is_not_wild_at_all_works() {
    everything(Script { seed: 1, wildness: 0, sane_head: true });
    assert_eq!(wildcard::faults(), [""; 0]);
    let called = wildcard::called();
    for slot in ["upload", "copy", "event_query", "plan_execute", "prepack", "buffer_import", "backend_shutdown"] {
        assert!(called.contains(&slot), "{slot} was not reached: {called:?}");
    }
}
