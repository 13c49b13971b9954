//! What importing refuses, and with which words; the traps of each format; and that no header makes it panic.

mod layers;

use layers::{Layer, part, weights};
use proptest::prelude::*;
use qiao_core::DType;
use qiao_quant::import::{Activations, AscendKind, AwqVersion, Form, GptqZeros, Part, Scheme};

const N: usize = 8;
const K: usize = 64;
const PARTS: [Part; 8] = [
    Part::Codes,
    Part::Scales,
    Part::Zeros,
    Part::GroupIndex,
    Part::Bias,
    Part::InputScale,
    Part::InputZero,
    Part::SumBias,
];

fn floats(dtype: DType, values: &[f32]) -> Vec<u8> {
    let f16 = |v: &f32| half::f16::from_f32(*v).to_le_bytes().to_vec();
    values.iter().flat_map(|v| if dtype == DType::F16 { f16(v) } else { v.to_le_bytes().to_vec() }).collect()
}

fn ints(values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    values.into_iter().flat_map(i32::to_le_bytes).collect()
}

fn gptq_layer() -> Layer {
    let mut layer = Layer::default();
    layer
        .put(
            "qweight",
            DType::I32,
            &[K / 8, N],
            ints((0..(K / 8 * N) as i32).map(|i| i.wrapping_mul(0x9e37_79b9u32 as i32))),
        )
        .put("qzeros", DType::I32, &[2, 1], ints([0x7777_7777, 0x7777_7777]))
        .put("scales", DType::F16, &[2, N], floats(DType::F16, &[0.5; 2 * N]))
        .put("g_idx", DType::I32, &[K], ints((0..K as i32).map(|k| k / 32)));
    layer
}

fn gptq(symmetric: bool, zeros: GptqZeros) -> Scheme {
    Scheme::Gptq { bits: 4, group_size: Some(32), symmetric, zeros }
}

fn awq_layer() -> Layer {
    let mut layer = Layer::default();
    layer
        .put("qweight", DType::I32, &[K, N / 8], ints((0..K as i32).map(|i| i * 77_777)))
        .put("qzeros", DType::I32, &[2, N / 8], ints([5, 6]))
        .put("scales", DType::F16, &[2, N], floats(DType::F16, &[0.5; 2 * N]));
    layer
}

fn awq() -> Scheme {
    Scheme::Awq { version: AwqVersion::Gemm, group_size: Some(32) }
}

fn packed_layer() -> Layer {
    let shape = [N as i64, K as i64].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut layer = Layer::default();
    layer
        .put("weight_packed", DType::I32, &[N, K / 8], ints((0..(N * K / 8) as i32).map(|i| i * 99_991)))
        .put("weight_scale", DType::F32, &[N, 2], floats(DType::F32, &[0.5; 2 * N]))
        .put("weight_shape", DType::I64, &[2], shape);
    layer
}

fn packed(symmetric: bool) -> Scheme {
    Scheme::Packed { bits: 4, group_size: Some(32), symmetric }
}

fn int8_layer() -> Layer {
    let mut layer = Layer::default();
    layer
        .put("weight", DType::I8, &[N, K], (0..N * K).map(|i| (i * 7) as u8).collect())
        .put("weight_scale", DType::F32, &[N, 1], floats(DType::F32, &[0.5; N]))
        .put("input_scale", DType::F32, &[1], floats(DType::F32, &[0.1]))
        .put("input_zero_point", DType::I8, &[1], vec![3]);
    layer
}

fn int8(activations: Activations) -> Scheme {
    Scheme::Int8 { activations, symmetric: true }
}

fn fp8_layer() -> Layer {
    let mut layer = Layer::default();
    layer.put("weight", DType::F8E4M3, &[N, K], vec![0x38; N * K]).put(
        "weight_scale_inv",
        DType::F32,
        &[2, 2],
        floats(DType::F32, &[2.0; 4]),
    );
    layer
}

fn fp8() -> Scheme {
    Scheme::Fp8 { block: Some([6, 48]) }
}

fn ascend_layer() -> Layer {
    let mut layer = Layer::default();
    layer
        .put("weight", DType::I8, &[N, K], vec![1; N * K])
        .put("deq_scale", DType::F32, &[N], floats(DType::F32, &[0.5; N]))
        .put("quant_bias", DType::I32, &[N], ints([7; N]))
        .put("input_scale", DType::F32, &[1], floats(DType::F32, &[0.25]))
        .put("input_offset", DType::F32, &[1], floats(DType::F32, &[-3.0]))
        .put("weight_scale", DType::F32, &[N, 1], floats(DType::F32, &[0.5; N]))
        .put("weight_offset", DType::F32, &[N, 1], floats(DType::F32, &[0.0; N]));
    layer
}

fn ascend(kind: AscendKind) -> Scheme {
    Scheme::Ascend { kind }
}

fn all() -> Vec<(Scheme, Layer)> {
    vec![
        (gptq(false, GptqZeros::OneLess), gptq_layer()),
        (gptq(true, GptqZeros::Plain), gptq_layer()),
        (awq(), awq_layer()),
        (packed(true), packed_layer()),
        (int8(Activations::Float), int8_layer()),
        (int8(Activations::Int8Dynamic), int8_layer()),
        (int8(Activations::Int8Static), int8_layer()),
        (fp8(), fp8_layer()),
        (ascend(AscendKind::W8A8), ascend_layer()),
        (ascend(AscendKind::W8A8Dynamic), ascend_layer()),
        (ascend(AscendKind::W8A16), ascend_layer()),
    ]
}

/// The error of a layer's header, or else of the first part that fails.
fn refused(scheme: &Scheme, layer: &Layer) -> String {
    let linear = match scheme.linear(layer) {
        Err(e) => return e.to_string(),
        Ok(linear) => linear,
    };
    for p in PARTS {
        if linear.part(p).is_some()
            && let Err(e) = linear.unpack(p, layer)
        {
            return e.to_string();
        }
    }
    panic!("{scheme:?} was not refused")
}

fn says(scheme: &Scheme, layer: &Layer, words: &[&str]) {
    let error = refused(scheme, layer);
    assert!(words.iter().all(|w| error.contains(w)), "{error}\nshould say {words:?}");
}

#[test]
fn the_layers_of_this_file_are_sound() {
    for (scheme, layer) in all() {
        let linear = scheme.linear(&layer).unwrap();
        assert_eq!((linear.n, linear.k), (N, K));
        assert!(weights(&linear, &layer).iter().all(|w| w.is_finite()));
        PARTS.iter().for_each(|p| drop(part(&linear, *p, &layer)));
    }
}

#[test]
fn every_tensor_that_is_missing_is_named() {
    for (scheme, layer) in all() {
        let whole = scheme.linear(&layer).unwrap();
        for suffix in layer.0.keys() {
            let mut less = layer.clone();
            less.0.remove(suffix);
            match scheme.linear(&less) {
                Err(e) => {
                    assert!(e.to_string().contains(&format!("'{suffix}'")) || e.to_string().contains("scale"), "{e}")
                }
                // The scheme does without it, and the layer is the same or has one thing less.
                Ok(linear) => assert_eq!((linear.n, linear.k), (whole.n, whole.k)),
            }
        }
    }
    let mut marlin = Layer::default();
    marlin.put("B", DType::I32, &[4, 128], vec![]).put("s", DType::F16, &[2, N], vec![]);
    says(&gptq(true, GptqZeros::OneLess), &marlin, &["'qweight'", "marlin"]);
}

#[test]
fn truncated_tensors_are_counted() {
    for (scheme, layer) in all() {
        let linear = scheme.linear(&layer).unwrap();
        for suffix in layer.0.keys() {
            let mut cut = layer.clone();
            cut.0.get_mut(suffix).unwrap().2.pop();
            for p in PARTS.into_iter().filter(|p| linear.part(*p).is_some()) {
                if let Err(e) = linear.unpack(p, &cut) {
                    let e = e.to_string();
                    assert!(e.contains("truncated") && e.contains(&format!("'{suffix}'")), "{e}");
                } else {
                    assert_eq!(linear.unpack(p, &cut).unwrap(), linear.unpack(p, &layer).unwrap());
                }
            }
        }
    }
    let mut layer = gptq_layer();
    layer.0.get_mut("qweight").unwrap().2.pop();
    says(&gptq(true, GptqZeros::OneLess), &layer, &["'qweight'", "255 bytes", "256 bytes", "truncated"]);
}

#[test]
fn group_sizes_that_do_not_fit_are_told() {
    let size = |group_size| Scheme::Gptq { bits: 4, group_size, symmetric: true, zeros: GptqZeros::OneLess };
    says(&size(Some(16)), &gptq_layer(), &["'scales'", "[2, 8]", "groups of 16", "[4, 8]"]);
    says(&size(None), &gptq_layer(), &["'scales'", "[1, 8]"]);
    says(&size(Some(0)), &gptq_layer(), &["group size"]);
    says(&Scheme::Awq { version: AwqVersion::Gemm, group_size: Some(48) }, &awq_layer(), &["48", "divisor"]);
    says(
        &Scheme::Packed { bits: 4, group_size: Some(64), symmetric: true },
        &packed_layer(),
        &["'weight_scale'", "[8, 1]"],
    );
    says(
        &Scheme::Packed { bits: 4, group_size: None, symmetric: true },
        &packed_layer(),
        &["'weight_scale'", "no groups"],
    );
    says(&Scheme::Fp8 { block: Some([128, 128]) }, &fp8_layer(), &["'weight_scale_inv'", "[1, 1]"]);
    says(&Scheme::Fp8 { block: None }, &fp8_layer(), &["weight_block_size"]);
    says(&Scheme::Fp8 { block: Some([0, 4]) }, &fp8_layer(), &["above 0"]);
}

#[test]
fn bits_that_are_not_read_are_told() {
    for bits in [0, 1, 5, 6, 7, 16, 64] {
        let scheme = Scheme::Gptq { bits, group_size: Some(32), symmetric: true, zeros: GptqZeros::OneLess };
        says(&scheme, &gptq_layer(), &["bits", "2, 3, 4 and 8"]);
    }
    for bits in [0, 1, 9, 32] {
        says(&Scheme::Packed { bits, group_size: Some(32), symmetric: true }, &packed_layer(), &["bits", "2 to 8"]);
    }
}

#[test]
fn shapes_and_dtypes_that_disagree_are_told() {
    let mut layer = gptq_layer();
    layer.put("qzeros", DType::I32, &[1, 2], ints([0, 0]));
    says(&gptq(false, GptqZeros::Plain), &layer, &["'qzeros'", "[1, 2]", "[2, 1]"]);
    let mut layer = gptq_layer();
    layer.put("g_idx", DType::I32, &[K + 8], ints([0; K + 8]));
    says(&gptq(true, GptqZeros::Plain), &layer, &["'g_idx'", "hold 64 input channels"]);
    let mut layer = gptq_layer();
    layer.put("bias", DType::F16, &[N + 1], vec![0; 2 * N + 2]);
    says(&gptq(true, GptqZeros::Plain), &layer, &["'bias'", "[9]", "[8]"]);
    // The interleaved int16 of gemv_fast.
    let mut layer = awq_layer();
    layer.put("qweight", DType::I16, &[N / 4, K], vec![0; N / 2 * K]);
    says(&awq(), &layer, &["'qweight'", "i16", "other layouts are not read"]);
    let mut layer = packed_layer();
    layer.put("weight_shape", DType::I64, &[2], [16i64, 64].iter().flat_map(|v| v.to_le_bytes()).collect());
    says(&packed(true), &layer, &["'weight_shape'", "[16.0, 64.0]", "[8, 8]"]);
    let mut layer = fp8_layer();
    layer.put("weight", DType::F8E5M2, &[N, K], vec![0; N * K]);
    says(&fp8(), &layer, &["'weight'", "f8_e5m2", "f8_e4m3"]);
    let mut layer = ascend_layer();
    layer.put("weight_scale", DType::F32, &[N, 3], vec![0; 12 * N]);
    says(&ascend(AscendKind::W8A16), &layer, &["'weight_scale'", "no 3 groups"]);
}

#[test]
fn scales_that_are_no_numbers_are_named_by_row_and_group() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut table = [0.5; 2 * N];
        table[N + 3] = bad;
        let mut layer = gptq_layer();
        layer.put("scales", DType::F16, &[2, N], floats(DType::F16, &table));
        says(&gptq(true, GptqZeros::Plain), &layer, &["'scales'", "row 3, group 1"]);
        let mut layer = packed_layer();
        layer.put("weight_scale", DType::F32, &[N, 2], floats(DType::F32, &table));
        says(&packed(true), &layer, &["'weight_scale'", "row 5, group 1"]);
        let mut layer = ascend_layer();
        layer.put("deq_scale", DType::F32, &[N], floats(DType::F32, &table[N..]));
        says(&ascend(AscendKind::W8A8), &layer, &["'deq_scale'", "row 3"]);
    }
    for bad in [0.0, -0.5, f32::NAN] {
        let mut layer = int8_layer();
        layer.put("input_scale", DType::F32, &[1], floats(DType::F32, &[bad]));
        says(&int8(Activations::Int8Static), &layer, &["'input_scale'", "above 0"]);
    }
    let mut layer = fp8_layer();
    layer.0.get_mut("weight").unwrap().2[K + 5] = 0xff;
    says(&fp8(), &layer, &["output 1, input 5 is NaN"]);
}

#[test]
fn group_indices_and_zero_points_out_of_range_are_named() {
    for bad in [2, -1, i32::MIN] {
        let mut index: Vec<i32> = (0..K as i32).map(|k| k / 32).collect();
        index[9] = bad;
        let mut layer = gptq_layer();
        layer.put("g_idx", DType::I32, &[K], ints(index));
        says(&gptq(true, GptqZeros::Plain), &layer, &["'g_idx'", "input channel 9", "0..2"]);
    }
    // One entry apart from a table that was never filled.
    for (blank, other, channel) in [(-1, 1, 0), (0, -1, 9)] {
        let mut index = [blank; K];
        index[9] = other;
        let mut layer = gptq_layer();
        layer.put("g_idx", DType::I32, &[K], ints(index));
        says(&gptq(true, GptqZeros::Plain), &layer, &["'g_idx'", &format!("input channel {channel} "), "0..2"]);
    }
    let mut layer = packed_layer();
    layer.put("weight_scale", DType::F32, &[1], floats(DType::F32, &[0.5])).put(
        "weight_zero_point",
        DType::I8,
        &[1],
        vec![8],
    );
    let scheme = Scheme::Packed { bits: 4, group_size: None, symmetric: false };
    says(&scheme, &layer, &["'weight_zero_point'", "row 0, group 0 is 8", "-8..=7"]);
    for bad in [200.0, 1.5, f32::NAN] {
        let mut layer = ascend_layer();
        layer.put("input_offset", DType::F32, &[1], floats(DType::F32, &[bad]));
        says(&ascend(AscendKind::W8A8), &layer, &["'input_offset'", "-128..=127"]);
    }
}

#[test]
fn what_is_called_symmetric_must_be() {
    let mut layer = gptq_layer();
    layer.put("qzeros", DType::I32, &[2, 1], ints([0x7777_7777, 0x7777_7377]));
    says(&gptq(true, GptqZeros::OneLess), &layer, &["'qzeros'", "output 2, group 1 is 3", "sym: false"]);
    let mut layer = int8_layer();
    layer.put("weight_zero_point", DType::I8, &[N, 1], vec![0, 0, 4, 0, 0, 0, 0, 0]);
    says(&int8(Activations::Int8Dynamic), &layer, &["'weight_zero_point'", "element 2 is 4"]);
    let mut layer = ascend_layer();
    layer.put("weight_offset", DType::F32, &[N, 1], floats(DType::F32, &[1.0; N]));
    says(&ascend(AscendKind::W8A8), &layer, &["'weight_offset'", "should be 0"]);
}

#[test]
fn zero_points_of_gptq_v1_wrap_and_those_of_v2_do_not() {
    let zeros = |words: [u32; 2], version| {
        let mut layer = gptq_layer();
        layer.put("qzeros", DType::I32, &[2, 1], ints(words.map(|w| w as i32)));
        let linear = gptq(false, version).linear(&layer).unwrap();
        part(&linear, Part::Zeros, &layer).unwrap()
    };
    // Outputs 0 to 7 of group 0, then of group 1; in the table each output's two groups stand together.
    let words = [0xf765_4321, 0x0000_000f];
    let group_0: Vec<f64> = zeros(words, GptqZeros::OneLess).iter().step_by(2).copied().collect();
    assert_eq!(group_0, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.0]);
    assert_eq!(zeros(words, GptqZeros::Plain)[..2], [1.0, 15.0]);
    // Stored halves are zero points themselves, whatever the config leaves out.
    assert_eq!(zeros([0x8888_8888; 2], GptqZeros::OneLess), [8.0; 16]);
}

#[test]
fn an_i64_deq_scale_is_a_bit_pattern() {
    let bits = |v: u64| std::iter::repeat_n(v.to_le_bytes(), N).flatten().collect::<Vec<u8>>();
    let mut layer = ascend_layer();
    layer.put("deq_scale", DType::I64, &[N], bits(1_056_964_608));
    let linear = ascend(AscendKind::W8A8).linear(&layer).unwrap();
    assert_eq!(part(&linear, Part::Scales, &layer).unwrap(), [2.0; N]);
    assert_eq!(part(&linear, Part::SumBias, &layer).unwrap(), [7.0; N]);
    layer.put("deq_scale", DType::I64, &[N], bits(1 << 40));
    says(&ascend(AscendKind::W8A8), &layer, &["'deq_scale'", "output 0", "above the lower 32"]);
}

#[test]
fn a_scale_inv_multiplies_and_the_last_blocks_are_partial() {
    let mut layer = fp8_layer();
    layer.put("weight_scale_inv", DType::F32, &[2, 2], floats(DType::F32, &[2.0, 3.0, 5.0, 7.0]));
    let linear = fp8().linear(&layer).unwrap();
    let w = weights(&linear, &layer);
    assert_eq!([w[0], w[47], w[48], w[6 * K], w[7 * K + 63]], [2.0, 2.0, 3.0, 5.0, 7.0]);
}

#[test]
fn an_index_that_was_never_filled_is_ignored() {
    let mut layer = packed_layer();
    layer.put("weight_g_idx", DType::I32, &[K], ints([-1; K]));
    assert!(matches!(packed(true).linear(&layer).unwrap().form, Form::Grouped { g_idx: false, .. }));
    let mut layer = gptq_layer();
    layer.put(
        "scales",
        DType::F16,
        &[2, N],
        floats(DType::F16, &std::array::from_fn::<f32, { 2 * N }, _>(|i| 1.0 + i as f32)),
    );
    let of = |layer: &Layer| {
        let linear = gptq(true, GptqZeros::OneLess).linear(layer).unwrap();
        assert!(matches!(linear.form, Form::Grouped { g_idx: false, .. }));
        weights(&linear, layer)
    };
    let filled = of(&layer);
    for blank in [0, -1] {
        layer.put("g_idx", DType::I32, &[K], ints([blank; K]));
        assert_eq!(of(&layer), filled, "{blank}");
    }
    // Any other table in which a group has no channels is one that was filled.
    layer.put("g_idx", DType::I32, &[K], ints([1; K]));
    let linear = gptq(true, GptqZeros::OneLess).linear(&layer).unwrap();
    assert!(matches!(linear.form, Form::Grouped { g_idx: true, .. }));
}

#[test]
fn codes_packed_word_by_word_are_told_from_a_dense_stream() {
    // Ten codes of 3 bits to a word: 32 input channels take 4 words, densely 3.
    let mut layer = Layer::default();
    let word = |from: usize| (0..10).map(|i| ((from + i) % 8) << (3 * i)).sum::<usize>() as i32;
    layer
        .put("weight_packed", DType::I32, &[1, 4], ints([word(0), word(10), word(20), word(30) & 0x3f]))
        .put("weight_scale", DType::F32, &[1, 1], floats(DType::F32, &[1.0]))
        .put("weight_shape", DType::I64, &[2], [1i64, 32].iter().flat_map(|v| v.to_le_bytes()).collect());
    let linear = Scheme::Packed { bits: 3, group_size: None, symmetric: true }.linear(&layer).unwrap();
    let want: Vec<f32> = (0..32).map(|k| (k % 8) as f32 - 4.0).collect();
    assert_eq!(weights(&linear, &layer), want);
}

#[test]
fn a_part_that_is_not_there_is_told() {
    let layer = int8_layer();
    let linear = int8(Activations::Int8Dynamic).linear(&layer).unwrap();
    for p in [Part::Zeros, Part::GroupIndex, Part::InputScale, Part::SumBias, Part::Bias] {
        assert!(linear.part(p).is_none());
        assert!(linear.unpack(p, &layer).unwrap_err().to_string().contains("none"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_header_and_no_bytes_make_importing_panic(
        which in 0usize..11,
        tensor in any::<prop::sample::Index>(),
        dtype in prop::option::of(prop::sample::select(DType::ALL)),
        shape in prop::option::of(prop::collection::vec(
            prop_oneof![0usize..70, Just(usize::MAX), Just(1 << 40), Just(1 << 62), any::<usize>()], 0..4)),
        bytes in prop::option::of(prop::collection::vec(any::<u8>(), 0..600)),
        group_size in prop_oneof![Just(None), (0usize..80).prop_map(Some), Just(Some(usize::MAX))],
        bits in 0u32..40,
        flag in any::<bool>(),
    ) {
        let (mut scheme, mut layer) = all().swap_remove(which);
        let suffix = tensor.get(&layer.0.keys().cloned().collect::<Vec<_>>()).clone();
        let entry = layer.0.get_mut(&suffix).unwrap();
        let keep = entry.2.len();
        entry.0 = dtype.unwrap_or(entry.0);
        entry.1 = shape.unwrap_or_else(|| entry.1.clone());
        if let Some(mut bytes) = bytes {
            // As often of the right length as not.
            if flag { bytes.resize(keep, 0x5a); }
            entry.2 = bytes;
        }
        match &mut scheme {
            Scheme::Gptq { bits: b, group_size: g, symmetric: s, .. } | Scheme::Packed { bits: b, group_size: g, symmetric: s } => {
                (*b, *g, *s) = (if flag { bits } else { *b }, group_size, flag);
            }
            Scheme::Awq { group_size: g, version } => {
                *g = group_size;
                if flag { *version = AwqVersion::Gemv; }
            }
            Scheme::Fp8 { block } => *block = group_size.map(|g| [bits as usize, g]),
            _ => {}
        }
        if let Ok(linear) = scheme.linear(&layer) {
            for p in PARTS {
                if let (Some((dtype, shape)), Ok(bytes)) = (linear.part(p), linear.unpack(p, &layer)) {
                    prop_assert_eq!(dtype.bytes_for(shape.iter().product()), Some(bytes.len()));
                }
            }
        }
    }
}
