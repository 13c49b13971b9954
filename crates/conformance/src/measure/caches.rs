//! How large the caches are that operands must outgrow.

use std::collections::BTreeMap;
use std::path::Path;

use qiao_core::DeviceInfo;

/// Last-level cache that is assumed of a host that does not tell.
const HOST: u64 = 64 << 20;

/// Last-level cache that is assumed of a device with memory of its own: no accelerator in use is known to have more.
const ACCELERATOR: u64 = 256 << 20;

/// The last level of cache before memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastLevel {
    /// Bytes, all instances together.
    pub(crate) bytes: u64,
    /// Where the figure comes from.
    pub(crate) source: String,
}

impl LastLevel {
    /// The caches in front of a device's first memory.
    pub(crate) fn of(info: &DeviceInfo) -> LastLevel {
        let own = info.memories.first().is_some_and(|m| m.kind.device_local && !m.kind.host_visible);
        if own {
            let source = "assumed: the device does not tell".into();
            return LastLevel { bytes: ACCELERATOR, source };
        }
        LastLevel::read(Path::new("/sys/devices/system/cpu"))
            .unwrap_or(LastLevel { bytes: HOST, source: "assumed: the system does not tell".into() })
    }

    /// The highest level that the system lists, every instance of it counted once.
    fn read(cpus: &Path) -> Option<LastLevel> {
        // Level, then the cores that share an instance, then its bytes.
        let mut levels: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
        for cpu in std::fs::read_dir(cpus).ok()?.flatten() {
            let Ok(caches) = std::fs::read_dir(cpu.path().join("cache")) else { continue };
            for cache in caches.flatten().map(|c| c.path()) {
                let text = |name: &str| std::fs::read_to_string(cache.join(name)).ok().map(|t| t.trim().to_string());
                let (Some(level), Some(size), Some(kind)) = (text("level"), text("size"), text("type")) else {
                    continue;
                };
                let (Ok(level), Some(bytes)) = (level.parse(), size_of(&size)) else { continue };
                if kind != "Instruction" {
                    let shared = text("shared_cpu_list").unwrap_or_else(|| cpu.path().display().to_string());
                    levels.entry(level).or_default().insert(shared, bytes);
                }
            }
        }
        let (level, instances) = levels.pop_last()?;
        let bytes = instances.values().sum();
        (bytes > 0).then(|| LastLevel { bytes, source: format!("L{level} of the host, as the system lists it") })
    }
}

/// `32768K`, `1M`, `512`.
fn size_of(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_the_last_level_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        // Two packages of two cores each.
        for (cpu, shared) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")] {
            let mine = cpu.to_string();
            let caches =
                [("1", "32K", "Data", &*mine), ("2", "1M", "Unified", &*mine), ("3", "8192K", "Unified", shared)];
            for (index, (level, size, kind, shared)) in caches.into_iter().enumerate() {
                let cache = folder.path().join(format!("cpu{cpu}/cache/index{index}"));
                std::fs::create_dir_all(&cache).unwrap();
                for (name, text) in [("level", level), ("size", size), ("type", kind), ("shared_cpu_list", shared)] {
                    std::fs::write(cache.join(name), format!("{text}\n")).unwrap();
                }
            }
        }
        let found = LastLevel::read(folder.path()).unwrap();
        assert_eq!(found.bytes, 16 << 20);
        assert!(found.source.starts_with("L3"));
    }

    #[test]
    fn a_system_that_tells_nothing_has_an_assumed_cache() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(LastLevel::read(folder.path()), None);
        assert_eq!(LastLevel::read(&folder.path().join("absent")), None);
        assert!(LastLevel::of(&DeviceInfo::default()).bytes > 0);
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(["32K", "8M", "1G", "512"].map(size_of), [Some(32 << 10), Some(8 << 20), Some(1 << 30), Some(512)]);
        assert_eq!(["", "K", "-1K", "1T"].map(size_of), [None; 4]);
    }
}
