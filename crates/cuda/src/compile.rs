//! Units as images that the driver loads: built in, kept on disk, or compiled here and now.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qiao_core::{Error, Result};
use qiao_images as cache;
use qiao_kernels_cuda::{HEADERS, Kernel, Unit};

use crate::prebuilt;
use crate::rtc::compiler;
use crate::sys::{CUfunction, CUmodule, Code, Driver, SUCCESS};

/// Bytes of dynamic shared memory that a function may have without being asked for more.
const PLAIN_SHARED: u32 = 48 << 10;

/// What images depend on beside the text: the card and its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The architecture's number: for CUDA's cards ten times the major number of their compute capability plus the minor.
    pub(crate) arch: u32,
    /// The architecture in the words of the compiler.
    pub(crate) name: String,
    /// The driver's version, as it says it.
    pub(crate) driver: i32,
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
        let (target, row) = (&self.target, driver.row);
        let mut missing: Vec<(&'static Unit, Option<Error>)> = Vec::new();
        for &unit in units {
            if loaded.contains_key(unit.name) {
                continue;
            }
            let built_in = prebuilt::image(unit.name, target.arch).filter(|_| row.prebuilt);
            match built_in.map(|image| Module::new(driver, unit, image, "nvcc, when this was built")) {
                Some(Ok(module)) => drop(loaded.insert(unit.name, module)),
                Some(Err(why)) => missing.push((unit, Some(why))),
                None => missing.push((unit, None)),
            }
        }
        let images: Vec<Result<Vec<u8>>> = match missing[..] {
            [] => return Ok(()),
            [(unit, _)] => vec![image(driver, unit, target)],
            _ => std::thread::scope(|scope| {
                let at_work: Vec<_> =
                    missing.iter().map(|&(unit, _)| scope.spawn(move || image(driver, unit, target))).collect();
                at_work.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(died()))).collect()
            }),
        };
        for ((unit, refused), image) in missing.into_iter().zip(images) {
            let image = image.map_err(|why| match refused {
                Some(refused) if matches!(why, Error::NotPresent { .. }) => refused,
                _ => why,
            })?;
            let maker = format!("{} for {}", compiler(row)?.version(), row.stack.version(target.driver));
            loaded.insert(unit.name, Module::new(driver, unit, &image, &maker)?);
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
        if let Some(set) = driver.function_set.filter(|_| shared > function.shared) {
            const MOST_DYNAMIC_SHARED: c_int = 8;
            // SAFETY: the function is loaded; the attribute takes a number.
            let code = unsafe { set(function.raw, MOST_DYNAMIC_SHARED, shared as c_int) };
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
    /// A unit's image on the card; `maker` is what compiled it, for errors.
    fn new(driver: &Driver, unit: &'static Unit, image: &[u8], maker: &str) -> Result<Module> {
        // SAFETY: the image is what the vendor's compiler made, or a text with a zero at its end.
        let raw = unsafe { driver.load(image) }.map_err(|(code, log)| {
            let why = format!("{} {log}", driver.describe(code));
            Error::internal(format!("loading unit {}, compiled by {maker}", unit.name), why.trim().to_string())
        })?;
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
fn image(driver: &Driver, unit: &Unit, target: &Target) -> Result<Vec<u8>> {
    let compiler = compiler(driver.row)?;
    let job = compiler.job(target);
    let mut key = cache::Key::new();
    key.part(unit.text.as_bytes());
    for (name, text) in HEADERS {
        key.part(name.as_bytes());
        key.part(text.as_bytes());
    }
    job.options.iter().for_each(|o| key.part(o.as_bytes()));
    key.part(format!("{} {} {}", compiler.version(), target.driver, target.name).as_bytes());
    let entry = cache::Entry::new(driver.row.name, &key.name());
    if let Some(image) = entry.read() {
        return Ok(image);
    }
    let image = compiler.compile(unit, &job)?;
    entry.write(&image);
    Ok(image)
}
