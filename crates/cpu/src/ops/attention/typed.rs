//! Kernels by the dtype of a cache, whose elements a tile has addresses of.

use std::ops::Range;

use qiao_kernels_cpu::{Ahead, AttentionPairs, CacheElement, Kernels, PackKeys, PairElement, WeighPairs, WeighValues};

/// Calls a function with the dtype of a cache as its last parameter.
macro_rules! with_dtype {
    ($dtype:expr, $function:ident($($arg:expr),*)) => {
        match $dtype {
            qiao_core::DType::F32 => $function::<f32>($($arg),*),
            qiao_core::DType::F16 => $function::<half::f16>($($arg),*),
            qiao_core::DType::BF16 => $function::<half::bf16>($($arg),*),
            qiao_core::DType::I8 => $function::<i8>($($arg),*),
            qiao_core::DType::F8E5M2 => $function::<qiao_kernels_cpu::E5m2>($($arg),*),
            _ => $function::<qiao_kernels_cpu::E4m3>($($arg),*),
        }
    };
}

/// As `with_dtype`, for the dtypes that meet in pairs.
macro_rules! with_pairs {
    ($dtype:expr, $function:ident($($arg:expr),*)) => {
        match $dtype {
            qiao_core::DType::BF16 => $function::<half::bf16>($($arg),*),
            qiao_core::DType::F8E5M2 => $function::<qiao_kernels_cpu::E5m2>($($arg),*),
            _ => $function::<qiao_kernels_cpu::E4m3>($($arg),*),
        }
    };
}

/// Addresses of a dtype's elements.
pub(super) fn typed<T>(addresses: &[*const u8]) -> &[*const T] {
    // SAFETY: pointers to sized types are alike.
    unsafe { std::slice::from_raw_parts(addresses.as_ptr().cast(), addresses.len()) }
}

/// The bits of floats.
pub(super) fn words(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: both are 32 bits, aligned alike, and any bits are a value of either.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

/// # Safety
/// The addresses are those of keys of this dtype and size, whose memory is live and not written meanwhile.
pub(super) unsafe fn pack<T: CacheElement>(
    k: &Kernels,
    out: &mut [f32],
    keys: &[*const u8],
    dim: usize,
    ahead: Ahead<'_>,
) {
    let block = PackKeys { keys: typed::<T>(keys), dim, ahead };
    // SAFETY: as the caller vouches.
    unsafe { (T::pack_keys(k).run)(out, &block) }
}

/// What [`weigh`] adds up: rows of a tile, and tokens of a chunk.
pub(super) struct Weights<'a> {
    pub(super) acc: &'a mut [f32],
    pub(super) alpha: &'a [f32],
    pub(super) p: &'a [f32],
    pub(super) tokens: Range<usize>,
    pub(super) dim: usize,
    pub(super) ahead: Ahead<'a>,
}

/// # Safety
/// As for [`pack`], for values.
pub(super) unsafe fn weigh<T: CacheElement>(k: &Kernels, w: Weights<'_>, values: &[*const u8]) {
    let Weights { acc, alpha, p, tokens, dim, ahead } = w;
    let (first, end) = (tokens.start, tokens.end);
    let mut block = WeighValues { acc, alpha, p, values: typed::<T>(values), first, end, dim, ahead };
    // SAFETY: as the caller vouches.
    unsafe { (T::pv(k).run)(&mut block) }
}

/// # Safety
/// As for [`pack`], for keys that become pairs.
pub(super) unsafe fn pack_pairs<T: PairElement>(
    k: &AttentionPairs,
    out: &mut [f32],
    keys: &[*const u8],
    dim: usize,
    ahead: Ahead<'_>,
) {
    // SAFETY: as the caller vouches.
    unsafe { (T::pack_key_pairs(k).run)(words(out), &PackKeys { keys: typed(keys), dim, ahead }) }
}

/// # Safety
/// As for [`weigh`], for weights in pairs.
pub(super) unsafe fn weigh_pairs<T: PairElement>(k: &AttentionPairs, w: Weights<'_>, values: &[*const u8]) {
    let Weights { acc, alpha, p, tokens, dim, ahead } = w;
    // SAFETY: both are 32 bits, aligned alike, and any bits are a value of either.
    let p = unsafe { std::slice::from_raw_parts(p.as_ptr().cast::<u32>(), p.len()) };
    let (first, end) = (tokens.start, tokens.end);
    let mut block = WeighPairs { acc, alpha, p, values: typed::<T>(values), first, end, dim, ahead };
    // SAFETY: as the caller vouches.
    unsafe { (T::pv_pairs(k).run)(&mut block) }
}

pub(super) use {with_dtype, with_pairs};
