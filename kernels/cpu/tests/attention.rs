//! The products and the softmax of attention against f64, and each result alone against the same among others.

mod oracle;

use half::{bf16, f16};
use oracle::{Random, U, assert_close, output, tables};
use qiao_kernels_cpu::{Ahead, CacheElement, E4m3, E5m2, KEY_BLOCK, KEYS, Kernels, PackKeys, Soften, WeighValues};

const DIMS: [usize; 10] = [64, 80, 96, 128, 192, 256, 1, 7, 37, 100];

/// A cached dtype, with its values.
trait Number: CacheElement + PartialEq + std::fmt::Debug {
    fn random(random: &mut Random) -> Self;
    fn value(self) -> f64;
}

macro_rules! number {
    ($($t:ty, |$x:ident| $from:expr, $value:expr;)+) => {$(
        impl Number for $t {
            fn random(random: &mut Random) -> Self {
                let $x = random.signed();
                $from
            }
            fn value(self) -> f64 {
                let $x = self;
                $value
            }
        }
    )+};
}

/// An fp8 code by its definition.
fn fp8(code: u8, mantissa: u32, bias: i32) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (e, m) = ((code & 0x7f) >> mantissa, f64::from(code & ((1 << mantissa) - 1)) / f64::from(1 << mantissa));
    sign * if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(i32::from(e) - bias) }
}

number! {
    f32, |x| x, f64::from(x);
    f16, |x| f16::from_f32(x), x.to_f64();
    bf16, |x| bf16::from_f32(x), x.to_f64();
    i8, |x| (x * 127.0) as i8, f64::from(x);
    E4m3, |x| E4m3((x.abs() * 126.9) as u8 | u8::from(x < 0.0) << 7), fp8(x.0, 3, 7);
    E5m2, |x| E5m2((x.abs() * 123.9) as u8 | u8::from(x < 0.0) << 7), fp8(x.0, 2, 15);
}

/// Runs the same check on every cached dtype.
macro_rules! every_dtype {
    ($check:ident) => {
        for kernels in tables() {
            $check::<f32>(&kernels);
            $check::<f16>(&kernels);
            $check::<bf16>(&kernels);
            $check::<i8>(&kernels);
            $check::<E4m3>(&kernels);
            $check::<E5m2>(&kernels);
        }
    };
}

/// Tokens of `dim` elements at odd places, no two in order, and their addresses.
fn scattered<T: Number>(random: &mut Random, count: usize, dim: usize) -> (Vec<T>, Vec<usize>) {
    let stride = dim + 3;
    let data = (0..count * stride).map(|_| T::random(random)).collect();
    (data, (0..count).map(|j| (j * 37 + 5) % count * stride).collect())
}

fn scores<T: Number>(kernels: &Kernels) {
    let mut random = Random::new(21);
    for dim in DIMS {
        let (data, at) = scattered::<T>(&mut random, KEY_BLOCK, dim);
        let keys: Vec<*const T> = at.iter().map(|&at| data[at..].as_ptr()).collect();
        let mut packed = output(dim * KEY_BLOCK);
        // SAFETY: every key holds dim elements.
        unsafe {
            let block = PackKeys { keys: &keys, dim, ahead: Ahead { rows: &[data.as_ptr().cast(); 3], bytes: 70 } };
            (T::pack_keys(kernels).run)(packed.inside(), &block);
        }
        let packed = packed.checked();
        for (i, got) in packed.iter().enumerate() {
            let (d, j) = (i / KEY_BLOCK, i % KEY_BLOCK);
            assert_eq!(f64::from(*got), data[at[j] + d].value(), "{}", T::pack_keys(kernels).name);
        }
        for rows in [0, 1, 2, 3, 5, 7, 8, 13] {
            let q = random.row(rows * dim);
            let mut out = output(rows * KEYS);
            (kernels.qk.run)(out.inside(), (&q, rows), packed, dim, Ahead::default());
            for (i, got) in out.checked().iter().enumerate() {
                let (r, j) = (i / KEYS, i % KEYS);
                if j >= KEY_BLOCK {
                    assert!(got.is_nan(), "{} wrote past its keys", kernels.qk.name);
                    continue;
                }
                let terms = (0..dim).map(|d| f64::from(q[r * dim + d]) * data[at[j] + d].value());
                let (truth, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
                let what = format!("{} dim={dim} rows={rows} at {r},{j}", kernels.qk.name);
                assert_close(&what, *got, truth, size * U * (dim as f64 + 2.0));
                let mut alone = [f32::NAN; KEY_BLOCK];
                (kernels.qk.run)(&mut alone, (&q[r * dim..], 1), packed, dim, Ahead::default());
                assert_eq!(alone[j].to_bits(), got.to_bits(), "{what} alone");
            }
        }
    }
}

#[test]
fn scores_are_dot_products_whatever_stands_beside_them() {
    every_dtype!(scores);
}

fn values<T: Number>(kernels: &Kernels) {
    let mut random = Random::new(22);
    let entry = T::pv(kernels);
    for dim in DIMS {
        let (data, at) = scattered::<T>(&mut random, KEYS, dim);
        let tokens: Vec<*const T> = at.iter().map(|&at| data[at..].as_ptr()).collect();
        for rows in [1, 2, 3, 4, 6, 7, 8, 15] {
            let (before, alpha, p) = (random.row(rows * dim), random.row(rows), random.row(rows * KEYS));
            for (first, end) in [(0, KEYS), (0, 1), (5, 5), (17, 90)] {
                let run = |acc: &mut [f32], alpha: &[f32], p: &[f32], first: usize, end: usize| {
                    let mut block =
                        WeighValues { acc, alpha, p, values: &tokens, first, end, dim, ahead: Ahead::default() };
                    // SAFETY: every value holds dim elements.
                    unsafe { (entry.run)(&mut block) };
                };
                let mut out = output(rows * dim);
                out.inside().copy_from_slice(&before);
                run(out.inside(), &alpha, &p, first, end);
                for (i, got) in out.checked().iter().enumerate() {
                    let (r, d) = (i / dim, i % dim);
                    let start = f64::from(before[i]) * f64::from(alpha[r]);
                    let terms = (first..end).map(|j| f64::from(p[r * KEYS + j]) * data[at[j] + d].value());
                    let (truth, size) = terms.fold((start, start.abs()), |(s, a), x| (s + x, a + x.abs()));
                    let limit = size * U * ((end - first) as f64 + 4.0);
                    assert_close(&format!("{} dim={dim} rows={rows} at {r},{d}", entry.name), *got, truth, limit);
                }
                // A row alone, and in two steps.
                for r in 0..rows {
                    let mut one = before[r * dim..][..dim].to_vec();
                    let middle = (first + end) / 2;
                    run(&mut one, &alpha[r..=r], &p[r * KEYS..][..KEYS], first, middle);
                    run(&mut one, &[1.0], &p[r * KEYS..][..KEYS], middle, end);
                    assert_eq!(one, out.checked()[r * dim..][..dim], "{} alone", entry.name);
                }
            }
        }
    }
}

#[test]
fn values_are_weighted_sums_whatever_stands_beside_them() {
    every_dtype!(values);
}

#[test]
fn a_row_of_scores_becomes_weights_of_the_keys_that_it_sees() {
    let mut random = Random::new(23);
    for kernels in tables() {
        for (first, end) in [(0, KEYS), (0, 1), (127, 128), (3, 70), (64, 96), (15, 17)] {
            for (softcap, scaled, max) in [(0.0, false, f32::NEG_INFINITY), (2.0, true, 0.25), (0.0, true, 30.0)] {
                let scores: Vec<f32> = random.row(KEYS).iter().map(|x| 20.0 * x).collect();
                let scales: [Vec<f32>; 2] = [(); 2].map(|()| random.row(KEYS).iter().map(|x| x.abs()).collect());
                let [ks, vs] = [0, 1].map(|i| if scaled { &scales[i][..] } else { &[] });
                let run = |row: &mut [f32]| {
                    let (scale, key_scales, value_scales) = (0.5, ks, vs);
                    let mut block = Soften { row, first, end, scale, key_scales, value_scales, softcap, max };
                    (kernels.soften.run)(&mut block)
                };
                let mut row = scores.clone();
                let (top, sum) = run(&mut row);
                let factor = |s: &[f32], j: usize| if s.is_empty() { 1.0 } else { f64::from(s[j]) };
                let score = |j: usize| {
                    let x = 0.5 * f64::from(scores[j]) * factor(ks, j);
                    let cap = f64::from(softcap);
                    if cap == 0.0 { x } else { cap * (x / cap).tanh() }
                };
                let most = (first..end).map(score).fold(f64::from(max), f64::max);
                let name = kernels.soften.name;
                assert_close(name, top, most, most.abs() * 4.0 * U);
                let mut truth = 0.0;
                for (j, weight) in row.iter().enumerate().take(end).skip(first) {
                    let p = (score(j) - f64::from(top)).exp();
                    truth += p;
                    let limit = p * U * (8.0 + 4.0 * score(j).abs() + most.abs()) + 1e-37;
                    assert_close(&format!("{name} {first}..{end} at {j}"), *weight, p * factor(vs, j), limit);
                }
                assert_close(name, sum, truth, truth * U * 200.0 + 1e-37);
                // What a row does not see may be anything.
                let mut other = scores.clone();
                other[..first].fill(f32::NAN);
                other[end..].fill(f32::INFINITY);
                assert_eq!(run(&mut other), (top, sum), "{name}");
                assert_eq!(other[first..end], row[first..end], "{name}");
            }
        }
    }
}

#[test]
fn scores_that_are_not_finite_keep_to_the_formula() {
    const INF: f32 = f32::INFINITY;
    for kernels in tables() {
        let run = |score: f32, max: f32| {
            let mut row = [0.5; KEYS];
            row[40] = score;
            let mut block = Soften {
                row: &mut row,
                first: 40,
                end: if score == -INF { 41 } else { 43 },
                scale: 1.0,
                key_scales: &[],
                value_scales: &[],
                softcap: 0.0,
                max,
            };
            let (top, sum) = (kernels.soften.run)(&mut block);
            (top, sum, row[40])
        };
        let (top, sum, p) = run(f32::NAN, 1.0);
        assert!(top.is_nan() && sum.is_nan() && p.is_nan());
        let (top, sum, p) = run(0.0, f32::NAN);
        assert!(top.is_nan() && sum.is_nan() && p.is_nan());
        let (top, sum, _) = run(INF, 1.0);
        assert!(top == INF && sum.is_nan());
        assert_eq!(run(-INF, -INF), (-INF, 0.0, 0.0));
        assert_eq!(run(-INF, 1.0), (1.0, 0.0, 0.0));
        assert_eq!(run(-1e30, 0.0).2, 0.0);
    }
}

#[test]
#[should_panic(expected = "rows of scores")]
fn scores_beyond_the_slice_are_refused() {
    let kernels = tables().pop().unwrap();
    (kernels.qk.run)(&mut [0.0; KEYS], (&[0.0; 16], 2), &[0.0; 8 * KEY_BLOCK], 8, Ahead::default());
}
