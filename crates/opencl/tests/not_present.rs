//! Machines without a loader, and with one that knows no driver: each is a process of its own, which is told what is there by the
//! environment. The answer says what was looked for and how to mend it.

use std::path::Path;
use std::process::Command;

use qiao_core::{Backend, Error};
use qiao_opencl::OpenClBackend;

/// Says that this process is the one that asks, and holds what the answer must say.
const SAYS: &str = "QIAO_OPENCL_SAYS";

#[test]
fn asked_alone() {
    let Ok(says) = std::env::var(SAYS) else { return };
    for _ in 0..2 {
        match OpenClBackend.devices() {
            Err(Error::NotPresent { what, why }) => {
                assert!(what == "opencl" && says.split('|').all(|word| why.contains(word)), "{what}: {why}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(OpenClBackend.open(0), Err(Error::NotPresent { .. })));
    }
}

/// Asks in a process of its own.
#[track_caller]
fn ask(environment: &[(&str, &Path)], says: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "asked_alone"]).env(SAYS, says);
    child.env_remove("OPENCL_DYLIB_PATH").env_remove("OCL_ICD_FILENAMES").env_remove("OCL_ICD_VENDORS");
    child.envs(environment.iter().copied());
    let output = child.output().unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// A folder with a library that no process can open, under the loader's name: the system's is not looked for behind it.
fn unusable() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libOpenCL.so.1"), "no library").unwrap();
    folder
}

#[test]
fn without_a_loader() {
    let folder = unusable();
    ask(&[("LD_LIBRARY_PATH", folder.path())], "no OpenCL loader is found|tried libOpenCL.so.1)|install one");
}

#[test]
fn without_a_loader_where_one_is_named() {
    let folder = unusable();
    let named = folder.path().join("libNowhere.so");
    let says = format!("no OpenCL loader is found|tried {}, libOpenCL.so.1)|OPENCL_DYLIB_PATH", named.display());
    ask(&[("LD_LIBRARY_PATH", folder.path()), ("OPENCL_DYLIB_PATH", &named)], &says);
}

#[test]
fn a_library_that_is_no_loader() {
    ask(&[("OPENCL_DYLIB_PATH", Path::new("libm.so.6"))], "what is found is no OpenCL loader|libm.so.6|install one");
}

#[test]
fn without_any_platform() {
    let loader = OpenClBackend.devices().map_err(|why| why.to_string());
    if loader.as_ref().is_err_and(|why| why.contains("no OpenCL loader")) {
        println!("skipped: {}", loader.unwrap_err());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The two loaders that are common read one of these.
    let says = format!("knows no platform|{}|install the chip's OpenCL driver", folder.path().display());
    ask(&[("OCL_ICD_VENDORS", folder.path()), ("OCL_ICD_FILENAMES", Path::new("/nonexistent/opencl"))], &says);
    // A driver that is registered and missing is none.
    std::fs::write(folder.path().join("missing.icd"), "/nonexistent/libdriver.so\n").unwrap();
    ask(&[("OCL_ICD_VENDORS", folder.path()), ("OCL_ICD_FILENAMES", Path::new("/nonexistent/opencl"))], &says);
}
