//! Encoders lose no more than ggml's do, with and without an importance matrix, on every kind of input.

mod inputs;

use qiao_core::DType;
use qiao_quant::{decode_row, encode_row};

/// The sum of (weighted) squared errors of a row after encoding and decoding.
fn error(dtype: DType, x: &[f32], importance: Option<&[f32]>) -> f64 {
    let mut bytes = vec![0; dtype.bytes_for(x.len()).unwrap()];
    encode_row(dtype, x, importance, &mut bytes).unwrap();
    let mut back = vec![f32::NAN; x.len()];
    decode_row(dtype, &bytes, &mut back).unwrap();
    let weight = |i: usize| importance.map_or(1.0, |w| w[i] as f64);
    x.iter().zip(&back).enumerate().map(|(i, (a, b))| weight(i) * (*a as f64 - *b as f64).powi(2)).sum()
}

#[test]
fn no_encoder_loses_more_than_the_reference_encoder() {
    let rows: Vec<[&str; 4]> = include_str!("../../../fixtures/quant/encoder_errors.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.split(' ').collect::<Vec<_>>().try_into().expect("four words"))
        .collect();
    assert_eq!(rows.len(), 13 * inputs::NAMES.len() * 2);
    let mut worse = Vec::new();
    for [dtype, name, weighing, theirs] in rows {
        let (x, w) = inputs::input(name);
        let theirs: f64 = theirs.parse().unwrap();
        let ours = error(dtype.parse().unwrap(), &x, (weighing == "weighted").then_some(&w[..]));
        println!("{dtype:7} {name:9} {weighing:9} ours {ours:.6e} theirs {theirs:.6e} ratio {:.4}", ours / theirs);
        if ours > theirs * (1.0 + 1e-9) {
            worse.push(format!("{dtype} {name} {weighing}: {ours:e} against {theirs:e}"));
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}
