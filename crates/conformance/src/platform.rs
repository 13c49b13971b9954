//! Where a run took place: machine, operating system, device, and what in the environment may matter.

use qiao_core::DeviceInfo;
use serde::{Deserialize, Serialize};

/// The machine around the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system and kernel.
    pub os: String,
    /// The processor's name.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Bytes of memory; 0 = not known.
    pub memory_bytes: u64,
    /// The version of Qiao.
    pub qiao: String,
    /// Whether assertions and debug code are compiled in: no figure of such a build is a speed.
    pub debug_build: bool,
    /// Variables of the environment that change what a device does.
    pub environment: Vec<(String, String)>,
    /// When the run began, seconds since 1970-01-01 UTC.
    pub started: u64,
}

/// Beginnings of the names of variables that are worth keeping: Qiao's own and those of vendors' runtimes.
const VARIABLES: &[&str] = &[
    "QIAO_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "ASCEND_", "CNRT_", "MLU_", "MUSA_", "MACA_", "XPU_", "OCL_",
    "POCL_", "OMP_", "GOMP_",
];

/// The variables of this process that change what a device does, sorted.
pub fn environment() -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| VARIABLES.iter().any(|v| k.starts_with(v)))
        .collect();
    environment.sort();
    environment
}

impl Platform {
    /// The machine that this runs on.
    pub fn here() -> Platform {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let release = read("/etc/os-release");
        let pretty =
            release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|n| n.trim_matches('"').to_string());
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_string();
        let os = format!("{} {kernel}", pretty.unwrap_or_else(|| std::env::consts::OS.into())).trim().to_string();
        let memory = after(&read("/proc/meminfo"), "MemTotal")
            .and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib << 10);
        Platform {
            os,
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_bytes: memory,
            qiao: env!("CARGO_PKG_VERSION").into(),
            debug_build: cfg!(debug_assertions),
            environment: environment(),
            started: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        }
    }
}

/// A device as it declares itself, in the words of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The name by which it was opened, e.g. `cpu:0`.
    pub opened_as: String,
    /// What a command line says beside the name: the plugins that were loaded, and their options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Its name, for people.
    pub name: String,
    /// Its maker.
    pub vendor: String,
    /// Its architecture.
    pub arch: String,
    /// The driver's version.
    pub driver: String,
    /// Bytes of its first memory; 0 = not known.
    pub memory_bytes: u64,
    /// Whether its first memory is the host's own.
    pub host_memory: bool,
    /// Dtypes it computes in.
    pub computes: Vec<String>,
    /// Dtypes it only stores.
    pub stores: Vec<String>,
    /// KV cache layouts and block sizes, the preferred one first; 0 = any.
    pub kv: Vec<(String, usize)>,
    /// What it says it can do.
    pub caps: Vec<String>,
    /// Every tensor starts on a multiple of this.
    pub tensor_align: usize,
    /// Bytes after every tensor.
    pub tensor_tail_pad: usize,
    /// Declared bytes per second; 0 = not declared.
    pub declared_bytes_per_s: f64,
    /// Declared operations per second, by dtype.
    pub declared_ops_per_s: Vec<(String, f64)>,
    /// Where the declared figures come from.
    pub peak_source: String,
}

impl DeviceFacts {
    /// What a device says of itself.
    pub fn of(opened_as: &str, info: &DeviceInfo) -> DeviceFacts {
        let names = |compute: bool| {
            info.dtypes.iter().filter(|d| d.compute == compute).map(|d| d.dtype.name().to_string()).collect()
        };
        let memory = info.memories.first();
        let caps = &info.caps;
        let named = [
            ("multi_op", caps.multi_op),
            ("import_host", caps.import_host),
            ("strided", caps.strided),
            ("index_i64", caps.index_i64),
            ("deterministic", caps.deterministic),
            ("flush_subnormals", caps.flush_subnormals),
            ("batch_invariant", caps.batch_invariant),
        ];
        DeviceFacts {
            opened_as: opened_as.into(),
            plugins: Vec::new(),
            name: info.name.clone(),
            vendor: info.vendor.clone(),
            arch: info.arch.clone(),
            driver: info.driver.clone(),
            memory_bytes: memory.map_or(0, |m| m.total_bytes),
            host_memory: memory.is_some_and(|m| m.kind.host_visible),
            computes: names(true),
            stores: names(false),
            kv: info.kv.iter().map(|k| (k.layout.to_string(), k.block_size)).collect(),
            caps: named.iter().filter(|(_, on)| *on).map(|(name, _)| name.to_string()).collect(),
            tensor_align: info.tensor_align,
            tensor_tail_pad: info.tensor_tail_pad,
            declared_bytes_per_s: memory.map_or(0.0, |m| m.peak_bytes_per_s),
            declared_ops_per_s: info
                .dtypes
                .iter()
                .filter(|d| d.peak_ops_per_s > 0.0)
                .map(|d| (d.dtype.name().to_string(), d.peak_ops_per_s))
                .collect(),
            peak_source: info.peak_source.clone(),
        }
    }
}
