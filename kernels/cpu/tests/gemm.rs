//! GEMM and GEMV of every tier against f64, and against each other.

mod oracle;

use half::{bf16, f16};
use oracle::{Guarded, Number, Random, U, assert_close, output, tables};
use qiao_kernels_cpu::{Gemm, GemmBlock, Kernels, NR, Weight, pack_w, packed_len, panel_len};

/// A product `[m, k] x [n, k]ᵀ`: its operands, and how far a sum may be off.
struct Case<A, W> {
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    a: Vec<A>,
    w: Vec<W>,
    packed: Vec<W>,
}

impl<A: Number, W: Number> Case<A, W> {
    fn new(m: usize, n: usize, k: usize) -> Self {
        let mut random = Random::new((m * 1_000_003 + n * 1_009 + k) as u64);
        let lda = k + 5;
        let w: Vec<W> = random.row_of(n * k);
        let mut packed = vec![W::default(); packed_len::<W>(n, k)];
        pack_w(&mut packed, &w, n, k);
        Case { m, n, k, lda, a: random.row_of(m * lda), w, packed }
    }

    /// The sum, and the sum of magnitudes.
    fn truth(&self, row: usize, column: usize) -> (f64, f64) {
        (0..self.k).fold((0.0, 0.0), |(sum, size), k| {
            let x = self.a[row * self.lda + k].to_f64() * self.w[column * self.k + k].to_f64();
            (sum + x, size + x.abs())
        })
    }

    fn check(&self, what: &str, c: &[f32], ldc: usize) {
        for row in 0..self.m {
            for column in 0..self.n {
                let (truth, size) = self.truth(row, column);
                let limit = 2.0 * U * (self.k as f64).sqrt().max(2.0) * size + 1e-30;
                assert_close(
                    &format!("{what} m={} n={} k={} at {row},{column}", self.m, self.n, self.k),
                    c[row * ldc + column],
                    truth,
                    limit,
                );
            }
            // The gap between rows stays as it was.
            let gap = row * ldc + self.n..((row + 1) * ldc).min(c.len());
            assert!(c[gap].iter().all(|x| x.is_nan()), "{what} wrote past its columns");
        }
    }

    /// Runs a kernel over the whole product, with rows in blocks of at most `rows` and K in blocks of `kc`.
    fn run<P: Copy + Default>(
        &self,
        gemm: &Gemm<P, W, f32>,
        pack: impl Fn(&mut [P], &[A], usize, usize, usize),
        rows: usize,
        kc: usize,
        ldc: usize,
    ) -> Guarded<f32> {
        let mut c = output((self.m - 1) * ldc + self.n);
        let pointer = c.inside().as_mut_ptr();
        for row in (0..self.m).step_by(rows) {
            let m = rows.min(self.m - row);
            for start in (0..self.k).step_by(kc) {
                let depth = kc.min(self.k - start);
                let mut a = vec![P::default(); depth.next_multiple_of(W::K_STEP) * gemm.mr];
                pack(&mut a, &self.a[row * self.lda + start..], self.lda, m, depth);
                let block = GemmBlock {
                    m,
                    kc: depth,
                    a: &a,
                    w: &self.packed[start * NR..],
                    panel_stride: panel_len::<W>(self.k),
                    panels: self.n.div_ceil(NR),
                    // SAFETY: the row starts within the output.
                    c: unsafe { pointer.add(row * ldc) },
                    ldc,
                    columns: self.n,
                    accumulate: start > 0,
                };
                // SAFETY: the output holds m rows of n columns at a stride of ldc.
                unsafe { (gemm.run)(&block) };
            }
        }
        c
    }
}

/// Sizes at, below and above the tile, odd primes, tails.
fn sizes(mr: usize) -> Vec<(usize, usize, usize)> {
    let mut sizes = vec![
        (mr, 32, 64),
        (1, 16, 1),
        (mr + 1, 33, 65),
        (2 * mr, 64, 17),
        (5, 7, 127),
        (7, 1, 3),
        (13, 47, 101),
        (3, 80, 2),
        (mr, 48, 700),
    ];
    // Every height of a small tile; of a large one those about its parts.
    let heights = (1..=mr).filter(|m| *m <= 18 || (m + 1) % 16 < 3);
    sizes.extend(heights.map(|m| (m, 31, 19)));
    sizes
}

fn walk<W: Number>(kernels: &Kernels) {
    let gemm = W::gemm(kernels);
    let pack = kernels.pack_a_f32.run;
    for (m, n, k) in sizes(gemm.mr) {
        let case = Case::<f32, W>::new(m, n, k);
        let ldc = n + 3;
        let whole = case.run(gemm, pack, gemm.mr, k, ldc);
        case.check(gemm.name, whole.checked(), ldc);

        // Neither the number of rows nor the blocks of K change a bit.
        let blocked = case.run(gemm, pack, 1, 16, ldc);
        let odd = case.run(gemm, pack, gemm.mr.min(3), 6, n);
        for row in 0..m {
            let want = &whole.checked()[row * ldc..][..n];
            assert_eq!(want, &blocked.checked()[row * ldc..][..n], "{} m={m} n={n} k={k}", gemm.name);
            assert_eq!(want, &odd.checked()[row * n..][..n], "{} m={m} n={n} k={k}", gemm.name);

            let gemv = W::gemv(kernels);
            let x = &case.a[row * case.lda..][..k];
            let mut y = output(n);
            (gemv.run)(y.inside(), x, &case.packed, panel_len::<W>(k), false);
            assert_eq!(want, y.checked(), "{} n={n} k={k}", gemv.name);

            // K in two blocks, the second added to the first.
            let half = (k / 2).next_multiple_of(W::K_STEP).min(k);
            let mut y = output(n);
            (gemv.run)(y.inside(), &x[..half], &case.packed, panel_len::<W>(k), false);
            (gemv.run)(y.inside(), &x[half..], &case.packed[half * NR..], panel_len::<W>(k), true);
            assert_eq!(want, y.checked(), "{} n={n} k={k} in two", gemv.name);
        }
    }
}

#[test]
fn gemm_is_right_and_blind_to_blocking_and_equals_gemv() {
    for kernels in tables() {
        walk::<f32>(&kernels);
        walk::<f16>(&kernels);
        walk::<bf16>(&kernels);
    }
}

#[test]
fn bf16_dot_is_right_and_blind_to_blocking_and_equals_its_gemv() {
    for kernels in tables() {
        assert_eq!(kernels.gemm_bf16_dot.is_some(), kernels.gemv_bf16_dot.is_some());
        let (Some(gemm), Some(gemv)) = (kernels.gemm_bf16_dot, kernels.gemv_bf16_dot) else { continue };
        let pack = kernels.pack_a_bf16_dot.run;
        for (m, n, k) in sizes(gemm.mr) {
            let case = Case::<bf16, bf16>::new(m, n, k);
            let whole = case.run(&gemm, pack, gemm.mr, k, n + 3);
            case.check(gemm.name, whole.checked(), n + 3);
            let blocked = case.run(&gemm, pack, 1, 32, n + 3);
            for row in 0..m {
                let at = row * (n + 3);
                let want = &whole.checked()[at..][..n];
                assert_eq!(want, &blocked.checked()[at..][..n], "{}", gemm.name);
                let mut x = case.a[row * case.lda..][..k].to_vec();
                x.resize(k.next_multiple_of(2), bf16::ZERO);
                let mut y = output(n);
                (gemv.run)(y.inside(), &x, &case.packed, panel_len::<bf16>(k), false);
                assert_eq!(want, y.checked(), "{} n={n} k={k}", gemv.name);
                let half = k / 64 * 32;
                (gemv.run)(y.inside(), &x[..half], &case.packed, panel_len::<bf16>(k), false);
                (gemv.run)(y.inside(), &x[half..], &case.packed[half * NR..], panel_len::<bf16>(k), true);
                assert_eq!(want, y.checked(), "{} n={n} k={k} in two", gemv.name);
            }
        }
    }
}

#[test]
fn bf16_dot_of_strange_numbers_equals_its_gemv() {
    let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 1e-40, 3e38];
    for kernels in tables() {
        let (Some(gemm), Some(gemv)) = (kernels.gemm_bf16_dot, kernels.gemv_bf16_dot) else { continue };
        for (m, n, k) in [(gemm.mr.min(35), 51, 150), (2, 16, 64), (20, 70, 33)] {
            let mut case = Case::<bf16, bf16>::new(m, n, k);
            // About the square root of the smallest normal: products that are subnormal, or nearly.
            let small = |x: &mut bf16| *x = bf16::from_bits(x.to_bits() & 0x807f | (61 + x.to_bits() % 4) << 7);
            case.a.iter_mut().take(m / 2 * case.lda).for_each(small);
            case.w.iter_mut().take(n / 2 * k).for_each(small);
            for (i, special) in specials.into_iter().enumerate() {
                case.a[(m - 1) * case.lda + i * 5] = bf16::from_f32(special);
                case.w[(n - 1 - i) * k + i] = bf16::from_f32(special);
            }
            pack_w(&mut case.packed, &case.w, n, k);
            let c = case.run(&gemm, kernels.pack_a_bf16_dot.run, gemm.mr, k, n);
            let bits = |x: &f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
            for (row, want) in c.checked().chunks(n).enumerate() {
                let mut x = case.a[row * case.lda..][..k].to_vec();
                x.resize(k.next_multiple_of(2), bf16::ZERO);
                let mut y = output(n);
                (gemv.run)(y.inside(), &x, &case.packed, panel_len::<bf16>(k), false);
                let got = y.checked().iter().map(bits);
                assert!(got.eq(want.iter().map(bits)), "{} m={m} n={n} k={k} row {row}", gemv.name);
            }
        }
    }
}

#[test]
fn packing_half_precision_activations_equals_converting_them_first() {
    let mut random = Random::new(5);
    for kernels in tables() {
        let (mr, kc) = (kernels.gemm_f32.mr, 37);
        let a: Vec<bf16> = random.row_of(mr * kc);
        let wide: Vec<f32> = a.iter().map(|x| x.to_f32()).collect();
        let (mut direct, mut converted) = (vec![0.0; mr * kc], vec![1.0; mr * kc]);
        (kernels.pack_a_bf16.run)(&mut direct, &a, kc, mr, kc);
        (kernels.pack_a_f32.run)(&mut converted, &wide, kc, mr, kc);
        assert_eq!(direct, converted);
    }
}

#[test]
fn infinities_and_nan_stay_in_their_row_and_column() {
    for kernels in tables() {
        let (m, n, k) = (kernels.gemm_f32.mr, 40, 21);
        let mut case = Case::<f32, f32>::new(m, n, k);
        case.a[k - 1] = f32::INFINITY;
        case.w[33 * k] = f32::NAN;
        pack_w(&mut case.packed, &case.w, n, k);
        let c = case.run(&kernels.gemm_f32, kernels.pack_a_f32.run, m, k, n);
        for (i, x) in c.checked().iter().enumerate() {
            let (row, column) = (i / n, i % n);
            assert_eq!(x.is_nan(), column == 33, "at {row},{column}");
            assert_eq!(x.is_infinite(), row == 0 && column != 33, "at {row},{column}");
        }
    }
}

#[test]
fn half_weights_keep_subnormals_and_infinities() {
    for kernels in tables() {
        let k = 3;
        let weights = [f16::from_bits(1), f16::INFINITY, f16::from_bits(0x03ff)];
        let mut packed = vec![f16::ZERO; packed_len::<f16>(1, k)];
        pack_w(&mut packed, &weights, 1, k);
        let mut y = [0f32];
        (kernels.gemv_f16.run)(&mut y, &[16_777_216.0, 0.0, 0.0], &packed, panel_len::<f16>(k), false);
        assert!(y[0].is_nan(), "0 · ∞");
        (kernels.gemv_f16.run)(&mut y, &[16_777_216.0], &packed, panel_len::<f16>(k), false);
        assert_eq!(y[0], 1.0);
    }
}

#[test]
fn empty_products_touch_nothing_or_give_zeros() {
    for kernels in tables() {
        let mut y = [f32::NAN; 5];
        (kernels.gemv_bf16.run)(&mut y, &[], &[], panel_len::<bf16>(0), false);
        assert_eq!(y, [0.0; 5]);
        (kernels.gemv_bf16.run)(&mut [], &[1.0], &[], panel_len::<bf16>(1), false);
    }
}

#[test]
#[should_panic(expected = "too short")]
fn short_panels_are_refused() {
    let kernels = tables().pop().unwrap();
    let w = vec![bf16::ONE; 16 * <bf16 as Weight>::K_STEP];
    (kernels.gemv_bf16.run)(&mut [0.0; 17], &[1.0, 2.0], &w, 32, false);
}
