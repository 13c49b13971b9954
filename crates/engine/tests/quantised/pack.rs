//! Rounding to codes and packing them as the field's tools do, plainly and from the formats' definitions alone.

use qiao_engine::weights::Weights;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixture::fixtures;

/// Input channels to a scale.
pub(crate) const GROUP: usize = 8;

/// A tensor of a checkpoint.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn floats(values: &[f32], shape: Vec<usize>) -> Stored {
        Stored { dtype: Dtype::F32, shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    fn words(dtype: Dtype, words: &[u32], shape: Vec<usize>) -> Stored {
        Stored { dtype, shape, bytes: words.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    fn bytes(dtype: Dtype, bytes: Vec<u8>, shape: Vec<usize>) -> Stored {
        Stored { dtype, shape, bytes }
    }

    fn longs(values: &[i64], shape: Vec<usize>) -> Stored {
        Stored { dtype: Dtype::I64, shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    fn halves(values: &[f32], shape: Vec<usize>) -> Stored {
        let bytes = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        Stored { dtype: Dtype::F16, shape, bytes }
    }
}

/// A packed module, and the numbers that it stands for.
pub(crate) struct Module {
    pub(crate) tensors: Vec<(String, Stored)>,
    pub(crate) floats: Vec<f32>,
}

type Pack = Box<dyn Fn(&str, &[f32], usize, usize) -> Module>;

/// A way to write a checkpoint.
pub(crate) struct Packed {
    pub(crate) name: &'static str,
    /// The checkpoint that is packed.
    pub(crate) fixture: &'static str,
    pub(crate) config: Value,
    /// A file beside `config.json`.
    pub(crate) beside: Option<(&'static str, Value)>,
    pub(crate) pack: Pack,
    /// How far logits may be from those of the floats, beside the largest of them.
    pub(crate) limit: f64,
}

/// Codes of `[n, k]` with a scale, and a zero, for each group of a row.
struct Codes {
    codes: Vec<i32>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
    floats: Vec<f32>,
}

fn half(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// Unsigned codes of `bits` bits with zeros; input channel c is of group `of(c)`.
fn unsigned(w: &[f32], k: usize, bits: u32, symmetric: bool, of: &dyn Fn(usize) -> usize) -> Codes {
    let (most, groups) = ((1i32 << bits) - 1, k / GROUP);
    let mut c = Codes { codes: vec![0; w.len()], scales: vec![], zeros: vec![], floats: vec![0.0; w.len()] };
    for (r, row) in w.chunks_exact(k).enumerate() {
        for g in 0..groups {
            let at: Vec<usize> = (0..k).filter(|&i| of(i) == g).collect();
            let (low, high) = at.iter().fold((0f32, 0f32), |(l, h), &i| (l.min(row[i]), h.max(row[i])));
            let (scale, zero) = match symmetric {
                true => (half(2.0 * high.max(-low) / most as f32).max(1e-4), (most + 1) / 2),
                false => {
                    let scale = half((high - low) / most as f32).max(1e-4);
                    (scale, ((-low / scale).round() as i32).clamp(1, most))
                }
            };
            for i in at {
                let code = ((row[i] / scale).round() as i32 + zero).clamp(0, most);
                c.codes[r * k + i] = code;
                c.floats[r * k + i] = (code - zero) as f32 * scale;
            }
            c.scales.push(scale);
            c.zeros.push(zero);
        }
    }
    c
}

/// A dense stream of codes, the first in the lowest bits.
fn stream(codes: impl Iterator<Item = i32>, bits: u32) -> Vec<u32> {
    let (mut words, mut at) = (Vec::new(), 0u32);
    for code in codes {
        let (word, shift) = ((at / 32) as usize, at % 32);
        if words.len() <= word + 1 {
            words.resize(word + 2, 0);
        }
        let wide = u64::from(code as u32 & ((1 << bits) - 1)) << shift;
        words[word] |= wide as u32;
        words[word + 1] |= (wide >> 32) as u32;
        at += bits;
    }
    words.truncate(at.div_ceil(32) as usize);
    words
}

/// Rows of columns: element (i, j) of `[rows, columns]` at (j, i).
fn turned<T: Copy>(x: &[T], columns: usize) -> Vec<T> {
    let rows = x.len() / columns;
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn gptq(bits: u32, symmetric: bool, ordered: bool, one_less: bool) -> Pack {
    Box::new(move |_, w, n, k| {
        let of = move |c: usize| if ordered { (c * 3 + 1) % k / GROUP } else { c / GROUP };
        let c = unsigned(w, k, bits, symmetric, &of);
        let groups = k / GROUP;
        let less = i32::from(one_less);
        // Along K within each output, words of one output under each other.
        let columns: Vec<Vec<u32>> = c.codes.chunks_exact(k).map(|row| stream(row.iter().copied(), bits)).collect();
        let rows = columns[0].len();
        let qweight: Vec<u32> = (0..rows * n).map(|i| columns[i % n][i / n]).collect();
        let by_group = turned(&c.zeros, groups);
        let qzeros: Vec<u32> =
            by_group.chunks_exact(n).flat_map(|z| stream(z.iter().map(|z| z - less), bits)).collect();
        let zero_words = qzeros.len() / groups;
        let g_idx: Vec<u32> = (0..k).map(|c| of(c) as u32).collect();
        let tensors = vec![
            ("qweight".into(), Stored::words(Dtype::I32, &qweight, vec![rows, n])),
            ("qzeros".into(), Stored::words(Dtype::I32, &qzeros, vec![groups, zero_words])),
            ("scales".into(), Stored::halves(&turned(&c.scales, groups), vec![groups, n])),
            ("g_idx".into(), Stored::words(Dtype::I32, &g_idx, vec![k])),
        ];
        Module { tensors, floats: c.floats }
    })
}

fn awq() -> Pack {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    Box::new(|_, w, n, k| {
        let c = unsigned(w, k, 4, false, &|c| c / GROUP);
        let groups = k / GROUP;
        let word = |eight: &[i32]| (0..8).fold(0u32, |word, i| word | (eight[ORDER[i]] as u32) << (4 * i));
        let qweight: Vec<u32> = turned(&c.codes, k).chunks_exact(8).map(word).collect();
        let qzeros: Vec<u32> = turned(&c.zeros, groups).chunks_exact(8).map(word).collect();
        let tensors = vec![
            ("qweight".into(), Stored::words(Dtype::I32, &qweight, vec![k, n / 8])),
            ("qzeros".into(), Stored::words(Dtype::I32, &qzeros, vec![groups, n / 8])),
            ("scales".into(), Stored::halves(&turned(&c.scales, groups), vec![groups, n])),
        ];
        Module { tensors, floats: c.floats }
    })
}

fn packed(symmetric: bool) -> Pack {
    Box::new(move |_, w, n, k| {
        let c = unsigned(w, k, 4, symmetric, &|c| c / GROUP);
        let groups = k / GROUP;
        // Offset binary: what is stored is the signed code and 8, which is the unsigned code.
        let words: Vec<u32> = c.codes.chunks_exact(k).flat_map(|row| stream(row.iter().copied(), 4)).collect();
        let mut tensors = vec![
            ("weight_packed".into(), Stored::words(Dtype::I32, &words, vec![n, k.div_ceil(8)])),
            ("weight_scale".into(), Stored::halves(&c.scales, vec![n, groups])),
            ("weight_shape".into(), Stored::longs(&[n as i64, k as i64], vec![2])),
        ];
        if !symmetric {
            let zeros: Vec<Vec<u32>> =
                turned(&c.zeros, groups).chunks_exact(n).map(|z| stream(z.iter().copied(), 4)).collect();
            let rows = zeros[0].len();
            let zeros: Vec<u32> = (0..rows * groups).map(|i| zeros[i % groups][i / groups]).collect();
            tensors.push(("weight_zero_point".into(), Stored::words(Dtype::I32, &zeros, vec![rows, groups])));
        }
        Module { tensors, floats: c.floats }
    })
}

/// int8 codes with a scale to each output.
fn int8(w: &[f32], k: usize) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let (mut codes, mut scales, mut floats) = (vec![], vec![], vec![]);
    for row in w.chunks_exact(k) {
        let scale = (row.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0).max(1e-6);
        for x in row {
            let code = (x / scale).round_ties_even() as i8;
            codes.push(code as u8);
            floats.push(f32::from(code) * scale);
        }
        scales.push(scale);
    }
    (codes, scales, floats)
}

/// A scale and a zero that a module's activations in the fixture fit into.
fn input(module: &str) -> (f32, f32) {
    match module.rsplit('.').next() {
        Some("o_proj") => (0.042, 3.0),
        Some("down_proj") => (0.095, 3.0),
        _ => (0.036, 3.0),
    }
}

fn sums(codes: &[u8], k: usize) -> Vec<i32> {
    codes.chunks_exact(k).map(|row| row.iter().map(|&b| i32::from(b as i8)).sum()).collect()
}

fn w8(activations: &'static str) -> Pack {
    Box::new(move |module, w, n, k| {
        let (scale, zero) = input(module);
        let (codes, scales, floats) = int8(w, k);
        let mut tensors = vec![
            ("weight".into(), Stored::bytes(Dtype::I8, codes, vec![n, k])),
            ("weight_scale".into(), Stored::floats(&scales, vec![n, 1])),
        ];
        if activations == "static" {
            tensors.push(("input_scale".into(), Stored::floats(&[scale], vec![1])));
            tensors.push(("input_zero_point".into(), Stored::bytes(Dtype::I8, vec![zero as i8 as u8], vec![1])));
        }
        Module { tensors, floats }
    })
}

/// The bias of a module of a fixture.
fn bias(fixture: &str, module: &str) -> Option<Vec<f32>> {
    let weights = Weights::open(fixtures().join(fixture)).unwrap();
    let name = format!("{module}.bias");
    weights.contains(&name).then(|| weights.tensor(&name).unwrap().to_f32().unwrap())
}

fn ascend(kind: &'static str, fixture: &'static str) -> Pack {
    Box::new(move |module, w, n, k| {
        let (scale, zero) = input(module);
        let (codes, scales, floats) = int8(w, k);
        let biases = bias(fixture, module).unwrap_or_else(|| vec![0.0; n]);
        let whole = |(bias, weight): (&f32, &f32)| (bias / (weight * scale)).round_ties_even() as i32;
        let inside = biases.iter().zip(&scales).map(whole);
        let joins: Vec<u32> =
            sums(&codes, k).iter().zip(inside).map(|(&s, bias)| (bias - (zero as i32) * s) as u32).collect();
        let mut tensors = vec![("weight".into(), Stored::bytes(Dtype::I8, codes, vec![n, k]))];
        if kind == "W8A8" {
            let deq: Vec<i64> = scales.iter().map(|s| i64::from((s * scale).to_bits())).collect();
            tensors.push(("deq_scale".into(), Stored::longs(&deq, vec![n])));
            tensors.push(("quant_bias".into(), Stored::words(Dtype::I32, &joins, vec![n])));
            tensors.push(("input_scale".into(), Stored::floats(&[scale], vec![1])));
            tensors.push(("input_offset".into(), Stored::floats(&[zero], vec![1])));
        } else {
            tensors.push(("weight_scale".into(), Stored::floats(&scales, vec![n, 1])));
            tensors.push(("weight_offset".into(), Stored::floats(&vec![0.0; n], vec![n, 1])));
        }
        Module { tensors, floats }
    })
}

/// fp8 in blocks, or with one scale for all.
fn fp8(block: Option<usize>) -> Pack {
    use qiao_quant::minifloat::F8E4M3;
    Box::new(move |_, w, n, k| {
        let size = block.unwrap_or(n.max(k));
        let [rows, columns] = [n.div_ceil(size), k.div_ceil(size)];
        let mut scales = vec![1e-6f32; rows * columns];
        for (i, x) in w.iter().enumerate() {
            let cell = &mut scales[i / k / size * columns + i % k / size];
            *cell = cell.max(x.abs() / 448.0);
        }
        let (mut codes, mut floats) = (vec![], vec![]);
        for (i, x) in w.iter().enumerate() {
            let scale = scales[i / k / size * columns + i % k / size];
            let code = F8E4M3.encode(f64::from(x / scale)) as u8;
            codes.push(code);
            floats.push(F8E4M3.decode(code.into()) as f32 * scale);
        }
        let (name, shape) = match block {
            Some(_) => ("weight_scale_inv", vec![rows, columns]),
            None => ("weight_scale", vec![1]),
        };
        let tensors = vec![
            ("weight".into(), Stored::bytes(Dtype::F8_E4M3, codes, vec![n, k])),
            (name.into(), Stored::floats(&scales, shape)),
        ];
        Module { tensors, floats }
    })
}

fn group(format: &str, weights: Value, input: Value) -> Value {
    json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": input}},
    }})
}

fn int4(symmetric: bool) -> Value {
    json!({"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP})
}

fn channel() -> Value {
    json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel"})
}

fn gptq_config(bits: u32, symmetric: bool, format: &str) -> Value {
    json!({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": symmetric,
           "desc_act": false, "checkpoint_format": format}})
}

/// Every scheme that is read. Weight-only products round in f32 alone; int8 activations bring their own rounding.
pub(crate) fn schemes() -> Vec<Packed> {
    const EXACT: f64 = 1e-4;
    const INT8: f64 = 0.06;
    const STATIC: f64 = 0.2;
    let of = |name, config, pack, limit| {
        let fixture = "llama3-gqa";
        Packed { name, fixture, config, beside: None, pack, limit }
    };
    let dynamic = json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true});
    let fixed = json!({"num_bits": 8, "type": "int", "symmetric": false, "strategy": "tensor", "dynamic": false});
    let fp8_block =
        json!({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}});
    let fp8_tensor = json!({"quantization_config": {"quant_method": "fp8"}});
    let awq_config = json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP,
                            "zero_point": true, "version": "gemm"}});
    let auto_round = |packing: &str| {
        json!({"quantization_config": {"quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": GROUP,
               "sym": false, "data_type": "int", "iters": 200, "autoround_version": "0.6.0"}})
    };
    let described = |kind: &str| {
        let parts = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        let names = (0..2).flat_map(|l| parts.map(|p| format!("model.layers.{l}.{p}_proj.weight")));
        Value::Object(names.map(|name| (name, Value::from(kind))).collect())
    };
    let ascend_of = |name, kind, fixture, limit| Packed {
        fixture,
        beside: Some(("quant_model_description.json", described(kind))),
        ..of(name, json!({}), ascend(kind, fixture), limit)
    };
    vec![
        of("gptq, 4 bits", gptq_config(4, true, "gptq"), gptq(4, true, false, true), EXACT),
        of("gptq with act-order", gptq_config(4, false, "gptq"), gptq(4, false, true, true), EXACT),
        of("gptq v2, 3 bits", gptq_config(3, false, "gptq_v2"), gptq(3, false, false, false), EXACT),
        of("gptq, 2 bits", gptq_config(2, false, "gptq"), gptq(2, false, false, true), EXACT),
        of("gptq, 8 bits", gptq_config(8, false, "gptq"), gptq(8, false, false, true), EXACT),
        of("gptq, 8 bits, symmetric", gptq_config(8, true, "gptq"), gptq(8, true, false, true), EXACT),
        of("awq", awq_config, awq(), EXACT),
        of("auto-round as gptq", auto_round("auto_round:auto_gptq"), gptq(4, false, false, true), EXACT),
        of("auto-round as awq", auto_round("auto_round:auto_awq"), awq(), EXACT),
        of("compressed-tensors, int4 in groups", group("pack-quantized", int4(true), Value::Null), packed(true), EXACT),
        of("compressed-tensors, with zeros", group("pack-quantized", int4(false), Value::Null), packed(false), EXACT),
        of("compressed-tensors, w8a16", group("int-quantized", channel(), Value::Null), w8("none"), EXACT),
        of("compressed-tensors, w8a8", group("int-quantized", channel(), dynamic), w8("dynamic"), INT8),
        of("compressed-tensors, w8a8 static", group("int-quantized", channel(), fixed), w8("static"), STATIC),
        of("fp8 in blocks", fp8_block, fp8(Some(16)), EXACT),
        of("fp8 by tensor", fp8_tensor, fp8(None), EXACT),
        ascend_of("ascend w8a8", "W8A8", "llama3-gqa", STATIC),
        ascend_of("ascend w8a8, with biases", "W8A8", "qwen2-bias", STATIC),
        ascend_of("ascend w8a8 dynamic", "W8A8_DYNAMIC", "llama3-gqa", INT8),
        ascend_of("ascend w8a8 dynamic, with biases", "W8A8_DYNAMIC", "qwen2-bias", INT8),
        ascend_of("ascend w8a16", "W8A16", "llama3-gqa", EXACT),
    ]
}
