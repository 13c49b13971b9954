//! From shared algorithms to the entry points of a tier.
//!
//! [`entry_points!`] is the one list of kernels that all tiers share. A tier calls it with its
//! token, its instructions and its tile sizes and gets `table(features)`. What a tier does in its
//! own way (int8, dot products of bf16) it names as functions.

/// One entry point: a plain function around one that enables the tier's instructions.
macro_rules! entry_point {
    (
        $token:ty, [$($feature:tt)*],
        $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, |$s:ident| $body:expr
    ) => {
        fn $name($($arg: $ty),*) $(-> $ret)? {
            $($feature)*
            unsafe fn inner($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's attribute enables what the token stands for.
                let $s = unsafe { <$token as crate::simd::Simd>::new() };
                $body
            }
            // SAFETY: the table is only handed out on machines that have the tier.
            unsafe { inner($($arg),*) }
        }
    };
}

/// An entry point whose caller vouches for what its arguments point at.
macro_rules! unsafe_entry_point {
    ($token:ty, [$($feature:tt)*], $name:ident($($arg:ident: $ty:ty),*), |$s:ident| $body:expr) => {
        $($feature)*
        unsafe fn $name($($arg: $ty),*) {
            // SAFETY: this function's attribute enables what the token stands for, and the table is
            // only handed out on machines that have the tier; the rest is the caller's word.
            unsafe {
                let $s = <$token as crate::simd::Simd>::new();
                $body
            }
        }
    };
}

/// A GEMM entry point, whose caller vouches for C.
macro_rules! gemm_entry_point {
    ($token:ty, [$($feature:tt)*], $name:ident, $w:ty, $mr:literal, $nv:literal, $n1:literal, $few:literal) => {
        $($feature)*
        unsafe fn $name(block: &crate::gemm::GemmBlock<'_, f32, $w, f32>) {
            // SAFETY: this function's attribute enables what the token stands for, and the table is
            // only handed out on machines that have the tier; C is the caller's word.
            unsafe {
                let s = <$token as crate::simd::Simd>::new();
                crate::gemm::block::<_, $w, $mr, $nv, $n1, $few>(s, block);
            }
        }
    };
}

/// All entry points of a tier, and its table.
///
/// `tile`: rows x columns of GEMM, and the vectors in those columns and in one panel. `few`: vectors of columns
/// that two rows take.
/// `gemv`: columns at once, and their vectors. `qk`: query rows x vectors of keys. `pv`: query rows x
/// vectors of a head. `digits`: rows of products with quantised weights.
macro_rules! entry_points {
    (
        token: $token:ty, isa: $isa:ident $how:literal, features: [$($f:tt)*],
        tile: $mr:literal x $nr:literal ($nv:literal, $n1:literal), few: $few:literal, gemv: $gnr:literal ($gnv:literal),
        qk: $qr:literal x $qk:literal, pv: $pr:literal x $pn:literal, digits: $dr:literal
    ) => {
        crate::entry::entry_point!($token, [$($f)*], f16_to_f32(out: &mut [f32], x: &[half::f16]),
            |s| crate::convert::widen(s, out, x));
        crate::entry::entry_point!($token, [$($f)*], bf16_to_f32(out: &mut [f32], x: &[half::bf16]),
            |s| crate::convert::widen(s, out, x));
        crate::entry::entry_point!($token, [$($f)*], f32_to_f16(out: &mut [half::f16], x: &[f32]),
            |s| crate::convert::to_f16(s, out, x));
        crate::entry::entry_point!($token, [$($f)*], f32_to_bf16(out: &mut [half::bf16], x: &[f32]),
            |s| crate::convert::to_bf16(s, out, x));

        crate::entry::entry_point!($token, [$($f)*],
            f32_to_e4m3(out: &mut [crate::attention::E4m3], x: &[f32], divisor: f32),
            |_s| crate::convert::to_fp8(out, x, divisor));
        crate::entry::entry_point!($token, [$($f)*],
            f32_to_e5m2(out: &mut [crate::attention::E5m2], x: &[f32], divisor: f32),
            |_s| crate::convert::to_fp8(out, x, divisor));

        crate::entry::entry_point!($token, [$($f)*],
            pack_a_f32(dst: &mut [f32], a: &[f32], lda: usize, m: usize, kc: usize),
            |s| crate::gemm::pack_a::<_, f32, $mr>(s, dst, a, lda, m, kc));
        crate::entry::entry_point!($token, [$($f)*],
            pack_a_f16(dst: &mut [f32], a: &[half::f16], lda: usize, m: usize, kc: usize),
            |s| crate::gemm::pack_a::<_, half::f16, $mr>(s, dst, a, lda, m, kc));
        crate::entry::entry_point!($token, [$($f)*],
            pack_a_bf16(dst: &mut [f32], a: &[half::bf16], lda: usize, m: usize, kc: usize),
            |s| crate::gemm::pack_a::<_, half::bf16, $mr>(s, dst, a, lda, m, kc));
        crate::entry::entry_point!($token, [$($f)*],
            pack_a_bf16_dot(dst: &mut [half::bf16], a: &[half::bf16], lda: usize, m: usize, kc: usize),
            |s| crate::gemm::pack_a_pairs::<_, $mr>(s, dst, a, lda, m, kc));
        crate::entry::gemm_entry_point!($token, [$($f)*], gemm_f32, f32, $mr, $nv, $n1, $few);
        crate::entry::gemm_entry_point!($token, [$($f)*], gemm_f16, half::f16, $mr, $nv, $n1, $few);
        crate::entry::gemm_entry_point!($token, [$($f)*], gemm_bf16, half::bf16, $mr, $nv, $n1, $few);
        crate::entry::entry_point!($token, [$($f)*],
            gemv_f32(y: &mut [f32], x: &[f32], w: &[f32], stride: usize, accumulate: bool),
            |s| crate::gemm::gemv::<_, f32, $gnv, $n1>(s, y, x, w, stride, accumulate));
        crate::entry::entry_point!($token, [$($f)*],
            gemv_f16(y: &mut [f32], x: &[f32], w: &[half::f16], stride: usize, accumulate: bool),
            |s| crate::gemm::gemv::<_, half::f16, $gnv, $n1>(s, y, x, w, stride, accumulate));
        crate::entry::entry_point!($token, [$($f)*],
            gemv_bf16(y: &mut [f32], x: &[f32], w: &[half::bf16], stride: usize, accumulate: bool),
            |s| crate::gemm::gemv::<_, half::bf16, $gnv, $n1>(s, y, x, w, stride, accumulate));

        crate::entry::entry_points!(@binary $token, [$($f)*], add sub mul div silu_mul);
        crate::entry::entry_points!(@unary $token, [$($f)*],
            silu Silu, gelu_erf GeluErf, gelu_tanh GeluTanh, relu Relu, sigmoid Sigmoid, tanh Tanh, exp Exp);
        crate::entry::entry_points!(@reduce $token, [$($f)*], sum sum_squares largest);
        crate::entry::entry_point!($token, [$($f)*], dot(a: &[f32], b: &[f32]) -> f32,
            |s| crate::rows::dot(s, a, b));
        crate::entry::entry_point!($token, [$($f)*], scale(x: &mut [f32], alpha: f32),
            |s| crate::rows::scale(s, x, alpha));
        crate::entry::entry_point!($token, [$($f)*], axpy(y: &mut [f32], alpha: f32, x: &[f32]),
            |s| crate::rows::axpy(s, y, alpha, x));
        crate::entry::entry_point!($token, [$($f)*],
            rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32], rotary_dim: usize),
            |s| crate::rows::rope_interleaved(s, x, cos, sin, rotary_dim));

        crate::entry::entry_points!(@rows $token, [$($f)*], $how,
            "f32" rows_f32 f32, "f16" rows_f16 half::f16, "bf16" rows_bf16 half::bf16);

        crate::entry::entry_points!(@attention $token, [$($f)*], $qr, $qk, $pr, $pn,
            pack_keys_f32 pv_f32 f32, pack_keys_f16 pv_f16 half::f16, pack_keys_bf16 pv_bf16 half::bf16,
            pack_keys_i8 pv_i8 i8, pack_keys_e4m3 pv_e4m3 crate::attention::E4m3,
            pack_keys_e5m2 pv_e5m2 crate::attention::E5m2);

        crate::quant::quant_entry_points!($token, [$($f)*], $n1, $mr, $how);
        crate::quant::quant_decoders!($token, [$($f)*], $n1);
        crate::quant::quant_kernels!(quant_pairs, $token, [$($f)*], $n1, crate::quant::Pairs, $dr, false, $how);
        crate::entry::entry_point!($token, [$($f)*],
            pack_pairs(to: &mut crate::quant::IntegerRowsMut<'_>, row: usize, format: crate::quant::QuantFormat,
                zeros: bool, x: &[f32]) -> bool,
            |_s| crate::quant::pack_pairs(to, row, format, zeros, x));
        crate::entry::entry_point!($token, [$($f)*],
            pack_byte_pairs(to: &mut crate::quant::IntegerRowsMut<'_>, row: usize, format: crate::quant::QuantFormat,
                zeros: bool, x: &[f32]) -> bool,
            |_s| crate::quant::pack_byte_pairs(to, row, format, zeros, x));

        /// The table of this tier.
        pub(crate) fn table(features: &crate::isa::Features) -> crate::table::Kernels {
            use crate::table::{Entry, Gemm};
            macro_rules! entry {
                ($what:literal, $run:ident) => {
                    Entry { name: concat!($what, ".", $how), run: $run }
                };
            }
            macro_rules! gemm {
                ($what:literal, $run:ident) => {
                    Gemm {
                        name: concat!($what, "_", $mr, "x", $nr, ".", $how),
                        mr: $mr,
                        nr: $nr,
                        kc: crate::gemm::KC,
                        run: $run,
                    }
                };
            }
            let (pack_a_i8, gemm_i8) = int8(features);
            let pairs: crate::table::IntegerKernels = (entry!("pack_integers", pack_pairs), quant_pairs::KERNELS);
            let (pack_integers, quant_kernels) = digits(features).unwrap_or(pairs);
            let byte_pairs: crate::table::IntegerKernels = (entry!("pack_bytes", pack_byte_pairs), quant_pairs::KERNELS);
            let mut table = crate::table::Kernels {
                isa: crate::isa::Isa::$isa,
                f16_to_f32: entry!("convert_f16_f32", f16_to_f32),
                bf16_to_f32: entry!("convert_bf16_f32", bf16_to_f32),
                f32_to_f16: entry!("convert_f32_f16", f32_to_f16),
                f32_to_bf16: entry!("convert_f32_bf16", f32_to_bf16),
                f32_to_e4m3: entry!("convert_f32_e4m3", f32_to_e4m3),
                f32_to_e5m2: entry!("convert_f32_e5m2", f32_to_e5m2),
                pack_a_f32: entry!("pack_a_f32", pack_a_f32),
                pack_a_f16: entry!("pack_a_f16", pack_a_f16),
                pack_a_bf16: entry!("pack_a_bf16", pack_a_bf16),
                gemm_f32: gemm!("gemm_f32", gemm_f32),
                gemm_f16: gemm!("gemm_f16", gemm_f16),
                gemm_bf16: gemm!("gemm_bf16", gemm_bf16),
                pack_a_bf16_dot: entry!("pack_a_bf16_dot", pack_a_bf16_dot),
                gemm_bf16_dot: gemm_bf16_dot(features),
                gemv_bf16_dot: gemv_bf16_dot(features),
                pack_a_i8,
                gemm_i8,
                gemv_f32: Entry { name: concat!("gemv_f32_1x", $gnr, ".", $how), run: gemv_f32 },
                gemv_f16: Entry { name: concat!("gemv_f16_1x", $gnr, ".", $how), run: gemv_f16 },
                gemv_bf16: Entry { name: concat!("gemv_bf16_1x", $gnr, ".", $how), run: gemv_bf16 },
                add: entry!("add_f32", add),
                sub: entry!("sub_f32", sub),
                mul: entry!("mul_f32", mul),
                div: entry!("div_f32", div),
                silu_mul: entry!("silu_mul_f32", silu_mul),
                silu: entry!("silu_f32", silu),
                gelu_erf: entry!("gelu_erf_f32", gelu_erf),
                gelu_tanh: entry!("gelu_tanh_f32", gelu_tanh),
                relu: entry!("relu_f32", relu),
                sigmoid: entry!("sigmoid_f32", sigmoid),
                tanh: entry!("tanh_f32", tanh),
                exp: entry!("exp_f32", exp),
                sum: entry!("sum_f32", sum),
                sum_squares: entry!("sum_squares_f32", sum_squares),
                largest: entry!("largest_f32", largest),
                dot: entry!("dot_f32", dot),
                scale: entry!("scale_f32", scale),
                axpy: entry!("axpy_f32", axpy),
                rows_f32: rows_f32(),
                rows_f16: rows_f16(),
                rows_bf16: rows_bf16(),
                rope_interleaved: entry!("rope_interleaved_f32", rope_interleaved),
                pack_keys_f32: entry!("pack_keys_f32", pack_keys_f32),
                pack_keys_f16: entry!("pack_keys_f16", pack_keys_f16),
                pack_keys_bf16: entry!("pack_keys_bf16", pack_keys_bf16),
                pack_keys_i8: entry!("pack_keys_i8", pack_keys_i8),
                pack_keys_e4m3: entry!("pack_keys_e4m3", pack_keys_e4m3),
                pack_keys_e5m2: entry!("pack_keys_e5m2", pack_keys_e5m2),
                qk: entry!("qk_f32", qk),
                soften: entry!("soften_f32", soften),
                attention_pairs: attention_pairs(features),
                attention_digits: attention_digits(features),
                pv_f32: entry!("pv_f32", pv_f32),
                pv_f16: entry!("pv_f16", pv_f16),
                pv_bf16: entry!("pv_bf16", pv_bf16),
                pv_i8: entry!("pv_i8", pv_i8),
                pv_e4m3: entry!("pv_e4m3", pv_e4m3),
                pv_e5m2: entry!("pv_e5m2", pv_e5m2),
                quantize_row_i8: entry!("quantize_row_i8", quantize_row_i8),
                quant_scales: entry!("quant_scales", quant_scales),
                pack_integers,
                quant_kernels,
                integer_bits: 16,
                bytes: bytes(features).unwrap_or(byte_pairs),
            };
            refine(&mut table, features);
            table
        }
    };
    (@binary $token:ty, $f:tt, $($name:ident)+) => {
        $(crate::entry::entry_point!($token, $f, $name(out: &mut [f32], a: &[f32], b: &[f32]),
            |s| crate::rows::$name(s, out, a, b));)+
    };
    (@unary $token:ty, $f:tt, $($name:ident $function:ident),+) => {
        $(crate::entry::entry_point!($token, $f, $name(out: &mut [f32], x: &[f32]),
            |s| crate::rows::unary::<_, crate::math::$function>(s, out, x));)+
    };
    (@reduce $token:ty, $f:tt, $($name:ident)+) => {
        $(crate::entry::entry_point!($token, $f, $name(x: &[f32]) -> f32, |s| crate::rows::$name::<_, f32>(s, x));)+
    };
    (@rows $token:ty, $f:tt, $how:literal, $($name:literal $table:ident $t:ty),+) => {$(
        fn $table() -> crate::table::Rows<$t> {
            use crate::entry::entry_point;
            use crate::rows::{self, RowMut};
            use crate::table::{Entry, Rows};
            entry_point!($token, $f, rms_norm(out: RowMut<'_, $t>, x: &[$t], w: &[f32], eps: f32, offset: f32),
                |s| rows::rms_norm(s, out, x, w, eps, offset));
            entry_point!($token, $f, rms_norm_of_f32(out: RowMut<'_, $t>, x: &[f32], w: &[f32], eps: f32, offset: f32),
                |s| rows::rms_norm(s, out, x, w, eps, offset));
            entry_point!($token, $f, layer_norm(out: RowMut<'_, $t>, x: &[$t], w: &[f32], b: &[f32], eps: f32),
                |s| rows::layer_norm(s, out, x, w, b, eps));
            entry_point!($token, $f, sum_of(out: &mut [f32], a: &[$t], b: &[$t]), |s| rows::sum_of(s, out, a, b));
            entry_point!($token, $f, scaled(out: RowMut<'_, $t>, x: &[f32], alpha: f32), |s| rows::scaled(s, out, x, alpha));
            entry_point!($token, $f, max(x: &[$t]) -> f32, |s| rows::max(s, x));
            entry_point!($token, $f, exp_sub_sum(out: &mut [f32], x: &[$t], max: f32) -> f32,
                |s| rows::exp_sub_sum(s, out, x, max));
            entry_point!($token, $f,
                softmax(out: RowMut<'_, $t>, p: (&[f32], f32), next: &mut [f32], x: &[$t]) -> f32,
                |s| rows::softmax(s, out, p, next, x));
            entry_point!($token, $f,
                rope_half_split(out: RowMut<'_, $t>, x: &[$t], cos: &[f32], sin: &[f32], place: (usize, usize)),
                |s| rows::rope_half_split(s, out, x, cos, sin, place));
            entry_point!($token, $f,
                rope_neighbours(out: RowMut<'_, $t>, x: &[$t], cos: &[f32], sin: &[f32], place: (usize, usize)),
                |s| rows::rope_neighbours(s, out, x, cos, sin, place));
            Rows {
                rms_norm: Entry { name: concat!("rms_norm_", $name, ".", $how), run: rms_norm },
                rms_norm_of_f32: Entry { name: concat!("rms_norm_f32_", $name, ".", $how), run: rms_norm_of_f32 },
                layer_norm: Entry { name: concat!("layer_norm_", $name, ".", $how), run: layer_norm },
                sum_of: Entry { name: concat!("sum_of_", $name, ".", $how), run: sum_of },
                scaled: Entry { name: concat!("scaled_", $name, ".", $how), run: scaled },
                max: Entry { name: concat!("max_", $name, ".", $how), run: max },
                exp_sub_sum: Entry { name: concat!("exp_sub_sum_", $name, ".", $how), run: exp_sub_sum },
                softmax: Entry { name: concat!("softmax_", $name, ".", $how), run: softmax },
                rope_half_split: Entry { name: concat!("rope_half_split_", $name, ".", $how), run: rope_half_split },
                rope_neighbours: Entry { name: concat!("rope_neighbours_", $name, ".", $how), run: rope_neighbours },
            }
        }
    )+};
    (@attention $token:ty, $f:tt, $qr:literal, $qk:literal, $pr:literal, $pn:literal,
        $($pack:ident $pv:ident $t:ty),+) => {
        crate::entry::entry_point!($token, $f,
            qk(scores: &mut [f32], q: (&[f32], usize), k: &[f32], dim: usize, ahead: crate::attention::Ahead<'_>),
            |s| crate::attention::qk::<_, $qr, $qk>(s, scores, q, k, dim, ahead));
        crate::entry::entry_point!($token, $f, soften(row: &mut crate::attention::Soften<'_>) -> (f32, f32),
            |s| crate::attention::soften(s, row));
        $(
            crate::entry::unsafe_entry_point!($token, $f,
                $pack(out: &mut [f32], keys: &crate::attention::PackKeys<'_, $t>),
                |s| crate::attention::pack_keys(s, out, keys));
            crate::entry::unsafe_entry_point!($token, $f,
                $pv(values: &mut crate::attention::WeighValues<'_, $t>),
                |s| crate::attention::pv::<_, $t, $pr, $pn>(s, values));
        )+
    };
}

pub(crate) use {entry_point, entry_points, gemm_entry_point, unsafe_entry_point};
