//! rope, kv_write, attention.

use qiao_conformance::Check::{Guards, Limit, Special, Unwritten};
use qiao_core::{KvLayout, Op, Result, RopeAttrs, RopeStyle};
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{Before, Kernel, Lost};
use crate::scene::{Scene, at, one};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new("rope_has_the_other_style", "op/rope/*", &[Limit], Before(|s| {
        if let Op::Rope(RopeAttrs { style, .. }) = &mut s.op {
            *style = if *style == RopeStyle::HalfSplit { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
        }
    })),
    Mutant::new("rope_pairs_by_the_head_and_not_by_rotary_dim", "op/rope/*rotated=*", &[Limit], Kernel(|s| {
        let Op::Rope(a) = s.op else { return s.truth() };
        let (x, half) = (s.value(0), a.rotary_dim as usize / 2);
        let d = x.row_len();
        // The honest rotation of a head whose second halves stand where the first ones of the whole head end.
        let wrong = |i: usize| if i < half { i } else if i < 2 * half { d / 2 + i - half } else { i };
        let (mut moved, truth) = (x.data.clone(), s.numbers(0)?);
        let (cos, sin, positions) = (s.value(2), s.value(3), s.value(1).data);
        let heads = x.shape[1];
        for (row, y) in moved.chunks_exact_mut(d).enumerate() {
            let p = positions[row / heads];
            if !(0.0..cos.shape[0] as f64).contains(&p) {
                y.copy_from_slice(&truth[row * d..(row + 1) * d]);
                continue;
            }
            for i in 0..half {
                let (c, s) = (at(&cos, &[p as usize, i]), at(&sin, &[p as usize, i]));
                let (a, b) = (y[wrong(i)], y[wrong(i + half)]);
                (y[wrong(i)], y[wrong(i + half)]) = (a * c - b * s, b * c + a * s);
            }
        }
        one(moved)
    }))
    .when(|s| matches!(s.op, Op::Rope(RopeAttrs { style: RopeStyle::HalfSplit, offset: 0, rotary_dim }) if rotary_dim > 0)),
    Mutant::new("rope_ignores_its_offset", "op/rope/*offset=*", &[Limit], Before(|s| {
        if let Op::Rope(a) = &mut s.op {
            a.offset = 0;
        }
    })),
    Mutant::new("rope_turns_the_other_way", "op/rope/*", &[Limit], Before(|s| s.map(3, |_, x| -x))),
    Mutant::new("rope_clamps_positions", "op/rope/*positions=outside*", &[Special], Before(|s| {
        let most = s.shape(2)[0] as f64 - 1.0;
        s.map(1, move |_, p| p.clamp(0.0, most));
    })),
    Mutant::new("rope_reads_the_low_half_of_i64", "op/rope/*index=i64*", &[Special], Before(|s| s.map(1, |_, p| p as i64 as i32 as f64))),
    Mutant::new("rope_counts_positions_in_16_bits", "op/rope/*table=70001*", &[Limit, Special], Before(|s| {
        s.map(1, |_, p| if p >= 0.0 { p % 65536.0 } else { p })
    })),
    Mutant::new("rope_leaves_what_passes_unwritten", "op/rope/*rotated=*", &[Unwritten], Lost(|s, _, i| {
        let Op::Rope(a) = s.op else { return false };
        let (d, rotary) = (s.outs[0].shape.last_dim(), a.rotary_dim as usize);
        rotary > 0 && i % d >= a.offset as usize + rotary
    })),
    Mutant::new("rope_rotates_the_first_head_only", "op/rope/*heads=3*", &[Limit], Kernel(|s| {
        let (x, y) = (s.value(0), s.numbers(0)?);
        let (heads, d) = (x.shape[1], x.shape[2]);
        one(y.iter().enumerate().map(|(i, y)| if i / d % heads > 0 && y.is_finite() { x.data[i] } else { *y }).collect())
    })),
    Mutant::new("kv_write_takes_slot_minus_one_for_the_last", "op/kv_write/*slots=*skipped*", &[Limit, Special, Guards], Before(|s| {
        let cache = s.shape(3);
        let Op::KvWrite(a) = s.op else { return };
        let block = if a.kv_layout == KvLayout::BlockTokenHead { cache[1] } else { cache[2] };
        let slots = s.value(2).data;
        let mut free = (0..cache[0] * block).rev().map(|i| i as f64).filter(|i| !slots.contains(i));
        let slot = free.next();
        let first = slots.iter().position(|x| *x == -1.0);
        s.map(2, |i, x| if Some(i) == first { slot.unwrap_or(x) } else { x });
    })),
    Mutant::new("kv_write_counts_slots_in_16_bits", "op/kv_write/*spare=*", &[Limit, Special, Unwritten, Guards], Before(|s| {
        s.map(2, |_, x| f64::from(x as i64 as i16));
    })),
    Mutant::new("attention_decode_counts_blocks_in_16_bits", "op/attention_decode/*block=*", &[Limit, Special], Before(|s| {
        s.map(4, |_, x| if x < 0.0 { x } else { f64::from(x as u32 as u16) });
    })),
    Mutant::new("attention_decode_forgets_the_last_key_of_five_heads", "op/attention_decode/*gqa=*", &[Limit, Special], Before(|s| {
        s.map(3, |_, x| (x - 1.0).max(0.0));
    }))
    .when(|s| s.shape(0)[1] == 5),
    Mutant::new("kv_write_has_the_other_layout", "op/kv_write/*block=*pages=*", &[Limit, Special], Before(|s| {
        if let Op::KvWrite(a) = &mut s.op {
            a.kv_layout = other(a.kv_layout);
        }
    }))
    .when(|s| s.shape(3)[1] == s.shape(3)[2]),
    Mutant::new("kv_write_puts_heads_before_tokens_unasked", "op/kv_write/f32/*", &[Limit, Special], Kernel(|s| {
        // The page is written as if its heads came first, by its bytes.
        let mut out = s.truth()?;
        let [_, block, heads, d] = s.shape(3)[..] else { return Ok(out) };
        if let Output::Patch(patch) = &mut out[0] {
            for (at, _) in patch {
                let (page, inside) = (*at / (block * heads * d), *at % (block * heads * d));
                let (token, head, i) = (inside / (heads * d), inside / d % heads, inside % d);
                *at = page * block * heads * d + (head * block + token) * d + i;
            }
        }
        Ok(out)
    }))
    .when(|s| matches!(s.op, Op::KvWrite(a) if a.kv_layout == KvLayout::BlockTokenHead) && s.desc(3).is_contiguous() && s.shape(3)[2] > 1),
    Mutant::new("kv_write_scales_all_heads_alike", "op/kv_write/*cache=i8*", &[Limit], Kernel(|s| {
        let mut out = s.truth()?;
        let heads = s.shape(0)[1];
        for scales in &mut out[2..] {
            if let Output::Patch(patch) = scales {
                for token in patch.chunks_mut(heads) {
                    let first = token[0].1;
                    token.iter_mut().for_each(|(_, x)| *x = first);
                }
            }
        }
        Ok(out)
    }))
    .when(|s| s.has(5)),
    Mutant::new("kv_write_truncates_codes", "op/kv_write/f32/*cache=i8*", &[Limit], Kernel(|s| {
        let mut out = s.truth()?;
        for (rows, cache) in [(0, 0), (1, 1)] {
            let x = s.value(rows);
            let Output::Patch(patch) = &mut out[cache] else { continue };
            let slots: Vec<bool> = s.value(2).data.iter().map(|s| *s >= 0.0).collect();
            let per_token = x.shape[1] * x.shape[2];
            let kept = x.rows().enumerate().filter(|(r, _)| slots[r * x.shape[2] / per_token]);
            for (codes, (_, row)) in patch.chunks_mut(x.row_len()).zip(kept) {
                let scale = row.iter().fold(0.0, |m: f64, x| m.max(x.abs())) / 127.0;
                if scale.is_finite() && scale > 0.0 {
                    codes.iter_mut().zip(row).for_each(|((_, code), x)| *code = (x / scale).trunc());
                }
            }
        }
        Ok(out)
    }))
    .when(|s| s.has(5)),
    Mutant::new("kv_write_writes_v_with_the_keys", "op/kv_write/f32/*", &[Limit, Special], Before(|s| {
        if s.desc(0) == s.desc(1) {
            s.operands[1] = s.operands[0].clone();
        }
    })),
    Mutant::new("attention_prefill_sees_one_key_too_few", "op/attention_prefill/*", &[Limit, Special], Kernel(|s| shifted(s, 1)))
        .when(causal),
    Mutant::new("attention_prefill_sees_one_key_too_many", "op/attention_prefill/*", &[Limit, Special], Kernel(|s| shifted(s, -1)))
        .when(causal),
    Mutant::new("attention_prefill_mask_is_top_left", "op/attention_prefill.paged/*", &[Limit, Special], Before(|s| {
        let cu = s.value(3).data;
        s.map(4, |b, len| len.min(cu[b + 1] - cu[b]));
    }))
    .when(causal),
    Mutant::new("attention_prefill_ignores_where_sequences_begin", "op/attention_prefill/*batch=mixed*", &[Limit, Special], Kernel(|s| {
        let mut q = s.value(0);
        let row = q.shape[1] * q.shape[2];
        if q.shape[0] > 1 {
            q.data.rotate_left(row);
            s.set(0, &q.data);
        }
        s.truth()
    })),
    Mutant::new("attention_prefill_groups_heads_in_turn", "op/attention_prefill/*", &[Limit, Special], Kernel(regrouped)),
    Mutant::new("attention_decode_groups_heads_in_turn", "op/attention_decode/*", &[Limit, Special], Kernel(regrouped)),
    Mutant::new("attention_prefill_ignores_scale", "op/attention_prefill/*scale=*", &[Limit], Before(|s| {
        if let Op::AttentionPrefill(a) = &mut s.op {
            a.scale = 0.0;
        }
    })),
    Mutant::new("attention_decode_scales_by_the_size_of_values", "op/attention_decode/*dv=*", &[Limit], Before(|s| {
        let dv = s.desc(2).shape.last_dim() as f32;
        if let Op::AttentionDecode(a) = &mut s.op
            && a.scale == 0.0
        {
            a.scale = 1.0 / dv.sqrt();
        }
    })),
    Mutant::new("attention_prefill_ignores_softcap", "op/attention_prefill/*softcap=*", &[Limit], Before(|s| {
        if let Op::AttentionPrefill(a) = &mut s.op {
            a.softcap = 0.0;
        }
    })),
    Mutant::new("attention_prefill_window_is_one_more", "op/attention_prefill/*window=*", &[Limit, Special], Before(|s| {
        if let Op::AttentionPrefill(a) = &mut s.op
            && a.window > 0
        {
            a.window += 1;
        }
    })),
    Mutant::new("attention_decode_window_is_one_less", "op/attention_decode/*window=*", &[Limit, Special], Before(|s| {
        if let Op::AttentionDecode(a) = &mut s.op
            && a.window > 1
        {
            a.window -= 1;
        }
    })),
    Mutant::new("attention_prefill_ignores_sinks", "op/attention_prefill/*sinks=*", &[Limit], Before(|s| s.operands[6] = None))
        .when(|s| s.has(6)),
    Mutant::new("attention_decode_ignores_sinks", "op/attention_decode/*sinks=*", &[Limit], Before(|s| s.operands[5] = None))
        .when(|s| s.has(5)),
    Mutant::new("attention_decode_ignores_its_block_table", "op/attention_decode/*", &[Limit, Special], Before(|s| {
        let blocks = s.shape(1)[0];
        s.map(4, |i, entry| if entry < 0.0 { entry } else { (i % blocks) as f64 });
    })),
    Mutant::new("attention_decode_reads_to_the_end_of_the_block", "op/attention_decode/*", &[Limit, Special], Before(|s| {
        let Op::AttentionDecode(a) = s.op else { return };
        let cache = s.shape(1);
        let block = (if a.kv_layout == KvLayout::BlockTokenHead { cache[1] } else { cache[2] }) as f64;
        s.map(3, |_, len| (len / block).ceil() * block);
    })),
    Mutant::new("attention_decode_stops_at_512_keys", "op/attention_decode/f32/keys=51*", &[Limit, Special], Before(|s| s.map(3, |_, len| len.min(512.0)))),
    Mutant::new("attention_decode_takes_the_first_heads_scales", "op/attention_decode/*cache=i8*", &[Limit, Special], Before(|s| {
        let Op::AttentionDecode(a) = s.op else { return };
        for i in [6, 7] {
            s.map_at(i, |scales, index| {
                let mut index = index.to_vec();
                index[if a.kv_layout == KvLayout::BlockTokenHead { 2 } else { 1 }] = 0;
                at(scales, &index)
            });
        }
    }))
    .when(|s| s.has(6)),
    Mutant::new("attention_decode_scales_values_as_keys", "op/attention_decode/*cache=i8*", &[Limit, Special], Before(|s| {
        if s.has(7) {
            s.operands[7] = s.operands[6].clone();
        }
    })),
    Mutant::new("attention_decode_of_no_keys_is_nan", "op/attention_decode/*", &[Special], Kernel(|s| {
        let lens = s.value(3).data;
        let row = s.outs[0].elements() / lens.len().max(1);
        one(s.numbers(0)?.iter().enumerate().map(|(i, y)| if lens[i / row] == 0.0 { f64::NAN } else { *y }).collect())
    })),
    Mutant::new("attention_decode_has_the_other_layout", "op/attention_decode/*pages=*", &[Limit, Special], Before(|s| {
        // Two heads of pages of two dims that could be either.
        if let Op::AttentionDecode(a) = &mut s.op {
            a.kv_layout = other(a.kv_layout);
        }
    }))
    .when(|s| s.shape(1)[1] == s.shape(1)[2] && s.shape(1)[1] > 1),
    Mutant::new("attention_decode_takes_no_maximum", "op/attention_decode/*", &[Limit, Special], Kernel(|s| {
        let (q, scores) = (s.value(0), largest_scores(s));
        let dv = s.outs[0].shape.last_dim();
        let row = |i: usize| i / dv.max(1);
        assert_eq!(scores.len(), q.shape[0] * q.shape[1]);
        one(s.numbers(0)?.iter().enumerate().map(|(i, y)| if scores[row(i)] > 88.0 { f64::NAN } else { *y }).collect())
    }))
    .when(|s| !s.has(6)),
    Mutant::new("attention_decode_stops_at_1024_keys", "op/attention_decode/f32/*", &[Limit, Special], Before(|s| s.map(3, |_, len| len.min(1024.0)))),
    Mutant::new("attention_decode_forgets_its_window_in_pages_of_64", "op/attention_decode/*block=64*", &[Limit, Special], Before(|s| {
        if let Op::AttentionDecode(a) = &mut s.op {
            a.window = 0;
        }
    })),
    Mutant::new("attention_prefill_forgets_its_window_in_pages_of_128", "op/attention_prefill.paged/*block=128*", &[Limit, Special], Before(|s| {
        if let Op::AttentionPrefill(a) = &mut s.op {
            a.window = 0;
        }
    })),
    Mutant::new("attention_prefill_gives_what_is_idle_to_the_last_sequence", "op/attention_prefill/*", &[Limit, Special], Before(|s| {
        let (rows, last) = (s.shape(0)[0] as f64, s.shape(3)[0] - 1);
        s.map(3, move |i, start| if i == last { rows } else { start });
    })),
    Mutant::new("attention_decode_steps_through_any_table_as_if_packed", "op/attention_decode/*", &[Limit, Special], Before(|s| {
        let Some((desc, bytes)) = &s.operands[4] else { return };
        let packed = qiao_core::TensorDesc::new(desc.dtype, &desc.shape).expect("the shape was one before");
        let bytes = bytes[..packed.bytes().expect("it was a tensor before")].to_vec();
        s.operands[4] = Some((packed, bytes));
        s.map(4, |_, page| page.max(0.0));
    })),
    Mutant::new("attention_prefill_weights_are_f16", "op/attention_prefill/f32/*", &[Limit], Before(|s| {
        s.map(2, |_, x| crate::scene::f16(x))
    })),
];

fn other(layout: KvLayout) -> KvLayout {
    match layout {
        KvLayout::BlockTokenHead => KvLayout::BlockHeadToken,
        KvLayout::BlockHeadToken => KvLayout::BlockTokenHead,
    }
}

fn causal(s: &Scene<'_>) -> bool {
    matches!(s.op, Op::AttentionPrefill(a) if a.causal)
}

/// Every query has the mask of the one before it (1) or behind it (−1), where its sequence has one.
fn shifted(s: &mut Scene<'_>, by: isize) -> Result<Vec<Output>> {
    let honest = s.numbers(0)?;
    let (q, cu) = (s.value(0), s.value(3).data);
    let (row, out) = (q.shape[1] * q.shape[2], s.outs[0].elements() / q.shape[0].max(1));
    let pairs: Vec<(usize, usize)> = cu
        .windows(2)
        .flat_map(|w| {
            (w[0] as usize..w[1] as usize)
                .map(|i| (i, i as isize - by))
                .filter(|(_, j)| (w[0] as isize..w[1] as isize).contains(j))
                .collect::<Vec<_>>()
        })
        .map(|(i, j)| (i, j as usize))
        .collect();
    // Query i stands in the place of j.
    let mut moved = q.data.clone();
    pairs.iter().for_each(|&(i, j)| moved[j * row..(j + 1) * row].copy_from_slice(&q.data[i * row..(i + 1) * row]));
    s.set(0, &moved);
    let there = s.numbers(0)?;
    let mut y = honest;
    pairs.iter().for_each(|&(i, j)| y[i * out..(i + 1) * out].copy_from_slice(&there[j * out..(j + 1) * out]));
    one(y)
}

/// The largest score of each query of a decode step: −∞ where it sees no key.
fn largest_scores(s: &Scene<'_>) -> Vec<f64> {
    let Op::AttentionDecode(a) = s.op else { return Vec::new() };
    let (q, k, lens, table) = (s.value(0), s.value(1), s.value(3).data, s.value(4));
    let tokens_first = a.kv_layout == KvLayout::BlockTokenHead;
    let (block, heads) = if tokens_first { (k.shape[1], k.shape[2]) } else { (k.shape[2], k.shape[1]) };
    let group = q.shape[1] / heads;
    let mut largest = Vec::new();
    for (b, &len) in lens.iter().enumerate() {
        for h in 0..q.shape[1] {
            let score = |t: usize| -> f64 {
                let page = at(&table, &[b, t / block]) as usize;
                let place = if tokens_first { [page, t % block, h / group] } else { [page, h / group, t % block] };
                let sum: f64 =
                    (0..q.shape[2]).map(|d| at(&q, &[b, h, d]) * at(&k, &[place[0], place[1], place[2], d])).sum();
                sum * if a.scale == 0.0 { 1.0 / (q.shape[2] as f64).sqrt() } else { a.scale as f64 }
            };
            largest.push((0..len as usize).map(score).fold(f64::NEG_INFINITY, f64::max));
        }
    }
    largest
}

/// Query head h has key head h % Hkv.
fn regrouped(s: &mut Scene<'_>) -> Result<Vec<Output>> {
    let q = s.value(0);
    let [tokens, heads, d] = q.shape[..] else { return s.truth() };
    let kv = match s.op {
        Op::AttentionDecode(a) if a.kv_layout == KvLayout::BlockHeadToken => s.shape(1)[1],
        Op::AttentionPrefill(a) if s.has(5) && a.kv_layout == KvLayout::BlockHeadToken => s.shape(1)[1],
        _ => {
            let k = s.shape(1);
            k[k.len() - 2]
        }
    };
    let group = heads / kv;
    // Where an honest kernel finds head h among those of its key head.
    let place = |h: usize| h % kv * group + h / kv;
    let dv = s.outs[0].shape.last_dim();
    let mut moved = vec![0.0; q.data.len()];
    for t in 0..tokens {
        for h in 0..heads {
            let (from, to) = ((t * heads + h) * d, (t * heads + place(h)) * d);
            moved[to..to + d].copy_from_slice(&q.data[from..from + d]);
        }
    }
    s.set(0, &moved);
    let sinks = if matches!(s.op, Op::AttentionDecode(_)) { 5 } else { 6 };
    if s.has(sinks) {
        let data = s.value(sinks).data;
        let mut placed = data.clone();
        (0..heads).for_each(|h| placed[place(h)] = data[h]);
        s.set(sinks, &placed);
    }
    let there = s.numbers(0)?;
    let mut y = vec![0.0; there.len()];
    for t in 0..tokens {
        for h in 0..heads {
            let (to, from) = ((t * heads + h) * dv, (t * heads + place(h)) * dv);
            y[to..to + dv].copy_from_slice(&there[from..from + dv]);
        }
    }
    one(y)
}
