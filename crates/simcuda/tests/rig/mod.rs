//! A card with the test's own kernels, driven as a backend drives it: through `cudarc`.
#![allow(dead_code, reason = "each test uses a part")]

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::{result, sys};
use cudarc::nvrtc;
use qiao_kernels_cuda::{HEADERS, Kernel, Unit};
use qiao_simcuda::Card;

pub(crate) const UNIT: Unit = Unit {
    name: "rig",
    text: include_str!("../text/rig.cu"),
    kernels: &[
        row("add_one", 256, "ppu"),
        row("turn_round", 256, "pp"),
        row("lanes", 96, "pp"),
        row("letters", 32, "psiulf"),
        row("mma_of_f16", 64, "ppp"),
        row("mma_of_bf16", 64, "ppp"),
        row("mma_of_i8", 64, "ppp"),
        row("mma_of_e4m3", 64, "ppp"),
        row("matrices", 32, "ppp"),
        row("copies", 32, "pp"),
        row("to_f16", 32, "ppu"),
        row("of_f16", 32, "ppu"),
        row("to_bf16", 32, "ppu"),
        row("of_bf16", 32, "ppu"),
        row("to_e4m3", 32, "ppu"),
        row("of_e4m3", 32, "ppu"),
        row("to_e5m2", 32, "ppu"),
        row("of_e5m2", 32, "ppu"),
        row("to_i8", 32, "ppu"),
        row("of_i8", 32, "ppu"),
        row("to_u8", 32, "ppu"),
        row("of_u8", 32, "ppu"),
        row("half_at_a_shuffle", 64, "p"),
        row("some_end_before_a_shuffle", 64, "p"),
        row("some_end_before_a_barrier", 64, "p"),
        row("no_wait", 32, "pp"),
        row("beyond_shared", 32, "p"),
        row("much_shared", 32, "p"),
        row("beyond", 32, "pu"),
        row("through_null", 32, "p"),
        row("unwritten", 32, "pp"),
        row("deep", 32, "p"),
        row("last_block", 64, "pp"),
    ],
};

const fn row(symbol: &'static str, threads: u32, params: &'static str) -> Kernel {
    Kernel { symbol, threads, params }
}

pub(crate) type Code = sys::CUresult;

pub(crate) fn card() -> &'static Card {
    qiao_simcuda::install_with(&[&UNIT])
}

/// A context of device 0, current on this thread.
pub(crate) struct Context(i32);

impl Context {
    pub(crate) fn new() -> Self {
        card();
        result::init().unwrap();
        let device = result::device::get(0).unwrap();
        // SAFETY: the device exists; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.unwrap();
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(context) }.unwrap();
        Context(device)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was retained once for this.
        let _ = unsafe { result::primary_ctx::release(self.0) };
    }
}

/// Device memory that holds elements.
pub(crate) struct Memory<T> {
    pub(crate) at: sys::CUdeviceptr,
    pub(crate) len: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Copy + Default> Memory<T> {
    pub(crate) fn empty(len: usize) -> Self {
        // SAFETY: the memory is only used through calls of the driver.
        let at = unsafe { result::malloc_sync(len * size_of::<T>()) }.unwrap();
        Memory { at, len, kind: std::marker::PhantomData }
    }

    pub(crate) fn of(values: &[T]) -> Self {
        let memory = Memory::empty(values.len());
        // SAFETY: the memory holds as many elements.
        unsafe { result::memcpy_htod_sync(memory.at, values) }.unwrap();
        memory
    }

    pub(crate) fn read(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.len];
        // SAFETY: the memory holds as many elements.
        unsafe { result::memcpy_dtoh_sync(&mut values, self.at) }.unwrap();
        values
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: the memory is freed once. A broken context refuses, which a test has seen already.
        let _ = unsafe { result::free_sync(self.at) };
    }
}

/// The rig's kernels, compiled and loaded.
pub(crate) struct Module(sys::CUmodule);

impl Module {
    pub(crate) fn new() -> Self {
        let image = compile(UNIT.text, "--gpu-architecture=sm_90a").unwrap();
        // SAFETY: the image is the compiler's.
        Module(unsafe { result::module::load_data(image.as_ptr().cast()) }.unwrap())
    }

    pub(crate) fn function(&self, name: &str) -> sys::CUfunction {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.0, CString::new(name).unwrap()) }.unwrap()
    }

    /// Launches on a stream; each parameter is the bytes of a value.
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: (u32, u32, u32),
        threads: u32,
        shared: u32,
        stream: sys::CUstream,
        params: &mut [*mut c_void],
    ) -> Result<(), Code> {
        let function = self.function(name);
        // SAFETY: the parameters are those of the kernel's row.
        let done = unsafe { result::launch_kernel(function, grid, (threads, 1, 1), shared, stream, params) };
        done.map_err(|e| e.0)
    }

    /// Launches blocks along x on the null stream and waits.
    pub(crate) fn run(&self, name: &str, blocks: u32, params: &mut [*mut c_void]) -> Result<(), Code> {
        let threads = UNIT.kernels.iter().find(|k| k.symbol == name).unwrap().threads;
        self.launch(name, (blocks, 1, 1), threads, 0, null_mut(), params)?;
        result::ctx::synchronize().map_err(|e| e.0)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the module is loaded.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

/// The cubin of a text, or the compiler's words.
pub(crate) fn compile(text: &str, option: &str) -> Result<Vec<u8>, String> {
    let words = |s: &str| CString::new(s).unwrap();
    let (text, name, option) = (words(text), words("rig.cu"), words(option));
    let headers: Vec<CString> = HEADERS.iter().map(|(_, text)| words(text)).collect();
    let names: Vec<CString> = HEADERS.iter().map(|(name, _)| words(name)).collect();
    let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let mut program = null_mut();
    let (headers, names) = (pointers(&headers), pointers(&names));
    // SAFETY: all strings live until the program is destroyed.
    unsafe {
        let count = headers.len() as i32;
        let made = nvrtc::sys::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            name.as_ptr(),
            count,
            headers.as_ptr(),
            names.as_ptr(),
        );
        made.result().unwrap();
        let compiled = nvrtc::sys::nvrtcCompileProgram(program, 1, [option.as_ptr()].as_ptr()).result();
        let mut bytes = 0;
        if compiled.is_err() {
            let log = nvrtc::result::get_program_log(program).unwrap();
            let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
            nvrtc::sys::nvrtcDestroyProgram(&mut program).result().unwrap();
            return Err(log);
        }
        nvrtc::sys::nvrtcGetCUBINSize(program, &mut bytes).result().unwrap();
        let mut image = vec![0u8; bytes];
        nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().unwrap();
        nvrtc::sys::nvrtcDestroyProgram(&mut program).result().unwrap();
        Ok(image)
    }
}

/// The address of a value, as a launch wants it.
pub(crate) fn param<T>(value: &mut T) -> *mut c_void {
    (value as *mut T).cast()
}

/// The parameters of a launch from values that live around it.
#[macro_export]
macro_rules! params {
    ($($value:expr),*) => { &mut [$($crate::rig::param(&mut $value.clone())),*] };
}
