//! The driver and the run-time compiler as tables of functions, opened where they are on this machine.
//!
//! cudarc finds the libraries and names their types. The functions are looked up here one by one before the first call, so
//! that a library that is missing, or too old to have one of them, is an error and no panic, and so that a code that a newer
//! driver answers is a number like any other.
#![allow(non_snake_case, reason = "functions are named as the driver names them")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use cudarc::nvrtc::sys as rtc;
use qiao_core::{Error, Result};

pub(crate) use cu::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream};
pub(crate) use rtc::nvrtcProgram;

/// What a call to the driver answers.
pub(crate) type Code = u32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const OUT_OF_MEMORY: Code = 2;
const DEINITIALIZED: Code = 4;
const STUB_LIBRARY: Code = 34;
const NO_DEVICE: Code = 100;
pub(crate) const NOT_READY: Code = 600;

/// Codes after which nothing more can be done in the context: what a kernel did, or what befell the card.
const STICKY: [Code; 18] =
    [DEINITIALIZED, 46, 201, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 911, 999];

macro_rules! table {
    ($(#[$doc:meta])* $table:ident from $library:path: $($name:ident = $symbol:literal ($($arg:ty),*);)*) => {
        $(#[$doc])*
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> Code,)*
        }

        impl $table {
            /// Looks up every function of a library that is there.
            fn load() -> Result<Self, &'static str> {
                // SAFETY: the library is there, as the caller asked, and stays open; the types are those of its headers.
                unsafe {
                    Ok($table {
                        $($name: *$library()
                            .get::<unsafe extern "C" fn($($arg),*) -> Code>($symbol.as_bytes())
                            .map_err(|_| $symbol)?,)*
                    })
                }
            }
        }
    };
}

table! {
    /// The functions of the driver that are used.
    Driver from cu::culib:
    init = "cuInit" (c_uint);
    version = "cuDriverGetVersion" (*mut c_int);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut CUdevice, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    device_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, CUdevice);
    device_memory = "cuDeviceTotalMem_v2" (*mut usize, CUdevice);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut CUcontext, CUdevice);
    context_release = "cuDevicePrimaryCtxRelease_v2" (CUdevice);
    context_get = "cuCtxGetCurrent" (*mut CUcontext);
    context_set = "cuCtxSetCurrent" (CUcontext);
    error_name = "cuGetErrorName" (Code, *mut *const c_char);
    error_text = "cuGetErrorString" (Code, *mut *const c_char);
    memory_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    alloc = "cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    free = "cuMemFree_v2" (CUdeviceptr);
    host_alloc = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    host_free = "cuMemFreeHost" (*mut c_void);
    upload = "cuMemcpyHtoDAsync_v2" (CUdeviceptr, *const c_void, usize, CUstream);
    download = "cuMemcpyDtoHAsync_v2" (*mut c_void, CUdeviceptr, usize, CUstream);
    copy = "cuMemcpyDtoDAsync_v2" (CUdeviceptr, CUdeviceptr, usize, CUstream);
    set_bytes = "cuMemsetD8Async" (CUdeviceptr, u8, usize, CUstream);
    stream_create = "cuStreamCreate" (*mut CUstream, c_uint);
    stream_destroy = "cuStreamDestroy_v2" (CUstream);
    stream_query = "cuStreamQuery" (CUstream);
    stream_wait = "cuStreamWaitEvent" (CUstream, CUevent, c_uint);
    capture_begin = "cuStreamBeginCapture_v2" (CUstream, c_int);
    capture_end = "cuStreamEndCapture" (CUstream, *mut CUgraph);
    graph_instantiate = "cuGraphInstantiateWithFlags" (*mut CUgraphExec, CUgraph, u64);
    graph_launch = "cuGraphLaunch" (CUgraphExec, CUstream);
    graph_exec_destroy = "cuGraphExecDestroy" (CUgraphExec);
    graph_destroy = "cuGraphDestroy" (CUgraph);
    event_create = "cuEventCreate" (*mut CUevent, c_uint);
    event_destroy = "cuEventDestroy_v2" (CUevent);
    event_record = "cuEventRecord" (CUevent, CUstream);
    event_query = "cuEventQuery" (CUevent);
    event_elapsed = "cuEventElapsedTime" (*mut f32, CUevent, CUevent);
    module_load = "cuModuleLoadDataEx" (*mut CUmodule, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_unload = "cuModuleUnload" (CUmodule);
    module_function = "cuModuleGetFunction" (*mut CUfunction, CUmodule, *const c_char);
    function_set = "cuFuncSetAttribute" (CUfunction, c_int, c_int);
    launch = "cuLaunchKernel" (
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void
    );
}

table! {
    /// The functions of the run-time compiler that are used.
    Compiler from rtc::culib:
    version = "nvrtcVersion" (*mut c_int, *mut c_int);
    arch_count = "nvrtcGetNumSupportedArchs" (*mut c_int);
    archs = "nvrtcGetSupportedArchs" (*mut c_int);
    create = "nvrtcCreateProgram" (
        *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    compile = "nvrtcCompileProgram" (nvrtcProgram, c_int, *const *const c_char);
    destroy = "nvrtcDestroyProgram" (*mut nvrtcProgram);
    log_size = "nvrtcGetProgramLogSize" (nvrtcProgram, *mut usize);
    log = "nvrtcGetProgramLog" (nvrtcProgram, *mut c_char);
    cubin_size = "nvrtcGetCUBINSize" (nvrtcProgram, *mut usize);
    cubin = "nvrtcGetCUBIN" (nvrtcProgram, *mut c_char);
    ptx_size = "nvrtcGetPTXSize" (nvrtcProgram, *mut usize);
    ptx = "nvrtcGetPTX" (nvrtcProgram, *mut c_char);
}

table! {
    /// The functions of cuBLASLt that are used.
    Blas from lt::culib:
    create = "cublasLtCreate" (*mut lt::cublasLtHandle_t);
    destroy = "cublasLtDestroy" (lt::cublasLtHandle_t);
    product_create = "cublasLtMatmulDescCreate" (*mut lt::cublasLtMatmulDesc_t, c_uint, c_uint);
    product_set = "cublasLtMatmulDescSetAttribute" (lt::cublasLtMatmulDesc_t, c_uint, *const c_void, usize);
    product_destroy = "cublasLtMatmulDescDestroy" (lt::cublasLtMatmulDesc_t);
    layout_create = "cublasLtMatrixLayoutCreate" (*mut lt::cublasLtMatrixLayout_t, c_uint, u64, u64, i64);
    layout_destroy = "cublasLtMatrixLayoutDestroy" (lt::cublasLtMatrixLayout_t);
    preference_create = "cublasLtMatmulPreferenceCreate" (*mut lt::cublasLtMatmulPreference_t);
    preference_set = "cublasLtMatmulPreferenceSetAttribute" (
        lt::cublasLtMatmulPreference_t, c_uint, *const c_void, usize
    );
    preference_destroy = "cublasLtMatmulPreferenceDestroy" (lt::cublasLtMatmulPreference_t);
    heuristic = "cublasLtMatmulAlgoGetHeuristic" (
        lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int, *mut c_void,
        *mut c_int
    );
    matmul = "cublasLtMatmul" (
        lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
        *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
        *mut c_void, lt::cublasLtMatrixLayout_t, *const c_void, *mut c_void, usize, CUstream
    );
}

/// cuBLASLt, where it is on this machine with all that is used of it.
pub(crate) fn blas() -> Option<&'static Blas> {
    static FOUND: OnceLock<Blas> = OnceLock::new();
    if let Some(blas) = FOUND.get() {
        return Some(blas);
    }
    // SAFETY: only opens the library and closes it again.
    if !unsafe { lt::is_culib_present() } {
        return None;
    }
    let blas = Blas::load().ok()?;
    Some(FOUND.get_or_init(|| blas))
}

/// The driver, initialised. One that is not there may be there later, so only what was found is kept.
///
/// # Errors
/// [`Error::NotPresent`]: no driver, one that is too old, no card.
pub(crate) fn driver() -> Result<&'static Driver> {
    static FOUND: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = FOUND.get() {
        return Ok(driver);
    }
    let absent = |why: String| Error::not_present("cuda", why);
    // SAFETY: only opens the library and closes it again.
    if !unsafe { cu::is_culib_present() } {
        return Err(absent("libcuda was not found: install the NVIDIA driver".into()));
    }
    let driver = Driver::load()
        .map_err(|symbol| absent(format!("its driver has no {symbol}: install one for CUDA 12.0 or newer")))?;
    // SAFETY: needs nothing.
    match unsafe { (driver.init)(0) } {
        SUCCESS => Ok(FOUND.get_or_init(|| driver)),
        NO_DEVICE => Err(absent("the driver finds no card".into())),
        STUB_LIBRARY => Err(absent("libcuda is a stub to link with: install the NVIDIA driver".into())),
        code => Err(absent(format!("the driver does not start: {}", driver.describe(code)))),
    }
}

/// The run-time compiler.
///
/// # Errors
/// [`Error::NotPresent`]: it is not there, or is too old.
pub(crate) fn compiler() -> Result<&'static Compiler> {
    static FOUND: OnceLock<Compiler> = OnceLock::new();
    if let Some(compiler) = FOUND.get() {
        return Ok(compiler);
    }
    let absent = |why: String| Error::not_present("cuda", why);
    // SAFETY: only opens the library and closes it again.
    if !unsafe { rtc::is_culib_present() } {
        return Err(absent(
            "libnvrtc, which compiles the kernels, was not found: install that of CUDA 12 or 13".into(),
        ));
    }
    let compiler = Compiler::load()
        .map_err(|symbol| absent(format!("its NVRTC has no {symbol}: install one of CUDA 12.0 or newer")))?;
    Ok(FOUND.get_or_init(|| compiler))
}

impl Driver {
    /// A code in the driver's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        let word = |of: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes the address of a text of its own, or null.
            unsafe {
                (of)(code, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        match (word(self.error_name), word(self.error_text)) {
            (Some(name), Some(text)) => format!("{text} ({name}, {code})"),
            _ => format!("code {code}"),
        }
    }
}

/// Whether the context is lost after this code.
pub(crate) fn is_sticky(code: Code) -> bool {
    STICKY.contains(&code)
}
