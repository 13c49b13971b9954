//! Row operations against f64.

mod oracle;

use half::{bf16, f16};
use oracle::{Random, U, assert_close, output, tables};
use qiao_kernels_cpu::{Binary, Element, Entry, Kernels, RowMut, stream_fence};

const LENGTHS: [usize; 17] = [0, 1, 3, 4, 5, 7, 8, 15, 16, 17, 31, 64, 65, 127, 256, 1009, 4096];

type Pick = fn(&Kernels) -> Entry<Binary>;

type Operation = (Pick, fn(f32, f32) -> f32);

const ARITHMETIC: [Operation; 4] =
    [(|k| k.add, |a, b| a + b), (|k| k.sub, |a, b| a - b), (|k| k.mul, |a, b| a * b), (|k| k.div, |a, b| a / b)];

#[test]
fn arithmetic_is_exactly_rounded() {
    let mut random = Random::new(11);
    for len in LENGTHS {
        let (mut a, mut b) = (random.row(len), random.row(len));
        if len > 20 {
            (a[2], b[9], b[19]) = (f32::INFINITY, f32::NAN, 0.0);
            (a[5], b[5]) = (1e-40, 0.5);
        }
        for kernels in tables() {
            for (pick, truth) in ARITHMETIC {
                let entry = pick(&kernels);
                let mut out = output(len);
                (entry.run)(out.inside(), &a, &b);
                for (i, got) in out.checked().iter().enumerate() {
                    let want = truth(a[i], b[i]);
                    assert!(*got == want || (got.is_nan() && want.is_nan()), "{} at {i}", entry.name);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "lengths of output and b")]
fn rows_of_other_lengths_are_refused() {
    let kernels = tables().pop().unwrap();
    (kernels.add.run)(&mut [0.0; 3], &[0.0; 3], &[0.0; 4]);
}

#[test]
fn sums_are_within_the_rounding_of_their_lanes() {
    let mut random = Random::new(12);
    for len in LENGTHS {
        let (a, b) = (random.row(len), random.row(len));
        let f = |x: &f32| f64::from(*x);
        let sum: f64 = a.iter().map(f).sum();
        let size: f64 = a.iter().map(|x| f(x).abs()).sum();
        let squares: f64 = a.iter().map(|x| f(x) * f(x)).sum();
        let dot: f64 = a.iter().zip(&b).map(|(a, b)| f(a) * f(b)).sum();
        let dot_size: f64 = a.iter().zip(&b).map(|(a, b)| (f(a) * f(b)).abs()).sum();
        // The longest chain: a sixteenth of the row on the narrowest tier, then the joins.
        let chain = (len as f64 / 16.0 + 8.0) * U;
        for k in tables() {
            assert_close(k.sum.name, (k.sum.run)(&a), sum, chain * size);
            assert_close(k.sum_squares.name, (k.sum_squares.run)(&a), squares, 2.0 * chain * squares);
            assert_close(k.dot.name, (k.dot.run)(&a, &b), dot, 2.0 * chain * dot_size);
        }
    }
}

#[test]
fn the_largest_is_found_wherever_it_is_and_nan_wins() {
    for k in tables() {
        assert_eq!((k.rows_f32.max.run)(&[]), f32::NEG_INFINITY);
        for len in [1, 2, 15, 16, 17, 63, 64, 65, 200] {
            for at in 0..len {
                let mut x = vec![-7.5; len];
                x[at] = -3.25;
                assert_eq!((k.rows_f32.max.run)(&x), -3.25, "{} {at} of {len}", k.rows_f32.max.name);
                x[at] = f32::NAN;
                assert!((k.rows_f32.max.run)(&x).is_nan(), "{} {at} of {len}", k.rows_f32.max.name);
            }
        }
    }
}

#[test]
fn rms_norm_is_its_formula() {
    let mut random = Random::new(13);
    for len in LENGTHS.into_iter().filter(|len| *len > 0) {
        let (x, w) = (random.row(len), random.row(len));
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / len as f64;
        for offset in [0.0, 1.0] {
            for k in tables() {
                let mut out = output(len);
                (k.rows_f32.rms_norm.run)(RowMut::kept(out.inside()), &x, &w, 1e-6, offset);
                for (i, got) in out.checked().iter().enumerate() {
                    let weight = f64::from(w[i]) + f64::from(offset);
                    let truth = f64::from(x[i]) * weight / (mean + f64::from(1e-6f32)).sqrt();
                    // w + offset may cancel, so its rounding counts at the size of its parts.
                    let parts = f64::from(w[i]).abs() + f64::from(offset);
                    let size = truth.abs() * (len as f64 / 16.0 + 12.0) + f64::from(x[i]).abs() * parts / mean.sqrt();
                    assert_close(k.rows_f32.rms_norm.name, *got, truth, U * size);
                }
            }
        }
    }
}

/// Rows whose squares, or whose sum, are beyond f32 or among its smallest numbers.
fn far_rows(len: usize) -> Vec<Vec<f32>> {
    let mut random = Random::new(23);
    let sizes = [3e19, 1e30, 3e38, 1e-20, 1e-25, 1e-38, 1e-40];
    let mut rows: Vec<Vec<f32>> = sizes.map(|size| random.row(len).iter().map(|x| x * size).collect()).into();
    rows.extend(sizes.map(|size| (0..len).map(|i| if i % 3 == 0 { -size } else { size }).collect()));
    rows.push((0..len).map(|i| if i == len / 2 { 2e19 } else { 1.0 }).collect());
    rows
}

#[test]
fn norms_take_rows_of_any_finite_size() {
    for len in [1, 3, 16, 64, 130] {
        let ones = vec![1.0; len];
        for x in far_rows(len) {
            let n = len as f64;
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let square = wide.iter().map(|x| x * x).sum::<f64>() / n;
            let mean = wide.iter().sum::<f64>() / n;
            let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            for (eps, k) in tables().into_iter().flat_map(|k| [(0.0f32, k), (1e-6, k)]) {
                let deviation = (variance + f64::from(eps)).sqrt();
                let mut out = output(len);
                (k.rows_f32.rms_norm.run)(RowMut::kept(out.inside()), &x, &ones, eps, 0.0);
                for (x, got) in wide.iter().zip(out.checked()) {
                    let truth = x / (square + f64::from(eps)).sqrt();
                    let limit = truth.abs() * 16.0 * U + 1e-44;
                    assert_close(k.rows_f32.rms_norm.name, *got, truth, limit);
                }
                (k.rows_f32.layer_norm.run)(RowMut::kept(out.inside()), &x, &ones, &ones, eps);
                if deviation == 0.0 {
                    continue;
                }
                for (x, got) in wide.iter().zip(out.checked()) {
                    let truth = (x - mean) / deviation + 1.0;
                    let limit = 32.0 * U * (x.abs() + mean.abs() + deviation) / deviation;
                    assert_close(k.rows_f32.layer_norm.name, *got, truth, limit);
                }
            }
        }
    }
}

#[test]
fn norms_of_rows_that_are_not_finite_are_not_numbers_where_they_are_not() {
    for k in tables() {
        let mut x = vec![1.0; 40];
        x[7] = f32::INFINITY;
        let (ones, mut out) = (vec![1.0; 40], output(40));
        (k.rows_f32.rms_norm.run)(RowMut::kept(out.inside()), &x, &ones, 1e-6, 0.0);
        assert!(out.checked().iter().enumerate().all(|(i, y)| if i == 7 { y.is_nan() } else { *y == 0.0 }));
        (k.rows_f32.layer_norm.run)(RowMut::kept(out.inside()), &x, &ones, &ones, 1e-6);
        assert!(out.checked().iter().all(|y| y.is_nan()), "{}", k.rows_f32.layer_norm.name);
        let mut bytes = vec![bf16::ZERO; 64];
        (k.rows_bf16.rms_norm.run)(RowMut::kept(&mut bytes), &[bf16::from_f32(3e19); 64], &[1.0; 64], 1e-6, 0.0);
        assert!(bytes.iter().all(|y| *y == bf16::ONE), "{}", k.rows_bf16.rms_norm.name);
    }
}

#[test]
fn layer_norm_is_its_formula_even_far_from_zero() {
    let mut random = Random::new(14);
    for len in LENGTHS.into_iter().filter(|len| *len > 1) {
        let (w, b) = (random.row(len), random.row(len));
        for shift in [0.0, 100.0] {
            let x: Vec<f32> = random.row(len).iter().map(|x| x + shift).collect();
            let n = len as f64;
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            let deviation = (variance + f64::from(1e-5f32)).sqrt();
            for k in tables() {
                let mut out = output(len);
                (k.rows_f32.layer_norm.run)(RowMut::kept(out.inside()), &x, &w, &b, 1e-5);
                for (i, got) in out.checked().iter().enumerate() {
                    let truth = (f64::from(x[i]) - mean) / deviation * f64::from(w[i]) + f64::from(b[i]);
                    let chain = (len as f64 / 16.0 + 12.0) * U;
                    let size = f64::from(x[i]).abs() + mean.abs() + f64::from(shift);
                    assert_close(k.rows_f32.layer_norm.name, *got, truth, chain * (size / deviation + 2.0));
                }
            }
        }
    }
}

#[test]
fn softmax_pieces_make_a_softmax() {
    let mut random = Random::new(15);
    for len in LENGTHS.into_iter().filter(|len| *len > 0) {
        let mut x: Vec<f32> = random.row(len).iter().map(|x| x * 30.0).collect();
        if len > 10 {
            x[4] = f32::NEG_INFINITY;
        }
        let top = x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let e: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(top)).exp()).collect();
        let total: f64 = e.iter().sum();
        for k in tables() {
            let mut out = output(len);
            let max = (k.rows_f32.max.run)(&x);
            assert_eq!(max, top);
            let sum = (k.rows_f32.exp_sub_sum.run)(out.inside(), &x, max);
            assert_close(k.rows_f32.exp_sub_sum.name, sum, total, total * U * (len as f64 / 8.0 + 64.0));
            (k.scale.run)(out.inside(), 1.0 / sum);
            for (got, e) in out.checked().iter().zip(&e) {
                // x - max is rounded once, at the size of up to 60.
                let limit = e / total * U * (len as f64 / 8.0 + 128.0) + 1e-44;
                assert_close("softmax", *got, e / total, limit);
            }
        }
    }
}

#[test]
fn exponentials_keep_within_two_ulps() {
    let x: Vec<f32> = (0..90_000).map(|i| i as f32 * -0.001).chain([-0.0, -1e-8, -1e-40, f32::NEG_INFINITY]).collect();
    for k in tables() {
        let mut out = output(x.len());
        let sum = (k.rows_f32.exp_sub_sum.run)(out.inside(), &x, 0.0);
        assert!(sum > 1000.0, "{}", k.rows_f32.exp_sub_sum.name);
        for (x, got) in x.iter().zip(out.checked()) {
            let truth = f64::from(*x).exp();
            let limit =
                if truth < f64::from(f32::MIN_POSITIVE) { f64::from(f32::MIN_POSITIVE) } else { truth * 4.0 * U };
            assert_close(k.rows_f32.exp_sub_sum.name, *got, truth, limit);
        }
        assert_eq!(out.checked().last(), Some(&0.0), "{}", k.rows_f32.exp_sub_sum.name);
    }
}

/// Rows of a softmax, each written beside the exponentials of the next.
fn softmax(k: &Kernels, rows: &[&[f32]]) -> Vec<Vec<f32>> {
    let run = k.rows_f32.softmax.run;
    let mut p = vec![f32::NAN; rows[0].len()];
    let mut factor = run(RowMut::kept(&mut []), (&[], 1.0), &mut p, rows[0]);
    let mut results = Vec::new();
    for i in 0..rows.len() {
        let x = rows.get(i + 1).copied().unwrap_or_default();
        let (mut out, mut next) = (output(p.len()), vec![f32::NAN; x.len()]);
        factor = run(RowMut::kept(out.inside()), (&p, factor), &mut next, x);
        results.push(out.checked().to_vec());
        p = next;
    }
    results
}

#[test]
fn a_softmax_is_its_formula_beside_rows_of_any_length() {
    let mut random = Random::new(20);
    for len in LENGTHS.into_iter().filter(|len| *len > 0) {
        let x: Vec<f32> = random.row(len).iter().map(|x| x * 30.0).collect();
        let other = random.row(97);
        let top = x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let e: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(top)).exp()).collect();
        let total: f64 = e.iter().sum();
        for k in tables() {
            let alone = softmax(&k, &[&x]);
            let among = softmax(&k, &[&other, &x, &x, &other]);
            assert_eq!([&alone[0], &among[0]], [&among[1], &among[3]], "{}", k.rows_f32.softmax.name);
            assert_eq!(among[1], among[2]);
            for (got, e) in alone[0].iter().zip(&e) {
                let limit = e / total * U * (len as f64 / 8.0 + 128.0) + f64::from(f32::MIN_POSITIVE);
                assert_close(k.rows_f32.softmax.name, *got, e / total, limit);
            }
        }
    }
}

#[test]
fn a_softmax_has_zeros_for_masked_rows_and_nan_for_rows_with_one() {
    for k in tables() {
        for len in [1, 5, 16, 33, 70] {
            let masked = vec![f32::NEG_INFINITY; len];
            for at in 0..len {
                let (mut nan, mut hidden) = (vec![0.5; len], masked.clone());
                (nan[at], hidden[at]) = (f32::NAN, f32::NAN);
                let got = softmax(&k, &[&masked, &nan, &hidden, &masked]);
                assert!(got[1].iter().chain(&got[2]).all(|x| x.is_nan()), "{}", k.rows_f32.softmax.name);
                assert!(got[0].iter().chain(&got[3]).all(|x| *x == 0.0), "{}", k.rows_f32.softmax.name);
            }
        }
    }
}

#[test]
fn a_fully_masked_row_becomes_zeros() {
    for k in tables() {
        let (row, mut out) = ([f32::NEG_INFINITY; 21], [1.0; 21]);
        let max = (k.rows_f32.max.run)(&row);
        assert_eq!((k.rows_f32.exp_sub_sum.run)(&mut out, &row, max), 0.0);
        assert_eq!(out, [0.0; 21]);
    }
}

#[test]
fn axpy_and_scale_are_their_formulas() {
    let mut random = Random::new(16);
    for len in LENGTHS {
        let (x, y) = (random.row(len), random.row(len));
        for k in tables() {
            let mut out = output(len);
            out.inside().copy_from_slice(&y);
            (k.axpy.run)(out.inside(), 0.3, &x);
            for (i, got) in out.checked().iter().enumerate() {
                let product = f64::from(0.3f32) * f64::from(x[i]);
                let truth = product + f64::from(y[i]);
                assert_close(k.axpy.name, *got, truth, 2.0 * U * (product.abs() + truth.abs()));
            }
            (k.scale.run)(out.inside(), 0.0);
            assert!(out.checked().iter().all(|x| *x == 0.0), "{}", k.scale.name);
        }
    }
}

#[test]
fn rope_rotates_its_pairs_and_leaves_the_rest() {
    let mut random = Random::new(17);
    for (dim, rotary) in [(64, 64), (80, 32), (128, 128), (96, 50), (6, 2), (34, 34), (8, 0)] {
        let half = rotary / 2;
        let angles: Vec<f32> = random.row(half).iter().map(|x| x * 3.0).collect();
        let cos: Vec<f32> = angles.iter().map(|x| x.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|x| x.sin()).collect();
        let x = random.row(dim);
        for k in tables() {
            let halves = k.rows_f32.rope_half_split;
            for (name, first, second) in [
                (halves.name, (|i, _| i) as fn(usize, usize) -> usize, (|i, h| i + h) as fn(usize, usize) -> usize),
                (k.rope_interleaved.name, |i, _| 2 * i, |i, _| 2 * i + 1),
            ] {
                let mut out = output(dim);
                if name == halves.name {
                    (halves.run)(RowMut::kept(out.inside()), &x, &cos, &sin, (0, dim));
                } else {
                    out.inside().copy_from_slice(&x);
                    (k.rope_interleaved.run)(out.inside(), &cos, &sin, rotary);
                }
                let got = out.checked();
                assert_eq!(got[rotary..], x[rotary..], "{}", name);
                for i in 0..half {
                    let (a, b) = (first(i, half), second(i, half));
                    let (x, y) = (f64::from(x[a]), f64::from(x[b]));
                    let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                    let size = 3.0 * U * (x.abs() + y.abs());
                    assert_close(name, got[a], x * c - y * s, size);
                    assert_close(name, got[b], y * c + x * s, size);
                }
            }
        }
    }
}

#[test]
fn neighbours_of_heads_side_by_side_are_rotated_as_one_row_of_f32_is() {
    let mut random = Random::new(24);
    for (dim, half, first) in [(64, 32, 0), (80, 16, 8), (128, 64, 0), (6, 1, 2), (34, 17, 0), (192, 67, 32), (8, 0, 4)]
    {
        let (x, cos, sin) = (random.row(5 * dim), random.row(half), random.row(half));
        for k in tables() {
            let mut heads = output(5 * dim);
            (k.rows_f32.rope_neighbours.run)(RowMut::kept(heads.inside()), &x, &cos, &sin, (first, dim));
            for (head, got) in x.chunks(dim).zip(heads.checked().chunks(dim)) {
                let mut want = head.to_vec();
                (k.rope_interleaved.run)(&mut want[first..], &cos, &sin, 2 * half);
                assert_eq!(got, want, "{} {dim}", k.rows_f32.rope_neighbours.name);
            }
        }
    }
}

#[test]
fn rope_rotates_heads_side_by_side_as_it_rotates_one() {
    let mut random = Random::new(21);
    for (dim, half, first) in [(64, 32, 0), (80, 16, 8), (128, 64, 0), (6, 1, 2), (34, 17, 0), (128, 48, 32)] {
        let (x, cos, sin) = (random.row(5 * dim), random.row(half), random.row(half));
        for k in tables() {
            let rotate = k.rows_f32.rope_half_split;
            let mut heads = output(5 * dim);
            (rotate.run)(RowMut::kept(heads.inside()), &x, &cos, &sin, (first, dim));
            for (i, head) in x.chunks(dim).enumerate() {
                let mut one = output(dim);
                (rotate.run)(RowMut::kept(one.inside()), head, &cos, &sin, (first, dim));
                assert_eq!(heads.checked()[i * dim..][..dim], *one.checked(), "{} {dim}", rotate.name);
            }
        }
    }
}

/// Rows on whole lines.
#[repr(align(64))]
struct Lines<T>([T; 4096]);

/// What each kernel that writes rows of `T` makes of a row, written into the middle of a buffer that holds nothing else.
fn written<T: Element>(k: &Kernels, x: &[T], past: bool, shift: usize) -> Vec<(&'static str, Vec<T>)> {
    let rows = T::rows(k);
    let n = x.len();
    let mut random = Random::new(18);
    let (w, b) = (random.row(n), random.row(n));
    let (half, first) = (n / 4, n / 8);
    let (cos, sin) = (random.row(half), random.row(half));
    let mut sums = vec![0.0; n];
    (rows.sum_of.run)(&mut sums, x, x);
    let ahead = Some(x.as_ptr().cast());
    let result = |name: &'static str, run: &dyn Fn(RowMut<'_, T>)| {
        let mut lines = Box::new(Lines([T::default(); 4096]));
        run(RowMut { row: &mut lines.0[shift..shift + n], past, ahead });
        stream_fence();
        assert!(lines.0[..shift].iter().chain(&lines.0[shift + n..]).all(|x| *x == T::default()), "{name}");
        (name, lines.0[shift..shift + n].to_vec())
    };
    vec![
        result(rows.rms_norm.name, &|out| (rows.rms_norm.run)(out, x, &w, 1e-6, 1.0)),
        result(rows.rms_norm_of_f32.name, &|out| (rows.rms_norm_of_f32.run)(out, &sums, &w, 1e-6, 0.0)),
        result(rows.layer_norm.name, &|out| (rows.layer_norm.run)(out, x, &w, &b, 1e-5)),
        result(rows.scaled.name, &|out| (rows.scaled.run)(out, &sums, 0.3)),
        result(rows.softmax.name, &|out| {
            (rows.softmax.run)(out, (&sums, 0.3), &mut vec![0.0; n], x);
        }),
        result(rows.rope_half_split.name, &|out| (rows.rope_half_split.run)(out, x, &cos, &sin, (first, n))),
        result(rows.rope_neighbours.name, &|out| (rows.rope_neighbours.run)(out, x, &cos, &sin, (first, n))),
    ]
}

/// The conversion of a tier to a dtype.
type Rounding<T> = fn(&Kernels) -> fn(&mut [T], &[f32]);

fn bits<T: Element>(k: &Kernels, values: &[f32], to: Rounding<T>) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    to(k)(&mut out, values);
    out
}

/// Rows of a dtype say what rows of f32 with the same values say, rounded once, wherever they go.
fn rows_say_what_those_of_f32_say<T: Element + std::fmt::Debug>(to: Rounding<T>, widen: fn(T) -> f32) {
    let mut random = Random::new(19);
    for len in LENGTHS.into_iter().filter(|len| (1..4000).contains(len)) {
        let values = random.row(len);
        for k in tables() {
            let row = bits(&k, &values, to);
            let wide: Vec<f32> = row.iter().map(|x| widen(*x)).collect();
            let (ours, theirs) = (T::rows(&k), &k.rows_f32);
            assert_eq!((ours.max.run)(&row), (theirs.max.run)(&wide));
            let mut exp = [vec![0.0; len], vec![0.0; len]];
            let sums =
                [(ours.exp_sub_sum.run)(&mut exp[0], &row, 2.0), (theirs.exp_sub_sum.run)(&mut exp[1], &wide, 2.0)];
            assert_eq!((sums[0], &exp[0]), (sums[1], &exp[1]), "{}", ours.exp_sub_sum.name);
            let truth = written::<f32>(&k, &wide, false, 0);
            for (past, shift) in [(false, 0), (false, 3), (true, 0), (true, 3), (true, 64), (true, 80)] {
                for ((name, got), (_, want)) in written(&k, &row, past, shift).into_iter().zip(&truth) {
                    assert_eq!(
                        got,
                        bits(&k, want, to),
                        "{name}: {len} elements, past the caches {past}, {shift} from a line"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_every_dtype_say_what_rows_of_f32_say_wherever_they_are_written() {
    rows_say_what_those_of_f32_say::<f32>(|_| |out, x| out.copy_from_slice(x), |x| x);
    rows_say_what_those_of_f32_say::<f16>(|k| k.f32_to_f16.run, f16::to_f32);
    rows_say_what_those_of_f32_say::<bf16>(|k| k.f32_to_bf16.run, bf16::to_f32);
}
