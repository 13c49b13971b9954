//! Attention on pairs of bf16 against f64, on every tier that has it, and each result alone against the same among others.

mod oracle;

use half::bf16;
use oracle::{Random, U, assert_close, tables};
use qiao_kernels_cpu::{Ahead, AttentionPairs, E4m3, E5m2, KEY_BLOCK, KEYS, PackKeys, PairElement, WeighPairs};

const DIMS: [usize; 11] = [64, 80, 96, 128, 192, 256, 1, 2, 7, 37, 100];

fn pairs() -> impl Iterator<Item = AttentionPairs> {
    tables().into_iter().filter_map(|kernels| kernels.attention_pairs)
}

/// A stored dtype, with its values.
trait Number: PairElement {
    const NAN: Self;
    fn random(random: &mut Random) -> Self;
    fn value(self) -> bf16;
}

impl Number for bf16 {
    const NAN: bf16 = bf16::NAN;
    fn random(random: &mut Random) -> bf16 {
        bf16::from_f32(random.signed())
    }
    fn value(self) -> bf16 {
        self
    }
}

/// An fp8 number by its definition.
fn fp8(code: u8, mantissa: u32, bias: i32) -> bf16 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (e, m) = ((code & 0x7f) >> mantissa, f64::from(code & ((1 << mantissa) - 1)) / f64::from(1 << mantissa));
    let value = if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(i32::from(e) - bias) };
    let rounded = bf16::from_f64(sign * value);
    assert_eq!(rounded.to_f64(), sign * value, "bf16 holds every fp8");
    rounded
}

impl Number for E4m3 {
    const NAN: E4m3 = E4m3(0x7f);
    fn random(random: &mut Random) -> E4m3 {
        // Every finite code, subnormal ones among them.
        E4m3((random.bits() as u8 % 0x7f) | (random.bits() as u8 & 0x80))
    }
    fn value(self) -> bf16 {
        fp8(self.0, 3, 7)
    }
}

impl Number for E5m2 {
    const NAN: E5m2 = E5m2(0x7e);
    fn random(random: &mut Random) -> E5m2 {
        E5m2((random.bits() as u8 % 0x7c) | (random.bits() as u8 & 0x80))
    }
    fn value(self) -> bf16 {
        fp8(self.0, 2, 15)
    }
}

fn numbers<T: Number>(random: &mut Random, count: usize) -> Vec<T> {
    (0..count).map(|_| T::random(random)).collect()
}

/// Tokens of `dim` elements at odd places, no two in order: all elements, and where each token starts.
fn scattered<T: Number>(random: &mut Random, count: usize, dim: usize) -> (Vec<T>, Vec<usize>) {
    let stride = dim + 3;
    (numbers(random, count * stride), (0..count).map(|j| (j * 37 + 5) % count * stride).collect())
}

fn word(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// Rows of `dim` elements as words.
fn words(rows: &[bf16], dim: usize) -> Vec<u32> {
    let of = |pair: &[bf16]| word(pair[0], pair.get(1).copied().unwrap_or(bf16::ZERO));
    rows.chunks(dim).flat_map(|row| row.chunks(2).map(of)).collect()
}

fn turned<T: Number>(kernels: &AttentionPairs) {
    let mut random = Random::new(31);
    let entry = T::pack_key_pairs(kernels);
    for dim in DIMS {
        let (data, at) = scattered::<T>(&mut random, KEY_BLOCK, dim);
        let keys: Vec<_> = at.iter().map(|&at| data[at..].as_ptr()).collect();
        let ahead = Ahead { rows: &[data.as_ptr().cast(); 5], bytes: 70 };
        let mut packed = vec![u32::MAX; dim.div_ceil(2) * KEY_BLOCK + 1];
        // SAFETY: every key holds dim elements.
        unsafe { (entry.run)(&mut packed, &PackKeys { keys: &keys, dim, ahead }) };
        assert_eq!(packed.pop(), Some(u32::MAX), "{} wrote past its words", entry.name);
        for (j, &at) in at.iter().enumerate() {
            let got: Vec<u32> = packed[j..].iter().step_by(KEY_BLOCK).copied().collect();
            let key: Vec<bf16> = data[at..at + dim].iter().map(|x| x.value()).collect();
            assert_eq!(got, words(&key, dim), "{} dim={dim} key {j}", entry.name);
        }
    }
}

#[test]
fn keys_are_turned_around_two_elements_to_a_word() {
    for kernels in pairs() {
        turned::<bf16>(&kernels);
        turned::<E4m3>(&kernels);
        turned::<E5m2>(&kernels);
    }
}

#[test]
fn codes_that_are_not_finite_stay_so() {
    for kernels in pairs() {
        let word = |infinity: u32, keys: Vec<u32>| {
            assert_eq!(keys[0] & 0x7fff, infinity, "{}", kernels.pack_keys_e5m2.name);
            assert!(keys[KEY_BLOCK..].iter().all(|word| f32::from_bits(word << 16).is_nan()));
            assert!(keys.iter().all(|word| word & 0x8000_0000 != 0 && f32::from_bits(word & 0xffff_0000).is_nan()));
        };
        let (e4m3, e5m2) = ([E4m3(0x7f), E4m3(0xff)].repeat(2), [0x7c, 0xff, 0x7d, 0xfe].map(E5m2));
        let mut packed = vec![0; 2 * KEY_BLOCK];
        // SAFETY: every key holds four elements.
        unsafe {
            let block = PackKeys { keys: &[e4m3.as_ptr(); KEY_BLOCK], dim: 4, ahead: Ahead::default() };
            (kernels.pack_keys_e4m3.run)(&mut packed, &block);
            assert!(packed.iter().all(|word| f32::from_bits(word << 16).is_nan()));
            let block = PackKeys { keys: &[e5m2.as_ptr(); KEY_BLOCK], dim: 4, ahead: Ahead::default() };
            (kernels.pack_keys_e5m2.run)(&mut packed, &block);
        }
        word(0x7f80, packed);
    }
}

#[test]
fn scores_are_dot_products_whatever_stands_beside_them() {
    let mut random = Random::new(32);
    for kernels in pairs() {
        for dim in DIMS {
            let (keys, half) = (numbers::<bf16>(&mut random, KEY_BLOCK * dim), dim.div_ceil(2));
            let mut packed = vec![0; half * KEY_BLOCK];
            for (j, key) in keys.chunks(dim).enumerate() {
                words(key, dim).into_iter().enumerate().for_each(|(w, x)| packed[w * KEY_BLOCK + j] = x);
            }
            for rows in [0, 1, 2, 3, 5, 6, 7, 8, 13] {
                let q = numbers::<bf16>(&mut random, rows * dim);
                let pairs = words(&q, dim);
                let mut scores = vec![f32::NAN; rows * KEYS];
                (kernels.qk.run)(&mut scores, (&pairs, rows), &packed, half, Ahead::default());
                for (i, got) in scores.iter().enumerate() {
                    let (r, j) = (i / KEYS, i % KEYS);
                    if j >= KEY_BLOCK {
                        assert!(got.is_nan(), "{} wrote past its keys", kernels.qk.name);
                        continue;
                    }
                    let terms = (0..dim).map(|d| q[r * dim + d].to_f64() * keys[j * dim + d].to_f64());
                    let (truth, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
                    let what = format!("{} dim={dim} rows={rows} at {r},{j}", kernels.qk.name);
                    assert_close(&what, *got, truth, size * U * (dim as f64 + 2.0));
                    let mut alone = [f32::NAN; KEY_BLOCK];
                    (kernels.qk.run)(&mut alone, (&pairs[r * half..], 1), &packed, half, Ahead::default());
                    assert_eq!(alone[j].to_bits(), got.to_bits(), "{what} alone");
                }
            }
        }
    }
}

#[test]
fn weights_are_rounded_to_pairs_and_those_unseen_are_nothing() {
    let mut random = Random::new(33);
    for kernels in pairs() {
        for (first, end) in [(0, KEYS), (0, 1), (127, 128), (3, 70), (64, 96), (15, 17), (9, 9)] {
            let weights: Vec<f32> = random.row(KEYS).iter().map(|x| x.abs()).collect();
            let mut row: Vec<u32> = weights.iter().map(|x| x.to_bits()).collect();
            row[..first].fill(f32::NAN.to_bits());
            row[end..].fill(f32::INFINITY.to_bits());
            (kernels.round_weights.run)(&mut row, first, end);
            let seen = |j: usize| if (first..end).contains(&j) { bf16::from_f32(weights[j]) } else { bf16::ZERO };
            for (i, got) in row[..KEYS / 2].iter().enumerate() {
                assert_eq!(*got, word(seen(2 * i), seen(2 * i + 1)), "{} pair {i}", kernels.round_weights.name);
            }
        }
    }
}

#[test]
fn values_are_weighted_sums_whatever_stands_beside_them() {
    let mut random = Random::new(34);
    for kernels in pairs() {
        for dim in DIMS {
            for rows in [1, 2, 3, 4, 6, 7, 8, 12, 15] {
                for (first, end) in [(0, KEYS), (0, 1), (5, 5), (17, 90), (17, 18), (16, 19), (17, 19)] {
                    weigh::<bf16>(&kernels, &mut random, rows, dim, (first, end));
                    weigh::<E4m3>(&kernels, &mut random, rows, dim, (first, end));
                    weigh::<E5m2>(&kernels, &mut random, rows, dim, (first, end));
                }
            }
        }
    }
}

fn weigh<T: Number>(
    kernels: &AttentionPairs,
    random: &mut Random,
    rows: usize,
    dim: usize,
    (first, end): (usize, usize),
) {
    let entry = T::pv_pairs(kernels);
    let (mut data, at) = scattered::<T>(random, KEYS, dim);
    for j in (0..first).chain(end..KEYS) {
        data[at[j]..at[j] + dim].fill(T::NAN);
    }
    let values: Vec<_> = at.iter().map(|&at| data[at..].as_ptr()).collect();
    let (before, alpha) = (random.row(rows * dim), random.row(rows));
    let weights = numbers::<bf16>(random, rows * KEYS);
    let seen = |r: usize, j: usize| if (first..end).contains(&j) { weights[r * KEYS + j] } else { bf16::ZERO };
    let mut p = vec![u32::MAX; rows * KEYS];
    for (i, p) in p.iter_mut().enumerate().filter(|(i, _)| i % KEYS < KEYS / 2) {
        let (r, j) = (i / KEYS, i % KEYS * 2);
        *p = word(seen(r, j), seen(r, j + 1));
    }
    let run = |acc: &mut [f32], alpha: &[f32], p: &[u32], first: usize, end: usize| {
        // SAFETY: every value holds dim elements.
        unsafe {
            (entry.run)(&mut WeighPairs { acc, alpha, p, values: &values, first, end, dim, ahead: Ahead::default() })
        };
    };
    let mut out = before.clone();
    out.push(f32::MAX);
    run(&mut out, &alpha, &p, first, end);
    assert_eq!(out.pop(), Some(f32::MAX), "{} wrote past its rows", entry.name);
    for (i, got) in out.iter().enumerate() {
        let (r, d) = (i / dim, i % dim);
        let start = f64::from(before[i]) * f64::from(alpha[r]);
        let terms = (first..end).map(|j| weights[r * KEYS + j].to_f64() * data[at[j] + d].value().to_f64());
        let (truth, size) = terms.fold((start, start.abs()), |(s, a), x| (s + x, a + x.abs()));
        let limit = size * U * ((end - first) as f64 + 4.0);
        let what = format!("{} dim={dim} rows={rows} {first}..{end} at {r},{d}", entry.name);
        assert_close(&what, *got, truth, limit);
    }
    // A row alone, and in two steps that tear no pair.
    let middle = ((first + end) / 2).next_multiple_of(2).clamp(first, end);
    for r in 0..rows {
        let mut one = before[r * dim..][..dim].to_vec();
        run(&mut one, &alpha[r..=r], &p[r * KEYS..][..KEYS], first, middle);
        run(&mut one, &[1.0], &p[r * KEYS..][..KEYS], middle, end);
        assert_eq!(one, out[r * dim..][..dim], "{} alone", entry.name);
    }
}
