//! Attention on digits against integers and f64, on every tier that has it, and each result alone against the same among others.

mod oracle;

use oracle::{Random, U, assert_close, tables};
use qiao_kernels_cpu::{Ahead, AttentionDigits, DigitRows, DigitUnit, KEY_BLOCK, KEYS, PackKeys, WeighDigits};

const DIMS: [usize; 12] = [64, 80, 96, 128, 192, 256, 512, 1, 2, 7, 37, 100];

fn digits() -> impl Iterator<Item = AttentionDigits> {
    tables().into_iter().filter_map(|kernels| kernels.attention_digits)
}

/// Codes of any bits.
fn codes(random: &mut Random, count: usize) -> Vec<i8> {
    (0..count).map(|_| (random.signed() * 128.0).floor() as i8).collect()
}

/// Tokens of `dim` codes at odd places, no two in order: all codes, and where each token starts.
fn scattered(random: &mut Random, count: usize, dim: usize) -> (Vec<i8>, Vec<usize>) {
    let stride = dim + 3;
    (codes(random, count * stride), (0..count).map(|j| (j * 37 + 5) % count * stride).collect())
}

/// The numbers of a row of digits.
fn numbers(words: &[u32], n: usize) -> Vec<i64> {
    let words = &words[..2 * n.div_ceil(4)];
    let (high, low) = words.split_at(words.len() / 2);
    let digit = |words: &[u32], i: usize| i64::from(words[i / 4].to_le_bytes()[i % 4] as i8);
    (0..n).map(|i| 256 * digit(high, i) + digit(low, i)).collect()
}

/// Rows of random floats of `n` each, as digits.
fn split(kernels: &AttentionDigits, rows: &[f32], n: usize) -> (Vec<u32>, Vec<DigitUnit>) {
    let mut words = vec![0; rows.len() / n * 2 * n.div_ceil(4)];
    let units = rows.chunks(n).zip(words.chunks_mut(2 * n.div_ceil(4)));
    let units = units.map(|(x, out)| (kernels.split.run)(out, x, 0, n)).collect();
    (words, units)
}

#[test]
fn floats_become_whole_numbers_of_a_power_of_two() {
    let mut random = Random::new(41);
    for kernels in digits() {
        let name = kernels.split.name;
        for n in DIMS.into_iter().chain([KEYS]) {
            for size in [1.0, 0.992_03, 0.996_09, 1e-30, 3e-36, 1e-40, 3e38, 0.0] {
                let mut x: Vec<f32> = random.row(n).iter().map(|x| x * size).collect();
                x[n / 2] = -size;
                for (first, end) in [(0, n), (n / 3, n), (0, n.div_ceil(2)), (n / 2, n / 2)] {
                    let mut row = x.clone();
                    row[..first].fill(f32::NAN);
                    row[end..].fill(f32::INFINITY);
                    let mut words = vec![u32::MAX; 2 * n.div_ceil(4) + 1];
                    let unit = (kernels.split.run)(&mut words, &row, first, end);
                    assert_eq!(words.pop(), Some(u32::MAX), "{name} wrote past its words");
                    let got = numbers(&words, n);
                    assert_eq!(i64::from(unit.sum), got.iter().sum::<i64>(), "{name}");
                    let largest = row[first..end].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    if largest == 0.0 {
                        assert_eq!(unit.unit, 0.0, "{name}");
                    } else {
                        let fits = |unit: f64| f64::from(largest) <= 32639.0 * unit;
                        let unit = f64::from(unit.unit);
                        assert!(
                            fits(unit) && (!fits(unit / 2.0) || unit == f64::from(f32::MIN_POSITIVE)),
                            "{name} {unit:e}"
                        );
                    }
                    for (i, got) in got.iter().enumerate() {
                        let x = if (first..end).contains(&i) { f64::from(row[i]) } else { 0.0 };
                        let want = if x == 0.0 { 0.0 } else { (x / f64::from(unit.unit)).round_ties_even() };
                        assert_eq!(*got as f64, want, "{name} n={n} {i} of {first}..{end}, {x:e} of {:e}", unit.unit);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_has_no_numbers() {
    for kernels in digits() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0; 37];
            row[36] = bad;
            let mut words = [u32::MAX; 20];
            let unit = (kernels.split.run)(&mut words, &row, 0, 37);
            assert!(unit.unit.is_nan() && unit.sum == 0, "{}", kernels.split.name);
            assert_eq!(words, [0; 20]);
            assert!(
                (kernels.split.run)(&mut words, &row, 0, 36).unit.is_finite(),
                "what does not count may be anything"
            );
        }
    }
}

fn packed(kernels: &AttentionDigits, keys: &[*const i8], dim: usize, ahead: Ahead<'_>) -> Vec<u32> {
    let mut out = vec![u32::MAX; dim.div_ceil(4) * KEY_BLOCK + 1];
    // SAFETY: every key holds dim elements.
    unsafe { (kernels.pack_keys.run)(&mut out, &PackKeys { keys, dim, ahead }) };
    assert_eq!(out.pop(), Some(u32::MAX), "{} wrote past its words", kernels.pack_keys.name);
    out
}

#[test]
fn scores_are_exact_sums_whatever_stands_beside_them() {
    let mut random = Random::new(42);
    for kernels in digits() {
        for dim in DIMS {
            let (data, at) = scattered(&mut random, KEY_BLOCK, dim);
            let keys: Vec<_> = at.iter().map(|&at| data[at..].as_ptr()).collect();
            let k = packed(&kernels, &keys, dim, Ahead { rows: &[data.as_ptr().cast(); 5], bytes: 70 });
            let count = dim.div_ceil(4);
            for (i, word) in k.iter().enumerate() {
                for (e, byte) in
                    word.to_le_bytes().into_iter().enumerate().filter(|(e, _)| 4 * (i / KEY_BLOCK) + e < dim)
                {
                    let code = data[at[i % KEY_BLOCK] + 4 * (i / KEY_BLOCK) + e];
                    assert_eq!((byte ^ 0x80) as i8, code, "{}", kernels.pack_keys.name);
                }
            }
            for rows in [0, 1, 2, 3, 5, 6, 7, 8, 13] {
                let mut x = random.row(rows * dim);
                x.iter_mut().take(dim).for_each(|x| *x = x.signum());
                let (words, units) = split(&kernels, &x, dim);
                let mut scores = vec![f32::NAN; rows * KEYS];
                let q = DigitRows { words: &words, units: &units };
                (kernels.qk.run)(&mut scores, &q, &k, count, Ahead::default());
                for (i, got) in scores.iter().enumerate() {
                    let (r, j) = (i / KEYS, i % KEYS);
                    if j >= KEY_BLOCK {
                        assert!(got.is_nan(), "{} wrote past its keys", kernels.qk.name);
                        continue;
                    }
                    let a = numbers(&words[2 * r * count..], dim);
                    let sum: i64 = a.iter().zip(&data[at[j]..]).map(|(a, k)| a * i64::from(*k)).sum();
                    let want = i32::try_from(sum).unwrap() as f32 * units[r].unit;
                    let what = format!("{} dim={dim} rows={rows} at {r},{j}", kernels.qk.name);
                    assert_eq!(got.to_bits(), want.to_bits(), "{what}: {got} for {want}");
                    let terms = (0..dim).map(|d| f64::from(x[r * dim + d]) * f64::from(data[at[j] + d]));
                    let (truth, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
                    let lost = f64::from(units[r].unit) / 2.0 * 128.0 * dim as f64;
                    assert_close(&what, *got, truth, size * U + lost);
                }
            }
        }
    }
}

#[test]
fn the_largest_numbers_do_not_wrap_around() {
    for kernels in digits() {
        for dim in [256, 512] {
            for (code, sign) in [(-128i8, 1.0), (127, -1.0), (-128, -1.0)] {
                let data = vec![code; KEYS * dim];
                let tokens: Vec<_> = data.chunks(dim).map(<[i8]>::as_ptr).collect();
                let k = packed(&kernels, &tokens[..KEY_BLOCK], dim, Ahead::default());
                let (words, units) = split(&kernels, &vec![sign * 32639.0; dim], dim);
                let mut scores = [0.0; KEY_BLOCK];
                let q = DigitRows { words: &words, units: &units };
                (kernels.qk.run)(&mut scores, &q, &k, dim / 4, Ahead::default());
                let want = sign * 32639.0 * f32::from(code);
                assert!(scores.iter().all(|x| *x == (f64::from(want) * dim as f64) as f32), "{}", kernels.qk.name);
                let (words, units) = split(&kernels, &[sign * 32639.0; KEYS], KEYS);
                let mut acc = vec![0.0; dim];
                let p = DigitRows { words: &words, units: &units };
                let (alpha, values) = (&[0.0], &tokens[..]);
                let mut b =
                    WeighDigits { acc: &mut acc, alpha, p, values, first: 0, end: KEYS, dim, ahead: Ahead::default() };
                // SAFETY: every value holds dim elements.
                unsafe { (kernels.pv.run)(&mut b) };
                assert!(acc.iter().all(|x| *x == want * KEYS as f32), "{}", kernels.pv.name);
            }
        }
    }
}

#[test]
fn values_are_weighted_sums_whatever_stands_beside_them() {
    let mut random = Random::new(43);
    for kernels in digits() {
        for dim in DIMS {
            for rows in [1, 2, 3, 4, 6, 7, 8, 12, 15] {
                for range in [(0, KEYS), (0, 1), (5, 5), (17, 90), (17, 18), (16, 19), (127, 128)] {
                    weigh(&kernels, &mut random, rows, dim, range);
                }
            }
        }
    }
}

fn weigh(kernels: &AttentionDigits, random: &mut Random, rows: usize, dim: usize, (first, end): (usize, usize)) {
    let (data, at) = scattered(random, KEYS, dim);
    let values: Vec<_> = at.iter().map(|&at| data[at..].as_ptr()).collect();
    let (before, alpha) = (random.row(rows * dim), random.row(rows));
    let mut weights = random.row(rows * KEYS);
    for (i, p) in weights.iter_mut().enumerate().filter(|(i, _)| !(first..end).contains(&(i % KEYS))) {
        *p = if i % 2 == 0 { 0.0 } else { -0.0 };
    }
    let (words, units) = split(kernels, &weights, KEYS);
    let run = |acc: &mut [f32], rows: std::ops::Range<usize>| {
        let p = DigitRows { words: &words[rows.start * KEYS / 2..], units: &units[rows.clone()] };
        let mut b =
            WeighDigits { acc, alpha: &alpha[rows], p, values: &values, first, end, dim, ahead: Ahead::default() };
        // SAFETY: every value holds dim elements.
        unsafe { (kernels.pv.run)(&mut b) };
    };
    let mut out = before.clone();
    out.push(f32::MAX);
    run(&mut out, 0..rows);
    assert_eq!(out.pop(), Some(f32::MAX), "{} wrote past its rows", kernels.pv.name);
    for r in 0..rows {
        let a = numbers(&words[r * KEYS / 2..], KEYS);
        for d in 0..dim {
            let sum: i64 = (first..end).map(|j| a[j] * i64::from(data[at[j] + d])).sum();
            let sum = i32::try_from(sum).unwrap() as f32 * units[r].unit;
            let (start, got) = (before[r * dim + d], out[r * dim + d]);
            let truth = f64::from(start) * f64::from(alpha[r]) + f64::from(sum);
            let what = format!("{} dim={dim} rows={rows} {first}..{end} at {r},{d}", kernels.pv.name);
            assert_close(&what, got, truth, (f64::from(start.abs()) + f64::from(sum.abs())) * 2.0 * U);
        }
        let mut one = before[r * dim..][..dim].to_vec();
        run(&mut one, r..r + 1);
        assert_eq!(one, out[r * dim..][..dim], "{} alone", kernels.pv.name);
    }
}
