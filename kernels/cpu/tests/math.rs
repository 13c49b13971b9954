//! Elementwise functions against f64, over the whole range of f32.

mod oracle;

use oracle::{output, tables, ulps};
use qiao_kernels_cpu::{Entry, Kernels, Unary};

type Pick = fn(&Kernels) -> Entry<Unary>;

/// A function, its truth, and what it may be off by, in units in the last place.
type Function = (Pick, fn(f64) -> f64, f64);

const FUNCTIONS: [Function; 7] = [
    (|k| k.exp, |x| x.exp(), 1.0),
    (|k| k.sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 1.0),
    (|k| k.tanh, |x| x.tanh(), 1.0),
    (|k| k.silu, |x| x / (1.0 + (-x).exp()), 1.0),
    (|k| k.gelu_tanh, gelu_tanh, 1.0),
    (|k| k.gelu_erf, gelu_erf, 1.0),
    (|k| k.relu, |x| if x < 0.0 { 0.0 } else { x }, 0.0),
];

/// `(1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))`, which does not cancel.
fn gelu_tanh(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

/// `(1 + erf(z)) / 2 = erfc(-z) / 2`, which does not cancel.
fn gelu_erf(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// f32 of every exponent and both signs, a dense walk of the interesting middle, and the corners.
fn arguments() -> Vec<f32> {
    let mut x: Vec<f32> = (0..=u32::MAX / 40_009).map(|i| f32::from_bits(i * 40_009)).collect();
    x.extend((-40_000..=40_000).map(|i| i as f32 * 0.002_7));
    x.extend((-2_000..=2_000).map(|i| i as f32 * 1e-4));
    for corner in [0.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, 88.722_84, 103.972_08, 14.4] {
        x.extend([corner, -corner]);
    }
    x.push(f32::NAN);
    x
}

#[test]
fn functions_keep_within_their_ulps_over_the_whole_range() {
    let x = arguments();
    for kernels in tables() {
        for (pick, truth, limit) in FUNCTIONS {
            let entry = pick(&kernels);
            let mut out = output(x.len());
            (entry.run)(out.inside(), &x);
            let mut worst = (0.0, 0.0);
            for (x, got) in x.iter().zip(out.checked()) {
                let error = ulps(*got, truth(f64::from(*x)));
                if error > worst.0 {
                    worst = (error, *x);
                }
            }
            assert!(worst.0 <= limit, "{}: {} ulp at {:e}, limit {limit}", entry.name, worst.0, worst.1);
        }
    }
}

#[test]
fn a_tail_is_computed_like_the_middle() {
    let x: Vec<f32> = (0..70).map(|i| i as f32 * 0.37 - 11.0).collect();
    for kernels in tables() {
        for (pick, ..) in FUNCTIONS {
            let entry = pick(&kernels);
            let mut whole = output(70);
            (entry.run)(whole.inside(), &x);
            for len in [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67] {
                let mut out = output(len);
                (entry.run)(out.inside(), &x[..len]);
                assert_eq!(out.checked(), &whole.checked()[..len], "{}", entry.name);
            }
        }
    }
}

#[test]
fn silu_mul_rounds_once() {
    let gate = arguments();
    let up: Vec<f32> = gate.iter().rev().copied().collect();
    for kernels in tables() {
        let mut out = output(gate.len());
        (kernels.silu_mul.run)(out.inside(), &gate, &up);
        for ((gate, up), got) in gate.iter().zip(&up).zip(out.checked()) {
            let (g, u) = (f64::from(*gate), f64::from(*up));
            if g.is_finite() && g < -700.0 && u.is_infinite() {
                continue; // Whether silu(g) is zero here is a matter of the exponential's range.
            }
            let silu = g / (1.0 + (-g).exp());
            let error = ulps(*got, silu * u);
            assert!(error <= 1.0, "{}: {error} ulp at {gate:e}, {up:e}", kernels.silu_mul.name);
        }
    }
}
