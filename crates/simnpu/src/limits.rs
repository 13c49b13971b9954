//! What a chip can and cannot do, as data.

use qiao_core::{Caps, DType, DeviceInfo, DtypeInfo, KvInfo, MemoryInfo, MemoryKind};

/// What a chip does with the constant weights of its matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// It reads them as they are.
    Plain,
    /// It wants those of 8 and 16 bits in fractal blocks, and reads plainly what can't be in blocks.
    Fractal,
    /// It reads those of 8 and 16 bits in fractal blocks only: what can't be in blocks is refused.
    FractalOnly,
}

/// How wide the sums of matrix products and of attention are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// f32 throughout.
    F32,
    /// Sixteen products are added in f32, their sum to an accumulator that is rounded to f16 each time.
    F16,
    /// As [`Accumulate::F16`], with an accumulator in bf16.
    BF16,
}

/// How a chip computes where the truth leaves room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numerics {
    /// How wide sums are.
    pub accumulate: Accumulate,
    /// Whether numbers below the smallest normal f32 become zeros, as operands and as results. Operators that only move
    /// elements leave them.
    pub flush: bool,
}

/// Everything about a chip that a host can run into. 0 stands for no limit where nothing else is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The device's name.
    pub name: &'static str,
    /// Multiple of bytes on which operands and workspace start; a power of two.
    pub align: usize,
    /// Bytes that must be allocated behind every operand.
    pub tail_pad: usize,
    /// Bytes of each memory.
    pub memory: u64,
    /// Bytes of the largest allocation.
    pub max_alloc: u64,
    /// Whether the chip tells how much memory it has.
    pub memory_info: bool,
    /// Whether its memory is the host's, too.
    pub host_visible: bool,
    /// Whether it has a second memory, page-locked on the host, that copies reach and kernels do not.
    pub pinned: bool,
    /// Streams that may exist at once.
    pub streams: usize,
    /// What operands may be.
    pub dtypes: Vec<DType>,
    /// Block formats of weights.
    pub formats: Vec<DType>,
    /// Whether quantised weights may have a scale for each group of channels.
    pub grouped: bool,
    /// The highest rank of an operand.
    pub max_rank: usize,
    /// Whether operands may have gaps. A copy always may.
    pub strided: bool,
    /// Whether a plan may have several nodes.
    pub multi_op: bool,
    /// Whether an executor runs once, so that every execution of a plan makes one.
    pub one_shot: bool,
    /// What the inner size of matrix products is a multiple of.
    pub k_multiple: usize,
    /// Layout of constant weights.
    pub weights: Weights,
    /// Pages of the KV cache that kernels read; empty = any.
    pub kv: Vec<KvInfo>,
    /// Whether a part of a head may be rotated.
    pub partial_rope: bool,
    /// Whether the time between events is told.
    pub event_timing: bool,
    /// Whether the chip fills memory itself; else the host uploads.
    pub fill: bool,
    /// Microseconds that an allocation takes.
    pub alloc_us: u64,
    /// Milliseconds that a plan takes to make.
    pub plan_ms: u64,
    /// How it computes.
    pub numerics: Numerics,
}

impl Limits {
    /// What the chip says of itself. `driver` and what is free come from the device.
    pub(crate) fn info(&self, driver: String, free: [u64; 2], import: bool) -> DeviceInfo {
        let known = |bytes: u64| if self.memory_info { bytes } else { 0 };
        let memory = |kind: MemoryKind, free: u64| MemoryInfo {
            kind,
            total_bytes: known(self.memory),
            free_bytes: known(free),
            max_alloc: self.max_alloc,
            base_align: self.align.max(BASE_ALIGN),
            peak_bytes_per_s: 0.0,
        };
        let local = MemoryKind { device_local: true, host_visible: self.host_visible, pinned: false };
        let mut memories = vec![memory(local, free[0])];
        if self.pinned {
            memories.push(memory(MemoryKind { device_local: false, host_visible: true, pinned: true }, free[1]));
        }
        let all = self.dtypes.iter().chain(&self.formats);
        DeviceInfo {
            name: self.name.into(),
            vendor: "Qiao".into(),
            arch: "simulated".into(),
            driver,
            memories,
            dtypes: all.map(|&dtype| DtypeInfo { dtype, compute: dtype.is_float(), peak_ops_per_s: 0.0 }).collect(),
            kv: self.kv.clone(),
            caps: Caps {
                multi_op: self.multi_op,
                import_host: import && self.host_visible,
                strided: self.strided,
                index_i64: self.dtypes.contains(&DType::I64),
                deterministic: true,
                batch_invariant: true,
                flush_subnormals: self.numerics.flush,
            },
            tensor_align: self.align,
            tensor_tail_pad: self.tail_pad,
            peak_source: String::new(),
        }
    }

    /// How many memories it has.
    pub(crate) fn memories(&self) -> usize {
        1 + usize::from(self.pinned)
    }
}

/// What allocations start on at least.
const BASE_ALIGN: usize = 64;
