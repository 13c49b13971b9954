//! Batches over a pool of pages: what a token's logits may depend on, and that blocks move unchanged.

mod fixture;

use std::sync::Arc;

use fixture::{config, cpu, load, load_across, load_as, reference};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use qiao_core::{DType, Device};
use qiao_cpu::Isa;
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::serve::{CacheOptions, Entry, Executor, HostBlocks, PagedExecutor};
use qiao_engine::session::Session;
use qiao_layers::Faulty;
use qiao_layers::faulty::{Command, Fault, Rule, When};

fn executor(model: &Arc<LoadedModel>, block_size: usize) -> PagedExecutor {
    let options = CacheOptions { bytes: None, block_size: Some(block_size), batch_tokens: 48, batch_sequences: 5 };
    PagedExecutor::new(model.clone(), options).unwrap()
}

/// Logits of every position of a lone sequence, `[T, vocab]`.
fn alone(model: &Arc<LoadedModel>, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = Session::new(model.clone(), model.context()).unwrap();
    let mut keep = |out: qiao_engine::session::ChunkOutput<'_>| {
        all.extend_from_slice(out.logits);
        Ok(())
    };
    session.prefill_all(ids, usize::MAX, false, &mut keep).unwrap();
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A sequence of a crowd: its tokens, its blocks, and how many of its tokens have run.
struct Member {
    ids: Vec<u32>,
    table: Vec<i32>,
    done: usize,
}

/// Gives each sequence blocks of its own from the back of the pool, every other one of them in turn.
fn crowd(texts: &[Vec<u32>], pool: &PagedExecutor) -> Vec<Member> {
    let limits = pool.limits();
    let mut free: Vec<i32> = (1..limits.blocks as i32).collect();
    free.sort_by_key(|b| (b % 3, -b));
    let take = |ids: &Vec<u32>| {
        let table = free.drain(..ids.len().div_ceil(limits.block_size)).collect();
        Member { ids: ids.clone(), table, done: 0 }
    };
    texts.iter().map(take).collect()
}

/// Runs a batch of the next `counts` tokens of each sequence and compares every row with that of the sequence alone.
fn run_and_compare(pool: &mut PagedExecutor, crowd: &mut [Member], counts: &[usize], truth: &[Vec<f32>]) {
    let vocab = pool.limits().vocab;
    let part = |(i, count): (usize, &usize)| {
        let m = &crowd[i];
        let count = (*count).min(m.ids.len() - m.done);
        // Every other one wants its last row alone.
        (i, count, if i % 2 == 0 { count } else { count.min(1) })
    };
    let parts: Vec<_> = counts.iter().enumerate().map(part).filter(|(_, count, _)| *count > 0).collect();
    if parts.is_empty() {
        return;
    }
    let entry = |&(i, count, rows): &(usize, usize, usize)| {
        let m = &crowd[i];
        Entry { ids: &m.ids[m.done..m.done + count], start: m.done, table: &m.table, rows }
    };
    let entries: Vec<_> = parts.iter().map(entry).collect();
    let logits = pool.run(&entries).unwrap();
    let mut found = logits.chunks_exact(vocab);
    for (i, count, rows) in parts {
        crowd[i].done += count;
        for t in crowd[i].done - rows..crowd[i].done {
            let expected = &truth[i][t * vocab..][..vocab];
            let same = bits(found.next().unwrap()) == bits(expected);
            assert!(same, "sequence {i} says something else at position {t} than alone");
        }
    }
    assert!(found.next().is_none());
}

fn a_crowd_says_what_each_says_alone(model: &Arc<LoadedModel>, cases: u32) {
    let vocab = model.spec().vocab as u32;
    let texts = prop::collection::vec(prop::collection::vec(0..vocab, 1..40), 1..6);
    let steps = prop::collection::vec(prop::collection::vec(0usize..10, 5), 60);
    let sizes = prop::sample::select(vec![1usize, 3, 8, 16]);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(texts, steps, sizes), |(texts, steps, size)| {
            let mut pool = executor(model, size);
            let truth: Vec<_> = texts.iter().map(|ids| alone(model, ids)).collect();
            let mut crowd = crowd(&texts, &pool);
            for counts in &steps {
                run_and_compare(&mut pool, &mut crowd, &counts[..texts.len()], &truth);
            }
            prop_assert!(crowd.iter().all(|m| m.done > 0));
            Ok(())
        })
        .unwrap();
}

#[test]
fn on_the_reference_a_crowd_says_what_each_says_alone() {
    for dir in ["llama3-gqa", "mistral-window", "qwen3-qknorm"] {
        a_crowd_says_what_each_says_alone(&load(&reference(), dir, "config.json", None), 3);
    }
}

#[test]
fn on_the_cpu_a_crowd_says_what_each_says_alone() {
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
        let Some(device) = cpu(isa) else { continue };
        for (dir, dtype) in [("llama3-gqa", DType::F32), ("mistral-window", DType::F32), ("qwen3-qknorm", DType::BF16)]
        {
            a_crowd_says_what_each_says_alone(&load(&device, dir, "config.json", Some(dtype)), 6);
        }
    }
}

#[test]
fn quantised_pages_say_in_a_crowd_what_they_say_alone() {
    for device in [reference(), cpu(Isa::Scalar).unwrap(), cpu(Isa::Avx512).unwrap_or_else(reference)] {
        for kv in [DType::I8, DType::F8E4M3, DType::F8E5M2, DType::F16] {
            let options = LoadOptions { kv_dtype: Some(kv), ..LoadOptions::default() };
            let config = config("llama3-gqa", "config.json");
            let model = load_as(&device, "llama3-gqa", config, options).unwrap();
            assert_eq!(model.kv_dtype(), kv);
            a_crowd_says_what_each_says_alone(&model, 2);
        }
    }
}

#[test]
fn spread_over_devices_a_crowd_says_what_each_says_alone() {
    let cpu = || cpu(Isa::Scalar).unwrap();
    for (dir, devices) in [("llama3-gqa", vec![cpu(), cpu()]), ("mistral-window", vec![reference(), cpu(), cpu()])] {
        let model = load_across(&devices, None, dir, LoadOptions::default()).unwrap();
        a_crowd_says_what_each_says_alone(&model, 4);
    }
}

fn small(device: &Arc<dyn Device>) -> Arc<LoadedModel> {
    load(device, "llama3-gqa", "config.json", None)
}

#[test]
fn copied_saved_and_restored_blocks_go_on_as_their_originals() {
    let options = LoadOptions { kv_dtype: Some(DType::I8), ..LoadOptions::default() };
    let quantised = load_as(&reference(), "llama3-gqa", config("llama3-gqa", "config.json"), options).unwrap();
    for model in [small(&reference()), quantised] {
        let mut pool = executor(&model, 4);
        let ids: Vec<u32> = (1..12).collect();
        let truth = alone(&model, &ids);
        let last = &truth[truth.len() - model.spec().vocab..];
        let before = |table: &'static [i32]| Entry { ids: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], start: 0, table, rows: 0 };
        pool.run(&[before(&[1, 2, 3])]).unwrap();
        pool.copy(&[(1, 9), (2, 8), (3, 7)]).unwrap();
        let saved = pool.save(&[9, 8, 7]).unwrap();
        assert_eq!(saved.bytes.len() as u64, 3 * pool.limits().block_bytes);
        pool.restore(&saved, 1, &[5, 6]).unwrap();
        pool.restore(&saved, 0, &[4]).unwrap();
        for table in [[1, 2, 3], [9, 8, 7], [4, 5, 6]] {
            let found = pool.run(&[Entry { ids: &[11], start: 10, table: &table, rows: 1 }]).unwrap();
            assert_eq!(bits(found), bits(last), "{table:?}");
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_harms_nobody() {
    let model = small(&reference());
    let mut pool = executor(&model, 4);
    let good = Entry { ids: &[1, 2, 3], start: 0, table: &[1], rows: 1 };
    let first = pool.run(&[good]).unwrap().to_vec();
    let many = vec![1u32; 49];
    let long: Vec<i32> = (1..14).collect();
    let bad = [
        vec![],
        vec![good; 6],
        vec![Entry { ids: &many, table: &long, ..good }],
        vec![Entry { ids: &[], ..good }],
        vec![Entry { rows: 4, ..good }],
        vec![Entry { start: 2, ..good }],
        vec![Entry { start: usize::MAX, ..good }],
        vec![Entry { table: &[-1], ..good }],
        vec![Entry { table: &[i32::MAX], ..good }],
        vec![Entry { ids: &[u32::MAX], ..good }],
    ];
    for entries in &bad {
        assert!(pool.run(entries).is_err(), "{entries:?}");
    }
    assert!(pool.copy(&[(1, u32::MAX)]).is_err());
    assert!(pool.save(&[u32::MAX]).is_err());
    assert!(pool.restore(&HostBlocks::default(), 0, &[1]).is_err());
    assert!(pool.restore(&HostBlocks::default(), usize::MAX, &[1]).is_err());
    assert_eq!(bits(pool.run(&[good]).unwrap()), bits(&first));
}

#[test]
fn whichever_buffer_finds_no_room_earlier_steps_go_on_as_before() {
    for nth in 0.. {
        let rule = Rule { command: Command::Alloc, when: When::Nth(nth), fault: Fault::OutOfMemory };
        let (device, faults) = Faulty::wrap(cpu(Isa::Scalar).unwrap(), 1, vec![rule]);
        let mut pool = executor(&small(&device), 4);
        let (ids, table) = ((1..30).collect::<Vec<u32>>(), (1..9).collect::<Vec<i32>>());
        let short = |at: usize| Entry { ids: &ids[at..at + 1], start: 0, table: &table, rows: 1 };
        let first = [0, 1].map(|at| bits(pool.run(&[short(at)]).unwrap()));
        faults.set(true);
        let long = Entry { ids: &ids, start: 0, table: &table, rows: 20 };
        let ran = pool.run(&[long]).map(|_| ());
        faults.set(false);
        pool.recover().unwrap();
        for at in [1, 0] {
            assert_eq!(bits(pool.run(&[short(at)]).unwrap()), first[at], "allocation {nth}");
        }
        if ran.is_ok() {
            assert!(nth > 1, "a longer step needs more than one buffer");
            return;
        }
    }
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    let model = small(&reference());
    let refused = |options| PagedExecutor::new(model.clone(), options).err().map(|e| e.to_string());
    let d = CacheOptions::default();
    assert!(refused(d).is_none());
    for options in [
        CacheOptions { bytes: Some(0), ..d },
        CacheOptions { bytes: Some(100), ..d },
        CacheOptions { block_size: Some(0), ..d },
        CacheOptions { batch_tokens: 0, ..d },
        CacheOptions { batch_sequences: 0, ..d },
    ] {
        assert!(refused(options).is_some(), "{options:?}");
    }
    let dynamic = load(&reference(), "llama-dynamic", "config.json", None);
    assert!(PagedExecutor::new(dynamic, d).err().unwrap().to_string().contains("rope_scaling"));
}
