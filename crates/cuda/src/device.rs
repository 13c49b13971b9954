//! The device: what the card is, its memory, and how a graph becomes a plan.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::Arc;

use qiao_core::{
    Binding, Buffer, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph, KvInfo, KvLayout, MemoryInfo,
    MemoryKind, NodeSupport, Plan, Result, Stream, TensorDesc,
};
use qiao_launch::Chip;

use crate::compile::Target;
use crate::context::Context;
use crate::event::CudaEvent;
use crate::memory::{ALIGN, CudaBuffer};
use crate::ops::{self, Card, CudaPlan};
use crate::prebuilt;
use crate::rtc::compiler;
use crate::stream::CudaStream;
use crate::sys::{Blas, CUdevice, Driver, SUCCESS, blas, driver};
use crate::vendors::{Arch, Asked, Row, Shared, maker_of};

/// Where the kernel says what is at each place of the PCI bus.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// A card, opened.
pub(crate) struct CudaDevice {
    info: DeviceInfo,
    card: Arc<Card>,
}

/// What can be asked of a card without opening it.
struct Facts {
    device: CUdevice,
    name: String,
    /// Who made it.
    maker: &'static str,
    target: Target,
    total: usize,
}

impl Facts {
    /// # Errors
    /// [`Error::NotPresent`]: no driver, no such card, one of another vendor, one that the kernels do not run on, or nothing
    /// that compiles kernels for it.
    fn of(driver: &'static Driver, ordinal: usize) -> Result<Facts> {
        let row = driver.row;
        let absent = |why: String| Error::not_present(format!("{}:{ordinal}", row.name), why);
        let mut device = 0;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        // SAFETY: writes a number.
        match unsafe { (driver.device)(&mut device, number) } {
            SUCCESS => {}
            code => return Err(absent(driver.describe(code))),
        }
        let mut total = 0;
        // SAFETY: writes a number.
        driver.device_memory.map(|ask| unsafe { ask(&mut total, device) });
        let name = text(|at, bytes| {
            // SAFETY: the text holds as many bytes as is said.
            unsafe { (driver.device_name)(at, bytes, device) };
        });
        let name = if name.is_empty() { format!("{} device", row.stack.name) } else { name };
        let arch = arch_of(driver, device, &name);
        let told = arch.as_ref().map_or("", |(_, told)| told);
        let maker = asked(driver, device, &name, told).map_err(absent)?;
        let (arch, arch_name) = arch.map_err(absent)?;
        let warp = driver.attribute(device, row.attributes.warp);
        if warp != 0 && !row.warps.contains(&warp) {
            return Err(absent(format!("{name} has warps of {warp} lanes, for which the kernels have no text")));
        }
        if !(row.prebuilt && prebuilt::serves(arch)) {
            compiler(row)?;
        }
        Ok(Facts { device, name, maker, target: Target { arch, name: arch_name, driver: driver.version() }, total })
    }

    fn info(&self, driver: &Driver, free: usize) -> DeviceInfo {
        let row = driver.row;
        // Kilohertz and bits, both edges of the clock.
        let [clock, bus] = row.attributes.memory.map(|of| driver.attribute(self.device, of) as f64);
        let peak = 2.0 * (clock * 1e3) * (bus / 8.0);
        let memory = MemoryInfo {
            kind: MemoryKind { device_local: true, host_visible: false, pinned: false },
            total_bytes: self.total as u64,
            free_bytes: free as u64,
            max_alloc: 0,
            base_align: ALIGN,
            peak_bytes_per_s: peak,
        };
        let computes =
            |dtype: DType| dtype.is_activation() && (dtype != DType::BF16 || self.target.arch >= row.bf16_from);
        let dtype = |&dtype: &DType| DtypeInfo { dtype, compute: computes(dtype), peak_ops_per_s: 0.0 };
        DeviceInfo {
            name: self.name.clone(),
            vendor: self.maker.into(),
            arch: row.arch.shown(&self.target),
            driver: versions(row, self.target.driver),
            memories: vec![memory],
            dtypes: DType::ALL.iter().map(dtype).collect(),
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
                flush_subnormals: row.flush_subnormals,
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

/// A text that the driver writes, into as many bytes as it is told.
fn text(write: impl FnOnce(*mut c_char, i32)) -> String {
    let mut text = [0 as c_char; 256];
    write(text.as_mut_ptr(), text.len() as i32 - 1);
    // SAFETY: the last byte was left zero.
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().trim().to_string()
}

/// The number of a card's architecture, and what the compiler calls it.
///
/// # Errors
/// It is one that the kernels do not run on.
fn arch_of(driver: &Driver, device: CUdevice, name: &str) -> Result<(u32, String), String> {
    let [major, minor] = driver.row.attributes.capability.map(|of| driver.attribute(device, of) as u32);
    match &driver.row.arch {
        Arch::Capability { prefix, oldest, exactly } => {
            let arch = major * 10 + minor;
            if arch < *oldest {
                let need = format!("{}.{}", oldest / 10, oldest % 10);
                return Err(format!(
                    "{name} has compute capability {major}.{minor}, and the kernels need {need} or newer"
                ));
            }
            let letter = exactly.iter().find(|(of, _)| *of == arch).map(|(_, letter)| *letter);
            Ok((arch, format!("{prefix}{arch}{}", letter.map(String::from).unwrap_or_default())))
        }
        Arch::Hundreds { prefix, otherwise } => match major * 100 + minor {
            arch if arch >= 1000 => Ok((arch, format!("{prefix}{arch}"))),
            arch => Ok((arch, otherwise.to_string())),
        },
        Arch::Named(names) => match names.iter().find(|(arch, _)| *arch == major * 10 + minor) {
            Some((arch, called)) => Ok((*arch, called.to_string())),
            None => {
                Err(format!("{name} has compute capability {major}.{minor}, which the compiler has no known name for"))
            }
        },
        Arch::Properties { prefix } => {
            let word = word_of_properties(driver, device, prefix).unwrap_or_default();
            let number = u32::from_str_radix(&word[prefix.len().min(word.len())..], 16);
            number
                .map(|number| (number, word))
                .map_err(|_| format!("the driver does not tell which {prefix} {name} is"))
        }
    }
}

/// The word that begins with a prefix in what the driver tells of a card at once. Where it stands differs from release to
/// release, but it is the only one that begins so.
fn word_of_properties(driver: &Driver, device: CUdevice, prefix: &str) -> Option<String> {
    /// More than any release fills: 792 in HIP 5, 1472 in HIP 6.
    const BYTES: usize = 8192;
    let mut properties = vec![0u64; BYTES / 8];
    // SAFETY: the driver writes fewer bytes than there are.
    if unsafe { (driver.properties?)(properties.as_mut_ptr().cast(), device) } != SUCCESS {
        return None;
    }
    let bytes: Vec<u8> = properties.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let words = bytes.split(|b| !b.is_ascii_graphic()).filter_map(|word| std::str::from_utf8(word).ok());
    let word = words.filter_map(|word| word.split(':').next()).find(|word| word.starts_with(prefix))?;
    Some(word.to_string())
}

/// Who made a card.
///
/// # Errors
/// Somebody else than the vendor, or nobody known.
fn asked(driver: &Driver, device: CUdevice, name: &str, arch: &str) -> Result<&'static str, String> {
    let row = driver.row;
    let bus = driver.pci_bus_id.map(|write| {
        text(|at, bytes| {
            // SAFETY: the text holds as many bytes as is said.
            unsafe { write(at, bytes, device) };
        })
    });
    let asked = Asked { name: name.into(), arch: arch.into(), bus: bus.unwrap_or_default() };
    let maker = maker_of(&asked, Path::new(PCI_DEVICES)).map(|maker| maker.name);
    let trusted = std::env::var("QIAO_TRUST_DRIVER").is_ok_and(|names| names.split(',').any(|n| n.trim() == row.name));
    match maker {
        Some(maker) if maker == row.maker || trusted => Ok(maker),
        None if trusted => Ok("unknown"),
        Some(maker) => Err(format!(
            "{name} is a card of {maker}, and {} is for those of {}: QIAO_TRUST_DRIVER={0} takes it all the same",
            row.name, row.maker
        )),
        None => Err(format!(
            "neither the bus ({}) nor its name tells that {name} ({arch}) is a card of {}: QIAO_TRUST_DRIVER={} takes it for one",
            asked.bus, row.maker, row.name
        )),
    }
}

/// What the driver can do, the compiler's version where there is one, and that of the library of large products where the
/// vendor has one.
fn versions(row: &'static Row, driver: i32) -> String {
    let of_compiler = compiler(row).map(|compiler| compiler.version()).ok();
    let of_blas = row.blas.as_ref().map(|(library, _)| match blas(row).map(Blas::version) {
        Some(Some([major, minor, patch])) => format!("{} {major}.{minor}.{patch}", library.what),
        Some(None) => library.what.to_string(),
        None => format!("no {}", library.what),
    });
    [Some(row.stack.version(driver)), of_compiler, of_blas].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How many cards the driver names.
///
/// # Errors
/// [`Error::NotPresent`]: no driver, no card.
pub(crate) fn count(row: &'static Row) -> Result<usize> {
    let driver = driver(row)?;
    let mut count = 0;
    // SAFETY: writes a number.
    match unsafe { (driver.device_count)(&mut count) } {
        SUCCESS if count > 0 => Ok(count as usize),
        SUCCESS => Err(Error::not_present(row.name, "the driver finds no card")),
        code => Err(Error::not_present(row.name, driver.describe(code))),
    }
}

/// What a card is, without opening it.
///
/// # Errors
/// As when it is opened.
pub(crate) fn describe(row: &'static Row, ordinal: usize) -> Result<DeviceInfo> {
    let driver = driver(row)?;
    let facts = Facts::of(driver, ordinal)?;
    Ok(facts.info(driver, 0))
}

/// Opens a card that has no context yet.
///
/// # Errors
/// [`Error::NotPresent`]; the driver's.
pub(crate) fn open_context(row: &'static Row, ordinal: usize) -> Result<Arc<Context>> {
    let driver = driver(row)?;
    let facts = Facts::of(driver, ordinal)?;
    Context::new(driver, facts.device, facts.name, facts.target)
}

impl CudaDevice {
    /// A device of this card over its context.
    ///
    /// # Errors
    /// [`Error::NotPresent`]; [`Error::DeviceLost`].
    pub(crate) fn new(ordinal: usize, context: Arc<Context>) -> Result<Self> {
        let driver = context.driver;
        let mut facts = Facts::of(driver, ordinal)?;
        let (free, total) = context.memory()?;
        facts.total = if facts.total == 0 { total } else { facts.total };
        let row = driver.row;
        let shared = match row.shared {
            Shared::Attribute(of) => driver.attribute(facts.device, Some(of)),
            Shared::Bytes(bytes) => bytes,
        };
        let chip = Chip {
            arch: facts.target.arch,
            processors: driver.attribute(facts.device, row.attributes.processors).max(1) as u32,
            shared: shared as u32,
            blas: blas(row).is_some(),
        };
        let graphs = std::env::var("QIAO_CUDA_GRAPHS").map_or(true, |v| v != "0") && driver.graphs().is_some();
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
        ops::support(self.card.context.driver.row.name, &self.card.table, graph)
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
