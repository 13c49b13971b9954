//! The OpenCL backend: any device with an OpenCL 1.2 driver, by the kernels of `qiao-kernels-opencl`.
//!
//! - The loader is opened when a device is asked for. A machine without loader, platform or device gets
//!   [`Error::NotPresent`], with what was looked for.
//! - A program holds one kernel. It is compiled when a plan first needs it, for this device, its work-group size and its paths,
//!   and its binary is kept on disk by text, options, device and driver. `QIAO_OPENCL_BINARIES=0` keeps none.
//! - What a device can do beyond plain OpenCL C (sub-groups, arithmetic in f16, products of packed bytes) is found when it is
//!   opened; `QIAO_OPENCL_PATHS` says otherwise. What suits a kind of device is data (`tuning`); `QIAO_OPENCL_TUNING` says
//!   otherwise.
//! - A tensor's address is a memory object and bytes behind its start, so that no sub-buffer is needed anywhere.
//!
//! [`Error::NotPresent`]: qiao_core::Error::NotPresent

mod sys;

mod paths;

mod tuning;

mod compile;

mod context;

mod memory;

mod event;

mod staging;

mod stream;

mod ops;

mod device;

mod backend;

pub use backend::OpenClBackend;
