//! The loader's answers as this crate wants them: devices in order, what they say of themselves, words for codes.

use std::sync::{Mutex, PoisonError};

use opencl3::device::{CL_DEVICE_TYPE_ALL, get_device_data, get_device_ids};
use opencl3::error_codes::ClError;
use opencl3::platform::platform::{get_platform_data, get_platform_ids};
use opencl3::types::{cl_device_id, cl_int, cl_platform_id, cl_uint};
use qiao_core::{Error, Result};

/// What is answered where the loader can't be opened.
const NO_LOADER: cl_int = -2000;
/// What is answered where it lacks a function.
const NO_FUNCTION: cl_int = -2001;
/// What it answers where it knows no platform.
const NO_PLATFORM: cl_int = -1001;

/// A device of the loader's list, which lives as long as the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) cl_device_id);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

/// A device, with its platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) device: Id,
    platform: cl_platform_id,
}

/// A code in words.
pub(crate) fn describe(code: cl_int) -> String {
    format!("{} ({code})", ClError(code))
}

fn absent(why: impl Into<String>) -> Error {
    Error::not_present("opencl", why)
}

/// How a missing loader is mended.
const INSTALL: &str =
    "install one, such as ocl-icd-libopencl1, and the chip's OpenCL driver, or name it in OPENCL_DYLIB_PATH";

/// What is opened, in order.
fn loaders() -> String {
    let named = std::env::var("OPENCL_DYLIB_PATH").unwrap_or_default();
    let named = named.split(';').filter(|path| !path.is_empty());
    named.chain(["libOpenCL.so.1"]).collect::<Vec<_>>().join(", ")
}

/// Where loaders look for drivers.
fn vendors() -> String {
    std::env::var("OCL_ICD_VENDORS").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| "/etc/OpenCL/vendors".into())
}

/// Every device of every platform, in the loader's order; at least one.
///
/// # Errors
/// [`Error::NotPresent`]: no loader, no platform, no device.
pub(crate) fn devices() -> Result<Vec<Found>> {
    // Drivers wake when they are first asked, and some answer that they have nothing to whoever asks meanwhile.
    static ASKED: Mutex<()> = Mutex::new(());
    let _asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let platforms = get_platform_ids().map_err(|code| match code {
        NO_LOADER => absent(format!("no OpenCL loader is found (tried {}): {INSTALL}", loaders())),
        NO_FUNCTION => absent(format!("what is found is no OpenCL loader (tried {}): {INSTALL}", loaders())),
        NO_PLATFORM => absent(format!(
            "the OpenCL loader knows no platform: no driver that it can open is registered in {}: install the chip's OpenCL driver",
            vendors()
        )),
        code => absent(format!("the OpenCL loader names no platform: {}", describe(code))),
    })?;
    let mut found = Vec::new();
    let mut refused = String::new();
    for platform in platforms {
        match get_device_ids(platform, CL_DEVICE_TYPE_ALL) {
            Ok(ids) => found.extend(ids.into_iter().map(|id| Found { device: Id(id), platform })),
            Err(code) => refused = format!(": {}", describe(code)),
        }
    }
    if found.is_empty() { Err(absent(format!("no OpenCL platform has a device{refused}"))) } else { Ok(found) }
}

/// Bytes as text, without the zero at its end.
fn text(bytes: std::result::Result<Vec<u8>, cl_int>) -> String {
    let bytes = bytes.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Found {
    /// What the device says in words; nothing where it does not know the question.
    pub(crate) fn text(&self, question: cl_uint) -> String {
        text(get_device_data(self.device.0, question))
    }

    /// What its platform says in words.
    pub(crate) fn platform_text(&self, question: cl_uint) -> String {
        text(get_platform_data(self.platform, question))
    }

    /// A number of the device, of 4 or 8 bytes; 0 where it does not know the question.
    pub(crate) fn number(&self, question: cl_uint) -> u64 {
        let bytes = get_device_data(self.device.0, question).unwrap_or_default();
        match bytes[..] {
            [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            _ => 0,
        }
    }

    /// Whether the device lists an extension.
    pub(crate) fn offers(&self, extension: &str) -> bool {
        self.text(opencl3::device::CL_DEVICE_EXTENSIONS).split_whitespace().any(|e| e == extension)
    }
}
