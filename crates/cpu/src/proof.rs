//! Whether tiles sum as their manual says, seen before a device relies on it.
//!
//! One row of bf16 takes the sums of a tile with other instructions, and which kernel runs depends on how many rows there
//! are. A processor whose tiles sum in another order would give a row other bits in company than alone.

use half::bf16;
use qiao_kernels_cpu::{
    CHUNK, GemmBlock, IntegerRows, IntegerRowsMut, Kernels, NR, QuantBlock, QuantDot, QuantFormat, pack_w, pack_w_i8,
    packed_len, packed_len_i8, panel_len, panel_len_i8,
};

/// Rows, columns and inputs: more than one tile of each, and parts of tiles.
const SHAPE: (usize, usize, usize) = (35, 40, 150);

/// Whether products of several rows have the bits that they have row by row.
pub(crate) fn sums_are_as_documented(kernels: &Kernels) -> bool {
    let of_codes = [QuantFormat::I4, QuantFormat::Q6K];
    bf16_agrees(kernels) && i8_agrees(kernels) && of_codes.into_iter().all(|format| codes_agree(kernels, format))
}

/// Numbers in no order (xorshift*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// `rows` rows of `len` numbers of either sign, of magnitudes from 2^-5 to 2^6, which makes the order of a sum
    /// visible. Every fourth row has numbers about the square root of the smallest normal: its products with such a row
    /// are subnormal, or nearly.
    fn bf16(&mut self, rows: usize, len: usize) -> Vec<bf16> {
        let mut number = |row: usize| {
            let bits = self.next();
            let low = if row % 4 == 3 { 62 } else { 122 };
            let exponent = low + (bits >> 8) % if row % 4 == 3 { 3 } else { 12 };
            bf16::from_bits(((bits >> 16) & 0x807f) as u16 | (exponent << 7) as u16)
        };
        (0..rows * len).map(|i| number(i / len)).collect()
    }
}

fn bf16_agrees(kernels: &Kernels) -> bool {
    let (Some(gemm), Some(gemv)) = (kernels.gemm_bf16_dot, kernels.gemv_bf16_dot) else { return true };
    let (m, n, k) = SHAPE;
    let mut numbers = Numbers(7);
    let (weights, rows) = (numbers.bf16(n, k), numbers.bf16(m, k));
    let mut w = vec![bf16::ZERO; packed_len::<bf16>(n, k)];
    pack_w(&mut w, &weights, n, k);
    let mut c = vec![0f32; m * n];
    for first in (0..m).step_by(gemm.mr) {
        let mut a = vec![bf16::ZERO; gemm.mr * k.next_multiple_of(4)];
        let m = gemm.mr.min(m - first);
        (kernels.pack_a_bf16_dot.run)(&mut a, &rows[first * k..], k, m, k);
        let (panel_stride, panels) = (panel_len::<bf16>(k), n.div_ceil(NR));
        let out = c[first * n..].as_mut_ptr();
        let block =
            GemmBlock { m, kc: k, a: &a, w: &w, panel_stride, panels, c: out, ldc: n, columns: n, accumulate: false };
        // SAFETY: C has m rows of n columns from here on.
        unsafe { (gemm.run)(&block) };
    }
    rows.chunks_exact(k).zip(c.chunks_exact(n)).all(|(x, sums)| {
        let mut y = vec![0f32; n];
        (gemv.run)(&mut y, x, &w, panel_len::<bf16>(k), false);
        y.iter().zip(sums).all(|(y, sum)| y.to_bits() == sum.to_bits())
    })
}

fn i8_agrees(kernels: &Kernels) -> bool {
    let (m, n, k) = SHAPE;
    let mut numbers = Numbers(8);
    let mut codes = |count: usize| (0..count).map(|_| numbers.next() as i8).collect::<Vec<_>>();
    let (weights, rows) = (codes(n * k), codes(m * k));
    let mut w = vec![0; packed_len_i8(n, k)];
    pack_w_i8(&mut w, &weights, n, k);
    let gemm = kernels.gemm_i8;
    let mut c = vec![0i32; m * n];
    for first in (0..m).step_by(gemm.mr) {
        let mut a = vec![0; gemm.mr * k.next_multiple_of(4)];
        let m = gemm.mr.min(m - first);
        (kernels.pack_a_i8.run)(&mut a, &rows[first * k..], k, m, k);
        let (panel_stride, panels) = (panel_len_i8(k), n.div_ceil(NR));
        let out = c[first * n..].as_mut_ptr();
        let block =
            GemmBlock { m, kc: k, a: &a, w: &w, panel_stride, panels, c: out, ldc: n, columns: n, accumulate: false };
        // SAFETY: C has m rows of n columns from here on.
        unsafe { (gemm.run)(&block) };
    }
    rows.chunks_exact(k).zip(c.chunks_exact(n)).all(|(x, sums)| {
        let sum = |w: &[i8]| x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>();
        weights.chunks_exact(k).map(sum).eq(sums.iter().copied())
    })
}

/// Integers by codes of this format: in the most rows that the kernel takes together as in one.
fn codes_agree(kernels: &Kernels, format: QuantFormat) -> bool {
    let Some(kernel) = kernels.quant(format, false) else { return true };
    let QuantDot::Integers(dot) = kernel.dot else { return true };
    let (chunks, rows, per_chunk) = (3, kernel.most(), format.scales_per_chunk());
    let mut numbers = Numbers(9);
    let codes: Vec<u8> = (0..chunks * format.codes().chunk_bytes()).map(|_| numbers.next() as u8).collect();
    let scales: Vec<f32> = (0..chunks * per_chunk * NR).map(|_| (numbers.next() as i32) as f32 * 1e-12).collect();
    let block = QuantBlock { format, codes: &codes, chunks, scales: &scales, offsets: &[], ahead: (0, 0) };
    let x: Vec<f32> = (0..rows * chunks * CHUNK).map(|_| (numbers.next() as i32) as f32 * 1e-9).collect();
    let multiply = |x: &[f32]| {
        let rows = x.len() / (chunks * CHUNK);
        let (mut digits, mut scales) = (vec![0; 64 * chunks * rows], vec![0.0; chunks * rows]);
        let mut starts = vec![0; chunks * per_chunk * rows];
        for (r, x) in x.chunks_exact(chunks * CHUNK).enumerate() {
            let (digits, scales, starts) = (&mut digits[..], &mut scales[..], &mut starts[..]);
            let mut to = IntegerRowsMut { rows, digits, scales, starts, sums: &mut [] };
            (kernels.pack_integers.run)(&mut to, r, format, false, x);
        }
        let mut y = vec![0.0; rows * NR];
        let rows = IntegerRows { rows, digits: &digits, scales: &scales, starts: &starts, sums: &[] };
        dot(&mut y, NR, &rows, &[block]);
        y
    };
    let (all, alone) = (multiply(&x), x.chunks_exact(chunks * CHUNK).map(multiply));
    let mut alone = alone.collect::<Vec<_>>().concat().into_iter();
    all.iter().all(|y| alone.next().is_some_and(|x| x.to_bits() == y.to_bits()))
}

#[cfg(test)]
mod tests {
    use qiao_kernels_cpu::{Isa, detect, kernels};

    use super::*;

    fn scalar() -> Kernels {
        kernels(Isa::Scalar, &detect()).unwrap()
    }

    #[test]
    fn every_tier_of_this_machine_sums_as_documented() {
        let machine = detect();
        for isa in Isa::ALL.into_iter().filter(|isa| *isa <= machine.isa) {
            assert!(sums_are_as_documented(&kernels(isa, &machine).unwrap()), "{isa}");
        }
    }

    #[test]
    fn a_product_with_codes_that_depends_on_its_company_is_seen() {
        fn off(y: &mut [f32], stride: usize, rows: &IntegerRows<'_>, blocks: &[QuantBlock<'_>]) {
            let machine = scalar();
            let QuantDot::Integers(dot) = machine.quant(blocks[0].format, false).unwrap().dot else { unreachable!() };
            dot(y, stride, rows, blocks);
            if rows.rows > 1 {
                y[stride] = y[stride].next_up();
            }
        }
        let mut kernels = scalar();
        let mut all = kernels.quant_kernels.to_vec();
        all.iter_mut().filter(|k| k.name == "gemv_q6.scalar").for_each(|k| k.dot = QuantDot::Integers(off));
        kernels.quant_kernels = all.leak();
        assert!(!sums_are_as_documented(&kernels));
    }

    #[test]
    fn sums_in_another_order_are_seen() {
        unsafe fn backwards(block: &GemmBlock<'_, bf16, bf16, f32>) {
            // SAFETY: as for the kernel itself; C has the columns that the block says.
            unsafe {
                (scalar().gemm_bf16_dot.unwrap().run)(block);
                // The last place of one element.
                let last = block.c.add((block.m - 1) * block.ldc + block.columns - 1);
                *last = f32::from_bits((*last).to_bits() ^ 1);
            }
        }
        let mut kernels = scalar();
        kernels.gemm_bf16_dot.as_mut().unwrap().run = backwards;
        assert!(!sums_are_as_documented(&kernels));
    }

    #[test]
    fn an_int8_sum_that_is_off_by_one_is_seen() {
        unsafe fn off(block: &GemmBlock<'_, i8, i8, i32>) {
            // SAFETY: as for the kernel itself; C has at least one element.
            unsafe {
                (scalar().gemm_i8.run)(block);
                *block.c += 1;
            }
        }
        let mut kernels = scalar();
        kernels.gemm_i8.run = off;
        assert!(!sums_are_as_documented(&kernels));
    }
}
