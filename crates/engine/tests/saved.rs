//! Sessions in files: what comes back is what was there, or an error that says what differs.

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::{SmallPages, config, cpu, fixtures, load, load_as, reference};
use proptest::prelude::*;
use qiao_core::{DType, Device, KvLayout};
use qiao_cpu::Isa;
use qiao_engine::EngineError;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::session::Session;

/// Bytes of the header; token ids follow.
const HEADER: usize = 112;

fn scalar() -> Arc<dyn Device> {
    cpu(Isa::Scalar).unwrap()
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i / 5 + 3) % 128).collect()
}

fn session(model: &Arc<LoadedModel>, tokens: usize) -> Session {
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    if tokens > 0 {
        session.prefill(&ids(tokens), &|| false).unwrap();
    }
    session
}

/// Greedy tokens and the bits of all logits on the way.
fn go_on(session: &mut Session, first: u32, steps: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut bits, mut next) = (Vec::new(), Vec::new(), first);
    for _ in 0..steps {
        let logits = session.step(next).unwrap();
        bits.extend(logits.iter().map(|x| x.to_bits()));
        next = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        tokens.push(next);
    }
    (tokens, bits)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn refusal(model: &Arc<LoadedModel>, path: &Path) -> EngineError {
    Session::restore(model.clone(), path, 0).err().expect("the file is refused")
}

#[test]
fn a_restored_session_goes_on_bit_for_bit() {
    let dirs = [("llama3-gqa", None), ("llama3-gqa-bf16", Some(DType::BF16)), ("qwen3-qknorm", Some(DType::F16))];
    for (dir, dtype) in dirs.into_iter().chain([("mistral-window", None), ("llama-dynamic", None)]) {
        for device in [reference(), scalar()] {
            let (folder, model) = (Folder::new(), load(&device, dir, "config.json", dtype));
            let mut saved = session(&model, 40);
            go_on(&mut saved, 9, 3);
            saved.save(folder.file("s")).unwrap();
            let mut restored = Session::restore(model.clone(), folder.file("s"), model.context()).unwrap();
            assert_eq!((restored.tokens(), restored.len()), (saved.tokens(), 43));
            assert_eq!(go_on(&mut restored, 5, 12), go_on(&mut saved, 5, 12), "{dir}");
            assert_eq!(restored.tokens(), saved.tokens());
        }
    }
}

#[test]
fn caches_of_codes_come_back_with_their_scales() {
    for kv_dtype in [DType::I8, DType::F8E4M3] {
        let options = || LoadOptions { kv_dtype: Some(kv_dtype), ..LoadOptions::default() };
        let config = || config("llama3-gqa", "config.json");
        let (folder, model) = (Folder::new(), load_as(&reference(), "llama3-gqa", config(), options()).unwrap());
        let mut saved = session(&model, 21);
        saved.save(folder.file("s")).unwrap();
        let mut restored = Session::restore(model.clone(), folder.file("s"), 64).unwrap();
        assert_eq!(go_on(&mut restored, 5, 6), go_on(&mut saved, 5, 6), "{kv_dtype}");
        let plain = load(&reference(), "llama3-gqa", "config.json", None);
        let text = refusal(&plain, &folder.file("s")).to_string();
        assert!(text.contains(&format!("{kv_dtype} as the dtype of keys and values, this one has f32")), "{text}");
    }
}

#[test]
fn a_file_fits_every_layout_and_block_size() {
    let folder = Folder::new();
    let plain = load(&reference(), "llama3-gqa", "config.json", None);
    for tokens in [0, 1, 15, 16, 17, 32, 50] {
        let mut first = session(&plain, tokens);
        first.save(folder.file("first")).unwrap();
        let first_bytes = std::fs::read(folder.file("first")).unwrap();
        for layout in [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken] {
            let model = load(&SmallPages::over(reference(), layout, 16), "llama3-gqa", "config.json", None);
            let mut moved = Session::restore(model, folder.file("first"), 100).unwrap();
            moved.save(folder.file("second")).unwrap();
            assert_eq!(std::fs::read(folder.file("second")).unwrap(), first_bytes, "{tokens} tokens, {layout:?}");
            let mut back = Session::restore(plain.clone(), folder.file("second"), 100).unwrap();
            let mut again = Session::restore(plain.clone(), folder.file("first"), 100).unwrap();
            assert_eq!(go_on(&mut back, 7, 3), go_on(&mut again, 7, 3));
        }
    }
    assert_eq!(folder.names().len(), 2, "nothing is left beside the files");
}

#[test]
fn room_is_for_the_tokens_asked_for_and_those_of_the_file() {
    let (folder, model) = (Folder::new(), load(&scalar(), "llama2-mha", "config.json", None));
    session(&model, model.context()).save(folder.file("full")).unwrap();
    let mut full = Session::restore(model.clone(), folder.file("full"), 3).unwrap();
    assert_eq!((full.len(), full.capacity()), (128, 128));
    assert!(matches!(full.step(1), Err(EngineError::PromptTooLong { tokens: 129, context: 128 })));
    full.truncate(100);
    assert_eq!(full.tokens(), ids(100));
    go_on(&mut full, 1, 5);
    let options = LoadOptions { context: Some(100), ..LoadOptions::default() };
    let short = load_as(&scalar(), "llama2-mha", config("llama2-mha", "config.json"), options).unwrap();
    let error = refusal(&short, &folder.file("full"));
    assert!(matches!(error, EngineError::PromptTooLong { tokens: 128, context: 100 }), "{error}");
}

#[test]
fn a_file_of_another_model_is_refused_and_the_error_says_what_differs() {
    let folder = Folder::new();
    let saved = load(&scalar(), "llama3-gqa", "config.json", None);
    session(&saved, 9).save(folder.file("s")).unwrap();
    let mut theta = config("llama3-gqa", "config.json");
    theta.rope.theta *= 2.0;
    let mut eps = config("llama3-gqa", "config.json");
    eps.rms_norm_eps *= 2.0;
    let others = [
        (load(&scalar(), "llama2-mha", "config.json", None), "heads of keys and values"),
        (load(&scalar(), "llama3-gqa", "config.json", Some(DType::BF16)), "dtype of keys and values"),
        (load_as(&scalar(), "llama3-gqa", theta, LoadOptions::default()).unwrap(), "sum of config.json"),
        (load_as(&scalar(), "llama3-gqa", eps, LoadOptions::default()).unwrap(), "sum of config.json"),
    ];
    for (model, what) in others {
        let error = refusal(&model, &folder.file("s"));
        assert!(matches!(error, EngineError::OtherSession { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}: {what}");
    }
}

#[test]
fn a_file_of_other_weights_is_refused() {
    let folder = Folder::new();
    let copy = folder.file("model");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixtures().join("llama3-gqa").join(name), copy.join(name)).unwrap();
    }
    let device = scalar();
    let load = || load_as(&device, copy.to_str().unwrap(), config("llama3-gqa", "config.json"), LoadOptions::default());
    session(&load().unwrap(), 9).save(folder.file("s")).unwrap();
    assert!(Session::restore(load().unwrap(), folder.file("s"), 0).is_ok());
    let mut bytes = std::fs::read(copy.join("model.safetensors")).unwrap();
    // A file of this size is sampled at a few places, the last bytes among them.
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    std::fs::write(copy.join("model.safetensors"), &bytes).unwrap();
    let error = refusal(&load().unwrap(), &folder.file("s"));
    assert!(error.to_string().contains("sum of the weights"), "{error}");
}

/// A model and the bytes of a small session of it.
fn small() -> (Arc<LoadedModel>, Vec<u8>) {
    let (folder, model) = (Folder::new(), load(&scalar(), "llama3-gqa", "config.json", None));
    session(&model, 5).save(folder.file("s")).unwrap();
    (model, std::fs::read(folder.file("s")).unwrap())
}

#[test]
fn every_changed_byte_is_found() {
    let (model, bytes) = small();
    let folder = Folder::new();
    let ids_end = HEADER + 5 * 4;
    let payload = (ids_end..bytes.len() - 32).step_by(97);
    for at in (0..ids_end).chain(payload).chain(bytes.len() - 32..bytes.len()) {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            std::fs::write(folder.file("s"), &changed).unwrap();
            let error = refusal(&model, &folder.file("s"));
            let known = matches!(
                error,
                EngineError::Malformed { .. } | EngineError::OtherSession { .. } | EngineError::PromptTooLong { .. }
            );
            assert!(known, "byte {at}: {error}");
        }
    }
}

#[test]
fn a_file_that_was_cut_off_or_goes_on_is_refused() {
    let (model, bytes) = small();
    let folder = Folder::new();
    for len in (0..bytes.len()).step_by(61).chain([HEADER - 1, HEADER, bytes.len() - 1]) {
        std::fs::write(folder.file("s"), &bytes[..len]).unwrap();
        let error = refusal(&model, &folder.file("s"));
        assert!(matches!(error, EngineError::Malformed { .. }), "{len} bytes: {error}");
    }
    std::fs::write(folder.file("s"), [&bytes[..], &[0]].concat()).unwrap();
    assert!(refusal(&model, &folder.file("s")).to_string().contains("session"));
}

#[test]
fn absurd_sizes_are_refused_by_what_the_file_weighs() {
    let (model, bytes) = small();
    let folder = Folder::new();
    for tokens in [0, 4, 6, 1 << 20, 1 << 40, u64::MAX / 4, u64::MAX] {
        let mut changed = bytes.clone();
        changed[40..48].copy_from_slice(&tokens.to_le_bytes());
        std::fs::write(folder.file("s"), &changed).unwrap();
        let text = refusal(&model, &folder.file("s")).to_string();
        assert!(text.contains(&format!("its {tokens} tokens make")), "{text}");
    }
    for at in [12, 16, 20] {
        let mut changed = bytes.clone();
        changed[at..at + 4].fill(0xff);
        std::fs::write(folder.file("s"), &changed).unwrap();
        let error = refusal(&model, &folder.file("s"));
        assert!(matches!(error, EngineError::OtherSession { .. }), "{error}");
    }
}

#[test]
fn what_is_no_file_is_an_error() {
    let folder = Folder::new();
    let model = load(&scalar(), "llama3-gqa", "config.json", None);
    for name in ["absent", ""] {
        assert!(matches!(refusal(&model, &folder.file(name)), EngineError::Io { .. }));
    }
}

#[test]
fn a_save_that_fails_leaves_what_was_there_and_nothing_else() {
    let (folder, model) = (Folder::new(), load(&scalar(), "llama3-gqa", "config.json", None));
    let mut s = session(&model, 5);
    std::fs::create_dir(folder.file("taken")).unwrap();
    for path in [folder.file("taken"), folder.file("absent/s"), PathBuf::from("/")] {
        assert!(matches!(s.save(&path), Err(EngineError::Io { .. })), "{}", path.display());
    }
    assert_eq!(folder.names(), ["taken"]);
    s.save(folder.file("s")).unwrap();
    s.step(1).unwrap();
    s.save(folder.file("s")).unwrap();
    assert_eq!(
        Session::restore(model, folder.file("s"), 0).unwrap().len(),
        6,
        "a second save takes the first one's place"
    );
    assert_eq!(folder.names().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_panics_and_none_but_the_saved_one_is_taken(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        in_header in any::<bool>(),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        thread_local!(static SMALL: (Arc<LoadedModel>, Vec<u8>, Folder) = {
            let (model, bytes) = small();
            (model, bytes, Folder::new())
        });
        SMALL.with(|(model, bytes, folder)| {
            let mut changed = bytes.clone();
            let reach = if in_header { HEADER } else { changed.len() };
            for (at, value) in &edits {
                changed[at.index(reach)] = *value;
            }
            if let Some(cut) = cut {
                changed.truncate(cut.index(changed.len()));
            }
            changed.extend(&tail);
            std::fs::write(folder.file("s"), &changed).unwrap();
            let taken = Session::restore(model.clone(), folder.file("s"), 0).is_ok();
            prop_assert_eq!(taken, changed == *bytes);
            Ok(())
        })?;
    }
}
