//! What tiles compute and refuse, against plain arithmetic.

use qiao_simamx::{Fault, Kind, Tiles};

/// 64 bytes for `ldtilecfg`: rows and bytes per row of the first tiles.
fn configuration(tiles: &[(u8, u16)]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (i, (rows, width)) in tiles.iter().enumerate() {
        bytes[48 + i] = *rows;
        bytes[16 + 2 * i..][..2].copy_from_slice(&width.to_le_bytes());
    }
    bytes
}

/// The sum in tile 0, the operands in 1 and 2, all of them filled from slices.
fn product(kind: Kind, shapes: &[(u8, u16)], fill: [&[u8]; 3]) -> Vec<u8> {
    let mut tiles = Tiles::default();
    tiles.configure(&configuration(shapes)).unwrap();
    for (tile, bytes) in fill.iter().enumerate() {
        let width = usize::from(shapes[tile].1);
        tiles.load(tile, |row, to| to.copy_from_slice(&bytes[row * width..][..width])).unwrap();
    }
    tiles.multiply(kind, 0, 1, 2).unwrap();
    let mut out = Vec::new();
    tiles.store(0, |_, row| out.extend_from_slice(row)).unwrap();
    out
}

fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24
    }
}

#[test]
fn bytes_multiply_with_and_without_signs() {
    for (signs, seed) in [(true, true), (true, false), (false, true), (false, false)].into_iter().zip(1..) {
        let (m, n, k) = (5usize, 7usize, 9usize);
        let mut next = numbers(seed);
        let mut some = |count: usize| (0..count).map(|_| next() as u8).collect::<Vec<_>>();
        let (c, a, b) = (some(m * n * 4), some(m * k * 4), some(k * n * 4));
        let shapes = [(m as u8, 4 * n as u16), (m as u8, 4 * k as u16), (k as u8, 4 * n as u16)];
        let got = product(Kind::Bytes(signs.0, signs.1), &shapes, [&c, &a, &b]);
        let value = |byte: u8, signed: bool| if signed { i64::from(byte as i8) } else { i64::from(byte) };
        for (i, got) in got.as_chunks::<4>().0.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let mut sum = i64::from(i32::from_le_bytes(c.as_chunks::<4>().0[i]));
            for input in 0..4 * k {
                let b = b[input / 4 * 4 * n + column * 4 + input % 4];
                sum += value(a[row * 4 * k + input], signs.0) * value(b, signs.1);
            }
            assert_eq!(i32::from_le_bytes(*got), sum as i32, "{signs:?} at {row},{column}");
        }
    }
}

/// f32 of the bits of a bf16.
fn wide(bytes: &[u8]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
}

#[test]
fn bf16_sums_two_chains_of_fused_steps_and_adds_them() {
    let (m, n, k) = (16usize, 16usize, 16usize);
    let mut next = numbers(9);
    // Of magnitudes that do not differ so much that a part of a sum is all of it, and are not near subnormals.
    let mut some = |count: usize| {
        (0..count).flat_map(|_| ((next() & 0x807f) as u16 | (120 + (next() % 14) as u16) << 7).to_le_bytes()).collect()
    };
    let (a, b): (Vec<u8>, Vec<u8>) = (some(m * k * 2), some(k * n * 2));
    let c: Vec<u8> = (0..m * n).flat_map(|i| (i as f32 / 3.0 - 40.0).to_le_bytes()).collect();
    let got = product(Kind::Bf16, &[(16, 64); 3], [&c, &a, &b]);
    let mut in_one_chain = 0;
    for (i, got) in got.as_chunks::<4>().0.iter().enumerate() {
        let (row, column) = (i / n, i % n);
        let (mut chains, mut single) = ([0f32; 2], f32::from_le_bytes(c.as_chunks::<4>().0[i]));
        for input in 0..2 * k {
            let x = wide(&a[(row * 2 * k + input) * 2..]);
            let w = wide(&b[(input / 2 * 2 * n + column * 2 + input % 2) * 2..]);
            chains[input % 2] = x.mul_add(w, chains[input % 2]);
            single = x.mul_add(w, single);
        }
        let want = f32::from_le_bytes(c.as_chunks::<4>().0[i]) + (chains[0] + chains[1]);
        assert_eq!(f32::from_le_bytes(*got).to_bits(), want.to_bits(), "at {row},{column}");
        in_one_chain += usize::from(single.to_bits() == want.to_bits());
    }
    assert!(in_one_chain < m * n / 2, "the numbers do not tell one order of sums from another");
}

#[test]
fn subnormals_count_as_zero_and_become_zero() {
    let bf16 = |x: f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
    // One element: two rows of a pair each, so chains of one step.
    let one = |c: f32, a: [f32; 2], b: [f32; 2]| {
        let pairs = |x: [f32; 2]| x.map(bf16).concat();
        let got = product(Kind::Bf16, &[(1, 4); 3], [&c.to_le_bytes(), &pairs(a), &pairs(b)]);
        f32::from_le_bytes(got.try_into().unwrap())
    };
    let least = f32::MIN_POSITIVE;
    // Operands that are subnormal, and a sum that was.
    assert_eq!(one(0.0, [least / 2.0, 0.0], [1e30, 0.0]), 0.0);
    assert_eq!(one(0.0, [1e30, 0.0], [least / 2.0, 0.0]), 0.0);
    assert_eq!(one(least / 2.0, [0.0, 0.0], [0.0, 0.0]), 0.0);
    // A product below the smallest normal does not wait for its neighbour.
    assert_eq!(one(0.0, [least, least], [0.75, 0.75]), 0.0);
    assert_eq!(one(0.0, [least, 0.0], [1.0, 0.0]), least);
    // Sums that cancel to a subnormal: of the chains, and of what was there.
    assert_eq!(one(0.0, [least * 1.5, least], [1.0, -1.0]), 0.0);
    assert_eq!(one(least * 1.5, [least, 0.0], [-1.0, 0.0]), 0.0);
    // Signs are kept, and what is not a number stays none.
    assert_eq!(one(-0.0, [-least / 2.0, 0.0], [1.0, 0.0]).to_bits(), 0, "zero less zero");
    assert!(one(0.0, [f32::INFINITY, 0.0], [0.0, 0.0]).is_nan());
    assert_eq!(one(1.0, [f32::INFINITY, 0.0], [-2.0, 0.0]), f32::NEG_INFINITY);
    assert_eq!(one(0.0, [3e38, 0.0], [3e38, 0.0]), f32::INFINITY);
}

#[test]
fn what_lies_outside_a_shape_is_zero() {
    let mut tiles = Tiles::default();
    tiles.configure(&configuration(&[(16, 64), (3, 8)])).unwrap();
    let mut rows = Vec::new();
    tiles.load(1, |row, to| (rows.push((row, to.len())), to.fill(9)).1).unwrap();
    assert_eq!(rows, [(0, 8), (1, 8), (2, 8)]);
    tiles.load(0, |_, to| to.fill(7)).unwrap();
    tiles.zero(0).unwrap();
    tiles.store(0, |_, row| assert_eq!(row, [0; 64])).unwrap();
    let bytes = configuration(&[(16, 64), (3, 8)]);
    assert_eq!(tiles.configuration(), bytes);
    tiles.release();
    assert_eq!(tiles.configuration(), [0; 64]);
}

#[test]
fn configurations_that_palette_1_lacks_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = configuration(&[(16, 64)]);
        bytes[at] = byte;
        Tiles::default().configure(&bytes)
    };
    assert_eq!(with(1, 0), Ok(()));
    for (at, byte) in [(0, 2), (2, 1), (15, 1), (16, 65), (17, 1), (32, 1), (47, 9), (48, 17), (56, 1), (63, 1)] {
        assert!(matches!(with(at, byte), Err(Fault::Configuration(_))), "byte {at} is {byte}");
    }
    // Rows without bytes, and bytes without rows.
    assert!(matches!(with(48, 0), Err(Fault::Configuration(_))));
    assert!(matches!(with(50, 4), Err(Fault::Configuration(_))));
    // Palette 0 releases, whatever the rest says.
    let mut tiles = Tiles::default();
    tiles.configure(&configuration(&[(1, 4)])).unwrap();
    tiles.configure(&[0; 64]).unwrap();
    assert!(tiles.zero(0).is_err());
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let multiply = |shapes: &[(u8, u16)], c, a, b| {
        let mut tiles = Tiles::default();
        tiles.configure(&configuration(shapes)).unwrap();
        tiles.multiply(Kind::Bf16, c, a, b)
    };
    let good = [(2, 12), (2, 16), (4, 12)];
    assert_eq!(multiply(&good, 0, 1, 2), Ok(()));
    for bad in [
        [(3, 12), (2, 16), (4, 12)],
        [(2, 8), (2, 16), (4, 12)],
        [(2, 12), (2, 12), (4, 12)],
        [(2, 12), (2, 18), (4, 12)],
    ] {
        assert!(matches!(multiply(&bad, 0, 1, 2), Err(Fault::Operand(_))), "{bad:?}");
    }
    let square = [(4, 16); 3];
    for (c, a, b) in [(0, 0, 1), (0, 1, 1), (0, 1, 0), (0, 1, 3), (8, 1, 2)] {
        assert!(matches!(multiply(&square, c, a, b), Err(Fault::Operand(_))), "{c} {a} {b}");
    }
    let mut unconfigured = Tiles::default();
    assert!(matches!(unconfigured.multiply(Kind::Bf16, 0, 1, 2), Err(Fault::Operand(_))));
    assert!(unconfigured.load(0, |_, _| ()).is_err() && unconfigured.store(0, |_, _| ()).is_err());
    let mut odd = Tiles::default();
    odd.configure(&configuration(&[(2, 6)])).unwrap();
    assert!(odd.load(0, |_, _| ()).is_err() && odd.store(0, |_, _| ()).is_err() && odd.zero(0).is_ok());
}
