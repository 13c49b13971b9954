//! A model on several devices says what it says on one: with the same kind of device everywhere to the bit, in every split.

mod fixture;

use std::sync::Arc;

use fixture::{SmallPages, config, cpu, load, load_across, load_as, reference};
use qiao_core::{DType, Device, KvLayout};
use qiao_cpu::Isa;
use qiao_engine::EngineError;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::serve::{CacheOptions, Entry, Executor, PagedExecutor};
use qiao_engine::session::{ChunkOutput, Session};

fn scalar() -> Arc<dyn Device> {
    cpu(Isa::Scalar).unwrap()
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i / 5 + 3) % 128).collect()
}

/// Every way to put layers onto devices, each at least one.
fn splits(layers: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![layers]];
    for first in 1..layers {
        all.extend(splits(layers - first).into_iter().map(|rest| [vec![first], rest].concat()));
    }
    all
}

/// The bits of all logits and residual streams of a prompt in chunks, then those of some steps, each with the likeliest token.
fn all_bits(model: &Arc<LoadedModel>, prompt: &[u32], chunk: usize) -> Vec<u32> {
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    let mut found = Vec::new();
    let mut sink = |out: ChunkOutput<'_>| {
        assert_eq!(out.hidden.len(), model.spec().layers);
        found.extend(out.logits.iter().chain(out.hidden.iter().flatten()).map(|x| x.to_bits()));
        Ok(())
    };
    session.prefill_all(prompt, chunk, true, &mut sink).unwrap();
    found.extend(greedy(&mut session, 3, 8).1);
    found
}

fn greedy(session: &mut Session, first: u32, steps: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut bits, mut next) = (Vec::new(), Vec::new(), first);
    for _ in 0..steps {
        let logits = session.step(next).unwrap();
        bits.extend(logits.iter().map(|x| x.to_bits()));
        next = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        tokens.push(next);
    }
    (tokens, bits)
}

fn said(model: &Arc<LoadedModel>) -> Vec<u32> {
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    session.prefill(&ids(21), &|| false).unwrap();
    greedy(&mut session, 7, 16).0
}

#[test]
fn every_split_gives_the_bits_of_one_device() {
    let dirs = [("llama3-gqa-bf16", DType::BF16), ("mistral-window", DType::F32), ("llama-dynamic", DType::F16)];
    for (dir, dtype) in dirs.into_iter().chain([("qwen3-qknorm", DType::F32)]) {
        for device in [scalar(), reference()] {
            let options = || LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
            let whole = load_as(&device, dir, config(dir, "config.json"), options()).unwrap();
            let want = all_bits(&whole, &ids(30), 7);
            for split in splits(whole.spec().layers) {
                let devices = vec![device.clone(); split.len()];
                let model = load_across(&devices, Some(&split), dir, options()).unwrap();
                let on: Vec<usize> = model.placed().map(|(_, layers)| layers).collect();
                assert_eq!(on, split);
                assert!(all_bits(&model, &ids(30), 7) == want, "{dir} split as {split:?} on {}", device.info().name);
                assert_eq!(model.stored_weights(), whole.stored_weights(), "a tied head counts once");
                let entries = model.account().unwrap().entries.len();
                assert_eq!(entries, whole.account().unwrap().entries.len(), "the same operators in all");
            }
        }
    }
}

#[test]
fn devices_of_other_kinds_and_pages_say_the_same() {
    for dir in ["llama3-gqa", "mistral-window", "qwen2-bias"] {
        let want = said(&load(&scalar(), dir, "config.json", None));
        let paged = SmallPages::over(reference(), KvLayout::BlockTokenHead, 16);
        for devices in [[scalar(), reference()], [reference(), scalar()], [scalar(), paged.clone()], [paged, scalar()]]
        {
            let model = load_across(&devices, None, dir, LoadOptions::default()).unwrap();
            assert_eq!(model.placed().count(), 2);
            assert_eq!(said(&model), want, "{dir}");
        }
    }
}

#[test]
fn a_session_s_file_moves_between_splits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = load(&scalar(), "mistral-window", "config.json", None);
    let paged = SmallPages::over(scalar(), KvLayout::BlockTokenHead, 16);
    let across = load_across(&[scalar(), paged], Some(&[2, 1]), "mistral-window", LoadOptions::default()).unwrap();
    let file = |model: &Arc<LoadedModel>, name: &str| {
        let mut session = Session::new(model.clone(), 100).unwrap();
        session.prefill(&ids(33), &|| false).unwrap();
        let path = folder.path().join(name);
        session.save(&path).unwrap();
        (path, greedy(&mut session, 9, 6))
    };
    let (of_whole, want) = file(&whole, "whole");
    let (of_across, found) = file(&across, "across");
    assert!(found == want);
    assert_eq!(std::fs::read(&of_whole).unwrap(), std::fs::read(&of_across).unwrap());
    for (model, path) in [(&whole, &of_across), (&across, &of_whole)] {
        let mut session = Session::restore(model.clone(), path, 100).unwrap();
        assert_eq!((session.len(), session.capacity() >= 100), (33, true));
        assert!(greedy(&mut session, 9, 6) == want);
        session.truncate(33);
        assert!(greedy(&mut session, 9, 6) == want, "cut on every device");
    }
}

#[test]
fn a_pool_has_blocks_of_one_size_on_all_devices() {
    let small = |size| SmallPages::over(scalar(), KvLayout::BlockTokenHead, size);
    let pool = |devices: &[Arc<dyn Device>], options| {
        let model = load_across(devices, None, "llama3-gqa", LoadOptions::default()).unwrap();
        PagedExecutor::new(model, options)
    };
    let options = CacheOptions { bytes: Some(1 << 20), ..CacheOptions::default() };
    let whole = pool(&[scalar()], CacheOptions { block_size: Some(16), ..options }).unwrap().limits();
    assert_eq!(pool(&[scalar(), small(16)], options).unwrap().limits(), whole, "the bytes are those of all devices");
    assert_eq!(pool(&[small(16), scalar()], options).unwrap().limits(), whole);
    let error = pool(&[small(16), small(32)], options).err().unwrap().to_string();
    assert!(error.contains("the same on all devices") && error.contains("16 and 32"), "{error}");
    let error =
        pool(&[scalar(), small(32)], CacheOptions { block_size: Some(16), ..options }).err().unwrap().to_string();
    assert!(error.contains("its pages have 32 tokens"), "{error}");
}

#[test]
fn blocks_are_copied_saved_and_restored_on_all_devices() {
    let paged = SmallPages::over(reference(), KvLayout::BlockTokenHead, 4);
    for kv_dtype in [None, Some(DType::I8)] {
        let options = LoadOptions { kv_dtype, ..LoadOptions::default() };
        let model = load_across(&[reference(), paged.clone()], Some(&[1, 2]), "mistral-window", options).unwrap();
        let options = CacheOptions { bytes: Some(1 << 20), block_size: None, batch_tokens: 48, batch_sequences: 5 };
        let mut pool = PagedExecutor::new(model, options).unwrap();
        let before = ids(10);
        pool.run(&[Entry { ids: &before, start: 0, table: &[1, 2, 3], rows: 0 }]).unwrap();
        let next = |pool: &mut PagedExecutor, table: &[i32]| {
            pool.run(&[Entry { ids: &[11], start: 10, table, rows: 1 }]).unwrap().to_vec()
        };
        let want = next(&mut pool, &[1, 2, 3]);
        pool.copy(&[(1, 9), (2, 8), (3, 7)]).unwrap();
        let saved = pool.save(&[9, 8, 7]).unwrap();
        assert_eq!(saved.bytes.len() as u64, 3 * pool.limits().block_bytes);
        pool.restore(&saved, 1, &[5, 6]).unwrap();
        pool.restore(&saved, 0, &[4]).unwrap();
        for table in [[9, 8, 7], [4, 5, 6]] {
            assert_eq!(next(&mut pool, &table), want, "{table:?}");
        }
        assert_ne!(next(&mut pool, &[10, 11, 12]), want, "blocks that nobody wrote");
    }
}

#[test]
fn splits_that_do_not_fit_are_refused() {
    let devices = |count| vec![scalar(); count];
    let refused = |count, split: Option<&[usize]>| {
        let loaded = load_across(&devices(count), split, "mistral-window", LoadOptions::default());
        loaded.err().map(|error: EngineError| error.to_string())
    };
    assert!(refused(3, None).is_none() && refused(3, Some(&[1, 1, 1])).is_none());
    let splits: [&[usize]; 7] = [&[], &[3], &[1, 1], &[0, 3], &[3, 1], &[1, 1, 1], &[usize::MAX, 4]];
    for split in splits {
        let error = refused(2, Some(split)).unwrap();
        assert!(error.contains("split must be") && error.contains("2 devices and 3 layers"), "{error}");
    }
    for count in [0, 4] {
        let error = refused(count, None).unwrap();
        assert!(error.contains(&format!("{count} devices for 3 layers")), "{error}");
    }
}

#[test]
fn what_looks_at_single_operators_takes_one_device() {
    let across = load_across(&[scalar(), scalar()], None, "llama3-gqa", LoadOptions::default()).unwrap();
    let squares = qiao_engine::calibrate::channel_squares(&across, &ids(9), 9, &|| false, &mut |_, _| {});
    let error = squares.err().unwrap();
    assert!(matches!(error, EngineError::SeveralDevices { devices: 2, .. }), "{error}");
}
