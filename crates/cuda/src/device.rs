//! The device: what the card is, its memory, and how a graph becomes a plan.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph, KvInfo, KvLayout, MemoryInfo,
    MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};
use qiao_launch::Chip;

use crate::compile::Target;
use crate::context::{Context, attribute_of};
use crate::event::CudaEvent;
use crate::memory::{ALIGN, CudaBuffer};
use crate::ops::{self, Card, CudaPlan};
use crate::prebuilt;
use crate::stream::CudaStream;
use crate::sys::{CUdevice, Driver, SUCCESS, blas, compiler, driver};

/// The oldest compute capability that the kernels run on, ten times the major number plus the minor.
const OLDEST: u32 = 80;

/// A card, opened.
pub(crate) struct CudaDevice {
    info: DeviceInfo,
    card: Arc<Card>,
}

/// What can be asked of a card without opening it.
struct Facts {
    device: CUdevice,
    name: String,
    target: Target,
    total: usize,
}

impl Facts {
    /// # Errors
    /// [`Error::NotPresent`]: no driver, no such card, one that is too old, or nothing that compiles kernels for it.
    fn of(driver: &'static Driver, ordinal: usize) -> Result<Facts> {
        let mut device = 0;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        // SAFETY: writes a number.
        match unsafe { (driver.device)(&mut device, number) } {
            SUCCESS => {}
            code => return Err(Error::not_present(format!("cuda:{ordinal}"), driver.describe(code))),
        }
        let mut text = [0 as c_char; 256];
        let (mut total, mut version) = (0, 0);
        // SAFETY: the text holds as many bytes as is said; the others write a number each.
        unsafe {
            (driver.device_name)(text.as_mut_ptr(), text.len() as i32 - 1, device);
            (driver.device_memory)(&mut total, device);
            (driver.version)(&mut version);
        }
        // SAFETY: the last byte was left zero.
        let name = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().trim().to_string();
        let ask = |attribute| attribute_of(driver, device, attribute);
        let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        let target = Target { arch: (major * 10 + minor) as u32, driver: version };
        if target.arch < OLDEST {
            let why = format!("{name} has compute capability {major}.{minor}, and the kernels need 8.0 or newer");
            return Err(Error::not_present(format!("cuda:{ordinal}"), why));
        }
        if !prebuilt::serves(target.arch) {
            compiler()?;
        }
        Ok(Facts { device, name: if name.is_empty() { "CUDA device".into() } else { name }, target, total })
    }

    fn info(&self, driver: &Driver, free: usize) -> DeviceInfo {
        let ask = |attribute| attribute_of(driver, self.device, attribute);
        // Kilohertz and bits, both edges of the clock.
        let clock = ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) as f64 * 1e3;
        let bus = ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) as f64 / 8.0;
        let peak = 2.0 * clock * bus;
        let memory = MemoryInfo {
            kind: MemoryKind { device_local: true, host_visible: false, pinned: false },
            total_bytes: self.total as u64,
            free_bytes: free as u64,
            max_alloc: 0,
            base_align: ALIGN,
            peak_bytes_per_s: peak,
        };
        let compute = |&dtype: &DType| DtypeInfo { dtype, compute: dtype.is_activation(), peak_ops_per_s: 0.0 };
        DeviceInfo {
            name: self.name.clone(),
            vendor: "NVIDIA".into(),
            arch: format!("sm_{}", self.target.arch),
            driver: versions(self.target.driver),
            memories: vec![memory],
            dtypes: DType::ALL.iter().map(compute).collect(),
            kv: [KvLayout::BlockHeadToken, KvLayout::BlockTokenHead]
                .map(|layout| KvInfo { layout, block_size: 0 })
                .into(),
            caps: Caps {
                multi_op: true,
                import_host: false,
                strided: true,
                index_i64: true,
                deterministic: true,
                batch_invariant: false,
                flush_subnormals: false,
            },
            tensor_align: ALIGN,
            tensor_tail_pad: 0,
            peak_source: if peak > 0.0 {
                "memory clock and bus width, as the driver tells them".into()
            } else {
                String::new()
            },
        }
    }
}

/// What the driver can do, and the compiler's version where there is one.
fn versions(driver: i32) -> String {
    let of_driver = format!("CUDA {}.{}", driver / 1000, driver % 1000 / 10);
    let Ok(compiler) = compiler() else { return of_driver };
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two numbers.
    unsafe { (compiler.version)(&mut major, &mut minor) };
    format!("{of_driver}, NVRTC {major}.{minor}")
}

/// How many cards the driver names.
///
/// # Errors
/// [`Error::NotPresent`]: no driver, no card.
pub(crate) fn count() -> Result<usize> {
    let driver = driver()?;
    let mut count = 0;
    // SAFETY: writes a number.
    match unsafe { (driver.device_count)(&mut count) } {
        SUCCESS if count > 0 => Ok(count as usize),
        SUCCESS => Err(Error::not_present("cuda", "the driver finds no card")),
        code => Err(Error::not_present("cuda", driver.describe(code))),
    }
}

/// What a card is, without opening it.
///
/// # Errors
/// As when it is opened.
pub(crate) fn describe(ordinal: usize) -> Result<DeviceInfo> {
    let driver = driver()?;
    let facts = Facts::of(driver, ordinal)?;
    Ok(facts.info(driver, 0))
}

/// Opens a card that has no context yet.
///
/// # Errors
/// [`Error::NotPresent`]; the driver's.
pub(crate) fn open_context(ordinal: usize) -> Result<Arc<Context>> {
    let facts = Facts::of(driver()?, ordinal)?;
    Context::new(facts.device, facts.name, facts.target)
}

impl CudaDevice {
    /// A device of this card over its context.
    ///
    /// # Errors
    /// [`Error::NotPresent`]; [`Error::DeviceLost`].
    pub(crate) fn new(ordinal: usize, context: Arc<Context>) -> Result<Self> {
        let driver = context.driver;
        let facts = Facts::of(driver, ordinal)?;
        let (free, _) = context.memory()?;
        let chip = Chip {
            arch: facts.target.arch,
            processors: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).max(1) as u32,
            shared: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN) as u32,
            blas: blas().is_some(),
        };
        let graphs = std::env::var("QIAO_CUDA_GRAPHS").map_or(true, |v| v != "0");
        let card = Card { context, chip, table: ops::table(), rules: qiao_launch::fuse::RULES, graphs };
        Ok(CudaDevice { info: facts.info(driver, free), card: Arc::new(card) })
    }
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            return Err(Error::invalid("memory", format!("position {memory}"), "a card has memory 0 only"));
        }
        Ok(Arc::new(CudaBuffer::new(&self.card.context, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CudaStream::new(&self.card.context)?))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(CudaEvent::new(&self.card.context)?))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        ops::support(&self.card.table, graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.card.context.alive()?;
        Ok(Arc::new(CudaPlan::new(&self.card, &self.info, graph)?))
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
            .downcast_mut::<CudaStream>()
            .filter(|s| Arc::ptr_eq(&s.context, &self.card.context))
            .ok_or_else(|| Error::invalid("stream", "it belongs to another device", "use a stream of this device"))?;
        ops::pack(&self.card, stream, tensor, src, layout, dst)
    }
}
