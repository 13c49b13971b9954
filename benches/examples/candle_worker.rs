//! The peer candle under the clock of `benches/peers`, on GGUF files of Llama and Qwen2 shape.
//!
//!     cargo run --release -p qiao-benches --example candle_worker -- MODEL.gguf --context 2304
//!
//! It answers the commands of the example `worker`; `--first N` ends with the first token after a prompt of N. The forward
//! pass is the one that candle's own model collection writes for these families: quantised products (`QMatMul`, which has
//! f32 kernels for weights of 16 bits), candle-nn norms, rotary embedding and softmax, activations in f32, cache by
//! concatenation, logits of the last position only.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

use candle_core::quantized::QMatMul;
use candle_core::quantized::gguf_file::Content;
use candle_core::{D, DType, Device, IndexOp, Module, Result, Tensor};
use serde_json::{Value, json};

struct Config {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    eps: f32,
    theta: f32,
    /// Whether neighbouring elements are rotated together, as files of llama shape hold them.
    interleaved: bool,
}

struct Linear {
    weight: QMatMul,
    bias: Option<Tensor>,
}

struct Layer {
    norms: [Tensor; 2],
    qkv: [Linear; 3],
    o: Linear,
    mlp: [Linear; 3],
    cache: Option<(Tensor, Tensor)>,
}

struct Model {
    config: Config,
    embed: Tensor,
    head: Linear,
    norm: Tensor,
    layers: Vec<Layer>,
    rope: (Tensor, Tensor),
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |b| y.broadcast_add(b))
    }
}

/// The tensors of a file, by their names in it.
struct Weights {
    content: Content,
    file: BufReader<File>,
}

impl Weights {
    fn plain(&mut self, name: &str) -> Result<Tensor> {
        self.content.tensor(&mut self.file, name, &Device::Cpu)?.dequantize(&Device::Cpu)
    }

    fn linear(&mut self, name: &str) -> Result<Linear> {
        let weight = self.content.tensor(&mut self.file, &format!("{name}.weight"), &Device::Cpu)?;
        let bias = format!("{name}.bias");
        let bias = if self.content.tensor_infos.contains_key(&bias) { Some(self.plain(&bias)?) } else { None };
        Ok(Linear { weight: QMatMul::from_qtensor(weight)?, bias })
    }

    fn config(&self) -> Result<Config> {
        let value = |key: &str| {
            let found = self.content.metadata.get(key);
            found.ok_or_else(|| candle_core::Error::Msg(format!("the file lacks {key}")))
        };
        let family = value("general.architecture")?.to_string()?.clone();
        let integer = |key: &str| Ok::<_, candle_core::Error>(value(&format!("{family}.{key}"))?.to_u32()? as usize);
        let heads = integer("attention.head_count")?;
        Ok(Config {
            heads,
            kv_heads: integer("attention.head_count_kv")?,
            head_dim: integer("embedding_length")? / heads,
            layers: integer("block_count")?,
            eps: value(&format!("{family}.attention.layer_norm_rms_epsilon"))?.to_f32()?,
            theta: value(&format!("{family}.rope.freq_base"))?.to_f32()?,
            interleaved: family == "llama",
        })
    }
}

impl Model {
    fn load(path: &str, context: usize) -> Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut weights = Weights { content: Content::read(&mut file)?, file };
        let config = weights.config()?;
        let embed = weights.plain("token_embd.weight")?;
        let head = weights.linear("output").or_else(|_| weights.linear("token_embd"))?;
        let norm = weights.plain("output_norm.weight")?;
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let mut linear = |name: &str| weights.linear(&format!("blk.{i}.{name}"));
            let qkv = [linear("attn_q")?, linear("attn_k")?, linear("attn_v")?];
            let o = linear("attn_output")?;
            let mlp = [linear("ffn_gate")?, linear("ffn_up")?, linear("ffn_down")?];
            let mut plain = |name: &str| weights.plain(&format!("blk.{i}.{name}.weight"));
            layers.push(Layer { norms: [plain("attn_norm")?, plain("ffn_norm")?], qkv, o, mlp, cache: None });
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

    /// Tokens that the cache holds.
    fn held(&self) -> usize {
        let first = self.layers.first().and_then(|layer| layer.cache.as_ref());
        first.map_or(0, |(keys, _)| keys.dims()[2])
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        for layer in &mut self.layers {
            layer.cache = match layer.cache.take() {
                Some((k, v)) if len > 0 => {
                    Some((k.narrow(2, 0, len)?.contiguous()?, v.narrow(2, 0, len)?.contiguous()?))
                }
                _ => None,
            };
        }
        Ok(())
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Tensor> {
        let start = self.held();
        let t = ids.len();
        let mask: Vec<f32> = (0..t)
            .flat_map(|i| (0..start + t).map(move |j| if j > start + i { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(mask, (t, start + t), &Device::Cpu)?;
        let (cos, sin) = (self.rope.0.narrow(0, start, t)?, self.rope.1.narrow(0, start, t)?);
        let mut x = self.embed.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for layer in &mut self.layers {
            x = layer.forward(&self.config, &x, (&cos, &sin), &mask)?;
        }
        let last = candle_nn::ops::rms_norm(&x.i(t - 1..)?, &self.norm, self.config.eps)?;
        self.head.forward(&last)
    }
}

impl Layer {
    fn forward(&mut self, config: &Config, x: &Tensor, rope: (&Tensor, &Tensor), mask: &Tensor) -> Result<Tensor> {
        let Config { heads, kv_heads, head_dim: d, eps, .. } = *config;
        let t = x.dim(0)?;
        let rotate = match config.interleaved {
            true => candle_nn::rotary_emb::rope_i,
            false => candle_nn::rotary_emb::rope,
        };
        let h = candle_nn::ops::rms_norm(x, &self.norms[0], eps)?;
        let split = |w: &Linear, n: usize| -> Result<Tensor> {
            w.forward(&h)?.reshape((1, t, n, d))?.transpose(1, 2)?.contiguous()
        };
        let q = rotate(&split(&self.qkv[0], heads)?, rope.0, rope.1)?;
        let k = rotate(&split(&self.qkv[1], kv_heads)?, rope.0, rope.1)?;
        let v = split(&self.qkv[2], kv_heads)?;
        let (k, v) = match &self.cache {
            Some((ck, cv)) => (Tensor::cat(&[ck, &k], 2)?, Tensor::cat(&[cv, &v], 2)?),
            None => (k, v),
        };
        self.cache = Some((k.clone(), v.clone()));
        let repeat = |x: Tensor| -> Result<Tensor> {
            let n = x.dim(2)?;
            x.unsqueeze(2)?.expand((1, kv_heads, heads / kv_heads, n, d))?.reshape((1, heads, n, d))
        };
        let (k, v) = (repeat(k)?.contiguous()?, repeat(v)?.contiguous()?);
        let scores = (q.matmul(&k.transpose(2, 3)?)? * (1.0 / (d as f64).sqrt()))?.broadcast_add(mask)?;
        let y = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        let y = y.transpose(1, 2)?.reshape((t, heads * d))?;
        let x = (x + self.o.forward(&y)?)?;
        let h = candle_nn::ops::rms_norm(&x, &self.norms[1], eps)?;
        let gate = candle_nn::ops::silu(&self.mlp[0].forward(&h)?)?;
        &x + self.mlp[2].forward(&(gate * self.mlp[1].forward(&h)?)?)?
    }
}

fn ids(from: usize, count: usize) -> Vec<u32> {
    (from..from + count).map(|at| 100 + (at as u32 * 37) % 1000).collect()
}

fn answer(model: &mut Model, command: &Value) -> std::result::Result<Value, Box<dyn std::error::Error>> {
    let number = |key: &str| command[key].as_u64().map(|n| n as usize).ok_or_else(|| format!("{key} is missing"));
    let (tokens, depth) = (number("tokens")?, number("depth")?);
    if depth < model.held() {
        model.truncate(depth)?;
    }
    while model.held() < depth {
        let held = model.held();
        model.forward(&ids(held, (depth - held).min(512)))?;
    }
    let prompt = ids(depth, tokens);
    let start = Instant::now();
    match command["do"].as_str() {
        Some("prefill") => _ = model.forward(&prompt)?,
        Some("decode") => {
            for id in prompt {
                model.forward(&[id])?;
            }
        }
        _ => return Err(format!("{command} is no command: say prefill, decode or quit").into()),
    }
    Ok(json!({ "seconds": start.elapsed().as_secs_f64(), "tokens": tokens }))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option =
        |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)?.parse::<usize>().ok());
    let (Some(path), Some(context)) = (args.first(), option("--context")) else {
        return Err("usage: candle_worker MODEL.gguf --context TOKENS [--first PROMPT]".into());
    };
    let mut model = Model::load(path, context)?;
    let say = |value: Value| writeln!(std::io::stdout(), "{value}");
    if let Some(prompt) = option("--first") {
        let token = model.forward(&ids(0, prompt))?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        return Ok(say(json!({ "first": token }))?);
    }
    say(json!({ "ready": true, "version": "candle-core 0.11", "cache": "f32" }))?;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        if command["do"] == "quit" {
            break;
        }
        say(answer(&mut model, &command)?)?;
    }
    Ok(())
}
