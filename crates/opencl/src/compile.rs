//! Kernels as programs of the driver: from a binary on disk, or compiled here and now.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use opencl3::device::{
    CL_DEVICE_NAME, CL_DEVICE_OPENCL_C_VERSION, CL_DEVICE_SINGLE_FP_CONFIG, CL_DEVICE_VENDOR, CL_DEVICE_VERSION,
    CL_DRIVER_VERSION,
};
use opencl3::kernel::{create_kernel, release_kernel};
use opencl3::platform::platform::CL_PLATFORM_VERSION;
use opencl3::program::{
    CL_PROGRAM_BINARIES, CL_PROGRAM_BUILD_LOG, build_program, create_program_with_binary, create_program_with_source,
    get_program_build_data, get_program_info, release_program,
};
use opencl3::types::{cl_int, cl_kernel, cl_program};
use qiao_core::{Error, Result};
use qiao_images::{Entry, Key};
use qiao_kernels_opencl::Kernel;

use crate::context::Context;
use crate::sys::describe;

/// `CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT`.
const ROUNDS_DIVISIONS: u64 = 1 << 7;

/// The programs that plans of a device asked for so far, by symbol.
#[derive(Default)]
pub(crate) struct Programs {
    built: Mutex<HashMap<&'static str, Program>>,
}

/// A program that was built.
struct Program(cl_program);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Program {}

/// A kernel whose arguments are set by one thread at a time.
pub(crate) struct Function {
    pub(crate) raw: cl_kernel,
    pub(crate) symbol: &'static str,
    /// Work-items of a group.
    pub(crate) items: usize,
}

// SAFETY: a handle of the driver, which any thread may use, one at a time.
unsafe impl Send for Function {}

impl Programs {
    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Program>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kernel of its own for whoever asks, built if it is the first of its symbol.
    ///
    /// # Errors
    /// The compiler's words, with the kernel's name.
    pub(crate) fn function(&self, context: &Context, kernel: &'static Kernel) -> Result<Function> {
        let mut built = self.lock();
        if !built.contains_key(kernel.symbol) {
            built.insert(kernel.symbol, Program::new(context, kernel)?);
        }
        let raw = create_kernel(built[kernel.symbol].0, c"run");
        let raw = context.check(&format!("making kernel {}", kernel.symbol), raw)?;
        Ok(Function { raw, symbol: kernel.symbol, items: context.tuning.items(kernel) as usize })
    }

    /// Gives every program back.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

/// The language in which a device has what its extensions offer.
fn newest(version: &str) -> &'static str {
    match version.strip_prefix("OpenCL C ").and_then(|v| v.chars().next()) {
        Some('0'..='1') | None => "CL1.2",
        Some('2') => "CL2.0",
        Some(_) => "CL3.0",
    }
}

/// What the compiler is told.
fn options(context: &Context, kernel: &Kernel) -> String {
    let rounds = context.found.number(CL_DEVICE_SINGLE_FP_CONFIG) & ROUNDS_DIVISIONS != 0;
    let division = if rounds { " -cl-fp32-correctly-rounded-divide-sqrt" } else { "" };
    let (group, processor) = (context.tuning.items(kernel), u8::from(context.tuning.is_processor));
    let sizes = kernel.sizes.iter().map(|&size| format!(" -D{}={}", size.define(), context.tuning.size(size)));
    let sizes: String = sizes.collect();
    let paths = context.paths.defines();
    let language = if paths.is_empty() { "CL1.2" } else { newest(&context.found.text(CL_DEVICE_OPENCL_C_VERSION)) };
    format!("-cl-std={language}{division} -DGROUP={group} -DPROCESSOR={processor}{sizes}{paths} {}", kernel.options)
}

/// Where the binary of a text lies, if any is kept.
fn entry(context: &Context, source: &str, options: &str) -> Option<Entry> {
    if std::env::var("QIAO_OPENCL_BINARIES").is_ok_and(|v| v == "0") {
        return None;
    }
    let mut key = Key::new();
    key.part(source.as_bytes());
    key.part(options.as_bytes());
    for question in [CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION] {
        key.part(context.found.text(question).as_bytes());
    }
    key.part(context.found.platform_text(CL_PLATFORM_VERSION).as_bytes());
    Some(Entry::new("opencl", &key.name()))
}

impl Program {
    fn new(context: &Context, kernel: &Kernel) -> Result<Program> {
        let (source, options) = (kernel.source(), options(context, kernel));
        let entry = entry(context, &source, &options);
        let options = CString::new(options).expect("options hold no zero");
        if let Some(binary) = entry.as_ref().and_then(Entry::read) {
            // One that this driver does not take is made again.
            // SAFETY: the device is that of the context.
            let program = unsafe { create_program_with_binary(context.raw, &[context.found.device.0], &[&binary]) };
            if let Ok(program) = program.map(Program)
                && program.build(context, &options).is_ok()
            {
                return Ok(program);
            }
        }
        let what = || format!("compiling kernel {}", kernel.symbol);
        let program = create_program_with_source(context.raw, &[&source]);
        let program = Program(context.check(&what(), program)?);
        if let Err(code) = program.build(context, &options) {
            let log = get_program_build_data(program.0, context.found.device.0, CL_PROGRAM_BUILD_LOG);
            let log = log.unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let why = format!("{}: {}", describe(code), log.trim_end_matches('\0').trim());
            return Err(Error::internal(format!("{} on {}", what(), context.name), why));
        }
        if let Some(entry) = entry
            && let Some(binary) = program.binary()
        {
            entry.write(&binary);
        }
        Ok(program)
    }

    fn build(&self, context: &Context, options: &std::ffi::CStr) -> std::result::Result<(), cl_int> {
        build_program(self.0, &[context.found.device.0], options, None, std::ptr::null_mut())
    }

    /// What the driver made of it; nothing where it does not say.
    fn binary(&self) -> Option<Vec<u8>> {
        let all = get_program_info(self.0, CL_PROGRAM_BINARIES).ok()?.to_vec_vec_uchar();
        all.into_iter().next().filter(|b| !b.is_empty())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: released once; kernels made from it keep it.
        unsafe { release_program(self.0) }.ok();
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: released once; the driver keeps it until what was queued with it is done.
        unsafe { release_kernel(self.raw) }.ok();
    }
}
