//! Whose names the libraries answer to: NVIDIA's, or those of a vendor whose driver is shaped like CUDA's. Behind every name is
//! the same driver; what other vendors' calls have otherwise is in `vendors.cpp`.

use std::env;

use crate::sources;

/// A vendor's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// NVIDIA's `cu*` and `nvrtc*`.
    Cuda,
    /// Hygon's `hip*` and `hiprtc*`.
    Hip,
    /// Moore Threads' `mu*` and `mtrtc*`.
    Musa,
    /// MetaX's `mc*` and `mcrtc*`.
    Maca,
    /// Iluvatar's `cu*` of CUDA 10.2; its compiler is a program.
    Corex,
}

/// HIP's names of CUDA's calls. Source: HIP's headers.
const HIP: &[(&str, &str)] = &[
    ("hipInit", "cuInit"),
    ("hipDriverGetVersion", "cuDriverGetVersion"),
    ("hipGetDeviceCount", "cuDeviceGetCount"),
    ("hipDeviceGet", "cuDeviceGet"),
    ("hipDeviceGetName", "cuDeviceGetName"),
    ("hipDeviceGetPCIBusId", "cuDeviceGetPCIBusId"),
    ("hipDeviceGetAttribute", "simhip_attribute"),
    ("hipGetDeviceProperties", "simhip_properties"),
    ("hipDeviceTotalMem", "cuDeviceTotalMem_v2"),
    ("hipDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain"),
    ("hipDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2"),
    ("hipCtxGetCurrent", "cuCtxGetCurrent"),
    ("hipCtxSetCurrent", "cuCtxSetCurrent"),
    ("hipGetErrorName", "simvendor_error_name"),
    ("hipGetErrorString", "simvendor_error_text"),
    ("hipMemGetInfo", "cuMemGetInfo_v2"),
    ("hipMalloc", "cuMemAlloc_v2"),
    ("hipFree", "cuMemFree_v2"),
    ("hipHostMalloc", "cuMemHostAlloc"),
    ("hipHostFree", "cuMemFreeHost"),
    ("hipMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2"),
    ("hipMemcpyDtoHAsync", "cuMemcpyDtoHAsync_v2"),
    ("hipMemcpyDtoDAsync", "cuMemcpyDtoDAsync_v2"),
    ("hipMemsetD8Async", "cuMemsetD8Async"),
    ("hipStreamCreateWithFlags", "cuStreamCreate"),
    ("hipStreamDestroy", "cuStreamDestroy_v2"),
    ("hipStreamQuery", "cuStreamQuery"),
    ("hipStreamWaitEvent", "cuStreamWaitEvent"),
    ("hipStreamBeginCapture", "cuStreamBeginCapture_v2"),
    ("hipStreamEndCapture", "cuStreamEndCapture"),
    ("hipGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags"),
    ("hipGraphLaunch", "cuGraphLaunch"),
    ("hipGraphExecDestroy", "cuGraphExecDestroy"),
    ("hipGraphDestroy", "cuGraphDestroy"),
    ("hipEventCreateWithFlags", "cuEventCreate"),
    ("hipEventDestroy", "cuEventDestroy_v2"),
    ("hipEventRecord", "cuEventRecord"),
    ("hipEventQuery", "cuEventQuery"),
    ("hipEventElapsedTime", "cuEventElapsedTime"),
    ("hipModuleLoadDataEx", "cuModuleLoadDataEx"),
    ("hipModuleUnload", "cuModuleUnload"),
    ("hipModuleGetFunction", "cuModuleGetFunction"),
    ("hipModuleLaunchKernel", "cuLaunchKernel"),
    ("hiprtcGetCodeSize", "nvrtcGetCUBINSize"),
    ("hiprtcGetCode", "nvrtcGetCUBIN"),
];

/// Where MACA's names are not HIP's with another prefix. Source: MetaX's public repositories.
const MACA: &[(&str, &str)] = &[
    ("mcDeviceGetAttribute", "cuDeviceGetAttribute"),
    ("mcMallocHost", "cuMemHostAlloc"),
    ("mcFreeHost", "cuMemFreeHost"),
    ("mcMemsetAsync", "simmaca_memset"),
    ("mcGraphInstantiate", "simmaca_instantiate"),
    ("mcModuleLoadData", "cuModuleLoadData"),
    ("mcrtcGetBitcodeSize", "nvrtcGetCUBINSize"),
    ("mcrtcGetBitcode", "nvrtcGetCUBIN"),
];

/// HIP's names that MACA does not have with another prefix.
const NOT_MACA: &[&str] = &[
    "hipDeviceGetAttribute",
    "hipGetDeviceProperties",
    "hipDeviceTotalMem",
    "hipDevicePrimaryCtxRelease",
    "hipHostMalloc",
    "hipHostFree",
    "hipMemsetD8Async",
    "hipGraphInstantiateWithFlags",
    "hipModuleLoadDataEx",
    "hiprtcGetCodeSize",
    "hiprtcGetCode",
];

impl Family {
    /// That of the environment: `QIAO_SIMCUDA_FAMILY`, `cuda` without it.
    ///
    /// # Panics
    /// It names nobody's.
    pub fn of_environment() -> Family {
        let all = [Family::Cuda, Family::Hip, Family::Musa, Family::Maca, Family::Corex];
        let name = env::var("QIAO_SIMCUDA_FAMILY").ok().filter(|name| !name.is_empty()).unwrap_or("cuda".into());
        let found = all.into_iter().find(|family| family.name() == name);
        found.unwrap_or_else(|| panic!("QIAO_SIMCUDA_FAMILY={name}: one of cuda, hip, musa, maca, corex"))
    }

    /// The name of the backend that looks for these libraries.
    pub fn name(self) -> &'static str {
        match self {
            Family::Cuda => "cuda",
            Family::Hip => "hip",
            Family::Musa => "musa",
            Family::Maca => "maca",
            Family::Corex => "corex",
        }
    }

    /// Lanes of a warp.
    pub(crate) fn warp(self) -> u32 {
        match self {
            Family::Cuda | Family::Musa => 32,
            Family::Hip | Family::Maca | Family::Corex => 64,
        }
    }

    /// The libraries' file names: the driver's, and the compiler's where that is not a part of it.
    pub(crate) fn files(self) -> (&'static str, Option<&'static str>) {
        match self {
            Family::Cuda | Family::Corex => ("libcuda.so", Some("libnvrtc.so")),
            Family::Hip => ("libamdhip64.so", None),
            Family::Musa => ("libmusa.so", Some("libmtrtc.so")),
            Family::Maca => ("libmcruntime.so", None),
        }
    }

    /// What the vendor calls the functions of the sources: its name, and that of the function.
    pub(crate) fn aliases(self) -> Vec<(String, String)> {
        let own =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
        match self {
            Family::Cuda => Vec::new(),
            Family::Corex => own(&[("cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2")]),
            Family::Hip => [own(HIP), renamed("nvrtc", "hiprtc", sources::COMPILER)].concat(),
            Family::Musa => {
                let fat = [("mtrtcGetFatBinSize", "nvrtcGetCUBINSize"), ("mtrtcGetFatBin", "nvrtcGetCUBIN")];
                let compiler = renamed("nvrtc", "mtrtc", sources::COMPILER);
                [renamed("cu", "mu", sources::DRIVER), own(&fat), compiler].concat()
            }
            Family::Maca => {
                let kept = HIP.iter().filter(|(name, _)| !NOT_MACA.contains(name));
                let like_hip = kept.map(|(name, of)| (name.replacen("hip", "mc", 1), of.to_string())).collect();
                [like_hip, own(MACA), renamed("nvrtc", "mcrtc", sources::COMPILER)].concat()
            }
        }
    }
}

/// Every function that the sources export, by another prefix.
fn renamed(prefix: &str, by: &str, files: &[(&str, &str)]) -> Vec<(String, String)> {
    let lines = files.iter().flat_map(|(_, text)| text.lines()).filter(|line| line.starts_with("EXPORT "));
    let names = lines.filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next());
    let ours = names.filter(|name| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(char::is_uppercase) || prefix != "cu")
    });
    let ours = ours.filter(|name| name.starts_with(prefix));
    ours.map(|name| (name.replacen(prefix, by, 1), name.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_sources() {
        let musa = Family::Musa.aliases();
        let has = |all: &[(String, String)], name: &str, of: &str| all.iter().any(|(a, b)| a == name && b == of);
        assert!(has(&musa, "muMemAlloc_v2", "cuMemAlloc_v2") && has(&musa, "mtrtcVersion", "nvrtcVersion"));
        assert!(musa.iter().all(|(name, _)| name.starts_with("mu") || name.starts_with("mtrtc")), "{musa:?}");
        let maca = Family::Maca.aliases();
        assert!(
            has(&maca, "mcModuleLaunchKernel", "cuLaunchKernel")
                && has(&maca, "mcrtcCompileProgram", "nvrtcCompileProgram")
        );
        assert!(!maca.iter().any(|(name, _)| name.starts_with("hip") || name == "mcModuleLoadDataEx"), "{maca:?}");
        assert!(has(&Family::Hip.aliases(), "hiprtcCreateProgram", "nvrtcCreateProgram"));
    }
}
