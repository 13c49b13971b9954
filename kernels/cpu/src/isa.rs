//! What the processor can do: tiers, features and their detection.

use std::fmt;
use std::str::FromStr;

/// An instruction-set tier, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust, on every machine.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, on top of [`Isa::Avx2`].
    Avx512,
    /// AMX tiles of bf16 and of bytes, on top of [`Isa::Avx512`].
    Amx,
}

impl Isa {
    /// Every tier, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The word used in kernel names and in `QIAO_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Self, IsaError> {
        Isa::ALL.into_iter().find(|isa| isa.name() == text).ok_or_else(|| IsaError::Unknown(text.to_owned()))
    }
}

/// Why a tier cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// The word names no tier.
    Unknown(String),
    /// The machine, or the features passed in, lack the tier.
    Missing {
        /// The tier that was asked for.
        asked: Isa,
        /// The best tier there is.
        best: Isa,
    },
    /// The features passed in claim something that this machine lacks.
    Claimed(&'static str),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsaError::Unknown(word) => {
                write!(f, "{word:?} names no instruction-set tier: use scalar, avx2, avx512 or amx")
            }
            IsaError::Missing { asked, best } => {
                write!(f, "tier {asked} was asked for, but the best tier here is {best}: use {best} or lower")
            }
            IsaError::Claimed(feature) => {
                write!(f, "the features claim {feature}, which this machine lacks: pass what detect() returns, or less")
            }
        }
    }
}

impl std::error::Error for IsaError {}

/// What the kernels may use. A caller may switch features off, never on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The best tier.
    pub isa: Isa,
    /// `vdpbf16ps` exists.
    pub avx512_bf16: bool,
    /// `vpdpbusd` exists.
    pub avx512_vnni: bool,
    /// `vpermi2b` exists.
    pub avx512_vbmi: bool,
    /// `vdpbf16ps` beats f32 FMA: true on AMD; on Sapphire Rapids it is the slower of the two.
    /// Only a choice, not an ability: it may be set wherever [`avx512_bf16`](Self::avx512_bf16) is.
    pub bf16_dot_is_fast: bool,
}

impl Features {
    /// The features of a machine with none.
    pub const NONE: Features = Features {
        isa: Isa::Scalar,
        avx512_bf16: false,
        avx512_vnni: false,
        avx512_vbmi: false,
        bf16_dot_is_fast: false,
    };

    /// Checks that everything claimed here is present in `machine`.
    pub(crate) fn within(&self, machine: &Features) -> Result<(), IsaError> {
        if self.isa > machine.isa {
            return Err(IsaError::Missing { asked: self.isa, best: machine.isa });
        }
        if self.avx512_bf16 && !machine.avx512_bf16 {
            return Err(IsaError::Claimed("avx512_bf16"));
        }
        if self.avx512_vnni && !machine.avx512_vnni {
            return Err(IsaError::Claimed("avx512_vnni"));
        }
        if self.avx512_vbmi && !machine.avx512_vbmi {
            return Err(IsaError::Claimed("avx512_vbmi"));
        }
        Ok(())
    }
}

/// Asks the processor what it has.
#[cfg(target_arch = "x86_64")]
pub fn detect() -> Features {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let isa = match (avx2, avx512) {
        (_, true) if tiles() => Isa::Amx,
        (_, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        (false, false) => Isa::Scalar,
    };
    let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    Features {
        isa,
        avx512_bf16,
        avx512_vnni: avx512 && is_x86_feature_detected!("avx512vnni"),
        avx512_vbmi: avx512 && is_x86_feature_detected!("avx512vbmi"),
        bf16_dot_is_fast: avx512_bf16 && vendor_is_amd(),
    }
}

/// Asks the processor what it has: the portable tier only, on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn detect() -> Features {
    Features::NONE
}

/// Whether the processor has tiles of bf16 and of bytes, and the system lets this process use them, for which it is
/// asked once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles() -> bool {
    static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *GRANTED.get_or_init(|| has_tiles() && permission())
}

/// Other systems are not asked.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn tiles() -> bool {
    false
}

/// Leaf 7 of cpuid tells of AMX-BF16, AMX-TILE and AMX-INT8; XCR0 of the tiles' configuration and data, which the
/// system has to save.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// # Safety
    /// The system has enabled the instruction.
    #[target_feature(enable = "xsave")]
    unsafe fn saved() -> u64 {
        // SAFETY: as the caller vouches.
        unsafe { _xgetbv(0) }
    }

    const BOTH: u64 = 3 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx >> 27 & 1 == 0 {
        return false;
    }
    let leaf = __cpuid_count(7, 0).edx;
    // SAFETY: leaf 1 was just seen to say that the system enabled the instruction.
    [22, 24, 25].iter().all(|bit| leaf >> bit & 1 == 1) && unsafe { saved() } & BOTH == BOTH
}

/// Asks Linux for the tiles' data, which a process has to before it touches one:
/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn permission() -> bool {
    let (call, request, feature): (i64, i64, i64) = (158, 0x1023, 18);
    let answer: i64;
    // SAFETY: the call takes two numbers and touches no memory of this process; the system call instruction itself
    // changes rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") call => answer,
            in("rdi") request,
            in("rsi") feature,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Leaf 0 of cpuid spells the vendor in ebx, edx, ecx.
#[cfg(target_arch = "x86_64")]
fn vendor_is_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    let word = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    word == b"AuthenticAMD"
}
