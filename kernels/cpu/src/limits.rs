//! What a core of this machine can do at all: loops that measure limits, for benchmarks to stand beside.
//!
//! - [`rates`] are chains of multiply-adds from registers, one per instruction that matters to products; only those that
//!   the machine has.
//! - [`read`] adds up memory in eight streams, [`copy`] writes past the caches.
//!
//! They are no kernels: nothing that computes a result uses them. Unlike kernels they ask the processor themselves.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

/// A loop of one instruction.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The instruction and its width, for example `f32 fma avx512`.
    pub name: &'static str,
    /// Operations of a round; a multiply-add is two.
    pub ops: u64,
    /// Runs so many rounds; at least one.
    pub run: fn(rounds: u64),
}

/// The loops that this machine can run, from the weakest instruction to the strongest.
pub fn rates() -> impl Iterator<Item = Rate> {
    #[cfg(target_arch = "x86_64")]
    let all = x86::RATES.iter().filter(|(_, there)| there()).map(|(rate, _)| *rate);
    #[cfg(not(target_arch = "x86_64"))]
    let all = std::iter::empty();
    all
}

/// Adds up words in eight streams, as wide as the machine can load.
pub fn read(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512 F.
        return unsafe { x86::read_avx512(words) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { x86::read_avx2(words) };
    }
    streams(words)
}

/// Copies words with stores that leave the caches alone, where the machine has them.
///
/// # Panics
/// When the lengths differ.
pub fn copy(to: &mut [u64], from: &[u64]) {
    assert_eq!(to.len(), from.len(), "a copy has one length");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { x86::copy_avx2(to, from) };
    }
    to.copy_from_slice(from);
}

/// Words of a stream that are added up before the next stream has its turn.
const TURN: usize = 64;
const STREAMS: usize = 8;

/// The algorithm of [`read`], compiled for whatever its caller enables.
#[inline(always)]
fn streams(words: &[u64]) -> u64 {
    let part = words.len() / STREAMS / TURN * TURN;
    let mut sums = [0u64; TURN];
    for at in (0..part).step_by(TURN) {
        for stream in 0..STREAMS {
            let from = &words[stream * part + at..][..TURN];
            for (sum, word) in sums.iter_mut().zip(from) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    let rest = &words[STREAMS * part..];
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__cpuid_count, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256, _xgetbv};
    use std::sync::OnceLock;

    use super::{Rate, asm, streams};

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn read_avx2(words: &[u64]) -> u64 {
        streams(words)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn read_avx512(words: &[u64]) -> u64 {
        streams(words)
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy_avx2(to: &mut [u64], from: &[u64]) {
        // SAFETY: any words are words of a vector.
        let (head, body, tail) = unsafe { to.align_to_mut::<std::arch::x86_64::__m256i>() };
        let (start, end) = (head.len(), head.len() + 4 * body.len());
        head.copy_from_slice(&from[..start]);
        tail.copy_from_slice(&from[end..]);
        for (to, from) in body.iter_mut().zip(from[start..end].chunks_exact(4)) {
            // SAFETY: four words are read, and written to an aligned vector.
            unsafe { _mm256_stream_si256(to, _mm256_loadu_si256(from.as_ptr().cast())) };
        }
        _mm_sfence();
    }

    type Has = fn() -> bool;

    pub(super) const RATES: &[(Rate, Has)] = &[
        (Rate { name: "f32 fma avx2", ops: 12 * 16, run: fma_f32_avx2 }, || {
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
        }),
        (Rate { name: "i16 vpmaddwd avx2", ops: 12 * 32, run: maddwd_avx2 }, || is_x86_feature_detected!("avx2")),
        (Rate { name: "f32 fma avx512", ops: 12 * 32, run: fma_f32_avx512 }, || is_x86_feature_detected!("avx512f")),
        (Rate { name: "f16 fma avx512", ops: 12 * 64, run: fma_f16_avx512 }, || is_x86_feature_detected!("avx512fp16")),
        (Rate { name: "bf16 vdpbf16ps avx512", ops: 12 * 64, run: dot_bf16_avx512 }, || {
            is_x86_feature_detected!("avx512bf16")
        }),
        (Rate { name: "i8 vpdpbusd avx512", ops: 12 * 128, run: dot_i8_avx512 }, || {
            is_x86_feature_detected!("avx512vnni")
        }),
        (Rate { name: "bf16 amx, registers", ops: 4 * 16384, run: tiles_bf16 }, || amx().bf16),
        (Rate { name: "bf16 amx, 2x2 tiles from L1", ops: 16 * 16384, run: tiles_bf16_l1 }, || amx().bf16),
        (Rate { name: "i8 amx, registers", ops: 4 * 32768, run: tiles_i8 }, || amx().int8),
        (Rate { name: "i8 amx, 2x2 tiles from L1", ops: 16 * 32768, run: tiles_i8_l1 }, || amx().int8),
    ];

    /// A loop of twelve independent accumulators, which covers the latency of two ports.
    macro_rules! chain {
        ($name:ident, $feature:literal, $bits:literal, $instruction:literal, $zero:literal, $($acc:literal)+) => {
            fn $name(rounds: u64) {
                #[target_feature(enable = $feature)]
                unsafe fn inner(rounds: u64) {
                    // Small numbers of every type: no infinity and no subnormal arises.
                    let factor = [0x2c00_2c00u32; 16];
                    // SAFETY: the loop touches the registers that it names, and reads the factors.
                    unsafe {
                        asm!(
                            concat!("vmovups ", $bits, "14, [{factor}]"),
                            concat!("vmovups ", $bits, "15, [{factor}]"),
                            $(concat!($zero, " ", $bits, $acc, ", ", $bits, $acc, ", ", $bits, $acc),)+
                            "2:",
                            $(concat!($instruction, " ", $bits, $acc, ", ", $bits, "14, ", $bits, "15"),)+
                            "dec {rounds}",
                            "jnz 2b",
                            rounds = inout(reg) rounds => _,
                            factor = in(reg) factor.as_ptr(),
                            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                            out("xmm11") _, out("xmm14") _, out("xmm15") _,
                            options(nostack, readonly)
                        );
                    }
                }
                // SAFETY: the table hands this out where the processor has the instruction.
                unsafe { inner(rounds.max(1)) }
            }
        };
    }

    chain!(fma_f32_avx2, "avx2,fma", "ymm", "vfmadd231ps", "vpxor", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
    chain!(fma_f32_avx512, "avx512f", "zmm", "vfmadd231ps", "vpxord", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
    chain!(fma_f16_avx512, "avx512f", "zmm", "vfmadd231ph", "vpxord", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
    chain!(dot_bf16_avx512, "avx512f", "zmm", "vdpbf16ps", "vpxord", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
    chain!(dot_i8_avx512, "avx512f", "zmm", "vpdpbusd", "vpxord", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
    chain!(maddwd_avx2, "avx2", "ymm", "vpmaddwd", "vpxor", "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");

    /// What the processor has of AMX, and the system lets this process use.
    #[derive(Clone, Copy)]
    struct Amx {
        bf16: bool,
        int8: bool,
    }

    fn amx() -> Amx {
        static FOUND: OnceLock<Amx> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let leaf = __cpuid_count(7, 0).edx;
            let has = |bit: u32| leaf >> bit & 1 == 1;
            let usable = has(24) && is_x86_feature_detected!("xsave") && tiles_are_saved() && permission();
            Amx { bf16: usable && has(22), int8: usable && has(25) }
        })
    }

    /// Whether the system keeps tiles (bits 17 and 18 of XCR0).
    fn tiles_are_saved() -> bool {
        #[target_feature(enable = "xsave")]
        unsafe fn enabled() -> u64 {
            // SAFETY: the system enables what reads this register wherever it enables xsave.
            unsafe { _xgetbv(0) }
        }
        // OSXSAVE says that the register can be read.
        let os = __cpuid_count(1, 0).ecx >> 27 & 1 == 1;
        // SAFETY: the caller has found xsave, and the system has enabled it.
        os && unsafe { enabled() } >> 17 & 3 == 3
    }

    /// Asks Linux for tiles: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
    #[cfg(target_os = "linux")]
    fn permission() -> bool {
        let mut result: i64 = 158;
        // SAFETY: a system call that changes nothing but what this process may use.
        unsafe {
            asm!("syscall", inout("rax") result, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _,
                 options(nostack));
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn permission() -> bool {
        false
    }

    /// Eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct TileConfig([u8; 64]);

    const TILES: TileConfig = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        TileConfig(bytes)
    };

    /// Sixteen tiles of small numbers: what a block of K in the first-level cache holds.
    #[repr(C, align(64))]
    struct TileData([u32; 16 * 256]);

    /// Four accumulators of products of tiles that stay in their registers.
    macro_rules! tiles {
        ($name:ident, $instruction:literal) => {
            fn $name(rounds: u64) {
                let data = TileData([0x2c00_2c00; 16 * 256]);
                // SAFETY: the table hands this out where tiles may be used; the loop touches tiles alone and reads the data.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "tileloadd tmm4, [{data} + {stride}]", "tileloadd tmm5, [{data} + {stride}]",
                        "tileloadd tmm6, [{data} + {stride}]", "tileloadd tmm7, [{data} + {stride}]",
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "dec {rounds}",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) TILES.0.as_ptr(),
                        data = in(reg) data.0.as_ptr(),
                        stride = in(reg) 64usize,
                        rounds = inout(reg) rounds.max(1) => _,
                        options(nostack)
                    );
                }
            }
        };
    }

    /// As [`tiles!`], with both factors loaded: four steps of K, each of two tiles by two.
    macro_rules! tiles_l1 {
        ($name:ident, $instruction:literal) => {
            fn $name(rounds: u64) {
                let data = TileData([0x2c00_2c00; 16 * 256]);
                // SAFETY: as above; four steps of four tiles of 1024 bytes are read.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "2:",
                        "mov {at}, {data}",
                        "mov {step:e}, 4",
                        "3:",
                        "tileloadd tmm4, [{at} + {stride}]",
                        "tileloadd tmm6, [{at} + {stride} + 1024]",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{at} + {stride} + 2048]",
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{at} + {stride} + 3072]",
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "add {at}, 4096",
                        "dec {step:e}",
                        "jnz 3b",
                        "dec {rounds}",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) TILES.0.as_ptr(),
                        data = in(reg) data.0.as_ptr(),
                        stride = in(reg) 64usize,
                        at = out(reg) _,
                        step = out(reg) _,
                        rounds = inout(reg) rounds.max(1) => _,
                        options(nostack)
                    );
                }
            }
        };
    }

    tiles!(tiles_bf16, "tdpbf16ps");
    tiles!(tiles_i8, "tdpbssd");
    tiles_l1!(tiles_bf16_l1, "tdpbf16ps");
    tiles_l1!(tiles_i8_l1, "tdpbssd");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once_whatever_the_length() {
        let words: Vec<u64> = (0..5000).map(|i| i * i + 1).collect();
        for len in [0, 1, 63, 64, 511, 512, 513, 4999] {
            let sum = words[..len].iter().sum::<u64>();
            assert_eq!((read(&words[..len]), streams(&words[..len])), (sum, sum), "{len} words");
        }
    }

    #[test]
    fn a_copy_has_every_word_at_any_alignment() {
        let from: Vec<u64> = (1..100).collect();
        for start in 0..5 {
            let mut to = vec![0; 99];
            copy(&mut to[start..90], &from[start..90]);
            assert!((0..99).all(|i| to[i] == if (start..90).contains(&i) { from[i] } else { 0 }), "from {start}");
        }
    }

    #[test]
    fn loops_of_this_machine_run_to_their_end_and_have_names_of_their_own() {
        let all: Vec<Rate> = rates().collect();
        for (i, rate) in all.iter().enumerate() {
            assert!(rate.ops > 0 && all[..i].iter().all(|r| r.name != rate.name), "{}", rate.name);
            [0, 1, 1000].into_iter().for_each(rate.run);
        }
    }
}
