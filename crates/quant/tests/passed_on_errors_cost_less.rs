//! Passing errors on makes a layer's output better than rounding each weight alone, in groups and in block formats.

use proptest::prelude::*;
use qiao_core::DType;
use qiao_quant::compensate::{Factor, Hessian, Options, encode, group};
use qiao_quant::group::{Grouping, Row};
use qiao_quant::{decode_row, encode_row, nibble};

const N: usize = 10;
const K: usize = 256;
const ROWS: usize = 320;

/// Uniform numbers in (−1, 1) from a seed.
fn uniform(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Inputs `[ROWS, K]`: a share `common` of each channel comes from `sources` sources, the rest is its own.
fn inputs(seed: u64, sources: usize, common: f32) -> Vec<f32> {
    let mut r = uniform(seed);
    let mix: Vec<f32> = (0..K * sources).map(|_| r()).collect();
    let mut x = Vec::with_capacity(ROWS * K);
    for _ in 0..ROWS {
        let z: Vec<f32> = (0..sources).map(|_| r()).collect();
        for k in 0..K {
            let shared: f32 = (0..sources).map(|s| mix[k * sources + s] * z[s]).sum();
            x.push(common * shared / (sources as f32).sqrt() + (1.0 - common) * r());
        }
    }
    x
}

fn weights(seed: u64) -> Vec<f32> {
    let mut r = uniform(seed + 1000);
    (0..N * K).map(|_| (r() + r() + r()) * 0.05).collect()
}

fn factor(x: &[f32], options: Options) -> Factor {
    let mut h = Hessian::new(K);
    h.add(x).unwrap();
    Factor::new(&h, options).unwrap()
}

/// `‖X·(W − Wq)ᵀ‖²`.
fn output_error(x: &[f32], w: &[f32], q: &[f32]) -> f64 {
    x.chunks_exact(K)
        .flat_map(|x| {
            w.chunks_exact(K).zip(q.chunks_exact(K)).map(move |(w, q)| {
                let e: f64 = (0..K).map(|k| x[k] as f64 * (w[k] as f64 - q[k] as f64)).sum();
                e * e
            })
        })
        .sum()
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; N * K];
    decode_row(dtype, bytes, &mut out).unwrap();
    out
}

fn values(g: &Grouping, rows: &[Row]) -> Vec<f32> {
    rows.iter()
        .flat_map(|row| {
            (0..K).map(move |j| {
                let group = j.checked_div(g.group_size).unwrap_or(0);
                let code = match (g.bits, g.symmetric) {
                    (4, true) => nibble::i4(&row.codes, j) as f32,
                    (4, false) => nibble::u4(&row.codes, j) as f32,
                    (_, true) => row.codes[j] as i8 as f32,
                    (_, false) => row.codes[j] as f32,
                };
                (code - row.zeros.get(group).copied().unwrap_or(0) as f32) * row.scales[group]
            })
        })
        .collect()
}

/// The output errors of a block format with errors passed on and without.
fn of_blocks(dtype: DType, x: &[f32], w: &[f32], factor: &Factor) -> (f64, f64) {
    let (bytes, _) = encode(dtype, w, factor).unwrap();
    let mut plain = vec![0; bytes.len()];
    encode_row(dtype, w, None, &mut plain).unwrap();
    (output_error(x, w, &decoded(dtype, &bytes)), output_error(x, w, &decoded(dtype, &plain)))
}

/// The output errors of a grouping with errors passed on and without.
fn of_groups(g: &Grouping, x: &[f32], w: &[f32], factor: &Factor) -> (f64, f64) {
    let (rows, _) = group(g, w, factor).unwrap();
    let plain: Vec<Row> = w.chunks_exact(K).map(|w| g.encode_row(w, None).unwrap()).collect();
    (output_error(x, w, &values(g, &rows)), output_error(x, w, &values(g, &plain)))
}

fn groupings() -> Vec<Grouping> {
    [(4, true, 32), (4, false, 64), (8, true, 0), (8, false, 100), (4, true, 0)]
        .map(|(bits, symmetric, group_size)| Grouping { bits, symmetric, group_size, scales: DType::F16 })
        .to_vec()
}

const BLOCKS: [DType; 6] = [DType::Q4_0, DType::Q8_0, DType::Q4K, DType::Q6K, DType::Iq4Nl, DType::Q2K];

#[test]
fn strongly_correlated_inputs_lose_far_less() {
    let (x, w) = (inputs(1, 12, 0.9), weights(1));
    for act_order in [false, true] {
        let f = factor(&x, Options { act_order, ..Options::default() });
        for dtype in BLOCKS {
            let (ours, plain) = of_blocks(dtype, &x, &w, &f);
            println!("{dtype} act_order {act_order}: {:.3}", ours / plain);
            assert!(ours < 0.6 * plain, "{dtype} {act_order}: {ours} against {plain}");
        }
        for g in groupings() {
            let (ours, plain) = of_groups(&g, &x, &w, &f);
            println!("{g:?} act_order {act_order}: {:.3}", ours / plain);
            assert!(ours < 0.6 * plain, "{g:?} {act_order}: {ours} against {plain}");
        }
    }
}

#[test]
fn the_cost_that_is_told_is_the_output_error() {
    let (x, w) = (inputs(3, 20, 0.7), weights(3));
    let f = factor(&x, Options { damping: 1e-6, act_order: false });
    let (bytes, cost) = encode(DType::Q4_0, &w, &f).unwrap();
    let measured = output_error(&x, &w, &decoded(DType::Q4_0, &bytes));
    assert!((cost / measured - 1.0).abs() < 1e-2, "{cost} for {measured}");
}

#[test]
fn inputs_that_share_nothing_leave_plain_encoding() {
    let mut diagonal = vec![0.0; K * K];
    (0..K).for_each(|k| diagonal[k * K + k] = 3.0);
    let f = Factor::new(&Hessian::from_matrix(K, &diagonal).unwrap(), Options::default()).unwrap();
    let w = weights(5);
    for dtype in BLOCKS {
        let mut plain = vec![0; dtype.bytes_for(N * K).unwrap()];
        encode_row(dtype, &w, None, &mut plain).unwrap();
        assert_eq!(encode(dtype, &w, &f).unwrap().0, plain, "{dtype}");
    }
}

#[test]
fn channels_without_input_are_rounded_alone() {
    let mut x = inputs(7, 12, 0.9);
    x.chunks_exact_mut(K).for_each(|row| row[3..40].fill(0.0));
    let w = weights(7);
    let f = factor(&x, Options::default());
    let q = decoded(DType::Q8_0, &encode(DType::Q8_0, &w, &f).unwrap().0);
    for (w, q) in w.chunks_exact(K).zip(q.chunks_exact(K)) {
        (3..40).for_each(|k| assert!((w[k] - q[k]).abs() < 0.15 / 127.0 * 0.51, "{} for {}", q[k], w[k]));
    }
    let none = Factor::new(&Hessian::new(K), Options::default()).unwrap();
    let mut plain = vec![0; DType::Q4K.bytes_for(N * K).unwrap()];
    encode_row(DType::Q4K, &w, None, &mut plain).unwrap();
    assert_eq!(encode(DType::Q4K, &w, &none).unwrap().0, plain);
}

#[test]
fn what_does_not_fit_the_factor_is_refused() {
    let f = factor(&inputs(1, 4, 0.5), Options::default());
    let g = groupings()[0];
    assert!(encode(DType::F16, &[0.0; K], &f).is_err());
    assert!(encode(DType::Q4_0, &[0.0; K - 1], &f).unwrap_err().to_string().contains("K = 256"));
    assert!(encode(DType::Q4_0, &[f32::NAN; K], &f).unwrap_err().to_string().contains("element 0 is NaN"));
    assert!(group(&Grouping { bits: 3, ..g }, &[0.0; K], &f).unwrap_err().to_string().contains("3 bits"));
    let mut h = Hessian::new(48);
    h.add(&[1.0; 48]).unwrap();
    let f = Factor::new(&h, Options::default()).unwrap();
    assert!(encode(DType::Q4_0, &[0.0; 48], &f).unwrap_err().to_string().contains("multiple of 32"));
    assert_eq!(encode(DType::Q4_0, &[], &factor(&inputs(1, 4, 0.5), Options::default())).unwrap().0, Vec::<u8>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn correlated_inputs_never_lose_more(
        seed in 0u64..1000,
        sources in 2usize..64,
        common in 0f32..1.0,
        act_order in any::<bool>(),
        which in 0usize..11,
    ) {
        let (x, w) = (inputs(seed, sources, common), weights(seed));
        let f = factor(&x, Options { act_order, ..Options::default() });
        let (ours, plain) = match BLOCKS.get(which) {
            Some(dtype) => of_blocks(*dtype, &x, &w, &f),
            None => of_groups(&groupings()[which - BLOCKS.len()], &x, &w, &f),
        };
        // Of inputs that share nothing, all that is left is the noise of other roundings.
        prop_assert!(ours <= 1.05 * plain, "{ours} against {plain}");
        if common > 0.7 && sources < 32 {
            prop_assert!(ours <= 0.8 * plain, "{ours} against {plain}");
        }
    }
}
