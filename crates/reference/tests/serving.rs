//! The operators of serving: caches, attention, quantised products.

use qiao_core::*;
use qiao_reference::data::{Fill, Rng, values};
use qiao_reference::{ReferenceDevice, Trial};

const F32: DType = DType::F32;
const I32: DType = DType::I32;
const POISON: f64 = f64::NAN;

fn run(trial: Trial) -> Vec<Vec<f64>> {
    trial.run(&ReferenceDevice::default()).unwrap().into_iter().map(|v| v.data).collect()
}

#[track_caller]
fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-6 * w.abs().max(1.0), "{got:?} is not {want:?}");
    }
}

fn kv_write(layout: KvLayout, dtype: DType, slots: &[f64]) -> Trial {
    let rows = |from: f64| (0..4).map(|i| from + i as f64).collect::<Vec<_>>();
    let shape = match layout {
        KvLayout::BlockTokenHead => [2, 2, 1, 2],
        KvLayout::BlockHeadToken => [2, 1, 2, 2],
    };
    Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: layout }))
        .values(F32, &[2, 1, 2], &rows(1.))
        .values(F32, &[2, 1, 2], &rows(-5.))
        .values(I32, &[2], slots)
        .values(dtype, &shape, &[0.; 8])
        .values(dtype, &shape, &[0.; 8])
}

#[test]
fn kv_write_puts_tokens_into_their_slots_and_skips_minus_one() {
    let got = run(kv_write(KvLayout::BlockTokenHead, F32, &[3., 0.]));
    assert_eq!(got[0], [3., 4., 0., 0., 0., 0., 1., 2.]);
    assert_eq!(got[1], [-3., -2., 0., 0., 0., 0., -5., -4.]);
    let got = run(kv_write(KvLayout::BlockHeadToken, F32, &[-1., 2.]));
    assert_eq!(got[0], [0., 0., 0., 0., 3., 4., 0., 0.]);
}

#[test]
fn heads_of_a_token_are_apart_where_the_layout_says() {
    let op = |kv_layout| Op::KvWrite(KvWriteAttrs { kv_layout });
    let k = [1., 2.];
    let with = |layout, shape: &[usize]| {
        let t = Trial::new(op(layout)).values(F32, &[1, 2, 1], &k).values(F32, &[1, 2, 1], &k);
        let t = t.values(I32, &[1], &[1.]);
        run(t.values(F32, shape, &[0.; 4]).values(F32, shape, &[0.; 4])).swap_remove(0)
    };
    assert_eq!(with(KvLayout::BlockTokenHead, &[1, 2, 2, 1]), [0., 0., 1., 2.]);
    assert_eq!(with(KvLayout::BlockHeadToken, &[1, 2, 2, 1]), [0., 1., 0., 2.]);
}

#[test]
fn slots_written_twice_or_outside_the_cache_are_errors() {
    for slots in [[1., 1.], [4., 0.], [-2., 0.]] {
        let error = kv_write(KvLayout::BlockTokenHead, F32, &slots).run(&ReferenceDevice::default()).unwrap_err();
        assert!(error.to_string().contains("kv_write slots"), "{error}");
    }
    assert!(kv_write(KvLayout::BlockTokenHead, F32, &[-1., -1.]).run(&ReferenceDevice::default()).is_ok());
}

#[test]
fn a_quantised_cache_takes_one_scale_per_token_and_head() {
    let t = kv_write(KvLayout::BlockTokenHead, DType::I8, &[0., 2.]);
    let got = run(t.values(F32, &[2, 2, 1], &[9.; 4]).values(F32, &[2, 2, 1], &[9.; 4]));
    // Rows (1, 2) and (3, 4): scales 2/127 and 4/127; 63.5 and 95.25 round half to even.
    assert_eq!(got[0], [64., 127., 0., 0., 95., 127., 0., 0.]);
    near(&got[2], &[2. / 127., 9., 4. / 127., 9.]);
    let t = kv_write(KvLayout::BlockTokenHead, DType::F8E4M3, &[0., 1.]);
    let got = run(t.values(F32, &[2, 2, 1], &[9.; 4]).values(F32, &[2, 2, 1], &[9.; 4]));
    // 3 / (4/448) lies halfway between 320 and 352, and the f32 scale is a little above 4/448.
    assert_eq!(got[0][..4], [224., 448., 320., 448.][..]);
    near(&got[2], &[2. / 448., 4. / 448., 9., 9.]);
    let plain = run(kv_write(KvLayout::BlockTokenHead, DType::F8E4M3, &[0., 1.]));
    assert_eq!(plain[0][..4], [1., 2., 3., 4.][..]);
}

fn prefill(attrs: AttentionAttrs) -> Trial {
    // One head, head size 1, so a score is q·k. Queries of ln 2: weights are powers of 2.
    let q = [2f64.ln(); 2];
    Trial::new(Op::AttentionPrefill(AttentionAttrs { scale: 1., ..attrs }))
        .values(DType::F64, &[2, 1, 1], &q)
        .values(DType::F64, &[3, 1, 1], &[0., 1., 2.])
        .values(DType::F64, &[3, 1, 1], &[7., 14., 70.])
        .values(I32, &[2], &[0., 2.])
        .values(I32, &[1], &[3.])
}

#[test]
fn attention_weighs_values_by_the_softmax_of_scores() {
    let all = AttentionAttrs::default();
    let causal = AttentionAttrs { causal: true, ..all };
    let full = (7. + 2. * 14. + 4. * 70.) / 7.;
    near(&run(prefill(all))[0], &[full, full]);
    near(&run(prefill(causal))[0], &[35. / 3., full]);
    near(&run(prefill(AttentionAttrs { window: 1, ..causal }))[0], &[14., 70.]);
    near(&run(prefill(AttentionAttrs { window: 2, ..causal }))[0], &[35. / 3., (2. * 14. + 4. * 70.) / 6.]);
    near(&run(prefill(AttentionAttrs { window: 1, ..all }))[0], &[14., 70.]);
}

#[test]
fn a_sink_joins_the_denominator_and_a_softcap_bends_the_scores() {
    // A sink of ln 7 weighs as much as all keys together.
    let with_sink = prefill(AttentionAttrs::default()).without().values(DType::F64, &[1], &[7f64.ln()]);
    let full = (7. + 2. * 14. + 4. * 70.) / 7.;
    near(&run(with_sink)[0], &[full / 2., full / 2.]);
    let capped = run(prefill(AttentionAttrs { softcap: 0.5, ..Default::default() }));
    let e = |s: f64| (0.5 * (s / 0.5).tanh()).exp();
    let (a, b, c) = (e(0.), e(2f64.ln()), e(4f64.ln()));
    near(&capped[0], &[(7. * a + 14. * b + 70. * c) / (a + b + c); 2]);
}

#[test]
fn queries_that_see_no_key_give_zeros() {
    let t = Trial::new(Op::AttentionPrefill(AttentionAttrs { causal: true, ..Default::default() }))
        .values(F32, &[3, 1, 1], &[1.; 3])
        .values(F32, &[1, 1, 1], &[1.])
        .values(F32, &[1, 1, 1], &[5.])
        .values(I32, &[3], &[0., 2., 3.])
        .values(I32, &[2], &[1., 0.]);
    assert_eq!(run(t)[0], [0., 5., 0.]);
}

#[test]
fn attention_refuses_tables_and_lengths_that_lie() {
    let with = |cu: &[f64], len: f64| {
        Trial::new(Op::AttentionPrefill(AttentionAttrs::default()))
            .values(F32, &[2, 1, 1], &[1.; 2])
            .values(F32, &[2, 1, 1], &[1.; 2])
            .values(F32, &[2, 1, 1], &[1.; 2])
            .values(I32, &[2], cu)
            .values(I32, &[1], &[len])
            .run(&ReferenceDevice::default())
    };
    assert!(with(&[0., 2.], 2.).is_ok());
    for (cu, len) in [([0., 2.], 3.), ([0., 2.], -1.), ([0., 3.], 2.), ([1., 2.], 2.)] {
        assert!(with(&cu, len).is_err(), "{cu:?} {len}");
    }
    let decode = |table: &[f64], len: f64| {
        Trial::new(Op::AttentionDecode(AttentionAttrs::default()))
            .values(F32, &[1, 1, 1], &[1.])
            .values(F32, &[2, 2, 1, 1], &[1.; 4])
            .values(F32, &[2, 2, 1, 1], &[1., 2., 3., 4.])
            .values(I32, &[1], &[len])
            .values(I32, &[1, 1], table)
            .run(&ReferenceDevice::default())
    };
    assert_eq!(decode(&[1.], 2.).unwrap()[0].data, [3.5]);
    for (table, len) in [([2.], 1.), ([-1.], 1.), ([0.], 3.)] {
        assert!(decode(&table, len).is_err());
    }
}

/// Keys and values of two sequences, packed and in shuffled pages, plus what else attention needs.
struct Paged {
    lens: [usize; 2],
    table: Vec<f64>,
    packed: [Vec<f64>; 2],
    pages: [Vec<f64>; 2],
    shape: [usize; 4],
}

const HEADS: usize = 2;
const D: usize = 4;
const BLOCK: usize = 4;

/// Scatters packed rows into shuffled pages; every other element of the pages is poison.
fn paged(layout: KvLayout, dtype: DType) -> Paged {
    let mut rng = Rng::new(11);
    let (lens, blocks, per_sequence) = ([9usize, 5], 7, 3);
    let order = rng.permutation(blocks);
    let table: Vec<f64> = (0..2 * per_sequence).map(|i| order[i] as f64).collect();
    let total = lens[0] + lens[1];
    let packed = [0, 1].map(|_| values(&mut rng, Fill::Normal, dtype, total * HEADS * D));
    let shape = match layout {
        KvLayout::BlockTokenHead => [blocks, BLOCK, HEADS, D],
        KvLayout::BlockHeadToken => [blocks, HEADS, BLOCK, D],
    };
    let pages = [0, 1].map(|kv: usize| {
        let mut cache = vec![POISON; blocks * BLOCK * HEADS * D];
        for (b, &len) in lens.iter().enumerate() {
            for t in 0..len {
                let block = order[b * per_sequence + t / BLOCK];
                for h in 0..HEADS {
                    let from = ((b * lens[0] + t) * HEADS + h) * D;
                    let row = match layout {
                        KvLayout::BlockTokenHead => (block * BLOCK + t % BLOCK) * HEADS + h,
                        KvLayout::BlockHeadToken => (block * HEADS + h) * BLOCK + t % BLOCK,
                    };
                    cache[row * D..(row + 1) * D].copy_from_slice(&packed[kv][from..from + D]);
                }
            }
        }
        cache
    });
    Paged { lens, table, packed, pages, shape }
}

#[test]
fn shuffled_pages_give_what_packed_keys_give() {
    for layout in [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken] {
        for attrs in [
            AttentionAttrs { causal: true, ..Default::default() },
            AttentionAttrs { causal: true, window: 3, softcap: 5., ..Default::default() },
        ] {
            let op = Op::AttentionPrefill(AttentionAttrs { kv_layout: layout, ..attrs });
            let p = paged(layout, DType::BF16);
            let lens = p.lens.map(|l| l as f64);
            let total = p.lens[0] + p.lens[1];
            // Four query heads on two key heads; 3 and 5 queries.
            let q = values(&mut Rng::new(4), Fill::Normal, DType::BF16, 8 * 4 * D);
            let start = || Trial::new(op).values(DType::BF16, &[8, 4, D], &q);
            let rest = |t: Trial| t.values(I32, &[3], &[0., 3., 8.]).values(DType::I64, &[2], &lens);
            let flat = [total, HEADS, D];
            let packed =
                rest(start().values(DType::BF16, &flat, &p.packed[0]).values(DType::BF16, &flat, &p.packed[1]));
            let pages =
                rest(start().values(DType::BF16, &p.shape, &p.pages[0]).values(DType::BF16, &p.shape, &p.pages[1]));
            assert_eq!(run(packed), run(pages.values(I32, &[2, 3], &p.table)));
        }
    }
}

#[test]
fn decoding_is_the_last_row_of_prefill() {
    let p = paged(KvLayout::BlockTokenHead, F32);
    let q = values(&mut Rng::new(5), Fill::Normal, F32, 2 * HEADS * D);
    let attrs = AttentionAttrs { window: 6, ..Default::default() };
    let lens = p.lens.map(|l| l as f64);
    let pages = |t: Trial| {
        t.values(F32, &[2, HEADS, D], &q).values(F32, &p.shape, &p.pages[0]).values(F32, &p.shape, &p.pages[1])
    };
    let decode = pages(Trial::new(Op::AttentionDecode(attrs))).values(I32, &[2], &lens).values(I32, &[2, 3], &p.table);
    let prefill = pages(Trial::new(Op::AttentionPrefill(attrs)))
        .values(I32, &[3], &[0., 1., 2.])
        .values(I32, &[2], &lens)
        .values(I32, &[2, 3], &p.table);
    assert_eq!(run(decode), run(prefill));
}

#[test]
fn scales_of_a_quantised_cache_multiply_its_codes() {
    let table = [0.];
    let run_with = |dtype: DType, k: &[f64], v: &[f64], scales: Option<[&[f64]; 2]>| {
        let t = Trial::new(Op::AttentionDecode(AttentionAttrs { scale: 1., ..Default::default() }))
            .values(F32, &[1, 1, 1], &[1.])
            .values(dtype, &[1, 2, 1, 1], k)
            .values(dtype, &[1, 2, 1, 1], v)
            .values(I32, &[1], &[2.])
            .values(I32, &[1, 1], &table);
        let t = match scales {
            None => t,
            Some([ks, vs]) => t.without().values(F32, &[1, 2, 1], ks).values(F32, &[1, 2, 1], vs),
        };
        run(t).swap_remove(0)
    };
    let want = run_with(F32, &[0.5, 1.], &[10., -6.], None);
    assert_eq!(run_with(DType::I8, &[2., 8.], &[5., -2.], Some([&[0.25, 0.125], &[2., 3.]])), want);
    assert_eq!(run_with(DType::F8E4M3, &[2., 8.], &[5., -2.], Some([&[0.25, 0.125], &[2., 3.]])), want);
    assert_eq!(run_with(DType::F8E4M3, &[0.5, 1.], &[10., -6.], None), want);
}

#[test]
fn quantised_weights_are_dequantised_by_group() {
    let attrs =
        |group_size, group_rows| Op::MatmulQuant(MatmulQuantAttrs { group_size, group_rows, epilogue: Epilogue::None });
    let i4 = TensorDesc::new(DType::I4, &[2, 4]).unwrap();
    let codes = qiao_quant::nibble::pack(&[1, 2, 3, 4, 0xf, 0xe, 0xd, 0xc]);
    let a = |op| Trial::new(op).values(F32, &[1, 4], &[1., 10., 100., 1000.]).input(i4.clone(), codes.clone());
    // Rows (1, 2, 3, 4) and (−1, −2, −3, −4), groups of two.
    let t = a(attrs(2, 0)).values(F32, &[2, 2], &[1., 2., 3., 4.]);
    assert_eq!(run(t.clone())[0], [21. + 2. * 4300., -63. - 4. * 4300.]);
    let t = t.values(F32, &[2, 2], &[1., 0., 0., -4.]);
    assert_eq!(run(t)[0], [10. + 2. * 4300., -63. + 4. * 100.]);
    // One scale for all of K, shared by both rows.
    let t = a(attrs(0, 2)).values(F32, &[1, 1], &[0.5]);
    assert_eq!(run(t)[0], [2160.5, -2160.5]);
    // Channels 0 and 3 in group 1.
    let t = a(attrs(2, 0)).values(F32, &[2, 2], &[1., 2., 3., 4.]).without().values(I32, &[4], &[1., 0., 0., 1.]);
    assert_eq!(run(t)[0], [2. + 320. + 8000., -4. - 960. - 16000.]);
    let t = a(attrs(2, 0)).values(F32, &[2, 2], &[1.; 4]).without().values(I32, &[4], &[2., 0., 0., 1.]);
    assert!(t.run(&ReferenceDevice::default()).is_err());
}

#[test]
fn fp8_weights_take_scales_in_blocks() {
    let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: 2, group_rows: 2, epilogue: Epilogue::Bias });
    // [3, 3] in blocks of 2 × 2: the last row and column have blocks of their own.
    let w = [1., 2., 4., 1., 1., 1., 0.5, -448., 2.];
    let t = Trial::new(op).values(F32, &[1, 3], &[1., 1., 1.]).values(DType::F8E4M3, &[3, 3], &w);
    let t = t.values(F32, &[2, 2], &[1., 10., 100., 1000.]).without().without().values(F32, &[3], &[0., 0., 1.]);
    assert_eq!(run(t)[0], [43., 12., 50. - 44800. + 2000. + 1.]);
}

#[test]
fn blocks_multiply_as_their_decoded_values() {
    let mut rng = Rng::new(8);
    for &dtype in DType::ALL.iter().filter(|d| d.is_block()) {
        let (n, k) = (3, 512);
        let bytes = qiao_reference::data::block_bytes(&mut rng, dtype, n * k / dtype.block_elems());
        let mut w = vec![0f32; n * k];
        qiao_quant::decode_row(dtype, &bytes, &mut w).unwrap();
        let a = values(&mut rng, Fill::Normal, F32, k);
        let t = Trial::new(Op::MatmulQuant(MatmulQuantAttrs::default())).values(F32, &[1, k], &a);
        let got = run(t.input(TensorDesc::new(dtype, &[n, k]).unwrap(), bytes).output_dtype(DType::F64));
        let want: Vec<f64> = w.chunks(k).map(|w| w.iter().zip(&a).map(|(&w, a)| w as f64 * a).sum()).collect();
        for (g, w) in got[0].iter().zip(want) {
            assert!((g - w).abs() <= 1e-9 * w.abs().max(1e3), "{dtype}");
        }
    }
}

#[test]
fn quantize_dynamic_rounds_half_to_even_and_gives_zero_rows_scale_zero() {
    let x = [127., 63.5, -0.5, 1.5, 0., 0., 0., 0.];
    let got = run(Trial::new(Op::QuantizeDynamic(NoAttrs {})).values(F32, &[2, 4], &x));
    assert_eq!(got, [vec![127., 64., 0., 2., 0., 0., 0., 0.], vec![1., 0.]]);
}

#[test]
fn scaled_matmul_sums_integers_exactly() {
    let k = 131_071;
    let t = Trial::new(Op::ScaledMatmul(NoAttrs {}))
        .values(DType::I8, &[1, k], &vec![-128.; k])
        .values(DType::I8, &[2, k], &[vec![-128.; k], vec![127.; k]].concat())
        .values(F32, &[1], &[1.])
        .values(F32, &[2], &[1., 0.5])
        .values(F32, &[2], &[1., 0.])
        .output_dtype(DType::F64);
    assert_eq!(run(t)[0], [16384. * k as f64 + 1., -8128. * k as f64]);
}
