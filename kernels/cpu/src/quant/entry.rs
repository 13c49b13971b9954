//! From the shared algorithms to the entry points of a tier: the list of kernels for quantised weights.

/// The kernels of a tier that multiply integers in one way: a module with `KERNELS`, one for every row of the list, those of
/// floats included. They decode as the tier's `quant_decoders` do. `nv` is the vectors in a panel, `mr` the most rows that are multiplied together, `pairs` whether panels go two at a time.
macro_rules! quant_kernels {
    ($module:ident, $token:ty, [$($f:tt)*], $nv:literal, $digits:expr, $mr:literal, $pairs:literal,
        $how:literal) => {
        crate::quant::quant_kernels!(@rows $module, $token, [$($f)*], $nv, $digits, $mr, $pairs, $how,
            q4 Four<false> NONE, q4_min Four<false> MIN, q4_zero Four<false> ZERO, t4 Four<true> NONE,
            t4_zero Four<true> ZERO, q5 Five NONE, q5_min Five MIN, q6 Six NONE, q2_min Two MIN, q3 Three NONE,
            q8 Eight NONE, q8_zero Eight ZERO);
    };
    (@rows $module:ident, $token:ty, $f:tt, $nv:literal, $digits:expr, $mr:literal, $pairs:literal, $how:literal,
        $($name:ident $code:ident $(<$table:literal>)? $mode:ident),+) => {
        /// The products and decoders of quantised weights.
        mod $module {
            use super::*;
            $(mod $name {
                use super::*;
                crate::entry::entry_point!($token, $f,
                    dot(y: &mut [f32], stride: usize, rows: &crate::quant::IntegerRows<'_>,
                        blocks: &[crate::quant::QuantBlock<'_>]),
                    |s| crate::quant::dot::<_, _, crate::quant::$code $(<$table>)?, $nv, $mr, $pairs,
                        { crate::quant::$mode }>(s, $digits, y, stride, rows, blocks));
                pub(super) const KERNEL: crate::quant::QuantKernel = crate::quant::QuantKernel {
                    name: concat!("gemv_", stringify!($name), ".", $how),
                    heights: crate::quant::heights($mr),
                    dot: crate::quant::QuantDot::Integers(dot),
                    decode: quant_decoders::$name::DECODE,
                };
            })+

            /// One for every row of the list.
            pub(super) const KERNELS: &[crate::quant::QuantKernel] =
                &[$($name::KERNEL,)+ super::f8_e4m3::KERNEL, super::f8_e5m2::KERNEL];
        }
    };
}

/// A module `quant_decoders` with the decoders of a tier, one for every row of the list.
macro_rules! quant_decoders {
    ($token:ty, [$($f:tt)*], $nv:literal) => {
        crate::quant::quant_decoders!(@rows $token, [$($f)*], $nv,
            q4 Four<false> NONE, q4_min Four<false> MIN, q4_zero Four<false> ZERO, t4 Four<true> NONE,
            t4_zero Four<true> ZERO, q5 Five NONE, q5_min Five MIN, q6 Six NONE, q2_min Two MIN, q3 Three NONE,
            q8 Eight NONE, q8_zero Eight ZERO);
    };
    (@rows $token:ty, $f:tt, $nv:literal, $($name:ident $code:ident $(<$table:literal>)? $mode:ident),+) => {
        /// The decoders of quantised weights.
        mod quant_decoders {
            use super::*;
            $(pub(super) mod $name {
                use super::*;
                crate::entry::entry_point!($token, $f,
                    decode(out: &mut [f32], block: &crate::quant::QuantBlock<'_>),
                    |s| crate::quant::decode::<_, crate::quant::$code $(<$table>)?, $nv,
                        { crate::quant::$mode }>(s, out, block));
                pub(crate) const DECODE: crate::quant::QuantDecode = decode;
            })+
        }
    };
}

/// The entry points of a tier that do not depend on how it multiplies integers: scales, and the kernels of floats.
macro_rules! quant_entry_points {
    ($token:ty, [$($f:tt)*], $nv:literal, $mr:literal, $how:literal) => {
        crate::entry::entry_point!($token, [$($f)*],
            quant_scales(scales: &mut [f32], offsets: &mut [f32], format: crate::quant::QuantFormat, panel: &[u8],
                k: usize, first: usize, chunks: usize),
            |s| crate::quant::expand(s, scales, offsets, format, panel, k, first..first + chunks));
        crate::quant::quant_entry_points!(@rows $token, [$($f)*], $nv, $mr, $how, f8_e4m3 E4m3, f8_e5m2 E5m2);
    };
    (@rows $token:ty, $f:tt, $nv:literal, $mr:literal, $how:literal, $($name:ident $code:ident),+) => {
        $(
            /// The products of floats with fp8.
            mod $name {
                use super::*;
                crate::entry::entry_point!($token, $f,
                    dot(y: &mut [f32], stride: usize, rows: &crate::quant::FloatRows<'_>,
                        block: &crate::quant::QuantBlock<'_>),
                    |s| crate::quant::float_dot::<_, crate::quant::$code, $nv, $mr>(s, y, stride, rows, block));
                crate::entry::entry_point!($token, $f,
                    decode(out: &mut [f32], block: &crate::quant::QuantBlock<'_>),
                    |s| crate::quant::float_decode::<_, crate::quant::$code, $nv>(s, out, block));
                pub(super) const KERNEL: crate::quant::QuantKernel = crate::quant::QuantKernel {
                    name: concat!("gemv_", stringify!($name), ".", $how),
                    heights: crate::quant::heights($mr),
                    dot: crate::quant::QuantDot::Floats(dot),
                    decode,
                };
            }
        )+
    };
}

pub(crate) use {quant_decoders, quant_entry_points, quant_kernels};
