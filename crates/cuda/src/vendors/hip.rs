//! Hygon DCU: DTK, a fork of ROCm whose driver is HIP's run-time library and whose compiler is hipRTC.
//!
//! Sources: the headers of HIP 5.2.3 (Debian's libamdhip64-dev) and of 6.x (ROCm/HIP), whose numbers and codes used here are the
//! same; DTK 26.10 calls itself HIP 7.2 and ships libgalaxyhip.so.5.2.26365. Every symbol is looked for in the real run-time
//! library by a test. What Hygon changed of the numbers, if anything, is not public.

use super::{Arch, Attributes, Codes, Compiling, Row, Shared, Stack};
use crate::library::Installed;
use crate::sys::{CompilerNames, Names};

/// DTK's own name of the run-time library, then AMD's. Source: logs that miss `libgalaxyhip.so.5`; `/opt/dtk/hip/lib` and
/// `/opt/dtk/lib` are the RUNPATH of programs that DTK's hipcc links.
const FILES: &[&str] = &[
    "libgalaxyhip.so",
    "libgalaxyhip.so.5",
    "libamdhip64.so",
    "libamdhip64.so.7",
    "libamdhip64.so.6",
    "libamdhip64.so.5",
];
const HOMES: &[&str] = &["DTKROOT", "ROCM_PATH", "HIP_PATH"];
const FOLDERS: &[&str] = &["/opt/dtk/hip/lib", "/opt/dtk/lib"];

pub(super) static ROW: Row = Row {
    name: "hip",
    maker: "Hygon",
    // 50221153 is 5.2.21153.
    stack: Stack { name: "HIP", version: (10_000_000, 100_000), bounds: false },
    driver: Installed {
        what: "HIP's run-time library",
        files: FILES,
        homes: HOMES,
        folders: FOLDERS,
        loader_first: false,
        beside: "",
        mend: "install DTK and its driver, and source its env.sh",
    },
    calls: CALLS,
    codes: CODES,
    // hipDeviceAttribute_t: ComputeCapabilityMajor and Minor, MultiprocessorCount, WarpSize, MemoryClockRate, MemoryBusWidth.
    attributes: Attributes {
        capability: [Some(23), Some(61)],
        processors: Some(63),
        warp: Some(87),
        memory: [Some(60), Some(59)],
    },
    // gfx906 Z100, gfx926 K100, gfx928 K100_AI, gfx936 BW1000: build files for DTK.
    arch: Arch::Properties { prefix: "gfx" },
    warps: &[64],
    // MaxSharedMemoryPerBlock; a block asks for all of it without more.
    shared: Shared::Attribute(74),
    compiler: Compiling::Library {
        library: Installed {
            what: "hipRTC",
            // A library of its own from 6.0 on, a part of the run-time library before.
            files: &[
                "libhiprtc.so",
                "libhiprtc.so.7",
                "libhiprtc.so.6",
                "libgalaxyhip.so",
                "libgalaxyhip.so.5",
                "libamdhip64.so",
                "libamdhip64.so.5",
            ],
            homes: HOMES,
            folders: FOLDERS,
            loader_first: false,
            beside: "",
            mend: "it compiles the kernels: install that of DTK",
        },
        calls: &HIPRTC,
        options: &["--gpu-architecture={arch}", "--std=c++17"],
    },
    // hipBLASLt is not cuBLASLt's interface, and is not for gfx906.
    blas: None,
    // bf16 models are listed for K100_AI (gfx928) and BW1000, none for Z100 (gfx906) and K100 (gfx926).
    bf16_from: 0x928,
    // hipRTC keeps subnormals unless it is told to flush them (-fgpu-flush-denormals-to-zero).
    flush_subnormals: false,
    prebuilt: false,
};

/// hipError_t: 2, 600; 100 and, where the kernel's driver is missing, 101; the lost ones are those of a context that is gone,
/// memory errors and what a kernel did.
const CODES: Codes = Codes {
    out_of_memory: &[2],
    not_ready: &[600],
    no_device: &[100, 101],
    stub: &[],
    lost: &[4, 201, 214, 700, 702, 709, 710, 719, 999],
};

const CALLS: Names = Names {
    init: "hipInit",
    version: "hipDriverGetVersion",
    device_count: "hipGetDeviceCount",
    device: "hipDeviceGet",
    device_name: "hipDeviceGetName",
    device_attribute: "hipDeviceGetAttribute",
    device_memory: "hipDeviceTotalMem",
    context_retain: "hipDevicePrimaryCtxRetain",
    context_get: "hipCtxGetCurrent",
    context_set: "hipCtxSetCurrent",
    memory_info: "hipMemGetInfo",
    alloc: "hipMalloc",
    free: "hipFree",
    host_alloc: "hipHostMalloc",
    host_free: "hipHostFree",
    upload: "hipMemcpyHtoDAsync",
    download: "hipMemcpyDtoHAsync",
    copy: "hipMemcpyDtoDAsync",
    set_bytes: "hipMemsetD8Async",
    stream_create: "hipStreamCreateWithFlags",
    stream_destroy: "hipStreamDestroy",
    stream_query: "hipStreamQuery",
    stream_wait: "hipStreamWaitEvent",
    event_create: "hipEventCreateWithFlags",
    event_destroy: "hipEventDestroy",
    event_record: "hipEventRecord",
    event_query: "hipEventQuery",
    event_elapsed: "hipEventElapsedTime",
    module_unload: "hipModuleUnload",
    module_function: "hipModuleGetFunction",
    launch: "hipModuleLaunchKernel",
    launch_with: "",
    pci_bus_id: "hipDeviceGetPCIBusId",
    properties: "hipGetDeviceProperties",
    context_release: "hipDevicePrimaryCtxRelease",
    error_name: "",
    error_text: "",
    error_name_of: "hipGetErrorName",
    error_text_of: "hipGetErrorString",
    module_load: "hipModuleLoadDataEx",
    module_load_plainly: "",
    // hipFuncSetAttribute takes the host's address of a kernel, which kernels of a module have not.
    function_set: "",
    capture_begin: "hipStreamBeginCapture",
    capture_end: "hipStreamEndCapture",
    graph_instantiate: "hipGraphInstantiateWithFlags",
    graph_instantiate_with_log: "",
    graph_launch: "hipGraphLaunch",
    graph_exec_destroy: "hipGraphExecDestroy",
    graph_destroy: "hipGraphDestroy",
};

const HIPRTC: CompilerNames = CompilerNames {
    version: "hiprtcVersion",
    create: "hiprtcCreateProgram",
    compile: "hiprtcCompileProgram",
    destroy: "hiprtcDestroyProgram",
    log_size: "hiprtcGetProgramLogSize",
    log: "hiprtcGetProgramLog",
    image_size: "hiprtcGetCodeSize",
    image: "hiprtcGetCode",
    arch_count: "",
    archs: "",
    ptx_size: "",
    ptx: "",
};

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;
    use crate::backend::Family;
    use crate::compile::Target;
    use crate::rtc::compiler;
    use crate::sys::{Calls, CompilerCalls};
    use libloading::Library;
    use qiao_core::{Backend, Error};

    /// Units that stand for others: floats, sums over lanes and blocks. `cargo xtask test` compiles every one, by the example
    /// `compile_units`.
    const SOME: [&str; 2] = ["elementwise", "norms"];

    /// HIP's run-time library, where it is on this machine, for one test at a time: version 5.2 has fallen over where several threads
    /// woke it together.
    fn here() -> Option<MutexGuard<'static, ()>> {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if ROW.driver.open(|_| Ok(()), |_| true).is_err() {
            println!("skipped: no HIP here (apt-get install libamdhip64-5 libhiprtc-builtins5)");
            return None;
        }
        Some(one)
    }

    #[test]
    fn the_real_libraries_have_every_symbol() {
        let Some(_one) = here() else { return };
        let lacking = |library: &Library, names: Vec<&'static str>| {
            let named = names.into_iter().filter(|name| !name.is_empty());
            // SAFETY: only asked whether it is there.
            named.filter(|name| unsafe { library.get::<usize>(name.as_bytes()) }.is_err()).collect::<Vec<_>>()
        };
        let calls = |library: &Library| {
            let missing = lacking(library, ROW.calls.may());
            Calls::load(library, &ROW.calls).map(|_| missing)
        };
        assert_eq!(ROW.driver.open(calls, |_| true), Ok(Vec::new()));
        let Compiling::Library { library, calls, .. } = &ROW.compiler else { panic!("hipRTC is a library") };
        assert_eq!(library.open(|found| CompilerCalls::load(found, calls).map(|_| ()), |_| true), Ok(()));
    }

    #[test]
    fn a_machine_without_a_card_says_so() {
        let Some(_one) = here() else { return };
        match Family::HIP.devices() {
            Err(Error::NotPresent { what, why }) => {
                assert_eq!(what, "hip");
                assert_eq!(why, "the driver finds no card");
            }
            // A machine with a card: one of Hygon's is listed, one of AMD's is told from it.
            Ok(all) => assert!(all.iter().all(|info| info.vendor == "Hygon")),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_real_compiler_makes_code_of_units() {
        let Some(_one) = here() else { return };
        let compiler = compiler(&ROW).unwrap();
        let job = compiler.job(&Target { arch: 0x906, name: "gfx906".into(), driver: 0 });
        assert_eq!(job.options, ["--gpu-architecture=gfx906", "--std=c++17"]);
        for unit in qiao_kernels_cuda::UNITS.iter().filter(|unit| SOME.contains(&unit.name)) {
            let image = compiler.compile(unit, &job).unwrap();
            assert_eq!(image[..4], *b"\x7fELF", "{}", unit.name);
            for kernel in unit.kernels {
                let name = kernel.symbol.as_bytes();
                assert!(image.windows(name.len()).any(|w| w == name), "{} has no {}", unit.name, kernel.symbol);
            }
        }
    }
    /// HIP has other words for two of CUDA's calls.
    const CUDA_WORDS: [&str; 2] = [
        "-D__shfl_sync(mask,value,lane,width)=__shfl(value,lane,width)",
        "-D__syncwarp()=__builtin_amdgcn_wave_barrier()",
    ];

    #[test]
    fn the_text_for_compilers_that_read_cudas_words_is_sound() {
        let Some(_one) = here() else { return };
        let compiler = compiler(&ROW).unwrap();
        for (vendor, unit) in [("__MUSACC__", "cast"), ("__MACACC__", "choose"), ("__ILUVATAR__", "norms_int8")] {
            let mut job = compiler.job(&Target { arch: 0x906, name: "gfx906".into(), driver: 0 });
            job.options.extend(CUDA_WORDS.map(String::from));
            job.options.push(format!("-D{vendor}"));
            let unit = qiao_kernels_cuda::UNITS.iter().find(|known| known.name == unit).unwrap();
            assert!(compiler.compile(unit, &job).is_ok_and(|image| image.starts_with(b"\x7fELF")), "{vendor}");
        }
    }
}
