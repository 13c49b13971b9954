//! argmax, top_k, sample.

use qiao_conformance::Check::{Limit, Rebind, Unwritten};
use qiao_core::{Op, Result};
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{Before, Kernel, Lost};
use crate::scene::{Scene, one};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "argmax_gives_ties_to_the_higher_index",
        "op/argmax/f32/*",
        &[Limit],
        Kernel(|s| one(s.value(0).rows().map(|row| last_best(row, |x| x)).collect())),
    ),
    Mutant::new(
        "argmax_does_not_see_nan",
        "op/argmax/*values=nan*",
        &[Limit],
        Before(|s| s.map(0, |_, x| if x.is_nan() { f64::NEG_INFINITY } else { x })),
    ),
    Mutant::new(
        "argmax_looks_at_65536_columns",
        "op/argmax/*cols=65537*",
        &[Limit],
        Before(|s| {
            let n = s.desc(0).shape.last_dim();
            s.map(0, move |i, x| if i % n >= 65536 { f64::NEG_INFINITY } else { x });
        }),
    ),
    Mutant::new(
        "argmax_starts_from_zero",
        "op/argmax/*values=negative*",
        &[Limit],
        Kernel(|s| {
            one(s.value(0).rows().map(|row| if row.iter().all(|x| *x < 0.0) { 0.0 } else { best(row) }).collect())
        }),
    ),
    Mutant::new(
        "top_k_is_in_ascending_order",
        "op/top_k/f32/*k=8*",
        &[Limit],
        Kernel(|s| {
            let Op::TopK(a) = s.op else { return s.truth() };
            let turned = |data: Vec<f64>| -> Vec<f64> {
                data.chunks_exact(a.k as usize).flat_map(|row| row.iter().rev().copied().collect::<Vec<_>>()).collect()
            };
            Ok(vec![Output::Values(turned(s.numbers(0)?)), Output::Values(turned(s.numbers(1)?))])
        }),
    ),
    Mutant::new(
        "top_k_gives_ties_to_the_higher_index",
        "op/top_k/f32/*",
        &[Limit],
        Kernel(|s| {
            let n = s.desc(0).shape.last_dim();
            let turned: Vec<f64> =
                s.value(0).data.chunks_exact(n).flat_map(|r| r.iter().rev().copied().collect::<Vec<_>>()).collect();
            s.set(0, &turned);
            let indices = s.numbers(1)?.iter().map(|i| n as f64 - 1.0 - i).collect();
            Ok(vec![Output::Values(s.numbers(0)?), Output::Values(indices)])
        }),
    ),
    Mutant::new(
        "top_k_indices_are_those_of_a_tile",
        "op/top_k/f32/*cols=32769*",
        &[Limit],
        Kernel(|s| {
            let indices = s.numbers(1)?.iter().map(|i| i % 1024.0).collect();
            Ok(vec![Output::Values(s.numbers(0)?), Output::Values(indices)])
        }),
    ),
    Mutant::new(
        "top_k_does_not_write_its_last_index",
        "op/top_k/*",
        &[Unwritten],
        Lost(|s, output, i| output == 1 && i + 1 == s.outs[1].elements()),
    ),
    Mutant::new(
        "top_k_leaves_out_what_no_block_of_256_holds",
        "op/top_k/f32/*values=last*",
        &[Limit],
        Before(|s| {
            let n = s.desc(0).shape.last_dim();
            s.map(0, move |i, x| if n > 600 && i % n >= n / 256 * 256 { f64::NEG_INFINITY } else { x });
        }),
    ),
    Mutant::new(
        "sample_takes_the_top_k_of_its_first_row",
        "op/sample/*counts=mixed*",
        &[Limit],
        Before(|s| {
            let first = s.value(3).data.first().copied().unwrap_or_default();
            s.map(3, move |_, _| first);
        }),
    ),
    Mutant::new(
        "sample_takes_the_last_nan",
        "op/sample/*logits=nans*",
        &[Limit],
        Before(|s| {
            let n = s.desc(0).shape.last_dim();
            let data = s.value(0).data;
            s.map(0, move |i, x| {
                let later = data[i + 1..(i / n + 1) * n].iter().any(|x| x.is_nan());
                if x.is_nan() && later { 0.0 } else { x }
            });
        }),
    ),
    Mutant::new(
        "sample_cuts_by_min_p_before_top_p",
        "op/sample/f32/*top_p=*min_p=*",
        &[Limit],
        Kernel(|s| sample(s, |w, _, top_p, min_p| nucleus(floor(w, min_p), top_p))),
    ),
    Mutant::new(
        "sample_counts_top_p_among_all",
        "op/sample/f32/*top_k=*top_p=*",
        &[Limit],
        Kernel(|s| {
            sample(s, |w, k, top_p, min_p| {
                let kept = nucleus(w, top_p).len().min(k);
                floor(&w[..kept], min_p)
            })
        }),
    ),
    Mutant::new(
        "sample_leaves_out_the_token_that_reaches_top_p",
        "op/sample/f32/*top_p=*",
        &[Limit],
        Kernel(|s| {
            sample(s, |w, k, top_p, min_p| {
                let kept = nucleus(&w[..k], top_p);
                let less = if top_p < 1.0 { (kept.len() - 1).max(1) } else { kept.len() };
                floor(&kept[..less], min_p)
            })
        }),
    ),
    Mutant::new("sample_ignores_min_p", "op/sample/f32/*min_p=*", &[Limit], Before(|s| s.map(5, |_, _| 0.0))),
    Mutant::new(
        "sample_takes_top_k_of_one_less",
        "op/sample/f32/*top_k=5*",
        &[Limit],
        Before(|s| s.map(3, |_, k| if k > 1.0 { k - 1.0 } else { k })),
    ),
    Mutant::new(
        "sample_ignores_temperature",
        "op/sample/f32/*temperature=0.6*",
        &[Limit],
        Before(|s| s.map(2, |_, t| if t == 0.0 { 0.0 } else { 1.0 })),
    ),
    Mutant::new(
        "sample_divides_by_temperature_zero",
        "op/sample/*temperature=0,*",
        &[Limit, Rebind],
        Before(|s| s.map(2, |_, t| if t == 0.0 { 1.0 } else { t })),
    ),
    Mutant::new(
        "sample_uses_the_first_u_for_all_rows",
        "op/sample/*rows=64*",
        &[Limit],
        Before(|s| {
            let first = s.value(1).data.first().copied().unwrap_or(0.0);
            s.map(1, |_, _| first);
        }),
    ),
];

fn best(row: &[f64]) -> f64 {
    let key = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
    (0..row.len()).fold(0, |best, i| {
        let better = row[i].is_nan() && !row[best].is_nan() || key(row[i]) > key(row[best]) && !row[best].is_nan();
        if better { i } else { best }
    }) as f64
}

fn last_best(row: &[f64], key: fn(f64) -> f64) -> f64 {
    (0..row.len()).fold(0, |best, i| {
        let (new, old) = (key(row[i]), key(row[best]));
        if new.is_nan() || new >= old { i } else { best }
    }) as f64
}

/// The shortest prefix whose mass reaches top_p.
fn nucleus(w: &[f64], top_p: f64) -> &[f64] {
    if top_p >= 1.0 {
        return w;
    }
    let total: f64 = w.iter().sum();
    let (mut mass, mut len) = (0.0, 0);
    while len == 0 || len < w.len() && mass < top_p {
        mass += w[len] / total;
        len += 1;
    }
    &w[..len]
}

/// Weights of at least min_p, the first always.
fn floor(w: &[f64], min_p: f64) -> &[f64] {
    &w[..w.iter().take_while(|w| **w >= min_p).count().max(1).min(w.len())]
}

/// A sample whose filters are this, of the sorted weights relative to the largest, k, top_p and min_p.
fn sample(s: &mut Scene<'_>, filter: fn(&[f64], usize, f64, f64) -> &[f64]) -> Result<Vec<Output>> {
    let honest = s.numbers(0)?;
    let (logits, steering) = (s.value(0), [1, 2, 3, 4, 5].map(|i| s.value(i).data));
    let choose = |(r, row): (usize, &[f64])| {
        let [u, temperature, top_k, top_p, min_p] = [0, 1, 2, 3, 4].map(|i| steering[i][r]);
        if temperature == 0.0 || row.iter().any(|x| !x.is_finite()) {
            return honest[r];
        }
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let weights: Vec<f64> = order.iter().map(|&i| ((row[i] - row[order[0]]) / temperature).exp()).collect();
        let k = if top_k >= 1.0 { (top_k as usize).min(row.len()) } else { row.len() };
        let kept = filter(&weights, k, top_p, min_p);
        let kept = &kept[..kept.len().min(k)];
        let total: f64 = kept.iter().sum();
        let mut mass = 0.0;
        let at = kept.iter().position(|w| {
            mass += w / total;
            mass > u
        });
        order[at.unwrap_or(kept.len() - 1)] as f64
    };
    one(logits.rows().enumerate().map(choose).collect())
}
