//! What a device refuses runs on the host when that was asked for: right, with no more moved than needed, and accounted.

mod chip;
mod toy;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chip::{Bare, Bound, Chip, Log};
use qiao_core::*;
use qiao_layers::*;
use qiao_reference::ReferenceDevice;
use toy::{desc, floats, raw, values};

const PLAIN: NoAttrs = NoAttrs {};

fn host() -> Arc<dyn Device> {
    Arc::new(ReferenceDevice::default())
}

fn fallback(host: &Arc<dyn Device>) -> Policy {
    Policy::Fallback(Fallback::new(host.clone()))
}

fn open(chip: Chip) -> (Arc<dyn Device>, Arc<Log>) {
    let log = chip.log.clone();
    (Arc::new(chip), log)
}

fn matmul() -> Op {
    Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() })
}

/// The ways of an account's entries as single words, joined.
fn ways(account: &Account) -> String {
    let word = |e: &Entry| match &e.way {
        Way::Native { .. } => "native",
        Way::Decomposed { .. } => "decomposed",
        Way::Host { .. } => "host",
    };
    account.entries.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn bytes_of(graph: &Graph) -> Vec<Vec<u8>> {
    let of = |&id: &TensorId| {
        let desc = graph.desc(id);
        match desc.dtype {
            DType::I32 => vec![0; desc.bytes().unwrap()],
            _ => raw(&values(desc.bytes().unwrap() / 4)),
        }
    };
    graph.bound().iter().map(of).collect()
}

/// `y = silu(x) + tanh(silu(x))`, `x` `[4, 8]`.
fn chain() -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[4, 8]));
    let y = g.bind("y", desc(&[4, 8]));
    let a = g.op1(Op::Silu(PLAIN), &[x]).unwrap();
    let b = g.op1(Op::Tanh(PLAIN), &[a]).unwrap();
    g.add_into(Op::Add(PLAIN), &[Some(a), Some(b)], &[y]).unwrap();
    g
}

/// Runs a graph on the host alone, and on a device with that host to fall back to, as often as asked; both give their bytes.
fn both(
    device: &Arc<dyn Device>,
    lowered: &Lowered,
    graph: &Graph,
    data: &[Vec<u8>],
    times: usize,
) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let host = host();
    let alone = lower(&host, graph.clone(), &Policy::DeviceOnly).unwrap();
    let (mut want, mut got) = (Bound::new(&host, &host, &alone, data), Bound::new(device, &host, lowered, data));
    for _ in 0..times {
        want.execute().unwrap();
        got.execute().unwrap();
    }
    let all = 0..data.len();
    (all.clone().map(|at| want.read(at)).collect(), all.map(|at| got.read(at)).collect())
}

#[test]
fn one_refused_operator_moves_its_operand_down_and_its_result_up() {
    for multi_op in [true, false] {
        let (device, log) = open(Chip::new(&[OpKind::Tanh], multi_op));
        let lowered = lower(&device, chain(), &fallback(&host())).unwrap();
        assert_eq!(ways(&lowered.account), "native host native");
        assert_eq!(lowered.homes, [Home::Device, Home::Device]);
        assert_eq!(log.plans.load(Ordering::Relaxed), 2, "one plan for each run of nodes, and each run is one node");
        let data = bytes_of(&chain());
        let host = host();
        let mut bound = Bound::new(&device, &host, &lowered, &data);
        log.take();
        for _ in 0..3 {
            bound.execute().unwrap();
            assert_eq!(log.take(), (128, 128));
        }
        let account = lowered.account();
        let hosted = account.hosted();
        assert_eq!((hosted.down, hosted.up, hosted.once, hosted.runs), (128, 128, 0, 3));
        assert!(hosted.time > Duration::ZERO);
        assert_eq!(lowered.account.hosted().runs, 0, "what was measured is not in the account of the lowering");
        assert_eq!((account.host.as_str(), account.on_host()), ("reference", 1));
        let Way::Host { kernel, reason, .. } = &account.entries[1].way else { panic!("{account}") };
        assert_eq!((kernel.as_str(), reason), ("tanh.reference", &Reason::operator()));
        assert!(
            account.to_string().contains("1 × tanh  host tanh.reference    no kernel for this operator (128 bytes")
        );
        let (want, got) = both(&device, &lowered, &chain(), &data, 1);
        assert_eq!(want, got);
    }
}

#[test]
fn what_follows_on_the_same_side_is_not_moved_twice() {
    // x is downloaded once for two host nodes; a is never on the device; y is uploaded once.
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[4, 8]));
    let y = g.bind("y", desc(&[4, 8]));
    let a = g.op1(Op::Tanh(PLAIN), &[x]).unwrap();
    let b = g.op1(Op::Tanh(PLAIN), &[a]).unwrap();
    let c = g.op1(Op::Add(PLAIN), &[x, b]).unwrap();
    g.add_into(Op::Tanh(PLAIN), &[Some(c)], &[y]).unwrap();
    let (device, log) = open(Chip::new(&[OpKind::Tanh], true));
    let free = [None, Some(Home::Device)];
    let lowered = lower_with(&device, g.clone(), &fallback(&host()), &free).unwrap();
    assert_eq!(ways(&lowered.account), "host host native host");
    let data = bytes_of(&g);
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    log.take();
    bound.execute().unwrap();
    // x and c down; b and y up.
    assert_eq!(log.take(), (256, 256));
    let moved: Vec<_> = lowered.account.entries.iter().filter_map(Entry::hosted).map(|h| (h.down, h.up)).collect();
    assert_eq!(moved, [(128, 0), (0, 128), (128, 128)]);
    let (want, got) = both(&device, &lowered, &g, &data, 1);
    assert_eq!(want, got);
}

#[test]
fn what_only_host_nodes_touch_lives_there() {
    let (device, log) = open(Chip::new(&[OpKind::Silu, OpKind::Tanh, OpKind::Add], true));
    let lowered = lower(&device, chain(), &fallback(&host())).unwrap();
    assert_eq!((ways(&lowered.account).as_str(), &lowered.homes[..]), ("host host host", &[Home::Host; 2][..]));
    assert_eq!(lowered.info().workspace_bytes, 0);
    let data = bytes_of(&chain());
    let (want, got) = both(&device, &lowered, &chain(), &data, 2);
    assert_eq!(want, got);
    assert_eq!(log.take(), (0, 0));
}

#[test]
fn a_fixed_home_on_the_device_is_kept_and_served() {
    let (device, log) = open(Chip::new(OpKind::ALL, true));
    let lowered = lower_with(&device, chain(), &fallback(&host()), &[Some(Home::Device); 2]).unwrap();
    assert_eq!(lowered.homes, [Home::Device; 2]);
    let data = bytes_of(&chain());
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    log.take();
    bound.execute().unwrap();
    assert_eq!(log.take(), (128, 128));
    let (want, got) = both(&device, &lowered, &chain(), &data, 1);
    assert_eq!(want, got);
}

#[test]
fn a_composite_runs_whole_on_the_host_when_one_of_its_pieces_is_refused() {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[4, 8]));
    let y = g.bind("y", desc(&[4, 8]));
    let a = g.op1(Op::SiluMul(SiluMulAttrs::default()), &[x, x]).unwrap();
    g.add_into(Op::Silu(PLAIN), &[Some(a)], &[y]).unwrap();
    let (device, _) = open(Chip::new(&[OpKind::SiluMul, OpKind::Mul], true));
    let lowered = lower(&device, g.clone(), &fallback(&host())).unwrap();
    assert_eq!(ways(&lowered.account), "host native");
    assert_eq!(lowered.graph.nodes().len(), 2, "never half decomposed");
    let (device, _) = open(Chip::new(&[OpKind::SiluMul], true));
    let lowered = lower(&device, g, &fallback(&host())).unwrap();
    assert_eq!(ways(&lowered.account), "decomposed native");
    assert_eq!(lowered.account.host, "");
}

/// kv_write and attention over caches of one page, and a projection before and after.
fn cached() -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[1, 8]));
    let w = g.bind("w", desc(&[8, 8]).as_constant());
    let i32s = |shape: &[usize]| TensorDesc::new(DType::I32, shape).unwrap();
    let [slots, kv_len, table] = [("slots", [1, 0]), ("kv_len", [1, 0]), ("table", [1, 1])]
        .map(|(name, shape)| g.bind(name, i32s(&shape[..if name == "table" { 2 } else { 1 }])));
    let pages = desc(&[1, 4, 2, 4]);
    let (k, v) = (g.bind("k", pages.clone()), g.bind("v", pages));
    let y = g.bind("y", desc(&[1, 8]));
    let p = g.op1(matmul(), &[x, w]).unwrap();
    let heads = g.reshape(p, &[1, 2, 4]).unwrap();
    g.add(Op::KvWrite(KvWriteAttrs::default()), &[heads, heads, slots, k, v].map(Some)).unwrap();
    let a = g.op1(Op::AttentionDecode(AttentionAttrs::default()), &[heads, k, v, kv_len, table]).unwrap();
    let a = g.reshape(a, &[1, 8]).unwrap();
    g.add_into(matmul(), &[Some(a), Some(w)], &[y]).unwrap();
    g
}

fn cached_data(g: &Graph) -> Vec<Vec<u8>> {
    let mut data = bytes_of(g);
    data[2] = 1i32.to_le_bytes().to_vec();
    data[3] = 2i32.to_le_bytes().to_vec();
    data
}

#[test]
fn state_never_moves_and_draws_its_nodes_to_the_host() {
    let g = cached();
    let (device, log) = open(Chip::new(&[OpKind::AttentionDecode], true));
    let lowered = lower(&device, g.clone(), &fallback(&host())).unwrap();
    assert_eq!(ways(&lowered.account), "native host host native");
    let Way::Host { reason, .. } = &lowered.account.entries[1].way else { panic!("{}", lowered.account) };
    assert_eq!(reason.to_string(), "operand 3: memory = host is not supported");
    let (d, h) = (Home::Device, Home::Host);
    assert_eq!(lowered.homes, [d, d, h, h, h, h, h, d]);
    let data = cached_data(&g);
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    log.take();
    bound.execute().unwrap();
    assert_eq!(log.take(), (32, 32), "the projected row down, the attended row up, and no cache");
    let (want, got) = both(&device, &lowered, &g, &data, 2);
    assert_eq!(want, got);
}

#[test]
fn state_whose_home_was_fixed_moves() {
    let g = cached();
    let (device, log) = open(Chip::new(&[OpKind::AttentionDecode], false));
    let fixed = [Some(Home::Device); 8];
    let lowered = lower_with(&device, g.clone(), &fallback(&host()), &fixed).unwrap();
    assert_eq!(ways(&lowered.account), "native native host native");
    let data = cached_data(&g);
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    log.take();
    bound.execute().unwrap();
    assert_eq!(log.take(), (32 + 2 * 128 + 8, 32));
    let (want, got) = both(&device, &lowered, &g, &data, 2);
    assert_eq!(want, got);
    let fixed = [None, None, None, None, None, Some(Home::Host), None, None];
    let lowered = lower_with(&device, g.clone(), &fallback(&host), &fixed).unwrap();
    assert_eq!(ways(&lowered.account), "native host host native", "a home on the host draws its nodes");
    let reason = |node: usize| match &lowered.account.entries[node].way {
        Way::Host { reason, .. } => reason.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(1), "operand 3: memory = host is not supported");
    assert_eq!(reason(2), "no kernel for this operator", "a refusal is the better reason");
    assert_eq!(both(&device, &lowered, &g, &data, 2).1, want);
}

#[test]
fn a_constant_on_the_device_is_downloaded_once_for_all_plans_of_a_fallback() {
    let mut g = Graph::new();
    let ids = g.bind("ids", TensorDesc::new(DType::I32, &[2]).unwrap());
    let w = g.bind("w", desc(&[8, 8]).as_constant());
    let y = g.bind("y", desc(&[2, 8]));
    let row = g.op1(Op::GatherRows(PLAIN), &[w, ids]).unwrap();
    g.add_into(matmul(), &[Some(row), Some(w)], &[y]).unwrap();
    let (device, log) = open(Chip::new(&[OpKind::GatherRows], true));
    let own = Fallback::new(host());
    let policy = Policy::Fallback(own.clone());
    let first = lower(&device, g.clone(), &policy).unwrap();
    let second = lower(&device, g.clone(), &policy).unwrap();
    assert_eq!(first.homes, [Home::Host, Home::Device, Home::Device]);
    assert_eq!(first.account.hosted(), Hosted { down: 0, up: 64, once: 256, ..Default::default() });
    let data = bytes_of(&g);
    let host = host();
    let mut bound = Bound::new(&device, &host, &first, &data);
    let shared = bound.bindings.clone();
    log.take();
    bound.execute().unwrap();
    assert_eq!((log.take(), own.kept_bytes()), ((256, 64), 256));
    bound.execute().unwrap();
    assert_eq!(log.take(), (0, 64));
    let mut bound = Bound::new(&device, &host, &second, &data);
    bound.bindings = shared;
    log.take();
    bound.execute().unwrap();
    assert_eq!(log.take(), (0, 64), "the other plan finds it kept");
    let (want, got) = both(&device, &second, &g, &data, 1);
    assert_eq!(want, got, "another buffer at another place is another constant");
}

#[test]
fn the_host_packs_what_it_wants_packed() {
    // The toy wants weights of products transposed: one that lives on the host, and one on the device.
    let host = toy::Toy::new().open();
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let [mine, shared] = ["mine", "shared"].map(|name| g.bind(name, desc(&[4, 4]).as_constant()));
    let y = g.bind("y", desc(&[2, 4]));
    let a = g.op1(matmul(), &[x, mine]).unwrap();
    let b = g.op1(Op::Add(PLAIN), &[a, x]).unwrap();
    let c = g.op1(matmul(), &[b, shared]).unwrap();
    g.add_into(Op::Add(PLAIN), &[Some(c), Some(x)], &[y]).unwrap();
    let (device, _) = open(Chip::new(&[OpKind::Matmul], true));
    let fixed = [None, None, Some(Home::Device), None];
    let lowered = lower_with(&device, g.clone(), &fallback(&host), &fixed).unwrap();
    assert_eq!(lowered.homes, [Home::Device, Home::Host, Home::Device, Home::Device]);
    let packs: Vec<_> = lowered.packs.iter().map(|p| (p.bound, p.home, p.layout)).collect();
    assert_eq!(packs, [(1, Home::Host, toy::TRANSPOSED)]);
    let data = bytes_of(&g);
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    for _ in 0..2 {
        bound.execute().unwrap();
    }
    let reference: Arc<dyn Device> = Arc::new(ReferenceDevice::default());
    let alone = lower(&reference, g.clone(), &Policy::DeviceOnly).unwrap();
    let mut want = Bound::new(&reference, &reference, &alone, &data);
    want.execute().unwrap();
    let (want, got) = (floats(&want.read(3)), floats(&bound.read(3)));
    assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() < 1e-4), "{got:?} instead of {want:?}");
}

#[test]
fn a_constant_packed_on_the_device_needs_a_copy_for_the_host() {
    // The toy packs w for its product; the host gathers rows of it as they are.
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 4]));
    let w = g.bind("w", desc(&[4, 4]).as_constant());
    let y = g.bind("y", desc(&[4, 4]));
    let z = g.bind("z", desc(&[2, 4]));
    g.add_into(Op::Tanh(PLAIN), &[Some(w)], &[y]).unwrap();
    g.add_into(matmul(), &[Some(x), Some(w)], &[z]).unwrap();
    let device = toy::Toy::new().without(&[OpKind::Tanh]).open();
    let (host, data) = (host(), bytes_of(&g));
    let own = Fallback::new(host.clone());
    let lowered = lower(&device, g, &Policy::Fallback(own.clone())).unwrap();
    assert_eq!((&lowered.unpacked[..], lowered.packs[0].bound), (&[1][..], 1));
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    let error = bound.execute().unwrap_err().to_string();
    assert!(error.contains("private layout 0x71") && error.contains("Fallback::keep"), "{error}");
    let copy = toy::upload(&*host, &mut *host.stream().unwrap(), &floats(&data[1]));
    own.keep(&bound.bindings[1], copy);
    bound.execute().unwrap();
    let want: Vec<f32> = floats(&data[1]).iter().map(|v| v.tanh()).collect();
    assert!(floats(&bound.read(2)).iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-6));
}

#[test]
fn a_part_that_the_host_writes_leaves_the_rest() {
    // Row 1 of acc is written on the host, acc is read on the device: acc moves down whole, and up whole.
    let mut g = Graph::new();
    let acc = g.bind("acc", desc(&[4, 8]));
    let x = g.bind("x", desc(&[1, 8]));
    let y = g.bind("y", desc(&[4, 8]));
    let row = g.view(acc, desc(&[1, 8]), 32).unwrap();
    let a = g.op1(Op::Silu(PLAIN), &[acc]).unwrap();
    g.add_into(Op::Tanh(PLAIN), &[Some(x)], &[row]).unwrap();
    g.add_into(Op::Add(PLAIN), &[Some(acc), Some(a)], &[y]).unwrap();
    let (device, log) = open(Chip::new(&[OpKind::Tanh], true));
    let fixed = [Some(Home::Device), None, None];
    let lowered = lower_with(&device, g.clone(), &fallback(&host()), &fixed).unwrap();
    let data = bytes_of(&g);
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &data);
    log.take();
    bound.execute().unwrap();
    assert_eq!((log.take(), lowered.homes[1]), ((128, 128), Home::Host));
    let (want, got) = both(&device, &lowered, &g, &data, 2);
    assert_eq!(want, got);
}

#[test]
fn a_device_that_only_allocates_and_copies_runs_everything_through_the_host() {
    let g = cached();
    let device: Arc<dyn Device> = Arc::new(Bare(Chip::new(&[], true)));
    let refused = lower(&device, g.clone(), &Policy::DeviceOnly).err().unwrap();
    let Error::Unsupported { list, .. } = refused else { panic!("{refused}") };
    assert_eq!(list.len(), 4);
    let data = cached_data(&g);
    for fixed in [vec![], vec![Some(Home::Device); 8]] {
        let lowered = lower_with(&device, g.clone(), &fallback(&host()), &fixed).unwrap();
        assert_eq!(ways(&lowered.account), "host host host host");
        let (want, got) = both(&device, &lowered, &g, &data, 3);
        assert_eq!(want, got);
    }
}

#[test]
fn what_the_host_refuses_too_is_listed_with_both_reasons() {
    let (device, _) = open(Chip::new(&[OpKind::Tanh, OpKind::Silu], true));
    let host = toy::Toy::new().open();
    let error = lower(&device, chain(), &fallback(&host)).err().unwrap();
    let text = error.to_string();
    let Error::UnsupportedByBoth { device: on, host, list } = error else { panic!("{text}") };
    assert_eq!((on.as_str(), host.as_str(), list.len(), list[0].0.node), ("chip", "toy", 1, 1));
    assert!(text.contains("tanh: no kernel for this operator, and on the host: no kernel"), "{text}");
}

#[test]
fn homes_that_do_not_fit_are_errors() {
    let (device, _) = open(Chip::new(&[], true));
    let error = lower_with(&device, chain(), &fallback(&host()), &[None]).err().unwrap().to_string();
    assert!(error.contains("give 2, one per bound tensor"), "{error}");
    let fixed = [None, Some(Home::Host)];
    let error = lower_with(&device, chain(), &Policy::DeviceOnly, &fixed).err().unwrap().to_string();
    assert!(error.contains("'y' on the host: there is no host"), "{error}");
}

#[test]
fn a_survey_tells_what_the_host_would_run_and_what_would_cross() {
    let (device, log) = open(Chip::new(&[OpKind::Tanh], true));
    let found = survey(&*device, chain(), &fallback(&host()), &[]).unwrap();
    let Ok(Way::Host { hosted, .. }) = &found.ways[1] else { panic!("{:?}", found.ways) };
    assert_eq!((hosted.down, hosted.up, log.plans.load(Ordering::Relaxed)), (128, 128, 0));
    let found = survey(&*device, chain(), &fallback(&toy::Toy::new().open()), &[]).unwrap();
    let Err(refusal) = &found.ways[1] else { panic!("{:?}", found.ways) };
    assert_eq!(refusal.host, Some(Reason::operator()));
}

#[test]
fn a_hanging_device_ends_an_execution_when_patience_does() {
    let (device, log) = open(Chip::new(&[OpKind::Tanh], true));
    let lowered = lower(&device, chain(), &fallback(&host())).unwrap();
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &bytes_of(&chain()));
    log.hangs.store(true, Ordering::Relaxed);
    bound.stream.set_patience(Duration::from_millis(20));
    let error = bound.execute().unwrap_err();
    assert!(matches!(error, Error::Timeout { millis: 20, .. }), "{error}");
    assert_eq!(lowered.account().hosted().runs, 0, "the host never ran");
    log.hangs.store(false, Ordering::Relaxed);
    bound.execute().unwrap();
}

#[test]
fn waiting_for_the_device_is_no_time_of_the_host() {
    let (device, log) = open(Chip::new(&[OpKind::Tanh], true));
    let lowered = lower(&device, chain(), &fallback(&host())).unwrap();
    let host = host();
    let mut bound = Bound::new(&device, &host, &lowered, &bytes_of(&chain()));
    log.slow.store(50, Ordering::Relaxed);
    let start = Instant::now();
    bound.execute().unwrap();
    let (all, slept) = (start.elapsed(), Duration::from_millis(50));
    assert!(lowered.account().hosted().time + slept <= all);
}

#[test]
fn a_steady_state_allocates_nothing_on_either_side() {
    let (device, _) = open(Chip::new(&[OpKind::Tanh], true));
    let (device, host) = (Record::new(device), Record::new(host()));
    let (own, own_host): (Arc<dyn Device>, Arc<dyn Device>) = (device.clone(), host.clone());
    let lowered = lower(&own, chain(), &fallback(&own_host)).unwrap();
    let mut bound = Bound::new(&own, &own_host, &lowered, &bytes_of(&chain()));
    bound.execute().unwrap();
    device.take();
    host.take();
    bound.execute().unwrap();
    let calls = device.calls();
    let name = |call: &Call| format!("{call:?}").split_whitespace().next().unwrap().to_string();
    assert_eq!(
        calls.iter().map(name).collect::<Vec<_>>(),
        ["Execute", "Sync", "Download", "Upload", "Execute"],
        "{calls:?}"
    );
    let calls = host.calls();
    assert_eq!(calls.iter().map(name).collect::<Vec<_>>(), ["Upload", "Execute", "Sync", "Download"], "{calls:?}");
}
