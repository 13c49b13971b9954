//! How often an operator is timed.

use std::time::{Duration, Instant};

use qiao_core::Result;

use super::clock::{Clock, Lap};
use super::stage::{Eviction, Stage};

/// Laps below which a figure is taken only where one lap takes longer than the whole budget.
const FEW: usize = 5;

/// Laps beyond which more tell nothing new.
const MANY: usize = 5000;

/// The laps of one operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Laps {
    /// The first call, in seconds.
    pub(crate) cold: f64,
    /// Those after the device was warm.
    pub(crate) warm: Vec<Lap>,
}

/// Times an operator: one cold call, some until it is warm, then laps over its copies in turn until the budget is used. There
/// are no laps where a call takes longer than `most`: a cold call alone may take somewhat longer.
///
/// # Errors
/// The device's own.
pub(crate) fn time(
    stage: &Stage,
    clock: &mut Clock,
    eviction: Option<&Eviction>,
    budget: Duration,
    most: Duration,
) -> Result<Laps> {
    stage.before(clock, eviction, 0)?;
    let cold = stage.lap(clock, 0)?.wall;
    let mut laps = Laps { cold, warm: Vec::new() };
    let most = most.as_secs_f64();
    if cold > 4.0 * most || cold > most && stage.lap(clock, 1)?.wall > most {
        return Ok(laps);
    }
    let mut turn = 1;
    if cold <= budget.as_secs_f64() {
        let start = Instant::now();
        while turn <= 2 || start.elapsed() < budget / 10 && turn <= MANY {
            stage.before(clock, eviction, turn)?;
            stage.lap(clock, turn)?;
            turn += 1;
        }
    }
    let start = Instant::now();
    loop {
        stage.before(clock, eviction, turn)?;
        laps.warm.push(stage.lap(clock, turn)?);
        turn += 1;
        if enough(laps.warm.len(), start.elapsed(), budget) {
            return Ok(laps);
        }
    }
}

/// Whether the laps so far are a figure.
fn enough(laps: usize, elapsed: Duration, budget: Duration) -> bool {
    laps >= MANY || elapsed >= budget && laps >= FEW || elapsed >= 2 * budget
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_some_laps_unless_one_alone_outlasts_the_budget() {
        let (budget, long) = (Duration::from_millis(100), Duration::from_secs(9));
        assert!(!enough(1, Duration::ZERO, budget) && !enough(4, budget, budget));
        assert!(!enough(MANY - 1, Duration::ZERO, budget));
        assert!(enough(FEW, budget, budget) && enough(1, long, budget) && enough(MANY, Duration::ZERO, budget));
    }
}
