//! The result of a query token depends on the token, on the keys and values that it sees and on the attributes, to the
//! bit: not on tokens and sequences beside it, on the operator, on chunks of a prompt, on pages, on threads.

mod trials;

use proptest::prelude::*;
use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::data::{Rng, to_bytes};
use trials::run;

/// Query heads for each key head, key heads, head size.
type Heads = (usize, usize, usize);

/// A cache's dtype, whether it has scales, and the dtype of the queries.
type Dtypes = (DType, bool, DType);

const CACHES: [Dtypes; 10] = [
    (DType::F32, false, DType::F32),
    (DType::F16, false, DType::F32),
    (DType::BF16, false, DType::F32),
    (DType::BF16, false, DType::BF16),
    (DType::I8, true, DType::F32),
    (DType::F8E4M3, true, DType::F32),
    (DType::F8E5M2, true, DType::BF16),
    (DType::F8E4M3, true, DType::BF16),
    (DType::F8E4M3, false, DType::F32),
    (DType::F8E5M2, false, DType::F16),
];

/// One sequence: as many queries as keys, by position.
struct Sequence {
    heads: Heads,
    dtype: DType,
    scaled: bool,
    q_dtype: DType,
    /// `[len, H, D]`.
    q: Vec<u8>,
    /// `[len, Hkv, D]` of the cache's dtype, keys and values.
    kv: [Vec<u8>; 2],
    /// `[len, Hkv]` f32.
    scales: [Vec<u8>; 2],
}

impl Sequence {
    fn new(seed: u64, heads: Heads, len: usize, (dtype, scaled, q_dtype): Dtypes) -> Self {
        let (group, kv_heads, d) = heads;
        let mut rng = Rng::new(seed);
        let q: Vec<f64> = (0..len * group * kv_heads * d).map(|_| 2.0 * rng.normal()).collect();
        let mut codes = || -> Vec<u8> {
            let count = len * kv_heads * d;
            match dtype {
                DType::I8 => (0..count).map(|_| rng.bits() as u8).collect(),
                dtype => to_bytes(dtype, &(0..count).map(|_| rng.normal()).collect::<Vec<_>>()),
            }
        };
        let kv = [codes(), codes()];
        let least = if dtype == DType::I8 { 0.01 } else { 0.5 };
        let mut scales = || -> Vec<u8> {
            to_bytes(DType::F32, &(0..len * kv_heads).map(|_| least * (1.0 + rng.uniform())).collect::<Vec<_>>())
        };
        let scales = [scales(), scales()];
        Sequence { heads, dtype, scaled, q_dtype, q: to_bytes(q_dtype, &q), kv, scales }
    }
}

/// What some tokens of a sequence ask: those from `first` to `end`, at the end of `end` keys.
#[derive(Clone, Copy, Debug)]
struct Ask {
    first: usize,
    end: usize,
}

/// How a batch is laid out.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// 0: packed keys and values.
    block: usize,
    layout: KvLayout,
    decode: bool,
    /// What the order of the blocks comes from.
    seed: u64,
    /// What slots that hold no token, and scales, are filled with.
    poison: u8,
}

/// A cache in pages, or packed: keys or values (or their scales) of all sequences, `size` bytes a head.
struct Pool {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Pool {
    /// `rows(sequence)` gives `[len, Hkv, size]` bytes; `tables` the blocks of each sequence.
    fn new(way: Way, kv_heads: usize, size: usize, blocks: usize, asked: &[(&[u8], usize, &[usize])]) -> Self {
        if way.block == 0 {
            let bytes = asked.iter().flat_map(|(rows, len, _)| &rows[..len * kv_heads * size]).copied().collect();
            return Pool { shape: vec![asked.iter().map(|a| a.1).sum(), kv_heads], bytes };
        }
        let token_head = way.layout == KvLayout::BlockTokenHead;
        let shape = if token_head { vec![blocks, way.block, kv_heads] } else { vec![blocks, kv_heads, way.block] };
        let mut bytes = vec![way.poison; blocks * way.block * kv_heads * size];
        for (rows, len, table) in asked {
            for (token, head) in (0..*len).flat_map(|t| (0..kv_heads).map(move |h| (t, h))) {
                let (block, inside) = (table[token / way.block], token % way.block);
                let at = match token_head {
                    true => (block * way.block + inside) * kv_heads + head,
                    false => (block * kv_heads + head) * way.block + inside,
                };
                bytes[at * size..][..size].copy_from_slice(&rows[(token * kv_heads + head) * size..][..size]);
            }
        }
        Pool { shape, bytes }
    }
}

fn ints(data: &[usize]) -> (TensorDesc, Vec<u8>) {
    let bytes = data.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect();
    (TensorDesc::new(DType::I32, &[data.len()]).unwrap(), bytes)
}

/// Runs one batch; the results of each ask, `[tokens, H, D]` f32.
fn attend(
    device: &CpuDevice,
    attrs: AttentionAttrs,
    sinks: bool,
    way: Way,
    batch: &[(&Sequence, Ask)],
) -> Vec<Vec<u8>> {
    let s = batch[0].0;
    let (group, kv_heads, d) = s.heads;
    let (heads, token) = (group * kv_heads, group * kv_heads * d * 4);
    let attrs = AttentionAttrs { kv_layout: way.layout, ..attrs };
    // Blocks in an order of the seed; the first is nobody's.
    let counts: Vec<usize> = batch.iter().map(|(_, a)| a.end.div_ceil(way.block.max(1))).collect();
    let blocks = counts.iter().sum::<usize>() + 2;
    let mut ids: Vec<usize> = Rng::new(way.seed).permutation(blocks - 1).iter().map(|&b| b + 1).collect();
    let tables: Vec<Vec<usize>> = counts.iter().map(|&n| ids.split_off(ids.len() - n)).collect();
    let pool = |bytes: &dyn Fn(&Sequence) -> &[u8], size| {
        let asked: Vec<_> = batch.iter().zip(&tables).map(|((s, a), t)| (bytes(s), a.end, &t[..])).collect();
        // Whole sequences are given: what lies behind the asked keys is never in the pool.
        Pool::new(way, kv_heads, size, blocks, &asked)
    };
    let mut inputs: Vec<Option<(TensorDesc, Vec<u8>)>> = Vec::new();
    let query = token / 4 * s.q_dtype.block_bytes();
    let q: Vec<u8> = batch.iter().flat_map(|(s, a)| s.q[a.first * query..a.end * query].to_vec()).collect();
    let tokens: usize = batch.iter().map(|(_, a)| a.end - a.first).sum();
    inputs.push(Some((TensorDesc::new(s.q_dtype, &[tokens, heads, d]).unwrap(), q)));
    for i in 0..2 {
        let pool = pool(&|s| &s.kv[i], d * s.dtype.block_bytes());
        inputs.push(Some((TensorDesc::new(s.dtype, &[&pool.shape[..], &[d]].concat()).unwrap(), pool.bytes)));
    }
    if !way.decode {
        let mut cu = vec![0];
        batch.iter().for_each(|(_, a)| cu.push(cu[cu.len() - 1] + a.end - a.first));
        inputs.push(Some(ints(&cu)));
    }
    inputs.push(Some(ints(&batch.iter().map(|(_, a)| a.end).collect::<Vec<_>>())));
    let width = counts.iter().max().unwrap() + 1;
    inputs.push((way.block > 0).then(|| {
        let table: Vec<usize> = tables.iter().flat_map(|t| (0..width).map(|i| *t.get(i).unwrap_or(&0))).collect();
        let (_, bytes) = ints(&table);
        (TensorDesc::new(DType::I32, &[batch.len(), width]).unwrap(), bytes)
    }));
    let sink: Vec<f64> = (0..heads).map(|h| h as f64 / 2.0 - 1.0).collect();
    inputs.push(sinks.then(|| (TensorDesc::new(DType::F32, &[heads]).unwrap(), to_bytes(DType::F32, &sink))));
    for i in 0..2 {
        let scale = || {
            let pool = pool(&|s| &s.scales[i], 4);
            (TensorDesc::new(DType::F32, &pool.shape).unwrap(), pool.bytes)
        };
        inputs.push(s.scaled.then(scale));
    }
    let (mut g, mut bytes) = (Graph::new(), Vec::new());
    let ids: Vec<_> = inputs
        .into_iter()
        .map(|input| {
            input.map(|(desc, data)| {
                bytes.push(data);
                g.bind("x", desc)
            })
        })
        .collect();
    let y = g.bind("y", TensorDesc::new(DType::F32, &[tokens, heads, d]).unwrap());
    bytes.push(vec![0x5a; tokens * token]);
    let op = if way.decode { Op::AttentionDecode(attrs) } else { Op::AttentionPrefill(attrs) };
    g.add_into(op, &ids, &[y]).unwrap();
    let mut out = run(device, &g, &bytes).unwrap().pop().unwrap();
    let mut results = Vec::new();
    for (_, a) in batch {
        let rest = out.split_off((a.end - a.first) * token);
        results.push(std::mem::replace(&mut out, rest));
    }
    results
}

fn device(isa: Isa, threads: usize) -> Option<CpuDevice> {
    CpuDevice::with(&CpuOptions { isa: Some(isa), threads: Some(threads), ..Default::default() }).ok()
}

/// Every token of a sequence on its own: one thread, pages of sixteen.
fn truth(isa: Isa, attrs: AttentionAttrs, sinks: bool, s: &Sequence, tokens: &[usize]) -> Option<Vec<Vec<u8>>> {
    let device = device(isa, 1)?;
    let way = Way { block: 16, layout: KvLayout::BlockTokenHead, decode: true, seed: 1, poison: 0 };
    let alone = |&t: &usize| attend(&device, attrs, sinks, way, &[(s, Ask { first: t, end: t + 1 })]).remove(0);
    Some(tokens.iter().map(alone).collect())
}

#[track_caller]
fn same(got: &[u8], want: &[u8], what: &dyn Fn() -> String) {
    assert_eq!(got.len(), want.len());
    if got != want {
        let floats =
            |b: &[u8]| b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
        let (got, want) = (floats(got), floats(want));
        let at = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits()).unwrap();
        panic!("{}: element {at} is {:e}, alone {:e}", what(), got[at], want[at]);
    }
}

const PLAIN: AttentionAttrs =
    AttentionAttrs { scale: 0.0, causal: true, window: 0, softcap: 0.0, kv_layout: KvLayout::BlockTokenHead };

/// Poison for slots without a token: NaN in every dtype that has one.
const NANS: u8 = 0xff;

/// Decoding one token of a long context, alone and in company, over every kind of page, on one to three threads.
fn decodes(attrs: AttentionAttrs, sinks: bool, heads: Heads, cache: Dtypes, len: usize) {
    let long = Sequence::new(7, heads, len, cache);
    let other = Sequence::new(8, heads, 150, cache);
    for isa in Isa::ALL {
        let Some(want) = truth(isa, attrs, sinks, &long, &[len - 1]) else { continue };
        let short = &truth(isa, attrs, sinks, &other, &[148]).unwrap()[0];
        for (i, (block, layout)) in [1, 7, 16, 32, 64, 128, 256]
            .into_iter()
            .flat_map(|b| [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken].map(|l| (b, l)))
            .enumerate()
        {
            let device = device(isa, 1 + i % 3).unwrap();
            let way = Way { block, layout, decode: i % 2 == 0, seed: i as u64, poison: NANS };
            let alone = (&long, Ask { first: len - 1, end: len });
            let beside = (&other, Ask { first: 148, end: 149 });
            let what = || format!("{isa} {cache:?} {heads:?} len {len} {attrs:?} {way:?}");
            same(&attend(&device, attrs, sinks, way, &[alone])[0], &want[0], &what);
            let both = attend(&device, attrs, sinks, way, &[beside, alone, beside]);
            same(&both[1], &want[0], &what);
            same(&both[0], short, &what);
            same(&both[2], short, &what);
        }
    }
}

#[test]
fn a_decoded_token_is_the_same_in_every_page_beside_anybody_on_any_threads() {
    let heads = [(1, 2, 64), (4, 1, 128), (7, 2, 64), (8, 1, 80)];
    for (i, cache) in CACHES.into_iter().enumerate() {
        decodes(PLAIN, false, heads[i % 4], cache, 1100 + i);
        decodes(PLAIN, false, heads[(i + 1) % 4], cache, 515);
    }
}

/// More parts than there are tasks, each of which takes several.
#[test]
fn a_decoded_token_is_the_same_where_parts_are_taken_in_runs() {
    for (i, cache) in CACHES.into_iter().take(4).enumerate() {
        decodes(PLAIN, false, (2, 1, 16), cache, 6700 + i);
        decodes(AttentionAttrs { window: 5500, ..PLAIN }, true, (1, 1, 20), cache, 7000 - i);
    }
}

#[test]
fn windows_caps_and_sinks_change_nothing_of_it() {
    for (i, cache) in CACHES.into_iter().enumerate() {
        let window = AttentionAttrs { window: 600, ..PLAIN };
        let cap = AttentionAttrs { softcap: 3.0, window: 130, scale: 0.3, ..PLAIN };
        decodes(window, false, (7, 1, 64), cache, 1300 + i);
        decodes(cap, true, (4, 2, 37), cache, 777);
        decodes(PLAIN, true, (3, 1, 33), cache, 130);
    }
}

/// A prompt in one piece, in pieces of any size, packed and in pages: the tokens of each run against each alone.
fn prompts(attrs: AttentionAttrs, heads: Heads, cache: Dtypes, len: usize, cuts: &[usize]) {
    let s = Sequence::new(9, heads, len, cache);
    let other = Sequence::new(10, heads, 40, cache);
    let tokens: Vec<usize> = (0..len).filter(|t| t % 61 == 0 || (505..=520).contains(t) || t + 2 > len).collect();
    let size = heads.0 * heads.1 * heads.2 * 4;
    for isa in Isa::ALL {
        let Some(want) = truth(isa, attrs, false, &s, &tokens) else { continue };
        for (i, &cut) in cuts.iter().enumerate() {
            let device = device(isa, 1 + i % 3).unwrap();
            // Packed keys have no scales, and are never i8.
            let packed = i % 2 == 0 && !cache.1;
            let block = if packed { 0 } else { [16, 1, 128, 7][i % 4] };
            let layout = [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken][i / 2 % 2];
            let way = Way { block, layout, decode: false, seed: i as u64, poison: NANS };
            for first in (0..len).step_by(cut) {
                let end = len.min(first + cut);
                let batch = [(&other, Ask { first: 3, end: 40 }), (&s, Ask { first, end })];
                let batch = &batch[i % 2..];
                let got = attend(&device, attrs, false, way, batch).pop().unwrap();
                for (t, want) in tokens.iter().zip(&want).filter(|(t, _)| (first..end).contains(t)) {
                    let what = || format!("{isa} {cache:?} {heads:?} token {t} of {first}..{end} {attrs:?} {way:?}");
                    same(&got[(t - first) * size..][..size], want, &what);
                }
            }
        }
    }
}

#[test]
fn a_prompt_may_be_cut_anywhere() {
    let heads = [(7, 2, 64), (1, 2, 80), (4, 1, 128), (8, 1, 64)];
    for (i, cache) in CACHES.into_iter().enumerate() {
        prompts(PLAIN, heads[i % 4], cache, 523, &[523, 512, 100, 37]);
        let window = AttentionAttrs { window: 45, softcap: if i % 2 == 0 { 5.0 } else { 0.0 }, ..PLAIN };
        prompts(window, heads[(i + 1) % 4], cache, 300, &[300, 130, 7]);
    }
}

#[test]
fn keys_that_nobody_may_see_can_hold_anything() {
    // The second run has other keys and values behind the tokens that are asked.
    let heads = (4, 1, 64);
    for cache in CACHES {
        let mut s = Sequence::new(11, heads, 300, cache);
        for isa in Isa::ALL {
            let Some(device) = device(isa, 2) else { continue };
            let way = Way { block: 32, layout: KvLayout::BlockHeadToken, decode: false, seed: 3, poison: 0 };
            let whole = |s: &Sequence| attend(&device, PLAIN, false, way, &[(s, Ask { first: 0, end: 300 })]).remove(0);
            let want = whole(&s);
            let token = want.len() / 300;
            let kept = s.kv.clone();
            for bytes in &mut s.kv {
                let from = bytes.len() / 300 * 200;
                bytes[from..].fill(NANS);
            }
            let got = whole(&s);
            same(&got[..200 * token], &want[..200 * token], &|| format!("{isa} {cache:?}"));
            assert_ne!(got[200 * token..], want[200 * token..], "the later tokens see them");
            s.kv = kept;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_gives_each_token_what_it_has_alone(
        seed in any::<u64>(),
        lens in prop::collection::vec((1usize..700, 1usize..40), 1..5),
        heads in (1usize..9, 1usize..3, 1usize..70),
        (cache, block, threads) in (0usize..CACHES.len(), 0usize..70, 1usize..4),
        (window, softcap, sinks, tokens_first) in (0u32..500, any::<bool>(), any::<bool>(), any::<bool>()),
        tier in 0usize..3,
    ) {
        let window = window.saturating_sub(250);
        let attrs = AttentionAttrs { window, softcap: if softcap { 3.0 } else { 0.0 }, ..PLAIN };
        let layout = if tokens_first { KvLayout::BlockTokenHead } else { KvLayout::BlockHeadToken };
        let cache = CACHES[cache];
        let block = if cache.1 { block.max(1) } else { block };
        let way = Way { block, layout, decode: false, seed, poison: NANS };
        let isa = Isa::ALL[tier];
        let Some(device) = device(isa, threads) else { return Ok(()) };
        let all: Vec<Sequence> = (0..).zip(&lens).map(|(i, l)| Sequence::new(seed ^ i, heads, l.0, cache)).collect();
        let ask = |l: &(usize, usize)| Ask { first: l.0.saturating_sub(l.1), end: l.0 };
        let batch: Vec<_> = all.iter().zip(&lens).map(|(s, l)| (s, ask(l))).collect();
        let got = attend(&device, attrs, sinks, way, &batch);
        for ((s, a), got) in batch.iter().zip(&got) {
            let tokens = [a.first, (a.first + a.end) / 2, a.end - 1];
            let want = truth(isa, attrs, sinks, s, &tokens).unwrap();
            let size = got.len() / (a.end - a.first);
            for (t, want) in tokens.iter().zip(&want) {
                let what = || format!("{isa} {cache:?} {heads:?} token {t} of {a:?} {attrs:?} {way:?}, {threads} threads");
                same(&got[(t - a.first) * size..][..size], want, &what);
            }
        }
    }
}
