//! How long a benchmark takes.

use std::time::Duration;

use criterion::Criterion;

/// Short times, so that all benchmarks together end in minutes. Options of the command, such as `--measurement-time 5`, come
/// before these.
pub fn short() -> Criterion {
    let times =
        Criterion::default().warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(200));
    times.sample_size(10).nresamples(2000)
}
