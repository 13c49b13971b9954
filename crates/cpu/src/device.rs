//! The CPU device: what it is, its memory, and how a graph becomes a plan.

use std::sync::Arc;

use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Graph, HostMemory, KvInfo, KvLayout,
    MemoryInfo, MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};
use qiao_kernels_cpu::{Features, Isa, Kernels, detect, kernels, kernels_unchecked};

use crate::memory::{ALIGN, CpuBuffer};
use crate::ops::exec::Core;
use crate::ops::{self, CpuPlan};
use crate::proof::sums_are_as_documented;
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
    /// How activations are rounded before they meet quantised weights.
    pub activations: Activations,
}

/// Integers that stand for activations where they meet quantised weights, beside a scale for every 32 of them. A row has the
/// same bits on every tier, in every batch and on any threads with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// 16 bits: an error of at most 2^-15 of the largest among 32, which is less than that of bf16.
    #[default]
    Bits16,
    /// 8 bits: an error of at most 1/254 of the largest among 32. Half the arithmetic where the tier has sums of products of
    /// bytes (AVX-512 with VNNI, AMX), no less elsewhere. The support answers say so (`act_dtype` i8).
    Bits8,
}

impl CpuOptions {
    /// Reads `QIAO_ISA`, `QIAO_THREADS` and `QIAO_ACTIVATIONS`.
    ///
    /// # Errors
    /// A value that is no tier, no number from 1 to 1024, or neither 16 nor 8.
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
        let activations = match std::env::var("QIAO_ACTIVATIONS").as_deref() {
            Ok("8") => Activations::Bits8,
            Ok("16" | "") | Err(_) => Activations::Bits16,
            Ok(v) => {
                return Err(Error::invalid("QIAO_ACTIVATIONS", format!("'{v}'"), "use 16 or 8, bits of an integer"));
            }
        };
        Ok(CpuOptions { isa, threads, activations })
    }

    fn thread_count(&self) -> usize {
        // The standard library counts cores by affinity and cgroup quota.
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn kernels(&self) -> Result<Chosen> {
        let features = detect();
        let best = kernels(self.isa.unwrap_or(features.isa), &features).map_err(refused)?;
        settle(best, self.isa.is_some(), sums_are_as_documented)
    }

    /// The kernels that round activations as these options say.
    fn rounded(&self, kernels: Kernels) -> Kernels {
        match self.activations {
            Activations::Bits16 => kernels,
            Activations::Bits8 => kernels.with_bytes(),
        }
    }
}

/// The kernels of a device.
struct Chosen {
    kernels: Kernels,
    /// Whether they are those of a lower tier, because the processor's tiles were found to sum in an order of their own.
    tiles_differ: bool,
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::invalid("QIAO_ISA", why.to_string(), "unset it for the best tier")
}

/// Takes these kernels, or those one tier below tiles whose sums are not as documented.
///
/// # Errors
/// Such tiles were asked for.
fn settle(best: Kernels, asked: bool, sound: fn(&Kernels) -> bool) -> Result<Chosen> {
    if best.isa < Isa::Amx || sound(&best) {
        return Ok(Chosen { kernels: best, tiles_differ: false });
    }
    if asked {
        return Err(refused(
            "tier amx was asked for, but this processor's tiles sum in an order that is not documented",
        ));
    }
    let kernels = kernels(Isa::Avx512, &detect()).map_err(refused)?;
    Ok(Chosen { kernels, tiles_differ: true })
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
        Self::open(options, options.kernels()?)
    }

    /// Opens the processor on tier amx without asking whether it has tiles: for tests that emulate them. The tier of the
    /// options is not looked at.
    ///
    /// # Errors
    /// As [`with`](Self::with); the processor lacks what the tier needs below tiles.
    ///
    /// # Safety
    /// In every thread of this process, from now on, the instructions of AMX-TILE, AMX-BF16 and AMX-INT8 do what the
    /// processor's manual says, be it in hardware or by a trap.
    pub unsafe fn with_emulated_tiles(options: &CpuOptions) -> Result<Self> {
        let machine = detect();
        if machine.isa < Isa::Avx512 {
            return Err(refused(format!("tier amx was asked for, but the best tier here is {}", machine.isa)));
        }
        // SAFETY: the machine has all tiers below, and the caller vouches for tiles.
        let best = unsafe { kernels_unchecked(Isa::Amx, &Features { isa: Isa::Amx, ..machine }) }.map_err(refused)?;
        Self::open(options, settle(best, true, sums_are_as_documented)?)
    }

    fn open(options: &CpuOptions, chosen: Chosen) -> Result<Self> {
        if options.threads.is_some_and(|n| !(1..=MAX_THREADS).contains(&n)) {
            let found = format!("{}", options.thread_count());
            return Err(Error::invalid("threads", found, format!("use a number from 1 to {MAX_THREADS}")));
        }
        let pool = Pool::new(options.thread_count()).map_err(|e| Error::internal("starting threads", e.to_string()))?;
        let info = Self::info_of(options, &chosen);
        let kernels = options.rounded(chosen.kernels);
        let core = Core { table: ops::table(&kernels), kernels, pool };
        Ok(CpuDevice { info, core: Arc::new(core) })
    }

    /// What the device of these options is.
    ///
    /// # Errors
    /// A tier that this machine lacks.
    pub fn describe(options: &CpuOptions) -> Result<DeviceInfo> {
        Ok(Self::info_of(options, &options.kernels()?))
    }

    fn info_of(options: &CpuOptions, chosen: &Chosen) -> DeviceInfo {
        let isa = chosen.kernels.isa;
        let note =
            if chosen.tiles_differ { ", without its tiles: they sum in an order that is not documented" } else { "" };
        let activations = match options.activations {
            Activations::Bits16 => "",
            Activations::Bits8 => ", activations of quantised products in 8 bits",
        };
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
        DeviceInfo {
            name,
            vendor,
            arch: format!("{}/{isa}", std::env::consts::ARCH),
            driver: format!(
                "qiao-cpu {}, {} threads{activations}{note}",
                env!("CARGO_PKG_VERSION"),
                options.thread_count()
            ),
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
                flush_subnormals: flushes_subnormals(&chosen.kernels),
            },
            tensor_align: ALIGN,
            tensor_tail_pad: 0,
            peak_source: String::new(),
        }
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

/// Whether some product takes subnormals for zeros: pairs of bf16 do in vectors and in tiles, not in portable code.
fn flushes_subnormals(kernels: &Kernels) -> bool {
    kernels.isa > Isa::Scalar && (kernels.gemm_bf16_dot.is_some() || kernels.attention_pairs.is_some())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of some tier, under the name of the highest.
    fn tiles() -> Kernels {
        let mut kernels = kernels(Isa::Scalar, &detect()).unwrap();
        kernels.isa = Isa::Amx;
        kernels
    }

    #[test]
    fn tiles_that_sum_as_documented_are_taken() {
        let chosen = settle(tiles(), false, |_| true).unwrap();
        assert_eq!((chosen.kernels.isa, chosen.tiles_differ), (Isa::Amx, false));
    }

    #[test]
    fn tiles_that_sum_otherwise_are_left_alone_and_the_device_says_so() {
        let Ok(chosen) = settle(tiles(), false, |_| false) else {
            assert!(detect().isa < Isa::Avx512, "only a machine without the tier below may refuse");
            return;
        };
        let info = CpuDevice::info_of(&CpuOptions::default(), &chosen);
        assert!(info.arch.ends_with("/avx512"), "{}", info.arch);
        assert!(info.driver.contains("without its tiles"), "{}", info.driver);
    }

    #[test]
    fn a_device_says_where_pairs_of_bf16_take_subnormals_for_zeros() {
        let machine = detect();
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= machine.isa) {
            let flush = |isa, features: &Features| {
                let chosen = Chosen { kernels: kernels(isa, features).unwrap(), tiles_differ: false };
                CpuDevice::info_of(&CpuOptions::default(), &chosen).caps.flush_subnormals
            };
            let fast = Features { bf16_dot_is_fast: machine.avx512_bf16, ..machine };
            assert_eq!(flush(isa, &fast), isa == Isa::Avx512 && machine.avx512_bf16, "{isa}");
            assert!(!flush(isa, &Features { bf16_dot_is_fast: false, ..machine }), "{isa}");
        }
    }

    #[test]
    fn tiles_that_sum_otherwise_are_refused_where_they_are_asked_for() {
        let error = settle(tiles(), true, |_| false).err().unwrap().to_string();
        assert!(error.contains("tier amx was asked for"), "{error}");
    }
}
