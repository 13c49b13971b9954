//! What is compiled is kept on disk; what is damaged there, and what the driver does not take, is compiled again. Alone in its
//! process: it names the folder.

mod rig;

use std::fs;
use std::path::{Path, PathBuf};

use qiao_core::*;
use qiao_opencl::OpenClBackend;

fn graph() -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", TensorDesc::new(DType::F32, &[64]).unwrap());
    let y = g.bind("y", TensorDesc::new(DType::F32, &[64]).unwrap());
    g.add_into(Op::Exp(NoAttrs {}), &[Some(x)], &[y]).unwrap();
    g
}

/// e^0 by a device that was opened for it and dropped with its programs.
fn one() -> Result<f32> {
    let device = OpenClBackend.open(0)?;
    let plan = device.plan(&graph())?;
    let mut run = rig::Run::new(&*device, &*plan, &[vec![0; 256], vec![0; 256]])?;
    run.execute(&*plan)?;
    Ok(f32::from_le_bytes(run.read(1)?[..4].try_into().unwrap()))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("opencl")).map(|all| all.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
}

fn set(name: &str, value: &Path) {
    // SAFETY: the only test of this process, which has no other thread that reads the environment.
    unsafe { std::env::set_var(name, value) };
}

#[test]
fn binaries_are_kept_and_mended() {
    if rig::devices() == 0 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    set("QIAO_CACHE_DIR", folder.path());
    set("QIAO_OPENCL_BINARIES", Path::new("0"));
    assert_eq!(one().unwrap(), 1.0);
    assert!(entries(folder.path()).is_empty(), "none is kept where none is wanted");

    set("QIAO_OPENCL_BINARIES", Path::new("1"));
    assert_eq!(one().unwrap(), 1.0);
    let kept = entries(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let made = fs::metadata(&kept[0]).unwrap().modified().unwrap();
    assert_eq!(one().unwrap(), 1.0);
    assert_eq!(fs::metadata(&kept[0]).unwrap().modified().unwrap(), made, "it comes from the folder");

    let whole = fs::read(&kept[0]).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    // A whole entry that no driver takes. One that begins like a driver's own is for the checksum to find: drivers may fall over it.
    let name = kept[0].file_stem().unwrap().to_str().unwrap();
    qiao_images::Entry::new("opencl", name).write(b"no binary at all");
    let refused = fs::read(&kept[0]).unwrap();
    let damaged = [flipped, whole[..whole.len() / 2].to_vec(), Vec::new()];
    for (i, bytes) in damaged.iter().chain([&refused]).enumerate() {
        fs::write(&kept[0], bytes).unwrap();
        assert_eq!(one().unwrap(), 1.0, "entry {i}");
        let now = fs::read(&kept[0]).unwrap();
        assert!(&now != bytes && now.starts_with(b"QIAOIM01"), "entry {i} is mended");
    }

    // A folder that can't be made is no error.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    set("QIAO_CACHE_DIR", &file);
    assert_eq!(one().unwrap(), 1.0);
}
