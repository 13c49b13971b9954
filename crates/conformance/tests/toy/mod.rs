//! An asynchronous chip in a few hundred lines: memory of its own, a thread for each stream, a few operators. It keeps the
//! contract, and can be broken in one thing at a time.

mod memory;
mod plan;
mod stream;

mod broken;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qiao_core::{
    Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph, HostMemory, KvInfo, KvLayout, MemoryInfo,
    MemoryKind, NodeSupport, Plan, Reason, Result, Stream,
};

pub(crate) use broken::escaped;
use memory::Arena;

/// What is wrong with a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    // What it says of itself.
    Nameless,
    OddAlignment,
    DtypeTwice,
    PeakWithoutSource,
    AnotherDriverEachTime,
    // Memory.
    UploadLosesTail,
    AllocTooSmall,
    AllocOverlaps,
    AnyMemoryTaken,
    AbsurdGranted,
    LargestIgnored,
    NeverRecovers,
    // Bounds.
    RefusedUploadWritesPart,
    DownloadClamps,
    FillClamps,
    CopySourceUnchecked,
    LongUploadCut,
    // Copies.
    DownloadIgnoresOffset,
    UploadClearsRest,
    CopyOneMore,
    CopyForwards,
    FillZero,
    NoBytesPanic,
    // Import.
    ImportIgnoresOffset,
    ImportKeeps,
    ImportUndeclared,
    // Streams.
    Reorders,
    DownloadOvertakes,
    // Events.
    AlwaysReached,
    NeverReachedUnrecorded,
    EventSyncAtOnce,
    RecordsOnce,
    EventNeedsItsStream,
    WaitIgnored,
    WaitIsLate,
    Lazy,
    ForeignEventTaken,
    TimeInOtherUnits,
    // Errors.
    RefusedPoisons,
    ForeignBufferTaken,
    WordlessErrors,
    ErrorForgotten,
    ErrorReplaced,
    FailsEverywhere,
    EventsHideErrors,
    // Time.
    SyncIgnoresTimeout,
    SyncLies,
    EventIgnoresTimeout,
    LongWaitsPanic,
    // Lives.
    FreedAtOnce,
    DropCancels,
    HandleKills,
    // Threads.
    BoundToThread,
    // Leaks.
    LeaksBuffers,
    LeaksThreads,
    LeaksEvents,
    LeaksCommands,
    LeaksPlans,
    // Plans.
    FirstNodeOnly,
    RefusesOneOnly,
    LyingSupport,
    SharedScratch,
    RunsAtOnce,
    RightOnceOnly,
    WorkspaceOverrun,
    ShortBindingTaken,
    TooManyTaken,
    OutsideTaken,
    WorkspaceUnchecked,
    // Whose results they are.
    HostTruth,
    HostKernels,
}

/// A chip, which may be opened any number of times.
#[derive(Clone)]
pub(crate) struct Chip {
    fault: Fault,
    arena: Arc<Arena>,
    opened: Arc<AtomicUsize>,
    failed: Arc<AtomicBool>,
}

impl Chip {
    pub(crate) fn new(fault: Fault) -> Chip {
        let arena = Arc::new(Arena::new(fault, [TOTAL, TOTAL]));
        Chip { fault, arena, opened: Arc::default(), failed: Arc::default() }
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Device>> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let driver = if self.fault == Fault::AnotherDriverEachTime { number } else { 1 };
        let info = self.describe(driver);
        Ok(Arc::new(Toy { chip: self.clone(), info, alive: Arc::new(AtomicBool::new(true)) }))
    }

    fn describe(&self, driver: usize) -> DeviceInfo {
        let fault = self.fault;
        let memory = |index: usize| MemoryInfo {
            kind: MemoryKind { device_local: index == 0, host_visible: index == 1, pinned: index == 1 },
            total_bytes: TOTAL,
            free_bytes: TOTAL - self.arena.used(index),
            max_alloc: LARGEST,
            base_align: ALIGN,
            peak_bytes_per_s: if fault == Fault::PeakWithoutSource { 1e9 } else { 0.0 },
        };
        let mut dtypes = vec![DType::F32, DType::I32];
        dtypes.extend((fault == Fault::DtypeTwice).then_some(DType::F32));
        DeviceInfo {
            name: if fault == Fault::Nameless { String::new() } else { "toy".into() },
            vendor: "nobody".into(),
            arch: "toy".into(),
            driver: driver.to_string(),
            memories: vec![memory(0), memory(1)],
            dtypes: dtypes.into_iter().map(|dtype| DtypeInfo { dtype, compute: true, peak_ops_per_s: 0.0 }).collect(),
            kv: vec![KvInfo { layout: KvLayout::BlockTokenHead, block_size: 16 }],
            caps: Caps {
                multi_op: true,
                import_host: fault != Fault::ImportUndeclared,
                deterministic: true,
                ..Default::default()
            },
            tensor_align: if fault == Fault::OddAlignment { 48 } else { ALIGN },
            tensor_tail_pad: 32,
            peak_source: String::new(),
        }
    }
}

/// Bytes of each memory.
const TOTAL: u64 = 96 << 20;

/// Bytes of the largest allocation.
const LARGEST: u64 = 32 << 20;

/// What allocations and tensors start on.
const ALIGN: usize = 64;

struct Toy {
    chip: Chip,
    info: DeviceInfo,
    alive: Arc<AtomicBool>,
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::SeqCst);
    }
}

impl Device for Toy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let fault = self.chip.fault;
        let memory = if fault == Fault::AnyMemoryTaken { memory.min(1) } else { memory };
        if memory > 1 {
            let mend = if fault == Fault::WordlessErrors { "" } else { "use 0 or 1" };
            return Err(Error::invalid("memory", format!("position {memory}"), mend));
        }
        memory::alloc(&self.chip.arena, memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(stream::ToyStream::new(self.chip.fault, self.alive.clone(), self.chip.failed.clone())))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(stream::ToyEvent::new(self.chip.fault)))
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        memory::import(self.chip.fault, memory, offset, bytes)
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let answer = |node| match plan::runs(&node) || self.chip.fault == Fault::LyingSupport {
            true => NodeSupport::native("toy"),
            false => NodeSupport::no(Reason::operator()),
        };
        let nodes = if self.chip.fault == Fault::FirstNodeOnly { 1 } else { usize::MAX };
        graph.views().map(answer).take(nodes).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        if !graph.views().all(|node| plan::runs(&node)) {
            let refused = qiao_core::device::refuse(&self.info, graph, &self.support(graph));
            return Err(match refused {
                Error::Unsupported { device, mut list } if self.chip.fault == Fault::RefusesOneOnly => {
                    list.truncate(1);
                    Error::Unsupported { device, list }
                }
                other => other,
            });
        }
        Ok(Arc::new(plan::ToyPlan::new(self.chip.fault, graph)?))
    }
}
