//! The CUDA backend: driver, run-time compiler, memory and streams around the kernels of `qiao-kernels-cuda`.

mod ops;
