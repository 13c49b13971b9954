//! The device: what it is, its memory, and how a graph becomes a plan.

use std::any::Any;
use std::sync::Arc;

use opencl3::device::{
    CL_DEVICE_AVAILABLE, CL_DEVICE_COMPILER_AVAILABLE, CL_DEVICE_ENDIAN_LITTLE, CL_DEVICE_GLOBAL_MEM_SIZE,
    CL_DEVICE_HOST_UNIFIED_MEMORY, CL_DEVICE_LOCAL_MEM_SIZE, CL_DEVICE_MAX_COMPUTE_UNITS, CL_DEVICE_MAX_MEM_ALLOC_SIZE,
    CL_DEVICE_MAX_WORK_GROUP_SIZE, CL_DEVICE_MEM_BASE_ADDR_ALIGN, CL_DEVICE_NAME, CL_DEVICE_SINGLE_FP_CONFIG,
    CL_DEVICE_TYPE, CL_DEVICE_TYPE_CPU, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION,
};
use opencl3::platform::platform::CL_PLATFORM_NAME;
use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph, KvInfo, KvLayout, MemoryInfo,
    MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};

use crate::context::Context;
use crate::event::OpenClEvent;
use crate::memory::OpenClBuffer;
use crate::ops::{self, Card, OpenClPlan, Target};
use crate::stream::OpenClStream;
use crate::sys::Found;
use crate::tuning::{Limits, Tuning};

/// Bytes on whose multiples memory objects must start: kernels read as many at a time.
const LEAST_ALIGN: usize = 16;

/// `CL_FP_DENORM`.
const KEEPS_SUBNORMALS: u64 = 1;

/// A device, opened.
pub(crate) struct OpenClDevice {
    info: DeviceInfo,
    card: Arc<Card>,
}

/// The name of a device for people.
fn name(found: &Found) -> String {
    match found.text(CL_DEVICE_NAME) {
        name if name.is_empty() => "OpenCL device".into(),
        name => name,
    }
}

/// Whether the kernels run on a device.
///
/// # Errors
/// [`Error::NotPresent`] with what it lacks.
pub(crate) fn usable(found: &Found) -> Result<()> {
    let refused = |why: String| Err(Error::not_present(name(found), why));
    let version = found.text(CL_DEVICE_VERSION);
    let number = version.split_whitespace().nth(1).and_then(|n| {
        let (major, minor) = n.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    if number.is_none_or(|n| n < (1, 2)) {
        return refused(format!("it speaks '{version}', and OpenCL 1.2 is needed"));
    }
    for (question, lacking) in [
        (CL_DEVICE_AVAILABLE, "it is not available"),
        (CL_DEVICE_COMPILER_AVAILABLE, "its driver has no compiler"),
        (CL_DEVICE_ENDIAN_LITTLE, "it is not little-endian"),
    ] {
        if found.number(question) == 0 {
            return refused(lacking.into());
        }
    }
    let align = align(found);
    if align < LEAST_ALIGN || !align.is_power_of_two() {
        return refused(format!("its buffers start on multiples of {align} bytes, and {LEAST_ALIGN} are needed"));
    }
    Ok(())
}

/// What the first byte of every buffer is a multiple of; OpenCL tells it in bits.
fn align(found: &Found) -> usize {
    found.number(CL_DEVICE_MEM_BASE_ADDR_ALIGN) as usize / 8
}

/// Bytes of local memory.
fn local(found: &Found) -> u32 {
    u32::try_from(found.number(CL_DEVICE_LOCAL_MEM_SIZE)).unwrap_or(u32::MAX)
}

/// What a device is, without opening it.
pub(crate) fn describe(found: &Found) -> DeviceInfo {
    let unified = found.number(CL_DEVICE_HOST_UNIFIED_MEMORY) != 0;
    let total = found.number(CL_DEVICE_GLOBAL_MEM_SIZE);
    let align = align(found);
    let memory = MemoryInfo {
        kind: MemoryKind { device_local: true, host_visible: unified, pinned: false },
        total_bytes: total,
        free_bytes: total,
        max_alloc: found.number(CL_DEVICE_MAX_MEM_ALLOC_SIZE),
        base_align: align,
        peak_bytes_per_s: 0.0,
    };
    let compute = |&dtype: &DType| DtypeInfo { dtype, compute: dtype.is_activation(), peak_ops_per_s: 0.0 };
    DeviceInfo {
        name: name(found),
        vendor: found.text(CL_DEVICE_VENDOR),
        arch: found.text(CL_DEVICE_VERSION),
        driver: format!("{} {}", found.platform_text(CL_PLATFORM_NAME), found.text(CL_DRIVER_VERSION)),
        memories: vec![memory],
        dtypes: DType::ALL.iter().map(compute).collect(),
        kv: [KvLayout::BlockHeadToken, KvLayout::BlockTokenHead].map(|layout| KvInfo { layout, block_size: 0 }).into(),
        caps: Caps {
            multi_op: true,
            import_host: false,
            strided: true,
            index_i64: true,
            deterministic: true,
            batch_invariant: false,
            flush_subnormals: found.number(CL_DEVICE_SINGLE_FP_CONFIG) & KEEPS_SUBNORMALS == 0,
        },
        tensor_align: align,
        tensor_tail_pad: 0,
        peak_source: String::new(),
    }
}

/// Opens a device that has no context yet.
///
/// # Errors
/// [`Error::NotPresent`]; an environment that asks for what the device lacks.
pub(crate) fn open_context(found: Found) -> Result<Arc<Context>> {
    let items = found.number(CL_DEVICE_MAX_WORK_GROUP_SIZE).clamp(1, 1 << 20) as u32;
    let limits = Limits { items, local: local(&found) };
    let tuning = Tuning::of(found.number(CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU != 0, limits)?;
    Context::new(found, name(&found), tuning)
}

impl OpenClDevice {
    /// A device over its context.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let found = context.found;
        let mut info = describe(&found);
        info.memories[0].free_bytes = context.free();
        info.arch = format!("{}, {}", info.arch, context.paths.names());
        let units = found.number(CL_DEVICE_MAX_COMPUTE_UNITS) as u32;
        let target = Target::new(units, local(&found), context.tuning);
        let card = Card { target, table: ops::table(), align: info.tensor_align, context };
        OpenClDevice { info, card: Arc::new(card) }
    }
}

impl Device for OpenClDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            let found = format!("position {memory}");
            return Err(Error::invalid("memory", found, "an OpenCL device has memory 0 only"));
        }
        Ok(Arc::new(OpenClBuffer::new(&self.card.context, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(OpenClStream::new(&self.card.context)?))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(OpenClEvent::new(&self.card.context)))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        ops::support(&self.card.table, &self.card.target, graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.card.context.alive()?;
        Ok(Arc::new(OpenClPlan::new(&self.card, &self.info, graph)?))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        (ops::layout(tensor, layout)?.bytes)(tensor)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<OpenClStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.card.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        ops::pack(&self.card, stream, tensor, src, layout, dst)
    }
}
