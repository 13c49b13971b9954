//! Weights that were packed before: the same results, without packing; and files that are not what they should be change nothing.

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::{SmallPages, config, cpu, fixtures, reference};
use qiao_core::{DType, Device, KvLayout};
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_engine::Result;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::session::Session;
use qiao_engine::stages::Placement;
use qiao_engine::weights::Weights;

/// A copy of a fixture, and a folder for what is packed of it.
struct Scene {
    folder: tempfile::TempDir,
    fixture: &'static str,
}

impl Scene {
    fn new(fixture: &'static str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("model")).unwrap();
        let scene = Scene { folder, fixture };
        std::fs::copy(fixtures().join(fixture).join("model.safetensors"), scene.model()).unwrap();
        scene
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model/model.safetensors")
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    fn load(
        &self,
        devices: &[&Arc<dyn Device>],
        dtype: Option<DType>,
        kept: Option<&Path>,
    ) -> Result<Arc<LoadedModel>> {
        let placement = Placement { devices: devices.iter().map(|&device| device.clone()).collect(), split: None };
        let options = LoadOptions { dtype, prepacked: kept.map(Path::to_path_buf), ..Default::default() };
        let (weights, config) = (Weights::open(self.model())?, config(self.fixture, "config.json"));
        LoadedModel::load(placement, &weights, config, &self.model(), options, &mut |_| {}).map(Arc::new)
    }

    /// What a model says, loaded with the folder that was written to.
    fn with(&self, device: &Arc<dyn Device>) -> Arc<LoadedModel> {
        self.load(&[device], None, Some(&self.kept())).unwrap()
    }

    fn names(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.kept()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn scalar() -> Arc<dyn Device> {
    cpu(Isa::Scalar).unwrap()
}

/// The bits of the logits of a prompt and of some steps.
fn bits(model: &Arc<LoadedModel>) -> Vec<u32> {
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    let prompt: Vec<u32> = (0..21).map(|i| (i * 37 + 3) % 128).collect();
    let mut all = session.prefill(&prompt, &|| false).unwrap().unwrap().to_vec();
    for id in [7, 9, 11] {
        all.extend(session.step(id).unwrap());
    }
    all.iter().map(|x| x.to_bits()).collect()
}

/// Writes what a model has packed to one file; where it is.
fn keep(scene: &Scene, model: &Arc<LoadedModel>) -> PathBuf {
    let mut written = model.prepack(&scene.kept(), &|| false).unwrap().unwrap();
    assert_eq!(written.len(), 1);
    let file = written.remove(0);
    assert_eq!(file.bytes, std::fs::metadata(&file.path).unwrap().len());
    file.path
}

/// Whether every weight came from a file, or none did and nothing was refused.
fn is_used(model: &Arc<LoadedModel>) -> bool {
    let weights = model.packed_weights();
    assert!(weights.refused.is_empty(), "{weights:?}");
    assert!(weights.packed == 0 || weights.mapped == 0, "{weights:?}");
    weights.mapped > 0
}

fn refusal(model: &Arc<LoadedModel>) -> String {
    let mut weights = model.packed_weights();
    assert_eq!((weights.mapped, weights.refused.len()), (0, 1));
    weights.refused.remove(0)
}

#[test]
fn a_model_says_the_same_with_weights_that_were_packed_before() {
    for (fixture, dtype) in [("llama3-gqa", None), ("llama3-gqa-bf16", None), ("qwen2-bias", Some(DType::BF16))] {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx] {
            let Some(device) = cpu(isa) else { continue };
            let (scene, devices) = (Scene::new(fixture), [device]);
            let model = scene.load(&devices.each_ref(), dtype, None).unwrap();
            assert!(!is_used(&model));
            let path = keep(&scene, &model);
            assert_eq!(scene.names(), [path], "and nothing else");
            let again = scene.load(&devices.each_ref(), dtype, Some(&scene.kept())).unwrap();
            assert!(is_used(&again));
            assert_eq!(bits(&again), bits(&model), "{fixture} {isa:?}");
            assert_eq!(again.weight_bytes(), model.weight_bytes());
        }
    }
}

/// The weights really come from the file: another content says something else.
#[test]
fn what_the_file_holds_is_what_runs() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    let model = scene.load(&[&device], None, None).unwrap();
    let path = keep(&scene, &model);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - (1 << 14);
    bytes[end..].iter_mut().for_each(|b| *b ^= 1);
    std::fs::write(&path, bytes).unwrap();
    let other = scene.with(&device);
    assert!(is_used(&other));
    assert_ne!(bits(&other), bits(&model));
}

#[test]
fn a_file_of_other_weights_or_another_device_is_not_found() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    keep(&scene, &scene.load(&[&device], None, None).unwrap());
    if let Some(other) = cpu(Isa::Avx2) {
        assert!(!is_used(&scene.with(&other)));
    }
    // Weights stay as they are stored, whatever is computed in, and threads change no layout.
    let narrow = scene.load(&[&device], Some(DType::BF16), Some(&scene.kept())).unwrap();
    assert_eq!(bits(&narrow), bits(&scene.load(&[&device], Some(DType::BF16), None).unwrap()));
    assert!(is_used(&narrow));
    let one = CpuOptions { isa: Some(Isa::Scalar), threads: Some(1), ..Default::default() };
    assert!(is_used(&scene.with(&(Arc::new(CpuDevice::with(&one).unwrap()) as Arc<dyn Device>))));
    // One bit of one weight, and the length is the same.
    let mut bytes = std::fs::read(scene.model()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(scene.model(), bytes).unwrap();
    let changed = scene.with(&device);
    assert!(!is_used(&changed));
    assert_eq!(bits(&changed), bits(&scene.load(&[&device], None, None).unwrap()));
}

#[test]
fn a_damaged_file_is_told_and_everything_is_packed_anew() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    let model = scene.load(&[&device], None, None).unwrap();
    let path = keep(&scene, &model);
    let whole = std::fs::read(&path).unwrap();
    let (want, header) = (bits(&model), 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize);
    let probe = |bytes: &mut Vec<u8>| bytes[header] ^= 1;
    type Damage<'a> = (&'static str, &'a dyn Fn(&mut Vec<u8>));
    let damages: [Damage<'_>; 6] = [
        ("cut off", &|bytes| bytes.truncate(header + 5)),
        ("empty", &|bytes| bytes.clear()),
        ("a length beyond the file", &|bytes| bytes[..8].fill(0xff)),
        ("no JSON", &|bytes| bytes[9] = 0),
        ("what another build packed", &probe),
        ("a tensor within a page", &|bytes| {
            let text = String::from_utf8(bytes[8..header].to_vec()).unwrap().trim_end().to_string();
            let data = bytes.split_off(header);
            *bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat();
        }),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let loaded = scene.with(&device);
        let why = refusal(&loaded);
        assert!(why.contains(path.to_str().unwrap()) && why.contains("qiao prepack"), "{what}: {why}");
        assert_eq!(bits(&loaded), want, "{what}");
        // Written again it is whole.
        keep(&scene, &loaded);
        assert_eq!(std::fs::read(&path).unwrap(), whole, "{what}");
    }
}

#[test]
fn two_stages_on_devices_of_one_kind_share_a_file() {
    let (scene, devices) = (Scene::new("llama3-gqa"), [scalar(), scalar()]);
    let model = scene.load(&devices.each_ref(), None, None).unwrap();
    keep(&scene, &model);
    let again = scene.load(&devices.each_ref(), None, Some(&scene.kept())).unwrap();
    assert!(is_used(&again));
    assert_eq!(bits(&again), bits(&model));
    // And so does one device that has all layers.
    assert!(is_used(&scene.with(&devices[0])));
}

#[test]
fn devices_that_gain_nothing_say_so() {
    let scene = Scene::new("llama3-gqa");
    let refused = |device: Arc<dyn Device>| {
        let model = scene.load(&[&device], None, Some(&scene.kept())).unwrap();
        model.prepack(&scene.kept(), &|| false).unwrap_err().to_string()
    };
    for device in [reference(), SmallPages::over(scalar(), KvLayout::BlockTokenHead, 16)] {
        let why = refused(device);
        assert!(why.contains("does not read files where they are mapped"), "{why}");
    }
    assert!(!scene.kept().exists(), "nothing was written");
}

#[test]
fn a_folder_that_can_not_be_made_is_one_error() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    let model = scene.load(&[&device], None, None).unwrap();
    std::fs::write(scene.kept(), "a file").unwrap();
    let why = model.prepack(&scene.kept(), &|| false).unwrap_err().to_string();
    assert!(why.contains(scene.kept().to_str().unwrap()), "{why}");
}

/// What a file lacks is packed, and what it has is not.
#[test]
fn a_file_with_a_part_of_the_weights_is_used_for_these() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    let model = scene.load(&[&device], None, None).unwrap();
    let path = keep(&scene, &model);
    let all = model.packed_weights().packed;
    let bytes = std::fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    let other = header.replace("layers.1.self_attn.q_proj", "layers.9.self_attn.q_proj");
    assert_ne!(other, header);
    std::fs::write(&path, [&bytes[..8], other.as_bytes(), &bytes[end..]].concat()).unwrap();
    let part = scene.with(&device);
    let weights = part.packed_weights();
    assert_eq!((weights.packed, weights.mapped, weights.refused.len()), (1, all - 1, 0));
    assert_eq!(bits(&part), bits(&model));
}

#[test]
fn writing_that_is_stopped_leaves_what_was_there() {
    let (scene, device) = (Scene::new("llama3-gqa"), scalar());
    let model = scene.load(&[&device], None, None).unwrap();
    assert_eq!(model.prepack(&scene.kept(), &|| true).unwrap(), None);
    assert!(scene.names().is_empty());
    let path = keep(&scene, &model);
    let before = std::fs::read(&path).unwrap();
    assert_eq!(model.prepack(&scene.kept(), &|| true).unwrap(), None);
    assert_eq!((scene.names(), std::fs::read(&path).unwrap()), (vec![path], before));
}
