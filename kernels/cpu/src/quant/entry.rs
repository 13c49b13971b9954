//! From the shared algorithms to the entry points of a tier: the list of kernels for quantised weights.

/// The entry points of a tier and its kernels, one for every row of the list; `nv` is the vectors in a panel, `mr` the
/// most rows that are multiplied together.
macro_rules! quant_entry_points {
    ($token:ty, [$($f:tt)*], $nv:literal, $mr:literal, $how:literal) => {
        crate::entry::entry_point!($token, [$($f)*],
            quant_scales(scales: &mut [f32], offsets: &mut [f32], format: crate::quant::QuantFormat, panel: &[u8],
                k: usize, first: usize, chunks: usize),
            |s| crate::quant::expand(s, scales, offsets, format, panel, k, first..first + chunks));
        crate::quant::quant_entry_points!(@rows $token, [$($f)*], $nv, $mr, $how,
            q4 Bits<4, 0> false NONE, q4_min Bits<4, 0> false MIN, q4_zero Bits<4, 0> false ZERO,
            q5 Bits<4, 1> false NONE, q5_min Bits<4, 1> false MIN, q6 Bits<4, 2> true NONE,
            q2_min Bits<2, 0> true MIN, q3 Bits<2, 1> true NONE,
            i8 Int8 false NONE, i8_zero Int8 false ZERO, u8 Uint8 false NONE, u8_zero Uint8 false ZERO,
            f8_e4m3 E4m3 false NONE, f8_e5m2 E5m2 false NONE);
    };
    (@rows $token:ty, $f:tt, $nv:literal, $mr:literal, $how:literal,
        $($name:ident $code:ident $(<$l:literal, $h:literal>)? $halves:literal $mode:ident),+) => {
        /// The products and decoders of quantised weights.
        mod quant_rows {
            use super::*;
            $(pub(super) mod $name {
                use super::*;
                crate::entry::entry_point!($token, $f,
                    dot(y: &mut [f32], stride: usize, rows: &crate::quant::QuantRows<'_>,
                        block: &crate::quant::QuantBlock<'_>),
                    |s| crate::quant::dot::<_, crate::quant::$code $(<$l, $h>)?, $nv, $mr, $halves,
                        { crate::quant::$mode }>(s, y, stride, rows, block));
                crate::entry::entry_point!($token, $f,
                    decode(out: &mut [f32], block: &crate::quant::QuantBlock<'_>),
                    |s| crate::quant::decode::<_, crate::quant::$code $(<$l, $h>)?, $nv, $halves,
                        { crate::quant::$mode }>(s, out, block));
                pub(in super::super) const KERNEL: crate::quant::QuantKernel = crate::quant::QuantKernel {
                    name: concat!("gemv_", stringify!($name), ".", $how),
                    dot,
                    decode,
                };
            })+
        }

        /// One for every row of the list.
        const QUANT_KERNELS: &[crate::quant::QuantKernel] = &[$(quant_rows::$name::KERNEL),+];
    };
}

pub(crate) use quant_entry_points;
