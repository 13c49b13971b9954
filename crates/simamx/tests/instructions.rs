//! The instructions themselves, in hardware where there is some and in the trap elsewhere.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::arch::asm;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use qiao_simamx::{Kind, Means, Tiles, install};

#[repr(C, align(64))]
struct Configuration([u8; 64]);

/// Tiles 0 to 2 of these rows and bytes per row.
fn configuration(tiles: [(u8, u8); 3]) -> Configuration {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (i, (rows, width)) in tiles.into_iter().enumerate() {
        (bytes[16 + 2 * i], bytes[48 + i]) = (width, rows);
    }
    Configuration(bytes)
}

/// A product of whole tiles, `c += a · b`, the rows of a and b `stride` bytes apart, by one of the instructions.
macro_rules! multiply {
    ($op:literal, $c:expr, $a:expr, $b:expr, $stride:expr) => {{
        let (c, a, b): (&mut [u8], &[u8], &[u8]) = ($c, $a, $b);
        let stride: usize = $stride;
        assert!(c.len() == 1024 && a.len() >= 15 * stride + 64 && b.len() >= 15 * stride + 64);
        let shapes = configuration([(16, 64); 3]);
        let mut stored = Configuration([0xff; 64]);
        // SAFETY: every operand is as long as 16 rows are, and all that is written is named.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "sttilecfg [{stored}]",
                "tileloadd tmm0, [{c} + {row}*1]",
                "tileloadd tmm1, [{a} + {half}*2 - 64]",
                "tileloaddt1 tmm2, [{b} + {half}*2 + 4096]",
                concat!($op, " tmm0, tmm1, tmm2"),
                "tilestored [{c} + {row}*1], tmm0",
                "tilezero tmm0",
                "tilerelease",
                shapes = in(reg) &raw const shapes,
                stored = in(reg) &raw mut stored,
                c = in(reg) c.as_mut_ptr(),
                a = in(reg) a.as_ptr().wrapping_add(64),
                b = in(reg) b.as_ptr().wrapping_sub(4096),
                row = in(reg) 64usize,
                half = in(reg) stride / 2,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
        assert_eq!(stored.0, shapes.0);
    }};
}

/// The same by a state of its own.
fn emulated(kind: Kind, c: &mut [u8], a: &[u8], b: &[u8], stride: usize) {
    let mut tiles = Tiles::default();
    tiles.configure(&configuration([(16, 64); 3]).0).unwrap();
    tiles.load(0, |row, to| to.copy_from_slice(&c[row * 64..][..64])).unwrap();
    tiles.load(1, |row, to| to.copy_from_slice(&a[row * stride..][..64])).unwrap();
    tiles.load(2, |row, to| to.copy_from_slice(&b[row * stride..][..64])).unwrap();
    tiles.multiply(kind, 0, 1, 2).unwrap();
    tiles.store(0, |row, from| c[row * 64..][..64].copy_from_slice(from)).unwrap();
}

fn numbers(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// NaN have any bits.
fn same_floats(a: &[u8], b: &[u8]) -> bool {
    let value = |x: &[u8; 4]| f32::from_le_bytes(*x);
    a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0).all(|(a, b)| a == b || value(a).is_nan() && value(b).is_nan())
}

#[test]
fn every_product_is_that_of_the_emulated_state() {
    let how = install().expect("this test is for Linux on x86-64");
    println!("{how:?}");
    for seed in 1..40 {
        let stride = [64, 128, 320][seed as usize % 3];
        let (a, b, c) = (numbers(seed, 16 * stride), numbers(seed + 100, 16 * stride), numbers(seed + 200, 1024));
        macro_rules! check {
            ($op:literal, $kind:expr, $same:expr) => {
                let (mut got, mut want) = (c.clone(), c.clone());
                multiply!($op, &mut got, &a, &b, stride);
                emulated($kind, &mut want, &a, &b, stride);
                assert!($same(&got, &want), "{} seed {seed}", $op);
            };
        }
        let bits = |a: &[u8], b: &[u8]| a == b;
        check!("tdpbssd", Kind::Bytes(true, true), bits);
        check!("tdpbsud", Kind::Bytes(true, false), bits);
        check!("tdpbusd", Kind::Bytes(false, true), bits);
        check!("tdpbuud", Kind::Bytes(false, false), bits);
        // Bits of any kind: NaN, infinities, subnormals.
        check!("tdpbf16ps", Kind::Bf16, same_floats);
    }
}

#[test]
fn hardware_sums_bf16_as_the_emulator_does() {
    if install() != Some(Means::Hardware) {
        println!("skipped: this processor has no AMX, so there is nothing to compare the emulator with");
        return;
    }
    for seed in 1..400 {
        // Numbers of near magnitudes, where each rounding shows, and now and then of any.
        let near = |bytes: Vec<u8>, low: u16| -> Vec<u8> {
            let pairs = bytes.as_chunks::<2>().0.iter().map(|x| u16::from_le_bytes(*x));
            pairs.flat_map(|x| ((x & 0x807f) | (low + (x >> 7) % 16) << 7).to_le_bytes()).collect()
        };
        let low = [120, 112, 60, 56][seed as usize % 4];
        let (a, b) = (near(numbers(seed, 1024), low), near(numbers(seed + 1000, 1024), low));
        let c: Vec<u8> = numbers(seed + 2000, 256).iter().flat_map(|x| (f32::from(*x) - 100.0).to_le_bytes()).collect();
        let (mut got, mut want) = (c.clone(), c);
        multiply!("tdpbf16ps", &mut got, &a, &b, 64);
        emulated(Kind::Bf16, &mut want, &a, &b, 64);
        assert!(same_floats(&got, &want), "seed {seed}");
    }
}

#[test]
fn threads_have_tiles_of_their_own() {
    install();
    let work = |seed: u64| {
        for round in 0..50 {
            let (a, b) = (numbers(seed + round, 1024), numbers(seed + round + 7, 1024));
            let (mut got, mut want) = (vec![0; 1024], vec![0; 1024]);
            multiply!("tdpbssd", &mut got, &a, &b, 64);
            emulated(Kind::Bytes(true, true), &mut want, &a, &b, 64);
            assert_eq!(got, want);
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || work(thread * 1000)))));
}

/// What a process of its own does to be refused; the last is an instruction that nobody has.
const OFFENCES: [&str; 5] = ["configuration", "unconfigured", "shapes", "twice", "unknown"];

/// Commits one of the offences.
fn offend(what: &str) {
    let mut bytes = configuration([(16, 64), (16, 64), (8, 64)]);
    let buffer = [0u8; 1024];
    // SAFETY: the instructions read 64 bytes and a whole tile, and are refused before they write any.
    unsafe {
        match what {
            "configuration" => {
                bytes.0[48] = 17;
                asm!("ldtilecfg [{}]", in(reg) &raw const bytes);
            }
            "unconfigured" => {
                asm!("tilerelease", "tileloadd tmm0, [{} + {}*1]", in(reg) buffer.as_ptr(), in(reg) 64usize, out("tmm0") _);
            }
            "shapes" => asm!("ldtilecfg [{}]", "tdpbssd tmm0, tmm1, tmm2", in(reg) &raw const bytes, out("tmm0") _),
            // tdpbf16ps tmm0, tmm1, tmm1, which assemblers refuse
            "twice" => {
                asm!("ldtilecfg [{}]", ".byte 0xc4, 0xe2, 0x72, 0x5c, 0xc1", in(reg) &raw const bytes, out("tmm0") _);
            }
            _ => asm!("ud2"),
        }
    }
}

#[test]
fn what_hardware_refuses_ends_the_process_and_is_named() {
    const VARIABLE: &str = "QIAO_SIMAMX_OFFENCE";
    let means = install();
    if let Ok(what) = std::env::var(VARIABLE) {
        return offend(&what);
    }
    for what in OFFENCES {
        let name = "what_hardware_refuses_ends_the_process_and_is_named";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, what)
            .output()
            .unwrap();
        assert!(child.status.signal().is_some(), "{what}: the process lived: {:?}", child.status);
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        let words = match what {
            "configuration" => "emulated ldtilecfg raises #GP: a tile has more than 16 rows",
            "unconfigured" => "emulated tileloadd raises #UD: no tiles are configured",
            "shapes" => "emulated tdpbssd raises #UD: the first operand's row",
            "twice" => "emulated tdpbf16ps raises #UD: two operands are the same tile",
            _ => "",
        };
        if means == Some(Means::Emulated) {
            assert!(said.contains(words), "{what}: {said}");
        }
    }
}
