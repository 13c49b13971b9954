//! Faults on demand: which call fails, and how.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiao_core::{Error, Result};

/// Faults of one device: for each kind, the positions of the calls that it strikes, the first call being 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    alloc: BTreeSet<u64>,
    execute: BTreeSet<u64>,
    hang: BTreeSet<u64>,
    lost: BTreeSet<u64>,
    corrupt: BTreeSet<u64>,
    short: BTreeSet<u64>,
    /// `support` says native, and `plan` fails.
    pub(crate) lying_plan: bool,
    /// A plan runs once.
    pub(crate) lying_second: bool,
    /// How long `support` takes.
    pub(crate) slow_support: Duration,
}

/// What befalls an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Runs,
    /// It fails.
    Fails,
    /// It never ends.
    Hangs,
    /// It takes the device with it.
    Loses,
    /// One element of its result is wrong.
    Corrupts,
}

/// How many calls of each kind a device has had. They go on when it is opened again.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    allocs: AtomicU64,
    executes: AtomicU64,
    uploads: AtomicU64,
}

impl Faults {
    /// Reads a list such as `alloc:3,hang:4,lying-plan`.
    ///
    /// # Errors
    /// A name or a number that stands for nothing.
    pub fn parse(text: &str) -> Result<Faults> {
        let mut faults = Faults::default();
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let (name, number) = match item.split_once(':') {
                Some((name, number)) => (name, Some(number.parse::<u64>().map_err(|_| bad(item))?)),
                None => (item, None),
            };
            let list = match (name, number) {
                ("lying-plan", None) => {
                    faults.lying_plan = true;
                    continue;
                }
                ("lying-second", None) => {
                    faults.lying_second = true;
                    continue;
                }
                ("slow-support", Some(ms)) => {
                    faults.slow_support = Duration::from_millis(ms);
                    continue;
                }
                ("alloc", _) => &mut faults.alloc,
                ("execute", _) => &mut faults.execute,
                ("hang", _) => &mut faults.hang,
                ("lost", _) => &mut faults.lost,
                ("corrupt", _) => &mut faults.corrupt,
                ("short", _) => &mut faults.short,
                _ => return Err(bad(item)),
            };
            list.insert(number.filter(|&n| n > 0).ok_or_else(|| bad(item))?);
        }
        Ok(faults)
    }

    /// Counts an allocation; whether it fails.
    pub(crate) fn strikes_alloc(&self, counters: &Counters) -> bool {
        self.alloc.contains(&(counters.allocs.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// Counts an upload; whether it is cut short.
    pub(crate) fn strikes_upload(&self, counters: &Counters) -> bool {
        self.short.contains(&(counters.uploads.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// Counts an execution; what befalls it, the gravest first.
    pub(crate) fn execution(&self, counters: &Counters) -> Fate {
        let nth = counters.executes.fetch_add(1, Ordering::Relaxed) + 1;
        let fates = [
            (&self.lost, Fate::Loses),
            (&self.hang, Fate::Hangs),
            (&self.execute, Fate::Fails),
            (&self.corrupt, Fate::Corrupts),
        ];
        fates.into_iter().find(|(list, _)| list.contains(&nth)).map_or(Fate::Runs, |(_, fate)| fate)
    }
}

fn bad(item: &str) -> Error {
    Error::invalid(
        "sim.fault",
        format!("'{item}'"),
        "use a list of alloc:N, execute:N, hang:N, lost:N, corrupt:N, short:N, lying-plan, lying-second, slow-support:MS, \
         N counted from 1",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_the_calls_they_name() {
        let faults = Faults::parse("alloc:2, alloc:3,execute:1,lost:3").unwrap();
        let counters = Counters::default();
        let struck: Vec<bool> = (0..4).map(|_| faults.strikes_alloc(&counters)).collect();
        assert_eq!(struck, [false, true, true, false]);
        let fates: Vec<Fate> = (0..3).map(|_| faults.execution(&counters)).collect();
        assert_eq!(fates, [Fate::Fails, Fate::Runs, Fate::Loses]);
    }

    #[test]
    fn what_stands_for_no_fault_is_refused() {
        for text in ["allocs:3", "alloc", "alloc:0", "alloc:x", "lying-plan:1", "slow-support"] {
            let error = Faults::parse(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("slow-support:MS"), "{error}");
        }
        assert_eq!(Faults::parse("").unwrap(), Faults::default());
    }
}
