//! int8: exact products and the quantisation of rows.

mod oracle;

use oracle::{Guarded, Random, tables};
use qiao_kernels_cpu::{GemmBlock, NR, pack_w_i8, packed_len_i8, panel_len_i8};

/// `a[m, k] · w[n, k]ᵀ` with rows in blocks of at most `rows` and K in blocks of `kc`.
fn product(
    kernels: &qiao_kernels_cpu::Kernels,
    (m, n, k): (usize, usize, usize),
    a: &[i8],
    packed: &[i8],
    rows: usize,
    kc: usize,
) -> Vec<i32> {
    let gemm = &kernels.gemm_i8;
    let ldc = n + 2;
    let mut c = Guarded::new((m - 1) * ldc + n, -77, 123_456);
    let pointer = c.inside().as_mut_ptr();
    for row in (0..m).step_by(rows) {
        let m = rows.min(m - row);
        for start in (0..k).step_by(kc) {
            let depth = kc.min(k - start);
            let mut part = vec![99i8; depth.next_multiple_of(4) * gemm.mr];
            (kernels.pack_a_i8.run)(&mut part, &a[row * k + start..], k, m, depth);
            let block = GemmBlock {
                m,
                kc: depth,
                a: &part,
                w: &packed[start * NR..],
                panel_stride: panel_len_i8(k),
                panels: n.div_ceil(NR),
                // SAFETY: the row starts within the output.
                c: unsafe { pointer.add(row * ldc) },
                ldc,
                columns: n,
                accumulate: start > 0,
            };
            // SAFETY: the output holds m rows of n columns at a stride of ldc.
            unsafe { (gemm.run)(&block) };
        }
    }
    let c = c.checked();
    assert!(c.chunks(ldc).all(|row| row.iter().skip(n).all(|x| *x == -77)), "{} wrote past its columns", gemm.name);
    c.chunks(ldc).flat_map(|row| &row[..n]).copied().collect()
}

#[test]
fn products_are_exact() {
    let mut random = Random::new(8);
    for kernels in tables() {
        let mr = kernels.gemm_i8.mr;
        let mut sizes = vec![(mr, 32, 64), (1, 1, 1), (13, 47, 101), (mr + 1, 16, 6), (2, 33, 1031)];
        sizes.extend((1..=mr).filter(|m| *m <= 18 || (m + 1) % 16 < 3).map(|m| (m, 17, 9)));
        for (m, n, k) in sizes {
            let (a, w) = (random.row_i8(m * k), random.row_i8(n * k));
            let mut packed = vec![0; packed_len_i8(n, k)];
            pack_w_i8(&mut packed, &w, n, k);
            let truth: Vec<i32> = (0..m * n)
                .map(|i| {
                    let (a, w) = (&a[i / n * k..][..k], &w[i % n * k..][..k]);
                    a.iter().zip(w).map(|(a, w)| i32::from(*a) * i32::from(*w)).sum()
                })
                .collect();
            let name = kernels.gemm_i8.name;
            assert_eq!(product(&kernels, (m, n, k), &a, &packed, mr, k), truth, "{name} {m} {n} {k}");
            assert_eq!(product(&kernels, (m, n, k), &a, &packed, 1, 8), truth, "{name} {m} {n} {k} in blocks");
        }
    }
}

#[test]
fn the_most_negative_values_do_not_saturate() {
    let (m, n, k) = (3, 18, 515);
    let (a, w) = (vec![-128i8; m * k], vec![-128i8; n * k]);
    let mut packed = vec![0; packed_len_i8(n, k)];
    pack_w_i8(&mut packed, &w, n, k);
    for kernels in tables() {
        let c = product(&kernels, (m, n, k), &a, &packed, kernels.gemm_i8.mr, k);
        assert!(c.iter().all(|x| *x == 128 * 128 * k as i32), "{}", kernels.gemm_i8.name);
    }
}

#[test]
fn rows_quantise_alike_on_every_tier() {
    let mut random = Random::new(9);
    for len in [0usize, 1, 7, 8, 9, 31, 64, 1001] {
        for planted in [-3.0, 1e-44, f32::INFINITY, f32::NAN] {
            for at in [0, len / 2, len.saturating_sub(1)] {
                let mut x = random.row(len);
                if planted == 1e-44 {
                    x.iter_mut().for_each(|x| *x *= 1e-42);
                }
                if let Some(x) = x.get_mut(at) {
                    *x = planted;
                }
                let has_nan = x.iter().any(|x| x.is_nan());
                let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
                let scale = if has_nan { f32::NAN } else { largest / 127.0 };
                let code = |x: &f32| if scale == 0.0 { 0 } else { (x / scale).round_ties_even() as i8 };
                let truth: Vec<i8> = x.iter().map(code).collect();
                for kernels in tables() {
                    let mut q = Guarded::new(len, 55i8, -55);
                    let got = (kernels.quantize_row_i8.run)(q.inside(), &x);
                    assert!(got == scale || (got.is_nan() && has_nan), "{got} for {scale}");
                    assert_eq!(q.checked(), truth, "{}", kernels.quantize_row_i8.name);
                }
            }
        }
    }
}

#[test]
fn a_zero_row_quantises_to_zeros_and_halves_go_to_even() {
    for kernels in tables() {
        let mut q = [9i8; 20];
        assert_eq!((kernels.quantize_row_i8.run)(&mut q, &[0.0; 20]), 0.0);
        assert_eq!(q, [0; 20]);
        let x = [127.0, 0.5, 1.5, -0.5, -1.5, 2.5, -127.0, 126.5, 3.0];
        let mut q = [9i8; 9];
        assert_eq!((kernels.quantize_row_i8.run)(&mut q, &x), 1.0);
        assert_eq!(q, [127, 0, 2, 0, -2, 2, -127, 126, 3]);
    }
}
