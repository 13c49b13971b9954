//! What the tests of the kernels share: seeded inputs, guarded outputs, bounds and the tiers to walk.

#![allow(dead_code)] // Each test file uses its part.

use half::{bf16, f16};
use qiao_kernels_cpu::{Element, Features, Isa, Kernels, detect, kernels, kernels_unchecked};

/// Unit roundoff of f32.
pub(crate) const U: f64 = 1.0 / 16_777_216.0;

/// Every table that this machine can use: each tier, and that of AVX-512 without its extras. Tiles are emulated on a
/// machine that has all else that their tier needs.
pub(crate) fn tables() -> Vec<Kernels> {
    let machine = detect();
    let plain =
        Features { avx512_bf16: false, avx512_vnni: false, avx512_vbmi: false, bf16_dot_is_fast: false, ..machine };
    // Where the instruction exists it is tested, fast or not.
    let full = Features { bf16_dot_is_fast: machine.avx512_bf16, ..machine };
    let mut tables = Vec::new();
    for isa in Isa::ALL.into_iter().filter(|isa| *isa <= machine.isa) {
        tables.push(kernels(isa, &full).unwrap());
        if isa == Isa::Avx512 {
            tables.push(kernels(isa, &plain).unwrap());
        }
    }
    if machine.isa == Isa::Avx512 && qiao_simamx::install().is_some() {
        // SAFETY: the machine has all tiers below, and every thread of this process meets tiles in the trap.
        tables.push(unsafe { kernels_unchecked(Isa::Amx, &Features { isa: Isa::Amx, ..full }) }.unwrap());
    }
    tables
}

/// Those of [`tables`] with activations of 16 bits, and with activations of 8.
pub(crate) fn integer_tables() -> Vec<Kernels> {
    tables().into_iter().flat_map(|k| [k, k.with_bytes()]).collect()
}

/// A seeded stream of numbers (xorshift*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in -1 .. 1.
    pub(crate) fn signed(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / 16_777_216.0) * 2.0 - 1.0
    }

    pub(crate) fn row(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.signed()).collect()
    }

    pub(crate) fn row_i8(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| (self.bits() >> 33) as i8).collect()
    }

    pub(crate) fn row_of<T: Number>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f32(self.signed())).collect()
    }
}

/// The three dtypes, with their values.
pub(crate) trait Number: Element + std::fmt::Debug {
    fn from_f32(x: f32) -> Self;
    fn to_f64(self) -> f64;
}

impl Number for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Number for f16 {
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Number for bf16 {
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

/// An output with a guard of known elements on both sides, poisoned within.
pub(crate) struct Guarded<T> {
    all: Vec<T>,
    guard: T,
    len: usize,
}

const GUARD: usize = 67;

impl<T: Copy + PartialEq + std::fmt::Debug> Guarded<T> {
    pub(crate) fn new(len: usize, poison: T, guard: T) -> Self {
        let mut all = vec![guard; len + 2 * GUARD];
        all[GUARD..GUARD + len].fill(poison);
        Guarded { all, guard, len }
    }

    pub(crate) fn inside(&mut self) -> &mut [T] {
        &mut self.all[GUARD..GUARD + self.len]
    }

    /// The output, after looking at the guards.
    pub(crate) fn checked(&self) -> &[T] {
        let (front, rest) = self.all.split_at(GUARD);
        let (inside, back) = rest.split_at(self.len);
        assert!(front.iter().chain(back).all(|x| *x == self.guard), "a guard was overwritten");
        inside
    }
}

/// A guarded f32 output, poisoned with NaN.
pub(crate) fn output(len: usize) -> Guarded<f32> {
    Guarded::new(len, f32::NAN, -12345.5)
}

/// Holds a result to a truth within an absolute limit.
pub(crate) fn assert_close(what: &str, got: f32, truth: f64, limit: f64) {
    let error = (f64::from(got) - truth).abs();
    assert!(error <= limit, "{what}: got {got}, truth {truth}, error {error:e}, limit {limit:e}");
}

/// Units in the last place of f32 between a result and a truth; equal NaN and infinities are 0.
pub(crate) fn ulps(got: f32, truth: f64) -> f64 {
    let rounded = truth as f32;
    if got.is_nan() || rounded.is_nan() || got.is_infinite() || rounded.is_infinite() {
        let same = (got.is_nan() && rounded.is_nan()) || got == rounded;
        return if same { 0.0 } else { f64::INFINITY };
    }
    let magnitude = rounded.abs().max(f32::MIN_POSITIVE);
    let ulp = f64::from(f32::from_bits(magnitude.to_bits() + 1)) - f64::from(magnitude);
    (f64::from(got) - truth).abs() / ulp
}
