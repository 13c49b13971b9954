//! The walk over channels: each is quantised where the errors before it want it, and its own error is passed on.

use super::factor::Factor;

/// Rows of weights that are walked together.
pub(super) const TILE: usize = 8;

/// One number per row of a tile.
type Lanes = [f32; TILE];

/// What quantises the elements of a tile of rows.
pub(super) trait Columns {
    /// Neighbouring channels whose scales are settled together.
    fn group(&self) -> usize;
    /// Settles the scales of a group of a row, from its weights and what their squared errors cost.
    fn settle(&mut self, lane: usize, group: usize, weights: &[f32], costs: &[f32]);
    /// Gives an element its code, and the number that this code stands for.
    fn quantise(&mut self, lane: usize, channel: usize, weight: f32) -> f32;
}

/// `Σ_j m_j·e_j` per row.
fn passed_on(mut sum: Lanes, m: &[f32], e: &[Lanes]) -> Lanes {
    for (m, e) in m.iter().zip(e) {
        for (s, e) in sum.iter_mut().zip(e) {
            *s += m * e;
        }
    }
    sum
}

/// Quantises up to [`TILE`] rows; gives what their errors cost at the output.
pub(super) fn walk<C: Columns>(factor: &Factor, rows: &[&[f32]], columns: &mut C) -> f64 {
    match &factor.order {
        Some(order) => walk_ordered(factor, order, rows, columns),
        None => walk_groups(factor, rows, columns),
    }
}

/// Channel after channel; scales of a group follow from its weights as they would be with no error of its own.
fn walk_groups<C: Columns>(factor: &Factor, rows: &[&[f32]], columns: &mut C) -> f64 {
    let (k, size) = (factor.k, columns.group());
    let mut errors = vec![[0f32; TILE]; k];
    let mut cost = 0.0;
    for start in (0..k).step_by(size.max(1)) {
        let end = (start + size).min(k);
        let before: Vec<Lanes> =
            (start..end).map(|i| passed_on([0.0; TILE], &factor.row(i)[..start], &errors[..start])).collect();
        // Unrounded, each channel just takes what is passed to it.
        for i in start..end {
            let sum = passed_on(before[i - start], &factor.row(i)[start..], &errors[start..i]);
            errors[i] = sum.map(|s| -s);
        }
        let mut current = vec![0f32; end - start];
        for (lane, row) in rows.iter().enumerate() {
            for (i, c) in current.iter_mut().enumerate() {
                *c = row[start + i] - errors[start + i][lane];
            }
            columns.settle(lane, start / size, &current, &factor.costs[start..end]);
        }
        for i in start..end {
            let sum = passed_on(before[i - start], &factor.row(i)[start..], &errors[start..i]);
            cost += step(factor, rows, columns, i, i, &sum, &mut errors);
        }
    }
    cost
}

/// Channels in an order of their own, scales settled before.
fn walk_ordered<C: Columns>(factor: &Factor, order: &[usize], rows: &[&[f32]], columns: &mut C) -> f64 {
    let (k, size) = (factor.k, columns.group());
    let mut costs = vec![0f32; k];
    for (place, channel) in order.iter().enumerate() {
        costs[*channel] = factor.costs[place];
    }
    for (lane, row) in rows.iter().enumerate() {
        for (group, (weights, costs)) in row.chunks(size.max(1)).zip(costs.chunks(size.max(1))).enumerate() {
            columns.settle(lane, group, weights, costs);
        }
    }
    let mut errors = vec![[0f32; TILE]; k];
    let mut cost = 0.0;
    for (place, channel) in order.iter().enumerate() {
        let sum = passed_on([0.0; TILE], factor.row(place), &errors[..place]);
        cost += step(factor, rows, columns, place, *channel, &sum, &mut errors);
    }
    cost
}

/// Quantises one channel of all rows, its target moved by `sum`; notes the errors and gives their cost.
fn step<C: Columns>(
    factor: &Factor,
    rows: &[&[f32]],
    columns: &mut C,
    place: usize,
    channel: usize,
    sum: &Lanes,
    errors: &mut [Lanes],
) -> f64 {
    let mut cost = 0.0;
    for (lane, row) in rows.iter().enumerate() {
        let target = row[channel] + sum[lane];
        let value = columns.quantise(lane, channel, target);
        errors[place][lane] = row[channel] - value;
        cost += factor.costs[place] as f64 * ((target - value) as f64).powi(2);
    }
    cost
}
