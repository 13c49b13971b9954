//! Attention and the KV cache at the edge: windows, sinks, numbers that are not finite, indices that lie, empty dims.

mod trials;

use qiao_core::*;
use qiao_cpu::CpuDevice;
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;
use trials::{Data, Maker, check_all, devices, execute, with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// Every other element of storage, so that indices have strides.
fn indices(dtype: DType, data: &[f64]) -> Data {
    let spread: Vec<f64> = data.iter().flat_map(|&x| [x, -77.0]).collect();
    (TensorDesc::strided(dtype, &[data.len()], &[2]).unwrap(), to_bytes(dtype, &spread))
}

fn table(dtype: DType, rows: usize, data: &[f64]) -> Data {
    let desc = TensorDesc::strided(dtype, &[rows, data.len() / rows], &[1, rows]).unwrap();
    let columns = data.len() / rows;
    let turned: Vec<f64> = (0..data.len()).map(|i| data[i % rows * columns + i / rows]).collect();
    (desc, to_bytes(dtype, &turned))
}

fn packed(attrs: AttentionAttrs, q: Data, k: Data, v: Data, cu: &[f64], len: &[f64]) -> Trial {
    let trial = with(with(with(Trial::new(Op::AttentionPrefill(attrs)), q), k), v);
    with(with(trial, indices(DType::I64, cu)), indices(DType::I32, len))
}

#[test]
fn a_window_ends_at_the_query_causal_or_not() {
    let mut m = Maker::new(11);
    let mut trials = Vec::new();
    for causal in [false, true] {
        for window in [0, 1, 4, 100, u32::MAX] {
            let attrs = AttentionAttrs { causal, window, ..Default::default() };
            let (q, k, v) =
                (m.gapped(DType::F32, &[12, 4, 10]), m.of(DType::F32, &[140, 2, 10]), m.of(DType::F32, &[140, 2, 6]));
            trials.push(packed(attrs, q, k, v, &[0.0, 5.0, 5.0, 9.0, 11.0], &[133.0, 3.0, 2.0, 0.0]));
            let sinks = m.gapped(DType::BF16, &[4]);
            let paged = |kind: OpKind, m: &mut Maker| {
                let (k, v) = (m.of(DType::F16, &[5, 3, 2, 10]), m.of(DType::F16, &[5, 3, 2, 7]));
                let ids = table(DType::I64, 2, &[4.0, 0.0, 2.0, 1.0, -1.0, 9e15]);
                let lens = indices(DType::I64, &[8.0, 2.0]);
                if kind == OpKind::AttentionDecode {
                    let t =
                        with(with(with(Trial::new(Op::AttentionDecode(attrs)), m.of(DType::F16, &[2, 4, 10])), k), v);
                    return with(with(with(t, lens), ids), sinks.clone()).output_dtype(DType::F32);
                }
                let t = with(with(with(Trial::new(Op::AttentionPrefill(attrs)), m.of(DType::F16, &[7, 4, 10])), k), v);
                let t = with(with(with(t, indices(DType::I32, &[0.0, 4.0, 6.0])), lens), ids);
                with(t, sinks.clone()).output_dtype(DType::BF16)
            };
            trials.push(paged(OpKind::AttentionDecode, &mut m));
            trials.push(paged(OpKind::AttentionPrefill, &mut m));
        }
    }
    check_all(&trials);
}

#[test]
fn packed_keys_and_values_may_differ_in_dtype() {
    let mut m = Maker::new(12);
    let mut trials = Vec::new();
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];
    for (kd, vd) in dtypes.iter().flat_map(|&k| dtypes.map(|v| (k, v))) {
        let attrs = AttentionAttrs { causal: true, ..Default::default() };
        let (q, k, v) = (m.of(DType::BF16, &[6, 6, 9]), m.of(kd, &[150, 3, 9]), m.of(vd, &[150, 3, 33]));
        trials.push(packed(attrs, q, k, v, &[0.0, 2.0, 6.0], &[140.0, 10.0]));
    }
    check_all(&trials);
}

#[test]
fn a_key_that_a_query_does_not_see_cannot_spoil_it() {
    let mut m = Maker::new(13);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for (window, planted) in [(0, NAN), (0, INF), (2, NAN), (0, -INF)] {
            let attrs = AttentionAttrs { causal: true, window, ..Default::default() };
            let (q, k) = (m.of(dtype, &[9, 2, 8]), m.of(dtype, &[9, 1, 8]));
            let mut v: Vec<f64> = (0..72).map(|_| m.rng.normal()).collect();
            v[5 * 8 + 3] = planted;
            let v = (TensorDesc::new(dtype, &[9, 1, 8]).unwrap(), to_bytes(dtype, &v));
            trials.push(packed(attrs, q, k, v, &[0.0, 9.0], &[9.0]));
        }
        for sink in [-INF, INF, NAN, 0.5] {
            let attrs = AttentionAttrs { causal: true, ..Default::default() };
            let (q, k, v) = (m.of(dtype, &[6, 1, 8]), m.of(dtype, &[3, 1, 8]), m.of(dtype, &[3, 1, 8]));
            let trial = packed(attrs, q, k, v, &[0.0, 4.0, 6.0], &[2.0, 1.0]);
            trials.push(trial.without().values(DType::F32, &[1], &[sink]));
        }
    }
    check_all(&trials);
}

#[test]
fn codes_meet_queries_and_scales_that_are_not_finite() {
    let mut m = Maker::new(18);
    let mut trials = Vec::new();
    for (q_dtype, planted) in FLOATS.into_iter().flat_map(|t| [NAN, INF, -INF, 0.0].map(|x| (t, x))) {
        // A key that is no number in one element makes no score of others; one scale for all of it does.
        for operand in (0..3).filter(|&operand| operand != 1 || !planted.is_infinite()) {
            let attrs = AttentionAttrs { scale: 0.01, ..Default::default() };
            let pages = [3, 16, 2, 9];
            let mut q: Vec<f64> = (0..2 * 4 * 9).map(|_| m.rng.normal()).collect();
            let mut scales: [Vec<f64>; 2] = [(); 2].map(|()| (0..96).map(|_| 0.1 + m.rng.uniform()).collect());
            match operand {
                0 => q[13] = planted,
                i => scales[i - 1][37] = planted,
            }
            let cache = |m: &mut Maker| m.codes(&pages);
            let t = Trial::new(Op::AttentionDecode(attrs)).values(q_dtype, &[2, 4, 9], &q);
            let t = with(with(t, cache(&mut m)), cache(&mut m)).values(DType::I32, &[2], &[21.0, 16.0]);
            let t = t.values(DType::I32, &[2, 2], &[0.0, 1.0, 2.0, 0.0]).without();
            let t = t.values(DType::F32, &pages[..3], &scales[0]).values(DType::F32, &pages[..3], &scales[1]);
            trials.push(t.output_dtype(DType::F32));
        }
    }
    check_all(&trials);
}

#[test]
fn empty_dims_are_no_work() {
    let mut m = Maker::new(14);
    let mut trials = Vec::new();
    let attrs = AttentionAttrs { causal: true, ..Default::default() };
    // Tokens, query heads, key heads, key size, value size.
    for [t, h, g, d, e] in [[0, 4, 2, 8, 8], [5, 0, 2, 8, 8], [5, 4, 2, 0, 8], [5, 4, 2, 8, 0], [5, 4, 2, 0, 0]] {
        let (q, k, v) = (m.of(DType::F32, &[t, h, d]), m.of(DType::F16, &[5, g, d]), m.of(DType::F16, &[5, g, e]));
        for scale in [0.0, 0.5] {
            let attrs = AttentionAttrs { scale, ..attrs };
            trials.push(packed(attrs, q.clone(), k.clone(), v.clone(), &[0.0, t as f64], &[5.0]));
        }
    }
    let none = |m: &mut Maker| {
        packed(
            attrs,
            m.of(DType::F32, &[3, 2, 4]),
            m.of(DType::F32, &[0, 1, 4]),
            m.of(DType::F32, &[0, 1, 4]),
            &[0.0],
            &[],
        )
    };
    trials.push(none(&mut m));
    for cache in [[0, 0, 2, 8], [0, 4, 2, 8], [3, 4, 2, 8]] {
        let t = with(
            with(with(Trial::new(Op::AttentionDecode(attrs)), m.of(DType::F32, &[2, 4, 8])), m.of(DType::F32, &cache)),
            m.of(DType::F32, &cache),
        );
        trials.push(with(t, indices(DType::I32, &[0.0, 0.0])).values(DType::I32, &[2, 0], &[]));
    }
    check_all(&trials);
}

/// Runs a trial with data that lies; gives the result as f32.
fn survives(device: &CpuDevice, trial: &Trial, bytes: &[Vec<u8>]) -> Vec<f32> {
    let graph = trial.graph().unwrap();
    let plan = device.plan(&graph).unwrap();
    let out = execute(device, &*plan, bytes).unwrap();
    out.last().unwrap().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn indices_that_lie_never_lead_outside_memory() {
    let f = |shape: &[usize]| Maker::new(15).of(DType::F32, shape);
    let far = i64::MAX;
    for device in devices() {
        // Packed: lengths whose sum wraps around, offsets that fall and leave the queries.
        for (cu, len) in [
            ([0, 3, 6], [far, far]),
            ([0, 6, 2], [4, 4]),
            ([-5, 99, 3], [-1, 4]),
            ([4, 2, 1], [4, 4]),
            ([0, 1, 6], [9, far]),
        ] {
            let trial = {
                let t = with(
                    with(
                        with(Trial::new(Op::AttentionPrefill(AttentionAttrs::default())), f(&[6, 2, 4])),
                        f(&[8, 1, 4]),
                    ),
                    f(&[8, 1, 4]),
                );
                t.values(DType::I64, &[3], &[0.0; 3]).values(DType::I64, &[2], &[0.0; 2])
            };
            let raw = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let bytes = [f(&[6, 2, 4]).1, f(&[8, 1, 4]).1, f(&[8, 1, 4]).1, raw(&cu), raw(&len), vec![0xa5; 192]];
            let out = survives(&device, &trial, &bytes);
            let poison = f32::from_le_bytes([0xa5; 4]);
            assert!(out.iter().all(|x| *x != poison), "every element is written for {cu:?} {len:?}");
        }
        // Paged: blocks that do not exist, and more keys than the table names.
        for (ids, len) in [([0, 7], 6), ([far, 0], 6), ([-1, 0], 2), ([0, 1], far), ([1, i64::MIN], 5)] {
            let t = with(
                with(with(Trial::new(Op::AttentionDecode(AttentionAttrs::default())), f(&[1, 2, 4])), f(&[3, 4, 1, 4])),
                f(&[3, 4, 1, 4]),
            );
            let t = t.values(DType::I64, &[1], &[0.0]).values(DType::I64, &[1, 2], &[0.0; 2]);
            let raw = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let bytes =
                [f(&[1, 2, 4]).1, f(&[3, 4, 1, 4]).1, f(&[3, 4, 1, 4]).1, raw(&[len]), raw(&ids), vec![0xa5; 32]];
            let out = survives(&device, &t, &bytes);
            assert!(out.iter().all(|x| x.is_nan()), "{ids:?} {len}: {out:?}");
        }
        // A pool of blocks without tokens.
        let t = with(
            with(with(Trial::new(Op::AttentionDecode(AttentionAttrs::default())), f(&[1, 2, 4])), f(&[0, 0, 1, 4])),
            f(&[0, 0, 1, 4]),
        );
        let t = t.values(DType::I32, &[1], &[0.0]).values(DType::I32, &[1, 1], &[0.0]);
        let bytes = [f(&[1, 2, 4]).1, vec![], vec![], vec![3, 0, 0, 0], vec![0; 4], vec![0xa5; 32]];
        assert!(survives(&device, &t, &bytes).iter().all(|x| x.is_nan()));
    }
}

/// Causal attention of `t` queries on as many keys in pages of 16 tokens: the graph and its bytes, with this block table.
fn paged(q: DType, cache: DType, (t, window): (usize, u32), blocks: &[f64]) -> (Trial, Vec<Vec<u8>>) {
    let mut m = Maker::new(19);
    let attrs = AttentionAttrs { causal: true, window, ..Default::default() };
    let pages = [t.div_ceil(16), 16, 2, 24];
    let caches = [(); 2].map(|()| if cache == DType::I8 { m.codes(&pages) } else { m.of(cache, &pages) });
    let scales = [(); 2].map(|()| (TensorDesc::new(DType::F32, &pages[..3]).unwrap(), vec![0x3c; 4 * pages[0] * 32]));
    let table = (TensorDesc::new(DType::I32, &[1, blocks.len()]).unwrap(), to_bytes(DType::I32, blocks));
    let lens = [[0.0, t as f64].as_slice(), &[t as f64]].map(|v| to_bytes(DType::I32, v));
    let [k, v] = caches;
    let mut trial = with(with(with(Trial::new(Op::AttentionPrefill(attrs)), m.of(q, &[t, 4, 24])), k), v);
    for bytes in lens {
        let desc = TensorDesc::new(DType::I32, &[bytes.len() / 4]).unwrap();
        trial = trial.input(desc, bytes);
    }
    trial = with(trial, table).without();
    if cache == DType::I8 {
        trial = scales.into_iter().fold(trial, with);
    }
    let trial = trial.output_dtype(DType::F32);
    let mut bytes: Vec<Vec<u8>> = trial.operands().iter().flatten().map(|(_, bytes)| bytes.clone()).collect();
    bytes.push(vec![0xa5; t * 4 * 24 * 4]);
    (trial, bytes)
}

#[test]
fn only_queries_that_see_a_hole_in_the_block_table_are_spoiled() {
    let ways =
        [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F8E4M3), (DType::F16, DType::I8)];
    // Tokens, the window, and blocks of which there are none.
    let holes: [(usize, u32, &[usize]); 6] = [
        (12, 0, &[0]),
        (45, 0, &[1]),
        (45, 5, &[1]),
        (300, 0, &[8, 9, 10, 11, 12, 13, 14, 15]),
        (300, 20, &[3, 9]),
        (700, 70, &[2, 31]),
    ];
    for device in devices() {
        for ((q, cache), (t, window, holes)) in ways.into_iter().flat_map(|way| holes.map(|hole| (way, hole))) {
            let whole: Vec<f64> = (0..t.div_ceil(16)).map(|block| block as f64).collect();
            let mut broken = whole.clone();
            holes.iter().for_each(|&block| broken[block] = -1.0);
            let short = &whole[..*holes.last().unwrap()];
            let run = |blocks: &[f64]| {
                let (trial, bytes) = paged(q, cache, (t, window), blocks);
                survives(&device, &trial, &bytes)
            };
            let truth = run(&whole);
            assert!(truth.iter().all(|x| x.is_finite()));
            for (table, end) in [(&broken[..], 0), (short, 16 * short.len())] {
                for (token, (got, want)) in run(table).chunks(96).zip(truth.chunks(96)).enumerate() {
                    let first = if window == 0 { 0 } else { (token + 1).saturating_sub(window as usize) };
                    let hole = |block: &usize| first < 16 * block + 16 && 16 * block <= token;
                    let spoiled = if end == 0 { holes.iter().any(hole) } else { token >= end };
                    let as_it_should = if spoiled { got.iter().all(|x| x.is_nan()) } else { got == want };
                    assert!(as_it_should, "{}: {q} on {cache}, {holes:?} of {t}, token {token}", device.info().arch);
                }
            }
        }
    }
}

#[test]
fn tokens_of_no_sequence_become_zeros() {
    let mut m = Maker::new(20);
    let mut trials = Vec::new();
    for dtype in FLOATS {
        let attrs = AttentionAttrs { causal: true, ..Default::default() };
        let (q, k, v) = (m.of(dtype, &[19, 2, 33]), m.of(dtype, &[3, 1, 33]), m.of(dtype, &[3, 1, 33]));
        let trial = packed(attrs, q, k, v, &[0.0, 3.0], &[3.0]);
        trials.push(trial.clone());
        trials.push(trial.output_strides(&[140, 70, 2]));
    }
    check_all(&trials);
}

fn kv_write(m: &mut Maker, rows: Data, cache: DType, scaled: bool, slots: Data) -> Trial {
    let (t, layout) = (rows.0.shape[0], KvLayout::BlockHeadToken);
    let v = m.gapped(DType::F16, &[t, 2, 5]);
    let trial = with(with(with(Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: layout })), rows), v), slots);
    let empty = |shape: &[usize], dtype| {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let bytes = vec![0; desc.bytes().unwrap()];
        (desc, bytes)
    };
    let trial = with(with(trial, empty(&[3, 2, 4, 3], cache)), empty(&[3, 2, 4, 5], cache));
    if !scaled {
        return trial;
    }
    with(with(trial, empty(&[3, 2, 4], DType::F32)), empty(&[3, 2, 4], DType::F32))
}

#[test]
fn caches_take_rows_of_any_numbers() {
    let mut m = Maker::new(16);
    let mut trials = Vec::new();
    let numbers = [1.0, NAN, 2.0, INF, 1.0, -INF, 0.0, 0.0, -0.0, 5e4, -6e4, 1.0, 1e-7, -1e-7, 0.0, 3.0, 2.0, -1.0];
    let caches = [
        (DType::I8, true),
        (DType::F8E4M3, true),
        (DType::F8E5M2, true),
        (DType::F8E4M3, false),
        (DType::F8E5M2, false),
        (DType::F16, false),
        (DType::F32, false),
        (DType::BF16, false),
    ];
    for (cache, scaled) in caches {
        for rows in FLOATS {
            for index in [DType::I32, DType::I64] {
                let data = (TensorDesc::new(rows, &[3, 2, 3]).unwrap(), to_bytes(rows, &numbers));
                trials.push(kv_write(&mut m, data, cache, scaled, indices(index, &[11.0, -1.0, 0.0])));
                let data = m.gapped(rows, &[3, 2, 3]);
                trials.push(kv_write(&mut m, data, cache, scaled, indices(index, &[4.0, 5.0, 3.0])));
                let data = m.of(rows, &[0, 2, 3]);
                trials.push(kv_write(&mut m, data, cache, scaled, indices(index, &[])));
            }
        }
    }
    check_all(&trials);
}

#[test]
fn a_slot_that_does_not_exist_is_an_error_and_poisons_the_stream() {
    let mut m = Maker::new(17);
    for device in devices() {
        for (slots, word) in
            [([0.0, 12.0], "slot 12"), ([3.0, 3.0], "twice"), ([-2.0, 1.0], "slot -2"), ([9e15, 1.0], "slot 9")]
        {
            let rows = m.of(DType::F32, &[2, 2, 3]);
            let trial = kv_write(&mut m, rows, DType::F32, false, indices(DType::I64, &slots));
            let error = trial.run(&device).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let rows = m.of(DType::F32, &[2, 2, 3]);
        let graph = kv_write(&mut m, rows, DType::F32, false, indices(DType::I32, &[1.0, 1.0])).graph().unwrap();
        let plan = device.plan(&graph).unwrap();
        let mut stream = device.stream().unwrap();
        let sizes = graph.bound().iter().map(|&t| graph.desc(t).bytes().unwrap());
        let bindings: Vec<Binding> = sizes.map(|n| Binding::whole(device.alloc(0, n).unwrap())).collect();
        let work = Binding::whole(device.alloc(0, plan.info().workspace_bytes).unwrap());
        assert!(matches!(plan.execute(&mut *stream, &bindings, &work), Err(Error::Invalid { .. })));
        assert!(matches!(plan.execute(&mut *stream, &bindings, &work), Err(Error::Poisoned { .. })));
        assert!(matches!(stream.sync(std::time::Duration::MAX), Err(Error::Poisoned { .. })));
    }
}
