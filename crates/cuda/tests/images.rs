//! What is compiled is kept on disk, and what is damaged there is compiled again. Alone in its process: it names the folder.

mod rig;

use std::fs;
use std::path::{Path, PathBuf};

use qiao_core::*;
use qiao_cuda::CudaBackend;

fn graph() -> Graph {
    let mut g = Graph::new();
    let x = g.bind("x", TensorDesc::new(DType::F32, &[64]).unwrap());
    let y = g.bind("y", TensorDesc::new(DType::F32, &[64]).unwrap());
    g.add_into(Op::Exp(NoAttrs {}), &[Some(x)], &[y]).unwrap();
    g
}

fn plan() -> Result<()> {
    // The device is dropped with its modules, so that the next one loads them again.
    CudaBackend.open(0)?.plan(&graph()).map(|_| ())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("cuda")).map(|all| all.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
}

fn name_folder(path: &Path) {
    // SAFETY: the only test of this process, which has no other thread that reads the environment.
    unsafe { std::env::set_var("QIAO_CACHE_DIR", path) };
}

#[test]
fn images_are_kept_and_mended() {
    let card = rig::card();
    let folder = tempfile::tempdir().unwrap();
    name_folder(folder.path());
    let first = card.compilations();
    plan().unwrap();
    assert_eq!(card.compilations(), first + 1);
    let kept = entries(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    plan().unwrap();
    assert_eq!(card.compilations(), first + 1, "it comes from the folder");

    let whole = fs::read(&kept[0]).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (i, damaged) in
        [flipped, whole[..whole.len() / 2].to_vec(), Vec::new(), b"QIAOIM01".to_vec()].iter().enumerate()
    {
        fs::write(&kept[0], damaged).unwrap();
        plan().unwrap();
        assert_eq!(card.compilations(), first + 2 + i as u64, "damage {i} is seen");
        assert_eq!(fs::read(&kept[0]).unwrap(), whole, "damage {i} is mended");
    }

    // Many at a time, as processes that start together.
    fs::remove_file(&kept[0]).unwrap();
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| plan().unwrap()))));
    assert_eq!(entries(folder.path()), kept);
    assert_eq!(fs::read(&kept[0]).unwrap(), whole);

    // A folder that can't be made is no error.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    name_folder(&file);
    plan().unwrap();

    // An image that the driver does not take is one, which names the compiler and the driver; so is one that was built in.
    card.fail("cuModuleLoadDataEx", 0, 2, 222);
    let error = plan().unwrap_err().to_string();
    assert!(error.contains("loading unit elementwise, compiled by NVRTC 13.901 for CUDA 13.0"), "{error}");
    card.forget();

    // A text that does not compile is one, with the compiler's words.
    card.fail_compilations(1);
    let error = plan().unwrap_err().to_string();
    assert!(error.contains("compiling unit elementwise"), "{error}");
    plan().unwrap();
}
