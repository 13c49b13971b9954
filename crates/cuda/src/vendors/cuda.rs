//! NVIDIA: the driver, NVRTC and cuBLASLt of CUDA 12 and 13. Source of all: NVIDIA's headers (cuda.h, nvrtc.h, cublasLt.h) and
//! their documentation.

use super::{Arch, Attributes, Codes, Compiling, Row, Shared, Stack};
use crate::library::Installed;
use crate::sys::{BlasNames, CompilerNames, Names};

/// Where toolkits lie that the loader does not know of.
const HOMES: &[&str] = &["CUDA_HOME", "CUDA_PATH"];
const FOLDERS: &[&str] = &["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

pub(super) static ROW: Row = Row {
    name: "cuda",
    maker: "NVIDIA",
    stack: Stack { name: "CUDA", version: (1000, 10), bounds: true },
    driver: Installed {
        what: "libcuda",
        // The name without a number may be that of a stub to link with.
        files: &["libcuda.so.1", "libcuda.so", "nvcuda.dll"],
        homes: &[],
        folders: &[],
        loader_first: true,
        beside: "",
        mend: "install the NVIDIA driver, for CUDA 12.0 or newer",
    },
    calls: CALLS,
    codes: CODES,
    attributes: Attributes {
        capability: [Some(75), Some(76)],
        processors: Some(16),
        warp: Some(10),
        memory: [Some(36), Some(37)],
    },
    // sm_90a has the instructions of its generation alone.
    arch: Arch::Capability { prefix: "sm_", oldest: 80, exactly: &[(90, 'a')] },
    warps: &[32],
    // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN.
    shared: Shared::Attribute(97),
    compiler: Compiling::Library {
        library: Installed {
            what: "NVRTC",
            files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
            homes: HOMES,
            folders: FOLDERS,
            loader_first: true,
            beside: "libnvrtc-builtins.so",
            mend: "it compiles the kernels: install that of CUDA 12 or 13",
        },
        calls: &NVRTC,
        options: &["--gpu-architecture={arch}", "--std=c++17"],
    },
    blas: Some((
        Installed {
            what: "cuBLASLt",
            files: &[
                "libcublasLt.so.13",
                "libcublasLt.so.12",
                "libcublasLt.so",
                "cublasLt64_13.dll",
                "cublasLt64_12.dll",
            ],
            homes: HOMES,
            folders: FOLDERS,
            loader_first: true,
            beside: "",
            mend: "install that of CUDA 12 or 13",
        },
        BLAS,
    )),
    bf16_from: 80,
    flush_subnormals: false,
    prebuilt: true,
};

pub(super) const CODES: Codes = Codes {
    out_of_memory: &[2],
    not_ready: &[600],
    no_device: &[100],
    stub: &[34],
    lost: &[4, 46, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999],
};

const CALLS: Names = Names {
    init: "cuInit",
    version: "cuDriverGetVersion",
    device_count: "cuDeviceGetCount",
    device: "cuDeviceGet",
    device_name: "cuDeviceGetName",
    device_attribute: "cuDeviceGetAttribute",
    device_memory: "cuDeviceTotalMem_v2",
    context_retain: "cuDevicePrimaryCtxRetain",
    context_get: "cuCtxGetCurrent",
    context_set: "cuCtxSetCurrent",
    memory_info: "cuMemGetInfo_v2",
    alloc: "cuMemAlloc_v2",
    free: "cuMemFree_v2",
    host_alloc: "cuMemHostAlloc",
    host_free: "cuMemFreeHost",
    upload: "cuMemcpyHtoDAsync_v2",
    download: "cuMemcpyDtoHAsync_v2",
    copy: "cuMemcpyDtoDAsync_v2",
    set_bytes: "cuMemsetD8Async",
    stream_create: "cuStreamCreate",
    stream_destroy: "cuStreamDestroy_v2",
    stream_query: "cuStreamQuery",
    stream_wait: "cuStreamWaitEvent",
    event_create: "cuEventCreate",
    event_destroy: "cuEventDestroy_v2",
    event_record: "cuEventRecord",
    event_query: "cuEventQuery",
    event_elapsed: "cuEventElapsedTime",
    module_unload: "cuModuleUnload",
    module_function: "cuModuleGetFunction",
    launch: "cuLaunchKernel",
    launch_with: "cuLaunchKernelEx",
    properties: "",
    pci_bus_id: "cuDeviceGetPCIBusId",
    context_release: "cuDevicePrimaryCtxRelease_v2",
    error_name: "cuGetErrorName",
    error_text: "cuGetErrorString",
    error_name_of: "",
    error_text_of: "",
    module_load: "cuModuleLoadDataEx",
    module_load_plainly: "",
    function_set: "cuFuncSetAttribute",
    capture_begin: "cuStreamBeginCapture_v2",
    capture_end: "cuStreamEndCapture",
    graph_instantiate: "cuGraphInstantiateWithFlags",
    graph_instantiate_with_log: "",
    graph_launch: "cuGraphLaunch",
    graph_exec_destroy: "cuGraphExecDestroy",
    graph_destroy: "cuGraphDestroy",
};

const NVRTC: CompilerNames = CompilerNames {
    version: "nvrtcVersion",
    create: "nvrtcCreateProgram",
    compile: "nvrtcCompileProgram",
    destroy: "nvrtcDestroyProgram",
    log_size: "nvrtcGetProgramLogSize",
    log: "nvrtcGetProgramLog",
    image_size: "nvrtcGetCUBINSize",
    image: "nvrtcGetCUBIN",
    arch_count: "nvrtcGetNumSupportedArchs",
    archs: "nvrtcGetSupportedArchs",
    ptx_size: "nvrtcGetPTXSize",
    ptx: "nvrtcGetPTX",
};

const BLAS: BlasNames = BlasNames {
    create: "cublasLtCreate",
    destroy: "cublasLtDestroy",
    product_create: "cublasLtMatmulDescCreate",
    product_set: "cublasLtMatmulDescSetAttribute",
    product_destroy: "cublasLtMatmulDescDestroy",
    layout_create: "cublasLtMatrixLayoutCreate",
    layout_destroy: "cublasLtMatrixLayoutDestroy",
    preference_create: "cublasLtMatmulPreferenceCreate",
    preference_set: "cublasLtMatmulPreferenceSetAttribute",
    preference_destroy: "cublasLtMatmulPreferenceDestroy",
    heuristic: "cublasLtMatmulAlgoGetHeuristic",
    matmul: "cublasLtMatmul",
    version: "cublasLtGetVersion",
};
