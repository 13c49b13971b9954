//! The CPU backend: threads, tiling and memory around the kernels.
