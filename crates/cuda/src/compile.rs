//! Units as images that the driver loads: built in, kept on disk, or compiled here and now.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUjit_option_enum as Jit;
use qiao_core::{Error, Result};
use qiao_kernels_cuda::{HEADERS, Kernel, Unit};

use crate::prebuilt;
use crate::sys::{CUfunction, CUmodule, Code, Compiler, Driver, SUCCESS, compiler, nvrtcProgram};
use qiao_images as cache;

/// Bytes of dynamic shared memory that a function may have without being asked for more.
const PLAIN_SHARED: u32 = 48 << 10;

/// What images depend on beside the text: the card and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Compute capability, ten times the major number plus the minor.
    pub(crate) arch: u32,
    /// The driver's version, as it says it.
    pub(crate) driver: i32,
}

impl Target {
    /// The architecture in the words of the compiler: that of a generation's own instructions where kernels have use for them.
    pub(crate) fn name(self) -> String {
        format!("sm_{}{}", self.arch, if self.arch == 90 { "a" } else { "" })
    }
}

/// A unit on the card.
struct Module {
    raw: CUmodule,
    functions: HashMap<&'static str, Function>,
}

/// A kernel on the card.
#[derive(Clone, Copy)]
struct Function {
    raw: CUfunction,
    /// Bytes of dynamic shared memory that it may be launched with.
    shared: u32,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Module {}

/// The units that plans of a card asked for so far.
pub(crate) struct Modules {
    target: Target,
    loaded: Mutex<HashMap<&'static str, Module>>,
}

impl Modules {
    pub(crate) fn new(target: Target) -> Self {
        Modules { target, loaded: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Module>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes these units ready. An image that was built in comes first; units that have none for this card, or one that its
    /// driver does not take, are compiled side by side. The context is current.
    ///
    /// # Errors
    /// The compiler's or the driver's words, with the unit's name.
    pub(crate) fn load(&self, driver: &Driver, units: &[&'static Unit]) -> Result<()> {
        let mut loaded = self.lock();
        let target = self.target;
        let mut missing: Vec<(&'static Unit, Option<Error>)> = Vec::new();
        for &unit in units {
            if loaded.contains_key(unit.name) {
                continue;
            }
            match prebuilt::image(unit.name, target.arch).map(|image| Module::new(driver, unit, image)) {
                Some(Ok(module)) => drop(loaded.insert(unit.name, module)),
                Some(Err(why)) => missing.push((unit, Some(why))),
                None => missing.push((unit, None)),
            }
        }
        let images: Vec<Result<Vec<u8>>> = match missing[..] {
            [] => return Ok(()),
            [(unit, _)] => vec![image(unit, target)],
            _ => std::thread::scope(|scope| {
                let at_work: Vec<_> =
                    missing.iter().map(|&(unit, _)| scope.spawn(move || image(unit, target))).collect();
                at_work.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(died()))).collect()
            }),
        };
        for ((unit, refused), image) in missing.into_iter().zip(images) {
            let image = image.map_err(|why| match refused {
                Some(refused) if matches!(why, Error::NotPresent { .. }) => refused,
                _ => why,
            })?;
            loaded.insert(unit.name, Module::new(driver, unit, &image)?);
        }
        Ok(())
    }

    /// The function of a kernel whose unit is ready, fit to be launched with this much shared memory. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn function(&self, driver: &Driver, unit: &Unit, kernel: &Kernel, shared: u32) -> Result<CUfunction> {
        let mut loaded = self.lock();
        let function = loaded
            .get_mut(unit.name)
            .and_then(|m| m.functions.get_mut(kernel.symbol))
            .ok_or_else(|| Error::internal(format!("kernel {}", kernel.symbol), "its unit is not loaded"))?;
        if shared > function.shared {
            const MOST_DYNAMIC_SHARED: c_int = 8;
            // SAFETY: the function is loaded; the attribute takes a number.
            let code = unsafe { (driver.function_set)(function.raw, MOST_DYNAMIC_SHARED, shared as c_int) };
            answered(driver, code, || format!("{shared} bytes of shared memory for {}", kernel.symbol))?;
            function.shared = shared;
        }
        Ok(function.raw)
    }

    /// Gives every unit back to the driver; the context is current, and nothing that runs uses them.
    pub(crate) fn unload(&self, driver: &Driver) {
        for (_, module) in self.lock().drain() {
            // SAFETY: loaded in this context, and not used again.
            unsafe { (driver.module_unload)(module.raw) };
        }
    }
}

fn died() -> Error {
    Error::internal("compiling kernels", "a thread ended early")
}

fn answered(driver: &Driver, code: Code, what: impl FnOnce() -> String) -> Result<()> {
    if code == SUCCESS { Ok(()) } else { Err(Error::internal(what(), driver.describe(code))) }
}

impl Module {
    fn new(driver: &Driver, unit: &'static Unit, image: &[u8]) -> Result<Module> {
        let mut log = [0u8; 4096];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER as c_int, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as c_int];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), (log.len() - 1) as *mut c_void];
        let mut raw = std::ptr::null_mut();
        // SAFETY: the image is a cubin, or a text with a zero at its end; the log holds as many bytes as is said.
        let code = unsafe {
            (driver.module_load)(&mut raw, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        if code != SUCCESS {
            let log = CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy()).unwrap_or_default();
            let why = format!("{} {}", driver.describe(code), log.trim());
            return Err(Error::internal(format!("loading unit {}", unit.name), why.trim().to_string()));
        }
        let mut module = Module { raw, functions: HashMap::new() };
        for kernel in unit.kernels {
            let name = CString::new(kernel.symbol).expect("symbols hold no zero");
            let mut raw = std::ptr::null_mut();
            // SAFETY: the module is loaded, the name ends with a zero.
            let code = unsafe { (driver.module_function)(&mut raw, module.raw, name.as_ptr()) };
            answered(driver, code, || format!("kernel {} of unit {}", kernel.symbol, unit.name))?;
            module.functions.insert(kernel.symbol, Function { raw, shared: PLAIN_SHARED });
        }
        Ok(module)
    }
}

/// The image of a unit: that of the disk, or a new one.
fn image(unit: &Unit, target: Target) -> Result<Vec<u8>> {
    let compiler = compiler()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two numbers.
    unsafe { (compiler.version)(&mut major, &mut minor) };
    let (arch, is_cubin) = arch_of(compiler, target);
    let options = [format!("--gpu-architecture={arch}"), "--std=c++17".into()];
    let mut key = cache::Key::new();
    key.part(unit.text.as_bytes());
    for (name, text) in HEADERS {
        key.part(name.as_bytes());
        key.part(text.as_bytes());
    }
    options.iter().for_each(|o| key.part(o.as_bytes()));
    key.part(format!("{major}.{minor} {} {}", target.driver, target.arch).as_bytes());
    let entry = cache::Entry::new("cuda", &key.name());
    if let Some(image) = entry.read() {
        return Ok(image);
    }
    let image = Program::new(compiler, unit)?.compile(&options, is_cubin)?;
    entry.write(&image);
    Ok(image)
}

/// What to compile for: the card itself where the compiler knows it, else the newest that it knows and that the driver can
/// translate from.
fn arch_of(compiler: &Compiler, target: Target) -> (String, bool) {
    let mut count = 0;
    // SAFETY: writes a number, and then as many as it said.
    let known = unsafe {
        (compiler.arch_count)(&mut count);
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        if !known.is_empty() {
            (compiler.archs)(known.as_mut_ptr());
        }
        known
    };
    let arch = target.arch as c_int;
    match known.iter().copied().filter(|&a| a <= arch).max() {
        Some(best) if best < arch => (format!("compute_{best}"), false),
        _ => (target.name(), true),
    }
}

/// A text on its way through the compiler.
struct Program<'a> {
    compiler: &'a Compiler,
    unit: &'a Unit,
    raw: nvrtcProgram,
}

impl<'a> Program<'a> {
    fn new(compiler: &'a Compiler, unit: &'a Unit) -> Result<Self> {
        let zero_ended = |text: &str| CString::new(text).expect("texts hold no zero");
        let (text, name) = (zero_ended(unit.text), zero_ended(&format!("{}.cu", unit.name)));
        let headers: Vec<(CString, CString)> = HEADERS.iter().map(|(n, t)| (zero_ended(n), zero_ended(t))).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut raw = std::ptr::null_mut();
        let count = headers.len() as c_int;
        // SAFETY: every text ends with a zero and outlives the call, which copies them.
        let code =
            unsafe { (compiler.create)(&mut raw, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr()) };
        if code != SUCCESS {
            return Err(Error::internal(format!("compiling unit {}", unit.name), format!("NVRTC answers {code}")));
        }
        Ok(Program { compiler, unit, raw })
    }

    fn compile(&self, options: &[String], is_cubin: bool) -> Result<Vec<u8>> {
        let options: Vec<CString> =
            options.iter().map(|o| CString::new(o.as_str()).expect("options hold no zero")).collect();
        let list: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let c = self.compiler;
        // SAFETY: the program was created; every option ends with a zero.
        let code = unsafe { (c.compile)(self.raw, list.len() as c_int, list.as_ptr()) };
        if code != SUCCESS {
            let log = self.bytes(c.log_size, c.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let why = format!("NVRTC answers {code}: {}", log.trim_end_matches('\0').trim());
            return Err(Error::internal(format!("compiling unit {}", self.unit.name), why));
        }
        let image = if is_cubin { self.bytes(c.cubin_size, c.cubin) } else { self.bytes(c.ptx_size, c.ptx) };
        let what = || format!("compiling unit {}", self.unit.name);
        image.ok_or_else(|| Error::internal(what(), "NVRTC gives no image"))
    }

    /// What the compiler has to give, by its size and its bytes.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(nvrtcProgram, *mut usize) -> Code,
        get: unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> Code,
    ) -> Option<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program was created; the second call writes as many bytes as the first one said.
        unsafe {
            if size(self.raw, &mut bytes) != SUCCESS || bytes == 0 {
                return None;
            }
            let mut out = vec![0u8; bytes];
            (get(self.raw, out.as_mut_ptr().cast()) == SUCCESS).then_some(out)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this compiler, and not used again.
        unsafe { (self.compiler.destroy)(&mut self.raw) };
    }
}
