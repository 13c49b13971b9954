//! The chip: what it is, and the way to its memory, queues and kernels.

use std::sync::Arc;

use qiao_core::{
    Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Graph, MemoryInfo, MemoryKind, NodeSupport, OpTable,
    Plan, Result, Stream,
};

use crate::memory::{LARGEST, Memory, Queue};
use crate::ops::{self, Kernel, Prepared};

/// What the chip is. YOUR DRIVER: ask it. Peaks are what the data sheet says, and `peak_source` is which.
pub(crate) fn info() -> DeviceInfo {
    DeviceInfo {
        name: "ACME NPU".into(),
        vendor: "ACME".into(),
        driver: env!("CARGO_PKG_VERSION").into(),
        memories: vec![MemoryInfo {
            kind: MemoryKind { device_local: true, ..Default::default() },
            max_alloc: LARGEST as u64,
            base_align: 64,
            ..Default::default()
        }],
        dtypes: vec![DtypeInfo { dtype: DType::F32, compute: true, peak_ops_per_s: 0.0 }],
        caps: Caps { multi_op: true, strided: true, deterministic: true, ..Default::default() },
        tensor_align: 64,
        ..Default::default()
    }
}

/// An opened chip. `info`, `alloc` and `stream` are required; a chip with those alone runs models on the host's kernels.
pub struct Chip {
    info: DeviceInfo,
    table: OpTable<Kernel>,
}

impl Chip {
    pub(crate) fn new() -> Self {
        Chip { info: info(), table: ops::table() }
    }
}

impl Device for Chip {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        match memory {
            0 => Ok(Arc::new(Memory::new(bytes)?)),
            n => Err(Error::invalid(format!("memory {n}"), "there is one", "use 0")),
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Queue))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.table.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        Ok(Arc::new(Prepared::new(&self.table, &self.info, graph)?))
    }
}
