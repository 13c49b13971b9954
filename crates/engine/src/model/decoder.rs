//! The decoder-only transformer: a residual stream that each layer adds attention and an MLP to.
//!
//! Per layer: norm; q, k, v; head norms where the family has them; rotation; cache write; attention; output projection; residual
//! and norm; gate, up, down. The residual addition and the norm that follows it are one operator. In the last layer only the
//! tokens that want logits go on past attention, and with none wanted the graph ends at the last cache write.

use std::ops::Range;

use qiao_core::{
    AttentionAttrs, DType, Epilogue, Graph, KvWriteAttrs, MatmulAttrs, MatmulQuantAttrs, NoAttrs, NormAttrs, Op,
    RopeAttrs, SiluMulAttrs, TensorDesc, TensorId,
};

use super::{Border, CacheShape, Constant, DecoderSpec, Inputs, ModelGraph, Precision, Step, Use};
use crate::error::Result;
use crate::form::{Companion, GroupForm, WeightForm};

impl DecoderSpec {
    /// The graph of a step of some sequences over one pool of pages, `cache.blocks` in all and `cache.table` each.
    ///
    /// # Errors
    /// Sizes that no tensor can have; a step of no sequences, of more than it has tokens, that asks for logits of more tokens than
    /// it has, or for hidden states without all logits.
    pub fn graph(&self, step: Step, cache: CacheShape, precision: Precision<'_>) -> Result<ModelGraph> {
        self.graph_of(0..self.layers, step, cache, precision)
    }

    /// As [`DecoderSpec::graph`], of some of the layers alone: with the embedding where the first is among them, and with the head where
    /// the last is. Caches and residual streams are those of these layers, in their order.
    ///
    /// # Errors
    /// As [`DecoderSpec::graph`]; no layers, or such as the model does not have.
    pub fn graph_of(
        &self,
        layers: Range<usize>,
        step: Step,
        cache: CacheShape,
        precision: Precision<'_>,
    ) -> Result<ModelGraph> {
        let whole = step.rows == step.tokens;
        let too_few = step.sequences == 0 || step.tokens < step.sequences;
        if too_few || step.rows > step.tokens || step.keep_hidden && !whole {
            let found = format!("{step:?}");
            let mend = "give at least one token of each, and logits for at most as many; hidden states need all logits";
            return Err(qiao_core::Error::invalid("step", found, mend).into());
        }
        if layers.is_empty() || layers.end > self.layers {
            let mend = format!("name at least one of 0..{}", self.layers);
            return Err(qiao_core::Error::invalid("layers", format!("{layers:?}"), mend).into());
        }
        let mut b = Builder::new(self, layers.clone(), step, cache, precision)?;
        let mut stream = if layers.start == 0 { b.embed()? } else { b.enter()? };
        for layer in layers {
            stream = match b.attention(layer, stream)? {
                Some(stream) => b.mlp(layer, stream)?,
                None => return Ok(b.finish(None)),
            };
            b.keep_hidden(layer, stream.h)?;
        }
        if b.leaves.is_some() {
            return Ok(b.finish(None));
        }
        let logits = b.logits(stream.x)?;
        Ok(b.finish(Some(logits)))
    }
}

/// The residual stream between two blocks: itself, and normed for the block that reads it next.
#[derive(Clone, Copy)]
struct Stream {
    h: TensorId,
    x: TensorId,
}

struct Builder<'a> {
    g: Graph,
    spec: &'a DecoderSpec,
    layers: Range<usize>,
    step: Step,
    cache: CacheShape,
    precision: Precision<'a>,
    inputs: Inputs,
    enters: Option<Border>,
    leaves: Option<Border>,
    caches: Vec<(usize, usize)>,
    scales: Vec<(usize, usize)>,
    constants: Vec<Constant>,
    hidden: Vec<usize>,
    /// What was quantised last, and its codes and scales.
    codes: Option<(TensorId, (TensorId, TensorId))>,
}

impl<'a> Builder<'a> {
    fn new(
        spec: &'a DecoderSpec,
        layers: Range<usize>,
        step: Step,
        cache: CacheShape,
        precision: Precision<'a>,
    ) -> Result<Self> {
        let mut g = Graph::new();
        let i32s = |shape: &[usize]| TensorDesc::new(DType::I32, shape);
        let table = TensorDesc::new(DType::F32, &[cache.capacity(), spec.rotary_dim / 2])?;
        let (t, sequences) = (step.tokens, step.sequences);
        let (first, last) = (layers.start == 0, layers.end == spec.layers);
        let mut bind = |name: &str, desc: TensorDesc| {
            g.bind(name, desc);
            g.bound().len() - 1
        };
        let inputs = Inputs {
            ids: if first { Some(bind("ids", i32s(&[t])?)) } else { None },
            positions: bind("positions", i32s(&[t])?),
            slots: bind("slots", i32s(&[t])?),
            cu_q: if t > sequences { Some(bind("cu_q", i32s(&[sequences + 1])?)) } else { None },
            kv_len: bind("kv_len", i32s(&[sequences])?),
            block_table: bind("block_table", i32s(&[sequences, cache.table])?),
            select: match step.rows {
                rows if last && rows > 0 && rows < t => Some(bind("select", i32s(&[rows])?)),
                _ => None,
            },
            cos: bind("cos", table.clone()),
            sin: bind("sin", table),
        };
        let residual = TensorDesc::new(precision.compute, &[t, spec.hidden])?;
        let mut border = |names: [&str; 2]| names.map(|name| bind(name, residual.clone()));
        let enters = (!first).then(|| border(["h.in", "x.in"]));
        let leaves = (!last).then(|| border(["h.out", "x.out"]));
        let mut caches = Vec::with_capacity(layers.len());
        for layer in layers.clone() {
            let desc = TensorDesc::new(cache.dtype, &cache.dims(spec.kv_heads, spec.head_dim))?;
            caches.push((bind(&format!("k.{layer}"), desc.clone()), bind(&format!("v.{layer}"), desc)));
        }
        let mut scales = Vec::new();
        for layer in layers.clone().filter(|_| cache.has_scales()) {
            let desc = TensorDesc::new(DType::F32, &cache.dims(spec.kv_heads, spec.head_dim)[..3])?;
            scales.push((bind(&format!("k_scale.{layer}"), desc.clone()), bind(&format!("v_scale.{layer}"), desc)));
        }
        let (constants, hidden) = (Vec::new(), Vec::new());
        Ok(Builder {
            g,
            spec,
            layers,
            step,
            cache,
            precision,
            inputs,
            enters,
            leaves,
            caches,
            scales,
            constants,
            hidden,
            codes: None,
        })
    }

    fn bound(&self, position: usize) -> TensorId {
        self.g.bound()[position]
    }

    fn constant(&mut self, name: String, shape: &[usize], usage: Use) -> Result<TensorId> {
        let dtype = (self.precision.weight)(&name).dtype();
        self.constant_of(name, dtype, shape, usage)
    }

    fn constant_of(&mut self, name: String, dtype: DType, shape: &[usize], usage: Use) -> Result<TensorId> {
        let desc = TensorDesc::new(dtype, shape)?.as_constant();
        let id = self.g.bind(&name, desc);
        self.constants.push(Constant { bound: self.g.bound().len() - 1, name, usage });
        Ok(id)
    }

    fn layer_name(&self, layer: usize, rest: &str) -> String {
        format!("{}{layer}.{rest}", self.spec.names.layers)
    }

    fn norm_weight(&mut self, name: String, width: usize) -> Result<TensorId> {
        self.constant(name + ".weight", &[width], Use::Vector)
    }

    fn norm_attrs(&self) -> NormAttrs {
        NormAttrs { eps: self.spec.eps, ..Default::default() }
    }

    /// `x · Wᵀ (+ bias)` for a weight `[n, k]`, with k the width of x.
    fn linear(&mut self, x: TensorId, name: &str, n: usize, bias: bool) -> Result<TensorId> {
        let weight = format!("{name}.weight");
        let bias = match bias {
            true => Some(format!("{name}.bias")),
            false => None,
        };
        let (op, operands) = self.product(x, weight, n, bias)?;
        Ok(self.g.add_as(op, &operands, self.precision.compute)?[0])
    }

    /// The product of x with a weight `[n, k]` in the form that it has, and the operands.
    fn product(
        &mut self,
        x: TensorId,
        weight: String,
        n: usize,
        bias: Option<String>,
    ) -> Result<(Op, Vec<Option<TensorId>>)> {
        let k = self.g.desc(x).shape.last_dim();
        let form = (self.precision.weight)(&weight);
        let w = self.constant(weight.clone(), &[n, k], Use::Projection)?;
        let bias = bias.filter(|_| !form.has_bias_in_sum());
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        let bias = bias.map(|name| self.constant(name, &[n], Use::Vector)).transpose()?;
        Ok(match form {
            WeightForm::Plain(dtype) if dtype.is_block() => {
                let op = Op::MatmulQuant(MatmulQuantAttrs { epilogue, ..Default::default() });
                (op, vec![Some(x), Some(w), None, None, None, bias])
            }
            WeightForm::Plain(_) => {
                let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
                (op, vec![Some(x), Some(w), bias])
            }
            WeightForm::Grouped(form) => {
                let [scales, zeros, g_idx] = self.tables(&weight, form, n, k)?;
                let (group_size, group_rows) = (form.group_size as u32, form.group_rows as u32);
                let op = Op::MatmulQuant(MatmulQuantAttrs { group_size, group_rows, epilogue });
                (op, vec![Some(x), Some(w), scales, zeros, g_idx, bias])
            }
            WeightForm::Int8 { is_static, .. } => {
                let part = |c: Companion| c.of(&weight);
                let scale = self.constant_of(part(Companion::Scales), DType::F32, &[n], Use::Vector)?;
                let (codes, sum_bias) = match is_static {
                    false => (self.quantised(x)?, None),
                    true => {
                        let given = self.constant_of(part(Companion::InputScale), DType::F32, &[1], Use::Vector)?;
                        let zero = self.constant_of(part(Companion::InputZero), DType::F32, &[1], Use::Vector)?;
                        let q = self.g.op1(Op::QuantizeStatic(NoAttrs {}), &[x, given, zero])?;
                        let joins = self.constant_of(part(Companion::SumBias), DType::I32, &[n], Use::Vector)?;
                        ((q, given), Some(joins))
                    }
                };
                let (q, given) = codes;
                let op = Op::ScaledMatmul(NoAttrs {});
                (op, vec![Some(q), Some(w), Some(given), Some(scale), bias, sum_bias])
            }
        })
    }

    /// The tables of a weight in groups: scales, zero points, groups.
    fn tables(&mut self, weight: &str, form: GroupForm, n: usize, k: usize) -> Result<[Option<TensorId>; 3]> {
        let table = form.table(n, k);
        let scales = self.constant_of(Companion::Scales.of(weight), form.scales, &table, Use::Projection)?;
        let zeros = match form.zeros {
            Some(dtype) => Some(self.constant_of(Companion::Zeros.of(weight), dtype, &table, Use::Projection)?),
            None => None,
        };
        let g_idx = match form.g_idx {
            true => Some(self.constant_of(Companion::GroupIndex.of(weight), DType::I32, &[k], Use::Vector)?),
            false => None,
        };
        Ok([Some(scales), zeros, g_idx])
    }

    /// Activations as int8 codes and their scales, made once for all projections that read them.
    fn quantised(&mut self, x: TensorId) -> Result<(TensorId, TensorId)> {
        if let Some((_, codes)) = self.codes.filter(|(of, _)| *of == x) {
            return Ok(codes);
        }
        let out = self.g.add(Op::QuantizeDynamic(NoAttrs {}), &[Some(x)])?;
        self.codes = Some((x, (out[0], out[1])));
        Ok((out[0], out[1]))
    }

    fn embed(&mut self) -> Result<Stream> {
        let spec = self.spec;
        let table = self.constant(format!("{}.weight", spec.names.embed), &[spec.vocab, spec.hidden], Use::Table)?;
        let ids = self.inputs.ids.map(|ids| self.bound(ids));
        let h = self.g.add_as(Op::GatherRows(NoAttrs {}), &[Some(table), ids], self.precision.compute)?[0];
        let w = self.norm_weight(self.layer_name(0, spec.names.input_norm), spec.hidden)?;
        let x = self.g.op1(Op::RmsNorm(self.norm_attrs()), &[h, w])?;
        Ok(Stream { h, x })
    }

    /// The residual stream as the layers before left it.
    fn enter(&mut self) -> Result<Stream> {
        let [h, x] = self.enters.map(|border| border.map(|at| self.bound(at))).ok_or_else(|| {
            qiao_core::Error::internal(
                "a graph of a model's later layers",
                "nothing is bound for what comes before them",
            )
        })?;
        Ok(Stream { h, x })
    }

    /// The projection of x to `heads` heads.
    fn project(&mut self, x: TensorId, name: &str, heads: usize) -> Result<TensorId> {
        self.linear(x, name, heads * self.spec.head_dim, self.spec.qkv_bias)
    }

    /// A projection as heads, normed head by head where `norm` is given: `[T, heads, D]`.
    fn heads(&mut self, mut y: TensorId, heads: usize, norm: Option<String>) -> Result<TensorId> {
        let (t, d) = (self.step.tokens, self.spec.head_dim);
        if let Some(norm) = norm {
            let rows = self.g.reshape(y, &[t * heads, d])?;
            let w = self.norm_weight(norm, d)?;
            y = self.g.op1(Op::RmsNorm(self.norm_attrs()), &[rows, w])?;
        }
        Ok(self.g.reshape(y, &[t, heads, d])?)
    }

    fn rotate(&mut self, x: TensorId) -> Result<TensorId> {
        let i = self.inputs;
        let rotary_dim = self.spec.rotary_dim as u32;
        let op = Op::Rope(RopeAttrs { style: self.spec.rope_style, rotary_dim, offset: 0 });
        let operands = [x, self.bound(i.positions), self.bound(i.cos), self.bound(i.sin)];
        Ok(self.g.op1(op, &operands)?)
    }

    /// Attention and the norm after it; `None` in the last layer when no token goes on.
    fn attention(&mut self, layer: usize, s: Stream) -> Result<Option<Stream>> {
        let spec = self.spec;
        let [q_name, k_name, v_name, o_name] = spec.names.qkvo.map(|n| self.layer_name(layer, n));
        let [q_norm, k_norm] = spec.names.qk_norms.map(|n| spec.qk_norm.then(|| self.layer_name(layer, n)));
        let last = layer + 1 == spec.layers;
        // Products of the same x stand side by side, for devices that run such as one.
        let q = match last && self.step.rows == 0 {
            true => None,
            false => Some(self.project(s.x, &q_name, spec.heads)?),
        };
        let k = self.project(s.x, &k_name, spec.kv_heads)?;
        let v = self.project(s.x, &v_name, spec.kv_heads)?;
        let k = self.heads(k, spec.kv_heads, k_norm)?;
        let k = self.rotate(k)?;
        let v = self.heads(v, spec.kv_heads, None)?;
        let pages = self.pages(layer);
        let write = Op::KvWrite(KvWriteAttrs { kv_layout: self.cache.layout });
        let written = [Some(k), Some(v), Some(self.bound(self.inputs.slots))];
        self.g.add(write, &[&written[..], &pages].concat())?;
        let Some(q) = q else { return Ok(None) };
        let q = self.heads(q, spec.heads, q_norm)?;
        let q = self.rotate(q)?;
        let y = self.attend(layer, q, pages)?;
        let mut y = self.g.reshape(y, &[self.step.tokens, spec.heads * spec.head_dim])?;
        let mut h = s.h;
        if let (true, Some(select)) = (last, self.inputs.select) {
            let select = self.bound(select);
            y = self.g.op1(Op::GatherRows(NoAttrs {}), &[y, select])?;
            h = self.g.op1(Op::GatherRows(NoAttrs {}), &[h, select])?;
        }
        let y = self.linear(y, &o_name, spec.hidden, spec.o_bias)?;
        let norm = self.layer_name(layer, spec.names.post_norm);
        self.add_and_norm(y, h, norm).map(Some)
    }

    /// A layer's keys and values, and their scales where they have such.
    fn pages(&self, layer: usize) -> [Option<TensorId>; 4] {
        let at = layer - self.layers.start;
        let (k, v) = self.caches[at];
        let scales = self.scales.get(at);
        [Some(k), Some(v), scales.map(|s| s.0), scales.map(|s| s.1)].map(|at| at.map(|at| self.bound(at)))
    }

    fn attend(&mut self, layer: usize, q: TensorId, pages: [Option<TensorId>; 4]) -> Result<TensorId> {
        let i = self.inputs;
        let window = self.spec.windows[layer];
        let attrs = AttentionAttrs { causal: true, window, kv_layout: self.cache.layout, ..Default::default() };
        let [k, v, k_scale, v_scale] = pages;
        let lengths = [self.bound(i.kv_len), self.bound(i.block_table)].map(Some);
        let scales = [None, k_scale, v_scale];
        let (op, own) = match i.cu_q {
            Some(cu_q) => (Op::AttentionPrefill(attrs), vec![Some(q), k, v, Some(self.bound(cu_q))]),
            None => (Op::AttentionDecode(attrs), vec![Some(q), k, v]),
        };
        Ok(self.g.add(op, &[&own[..], &lengths, &scales].concat())?[0])
    }

    fn add_and_norm(&mut self, y: TensorId, h: TensorId, norm: String) -> Result<Stream> {
        let w = self.norm_weight(norm, self.spec.hidden)?;
        let out = self.g.add(Op::AddRmsNorm(self.norm_attrs()), &[y, h, w].map(Some))?;
        Ok(Stream { h: out[0], x: out[1] })
    }

    /// The MLP and the norm after it: the next layer's, or the final one. Where the next layer is in another graph, both results leave.
    fn mlp(&mut self, layer: usize, s: Stream) -> Result<Stream> {
        let spec = self.spec;
        let [gate, up, down] = spec.names.gate_up_down.map(|n| self.layer_name(layer, n));
        let gate = self.linear(s.x, &gate, spec.inter, spec.mlp_bias)?;
        let up = self.linear(s.x, &up, spec.inter, spec.mlp_bias)?;
        let y = self.g.op1(Op::SiluMul(SiluMulAttrs::default()), &[gate, up])?;
        let y = self.linear(y, &down, spec.hidden, spec.mlp_bias)?;
        let norm = match layer + 1 == spec.layers {
            true => spec.names.final_norm.to_string(),
            false => self.layer_name(layer + 1, spec.names.input_norm),
        };
        let Some(leaves) = self.leaves.filter(|_| layer + 1 == self.layers.end) else {
            return self.add_and_norm(y, s.h, norm);
        };
        let w = self.norm_weight(norm, spec.hidden)?;
        let [h, x] = leaves.map(|at| self.bound(at));
        self.g.add_into(Op::AddRmsNorm(self.norm_attrs()), &[y, s.h, w].map(Some), &[h, x])?;
        Ok(Stream { h, x })
    }

    fn keep_hidden(&mut self, layer: usize, h: TensorId) -> Result<()> {
        if !self.step.keep_hidden {
            return Ok(());
        }
        let desc = TensorDesc::new(DType::F32, &[self.step.tokens, self.spec.hidden])?;
        let op = match self.precision.compute {
            DType::F32 => Op::Copy(NoAttrs {}),
            _ => Op::Cast(NoAttrs {}),
        };
        let out = self.g.bind(format!("hidden.{layer}"), desc);
        self.hidden.push(self.g.bound().len() - 1);
        self.g.add_into(op, &[Some(h)], &[out])?;
        Ok(())
    }

    fn logits(&mut self, x: TensorId) -> Result<usize> {
        let spec = self.spec;
        let (op, operands) = self.product(x, spec.head_weight(), spec.vocab, None)?;
        let out = self.g.bind("logits", TensorDesc::new(DType::F32, &[self.step.rows, spec.vocab])?);
        let position = self.g.bound().len() - 1;
        self.g.add_into(op, &operands, &[out])?;
        Ok(position)
    }

    fn finish(self, logits: Option<usize>) -> ModelGraph {
        ModelGraph {
            graph: self.g,
            inputs: self.inputs,
            caches: self.caches,
            scales: self.scales,
            constants: self.constants,
            logits,
            hidden: self.hidden,
            enters: self.enters,
            leaves: self.leaves,
        }
    }
}
