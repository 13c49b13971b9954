//! Whole models on OpenCL devices.

use std::path::{Path, PathBuf};

use qiao::{ModelOptions, Params};

/// The OpenCL devices of this machine; none where it has no OpenCL, which is told.
///
/// # Panics
/// There is none, and `QIAO_REQUIRE_OPENCL=1`.
fn devices() -> Vec<String> {
    let listing = qiao::registry().list().into_iter().find(|l| l.backend == "opencl").expect("it was compiled in");
    match listing.devices {
        Ok(found) => (0..found.len()).map(|i| format!("opencl:{i}")).collect(),
        Err(why) if std::env::var("QIAO_REQUIRE_OPENCL").is_ok_and(|v| v == "1") => panic!("{why}"),
        Err(why) => {
            println!("skipped: OpenCL: {why}");
            Vec::new()
        }
    }
}

fn on(device: &str) -> ModelOptions {
    ModelOptions::new().device(device)
}

/// Every golden file beside a fixture's `config.json`; the others belong to other configs.
fn goldens() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folders = std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| ["golden.safetensors", "golden.short.safetensors"].map(|f| folder.join(f)));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn every_golden_holds_with_the_same_greedy_tokens() {
    let Some(device) = devices().into_iter().next() else { return };
    let goldens = goldens();
    assert!(goldens.len() >= 15, "{goldens:?}");
    for golden in goldens {
        let start = std::time::Instant::now();
        let model = on(&device).load(golden.parent().unwrap()).unwrap();
        let found = qiao::compare(&model, &golden, None).unwrap();
        assert!(found.passed, "{}: {:?}", golden.display(), found.failures());
        assert_eq!(found.greedy_agreement.unwrap_or(1.0), 1.0, "{}", golden.display());
        println!("{:6} ms {}", start.elapsed().as_millis(), golden.display());
    }
}

#[test]
fn the_demo_says_on_every_device_what_it_says_on_the_processor() {
    let text = |device: &str| {
        let model = on(device).demo().unwrap();
        let params = Params::new().max_tokens(24).temperature(0.0);
        let pieces = model.generate("床前明月光", &params).unwrap();
        pieces.map(|piece| piece.unwrap().text).collect::<String>()
    };
    for device in devices() {
        assert_eq!(text(&device), text("cpu"), "{device}");
    }
}
