//! Iluvatar: CoreX, whose libraries have CUDA's names and symbols.
//!
//! Sources: install guides of FastDeploy and of Iluvatar's own container toolkit (`/usr/local/corex/lib64/libcuda.so.1`);
//! benchmark records of BI-V150 (torch.version.cuda 10.2, `libcudart.so.10.2`, capability 7.1, warps of 64 lanes, device name
//! `Iluvatar BI-V150`); build scripts (`clang++ -x ivcore --cuda-gpu-arch=ivcore10` for BI-V100, `ivcore11` for BI-V150 and
//! MR-V100; the macro `__ILUVATAR__`).
//!
//! Not public: whether there is a run-time compiler, so that one must be named in `QIAO_COREX_COMPILER`; what form of code
//! `cuModuleLoadData` takes. Numbers and codes are taken to be CUDA's, which CoreX says to be compatible with.

use super::{Arch, Attributes, Compiling, Row, Shared, Stack};
use crate::library::Installed;
use crate::sys::Names;

pub(super) static ROW: Row = Row {
    name: "corex",
    maker: "Iluvatar",
    stack: Stack { name: "CoreX, CUDA", version: (1000, 10), bounds: false },
    driver: Installed {
        what: "CoreX's libcuda",
        files: &["libcuda.so", "libcuda.so.1"],
        homes: &["COREX_HOME", "COREX_ROOT", "ILUVATAR_SOFTWARE_ROOT"],
        folders: &["/usr/local/corex/lib64", "/usr/local/corex/lib"],
        loader_first: false,
        beside: "",
        mend: "install CoreX and its driver",
    },
    calls: CALLS,
    codes: super::cuda::CODES,
    attributes: Attributes {
        capability: [Some(75), Some(76)],
        processors: Some(16),
        warp: Some(10),
        memory: [Some(36), Some(37)],
    },
    arch: Arch::Named(&[(70, "ivcore10"), (71, "ivcore11")]),
    warps: &[64],
    // MAX_SHARED_MEMORY_PER_BLOCK.
    shared: Shared::Attribute(8),
    compiler: Compiling::Program {
        what: "CoreX's clang++",
        variable: "QIAO_COREX_COMPILER",
        options: &["-x", "ivcore", "--cuda-gpu-arch={arch}", "--cuda-device-only", "-std=c++17", "-O3"],
        mend: "no run-time compiler of CoreX is public: name its clang++ in QIAO_COREX_COMPILER, as in /usr/local/corex/bin/clang++",
    },
    // InfiniCore's build for Iluvatar has no cublasLt.
    blas: None,
    // fp16, bf16 and int8 are listed for BI-V150 and MR-V100; BI-V100 is not.
    bf16_from: 71,
    // Not public.
    flush_subnormals: true,
    prebuilt: false,
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
    launch_with: "",
    pci_bus_id: "cuDeviceGetPCIBusId",
    properties: "",
    context_release: "cuDevicePrimaryCtxRelease_v2|cuDevicePrimaryCtxRelease",
    error_name: "cuGetErrorName",
    error_text: "cuGetErrorString",
    error_name_of: "",
    error_text_of: "",
    module_load: "cuModuleLoadDataEx",
    module_load_plainly: "cuModuleLoadData",
    function_set: "cuFuncSetAttribute",
    // What captures is CUDA 11's and newer in the form that is used here; CoreX has CUDA 10.2's names (torch.version.cuda).
    capture_begin: "",
    capture_end: "",
    graph_instantiate: "",
    graph_instantiate_with_log: "",
    graph_launch: "",
    graph_exec_destroy: "",
    graph_destroy: "",
};
