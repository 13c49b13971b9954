//! The C++ of the card, by file name.

macro_rules! sources {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("../cpp/", $name)))),*] };
}

/// What the kernels' texts see.
pub(crate) const SEEN_BY_KERNELS: &[(&str, &str)] = sources!["simt.h" "registry.h"];

/// The other headers.
pub(crate) const HEADERS: &[(&str, &str)] =
    sources!["block.h" "card.h" "cuda.h" "fiber.h" "image.h" "launch.h" "nvrtc.h"];

/// The driver, and the threads that run kernels.
pub(crate) const DRIVER: &[(&str, &str)] = sources![
    "blas.cpp" "block.cpp" "card.cpp" "devices.cpp" "fiber.cpp" "graphs.cpp" "knobs.cpp" "launch.cpp" "memory.cpp" "modules.cpp"
    "streams.cpp" "vendors.cpp"
];

/// The run-time compiler.
pub(crate) const COMPILER: &[(&str, &str)] = sources!["nvrtc.cpp"];

/// What makes a program of it.
pub(crate) const PROGRAM: &[(&str, &str)] = sources!["clang.cpp"];
