//! Where numbers lie: weight panels, activation micro-panels, and their packing.

use half::{bf16, f16};

use crate::simd::Simd;

/// Output features in one weight panel.
pub const NR: usize = 16;

/// A dtype that weights, activations and cached keys and values can have: f32, f16 or bf16.
pub trait Weight: Copy + Default + PartialEq + Send + Sync + Sealed + 'static {
    /// Inputs that lie side by side in a panel.
    const K_STEP: usize;
    /// The name used in kernel names.
    const NAME: &'static str;
}

/// What the kernels need to know of a dtype; closed to other crates.
pub trait Sealed: Copy {
    /// Loads one vector of columns of a panel: input `input` (below `K_STEP`) of the step at `p`.
    ///
    /// # Safety
    /// `LANES * K_STEP` elements are readable at `p`.
    #[doc(hidden)]
    unsafe fn load_columns<S: Simd>(s: S, p: *const Self, input: usize) -> S::V;

    /// Loads one vector of neighbouring elements.
    ///
    /// # Safety
    /// `LANES` elements are readable at `p`.
    #[doc(hidden)]
    unsafe fn load_row<S: Simd>(s: S, p: *const Self) -> S::V;

    /// Rounds one vector to nearest even and stores it.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`.
    #[doc(hidden)]
    unsafe fn store_row<S: Simd>(s: S, p: *mut Self, v: S::V);

    /// As `store_row`, past the caches where the tier can.
    ///
    /// # Safety
    /// As there, and `p` is a multiple of the bytes of `LANES` elements.
    #[doc(hidden)]
    unsafe fn stream_row<S: Simd>(s: S, p: *mut Self, v: S::V);

    /// Loads two vectors of neighbouring elements.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn load_two<S: Simd>(s: S, p: *const Self) -> [S::V; 2] {
        // SAFETY: as the caller vouches.
        unsafe { [Self::load_row(s, p), Self::load_row(s, p.add(S::LANES))] }
    }

    /// Rounds two vectors to nearest even and stores them.
    ///
    /// # Safety
    /// `2 * LANES` elements are writable at `p`.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn store_two<S: Simd>(s: S, p: *mut Self, [a, b]: [S::V; 2]) {
        // SAFETY: as the caller vouches.
        unsafe {
            Self::store_row(s, p, a);
            Self::store_row(s, p.add(S::LANES), b);
        }
    }

    /// As `store_two`, past the caches where the tier can.
    ///
    /// # Safety
    /// As there, and `p` is a multiple of the bytes of `2 * LANES` elements.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn stream_two<S: Simd>(s: S, p: *mut Self, [a, b]: [S::V; 2]) {
        // SAFETY: as the caller vouches.
        unsafe {
            Self::stream_row(s, p, a);
            Self::stream_row(s, p.add(S::LANES), b);
        }
    }

    /// The value as f32, exactly.
    #[doc(hidden)]
    fn widen(self) -> f32;

    /// The nearest value, ties to even.
    #[doc(hidden)]
    fn narrow(x: f32) -> Self;
}

impl Weight for f32 {
    const K_STEP: usize = 1;
    const NAME: &'static str = "f32";
}

impl Weight for f16 {
    const K_STEP: usize = 1;
    const NAME: &'static str = "f16";
}

impl Weight for bf16 {
    const K_STEP: usize = 2;
    const NAME: &'static str = "bf16";
}

impl Sealed for f32 {
    #[inline(always)]
    unsafe fn load_columns<S: Simd>(s: S, p: *const f32, _: usize) -> S::V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.load_ptr(p) }
    }

    #[inline(always)]
    unsafe fn load_row<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.load_ptr(p) }
    }

    #[inline(always)]
    unsafe fn store_row<S: Simd>(s: S, p: *mut f32, v: S::V) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.store_ptr(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_row<S: Simd>(s: S, p: *mut f32, v: S::V) {
        // SAFETY: the caller vouches for LANES elements and for the address.
        unsafe { s.stream_ptr(p, v) }
    }

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Sealed for f16 {
    #[inline(always)]
    unsafe fn load_columns<S: Simd>(s: S, p: *const f16, _: usize) -> S::V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.load_f16_ptr(p) }
    }

    #[inline(always)]
    unsafe fn load_row<S: Simd>(s: S, p: *const f16) -> S::V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.load_f16_ptr(p) }
    }

    #[inline(always)]
    unsafe fn store_row<S: Simd>(s: S, p: *mut f16, v: S::V) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.store_f16_ptr(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_row<S: Simd>(s: S, p: *mut f16, v: S::V) {
        // SAFETY: the caller vouches for LANES elements and for the address.
        unsafe { s.stream_f16_ptr(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_two<S: Simd>(s: S, p: *mut f16, v: [S::V; 2]) {
        // SAFETY: the caller vouches for 2 * LANES elements and for the address.
        unsafe { s.stream_f16_two(p, v) }
    }

    #[inline(always)]
    fn narrow(x: f32) -> f16 {
        f32_to_f16(x)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f16_to_f32(self)
    }
}

impl Sealed for bf16 {
    #[inline(always)]
    unsafe fn load_columns<S: Simd>(s: S, p: *const bf16, input: usize) -> S::V {
        // SAFETY: the caller vouches for 2 * LANES elements.
        unsafe {
            match input {
                0 => s.load_bf16_first(p),
                _ => s.load_bf16_second(p),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_row<S: Simd>(s: S, p: *const bf16) -> S::V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.load_bf16_ptr(p) }
    }

    #[inline(always)]
    unsafe fn store_row<S: Simd>(s: S, p: *mut bf16, v: S::V) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { s.store_bf16_ptr(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_row<S: Simd>(s: S, p: *mut bf16, v: S::V) {
        // SAFETY: the caller vouches for LANES elements and for the address.
        unsafe { s.stream_bf16_ptr(p, v) }
    }

    #[inline(always)]
    unsafe fn load_two<S: Simd>(s: S, p: *const bf16) -> [S::V; 2] {
        // SAFETY: the caller vouches for 2 * LANES elements.
        unsafe { s.load_bf16_two(p) }
    }

    #[inline(always)]
    unsafe fn store_two<S: Simd>(s: S, p: *mut bf16, v: [S::V; 2]) {
        // SAFETY: the caller vouches for 2 * LANES elements.
        unsafe { s.store_bf16_two(p, v) }
    }

    #[inline(always)]
    unsafe fn stream_two<S: Simd>(s: S, p: *mut bf16, v: [S::V; 2]) {
        // SAFETY: the caller vouches for 2 * LANES elements and for the address.
        unsafe { s.stream_bf16_two(p, v) }
    }

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        f32_to_bf16(x)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        bf16_to_f32(self)
    }
}

/// f16 to f32, exactly; a NaN becomes quiet and keeps its payload, as `vcvtph2ps` does.
#[inline(always)]
pub(crate) fn f16_to_f32(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | quiet | ((magnitude & 0x3ff) << 13));
    }
    // The f16 exponent bias is 15, that of f32 127; multiplying by 2^112 moves one to the other
    // and normalises subnormals on the way, without rounding.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(value.to_bits() | sign)
}

/// f32 to f16, round to nearest even, overflow to infinity, NaN quiet with the upper payload kept.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> f16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let out = if magnitude > 0x7f80_0000 {
        0x7e00 | ((magnitude >> 13) & 0x3ff) as u16
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Below 2^-14 the unit of the result is 2^-24; adding 0.5, whose unit in f32 is 2^-24,
        // rounds to it.
        let sum = f32::from_bits(magnitude) + 0.5;
        (sum.to_bits() - 0x3f00_0000) as u16
    } else {
        let rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
        ((rounded - (112 << 23)) >> 13) as u16
    };
    f16::from_bits(sign | out)
}

/// bf16 to f32: the same bits, sixteen places up.
#[inline(always)]
pub(crate) fn bf16_to_f32(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// f32 to bf16, round to nearest even, overflow to infinity, NaN quiet with the upper payload kept.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return bf16::from_bits((bits >> 16) as u16 | 0x40);
    }
    bf16::from_bits(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
}

/// Elements in one panel of a weight matrix with `k` inputs.
///
/// A weight matrix `[N, K]` (output features by input features) is cut into panels of [`NR`]
/// output features. Inside a panel the input runs slowest:
///
/// | dtype | panel |
/// |---|---|
/// | f32, f16 | `[K][16]` |
/// | bf16 | `[ceil(K/2)][16][2]`, pairs of inputs side by side (the B tile of VNNI and AMX) |
/// | i8 | `[ceil(K/4)][16][4]`, then the 16 sums of the columns as little-endian i32 |
///
/// Missing output features and inputs are zeros. Panels follow each other without gaps: panel `p`
/// starts at `p * panel_len(k)`. The inputs from `k0` on start `k0 * 16` elements into each panel;
/// `k0` must be a multiple of [`Weight::K_STEP`] (4 for i8).
pub const fn panel_len<W: Weight>(k: usize) -> usize {
    k.next_multiple_of(W::K_STEP) * NR
}

/// Elements of a packed weight matrix `[n, k]`.
pub const fn packed_len<W: Weight>(n: usize, k: usize) -> usize {
    n.div_ceil(NR) * panel_len::<W>(k)
}

/// A weight matrix as it lies in a checkpoint: element `(n, k)` is at
/// `n * n_stride + k * k_stride` of `data`.
#[derive(Clone, Copy, Debug)]
pub struct WeightMatrix<'a, W> {
    /// The elements.
    pub data: &'a [W],
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Elements from one output feature to the next.
    pub n_stride: usize,
    /// Elements from one input feature to the next.
    pub k_stride: usize,
}

impl<'a, W: Copy> WeightMatrix<'a, W> {
    /// A dense `[n, k]` matrix: each output feature has its inputs side by side.
    pub fn row_major(data: &'a [W], n: usize, k: usize) -> Self {
        WeightMatrix { data, n, k, n_stride: k, k_stride: 1 }
    }

    /// A dense `[k, n]` matrix: each input feature has its outputs side by side.
    pub fn column_major(data: &'a [W], n: usize, k: usize) -> Self {
        WeightMatrix { data, n, k, n_stride: 1, k_stride: n }
    }

    /// The output features of a panel, and where the first of them starts.
    fn panel_rows(&self, panel: usize) -> (usize, usize) {
        let first = panel * NR;
        assert!(first < self.n, "panel {panel} was asked for, but {} outputs fill {}", self.n, self.n.div_ceil(NR));
        (first * self.n_stride, NR.min(self.n - first))
    }
}

/// Packs one panel (16 output features) into `dst`, which holds [`panel_len`] elements.
///
/// # Panics
/// When `dst` has another length, `panel` is past the last panel, or `src` is too short.
pub fn pack_panel<W: Weight>(dst: &mut [W], src: &WeightMatrix<'_, W>, panel: usize) {
    assert_eq!(dst.len(), panel_len::<W>(src.k), "length of a packed panel");
    let (start, rows) = src.panel_rows(panel);
    let step = NR * W::K_STEP;
    if rows < NR || !src.k.is_multiple_of(W::K_STEP) {
        dst.fill(W::default());
    }
    if src.k_stride == 1 && rows == NR {
        let inputs = |r: usize| &src.data[start + r * src.n_stride..][..src.k];
        match W::K_STEP {
            1 => interleave::<W, 1>(dst, std::array::from_fn(inputs)),
            _ => interleave::<W, 2>(dst, std::array::from_fn(inputs)),
        }
        return;
    }
    for k in 0..src.k {
        let base = k / W::K_STEP * step + k % W::K_STEP;
        for r in 0..rows {
            dst[base + r * W::K_STEP] = src.data[start + r * src.n_stride + k * src.k_stride];
        }
    }
}

/// Interleaves the inputs of 16 output features, `STEP` at a time, in blocks that stay in the
/// first-level cache. What `STEP` leaves over goes before the zeros that are there.
fn interleave<W: Copy, const STEP: usize>(dst: &mut [W], rows: [&[W]; NR]) {
    const BLOCK: usize = 16;
    let (groups, _) = dst.as_chunks_mut::<STEP>();
    let rows = rows.map(|row| row.as_chunks::<STEP>());
    for (block, out) in groups.chunks_mut(BLOCK * NR).enumerate() {
        for (r, (row, _)) in rows.iter().enumerate() {
            let inputs = row.iter().skip(block * BLOCK);
            for (out, input) in out.chunks_exact_mut(NR).zip(inputs) {
                out[r] = *input;
            }
        }
    }
    for (r, (row, rest)) in rows.iter().enumerate() {
        for (i, input) in rest.iter().enumerate() {
            groups[row.len() * NR + r][i] = *input;
        }
    }
}

/// Packs a whole row-major `[n, k]` matrix into `dst`, which holds [`packed_len`] elements.
///
/// # Panics
/// When `dst` or `src` have other lengths.
pub fn pack_w<W: Weight>(dst: &mut [W], src: &[W], n: usize, k: usize) {
    assert_eq!(src.len(), n * k, "elements of a row-major [{n}, {k}] matrix");
    assert_eq!(dst.len(), packed_len::<W>(n, k), "length of the packed matrix");
    let source = WeightMatrix::row_major(src, n, k);
    for (panel, out) in dst.chunks_exact_mut(panel_len::<W>(k).max(1)).enumerate() {
        pack_panel(out, &source, panel);
    }
}

/// Reads a packed matrix back into row-major `[n, k]`.
///
/// # Panics
/// When the lengths disagree with `n` and `k`.
pub fn unpack_w<W: Weight>(dst: &mut [W], packed: &[W], n: usize, k: usize) {
    assert_eq!(dst.len(), n * k, "elements of a row-major [{n}, {k}] matrix");
    assert_eq!(packed.len(), packed_len::<W>(n, k), "length of the packed matrix");
    let panel = panel_len::<W>(k);
    for row in 0..n {
        for col in 0..k {
            let group = col / W::K_STEP * NR * W::K_STEP + col % W::K_STEP;
            dst[row * k + col] = packed[row / NR * panel + group + row % NR * W::K_STEP];
        }
    }
}

/// Bytes in one i8 panel: the weights, then 16 column sums.
pub const fn panel_len_i8(k: usize) -> usize {
    k.next_multiple_of(4) * NR + NR * 4
}

/// Bytes of a packed i8 matrix `[n, k]`.
pub const fn packed_len_i8(n: usize, k: usize) -> usize {
    n.div_ceil(NR) * panel_len_i8(k)
}

/// Packs one i8 panel and its column sums into `dst`, which holds [`panel_len_i8`] elements.
///
/// # Panics
/// When `dst` has another length, `panel` is past the last panel, or `src` is too short.
pub fn pack_panel_i8(dst: &mut [i8], src: &WeightMatrix<'_, i8>, panel: usize) {
    assert_eq!(dst.len(), panel_len_i8(src.k), "length of a packed i8 panel");
    let (start, rows) = src.panel_rows(panel);
    let (weights, tail) = dst.split_at_mut(src.k.next_multiple_of(4) * NR);
    weights.fill(0);
    let mut sums = [0i32; NR];
    for (r, sum) in sums.iter_mut().enumerate().take(rows) {
        for k in 0..src.k {
            let value = src.data[start + r * src.n_stride + k * src.k_stride];
            weights[k / 4 * 64 + r * 4 + k % 4] = value;
            *sum += i32::from(value);
        }
    }
    for (out, sum) in tail.chunks_exact_mut(4).zip(sums) {
        out.copy_from_slice(&sum.to_le_bytes().map(|b| b as i8));
    }
}

/// Packs a whole row-major i8 `[n, k]` matrix into `dst`, which holds [`packed_len_i8`] elements.
///
/// # Panics
/// When the lengths disagree with `n` and `k`.
pub fn pack_w_i8(dst: &mut [i8], src: &[i8], n: usize, k: usize) {
    assert_eq!(src.len(), n * k, "elements of a row-major [{n}, {k}] matrix");
    assert_eq!(dst.len(), packed_len_i8(n, k), "length of the packed matrix");
    let source = WeightMatrix::row_major(src, n, k);
    for (panel, out) in dst.chunks_exact_mut(panel_len_i8(k)).enumerate() {
        pack_panel_i8(out, &source, panel);
    }
}

/// Reads a packed i8 matrix back into row-major `[n, k]`.
///
/// # Panics
/// When the lengths disagree with `n` and `k`.
pub fn unpack_w_i8(dst: &mut [i8], packed: &[i8], n: usize, k: usize) {
    assert_eq!(dst.len(), n * k, "elements of a row-major [{n}, {k}] matrix");
    assert_eq!(packed.len(), packed_len_i8(n, k), "length of the packed matrix");
    for row in 0..n {
        for col in 0..k {
            dst[row * k + col] = packed[row / NR * panel_len_i8(k) + col / 4 * 64 + row % NR * 4 + col % 4];
        }
    }
}
