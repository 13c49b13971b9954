//! The peer candle on a Llama- or Qwen2-style checkpoint: prefill and decode speed, as one JSON object.
//!
//!     cargo run --release -p qiao-benches --example candle_llm -- MODEL_DIR [PROMPT_TOKENS] [NEW_TOKENS]
//!
//! The forward pass is the one that candle's own model collection writes for these families: candle-core matmul and
//! candle-nn norms, rotary embedding and softmax, f32 (candle's CPU has no bf16 matmul), cache by concatenation, logits
//! of the last position only.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};

struct Config {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    eps: f32,
    theta: f32,
}

struct Layer {
    norms: [Tensor; 2],
    qkv: [(Tensor, Option<Tensor>); 3],
    o: Tensor,
    mlp: [Tensor; 3],
    cache: Option<(Tensor, Tensor)>,
}

struct Model {
    config: Config,
    embed: Tensor,
    head: Tensor,
    norm: Tensor,
    layers: Vec<Layer>,
    rope: (Tensor, Tensor),
}

fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&w.t()?)?;
    bias.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
}

impl Model {
    fn load(dir: &Path, context: usize) -> Result<Self> {
        let text = std::fs::read_to_string(dir.join("config.json"))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(candle_core::Error::wrap)?;
        let number = |key: &str| json[key].as_f64().or(json["rope_parameters"][key].as_f64());
        let integer = |key: &str| number(key).map(|v| v as usize);
        let heads = integer("num_attention_heads").unwrap_or(0);
        let hidden = integer("hidden_size").unwrap_or(0);
        let config = Config {
            heads,
            kv_heads: integer("num_key_value_heads").unwrap_or(heads),
            head_dim: integer("head_dim").unwrap_or(hidden / heads.max(1)),
            layers: integer("num_hidden_layers").unwrap_or(0),
            eps: number("rms_norm_eps").unwrap_or(1e-6) as f32,
            theta: number("rope_theta").unwrap_or(1e4) as f32,
        };
        let mut weights: HashMap<String, Tensor> = HashMap::new();
        for entry in std::fs::read_dir(dir)? {
            let path: PathBuf = entry?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                for (name, tensor) in candle_core::safetensors::load(&path, &Device::Cpu)? {
                    weights.insert(name, tensor.to_dtype(DType::F32)?);
                }
            }
        }
        let mut take = |name: String| weights.remove(&name);
        let missing = |name: &str| candle_core::Error::Msg(format!("no tensor {name}"));
        let mut need = |name: String| take(name.clone()).ok_or_else(|| missing(&name));
        let embed = need("model.embed_tokens.weight".into())?;
        let head = need("lm_head.weight".into()).unwrap_or_else(|_| embed.clone());
        let norm = need("model.norm.weight".into())?;
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let mut part = |name: &str| need(format!("model.layers.{i}.{name}"));
            let mut projection = |p: &str| -> Result<(Tensor, Option<Tensor>)> {
                Ok((part(&format!("self_attn.{p}_proj.weight"))?, part(&format!("self_attn.{p}_proj.bias")).ok()))
            };
            let qkv = [projection("q")?, projection("k")?, projection("v")?];
            let o = part("self_attn.o_proj.weight")?;
            let mlp = [part("mlp.gate_proj.weight")?, part("mlp.up_proj.weight")?, part("mlp.down_proj.weight")?];
            let norms = [part("input_layernorm.weight")?, part("post_attention_layernorm.weight")?];
            layers.push(Layer { norms, qkv, o, mlp, cache: None });
        }
        let rope = Self::rope(&config, context)?;
        Ok(Model { config, embed, head, norm, layers, rope })
    }

    fn rope(config: &Config, context: usize) -> Result<(Tensor, Tensor)> {
        let half = config.head_dim / 2;
        let inv: Vec<f32> = (0..half).map(|i| config.theta.powf(-(2.0 * i as f32) / config.head_dim as f32)).collect();
        let inv = Tensor::new(inv, &Device::Cpu)?.reshape((1, half))?;
        let at = Tensor::arange(0u32, context as u32, &Device::Cpu)?.to_dtype(DType::F32)?.reshape((context, 1))?;
        let angles = at.matmul(&inv)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    fn forward(&mut self, ids: &[u32], start: usize) -> Result<Tensor> {
        let Config { heads, kv_heads, head_dim: d, eps, .. } = self.config;
        let t = ids.len();
        let mask: Vec<f32> = (0..t)
            .flat_map(|i| (0..start + t).map(move |j| if j > start + i { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(mask, (t, start + t), &Device::Cpu)?;
        let (cos, sin) = (self.rope.0.narrow(0, start, t)?, self.rope.1.narrow(0, start, t)?);
        let mut x = self.embed.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for layer in &mut self.layers {
            let h = candle_nn::ops::rms_norm(&x, &layer.norms[0], eps)?;
            let split = |(w, b): &(Tensor, Option<Tensor>), n: usize| -> Result<Tensor> {
                linear(&h, w, b.as_ref())?.reshape((1, t, n, d))?.transpose(1, 2)?.contiguous()
            };
            let q = candle_nn::rotary_emb::rope(&split(&layer.qkv[0], heads)?, &cos, &sin)?;
            let k = candle_nn::rotary_emb::rope(&split(&layer.qkv[1], kv_heads)?, &cos, &sin)?;
            let v = split(&layer.qkv[2], kv_heads)?;
            let (k, v) = match &layer.cache {
                Some((ck, cv)) => (Tensor::cat(&[ck, &k], 2)?, Tensor::cat(&[cv, &v], 2)?),
                None => (k, v),
            };
            layer.cache = Some((k.clone(), v.clone()));
            let repeat = |x: Tensor| -> Result<Tensor> {
                let n = x.dim(2)?;
                x.unsqueeze(2)?.expand((1, kv_heads, heads / kv_heads, n, d))?.reshape((1, heads, n, d))
            };
            let (k, v) = (repeat(k)?.contiguous()?, repeat(v)?.contiguous()?);
            let scores = (q.matmul(&k.transpose(2, 3)?)? * (1.0 / (d as f64).sqrt()))?.broadcast_add(&mask)?;
            let y = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
            let y = y.transpose(1, 2)?.reshape((t, heads * d))?;
            x = (x + linear(&y, &layer.o, None)?)?;
            let h = candle_nn::ops::rms_norm(&x, &layer.norms[1], eps)?;
            let gate = candle_nn::ops::silu(&linear(&h, &layer.mlp[0], None)?)?;
            x = (&x + linear(&(gate * linear(&h, &layer.mlp[1], None)?)?, &layer.mlp[2], None)?)?;
        }
        let last = candle_nn::ops::rms_norm(&x.i(t - 1..)?, &self.norm, eps)?;
        linear(&last, &self.head, None)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: candle_llm MODEL_DIR [PROMPT_TOKENS] [NEW_TOKENS]")?;
    let prompt: usize = args.next().map_or(Ok(512), |v| v.parse())?;
    let new: usize = args.next().map_or(Ok(32), |v| v.parse())?;
    let started = Instant::now();
    let mut model = Model::load(Path::new(&dir), prompt + new + 1)?;
    let load = started.elapsed();
    let ids: Vec<u32> = (0..prompt as u32).map(|i| 100 + i * 37 % 1000).collect();
    let started = Instant::now();
    let mut logits = model.forward(&ids, 0)?;
    let mut token = logits.argmax(D::Minus1)?.to_vec1::<u32>()?[0];
    let prefill = started.elapsed();
    let started = Instant::now();
    for i in 0..new {
        logits = model.forward(&[token], prompt + i)?;
        token = logits.argmax(D::Minus1)?.to_vec1::<u32>()?[0];
    }
    let decode = started.elapsed();
    let out = serde_json::json!({
        "peer": "candle f32",
        "prompt_tokens": prompt,
        "decode_tokens": new,
        "load_s": load.as_secs_f64(),
        "prefill_tokens_per_s": prompt as f64 / prefill.as_secs_f64(),
        "decode_tokens_per_s": new as f64 / decode.as_secs_f64(),
    });
    println!("{out}");
    Ok(())
}
