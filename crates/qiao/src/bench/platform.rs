//! What a report must say about the machine that it was made on.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The machine and the program, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// The operating system, e.g. `linux`.
    pub os: &'static str,
    /// Its release in words, `PRETTY_NAME` of os-release.
    pub os_release: Option<String>,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// The processor's architecture, e.g. `x86_64`.
    pub arch: &'static str,
    /// The processor's name.
    pub processor: Option<String>,
    /// Processors that this process may use.
    pub processors: Option<usize>,
    /// Bytes of physical memory.
    pub memory_bytes: Option<u64>,
    /// The version of this library.
    pub qiao_version: &'static str,
    /// Whether the program was built with debug assertions, as without `--release`.
    pub debug_build: bool,
    /// The environment variables `QIAO_*`, by name.
    pub environment: Vec<(String, String)>,
    /// When the measurement began, in seconds since 1970.
    pub started_unix_s: u64,
}

impl Platform {
    /// The machine as it is now.
    pub fn here() -> Platform {
        let read = |path: &str| fs::read_to_string(path).ok();
        let value = |text: &str, key: &str, separator: char| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start().strip_prefix(separator)?.trim().trim_matches('"').to_string())
        };
        let kibibytes = |text: String| value(&text, "MemTotal", ':')?.strip_suffix("kB")?.trim().parse::<u64>().ok();
        // Names and values that are no text are left out.
        let variables = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let mut environment: Vec<_> = variables.filter(|(name, _)| name.starts_with("QIAO_")).collect();
        environment.sort();
        Platform {
            os: std::env::consts::OS,
            os_release: read("/etc/os-release").and_then(|text| value(&text, "PRETTY_NAME", '=')),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_string()),
            arch: std::env::consts::ARCH,
            processor: read("/proc/cpuinfo").and_then(|text| value(&text, "model name", ':')),
            processors: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: read("/proc/meminfo").and_then(kibibytes).and_then(|kib| kib.checked_mul(1024)),
            qiao_version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            environment,
            started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_kernel_and_memory() {
        let here = Platform::here();
        assert_eq!(here.os, "linux");
        assert!(here.kernel.is_some_and(|kernel| !kernel.is_empty()));
        assert!(here.memory_bytes.is_some_and(|bytes| bytes > 1 << 28));
        assert!(here.environment.iter().all(|(name, _)| name.starts_with("QIAO_")));
    }
}
