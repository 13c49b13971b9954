//! Packing and unpacking of weights and activations.

mod oracle;

use half::{bf16, f16};
use oracle::{Number, Random};
use qiao_kernels_cpu::{
    NR, WeightMatrix, pack_panel, pack_panel_i8, pack_w, pack_w_i8, packed_len, packed_len_i8, panel_len, panel_len_i8,
    unpack_w, unpack_w_i8,
};

const SIZES: [(usize, usize); 9] = [(1, 1), (16, 16), (15, 7), (17, 8), (32, 2), (33, 31), (48, 1), (5, 64), (100, 37)];

fn roundtrip<T: Number>() {
    let mut random = Random::new(1);
    for (n, k) in SIZES {
        let w: Vec<T> = random.row_of(n * k);
        let mut packed = vec![T::from_f32(9.0); packed_len::<T>(n, k)];
        pack_w(&mut packed, &w, n, k);
        let mut back = vec![T::from_f32(7.0); n * k];
        unpack_w(&mut back, &packed, n, k);
        assert_eq!(back, w, "{} [{n}, {k}]", T::NAME);
        // Everything that is not a weight is zero.
        let sum: f64 = packed.iter().map(|x| x.to_f64().abs()).sum();
        let truth: f64 = w.iter().map(|x| x.to_f64().abs()).sum();
        assert!((sum - truth).abs() < 1e-9 * truth);

        // The same matrix, stored the other way, packs to the same panels, one by one.
        let mut turned = vec![T::from_f32(0.0); n * k];
        for row in 0..n {
            for col in 0..k {
                turned[col * n + row] = w[row * k + col];
            }
        }
        let source = WeightMatrix::column_major(&turned, n, k);
        for panel in 0..n.div_ceil(NR) {
            let mut one = vec![T::from_f32(9.0); panel_len::<T>(k)];
            pack_panel(&mut one, &source, panel);
            assert_eq!(one, packed[panel * panel_len::<T>(k)..][..panel_len::<T>(k)]);
        }
    }
}

#[test]
fn packed_weights_unpack_to_what_they_were() {
    roundtrip::<f32>();
    roundtrip::<f16>();
    roundtrip::<bf16>();
}

#[test]
fn bf16_panels_hold_pairs_of_inputs() {
    let (n, k) = (16, 3);
    let w: Vec<bf16> = (0..n * k).map(|i| bf16::from_f32(i as f32)).collect();
    let mut packed = vec![bf16::ONE; packed_len::<bf16>(n, k)];
    pack_w(&mut packed, &w, n, k);
    assert_eq!(packed.len(), 64);
    let at = |i: usize| packed[i].to_f32();
    // Output 1 is inputs 3, 4, 5 of the source.
    assert_eq!([at(2), at(3), at(34), at(35)], [3.0, 4.0, 5.0, 0.0]);
}

#[test]
fn i8_panels_unpack_and_carry_their_column_sums() {
    let mut random = Random::new(2);
    for (n, k) in SIZES {
        let w = random.row_i8(n * k);
        let mut packed = vec![9i8; packed_len_i8(n, k)];
        pack_w_i8(&mut packed, &w, n, k);
        let mut back = vec![7i8; n * k];
        unpack_w_i8(&mut back, &packed, n, k);
        assert_eq!(back, w);
        for row in 0..n {
            let end = (row / NR + 1) * panel_len_i8(k) - 64 + row % NR * 4;
            let bytes: [u8; 4] = std::array::from_fn(|i| packed[end + i] as u8);
            let sum: i32 = w[row * k..][..k].iter().map(|x| i32::from(*x)).sum();
            assert_eq!(i32::from_le_bytes(bytes), sum);
        }
        let source = WeightMatrix::row_major(&w, n, k);
        let mut one = vec![9i8; panel_len_i8(k)];
        pack_panel_i8(&mut one, &source, n.div_ceil(NR) - 1);
        assert_eq!(one, packed[packed.len() - panel_len_i8(k)..]);
    }
}

#[test]
fn packed_activations_are_zero_past_the_last_row() {
    let mut random = Random::new(3);
    for kernels in oracle::tables() {
        let mr = kernels.gemm_f32.mr;
        for (m, kc) in [(1, 5), (mr - 1, 16), (mr, 33)] {
            let lda = kc + 3;
            let a: Vec<f16> = random.row_of(m * lda);
            let mut packed = vec![f32::NAN; kc * mr];
            (kernels.pack_a_f16.run)(&mut packed, &a, lda, m, kc);
            for (i, x) in packed.iter().enumerate() {
                let (k, row) = (i / mr, i % mr);
                let truth = if row < m { a[row * lda + k].to_f32() } else { 0.0 };
                assert_eq!(*x, truth, "{}", kernels.pack_a_f16.name);
            }
        }
    }
}
