//! Whole models on the simulated CUDA card.

use std::path::{Path, PathBuf};

use qiao::{ModelOptions, Params};

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
fn every_golden_holds_on_the_simulated_card() {
    qiao_simcuda::install();
    let goldens = goldens();
    assert!(goldens.len() >= 15, "{goldens:?}");
    for golden in goldens {
        let model = on("cuda:0").load(golden.parent().unwrap()).unwrap();
        let found = qiao::compare(&model, &golden, None).unwrap();
        assert!(found.passed, "{}: {:?}", golden.display(), found.failures());
        assert_eq!(found.greedy_agreement.unwrap_or(1.0), 1.0, "{}", golden.display());
    }
}

#[test]
fn the_demo_says_on_the_card_what_it_says_on_the_processor() {
    qiao_simcuda::install();
    let text = |device: &str| {
        let model = on(device).demo().unwrap();
        let params = Params::new().max_tokens(24).temperature(0.0);
        let pieces = model.generate("床前明月光", &params).unwrap();
        pieces.map(|piece| piece.unwrap().text).collect::<String>()
    };
    assert_eq!(text("cuda:0"), text("cpu"));
}
