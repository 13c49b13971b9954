//! The CPU device: what it is, its memory, and how a graph becomes a plan.

use std::sync::Arc;

use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Graph, HostMemory, KvInfo, KvLayout,
    MemoryInfo, MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};
use qiao_kernels_cpu::{Isa, Kernels, detect, kernels};

use crate::memory::{ALIGN, CpuBuffer};
use crate::ops::exec::Core;
use crate::ops::{self, CpuPlan};
use crate::stream::CpuStream;
use crate::threads::Pool;

/// The most threads of a device.
const MAX_THREADS: usize = 1024;

/// How a CPU device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// The ISA tier; `None` = the best of this machine.
    pub isa: Option<Isa>,
    /// Threads, the caller included; `None` = as many as this process may use.
    pub threads: Option<usize>,
}

impl CpuOptions {
    /// Reads `QIAO_ISA` and `QIAO_THREADS`.
    ///
    /// # Errors
    /// A value that is no tier, or no number from 1 to 1024.
    pub fn from_env() -> Result<Self> {
        let isa = match std::env::var("QIAO_ISA") {
            Ok(v) if !v.is_empty() => Some(
                v.parse::<Isa>()
                    .map_err(|e| Error::invalid("QIAO_ISA", e.to_string(), "unset it for the best tier"))?,
            ),
            _ => None,
        };
        let threads = match std::env::var("QIAO_THREADS") {
            Ok(v) if !v.is_empty() => match v.parse::<usize>() {
                Ok(n @ 1..=MAX_THREADS) => Some(n),
                _ => return Err(Error::invalid("QIAO_THREADS", format!("'{v}'"), "use a number from 1 to 1024")),
            },
            _ => None,
        };
        Ok(CpuOptions { isa, threads })
    }

    fn thread_count(&self) -> usize {
        // The standard library counts cores by affinity and cgroup quota.
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn kernels(&self) -> Result<Kernels> {
        let features = detect();
        kernels(self.isa.unwrap_or(features.isa), &features)
            .map_err(|e| Error::invalid("QIAO_ISA", e.to_string(), "unset it for the best tier"))
    }
}

/// The processor, opened.
pub struct CpuDevice {
    info: DeviceInfo,
    core: Arc<Core>,
}

impl CpuDevice {
    /// Opens the processor.
    ///
    /// # Errors
    /// A tier that this machine lacks; more than 1024 threads; the system refuses a thread.
    pub fn with(options: &CpuOptions) -> Result<Self> {
        if options.threads.is_some_and(|n| !(1..=MAX_THREADS).contains(&n)) {
            let found = format!("{}", options.thread_count());
            return Err(Error::invalid("threads", found, format!("use a number from 1 to {MAX_THREADS}")));
        }
        let pool = Pool::new(options.thread_count()).map_err(|e| Error::internal("starting threads", e.to_string()))?;
        let kernels = options.kernels()?;
        let core = Core { table: ops::table(&kernels), kernels, pool };
        Ok(CpuDevice { info: Self::describe(options)?, core: Arc::new(core) })
    }

    /// What the device of these options is.
    ///
    /// # Errors
    /// A tier that this machine lacks.
    pub fn describe(options: &CpuOptions) -> Result<DeviceInfo> {
        let isa = options.kernels()?.isa;
        let (name, vendor) = processor();
        let (total, free) = memory();
        let memory = MemoryInfo {
            kind: MemoryKind { device_local: true, host_visible: true, pinned: false },
            total_bytes: total,
            free_bytes: free,
            max_alloc: 0,
            base_align: ALIGN,
            peak_bytes_per_s: 0.0,
        };
        let compute = |&dtype: &DType| DtypeInfo { dtype, compute: dtype.is_activation(), peak_ops_per_s: 0.0 };
        Ok(DeviceInfo {
            name,
            vendor,
            arch: format!("{}/{isa}", std::env::consts::ARCH),
            driver: format!("qiao-cpu {}, {} threads", env!("CARGO_PKG_VERSION"), options.thread_count()),
            memories: vec![memory],
            dtypes: DType::ALL.iter().map(compute).collect(),
            kv: [KvLayout::BlockHeadToken, KvLayout::BlockTokenHead]
                .map(|layout| KvInfo { layout, block_size: 0 })
                .into(),
            caps: Caps {
                multi_op: true,
                import_host: true,
                strided: true,
                index_i64: true,
                deterministic: true,
                batch_invariant: true,
                flush_subnormals: false,
            },
            tensor_align: ALIGN,
            tensor_tail_pad: 0,
            peak_source: String::new(),
        })
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            return Err(Error::invalid("memory", format!("position {memory}"), "the CPU has memory 0 only"));
        }
        Ok(Arc::new(CpuBuffer::new(&self.info.name, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CpuStream::default()))
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(CpuBuffer::import(memory, offset, bytes)?))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        ops::sound::support(&self.core.table, graph, &self.core.kernels.isa.to_string())
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        Ok(Arc::new(CpuPlan::new(self.core.clone(), &self.info, graph)?))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        ops::pack::packed_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        stream.sync(std::time::Duration::MAX)?;
        ops::pack::pack(&self.core.pool, tensor, src, layout, dst)
    }
}

/// The processor's name and vendor, as the system tells them.
fn processor() -> (String, String) {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key))?;
        line.split_once(':').map(|(_, v)| v.trim().to_string())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    (name, field("vendor_id").unwrap_or_default())
}

/// Total and available memory in bytes; 0 = not known.
fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}
