use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;

fn file(dir: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> std::path::PathBuf {
    let path = dir.join("golden.safetensors");
    let views = tensors.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.to_vec(), b).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn refusal(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    Golden::open(file(dir.path(), tensors)).unwrap_err().to_string()
}

#[test]
fn equal_rows_have_no_error() {
    let mut e = RowErrors::default();
    e.add_logits(&[1.0, -2.0, 0.5], &[1.0, -2.0, 0.5]);
    e.add(&[0.0, 0.0], &[0.0, 0.0]);
    assert_eq!((e.max_abs, e.max_rel, e.max_kl), (0.0, 0.0, 0.0));
    assert!((e.cosine() - 1.0).abs() < 1e-12);
}

#[test]
fn the_worst_row_counts() {
    let mut e = RowErrors::default();
    e.add_logits(&[1.0, 2.0], &[1.0, 2.0]);
    e.add_logits(&[1.0, 2.0], &[1.0, 4.0]);
    e.add_logits(&[3.0, 2.0], &[3.0, 2.0]);
    assert_eq!((e.max_abs, e.max_rel), (2.0, 0.5));
    let p = 1.0 / (1.0 + (-3.0f64).exp());
    let q = 1.0 / (1.0 + (-1.0f64).exp());
    let kl = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
    assert!((e.max_kl - kl).abs() < 1e-12);
}

#[test]
fn a_value_that_is_not_finite_is_an_infinite_error() {
    let mut e = RowErrors::default();
    e.add_logits(&[f32::NAN, 2.0], &[1.0, 2.0]);
    assert_eq!((e.max_abs, e.max_kl, e.not_finite), (f64::INFINITY, f64::INFINITY, 1));
    let mut zero = RowErrors::default();
    zero.add(&[0.1], &[0.0]);
    assert_eq!(zero.max_rel, f64::INFINITY);
}

#[test]
fn hostile_golden_files_are_clear_errors() {
    let ids = ("input_ids", Dtype::I64, &[2][..], i64s(&[1, 2]));
    let logits = ("logits", Dtype::F32, &[2, 3][..], f32s(&[0.0; 6]));
    let cases = [
        (vec![logits.clone()], "no tensor \"input_ids\" among its 1: make the golden file"),
        (vec![ids.clone()], "no tensor \"logits\""),
        (vec![("input_ids", Dtype::I64, &[2], i64s(&[1, -2])), logits.clone()], "-2, which is no token id"),
        (vec![("input_ids", Dtype::F32, &[2], f32s(&[1.0, 2.0])), logits.clone()], "input_ids is f32"),
        (vec![("input_ids", Dtype::I64, &[0], vec![]), logits.clone()], "T from 1"),
        (vec![ids.clone(), ("logits", Dtype::F32, &[3, 2], f32s(&[0.0; 6]))], "wanted f32 [2, ..]"),
        (vec![ids.clone(), ("logits", Dtype::F32, &[6], f32s(&[0.0; 6]))], "wanted f32 [2, ..]"),
        (vec![ids.clone(), ("logits", Dtype::F16, &[2, 3], vec![0; 12])], "logits is f16"),
        (vec![ids.clone(), logits.clone(), ("greedy_ids", Dtype::I64, &[1], i64s(&[1 << 40]))], "no token id"),
        (vec![ids, logits, ("layers.0.output", Dtype::F32, &[1, 4], f32s(&[0.0; 4]))], "layers.0.output"),
    ];
    for (tensors, want) in cases {
        let message = refusal(&tensors);
        assert!(message.contains(want), "{want}: {message}");
    }
    assert!(Golden::open("no/such/golden.safetensors").is_err());
    assert!(Golden::open(".").unwrap_err().to_string().contains("a directory"));
}

#[test]
fn the_cached_path_is_the_one_compared() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Golden::open(file(
        dir.path(),
        &[
            ("input_ids", Dtype::I64, &[1], i64s(&[5])),
            ("logits", Dtype::F32, &[1, 2], f32s(&[0.0, f32::NAN])),
            ("greedy_ids", Dtype::I64, &[1], i64s(&[1])),
            ("greedy_ids_cached", Dtype::I64, &[1], i64s(&[2])),
        ],
    ))
    .unwrap();
    assert_eq!(golden.greedy_ids(), Some(&[2][..]));
    assert!(golden.logits_row(0).unwrap_err().to_string().contains("NaN"));
}
