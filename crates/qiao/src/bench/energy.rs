//! Energy, where the platform tells it: the RAPL counters of Linux (`/sys/class/powercap`).
//!
//! A zone's counter is in microjoules and starts again from 0 at its `max_energy_range_uj`, so it is read after every round.
//! Counted are the zones `package-*`, which hold cores and caches, and `dram`; zones that lie inside a package (`core`,
//! `uncore`) or hold it (`psys`) would count twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

/// Where Linux shows its power zones.
const POWERCAP: &str = "/sys/class/powercap";

/// What a measurement took from the platform.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Energy {
    /// Joules from the first counted request to the last, what else ran on the machine and idle power included. Absent where
    /// the platform does not tell.
    pub joules: Option<f64>,
    /// Joules per generated token: the same energy, prompts included, over all generated tokens.
    pub joules_per_token: Option<f64>,
    /// Mean power over that time, in watts.
    pub watts: Option<f64>,
    /// What was measured and where it ends, or `not available: ` and why.
    pub boundary: String,
}

struct Zone {
    name: String,
    counter: PathBuf,
    range: u64,
    last: u64,
}

/// Adds up the energy of a machine's zones.
pub(crate) struct Meter {
    zones: Result<Vec<Zone>, String>,
    microjoules: u64,
}

impl Meter {
    /// The machine's zones, read once.
    pub(crate) fn open() -> Meter {
        Meter::at(Path::new(POWERCAP))
    }

    fn at(root: &Path) -> Meter {
        Meter { zones: zones(root), microjoules: 0 }
    }

    /// Forgets what was added up; reads the counters.
    pub(crate) fn start(&mut self) {
        self.read();
        self.microjoules = 0;
    }

    /// Adds what the counters moved since they were read last. A counter that fails ends the measurement.
    pub(crate) fn read(&mut self) {
        let Ok(zones) = &mut self.zones else { return };
        for zone in zones {
            match counter(&zone.counter) {
                Ok(now) => {
                    self.microjoules = self.microjoules.saturating_add(moved(zone.last, now, zone.range));
                    zone.last = now;
                }
                Err(why) => {
                    self.zones = Err(why);
                    return;
                }
            }
        }
    }

    /// What was added up, over this time and these generated tokens.
    pub(crate) fn energy(&self, time: Duration, tokens: u64) -> Energy {
        let zones = match &self.zones {
            Ok(zones) => zones,
            Err(why) => {
                let (joules, joules_per_token, watts) = (None, None, None);
                return Energy { joules, joules_per_token, watts, boundary: format!("not available: {why}") };
            }
        };
        let joules = self.microjoules as f64 / 1e6;
        let per = |of: f64| (of > 0.0).then(|| joules / of);
        let names: Vec<_> = zones.iter().map(|zone| zone.name.as_str()).collect();
        Energy {
            joules: Some(joules),
            joules_per_token: per(tokens as f64),
            watts: per(time.as_secs_f64()),
            boundary: format!("host processor and memory by RAPL: {}; no other device is in it", names.join(", ")),
        }
    }
}

/// How far a counter moved that starts again from 0 past `range`.
fn moved(from: u64, to: u64, range: u64) -> u64 {
    if to >= from { to - from } else { range.saturating_sub(from).saturating_add(to) }
}

fn counter(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{}: '{}' is no number", path.display(), text.trim()))
}

/// The zones to count, each by its own name once.
fn zones(root: &Path) -> Result<Vec<Zone>, String> {
    let entries = fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for folder in folders {
        let zone = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
        let Ok(name) = fs::read_to_string(folder.join("name")) else { continue };
        // The same counters by another way stand under intel-rapl-mmio.
        let counted = name.starts_with("package-") || name.trim() == "dram";
        if counted && zone.starts_with("intel-rapl:") {
            found.push((folder, format!("{} ({zone})", name.trim())));
        }
    }
    if found.is_empty() {
        return Err(format!("{} has no RAPL package", root.display()));
    }
    let open = |(folder, name): (PathBuf, String)| {
        let (counter_file, range_file) = (folder.join("energy_uj"), folder.join("max_energy_range_uj"));
        Ok(Zone { name, range: counter(&range_file)?, last: counter(&counter_file)?, counter: counter_file })
    };
    found.into_iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, folder: &str, name: &str, energy: &str) {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs::write(folder.join("max_energy_range_uj"), "10000000\n").unwrap();
    }

    fn set(root: &Path, folder: &str, energy: &str) {
        fs::write(root.join(folder).join("energy_uj"), energy).unwrap();
    }

    #[test]
    fn packages_and_memory_are_added_and_what_lies_inside_them_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        zone(root, "intel-rapl:0", "package-0", "1000000");
        zone(root, "intel-rapl:0:0", "core", "5");
        zone(root, "intel-rapl:0:1", "dram", "0");
        zone(root, "intel-rapl:1", "psys", "0");
        zone(root, "intel-rapl-mmio:0", "package-0", "1000000");
        let mut meter = Meter::at(root);
        meter.start();
        set(root, "intel-rapl:0", "3000000");
        set(root, "intel-rapl:0:0", "2000000");
        set(root, "intel-rapl:0:1", "500000");
        set(root, "intel-rapl:1", "9000000");
        set(root, "intel-rapl-mmio:0", "3000000");
        meter.read();
        let energy = meter.energy(Duration::from_secs(5), 10);
        assert_eq!((energy.joules, energy.joules_per_token, energy.watts), (Some(2.5), Some(0.25), Some(0.5)));
        assert!(energy.boundary.contains("package-0 (intel-rapl:0), dram"), "{}", energy.boundary);
    }

    #[test]
    fn a_counter_that_starts_again_from_0_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        zone(dir.path(), "intel-rapl:0", "package-0", "9000000");
        let mut meter = Meter::at(dir.path());
        meter.start();
        for (counter, joules) in [("1000000", 2.0), ("9500000", 10.5), ("500000", 11.5)] {
            set(dir.path(), "intel-rapl:0", counter);
            meter.read();
            assert_eq!(meter.energy(Duration::from_secs(1), 1).joules, Some(joules));
        }
        meter.start();
        assert_eq!(meter.energy(Duration::ZERO, 0).joules_per_token, None);
    }

    #[test]
    fn without_counters_there_is_no_figure_but_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let why = |root: &Path| {
            let mut meter = Meter::at(root);
            meter.start();
            let energy = meter.energy(Duration::from_secs(1), 1);
            assert_eq!((energy.joules, energy.watts), (None, None));
            energy.boundary
        };
        assert!(why(&dir.path().join("absent")).starts_with("not available: "));
        assert!(why(dir.path()).contains("no RAPL package"));
        zone(dir.path(), "intel-rapl:0", "package-0", "many");
        assert!(why(dir.path()).contains("'many' is no number"));
        fs::remove_file(dir.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert!(why(dir.path()).contains("energy_uj"));
    }
}
