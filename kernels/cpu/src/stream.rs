//! Copies past the caches, for results too large to be found there again.

#[cfg(target_arch = "x86_64")]
use crate::simd::prefetch;

/// Copies bytes with stores that fetch nothing from memory and leave nothing in the caches. Other threads see them after
/// [`stream_fence`]. As many bytes from each address in `ahead` on are asked for meanwhile, as a hint: they may be anywhere.
///
/// # Panics
/// The lengths differ.
pub fn stream_copy(out: &mut [u8], from: &[u8], ahead: &[*const u8]) {
    assert_eq!(out.len(), from.len(), "stream_copy: lengths of output and input");
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let head = out.as_ptr().align_offset(64).min(out.len());
        let lines = (out.len() - head) / 64 * 64;
        out[..head].copy_from_slice(&from[..head]);
        for at in (head..head + lines).step_by(64) {
            ahead.iter().for_each(|next| prefetch(next.wrapping_add(at), 64));
            // SAFETY: the line lies in both slices, and starts on a multiple of 64 in the output.
            unsafe {
                let (to, from) = (out.as_mut_ptr().add(at).cast::<__m128i>(), from.as_ptr().add(at).cast::<__m128i>());
                let line: [__m128i; 4] = std::array::from_fn(|i| _mm_loadu_si128(from.add(i)));
                line.into_iter().enumerate().for_each(|(i, part)| _mm_stream_si128(to.add(i), part));
            }
        }
        out[head + lines..].copy_from_slice(&from[head + lines..]);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = ahead;
        out.copy_from_slice(from);
    }
}

/// Orders the stores of this thread's [`stream_copy`] before its later ones.
#[inline]
pub fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction only orders stores.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
