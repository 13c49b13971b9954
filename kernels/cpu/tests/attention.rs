//! The two products of attention against f64.

mod oracle;

use half::{bf16, f16};
use oracle::{Number, Random, U, assert_close, output, tables};
use qiao_kernels_cpu::{Kernels, Rows};

const DIMS: [usize; 10] = [64, 80, 96, 128, 192, 256, 1, 7, 37, 100];
const COUNTS: [(usize, usize); 8] = [(1, 1), (4, 4), (7, 16), (8, 5), (3, 33), (1, 17), (14, 2), (5, 0)];

fn scores<T: Number>(kernels: &Kernels) {
    let mut random = Random::new(21);
    let entry = T::qk(kernels);
    for dim in DIMS {
        for (rows, keys) in COUNTS {
            let (q_stride, k_stride, ld) = (dim + 3, dim + 5, keys + 2);
            let q = random.row(rows * q_stride);
            let k: Vec<T> = random.row_of(keys * k_stride);
            let mut out = output(rows * ld);
            let queries = Rows { data: &q, stride: q_stride, count: rows };
            let cached = Rows { data: &k, stride: k_stride, count: keys };
            (entry.run)(out.inside(), ld, queries, cached, dim, 0.125);
            for (i, got) in out.checked().iter().enumerate() {
                let (r, j) = (i / ld, i % ld);
                if j >= keys {
                    assert!(got.is_nan(), "{} wrote past its keys", entry.name);
                    continue;
                }
                let terms = (0..dim).map(|d| f64::from(q[r * q_stride + d]) * k[j * k_stride + d].to_f64());
                let (truth, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
                let limit = 0.125 * size * U * (dim as f64 / 4.0 + 6.0);
                assert_close(&format!("{} dim={dim} {rows}x{keys} at {r},{j}", entry.name), *got, 0.125 * truth, limit);
                // Alone, the same bits.
                let mut one = [f32::NAN];
                let query = Rows { data: &q[r * q_stride..], stride: 0, count: 1 };
                let key = Rows { data: &k[j * k_stride..], stride: 0, count: 1 };
                (entry.run)(&mut one, 1, query, key, dim, 0.125);
                assert_eq!(one[0], *got, "{}", entry.name);
            }
        }
    }
}

#[test]
fn scores_are_scaled_dot_products_whatever_stands_beside_them() {
    for kernels in tables() {
        scores::<f32>(&kernels);
        scores::<f16>(&kernels);
        scores::<bf16>(&kernels);
    }
}

fn values<T: Number>(kernels: &Kernels) {
    let mut random = Random::new(22);
    let entry = T::pv(kernels);
    for dim in DIMS {
        for (rows, keys) in COUNTS {
            let (stride, v_stride, ld) = (dim + 3, dim + 5, keys + 2);
            let before = random.row(rows * stride);
            let alpha = random.row(rows);
            let p = random.row(rows * ld);
            let v: Vec<T> = random.row_of(keys * v_stride);
            let mut out = output(rows * stride);
            out.inside().copy_from_slice(&before);
            let cached = Rows { data: &v, stride: v_stride, count: keys };
            (entry.run)(out.inside(), stride, &alpha, &p, ld, cached, dim);
            for (i, got) in out.checked().iter().enumerate() {
                let (r, d) = (i / stride, i % stride);
                if d >= dim {
                    assert_eq!(*got, before[i], "{} wrote past its row", entry.name);
                    continue;
                }
                let start = f64::from(before[i]) * f64::from(alpha[r]);
                let terms = (0..keys).map(|j| f64::from(p[r * ld + j]) * v[j * v_stride + d].to_f64());
                let (truth, size) = terms.fold((start, start.abs()), |(s, a), x| (s + x, a + x.abs()));
                let limit = size * U * (keys as f64 + 4.0);
                assert_close(&format!("{} dim={dim} {rows}x{keys} at {r},{d}", entry.name), *got, truth, limit);
            }
            for (r, alpha) in alpha.iter().enumerate() {
                let mut one = before[r * stride..][..dim].to_vec();
                (entry.run)(&mut one, dim, &[*alpha], &p[r * ld..], ld, cached, dim);
                assert_eq!(one, out.checked()[r * stride..][..dim], "{} alone", entry.name);
            }
        }
    }
}

#[test]
fn values_are_weighted_sums_whatever_stands_beside_them() {
    for kernels in tables() {
        values::<f32>(&kernels);
        values::<f16>(&kernels);
        values::<bf16>(&kernels);
    }
}

#[test]
#[should_panic(expected = "do not fit")]
fn keys_beyond_the_slice_are_refused() {
    let kernels = tables().pop().unwrap();
    let q = Rows { data: &[0.0; 8][..], stride: 8, count: 1 };
    let k = Rows { data: &[0.0; 15][..], stride: 8, count: 2 };
    (kernels.qk_f32.run)(&mut [0.0; 2], 2, q, k, 8, 1.0);
}
