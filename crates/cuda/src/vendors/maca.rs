//! MetaX: MACA, whose run-time library has driver calls, run-time calls and the compiler in one.
//!
//! Sources: MetaX's public repositories (mcTVM, its samples with `mcrtc_helper.h`), tilelang-metax, FlagGems' and FlagCX's
//! adaptors, InfiniTensor's Rust bindings (`mxdrv`), DeepJIT's notes on MACA 3.7, a Cython header of `mcr/maca.h` (codes).
//! Names follow HIP's more than CUDA's: `mcMalloc`, `mcMallocHost`, `mcEventCreateWithFlags`, words as answers.
//!
//! Attributes were renumbered between releases: 75 and 76 were seen for the capability with the headers of 3.5.3, where the
//! Cython header of an older one has 21 and 22. 16 (processors) and 10 (lanes of a wave) are the same in both; those that are not
//! are left out.

use super::{Arch, Attributes, Codes, Compiling, Row, Shared, Stack};
use crate::library::Installed;
use crate::sys::{CompilerNames, Names};

/// One library for all. Its CUDA-named bridge, `libruntime_cu.so`, is not opened.
const FILES: &[&str] = &["libmcruntime.so"];
const HOMES: &[&str] = &["MACA_PATH", "MACA_HOME"];
const FOLDERS: &[&str] = &["/opt/maca/lib"];

pub(super) static ROW: Row = Row {
    name: "maca",
    maker: "MetaX",
    // How the number is made up is not public.
    stack: Stack { name: "MACA", version: (0, 0), bounds: false },
    driver: Installed {
        what: "libmcruntime",
        files: FILES,
        homes: HOMES,
        folders: FOLDERS,
        loader_first: false,
        beside: "",
        mend: "install MACA and its driver, and name its folder in MACA_PATH",
    },
    calls: CALLS,
    codes: CODES,
    attributes: Attributes {
        capability: [Some(75), Some(76)],
        processors: Some(16),
        warp: Some(10),
        memory: [None, None],
    },
    // (10, 0) is xcore1000, C500's; (10, 2) is xcore1002.
    arch: Arch::Hundreds { prefix: "xcore", otherwise: "maca" },
    warps: &[64],
    // The launch itself holds blocks to 64 KiB, and nothing has to be asked for before.
    shared: Shared::Bytes(64 << 10),
    compiler: Compiling::Library {
        library: Installed {
            what: "mcRTC",
            files: FILES,
            homes: HOMES,
            folders: FOLDERS,
            loader_first: false,
            beside: "",
            mend: "it compiles the kernels: install MACA",
        },
        calls: &MCRTC,
        // What comes out is LLVM's bitcode, which the driver makes code of its card from.
        options: &["-std=c++17"],
    },
    // mcBLASLt is not known to have cuBLASLt's interface under another name.
    blas: None,
    // Every card that is sold: C500, C550.
    bf16_from: 0,
    // Not public.
    flush_subnormals: true,
    prebuilt: false,
};

/// mcError_t: CUDA's, and from 10 000 on those of the layers below, of which 10007 is out of memory; 10001, 10002, 10028, 10030
/// and 10032 are a driver or a card that was reset, and a kernel that took too long.
const CODES: Codes = Codes {
    out_of_memory: &[2, 10007],
    not_ready: &[600],
    no_device: &[100, 101, 2001],
    stub: &[34],
    lost: &[
        4, 46, 201, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 911, 999, 10001, 10002, 10028, 10030,
        10032,
    ],
};

const CALLS: Names = Names {
    init: "mcInit",
    version: "mcDriverGetVersion",
    device_count: "mcGetDeviceCount",
    device: "mcDeviceGet",
    device_name: "mcDeviceGetName",
    device_attribute: "mcDeviceGetAttribute",
    device_memory: "mcDeviceTotalMem",
    context_retain: "mcDevicePrimaryCtxRetain",
    context_get: "mcCtxGetCurrent",
    context_set: "mcCtxSetCurrent",
    memory_info: "mcMemGetInfo",
    alloc: "mcMalloc",
    free: "mcFree",
    host_alloc: "mcMallocHost",
    host_free: "mcFreeHost",
    upload: "mcMemcpyHtoDAsync",
    download: "mcMemcpyDtoHAsync",
    copy: "mcMemcpyDtoDAsync",
    set_bytes: "mcMemsetAsync",
    stream_create: "mcStreamCreateWithFlags",
    stream_destroy: "mcStreamDestroy",
    stream_query: "mcStreamQuery",
    stream_wait: "mcStreamWaitEvent",
    event_create: "mcEventCreateWithFlags",
    event_destroy: "mcEventDestroy",
    event_record: "mcEventRecord",
    event_query: "mcEventQuery",
    event_elapsed: "mcEventElapsedTime",
    module_unload: "mcModuleUnload",
    module_function: "mcModuleGetFunction",
    launch: "mcModuleLaunchKernel",
    launch_with: "",
    pci_bus_id: "mcDeviceGetPCIBusId",
    properties: "",
    // The bindings say that the documentation has it and the interface has not.
    context_release: "mcDevicePrimaryCtxRelease",
    error_name: "",
    error_text: "",
    error_name_of: "mcGetErrorName",
    error_text_of: "mcGetErrorString",
    module_load: "",
    module_load_plainly: "mcModuleLoadData",
    // It takes the host's address of a kernel, which kernels of a module have not.
    function_set: "",
    capture_begin: "mcStreamBeginCapture",
    capture_end: "mcStreamEndCapture",
    graph_instantiate: "",
    graph_instantiate_with_log: "mcGraphInstantiate",
    graph_launch: "mcGraphLaunch",
    graph_exec_destroy: "mcGraphExecDestroy",
    graph_destroy: "mcGraphDestroy",
};

const MCRTC: CompilerNames = CompilerNames {
    version: "mcrtcVersion",
    create: "mcrtcCreateProgram",
    compile: "mcrtcCompileProgram",
    destroy: "mcrtcDestroyProgram",
    log_size: "mcrtcGetProgramLogSize",
    log: "mcrtcGetProgramLog",
    image_size: "mcrtcGetBitcodeSize|mcrtcGetCodeSize",
    image: "mcrtcGetBitcode|mcrtcGetCode",
    arch_count: "",
    archs: "",
    ptx_size: "",
    ptx: "",
};
