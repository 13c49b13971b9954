//! Tiles: their shapes, and products of a few of them kept in registers over K.

use std::arch::asm;

/// Bytes of a tile with 16 rows of 64.
pub(super) const TILE: usize = 1024;

/// The shapes of tiles, as `ldtilecfg` reads them: palette 1, 16-bit bytes per row from byte 16 on, rows from byte 48 on.
#[repr(C, align(64))]
pub(super) struct Shapes([u8; 64]);

impl Shapes {
    /// For sums of `height` rows, 1 to 32, by `width` columns of 32 bits, 1 to 16 in each panel.
    ///
    /// | height | sums | activations | weights |
    /// |---|---|---|---|
    /// | up to 16 | 0 to 3, a panel each | 4 | 5 to 7 |
    /// | up to 32 | 0 and 1 of the first 16 rows, 2 and 3 of the rest, a panel each | 4 and 5 | 6 and 7 |
    pub(super) fn new(height: usize, width: usize) -> Self {
        let (first, rest) = (height.min(16), height.saturating_sub(16));
        let columns = 4 * width;
        let (sums, weights) = ((first, columns), (16, columns));
        Self::of(match rest {
            0 => [sums, sums, sums, sums, (first, 64), weights, weights, weights],
            _ => [sums, sums, (rest, columns), (rest, columns), (first, 64), (rest, 64), weights, weights],
        })
    }

    /// For sums in tiles 0 to 3 of 16 rows of digits, `inputs` each, in tiles 4 to 6, by a tile of codes in the last.
    pub(super) fn of_digits(inputs: usize) -> Self {
        let (sums, digits) = ((16, 64), (16, inputs));
        Self::of([sums, sums, sums, sums, digits, digits, digits, (inputs / 4, 64)])
    }

    /// Rows and bytes per row of each tile.
    fn of(tiles: [(usize, usize); 8]) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (i, (rows, width)) in tiles.into_iter().enumerate() {
            (bytes[16 + 2 * i], bytes[48 + i]) = (width as u8, rows as u8);
        }
        Shapes(bytes)
    }

    /// Gives the tiles these shapes, and zeros.
    ///
    /// # Safety
    /// The processor has AMX-TILE.
    #[inline(always)]
    pub(super) unsafe fn set(&self) {
        // SAFETY: the instruction reads the 64 bytes; every tile that it clears is named.
        unsafe {
            asm!(
                "ldtilecfg [{0}]", in(reg) self,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

/// Gives the tiles back.
///
/// # Safety
/// The processor has AMX-TILE.
#[inline(always)]
pub(super) unsafe fn release() {
    // SAFETY: the instruction has no operands; every tile that it clears is named.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, nomem),
        );
    }
}

/// Operands of a product of a few tiles.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// Rows of activations for the first step: 64 bytes each, without gaps.
    pub(super) a: *const u8,
    /// Bytes from a step to the next.
    pub(super) a_step: usize,
    /// Tiles of weights for the first panel, a step behind the other.
    pub(super) w: *const u8,
    /// Bytes from a panel to the next.
    pub(super) w_stride: usize,
    /// Steps of K.
    pub(super) steps: usize,
    /// One step more from here, or null: activations, then weights, as [`Tail`] has them.
    pub(super) tail: *const Tail,
    /// The sums, 32 bits each.
    pub(super) c: *mut u8,
    /// Bytes from a row of sums to the next.
    pub(super) ldc: usize,
    /// Whether the products join what C holds.
    pub(super) accumulate: bool,
}

/// What K has beyond whole tiles, filled up with zeros: 32 rows of activations and a tile of weights for each of four
/// panels.
#[repr(C, align(64))]
pub(super) struct Tail {
    pub(super) a: [[u8; 64]; 32],
    pub(super) w: [[u8; TILE]; 4],
}

impl Tail {
    pub(super) const ZERO: Tail = Tail { a: [[0; 64]; 32], w: [[0; TILE]; 4] };
}

/// An instruction that multiplies tiles, and the products of a few tiles that are made of it.
///
/// # Safety
/// Of each function: the processor has the instruction, the tiles have the [`Shapes`] that it names, and the operands are
/// readable and writable as far as these shapes reach.
pub(super) trait Multiply {
    /// Up to 32 rows, more than 16, by two panels.
    unsafe fn two_by_two(run: &Run);
    /// Up to 32 rows, more than 16, by one panel.
    unsafe fn two_by_one(run: &Run);
    /// Up to 16 rows by four panels.
    unsafe fn one_by_four(run: &Run);
    /// Up to 16 rows by one panel.
    unsafe fn one_by_one(run: &Run);
}

/// Loads or clears sums, walks the steps, then those behind them, and stores the sums.
///
/// `clear`, `load`, `store`: the instructions of each tile of sums. `step`: a step's loads and products, and the moves of
/// the pointers to weights. `tail`: where the pointers to weights go for the last step.
macro_rules! walk {
    (
        $run:ident, sums: [$($load:literal, $clear:literal, $store:literal;)+],
        step: [$($step:expr),+ $(,)?], tail: [$($tail:literal),+], operands: { $($operand:tt)* }
    ) => {
        asm!(
            "test {accumulate}, {accumulate}",
            "jz 2f",
            $($load,)+
            "jmp 3f",
            "2:",
            $($clear,)+
            "3:",
            "test {steps}, {steps}",
            "jz 5f",
            "4:",
            $($step,)+
            "add {a}, {a_step}",
            "dec {steps}",
            "jnz 4b",
            "5:",
            "test {tail}, {tail}",
            "jz 6f",
            "mov {a}, {tail}",
            $($tail,)+
            "xor {tail:e}, {tail:e}",
            "inc {steps}",
            "jmp 4b",
            "6:",
            $($store,)+
            accumulate = in(reg) usize::from($run.accumulate),
            steps = inout(reg) $run.steps => _,
            tail = inout(reg) $run.tail => _,
            a = inout(reg) $run.a => _,
            a_step = in(reg) $run.a_step,
            row = in(reg) 64usize,
            c = in(reg) $run.c,
            ldc = in(reg) $run.ldc,
            $($operand)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

macro_rules! multiply {
    ($(#[$doc:meta])* $name:ident, $op:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Multiply for $name {
            #[inline(always)]
            unsafe fn two_by_two(run: &Run) {
                // SAFETY: as the caller vouches; all that is written is named.
                unsafe {
                    walk!(
                        run,
                        sums: [
                            "tileloadd tmm0, [{c} + {ldc}*1]", "tilezero tmm0", "tilestored [{c} + {ldc}*1], tmm0";
                            "tileloadd tmm1, [{c} + {ldc}*1 + 64]", "tilezero tmm1", "tilestored [{c} + {ldc}*1 + 64], tmm1";
                            "tileloadd tmm2, [{c2} + {ldc}*1]", "tilezero tmm2", "tilestored [{c2} + {ldc}*1], tmm2";
                            "tileloadd tmm3, [{c2} + {ldc}*1 + 64]", "tilezero tmm3", "tilestored [{c2} + {ldc}*1 + 64], tmm3";
                        ],
                        step: [
                            "tileloadd tmm4, [{a} + {row}*1]",
                            "tileloadd tmm6, [{w0} + {row}*1]",
                            concat!($op, " tmm0, tmm4, tmm6"),
                            "tileloadd tmm7, [{w1} + {row}*1]",
                            concat!($op, " tmm1, tmm4, tmm7"),
                            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                            concat!($op, " tmm2, tmm5, tmm6"),
                            concat!($op, " tmm3, tmm5, tmm7"),
                            "add {w0}, 1024",
                            "add {w1}, 1024",
                        ],
                        tail: ["lea {w0}, [{tail} + 2048]", "lea {w1}, [{tail} + 3072]"],
                        operands: {
                            w0 = inout(reg) run.w => _,
                            w1 = inout(reg) run.w.wrapping_add(run.w_stride) => _,
                            c2 = in(reg) run.c.wrapping_add(16 * run.ldc),
                        }
                    );
                }
            }

            #[inline(always)]
            unsafe fn two_by_one(run: &Run) {
                // SAFETY: as the caller vouches; all that is written is named.
                unsafe {
                    walk!(
                        run,
                        sums: [
                            "tileloadd tmm0, [{c} + {ldc}*1]", "tilezero tmm0", "tilestored [{c} + {ldc}*1], tmm0";
                            "tileloadd tmm2, [{c2} + {ldc}*1]", "tilezero tmm2", "tilestored [{c2} + {ldc}*1], tmm2";
                        ],
                        step: [
                            "tileloadd tmm4, [{a} + {row}*1]",
                            "tileloadd tmm6, [{w0} + {row}*1]",
                            concat!($op, " tmm0, tmm4, tmm6"),
                            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                            concat!($op, " tmm2, tmm5, tmm6"),
                            "add {w0}, 1024",
                        ],
                        tail: ["lea {w0}, [{tail} + 2048]"],
                        operands: {
                            w0 = inout(reg) run.w => _,
                            c2 = in(reg) run.c.wrapping_add(16 * run.ldc),
                        }
                    );
                }
            }

            #[inline(always)]
            unsafe fn one_by_four(run: &Run) {
                let w = run.w;
                // SAFETY: as the caller vouches; all that is written is named.
                unsafe {
                    walk!(
                        run,
                        sums: [
                            "tileloadd tmm0, [{c} + {ldc}*1]", "tilezero tmm0", "tilestored [{c} + {ldc}*1], tmm0";
                            "tileloadd tmm1, [{c} + {ldc}*1 + 64]", "tilezero tmm1", "tilestored [{c} + {ldc}*1 + 64], tmm1";
                            "tileloadd tmm2, [{c} + {ldc}*1 + 128]", "tilezero tmm2", "tilestored [{c} + {ldc}*1 + 128], tmm2";
                            "tileloadd tmm3, [{c} + {ldc}*1 + 192]", "tilezero tmm3", "tilestored [{c} + {ldc}*1 + 192], tmm3";
                        ],
                        step: [
                            "tileloadd tmm4, [{a} + {row}*1]",
                            "tileloadd tmm5, [{w0} + {row}*1]",
                            concat!($op, " tmm0, tmm4, tmm5"),
                            "tileloadd tmm6, [{w1} + {row}*1]",
                            concat!($op, " tmm1, tmm4, tmm6"),
                            "tileloadd tmm7, [{w2} + {row}*1]",
                            concat!($op, " tmm2, tmm4, tmm7"),
                            "tileloadd tmm5, [{w3} + {row}*1]",
                            concat!($op, " tmm3, tmm4, tmm5"),
                            "add {w0}, 1024",
                            "add {w1}, 1024",
                            "add {w2}, 1024",
                            "add {w3}, 1024",
                        ],
                        tail: [
                            "lea {w0}, [{tail} + 2048]", "lea {w1}, [{tail} + 3072]",
                            "lea {w2}, [{tail} + 4096]", "lea {w3}, [{tail} + 5120]"
                        ],
                        operands: {
                            w0 = inout(reg) w => _,
                            w1 = inout(reg) w.wrapping_add(run.w_stride) => _,
                            w2 = inout(reg) w.wrapping_add(2 * run.w_stride) => _,
                            w3 = inout(reg) w.wrapping_add(3 * run.w_stride) => _,
                        }
                    );
                }
            }

            #[inline(always)]
            unsafe fn one_by_one(run: &Run) {
                // SAFETY: as the caller vouches; all that is written is named.
                unsafe {
                    walk!(
                        run,
                        sums: [
                            "tileloadd tmm0, [{c} + {ldc}*1]", "tilezero tmm0", "tilestored [{c} + {ldc}*1], tmm0";
                        ],
                        step: [
                            "tileloadd tmm4, [{a} + {row}*1]",
                            "tileloadd tmm6, [{w0} + {row}*1]",
                            concat!($op, " tmm0, tmm4, tmm6"),
                            "add {w0}, 1024",
                        ],
                        tail: ["lea {w0}, [{tail} + 2048]"],
                        operands: { w0 = inout(reg) run.w => _, }
                    );
                }
            }
        }
    };
}

multiply! {
    /// Pairs of bf16, sums in f32.
    Bf16, "tdpbf16ps"
}

multiply! {
    /// Fours of signed bytes, sums in i32.
    SignedBytes, "tdpbssd"
}
