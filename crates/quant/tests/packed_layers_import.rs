//! Layers that other packages packed stand for the weights that those packages, or plain numpy, say.

mod layers;

use layers::{Layer, numbers, part, weights};
use qiao_core::DType;
use qiao_quant::import::{Activations, AscendKind, AwqVersion, Form, GptqZeros, Linear, Part, Scheme};
use safetensors::{Dtype, SafeTensors};

fn case(name: &str) -> Layer {
    let file = SafeTensors::deserialize(include_bytes!("../../../fixtures/quant/import.safetensors")).unwrap();
    let mut layer = Layer::default();
    for (full, tensor) in file.tensors() {
        if let Some(suffix) = full.strip_prefix(name).and_then(|s| s.strip_prefix('.')) {
            let dtype = match tensor.dtype() {
                Dtype::F16 => DType::F16,
                Dtype::F32 => DType::F32,
                Dtype::F64 => DType::F64,
                Dtype::I8 => DType::I8,
                Dtype::I32 => DType::I32,
                Dtype::I64 => DType::I64,
                Dtype::F8_E4M3 => DType::F8E4M3,
                other => panic!("{full} is {other:?}"),
            };
            layer.put(suffix, dtype, tensor.shape(), tensor.data().to_vec());
        }
    }
    layer
}

fn gptq(bits: u32, group: usize, symmetric: bool, zeros: GptqZeros) -> Scheme {
    Scheme::Gptq { bits, group_size: Some(group), symmetric, zeros }
}

fn packed(bits: u32, group_size: Option<usize>, symmetric: bool) -> Scheme {
    Scheme::Packed { bits, group_size, symmetric }
}

fn cases() -> Vec<(&'static str, Scheme, DType)> {
    use DType::{F8E4M3, I4, I8, U4, U8};
    use GptqZeros::{OneLess, Plain};
    let awq = |version, group_size| Scheme::Awq { version, group_size };
    let int8 = |activations, symmetric| Scheme::Int8 { activations, symmetric };
    let ascend = |kind| Scheme::Ascend { kind };
    vec![
        ("gptq2", gptq(2, 32, false, OneLess), U4),
        ("gptq3", gptq(3, 32, false, OneLess), U4),
        ("gptq4", gptq(4, 32, false, OneLess), U4),
        ("gptq4_v2", gptq(4, 32, false, Plain), U4),
        ("gptq4_autoawq", gptq(4, 32, false, OneLess), U4),
        ("gptq4_symmetric", gptq(4, 32, true, OneLess), I4),
        ("gptq4_symmetric", gptq(4, 32, false, OneLess), U4),
        ("gptq4_act_order", gptq(4, 32, true, OneLess), I4),
        ("gptq4_one_group", Scheme::Gptq { bits: 4, group_size: None, symmetric: false, zeros: OneLess }, U4),
        ("gptq4_short_group", gptq(4, 64, false, OneLess), U4),
        ("gptq8", gptq(8, 32, false, OneLess), U8),
        ("gptq8_symmetric", gptq(8, 32, true, Plain), I8),
        ("awq_gemm", awq(AwqVersion::Gemm, Some(32)), U4),
        ("awq_gemm_one_group", awq(AwqVersion::Gemm, None), U4),
        ("awq_gemv", awq(AwqVersion::Gemv, Some(32)), U4),
        ("packed4", packed(4, Some(32), true), I4),
        ("packed4_zeros", packed(4, Some(32), false), U4),
        ("packed4_act_order", packed(4, Some(32), true), I4),
        ("packed4_tensor", packed(4, None, true), I4),
        ("packed8", packed(8, None, true), I8),
        ("packed3_zeros", packed(3, None, false), U4),
        ("packed5", packed(5, None, true), I8),
        ("int8", int8(Activations::Float, true), I8),
        ("int8", int8(Activations::Int8Dynamic, true), I8),
        ("int8_zeros", int8(Activations::Float, false), I8),
        ("int8_zeros", int8(Activations::Int8Dynamic, false), I8),
        ("int8_static", int8(Activations::Int8Static, true), I8),
        ("fp8_channel", Scheme::Fp8 { block: None }, F8E4M3),
        ("fp8_tensor", Scheme::Fp8 { block: None }, F8E4M3),
        ("fp8_block", Scheme::Fp8 { block: Some([12, 32]) }, F8E4M3),
        ("ascend_static", ascend(AscendKind::W8A8), I8),
        ("ascend_static_i64", ascend(AscendKind::W8A8), I8),
        ("ascend_dynamic", ascend(AscendKind::W8A8Dynamic), I8),
        ("ascend_dynamic_offsets", ascend(AscendKind::W8A8Dynamic), I8),
        ("ascend_w8a16_groups", ascend(AscendKind::W8A16), I8),
    ]
}

fn linear(name: &str) -> (Layer, Linear) {
    let (_, scheme, _) = cases().into_iter().find(|c| c.0 == name).unwrap();
    let layer = case(name);
    let linear = scheme.linear(&layer).unwrap();
    (layer, linear)
}

#[test]
fn every_case_stands_for_its_weights_bit_for_bit() {
    for (name, scheme, codes) in cases() {
        let layer = case(name);
        let linear = scheme.linear(&layer).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(linear.codes, codes, "{name}");
        let (dtype, shape, bytes) = &layer.0["expected"];
        assert_eq!(shape, &[linear.n, linear.k], "{name}");
        let want: Vec<f32> = numbers(*dtype, bytes).iter().map(|v| *v as f32).collect();
        let got = weights(&linear, &layer);
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert_eq!(g, w, "{name}: output {}, input {}", i / linear.k, i % linear.k);
        }
    }
}

#[test]
fn every_case_of_the_file_is_read() {
    let file = SafeTensors::deserialize(include_bytes!("../../../fixtures/quant/import.safetensors")).unwrap();
    for name in file.names() {
        let name = name.split('.').next().unwrap();
        assert!(cases().iter().any(|c| c.0 == name), "{name}");
    }
}

#[test]
fn headers_alone_tell_the_same_but_for_index_tables() {
    struct Headers(Layer);
    impl qiao_quant::import::Tensors for Headers {
        fn header(&self, suffix: &str) -> Option<(DType, Vec<usize>)> {
            self.0.header(suffix)
        }
        fn bytes(&self, _: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
            None
        }
    }
    for (name, scheme, _) in cases() {
        // Which of these two channels there are 92 and 91 of, only `weight_shape` tells; what is 0, only its bytes.
        if matches!(name, "packed3_zeros" | "packed5" | "ascend_dynamic_offsets") {
            continue;
        }
        let layer = case(name);
        let (full, headers) = (scheme.linear(&layer).unwrap(), scheme.linear(&Headers(layer)).unwrap());
        assert_eq!(
            (full.n, full.k, full.codes, full.bias),
            (headers.n, headers.k, headers.codes, headers.bias),
            "{name}"
        );
        match (full.form, headers.form) {
            (Form::Grouped { scales: a, zeros: b, .. }, Form::Grouped { scales: c, zeros: d, .. }) => {
                assert_eq!((a, b), (c, d), "{name}");
            }
            (a, b) => assert_eq!(a, b, "{name}"),
        }
    }
}

#[test]
fn an_index_table_is_kept_only_where_channels_are_out_of_order() {
    let indexed = |name: &str| matches!(linear(name).1.form, Form::Grouped { g_idx: true, .. });
    assert!(indexed("gptq4_act_order") && indexed("packed4_act_order"));
    assert!(!indexed("gptq4") && !indexed("packed4"));
}

#[test]
fn static_int8_layers_give_the_outputs_of_their_definition() {
    for name in ["int8_static", "ascend_static", "ascend_static_i64"] {
        let (layer, linear) = linear(name);
        let bias_in_sum = name != "int8_static";
        assert_eq!(linear.form, Form::Int8 { is_static: true, bias_in_sum });
        let tensor = |suffix: &str| numbers(layer.0[suffix].0, &layer.0[suffix].2);
        let of = |p| part(&linear, p, &layer).unwrap();
        let (codes, scales, sum_bias) = (of(Part::Codes), of(Part::Scales), of(Part::SumBias));
        let (scale, zero) = (of(Part::InputScale)[0], of(Part::InputZero)[0]);
        let bias = part(&linear, Part::Bias, &layer).filter(|_| !bias_in_sum);
        let (x, y, k) = (tensor("x"), tensor("y"), linear.k);
        for (i, want) in y.iter().enumerate() {
            let (t, n) = (i / linear.n, i % linear.n);
            let sum: f64 = (0..k)
                .map(|j| {
                    let xq = (x[t * k + j] / scale + zero).round_ties_even().clamp(-128.0, 127.0);
                    xq * codes[n * k + j]
                })
                .sum();
            let got = scale * scales[n] * (sum + sum_bias[n]) + bias.as_ref().map_or(0.0, |b| b[n]);
            assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{name}: {got} for {want}");
        }
    }
}

#[test]
fn a_bias_stays_as_it_is_stored_and_one_inside_a_sum_is_found_there() {
    let (layer, gptq) = linear("gptq4");
    assert_eq!(gptq.part(Part::Bias), Some((DType::F16, vec![gptq.n])));
    assert_eq!(gptq.unpack(Part::Bias, &layer).unwrap(), layer.0["bias"].2);
    for name in ["ascend_static", "ascend_static_i64"] {
        let (mut layer, ascend) = linear(name);
        let (dtype, _, stored) = layer.0.remove("bias").unwrap();
        let (scale, of) = (part(&ascend, Part::InputScale, &layer).unwrap()[0], |p| part(&ascend, p, &layer).unwrap());
        let (found, scales) = (of(Part::Bias), of(Part::Scales));
        assert_eq!(ascend.part(Part::Bias), Some((DType::F32, vec![ascend.n])));
        // Inside the sum it is a whole number.
        for ((found, stored), scale) in found.iter().zip(numbers(dtype, &stored)).zip(scales.iter().map(|s| s * scale))
        {
            assert!((found - stored).abs() <= 0.501 * scale, "{name}: {found} for {stored}");
        }
        assert!(found.iter().any(|bias| *bias != 0.0), "{name}");
    }
}

#[test]
fn int8_with_zero_points_or_groups_is_multiplied_as_floats() {
    assert!(matches!(linear("int8_zeros").1.form, Form::Grouped { zeros: Some(DType::I8), .. }));
    assert!(matches!(linear("ascend_dynamic_offsets").1.form, Form::Grouped { zeros: Some(DType::F32), .. }));
    assert_eq!(linear("ascend_dynamic").1.form, Form::Int8 { is_static: false, bias_in_sum: false });
    assert!(matches!(linear("ascend_w8a16_groups").1.form, Form::Grouped { group_size: 32, .. }));
}
