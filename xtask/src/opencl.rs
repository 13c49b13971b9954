//! OpenCL's paths on a driver that offers all of them: Intel's run-time for processors, of Python wheels. Any x86-64 processor will do.

use std::fs;
use std::path::Path;

use crate::suites::Program;
use crate::wheels;

/// The driver and what it links.
const PINNED: &[&str] = &["intel-opencl-rt==2026.2.0", "intel-cmplr-lib-rt==2026.2.0", "tbb==2023.2.0"];

/// The program, on this driver, where each path has to be there.
///
/// # Errors
/// Why the driver can't be had.
pub(crate) fn on_every_path(program: Program, target: &Path) -> Result<Program, String> {
    let folder = wheels::ready(&target.join("opencl/wheels"), PINNED)?;
    let (libraries, vendors) = (folder.join("lib"), folder.join("vendors"));
    let driver = libraries.join("libintelocl.so");
    let list = vendors.join("intel.icd");
    let written = fs::create_dir_all(&vendors).and_then(|()| fs::write(&list, driver.display().to_string()));
    written.map_err(|e| format!("{}: {e}", list.display()))?;
    let [vendors, libraries] = [vendors, libraries].map(|folder| folder.display().to_string());
    let program = program.with("OCL_ICD_VENDORS", &vendors).with("LD_LIBRARY_PATH", &libraries);
    Ok(program.with("QIAO_REQUIRE_OPENCL_PATHS", "1"))
}
