//! Moore Threads: MUSA.
//!
//! Sources: notes of a port of tinygrad, measured on an MTT S4000 with MUSA 3.1 (names are CUDA's with `mu` for `cu`, `_v2`
//! and all; `libmusa.so`; warps of 128 lanes on mp_22; 72 KiB of shared memory); ollama-musa's header (codes 1, 2, 3, 35, 100,
//! 803, 999; attributes 18, 75, 76); torch_musa (warps of 128 lanes up to mp_22; `--offload-arch=mp_NN`); code for `__MUSA_ARCH__`
//! 310 (warps of 32 there); Moore Threads' documentation of MTRTC (`libmtrtc.so`, `mtrtcGetFatBin`).
//!
//! Not public, and taken to be as CUDA has it: every other number and code; whether subnormals are kept without the option that
//! flushes them. `musa.h` itself was not read by anybody who wrote this.

use super::{Arch, Attributes, Codes, Compiling, Row, Shared, Stack};
use crate::library::Installed;
use crate::sys::{CompilerNames, Names};

const HOMES: &[&str] = &["MUSA_HOME", "MUSA_PATH"];
const FOLDERS: &[&str] = &["/usr/local/musa/lib"];

pub(super) static ROW: Row = Row {
    name: "musa",
    maker: "Moore Threads",
    // How the number is made up is not public.
    stack: Stack { name: "MUSA", version: (0, 0), bounds: false },
    driver: Installed {
        what: "libmusa",
        // Versioned names: FlagScale's containers mount one file as `.so.1` and `.so.4`.
        files: &["libmusa.so", "libmusa.so.1", "libmusa.so.4"],
        homes: HOMES,
        folders: FOLDERS,
        loader_first: false,
        beside: "",
        mend: "install the Moore Threads driver and the MUSA toolkit",
    },
    calls: CALLS,
    codes: CODES,
    attributes: Attributes {
        capability: [Some(75), Some(76)],
        processors: Some(16),
        warp: Some(10),
        memory: [Some(36), Some(37)],
    },
    // mp_21 MTT S80 and S3000, mp_22 S4000, mp_31 S5000.
    arch: Arch::Capability { prefix: "mp_", oldest: 21, exactly: &[] },
    warps: &[32, 128],
    // MAX_SHARED_MEMORY_PER_BLOCK.
    shared: Shared::Attribute(8),
    compiler: Compiling::Library {
        library: Installed {
            what: "MTRTC",
            files: &["libmtrtc.so", "libmtrtc.so.5"],
            homes: HOMES,
            folders: FOLDERS,
            loader_first: false,
            beside: "",
            mend: "it compiles the kernels: install the MUSA toolkit",
        },
        calls: &MTRTC,
        // mcc's own options; that MTRTC takes them is assumed.
        options: &["--offload-arch={arch}", "-std=c++17"],
    },
    // muBLASLt is there (Moore Threads' list of libraries); that it has cuBLASLt's interface is not public.
    blas: None,
    // MTT S80 has none ("won't fix", torch_musa#122); from mp_22 on.
    bf16_from: 22,
    // -fmusa-flush-denormals-to-zero asks for it; what is done without is not public.
    flush_subnormals: true,
    prebuilt: false,
};

/// CUDA's, of which 2, 100 and 999 are public.
const CODES: Codes = super::cuda::CODES;

const CALLS: Names = Names {
    init: "muInit",
    version: "muDriverGetVersion",
    device_count: "muDeviceGetCount",
    device: "muDeviceGet",
    device_name: "muDeviceGetName",
    device_attribute: "muDeviceGetAttribute",
    device_memory: "muDeviceTotalMem_v2|muDeviceTotalMem",
    context_retain: "muDevicePrimaryCtxRetain",
    context_get: "muCtxGetCurrent",
    context_set: "muCtxSetCurrent",
    memory_info: "muMemGetInfo_v2|muMemGetInfo",
    alloc: "muMemAlloc_v2|muMemAlloc",
    free: "muMemFree_v2|muMemFree",
    host_alloc: "muMemHostAlloc",
    host_free: "muMemFreeHost",
    upload: "muMemcpyHtoDAsync_v2|muMemcpyHtoDAsync",
    download: "muMemcpyDtoHAsync_v2|muMemcpyDtoHAsync",
    copy: "muMemcpyDtoDAsync_v2|muMemcpyDtoDAsync",
    set_bytes: "muMemsetD8Async",
    stream_create: "muStreamCreate",
    stream_destroy: "muStreamDestroy_v2|muStreamDestroy",
    stream_query: "muStreamQuery",
    stream_wait: "muStreamWaitEvent",
    event_create: "muEventCreate",
    event_destroy: "muEventDestroy_v2|muEventDestroy",
    event_record: "muEventRecord",
    event_query: "muEventQuery",
    event_elapsed: "muEventElapsedTime",
    module_unload: "muModuleUnload",
    module_function: "muModuleGetFunction",
    launch: "muLaunchKernel",
    launch_with: "",
    pci_bus_id: "muDeviceGetPCIBusId",
    properties: "",
    context_release: "muDevicePrimaryCtxRelease_v2|muDevicePrimaryCtxRelease",
    error_name: "muGetErrorName",
    error_text: "muGetErrorString",
    error_name_of: "",
    error_text_of: "",
    module_load: "muModuleLoadDataEx",
    module_load_plainly: "muModuleLoadData",
    function_set: "muFuncSetAttribute",
    capture_begin: "muStreamBeginCapture_v2|muStreamBeginCapture",
    capture_end: "muStreamEndCapture",
    graph_instantiate: "muGraphInstantiateWithFlags",
    graph_instantiate_with_log: "",
    graph_launch: "muGraphLaunch",
    graph_exec_destroy: "muGraphExecDestroy",
    graph_destroy: "muGraphDestroy",
};

const MTRTC: CompilerNames = CompilerNames {
    version: "mtrtcVersion",
    create: "mtrtcCreateProgram",
    compile: "mtrtcCompileProgram",
    destroy: "mtrtcDestroyProgram",
    log_size: "mtrtcGetProgramLogSize",
    log: "mtrtcGetProgramLog",
    // What Paddle's sources for MUSA call mtrtcGetMUSA is mtrtcGetFatBin in the documentation.
    image_size: "mtrtcGetFatBinSize|mtrtcGetMUSASize",
    image: "mtrtcGetFatBin|mtrtcGetMUSA",
    arch_count: "",
    archs: "",
    ptx_size: "",
    ptx: "",
};
