//! The simulated NPU as its plugin, and models small enough for it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qiao::core::{Backend, Error};
use qiao::plugin::{Options, Plugin, PluginBackend};
use qiao::{Device, Model, ModelOptions, Params};

/// The plugin with these options, each `key=value`.
pub(crate) fn plugin(options: &[&str]) -> Arc<PluginBackend> {
    let library = qiao_simnpu::library().expect("cargo builds the plugin beside the tests that use it");
    Plugin::load(library, &Options::parse(options).unwrap()).unwrap()
}

/// Its first device.
pub(crate) fn device(options: &[&str]) -> Arc<dyn Device> {
    plugin(options).open(0).unwrap()
}

/// The folders of the tiny checkpoints of all families.
pub(crate) fn families() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folders = std::fs::read_dir(fixtures).unwrap().map(|e| e.unwrap().path());
    let mut families: Vec<_> = folders.filter(|f| f.join("config.json").exists()).collect();
    families.sort();
    assert!(families.len() >= 10, "{families:?}");
    families
}

/// A tiny checkpoint.
pub(crate) fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub(crate) fn load(device: &Arc<dyn Device>, folder: &Path) -> qiao::Result<Model> {
    ModelOptions::new().on(device.clone()).load(folder)
}

/// Parameters under which a model says the same again.
pub(crate) fn greedy(tokens: usize) -> Params {
    Params::new().temperature(0.0).max_tokens(tokens).ignore_eos(true)
}

/// What a model says after a prompt that each vocabulary has.
pub(crate) fn tokens(model: &Model, params: &Params) -> qiao::Result<Vec<u32>> {
    Ok(model.generate(prompt(), params)?.collect_all()?.token_ids)
}

pub(crate) fn prompt() -> Vec<u32> {
    (1..=19).collect()
}

/// The error of the contract behind an error.
pub(crate) fn cause(error: &qiao::Error) -> Error {
    match error {
        qiao::Error::Device(Error::Poisoned { first }) => (**first).clone(),
        qiao::Error::Device(error) => error.clone(),
        other => panic!("no device said it: {other}"),
    }
}
