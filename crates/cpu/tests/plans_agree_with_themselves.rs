//! Plans: the same bytes whatever the number of threads and whoever else runs, results with strides, and graphs that the
//! device must refuse.

mod trials;

use std::sync::Arc;

use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::data::to_bytes;
use qiao_reference::{ReferenceDevice, Value};
use trials::{Maker, devices, execute, run};

const FLAT: NoAttrs = NoAttrs {};

fn desc(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).unwrap()
}

/// A small layer over `tokens` rows: norm, products of two dtypes, rope, cache, attention, activation, choice.
fn layer(tokens: usize) -> (Graph, Vec<Vec<u8>>) {
    let mut m = Maker::new(21);
    let (mut g, mut bytes) = (Graph::new(), Vec::new());
    let (d, heads, kv) = (48, 6, 2);
    let mut bind = |g: &mut Graph, (desc, data): trials::Data| {
        bytes.push(data);
        g.bind(format!("t{}", bytes.len()), desc)
    };
    let x = bind(&mut g, m.of(DType::F32, &[tokens, d]));
    let w = bind(&mut g, m.of(DType::BF16, &[d]));
    let wq = bind(&mut g, m.of(DType::BF16, &[d, d]));
    let wk = bind(&mut g, m.of(DType::F16, &[kv * 8, d]));
    let up = bind(&mut g, m.of(DType::BF16, &[2 * 70, d]));
    let down = bind(&mut g, m.of(DType::F32, &[333, 70]));
    let tables = [(); 2].map(|()| bind(&mut g, m.of(DType::F32, &[64, 4])));
    let ints = |data: &[f64]| (desc(DType::I32, &[data.len()]), to_bytes(DType::I32, data));
    let order: Vec<f64> = (0..tokens).map(|t| t as f64).collect();
    let (positions, slots) = (bind(&mut g, ints(&order)), bind(&mut g, ints(&order)));
    let (cu, len) = (bind(&mut g, ints(&[0.0, tokens as f64])), bind(&mut g, ints(&[tokens as f64])));
    let blocks = (desc(DType::I32, &[1, 8]), to_bytes(DType::I32, &[0., 1., 2., 3., 4., 5., 6., 7.]));
    let blocks = bind(&mut g, blocks);
    let caches = [(); 2].map(|()| bind(&mut g, m.of(DType::BF16, &[8, kv, 8, 8])));
    let out = bind(&mut g, m.of(DType::F16, &[tokens, 333]));
    let chosen = bind(&mut g, ints(&order));
    let norm = Op::RmsNorm(NormAttrs { eps: 1e-5, ..Default::default() });
    let product = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let h = g.op1(norm, &[x, w]).unwrap();
    let (q, k) = (g.op1(product, &[h, wq]).unwrap(), g.op1(product, &[h, wk]).unwrap());
    let q = g.reshape(q, &[tokens, heads, 8]).unwrap();
    let k = g.reshape(k, &[tokens, kv, 8]).unwrap();
    let rope = Op::Rope(RopeAttrs::default());
    let q = g.op1(rope, &[q, positions, tables[0], tables[1]]).unwrap();
    let write = Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockHeadToken });
    g.add(write, &[k, k, slots, caches[0], caches[1]].map(Some)).unwrap();
    let attrs = AttentionAttrs { causal: true, window: 9, kv_layout: KvLayout::BlockHeadToken, ..Default::default() };
    let a = g.op1(Op::AttentionPrefill(attrs), &[q, caches[0], caches[1], cu, len, blocks]).unwrap();
    let a = g.reshape(a, &[tokens, d]).unwrap();
    let sum = g.op1(Op::Add(FLAT), &[a, x]).unwrap();
    let ups = g.op1(product, &[sum, up]).unwrap();
    let act = g.op1(Op::SiluMul(SiluMulAttrs::default()), &[ups]).unwrap();
    g.add_into(product, &[Some(act), Some(down)], &[out]).unwrap();
    g.add_into(Op::Argmax(FLAT), &[Some(out)], &[chosen]).unwrap();
    (g, bytes)
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for tokens in [1, 5, 50] {
        let (graph, bytes) = layer(tokens);
        for isa in Isa::ALL {
            let open = |threads| trials::open(isa, threads);
            let Some(single) = open(1) else { continue };
            let first = run(&single, &graph, &bytes).unwrap();
            assert_ne!(first, bytes, "the plan writes its results");
            for threads in [1, 2, 3] {
                let device = open(threads).unwrap();
                let plan = device.plan(&graph).unwrap();
                for _ in 0..2 {
                    assert_eq!(execute(&device, &*plan, &bytes).unwrap(), first, "{threads} threads, {isa}");
                }
            }
        }
    }
}

#[test]
fn plans_run_from_several_threads_at_once_without_mixing() {
    for threads in [1, 2, 3] {
        let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() }).unwrap();
        let jobs: Vec<_> = [1, 4, 17, 50]
            .map(|tokens| {
                let (graph, bytes) = layer(tokens);
                let plan = device.plan(&graph).unwrap();
                let want = execute(&device, &*plan, &bytes).unwrap();
                (plan, bytes, want)
            })
            .into();
        std::thread::scope(|s| {
            for (i, (device, jobs)) in [(&device, &jobs); 4].into_iter().enumerate() {
                s.spawn(move || {
                    for round in 0..12 {
                        // Two threads at a time share a plan.
                        let (plan, bytes, want) = &jobs[(i / 2 + round) % jobs.len()];
                        assert_eq!(&execute(device, &**plan, bytes).unwrap(), want, "thread {i}, round {round}");
                    }
                });
            }
        });
    }
}

/// A graph of one node whose results lie as `outputs` say, beside the reference.
fn beside_the_reference(op: Op, inputs: &[trials::Data], outputs: &[TensorDesc]) {
    let (mut g, mut bytes) = (Graph::new(), Vec::new());
    let ins: Vec<_> = inputs.iter().map(|(d, b)| (bytes.push(b.clone()), Some(g.bind("x", d.clone()))).1).collect();
    let outs: Vec<_> =
        outputs.iter().map(|d| (bytes.push(vec![0x5a; d.bytes().unwrap()]), g.bind("y", d.clone())).1).collect();
    g.add_into(op, &ins, &outs).unwrap();
    let want = run(&ReferenceDevice::default(), &g, &bytes).unwrap();
    for device in devices() {
        let got = run(&device, &g, &bytes).unwrap();
        for (i, d) in outputs.iter().enumerate() {
            let (got, want) = (&got[inputs.len() + i], &want[inputs.len() + i]);
            let (a, b) = (Value::load(d, got).unwrap(), Value::load(d, want).unwrap());
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.02 * (1.0 + b.abs());
            assert!(a.data.iter().zip(&b.data).all(near), "{op} on {}: {:?} {:?}", device.info().arch, a.data, b.data);
            // What lies between the elements stays.
            let mut gaps = vec![true; got.len()];
            let size = d.dtype.block_bytes();
            let walk = qiao_reference::value::Walk::new(&d.shape, &d.strides);
            walk.for_each(|at| gaps[at * size..(at + 1) * size].fill(false));
            assert!(got.iter().zip(&gaps).all(|(&byte, &gap)| !gap || byte == 0x5a), "{op} writes into the gaps");
        }
    }
}

#[test]
fn results_may_have_strides() {
    let mut m = Maker::new(22);
    let spread = |dtype, shape: &[usize], strides: &[usize]| TensorDesc::strided(dtype, shape, strides).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let turned = spread(dtype, &[6, 20], &[2, 13]);
        let product = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        let w = m.of(DType::BF16, &[20, 11]);
        beside_the_reference(product, &[m.of(DType::F16, &[6, 11]), w.clone()], std::slice::from_ref(&turned));
        beside_the_reference(product, &[m.of(DType::F32, &[1, 11]), w], &[spread(dtype, &[1, 20], &[1, 3])]);
        let x = m.gapped(dtype, &[6, 20]);
        for op in [
            Op::Silu(FLAT),
            Op::Softmax(SoftmaxAttrs::default()),
            Op::Copy(FLAT),
            Op::RmsNorm(NormAttrs::default()),
            Op::Cast(FLAT),
        ] {
            beside_the_reference(op, std::slice::from_ref(&x), std::slice::from_ref(&turned));
        }
        beside_the_reference(Op::Cast(FLAT), std::slice::from_ref(&x), &[spread(DType::I16, &[6, 20], &[41, 2])]);
        beside_the_reference(Op::Argmax(FLAT), std::slice::from_ref(&x), &[spread(DType::I32, &[6], &[3])]);
        let top = [spread(dtype, &[6, 3], &[1, 7]), spread(DType::I32, &[6, 3], &[9, 2])];
        beside_the_reference(Op::TopK(TopKAttrs { k: 3 }), std::slice::from_ref(&x), &top);
        let codes = [spread(DType::I8, &[6, 20], &[23, 1]), spread(DType::F32, &[6], &[2])];
        beside_the_reference(Op::QuantizeDynamic(FLAT), std::slice::from_ref(&x), &codes);
        let sums = [spread(dtype, &[6, 1], &[4, 9])];
        beside_the_reference(
            Op::Reduce(ReduceAttrs { kind: ReduceKind::Sum, axis: 1, keep_dim: true }),
            std::slice::from_ref(&x),
            &sums,
        );
        beside_the_reference(Op::Fill(FillAttrs { value: 2.5 }), &[], std::slice::from_ref(&turned));
        let attrs = AttentionAttrs { causal: true, ..Default::default() };
        let ints = |data: &[f64]| (desc(DType::I32, &[data.len()]), to_bytes(DType::I32, data));
        let attended = [
            m.of(dtype, &[5, 2, 8]),
            m.of(dtype, &[5, 1, 8]),
            m.of(dtype, &[5, 1, 8]),
            ints(&[0.0, 4.0]),
            ints(&[4.0]),
        ];
        beside_the_reference(Op::AttentionPrefill(attrs), &attended, &[spread(dtype, &[5, 2, 8], &[2, 1, 10])]);
    }
}

fn refused(graph: &Graph, word: &str) {
    for device in devices() {
        let Support::No(reason) = device.support(graph)[0].answer.clone() else { panic!("the node is run: {graph}") };
        assert!(reason.to_string().contains(word), "{reason}");
        assert!(matches!(device.plan(graph), Err(Error::Unsupported { .. })));
    }
}

#[test]
fn graphs_that_no_kernel_may_see_are_refused() {
    // Two elements of the result share memory, so that two threads would write it.
    let mut g = Graph::new();
    let x = g.bind("x", desc(DType::F32, &[4, 4]));
    let y = g.bind("y", TensorDesc::strided(DType::F32, &[4, 4], &[1, 1]).unwrap());
    g.add_into(Op::Silu(FLAT), &[Some(x)], &[y]).unwrap();
    refused(&g, "strides");
    // An f32 at an odd byte.
    let mut g = Graph::new();
    let x = g.bind("x", desc(DType::U8, &[64]));
    let odd = g.view(x, desc(DType::F32, &[4]), 2).unwrap();
    g.op1(Op::Silu(FLAT), &[odd]).unwrap();
    refused(&g, "multiple of 4");
    // Four bytes that claim to be 2^60 elements.
    let mut g = Graph::new();
    let x = g.bind("x", TensorDesc::strided(DType::F32, &[1 << 60], &[0]).unwrap());
    g.op1(Op::Reduce(ReduceAttrs { kind: ReduceKind::Sum, axis: 0, keep_dim: false }), &[x]).unwrap();
    refused(&g, "memory");
}

#[test]
fn absurd_empty_shapes_are_planned_and_run_at_once() {
    let far = usize::MAX;
    for device in devices() {
        for (shape, strides) in [
            (&[far, 0][..], &[far, far][..]),
            (&[0, far], &[far, 1]),
            (&[far, far, 0], &[1, 1, 1]),
            (&[3, 0], &[far, 9]),
        ] {
            let mut g = Graph::new();
            let x = g.bind("x", TensorDesc::strided(DType::BF16, shape, strides).unwrap());
            for op in [
                Op::Silu(FLAT),
                Op::Softmax(SoftmaxAttrs::default()),
                Op::RmsNorm(NormAttrs::default()),
                Op::Copy(FLAT),
                Op::Cast(FLAT),
            ] {
                g.op1(op, &[x]).unwrap();
            }
            run(&device, &g, &[vec![]]).unwrap();
        }
        for (shape, layout) in [([far, 0], PACKED), ([0, far], PACKED), ([far, 0], PACKED + 1), ([0, far], PACKED + 1)]
        {
            let weight = TensorDesc::strided(DType::I8, &shape, &[far, 1]).unwrap().as_constant();
            assert!(device.prepack_bytes(&weight, layout).is_err());
        }
    }
}

/// The layout of packed weights, as a support answer names it.
const PACKED: u64 = 0x5061_6e65_6c31_3600;

#[test]
fn weights_are_packed_beside_their_source_only() {
    for device in devices() {
        let weight = desc(DType::I8, &[20, 0]).as_constant();
        let memory: Arc<dyn Buffer> = device.alloc(0, 4096).unwrap();
        let mut stream = device.stream().unwrap();
        stream.fill(&Binding::whole(memory.clone()), 9).unwrap();
        let need = device.prepack_bytes(&weight, PACKED).unwrap();
        let (from, to) = (Binding::part(&memory, 0, 0), Binding::part(&memory, 64, need));
        device.prepack(&mut *stream, &weight, &from, PACKED, &to).unwrap();
        let mut sums = vec![1; need];
        stream.download(&mut sums, &to).unwrap();
        assert!(sums.iter().all(|&b| b == 0), "columns without inputs sum to 0");
        let weight = desc(DType::F32, &[16, 8]).as_constant();
        let whole = Binding::whole(memory.clone());
        assert!(device.prepack(&mut *stream, &weight, &whole, PACKED, &Binding::part(&memory, 64, 1024)).is_err());
    }
}

#[test]
fn constants_that_are_views_are_run_where_they_lie() {
    let mut m = Maker::new(23);
    let (mut g, x, w) = (Graph::new(), m.of(DType::F32, &[2, 8]), m.of(DType::BF16, &[24, 8]));
    let a = g.bind("x", x.0);
    let fused = g.bind("w", w.0.as_constant());
    let part = g.view(fused, desc(DType::BF16, &[12, 8]).as_constant(), 12 * 16).unwrap();
    let y = g.bind("y", desc(DType::F32, &[2, 12]));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    g.add_into(op, &[Some(a), Some(part)], &[y]).unwrap();
    let bytes = [x.1, w.1, vec![0; 96]];
    let want = run(&ReferenceDevice::default(), &g, &bytes).unwrap();
    for device in devices() {
        let got = run(&device, &g, &bytes).unwrap();
        let load = |b: &[u8]| Value::load(&desc(DType::F32, &[2, 12]), b).unwrap().data;
        assert!(load(&got[2]).iter().zip(load(&want[2])).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

struct Page([u8; 64]);

impl HostMemory for Page {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn imported_memory_is_never_written() {
    let mut g = Graph::new();
    let x = g.bind("x", desc(DType::F32, &[2]));
    let y = g.bind("y", desc(DType::F32, &[4]));
    let part = g.view(y, desc(DType::F32, &[2]), 8).unwrap();
    g.add_into(Op::Silu(FLAT), &[Some(x)], &[part]).unwrap();
    for device in devices() {
        let plan = device.plan(&g).unwrap();
        let page = Binding::whole(device.import(Arc::new(Page([0; 64])), 0, 64).unwrap());
        let own = Binding::whole(device.alloc(0, 64).unwrap());
        let work = Binding::whole(device.alloc(0, plan.info().workspace_bytes.max(64)).unwrap());
        let mut stream = device.stream().unwrap();
        let error = plan.execute(&mut *stream, &[own.clone(), page.clone()], &work).unwrap_err().to_string();
        assert!(error.contains("imported"), "{error}");
        assert!(plan.execute(&mut *stream, &[own.clone(), own.clone()], &page).is_err());
        assert!(
            stream.copy(&page, &own).is_err() && stream.fill(&page, 1).is_err() && stream.upload(&page, &[1]).is_err()
        );
        let weight = desc(DType::I8, &[1, 1]).as_constant();
        assert!(device.prepack(&mut *stream, &weight, &own, PACKED, &page).is_err());
    }
}
