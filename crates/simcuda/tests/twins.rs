//! What a chip does in one instruction, its twin does in plain words: products of fragments, fragments from shared memory,
//! copies that are waited for, small floats.

mod rig;

use rig::{Context, Memory, Module, card};

/// Numbers that every format holds exactly, in no order.
fn small(n: usize, seed: u32) -> Vec<i32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as i32 % 9 - 4
    };
    (0..n).map(|_| next()).collect()
}

/// A (16 x k) times B (k x 8), B given by columns.
fn product(a: &[i32], b: &[i32], k: usize) -> Vec<i32> {
    let dot = |row: usize, column: usize| (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
    (0..16).flat_map(|row| (0..8).map(move |column| (row, column))).map(|(r, c)| dot(r, c)).collect()
}

/// The code of a small whole number.
fn f16(x: i32) -> u16 {
    if x == 0 {
        return 0;
    }
    let exponent = x.unsigned_abs().ilog2();
    let sign = u16::from(x < 0) << 15;
    sign | (((15 + exponent) << 10) as u16) | ((x.unsigned_abs() << 10 >> exponent) as u16 & 0x3ff)
}
fn bf16(x: i32) -> u16 {
    ((x as f32).to_bits() >> 16) as u16
}
fn e4m3(x: i32) -> u8 {
    if x == 0 {
        return 0;
    }
    let exponent = x.unsigned_abs().ilog2();
    u8::from(x < 0) << 7 | ((7 + exponent) << 3) as u8 | (x.unsigned_abs() << 3 >> exponent) as u8 & 7
}

fn bytes<const N: usize>(values: &[i32], code: impl Fn(i32) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| code(*v)).collect()
}

#[test]
fn a_product_of_fragments_is_the_plain_product() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    for (name, k) in [("mma_of_f16", 16), ("mma_of_bf16", 16), ("mma_of_e4m3", 32)] {
        let (a, b) = (small(16 * k, 1), small(8 * k, 2));
        let code = |values: &[i32]| match name {
            "mma_of_f16" => bytes(values, |v| f16(v).to_le_bytes()),
            "mma_of_bf16" => bytes(values, |v| bf16(v).to_le_bytes()),
            _ => bytes(values, |v| [e4m3(v)]),
        };
        let (da, db, d) = (Memory::of(&code(&a)), Memory::of(&code(&b)), Memory::<f32>::empty(2 * 128));
        module.run(name, 1, params![d.at, da.at, db.at]).unwrap();
        let expected: Vec<f32> = product(&a, &b, k).iter().map(|v| *v as f32).collect();
        let found = d.read();
        assert_eq!(found[..128], expected, "{name}, lanes 0 to 31");
        assert_eq!(found[128..], expected, "{name}, lanes 32 to 63");
    }
    let (a, b) = (small(16 * 32, 3), small(8 * 32, 4));
    let code = |values: &[i32]| bytes(values, |v| [(v * 31) as i8 as u8]);
    let (da, db, d) = (Memory::of(&code(&a)), Memory::of(&code(&b)), Memory::<i32>::empty(2 * 128));
    module.run("mma_of_i8", 1, params![d.at, da.at, db.at]).unwrap();
    let expected: Vec<i32> = product(&a, &b, 32).iter().map(|v| v * 31 * 31).collect();
    assert_eq!(d.read(), [&expected[..], &expected[..]].concat());
}

#[test]
fn fragments_come_from_rows_in_shared_memory() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let mut values: Vec<u16> = (0..256).map(|i| i * 3 + 1).collect();
    let (x, straight, turned) = (Memory::of(&values), Memory::<u32>::empty(128), Memory::<u32>::empty(128));
    let stream = std::ptr::null_mut();
    module.launch("matrices", (1, 1, 1), 32, 512, stream, params![straight.at, turned.at, x.at]).unwrap();
    // The last row was copied as not valid.
    values[248..].fill(0);
    let pair = |a: u16, b: u16| u32::from(a) | u32::from(b) << 16;
    let (straight, turned) = (straight.read(), turned.read());
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for matrix in 0..4 {
            let at = |row: usize, column: usize| values[matrix * 64 + row * 8 + column];
            assert_eq!(straight[lane * 4 + matrix], pair(at(g, 2 * t), at(g, 2 * t + 1)), "lane {lane}");
            assert_eq!(turned[lane * 4 + matrix], pair(at(2 * t, g), at(2 * t + 1, g)), "lane {lane}, turned");
        }
    }
}

#[test]
fn a_copy_is_there_once_its_group_is_waited_for() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let values: Vec<u32> = (0..256).map(|i| i + 1000).collect();
    let (x, y) = (Memory::of(&values), Memory::<u32>::empty(128));
    module.run("copies", 1, params![y.at, x.at]).unwrap();
    let found = y.read();
    let later = |i: u32| if std::env::var("QIAO_SIMCUDA_WARP").as_deref() == Ok("64") { i } else { 0xfffd_ffff };
    for lane in 0..32u32 {
        let i = lane * 4;
        let expected = [1000 + i, later(1128 + i), 1128 + i, 1003 + i];
        assert_eq!(found[i as usize..][..4], expected, "lane {lane}");
    }
}

#[test]
fn a_copy_that_nobody_waits_for_is_not_there() {
    if std::env::var("QIAO_SIMCUDA_WARP").as_deref() == Ok("64") {
        return; // Such chips copy at once.
    }
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (x, y) = (Memory::of(&[5u32; 128]), Memory::<u32>::empty(32));
    module.run("no_wait", 1, params![y.at, x.at]).unwrap();
    assert!(y.read().iter().all(|v| *v != 5));
}

/// Runs a conversion kernel.
fn convert<T: Copy + Default, U: Copy + Default>(module: &Module, name: &str, x: &[T]) -> Vec<U> {
    let (from, to) = (Memory::of(x), Memory::<U>::empty(x.len()));
    module.run(name, 1, params![to.at, from.at, x.len() as u32]).unwrap();
    to.read()
}

/// The value of a code of so many exponent and mantissa bits, by the definition.
fn value(code: u32, exponent: u32, mantissa: u32, all_ones_only: bool) -> f64 {
    let bias = (1 << (exponent - 1)) - 1;
    let (e, m) = ((code >> mantissa) & ((1 << exponent) - 1), code & ((1 << mantissa) - 1));
    let sign = if code >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
    let top = (1 << exponent) - 1;
    if e == top && (if all_ones_only { m == (1 << mantissa) - 1 } else { m != 0 }) {
        return f64::NAN;
    }
    if e == top && !all_ones_only {
        return sign * f64::INFINITY;
    }
    let (lead, e) = if e == 0 { (0, 1) } else { (1 << mantissa, e) };
    sign * f64::from(lead + m) * 2f64.powi(e as i32 - bias - mantissa as i32)
}

#[test]
fn every_code_of_a_small_float_has_its_value_and_comes_back() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    for (name, exponent, mantissa) in [("f16", 5, 10), ("bf16", 8, 7)] {
        let found: Vec<f32> = convert(&module, &format!("of_{name}"), &halves);
        let back: Vec<u16> = convert(&module, &format!("to_{name}"), &found);
        for (code, (x, again)) in halves.iter().zip(found.iter().zip(&back)) {
            let expected = value(u32::from(*code), exponent, mantissa, false);
            assert!(f64::from(*x) == expected || (x.is_nan() && expected.is_nan()), "{name} {code:#x}: {x}");
            assert!(again == code || x.is_nan(), "{name} {code:#x} comes back as {again:#x}");
        }
    }
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    for (name, exponent, mantissa) in [("e4m3", 4, 3), ("e5m2", 5, 2)] {
        let found: Vec<f32> = convert(&module, &format!("of_{name}"), &codes);
        let back: Vec<u8> = convert(&module, &format!("to_{name}"), &found);
        for (code, (x, again)) in codes.iter().zip(found.iter().zip(&back)) {
            let expected = value(u32::from(*code), exponent, mantissa, name == "e4m3");
            assert!(f64::from(*x) == expected || (x.is_nan() && expected.is_nan()), "{name} {code:#x}: {x}");
            assert!(again == code || !x.is_finite(), "{name} {code:#x} comes back as {again:#x}");
        }
    }
}

#[test]
fn numbers_between_two_codes_go_to_the_nearer_and_halves_to_even() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    for (name, exponent, mantissa, codes) in
        [("f16", 5, 10, 0x7c00u32), ("bf16", 8, 7, 0x7f80), ("e4m3", 4, 3, 0x7f), ("e5m2", 5, 2, 0x7c)]
    {
        let values: Vec<f64> = (0..codes).map(|c| value(c, exponent, mantissa, name == "e4m3")).collect();
        let (mut x, mut expected) = (Vec::new(), Vec::new());
        for (low, pair) in values.windows(2).enumerate() {
            let (low, middle) = (low as u32, (pair[0] + pair[1]) / 2.0);
            let up = f32::from_bits((middle as f32).to_bits() + 1);
            let down = f32::from_bits((middle as f32).to_bits() - 1);
            x.extend([middle as f32, up, down, -up]);
            let sign = 1 << (exponent + mantissa);
            expected.extend([low + (low & 1), low + 1, low, (low + 1) | sign]);
        }
        let found: Vec<u32> = if mantissa > 6 {
            convert::<f32, u16>(&module, &format!("to_{name}"), &x).iter().map(|c| u32::from(*c)).collect()
        } else {
            convert::<f32, u8>(&module, &format!("to_{name}"), &x).iter().map(|c| u32::from(*c)).collect()
        };
        for ((x, e), f) in x.iter().zip(&expected).zip(&found) {
            assert_eq!(e, f, "{name} of {x:e}");
        }
    }
}

#[test]
fn what_is_too_large_overflows_or_saturates() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let x = [65519.9f32, 65520.0, f32::MAX, -f32::INFINITY, f32::NAN];
    assert_eq!(convert::<f32, u16>(&module, "to_f16", &x)[..4], [0x7bff, 0x7c00, 0x7c00, 0xfc00]);
    assert_eq!(convert::<f32, u16>(&module, "to_f16", &x)[4] & 0x7fff, 0x7e00);
    assert_eq!(convert::<f32, u16>(&module, "to_bf16", &x)[2..4], [0x7f80, 0xff80]);
    assert!(convert::<f32, u16>(&module, "to_bf16", &x)[4] & 0x7fff > 0x7f80);
    let x = [448.0f32, 1e9, -f32::INFINITY, f32::NAN];
    assert_eq!(convert::<f32, u8>(&module, "to_e4m3", &x)[..3], [0x7e, 0x7e, 0xfe]);
    assert_eq!(convert::<f32, u8>(&module, "to_e4m3", &x)[3] & 0x7f, 0x7f);
    assert_eq!(convert::<f32, u8>(&module, "to_e5m2", &x)[1..3], [0x7b, 0xfb]);
    let x = [2.5f32, 3.5, -2.5, 400.0, -400.0, f32::NAN, -0.4];
    assert_eq!(convert::<f32, i8>(&module, "to_i8", &x), [2, 4, -2, 127, -128, 0, 0]);
    assert_eq!(convert::<f32, u8>(&module, "to_u8", &x), [2, 4, 0, 255, 0, 0, 0]);
}
