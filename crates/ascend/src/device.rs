//! The device: what the chip is, its memory, and how a graph becomes a plan.

use std::any::Any;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph, KvInfo, KvLayout, MemoryInfo,
    MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};

use crate::chips::{self, Chip};
use crate::context::Context;
use crate::event::AscendEvent;
use crate::memory::{ALIGN, AscendBuffer, TAIL};
use crate::ops::{self, AscendPlan, Blocks, Here, Table};
use crate::stream::AscendStream;
use crate::sys::{Api, Places, api};

/// Tokens of a page, as attention takes them.
const BLOCK: usize = 128;

/// How long the mask of causal attention may take to get there.
const MASK_WAIT: Duration = Duration::from_secs(60);

/// A chip, opened.
pub(crate) struct AscendDevice {
    info: DeviceInfo,
    context: Arc<Context>,
    here: Here,
    table: Table,
    mask: Mutex<Weak<AscendBuffer>>,
}

/// How many devices there are.
///
/// # Errors
/// [`Error::NotPresent`]: no library, no device.
pub(crate) fn count(api: &'static Api) -> Result<usize> {
    let mut count = 0;
    // SAFETY: writes a number.
    match unsafe { (api.run.device_count)(&mut count) } {
        0 if count > 0 => Ok(count as usize),
        0 => Err(Error::not_present(
            "ascend",
            "AscendCL finds no device: look with npu-smi info, and at ASCEND_RT_VISIBLE_DEVICES",
        )),
        code => Err(Error::not_present("ascend", format!("AscendCL counts no devices: {}", api.describe(code)))),
    }
}

/// The name of the chips of this machine, and their row.
///
/// # Errors
/// [`Error::NotPresent`]: a chip that this backend has no row for.
fn chip(api: &Api) -> Result<(String, &'static Chip)> {
    // SAFETY: answers the address of a text of its own, or null.
    let name = unsafe {
        let text = (api.run.soc_name)();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    let chip = chips::of(&name)?;
    Ok((name, chip))
}

/// What the chips of this machine are, as far as can be told without opening one.
///
/// # Errors
/// [`Error::NotPresent`].
pub(crate) fn describe(api: &'static Api, memory: (usize, usize)) -> Result<DeviceInfo> {
    let (name, chip) = chip(api)?;
    let memory = MemoryInfo {
        kind: MemoryKind { device_local: true, host_visible: false, pinned: false },
        total_bytes: memory.1 as u64,
        free_bytes: memory.0 as u64,
        max_alloc: 0,
        base_align: ALIGN,
        peak_bytes_per_s: 0.0,
    };
    let stored = [DType::I8, DType::U8, DType::I16, DType::I32, DType::I64, DType::Bool];
    let dtype = |compute| move |&dtype: &DType| DtypeInfo { dtype, compute, peak_ops_per_s: 0.0 };
    Ok(DeviceInfo {
        name,
        vendor: "Huawei".into(),
        arch: chip.products.into(),
        driver: format!("AscendCL {}", api.version),
        memories: vec![memory],
        dtypes: chip.floats.iter().map(dtype(true)).chain(stored.iter().map(dtype(false))).collect(),
        kv: vec![KvInfo { layout: KvLayout::BlockTokenHead, block_size: BLOCK }],
        caps: Caps { multi_op: true, strided: true, ..Default::default() },
        tensor_align: ALIGN,
        tensor_tail_pad: TAIL,
        peak_source: String::new(),
    })
}

impl AscendDevice {
    /// A device over its context.
    ///
    /// # Errors
    /// [`Error::NotPresent`]; [`Error::DeviceLost`].
    pub(crate) fn new(places: &Places, context: Arc<Context>) -> Result<Self> {
        let api = api(places)?;
        let info = describe(api, context.memory()?)?;
        let here = Here { chip: chip(api)?.1, operators: &api.operators };
        Ok(AscendDevice { info, context, here, table: ops::table(), mask: Mutex::default() })
    }

    /// The mask of causal attention, which all plans share.
    fn mask(&self) -> Result<Arc<AscendBuffer>> {
        let mut kept = self.mask.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mask) = kept.upgrade() {
            return Ok(mask);
        }
        let bytes = ops::mask();
        let mask = Arc::new(AscendBuffer::new(&self.context, bytes.len())?);
        let mut stream = AscendStream::new(&self.context)?;
        let whole: Arc<dyn Buffer> = mask.clone();
        stream.upload(&Binding::whole(whole), &bytes)?;
        stream.sync(MASK_WAIT)?;
        *kept = Arc::downgrade(&mask);
        Ok(mask)
    }
}

impl Device for AscendDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            return Err(Error::invalid("memory", format!("position {memory}"), "a device has memory 0 only"));
        }
        Ok(Arc::new(AscendBuffer::new(&self.context, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(AscendStream::new(&self.context)?))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(AscendEvent::new(&self.context)?))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        graph.views().map(|node| self.here.support(&self.table, &node)).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.context.alive()?;
        let plan = AscendPlan::new(&self.context, &self.info, self.here, &self.table, graph, || self.mask())?;
        Ok(Arc::new(plan))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        Blocks::check(tensor, layout)?.bytes()
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let blocks = Blocks::check(tensor, layout)?;
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<AscendStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        src.check("packed tensor", tensor.bytes()?)?;
        dst.check("private layout", blocks.bytes()?)?;
        // The layout is documented element by element, so that the host packs it, and no operator's choice of layout matters.
        let mut bytes = vec![0; tensor.bytes()?];
        stream.download(&mut bytes, src)?;
        stream.upload(dst, &blocks.pack(&bytes)?)
    }
}
