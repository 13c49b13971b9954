//! Every operator of the list that the CPU runs, on every ISA tier of this machine, beside its truth in f64.
//!
//! Data come from a seed that a failure prints. An operator of the list without trials here fails the test, and so does
//! one that the CPU refuses.

mod trials;

use qiao_core::*;
use qiao_cpu::{Activations, CpuDevice, Isa};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn devices() -> Vec<CpuDevice> {
    let both = |isa| [Activations::Bits16, Activations::Bits8].map(|bits| trials::open_with(isa, 2, bits));
    Isa::ALL.into_iter().flat_map(both).flatten().collect()
}

/// A maker of trials from one seed.
struct Maker {
    rng: Rng,
    dtype: DType,
}

impl Maker {
    fn floats(&mut self, shape: &[usize]) -> (TensorDesc, Vec<u8>) {
        self.filled(Fill::Normal, shape)
    }

    fn filled(&mut self, fill: Fill, shape: &[usize]) -> (TensorDesc, Vec<u8>) {
        let desc = TensorDesc::new(self.dtype, shape).unwrap();
        let data = values(&mut self.rng, fill, self.dtype, desc.elements());
        (desc, to_bytes(self.dtype, &data))
    }

    /// A tensor whose axes lie in memory in another order, so that rows are not contiguous.
    fn strided(&mut self, shape: &[usize]) -> (TensorDesc, Vec<u8>) {
        let mut strides = vec![1; shape.len()];
        for axis in 1..shape.len() {
            strides[axis] = strides[axis - 1] * shape[axis - 1];
        }
        let desc = TensorDesc::strided(self.dtype, shape, &strides).unwrap();
        let data = values(&mut self.rng, Fill::Normal, self.dtype, desc.elements());
        (desc, to_bytes(self.dtype, &data))
    }

    fn ints(&mut self, shape: &[usize], below: usize) -> (TensorDesc, Vec<u8>) {
        let desc = TensorDesc::new(DType::I32, shape).unwrap();
        let data: Vec<f64> = (0..desc.elements()).map(|_| self.rng.below(below) as f64).collect();
        (desc, to_bytes(DType::I32, &data))
    }

    fn unary(&mut self, op: Op, shapes: &[&[usize]]) -> Vec<Trial> {
        let mut out = Vec::new();
        for shape in shapes {
            for fill in [Fill::Normal, Fill::WideRange, Fill::Subnormal, Fill::Special] {
                out.push(with(Trial::new(op), self.filled(fill, shape)));
            }
        }
        let strided = self.strided(&[5, 7]);
        out.push(with(Trial::new(op), strided));
        out
    }

    fn binary(&mut self, op: Op) -> Vec<Trial> {
        let shapes: &[(&[usize], &[usize])] =
            &[(&[3, 17], &[3, 17]), (&[2, 3, 65], &[65]), (&[4, 1, 9], &[3, 1]), (&[5], &[]), (&[0, 4], &[4])];
        let pair = |(a, b): &(&[usize], &[usize])| {
            let (a, b) = (self.floats(a), self.floats(b));
            with(with(Trial::new(op), a), b)
        };
        shapes.iter().map(pair).collect()
    }

    fn matmuls(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        let shapes = [(1, 17, 33), (5, 32, 64), (13, 47, 130), (48, 16, 7), (1, 64, 0), (0, 4, 4), (30, 300, 129)];
        for (m, n, k) in shapes {
            for constant in [false, true] {
                for trans_b in [true, false] {
                    let a = self.floats(&[m, k]);
                    let (mut w, bytes) = self.floats(&if trans_b { [n, k] } else { [k, n] });
                    w.constant = constant;
                    let op = Op::Matmul(MatmulAttrs { trans_b, ..Default::default() });
                    out.push(with(with(Trial::new(op), a), (w, bytes)));
                }
            }
            for epilogue in [Epilogue::Bias, Epilogue::BiasResidual, Epilogue::Gelu] {
                let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
                let (a, w, bias) = (self.floats(&[m, k]), self.floats(&[n, k]), self.floats(&[n]));
                let trial = with(with(with(Trial::new(op), a), (w.0.as_constant(), w.1)), bias);
                let residual = self.floats(&[m, n]);
                out.push(if epilogue == Epilogue::BiasResidual { with(trial, residual) } else { trial });
            }
        }
        let op = Op::Matmul(MatmulAttrs::default());
        let (a, b) = (self.floats(&[2, 3, 5, 9]), self.floats(&[2, 3, 9, 20]));
        out.push(with(with(Trial::new(op), a), b));
        let (a, b) = (self.strided(&[9, 21]), self.floats(&[21, 40]));
        out.push(with(with(Trial::new(op), a), (b.0.as_constant(), b.1)));
        out
    }

    fn norms(&mut self, kind: OpKind) -> Vec<Trial> {
        let mut out = Vec::new();
        for shape in [[3, 64], [1, 1], [4, 97]] {
            for (weight_offset, round_before_weight) in [(0, false), (1, false), (0, true)] {
                let attrs = NormAttrs { eps: 1e-5, weight_offset, round_before_weight };
                let x = self.floats(&shape);
                let w = self.floats(&shape[1..]);
                let trial = match kind {
                    OpKind::RmsNorm => with(Trial::new(Op::RmsNorm(attrs)), x),
                    _ => {
                        let b = self.floats(&shape);
                        with(with(Trial::new(Op::AddRmsNorm(attrs)), x), b)
                    }
                };
                out.push(trial.clone());
                out.push(with(trial, w));
            }
        }
        out
    }

    fn layer_norms(&mut self) -> Vec<Trial> {
        let op = Op::LayerNorm(LayerNormAttrs { eps: 1e-5 });
        let make = |shape: [usize; 2]| {
            let (x, w, b) = (self.floats(&shape), self.floats(&shape[1..]), self.floats(&shape[1..]));
            with(with(with(Trial::new(op), x), w), b)
        };
        [[3, 64], [4, 97]].map(make).into()
    }

    fn ropes(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            for (d, rotary_dim, offset) in [(64, 0, 0), (40, 16, 0), (48, 32, 16), (6, 2, 4)] {
                let op = Op::Rope(RopeAttrs { style, rotary_dim, offset });
                let rotary = if rotary_dim == 0 { d } else { rotary_dim as usize };
                let (x, positions) = (self.floats(&[5, 3, d]), self.ints(&[5], 11));
                let dtype = std::mem::replace(&mut self.dtype, DType::F32);
                let (cos, sin) = (self.floats(&[11, rotary / 2]), self.floats(&[11, rotary / 2]));
                self.dtype = dtype;
                out.push(with(with(with(with(Trial::new(op), x), positions), cos), sin));
            }
        }
        out
    }

    fn softmaxes(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        for (causal, scale) in [(false, 0.0), (true, 0.0), (false, 0.3), (true, 2.0)] {
            let op = Op::Softmax(SoftmaxAttrs { causal, scale });
            for shape in [[2, 5, 9], [1, 9, 5], [1, 1, 130]] {
                let (x, mask) = (self.floats(&shape), self.floats(&shape[1..]));
                out.push(with(Trial::new(op), x.clone()));
                out.push(with(with(Trial::new(op), x), mask));
            }
        }
        out
    }

    fn reductions(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
            for (axis, keep_dim) in [(0, false), (1, true), (2, false)] {
                let x = self.floats(&[3, 5, 18]);
                out.push(with(Trial::new(Op::Reduce(ReduceAttrs { kind, axis, keep_dim })), x));
            }
        }
        out
    }

    fn kv_writes(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        for (kv_layout, cache) in caches(self.dtype) {
            let op = Op::KvWrite(KvWriteAttrs { kv_layout });
            let (k, v) = (self.floats(&[3, 2, 8]), self.floats(&[3, 2, 8]));
            let slots = (TensorDesc::new(DType::I32, &[3]).unwrap(), to_bytes(DType::I32, &[9.0, -1.0, 2.0]));
            let shape: &[usize] = if kv_layout == KvLayout::BlockTokenHead { &[3, 4, 2, 8] } else { &[3, 2, 4, 8] };
            let mut trial = with(with(with(Trial::new(op), k), v), slots);
            for shape in [shape, shape] {
                let desc = TensorDesc::new(cache, shape).unwrap();
                let zeros = vec![0; desc.bytes().unwrap()];
                trial = trial.input(desc, zeros);
            }
            if cache == DType::I8 || cache == DType::F8E4M3 {
                for _ in 0..2 {
                    let desc = TensorDesc::new(DType::F32, &shape[..3]).unwrap();
                    let zeros = vec![0; desc.bytes().unwrap()];
                    trial = trial.input(desc, zeros);
                }
            }
            out.push(trial);
        }
        out
    }

    /// Two sequences over shuffled pages of four tokens.
    fn attentions(&mut self, kind: OpKind) -> Vec<Trial> {
        let mut out = Vec::new();
        for attrs in attention_attrs() {
            for (kv_layout, cache) in caches(self.dtype) {
                for (heads, kv_heads, d) in [(4, 2, 16), (7, 1, 80)] {
                    let attrs = AttentionAttrs { kv_layout, ..attrs };
                    let sinks = attrs.window == 3;
                    out.push(self.attention(kind, attrs, cache, [heads, kv_heads, d], sinks));
                }
            }
        }
        out
    }

    fn attention(&mut self, kind: OpKind, attrs: AttentionAttrs, cache: DType, dims: [usize; 3], sinks: bool) -> Trial {
        let [heads, kv_heads, d] = dims;
        let (blocks, size) = (40, 4);
        let lens = [13.0, 130.0];
        let decode = kind == OpKind::AttentionDecode;
        let queries = if decode { 2 } else { 9 };
        let q = self.floats(&[queries, heads, d]);
        let shape = match attrs.kv_layout {
            KvLayout::BlockTokenHead => [blocks, size, kv_heads, d],
            KvLayout::BlockHeadToken => [blocks, kv_heads, size, d],
        };
        let int =
            |shape: &[usize], data: &[f64]| (TensorDesc::new(DType::I32, shape).unwrap(), to_bytes(DType::I32, data));
        let pages: Vec<f64> = self.rng.permutation(blocks).iter().map(|&p| p as f64).collect();
        let table: Vec<f64> = (0..70)
            .map(|i| {
                if i < 4 {
                    pages[i]
                } else if i < 35 {
                    -1.0
                } else {
                    pages[(i - 31).min(39)]
                }
            })
            .collect();
        let mut page = || {
            let desc = TensorDesc::new(cache, &shape).unwrap();
            let data: Vec<f64> = (0..desc.elements())
                .map(|_| if cache == DType::I8 { self.rng.below(255) as f64 - 127.0 } else { self.rng.normal() })
                .collect();
            (desc, to_bytes(cache, &data))
        };
        let (k, v) = (page(), page());
        let lens = int(&[2], &lens);
        let table = int(&[2, 35], &table);
        let trial = if decode {
            let op = Op::AttentionDecode(attrs);
            with(with(with(with(with(Trial::new(op), q), k), v), lens), table)
        } else {
            let op = Op::AttentionPrefill(attrs);
            let cu = int(&[3], &[0.0, 2.0, 9.0]);
            with(with(with(with(with(with(Trial::new(op), q), k), v), cu), lens), table)
        };
        let trial = if sinks { with(trial, self.floats(&[heads])) } else { trial.without() };
        if cache != DType::I8 && cache != DType::F8E4M3 {
            return trial;
        }
        let mut scales = || {
            let desc = TensorDesc::new(DType::F32, &shape[..3]).unwrap();
            let data: Vec<f64> = (0..desc.elements()).map(|_| 0.01 + 0.01 * self.rng.uniform()).collect();
            (desc, to_bytes(DType::F32, &data))
        };
        let (ks, vs) = (scales(), scales());
        with(with(trial, ks), vs)
    }

    fn packed_attention(&mut self) -> Vec<Trial> {
        let make = |attrs: AttentionAttrs| {
            let (q, k, v) = (self.floats(&[6, 4, 24]), self.floats(&[11, 2, 24]), self.floats(&[11, 2, 8]));
            let int = |data: &[f64]| (TensorDesc::new(DType::I32, &[data.len()]).unwrap(), to_bytes(DType::I32, data));
            let trial = with(with(with(Trial::new(Op::AttentionPrefill(attrs)), q), k), v);
            with(with(trial, int(&[0.0, 4.0, 6.0])), int(&[3.0, 8.0]))
        };
        attention_attrs().map(make).into()
    }

    fn moves(&mut self, kind: OpKind) -> Vec<Trial> {
        let mut out = Vec::new();
        match kind {
            OpKind::Concat => {
                for axis in 0..3 {
                    let mut shape = [2, 3, 5];
                    let a = self.floats(&shape);
                    shape[axis] += 4;
                    let b = self.strided(&shape);
                    out.push(with(with(Trial::new(Op::Concat(ConcatAttrs { axis: axis as u32 })), a), b));
                }
            }
            OpKind::Split => {
                for axis in 0..3 {
                    let x = self.floats(&[6, 6, 6]);
                    out.push(with(Trial::new(Op::Split(SplitAttrs { axis, parts: 3 })), x));
                }
            }
            OpKind::Slice => {
                for axis in 0..3 {
                    let x = self.strided(&[6, 7, 8]);
                    out.push(with(Trial::new(Op::Slice(SliceAttrs { axis, start: 2, len: 3 })), x));
                }
            }
            _ => {
                for axes in [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]] {
                    let x = self.floats(&[3, 4, 5]);
                    let perm = Perm::new(&axes).unwrap();
                    out.push(with(Trial::new(Op::Transpose(TransposeAttrs { perm })), x));
                }
            }
        }
        out
    }

    fn casts(&mut self) -> Vec<Trial> {
        let op = Op::Cast(NoAttrs {});
        let mut out = Vec::new();
        for to in [
            DType::F64,
            DType::F32,
            DType::F16,
            DType::BF16,
            DType::I32,
            DType::I8,
            DType::U8,
            DType::F8E4M3,
            DType::F8E5M2,
        ] {
            for fill in [Fill::Normal, Fill::WideRange, Fill::Special] {
                out.push(with(Trial::new(op), self.filled(fill, &[4, 9])).output_dtype(to));
            }
        }
        for &block in DType::ALL.iter().filter(|d| d.is_block() || d.block_elems() == 2) {
            let shape = [3, 2 * block.block_elems()];
            let bytes = match block.is_block() {
                true => block_bytes(&mut self.rng, block, 6),
                false => (0..6).map(|_| self.rng.bits() as u8).collect(),
            };
            out.push(Trial::new(op).input(TensorDesc::new(block, &shape).unwrap(), bytes).output_dtype(self.dtype));
        }
        out
    }

    fn gathers(&mut self) -> Vec<Trial> {
        let op = Op::GatherRows(NoAttrs {});
        let (table, ids) = (self.floats(&[7, 33]), self.ints(&[2, 5], 9));
        let mut out = vec![with(with(Trial::new(op), table), ids)];
        for block in [DType::Q4_0, DType::Q6K] {
            let width = block.block_elems();
            let table = (TensorDesc::new(block, &[5, width]).unwrap(), block_bytes(&mut self.rng, block, 5));
            let ids = self.ints(&[3], 5);
            out.push(with(with(Trial::new(op), table), ids).output_dtype(self.dtype));
        }
        out
    }

    fn choices(&mut self, kind: OpKind) -> Vec<Trial> {
        let mut out = Vec::new();
        for fill in [Fill::Normal, Fill::Zero, Fill::Special] {
            let x = self.filled(fill, &[4, 37]);
            match kind {
                OpKind::Argmax => out.push(with(Trial::new(Op::Argmax(NoAttrs {})), x)),
                OpKind::TopK => {
                    for k in [1, 5, 37] {
                        out.push(with(Trial::new(Op::TopK(TopKAttrs { k })), x.clone()));
                    }
                }
                _ if fill == Fill::Special => {}
                _ => {
                    let rows =
                        |data: [f64; 4]| (TensorDesc::new(DType::F32, &[4]).unwrap(), to_bytes(DType::F32, &data));
                    let u = rows(std::array::from_fn(|_| self.rng.uniform()));
                    let k = (TensorDesc::new(DType::I32, &[4]).unwrap(), to_bytes(DType::I32, &[0.0, 0.0, 5.0, 9.0]));
                    let trial = with(with(Trial::new(Op::Sample(NoAttrs {})), x), u);
                    let trial = with(with(trial, rows([0.0, 1.0, 0.7, 1.5])), k);
                    out.push(with(with(trial, rows([1.0, 0.9, 1.0, 0.8])), rows([0.0, 0.0, 0.1, 0.05])));
                }
            }
        }
        out
    }

    fn int8(&mut self, kind: OpKind) -> Vec<Trial> {
        if kind == OpKind::QuantizeDynamic {
            return self.unary(Op::QuantizeDynamic(NoAttrs {}), &[&[3, 70], &[1, 1], &[2, 2, 16]]);
        }
        if kind == OpKind::QuantizeStatic {
            let f32s = |x: f64| (TensorDesc::new(DType::F32, &[1]).unwrap(), to_bytes(DType::F32, &[x]));
            let of = |shape: &[usize], zero: f64, me: &mut Self| {
                with(with(with(Trial::new(Op::QuantizeStatic(NoAttrs {})), me.floats(shape)), f32s(0.013)), f32s(zero))
            };
            return vec![of(&[3, 70], 0.0, self), of(&[1, 1], -17.0, self), of(&[2, 2, 16], 5.0, self)];
        }
        let mut out = Vec::new();
        for (m, n, k) in [(1, 16, 4), (5, 33, 70), (17, 130, 257)] {
            for constant in [false, true] {
                let mut codes = |shape: &[usize]| {
                    let desc = TensorDesc::new(DType::I8, shape).unwrap();
                    let data: Vec<f64> = (0..desc.elements()).map(|_| self.rng.below(256) as f64 - 128.0).collect();
                    (desc, to_bytes(DType::I8, &data))
                };
                let (a, mut b) = (codes(&[m, k]), codes(&[n, k]));
                b.0.constant = constant;
                let dtype = std::mem::replace(&mut self.dtype, DType::F32);
                let (sa, sb) = (self.floats(&[m]), self.floats(&[if constant { n } else { 1 }]));
                self.dtype = dtype;
                let trial = with(with(with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), a), b), sa), sb);
                out.push(with(trial, self.floats(&[n])).output_dtype(self.dtype));
            }
        }
        out
    }

    /// Every block format, and 4-bit codes in groups.
    fn quantised_products(&mut self) -> Vec<Trial> {
        let mut out = Vec::new();
        for (i, &block) in DType::ALL.iter().filter(|d| d.is_block()).enumerate() {
            let (m, n, blocks) = ([1, 3, 9][i % 3], 19, 3);
            let a = self.floats(&[m, blocks * block.block_elems()]);
            let w = TensorDesc::new(block, &[n, blocks * block.block_elems()]).unwrap();
            let bytes = block_bytes(&mut self.rng, block, n * blocks);
            let op = Op::MatmulQuant(MatmulQuantAttrs { epilogue: Epilogue::Bias, ..Default::default() });
            let trial = with(with(Trial::new(op), a), (w.as_constant(), bytes)).without().without().without();
            out.push(with(trial, self.floats(&[n])));
        }
        for (m, group_size, zeros) in [(1, 32, false), (2, 64, true), (7, 0, true)] {
            let a = self.floats(&[m, 128]);
            let codes = |rng: &mut Rng, shape: &[usize]| {
                let desc = TensorDesc::new(DType::U4, shape).unwrap().as_constant();
                let bytes = (0..desc.bytes().unwrap()).map(|_| rng.bits() as u8).collect();
                (desc, bytes)
            };
            let groups = 128 / if group_size == 0 { 128 } else { group_size as usize };
            let w = codes(&mut self.rng, &[20, 128]);
            let (scales, bytes) = self.floats(&[20, groups]);
            let op = Op::MatmulQuant(MatmulQuantAttrs { group_size, ..Default::default() });
            let trial = with(with(with(Trial::new(op), a), w), (scales.as_constant(), bytes));
            let zero = TensorDesc::new(DType::U8, &[20, groups]).unwrap().as_constant();
            let bytes = (0..20 * groups).map(|_| self.rng.below(16) as u8).collect();
            out.push(if zeros { trial.input(zero, bytes) } else { trial });
        }
        out
    }

    fn trials(&mut self, kind: OpKind) -> Vec<Trial> {
        let plain = |kind| Op::from_words(kind, &[]).unwrap();
        match kind {
            OpKind::Copy | OpKind::Silu | OpKind::Relu | OpKind::Sigmoid | OpKind::Tanh | OpKind::Exp => {
                self.unary(plain(kind), &[&[7, 33], &[1], &[], &[0, 3], &[2, 3, 130]])
            }
            OpKind::Gelu => {
                let mut out = self.unary(plain(kind), &[&[7, 33]]);
                out.extend(self.unary(Op::Gelu(GeluAttrs { form: GeluForm::Tanh }), &[&[7, 33]]));
                out
            }
            OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div => self.binary(plain(kind)),
            OpKind::Fill => {
                vec![Trial::new(Op::Fill(FillAttrs { value: -1.5 })).output_shape(&[3, 5]).output_dtype(self.dtype)]
            }
            OpKind::SiluMul => {
                let mut out = Vec::new();
                for (gate_second, clamp) in [(false, 0.0), (true, 0.0), (false, 0.5)] {
                    let op = Op::SiluMul(SiluMulAttrs { gate_second, clamp });
                    let (x, gate, up) = (self.floats(&[5, 34]), self.floats(&[5, 17]), self.floats(&[5, 17]));
                    out.push(with(Trial::new(op), x));
                    out.push(with(with(Trial::new(op), gate), up));
                }
                out
            }
            OpKind::Cast => self.casts(),
            OpKind::GatherRows => self.gathers(),
            OpKind::Matmul => self.matmuls(),
            OpKind::RmsNorm | OpKind::AddRmsNorm => self.norms(kind),
            OpKind::LayerNorm => self.layer_norms(),
            OpKind::Rope => self.ropes(),
            OpKind::Softmax => self.softmaxes(),
            OpKind::Reduce => self.reductions(),
            OpKind::KvWrite => self.kv_writes(),
            OpKind::AttentionDecode => self.attentions(kind),
            OpKind::AttentionPrefill => {
                let mut out = self.packed_attention();
                out.extend(self.attentions(kind));
                out
            }
            OpKind::Concat | OpKind::Split | OpKind::Slice | OpKind::Transpose => self.moves(kind),
            OpKind::Argmax | OpKind::TopK | OpKind::Sample => self.choices(kind),
            OpKind::QuantizeDynamic | OpKind::QuantizeStatic | OpKind::ScaledMatmul => self.int8(kind),
            OpKind::MatmulQuant => self.quantised_products(),
            _ => Vec::new(),
        }
    }
}

fn with(trial: Trial, (desc, bytes): (TensorDesc, Vec<u8>)) -> Trial {
    trial.input(desc, bytes)
}

fn caches(dtype: DType) -> Vec<(KvLayout, DType)> {
    let layouts = [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken];
    layouts.into_iter().flat_map(|l| [dtype, DType::I8, DType::F8E4M3, DType::F8E5M2].map(|d| (l, d))).collect()
}

fn attention_attrs() -> [AttentionAttrs; 5] {
    let plain = AttentionAttrs { causal: true, ..Default::default() };
    [
        plain,
        AttentionAttrs { causal: false, ..plain },
        AttentionAttrs { window: 5, ..plain },
        AttentionAttrs { window: 3, scale: 0.2, ..plain },
        AttentionAttrs { softcap: 2.0, ..plain },
    ]
}

#[test]
fn every_operator_is_within_its_tolerance_on_every_tier() {
    const SEED: u64 = 0x0051_616f;
    let mut failures = Vec::new();
    let mut ran = 0;
    for device in devices() {
        for &kind in OpKind::ALL {
            for dtype in FLOATS {
                let mut maker = Maker { rng: Rng::new(SEED), dtype };
                let trials = maker.trials(kind);
                assert!(!trials.is_empty(), "no trials for {kind}");
                for (i, trial) in trials.iter().enumerate() {
                    ran += 1;
                    let at = format!("{kind} {dtype} trial {i} on {} (seed {SEED:#x})", device.info().driver);
                    match trial.check(&device) {
                        Err(e) => failures.push(format!("{at}: {e}")),
                        Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
                    }
                }
            }
        }
    }
    assert!(ran > 1000, "only {ran} trials ran");
    assert!(
        failures.is_empty(),
        "{} of {ran} failed:\n{}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
}
