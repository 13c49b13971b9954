//! Rules of rope, the KV cache and attention.

use super::{Operands, OutDtype, OutSpec, bad_attr, non_negative};
use crate::attrs::{AttentionAttrs, KvLayout};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::Op;
use crate::shape::Pages;

pub(crate) fn rope(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::Rope(attrs) = op else { unreachable!("the list pairs rope with its rule") };
    let a = x.rank(0, 3)?;
    x.float(0)?;
    x.index(1)?;
    x.shape(1, &[a.shape[0]])?;
    let d = a.shape[2];
    let rotary = if attrs.rotary_dim == 0 { d } else { attrs.rotary_dim as usize };
    let offset = attrs.offset as usize;
    if rotary % 2 != 0 || rotary + offset > d {
        let found = format!("{rotary} from element {offset}");
        return Err(bad_attr(x.kind, "rotary_dim", found, format!("use an even number within the head size, {d}")));
    }
    for i in 2..4 {
        x.f32(i)?;
        let table = x.rank(i, 2)?;
        x.check(i, table.shape[1] == rotary / 2, || format!("give it {} columns, rotary_dim / 2", rotary / 2))?;
    }
    x.shape(3, &x.get(2)?.shape)?;
    Ok(vec![OutSpec { shape: Some(a.shape), dtype: OutDtype::Float(a.dtype) }])
}

fn is_cache_dtype(dtype: DType) -> bool {
    dtype.is_activation() || matches!(dtype, DType::I8 | DType::F8E4M3 | DType::F8E5M2)
}

/// Checks two caches of one pool and their scales; gives the dims of both.
fn caches(x: &Operands<'_>, layout: KvLayout, at: [usize; 2], scale: [usize; 2]) -> Result<[Pages; 2]> {
    let mut pages = [Pages { blocks: 0, block_size: 0, heads: 0, head_dim: 0 }; 2];
    for i in 0..2 {
        let cache = x.rank(at[i], 4)?;
        x.check(at[i], is_cache_dtype(cache.dtype), || "give it f32, f16, bf16, i8 or fp8".into())?;
        pages[i] = Pages::of(cache, layout).expect("a cache of rank 4 has pages");
        let given = x.opt(scale[i]).is_some();
        x.check(at[i], cache.dtype != DType::I8 || given, || "an i8 cache needs scales".into())?;
        x.check(scale[i], !given || !cache.dtype.is_activation(), || {
            format!("a {} cache takes no scales", cache.dtype)
        })?;
        x.f32(scale[i])?;
        x.opt_shape(scale[i], &cache.shape[..3])?;
    }
    let (k, v) = (pages[0], pages[1]);
    let same_pool = (k.blocks, k.block_size, k.heads) == (v.blocks, v.block_size, v.heads);
    x.check(at[1], same_pool && x.get(at[0])?.dtype == x.get(at[1])?.dtype, || {
        "give it dtype, blocks, block size and heads of the key cache".into()
    })?;
    x.check(at[0], k.block_size > 0 || k.blocks == 0, || "give it a block size of at least 1".into())?;
    Ok(pages)
}

pub(crate) fn kv_write(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::KvWrite(attrs) = op else { unreachable!("the list pairs kv_write with its rule") };
    let (k, _) = (x.rank(0, 3)?, x.rank(1, 3)?);
    let [kp, vp] = caches(x, attrs.kv_layout, [3, 4], [5, 6])?;
    x.float(0)?;
    x.float(1)?;
    x.shape(0, &[k.shape[0], kp.heads, kp.head_dim])?;
    x.shape(1, &[k.shape[0], vp.heads, vp.head_dim])?;
    x.index(2)?;
    x.shape(2, &[k.shape[0]])?;
    // An exact copy keeps the dtype; a wider activation may be rounded into an activation cache.
    Ok([3, 4, 5, 6].into_iter().filter_map(|i| x.opt(i)).map(OutSpec::like).collect())
}

fn check_attrs(x: &Operands<'_>, attrs: &AttentionAttrs) -> Result<()> {
    non_negative(x.kind, "scale", attrs.scale)?;
    non_negative(x.kind, "softcap", attrs.softcap)
}

fn heads_divide(x: &Operands<'_>, heads: usize, kv: &Pages, d: usize) -> Result<()> {
    let grouped = kv.heads > 0 && heads.is_multiple_of(kv.heads);
    x.check(1, grouped, || format!("its {} heads must divide the {heads} query heads", kv.heads))?;
    x.check(1, kv.head_dim == d, || format!("its head size {} must equal the queries' {d}", kv.head_dim))
}

pub(crate) fn attention_prefill(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::AttentionPrefill(attrs) = op else { unreachable!("the list pairs attention_prefill with its rule") };
    check_attrs(x, attrs)?;
    let q = x.rank(0, 3)?;
    x.float(0)?;
    let cu = x.rank(3, 1)?;
    x.index(3)?;
    x.index(4)?;
    x.check(3, cu.shape[0] >= 1, || "give it B + 1 entries".into())?;
    let batch = cu.shape[0] - 1;
    x.shape(4, &[batch])?;
    let [kp, vp] = match x.opt(5) {
        Some(table) => {
            x.index(5)?;
            x.check(5, table.rank() == 2 && table.shape[0] == batch, || format!("give it shape [{batch}, blocks]"))?;
            caches(x, attrs.kv_layout, [1, 2], [7, 8])?
        }
        None => {
            let (k, v) = (x.rank(1, 3)?, x.rank(2, 3)?);
            for i in [1, 2] {
                x.float(i)?;
            }
            x.check(2, v.shape[..2] == k.shape[..2], || "give it the tokens and heads of the keys".into())?;
            for i in [7, 8] {
                x.check(i, x.opt(i).is_none(), || "only a paged cache takes scales".into())?;
            }
            [k, v].map(|t| Pages { blocks: 1, block_size: t.shape[0], heads: t.shape[1], head_dim: t.shape[2] })
        }
    };
    heads_divide(x, q.shape[1], &kp, q.shape[2])?;
    x.float(6)?;
    x.opt_shape(6, &[q.shape[1]])?;
    Ok(vec![OutSpec::new(&[q.shape[0], q.shape[1], vp.head_dim], OutDtype::Float(q.dtype))?])
}

pub(crate) fn attention_decode(op: &Op, x: &Operands<'_>) -> Result<Vec<OutSpec>> {
    let Op::AttentionDecode(attrs) = op else { unreachable!("the list pairs attention_decode with its rule") };
    check_attrs(x, attrs)?;
    let q = x.rank(0, 3)?;
    x.float(0)?;
    let batch = q.shape[0];
    x.index(3)?;
    x.shape(3, &[batch])?;
    let table = x.rank(4, 2)?;
    x.index(4)?;
    x.check(4, table.shape[0] == batch, || format!("give it shape [{batch}, blocks]"))?;
    let [kp, vp] = caches(x, attrs.kv_layout, [1, 2], [6, 7])?;
    heads_divide(x, q.shape[1], &kp, q.shape[2])?;
    x.float(5)?;
    x.opt_shape(5, &[q.shape[1]])?;
    Ok(vec![OutSpec::new(&[batch, q.shape[1], vp.head_dim], OutDtype::Float(q.dtype))?])
}
