//! A law of the house: nothing is allocated per token. Counted over all threads while a plan with every operator of a
//! decode step runs, its products in one row and in many.

mod trials;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_reference::data::to_bytes;
use trials::{Data, Maker};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn ints(data: &[usize]) -> Data {
    let values: Vec<f64> = data.iter().map(|&v| v as f64).collect();
    (TensorDesc::new(DType::I32, &[data.len()]).unwrap(), to_bytes(DType::I32, &values))
}

/// A weight whose codes and scales are small numbers.
fn blocks(dtype: DType, shape: &[usize]) -> Data {
    let desc = TensorDesc::new(dtype, shape).unwrap();
    let bytes = vec![0x22; desc.bytes().unwrap()];
    (desc, bytes)
}

/// A layer of a decoder for one sequence of so many tokens, and the choice of the next.
fn layer(tokens: usize, dtype: DType) -> Result<(Graph, Vec<Vec<u8>>)> {
    let mut m = Maker::new(5);
    let (mut g, mut bytes) = (Graph::new(), Vec::new());
    let (d, heads, kv, inter) = (64, 4, 2, 96);
    let mut bind = |g: &mut Graph, (desc, data): Data, constant: bool| {
        bytes.push(data);
        g.bind(format!("t{}", bytes.len()), if constant { desc.as_constant() } else { desc })
    };

    let table = bind(&mut g, m.of(dtype, &[20, d]), true);
    let norm_weight = bind(&mut g, m.of(dtype, &[d]), true);
    let [wq, wk, wo] = [d, kv * 16, d].map(|n| bind(&mut g, m.of(dtype, &[n, d]), true));
    let [gate, up] = [inter; 2].map(|n| bind(&mut g, blocks(DType::Q4_0, &[n, d]), true));
    let down = bind(&mut g, blocks(DType::Q8_0, &[d, inter]), true);
    let tables = [(); 2].map(|()| bind(&mut g, m.of(DType::F32, &[64, 8]), false));
    let order: Vec<usize> = (0..tokens).collect();
    let [ids, positions, slots] = [(); 3].map(|()| bind(&mut g, ints(&order), false));
    let cu_q = bind(&mut g, ints(&[0, tokens]), false);
    let kv_len = bind(&mut g, ints(&[tokens]), false);
    let pages = (TensorDesc::new(DType::I32, &[1, 4])?, to_bytes(DType::I32, &[0., 1., 2., 3.]));
    let pages = bind(&mut g, pages, false);
    let caches = [(); 2].map(|()| bind(&mut g, m.of(DType::BF16, &[4, kv, 16, 16]), false));
    let chosen = bind(&mut g, ints(&order), false);

    let norm = Op::RmsNorm(NormAttrs { eps: 1e-5, ..Default::default() });
    let product = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let quantised = Op::MatmulQuant(MatmulQuantAttrs::default());
    let rope = Op::Rope(RopeAttrs::default());
    let h = g.add_as(Op::GatherRows(NoAttrs {}), &[table, ids].map(Some), dtype)?[0];
    let x = g.op1(norm, &[h, norm_weight])?;
    let k = g.op1(product, &[x, wk])?;
    let k = g.reshape(k, &[tokens, kv, 16])?;
    let k = g.op1(rope, &[k, positions, tables[0], tables[1]])?;
    let write = Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockHeadToken });
    g.add(write, &[k, k, slots, caches[0], caches[1]].map(Some))?;
    let q = g.op1(product, &[x, wq])?;
    let q = g.reshape(q, &[tokens, heads, 16])?;
    let q = g.op1(rope, &[q, positions, tables[0], tables[1]])?;
    let attrs = AttentionAttrs { causal: true, kv_layout: KvLayout::BlockHeadToken, ..Default::default() };
    let a = match tokens {
        1 => g.op1(Op::AttentionDecode(attrs), &[q, caches[0], caches[1], kv_len, pages])?,
        _ => g.op1(Op::AttentionPrefill(attrs), &[q, caches[0], caches[1], cu_q, kv_len, pages])?,
    };
    let a = g.reshape(a, &[tokens, d])?;
    let y = g.op1(product, &[a, wo])?;
    let sums = g.add(Op::AddRmsNorm(NormAttrs { eps: 1e-5, ..Default::default() }), &[y, h, norm_weight].map(Some))?;
    let gate = g.op1(quantised, &[sums[1], gate])?;
    let up = g.op1(quantised, &[sums[1], up])?;
    let act = g.op1(Op::SiluMul(SiluMulAttrs::default()), &[gate, up])?;
    let y = g.op1(quantised, &[act, down])?;
    let y = g.op1(Op::Add(NoAttrs {}), &[y, sums[0]])?;
    let y = g.op1(Op::Softmax(SoftmaxAttrs::default()), &[y])?;
    g.add_into(Op::Argmax(NoAttrs {}), &[Some(y)], &[chosen])?;
    Ok((g, bytes))
}

/// Allocations of one run of a plan: the least of several, since a thread of the pool may still be starting during the first.
fn allocations(threads: usize, tokens: usize, dtype: DType) -> Result<usize> {
    let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(threads), ..Default::default() })?;
    let mut stream = device.stream()?;
    let (mut g, mut bytes) = layer(tokens, dtype)?;
    trials::pack(&device, &mut g, &mut bytes)?;
    let mut bindings = Vec::new();
    for bytes in &bytes {
        let binding = Binding::whole(device.alloc(0, bytes.len())?);
        stream.upload(&binding, bytes)?;
        bindings.push(binding);
    }
    let plan = device.plan(&g)?;
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
    let mut least = usize::MAX;
    for _ in 0..20 {
        let before = CALLS.load(Ordering::Relaxed);
        plan.execute(&mut *stream, &bindings, &workspace)?;
        least = least.min(CALLS.load(Ordering::Relaxed) - before);
    }
    Ok(least)
}

#[test]
fn executing_a_plan_allocates_nothing() {
    for threads in [1, 3] {
        for tokens in [1, 19] {
            for dtype in [DType::F32, DType::BF16] {
                let found = allocations(threads, tokens, dtype).unwrap();
                assert_eq!(found, 0, "{threads} threads, {tokens} tokens, {dtype}");
            }
        }
    }
}
