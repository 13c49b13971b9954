//! Attention over packed keys or pages, with lengths that the host gives.

use std::ffi::{CStr, c_char};

use qiao_core::{AttentionAttrs, DType, KvLayout, Op, TensorDesc};
use qiao_reference::value::Output;

use super::{Handle, among, dense, reshaped, results_of};
use crate::codes::NN_INVALID;
use crate::executors::{Operands, Prepared};
use crate::memory::Memory;
use crate::tensors::Shared;
use crate::world::{Refused, refused};

/// Rows and columns of the mask that a causal call takes.
const MASK: usize = 2048;

/// A call, checked.
struct Call {
    q: Shared,
    k: Shared,
    v: Shared,
    mask: Option<Shared>,
    table: Option<Shared>,
    out: Shared,
    lengths: Vec<i64>,
    scale: f32,
    /// Batch, queries a sequence, heads, elements a head.
    shape: [usize; 4],
    kv_heads: usize,
}

#[allow(
    clippy::too_many_arguments,
    unused_variables,
    reason = "as many as are documented, most of them not for this library"
)]
pub(super) fn prepare(
    o: &mut Operands<'_>,
    query: Handle,
    key: Handle,
    value: Handle,
    shift: Handle,
    mask: Handle,
    lengths: Handle,
    lengths_kv: Handle,
    deq_scale1: Handle,
    quant_scale1: Handle,
    deq_scale2: Handle,
    quant_scale2: Handle,
    quant_offset2: Handle,
    antiquant_scale: Handle,
    antiquant_offset: Handle,
    table: Handle,
    query_padding: Handle,
    kv_padding: Handle,
    key_antiquant_scale: Handle,
    key_antiquant_offset: Handle,
    value_antiquant_scale: Handle,
    value_antiquant_offset: Handle,
    key_prefix: Handle,
    value_prefix: Handle,
    prefix_length: Handle,
    query_rope: Handle,
    key_rope: Handle,
    key_rope_scale: Handle,
    heads: i64,
    scale: f64,
    before: i64,
    after: i64,
    layout: *const c_char,
    kv_heads: i64,
    sparse: i64,
    precise: i64,
    block: i64,
    antiquant_mode: i64,
    lse_flag: bool,
    key_mode: i64,
    value_mode: i64,
    out: Handle,
    lse: Handle,
) -> Result<Prepared, Refused> {
    let unused = [
        shift,
        deq_scale1,
        quant_scale1,
        deq_scale2,
        quant_scale2,
        quant_offset2,
        antiquant_scale,
        antiquant_offset,
        query_padding,
        kv_padding,
        key_antiquant_scale,
        key_antiquant_offset,
        value_antiquant_scale,
        value_antiquant_offset,
        key_prefix,
        value_prefix,
        prefix_length,
        query_rope,
        key_rope,
        key_rope_scale,
        lse,
    ];
    if unused.iter().any(|h| !h.is_null()) || lse_flag || antiquant_mode != 0 || key_mode != 0 || value_mode != 0 {
        return refused(NN_INVALID, "this library knows no quantised, shifted, padded, prefixed or rotated attention");
    }
    // SAFETY: as the interface documents, the text ends with a zero byte.
    if layout.is_null() || unsafe { CStr::from_ptr(layout) } != c"BSND" {
        return refused(NN_INVALID, "this library knows the layout BSND only");
    }
    let q = o.tensor(query, "query")?;
    let (keys, values) = (o.list(key, "key")?, o.list(value, "value")?);
    let ([k], [v]) = (&keys[..], &values[..]) else { return refused(NN_INVALID, "one tensor of keys, one of values") };
    let (k, v) = (k.clone(), v.clone());
    let (mask, table) = (o.optional(mask, "attenMask")?, o.optional(table, "blockTable")?);
    let out = o.tensor(out, "attentionOut")?;
    let lengths = o.ints(lengths_kv, "actualSeqLengthsKv")?;
    among(o, &q, "query", &[DType::F16, DType::BF16])?;
    for (t, what) in [(&k, "key"), (&v, "value"), (&out, "attentionOut")] {
        among(o, t, what, &[q.dtype])?;
        dense(t, what)?;
    }
    dense(&q, "query")?;
    let [b, s, h, d] = q.view[..] else { return refused(NN_INVALID, "query is [B, S, N, D]") };
    let kv_heads = kv_heads as usize;
    let call = Call { q, k, v, mask, table, out, lengths, scale: scale as f32, shape: [b, s, h, d], kv_heads };
    call.check(o, heads, sparse, block)?;
    // What is needed grows with the lengths, so that it is known at each call and not before.
    let workspace = 64 * (1 + call.lengths.iter().sum::<i64>() as u64);
    Ok(Prepared { workspace, work: Box::new(move |memory| call.run(memory)) })
}

impl Call {
    fn check(&self, o: &Operands<'_>, heads: i64, sparse: i64, block: i64) -> Result<(), Refused> {
        let [b, s, h, d] = self.shape;
        let bad = |why: String| refused(NN_INVALID, why);
        if heads as usize != h || self.kv_heads == 0 || h % self.kv_heads != 0 || h / self.kv_heads > 64 || h > 256 {
            return bad(format!("{heads} heads over {} of {:?}", self.kv_heads, self.q.view));
        }
        if d > 512 || (s > 1 && !d.is_multiple_of(16)) || self.out.view != self.q.view {
            return bad(format!("heads of {d}, out {:?}", self.out.view));
        }
        if self.lengths.len() != b || self.lengths.iter().any(|l| *l < 0) {
            return bad(format!("lengths {:?} of {b} sequences", self.lengths));
        }
        match (&self.mask, sparse) {
            (None, 0) => {}
            (Some(mask), 3) => {
                among(o, mask, "attenMask", &[DType::Bool, DType::I8, DType::U8])?;
                if *mask.view != [MASK, MASK] {
                    return bad(format!("a mask {:?} of sparseMode 3", mask.view));
                }
            }
            (mask, sparse) => return bad(format!("sparseMode {sparse}, mask {}", mask.is_some())),
        }
        let Some(table) = &self.table else {
            let want = [b, self.k.view.get(1).copied().unwrap_or(0), self.kv_heads, d];
            return match *self.k.view == want
                && *self.v.view == want
                && self.lengths.iter().all(|l| *l as usize <= want[1])
            {
                true => Ok(()),
                false => bad(format!("key {:?} and value {:?} of {:?}", self.k.view, self.v.view, self.q.view)),
            };
        };
        among(o, table, "blockTable", &[DType::I32])?;
        let size = self.k.view.get(1).copied().unwrap_or(0);
        let step = if s > 1 { 128 } else { 16 };
        if block as usize != size || size == 0 || size > 512 || !size.is_multiple_of(step) {
            return bad(format!("blocks of {block}, and the cache has {size}: multiples of {step} up to 512"));
        }
        if self.k.view.len() != 3
            || self.k.view[2] != self.kv_heads * d
            || self.v.view != self.k.view
            || self.k.view[2] > 65535
        {
            return bad(format!("caches {:?} and {:?}", self.k.view, self.v.view));
        }
        let most = self.lengths.iter().copied().max().unwrap_or(0) as usize;
        if table.view.len() != 2 || table.view[0] != b || table.view[1] < most.div_ceil(size) {
            return bad(format!("a table {:?} for {b} sequences of up to {most}", table.view));
        }
        Ok(())
    }

    fn run(self, memory: &mut Memory) -> Result<(), String> {
        if let Some(mask) = &self.mask {
            let seen = mask.bytes(memory)?;
            let wrong = |i: usize, j: usize| (seen[i * MASK + j] != 0) != (j > i);
            if (0..MASK).any(|i| wrong(i, i) || wrong(i, (i * 7 + 1) % MASK) || wrong(i, (i + 1) % MASK)) {
                return Err("the mask does not hide what lies above the diagonal".into());
            }
        }
        let found = self.attend(memory)?;
        self.out.store(memory, &found)
    }

    fn attend(&self, memory: &Memory) -> Result<Output, String> {
        let [b, s, h, d] = self.shape;
        let words = |e: (i32, String)| e.1;
        let q = reshaped(&self.q, &[b * s, h, d]).map_err(words)?;
        let ints = |list: Vec<i64>| list.iter().flat_map(|l| (*l as i32).to_le_bytes()).collect::<Vec<u8>>();
        let desc = |dtype, shape: &[usize]| TensorDesc::new(dtype, shape).map_err(|e| e.to_string());
        let (cu, lens) = (ints((0..=b).map(|i| (i * s) as i64).collect()), ints(self.lengths.clone()));
        let attrs = AttentionAttrs {
            causal: self.mask.is_some(),
            scale: self.scale,
            kv_layout: KvLayout::BlockTokenHead,
            ..Default::default()
        };
        let (cu, lens) = ((desc(DType::I32, &[b + 1])?, &cu[..]), (desc(DType::I32, &[b])?, &lens[..]));
        let out = desc(self.out.dtype, &[b * s, h, d])?;
        let bytes = |t: &Shared| t.bytes(memory).map(<[u8]>::to_vec);
        let (qb, kb, vb) = (bytes(&q)?, bytes(&self.k)?, bytes(&self.v)?);
        let (k, table) = match &self.table {
            Some(table) => {
                let [blocks, size, _] = self.k.view[..] else { return Err("a cache has three dims".into()) };
                let of = [blocks, size, self.kv_heads, d];
                (desc(self.k.dtype, &of)?, Some((table.desc(), table.bytes(memory)?.to_vec())))
            }
            None => (desc(self.k.dtype, &[b * self.k.view[1], self.kv_heads, d])?, None),
        };
        let table = table.as_ref().map(|(desc, bytes)| (desc.clone(), &bytes[..]));
        let inputs = [
            Some((q.desc(), &qb[..])),
            Some((k.clone(), &kb[..])),
            Some((k, &vb[..])),
            Some(cu),
            Some(lens),
            table,
            None,
            None,
            None,
        ];
        let mut found = results_of(Op::AttentionPrefill(attrs), &inputs, &[out])?;
        Ok(found.remove(0))
    }
}
