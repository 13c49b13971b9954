//! A full-size checkpoint with random weights, made by tools/random_checkpoint.py: it loads, runs, and takes no more memory than its
//! weights, a tenth more, and the cache that it uses. Alone in this file, so that the process's peak is its own.
//!
//! `QIAO_FULL_SIZE=models/qwen2.5-0.5b cargo test --release -p qiao --test full_size -- --ignored --nocapture`

#![cfg(target_os = "linux")]

use qiao::{Model, Params};

/// The most memory this process had resident, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "needs a full-size checkpoint: set QIAO_FULL_SIZE to one made by tools/random_checkpoint.py"]
fn memory_stays_near_the_size_of_the_weights() {
    let path = std::env::var("QIAO_FULL_SIZE").expect("set QIAO_FULL_SIZE to the directory of a checkpoint");
    let before = peak();
    let model = Model::load(&path).unwrap();
    let loaded = peak();
    let file = std::path::Path::new(&path).join("model.safetensors");
    let weights = std::fs::metadata(file).unwrap().len();
    let config = model.config();
    let per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * model.compute_dtype().block_bytes();
    // 512 + 33 tokens take a cache of the next power of two.
    let cache = (1024 * per_token) as u64;
    let prompt: Vec<u32> = (0..512u32).map(|i| i * 97 % config.vocab_size as u32).collect();
    let mut generation =
        model.generate(prompt, &Params::new().temperature(0.0).max_tokens(33).ignore_eos(true)).unwrap();
    let all = generation.collect_all().unwrap();
    assert_eq!(all.token_ids.len(), 33);
    let stats = generation.stats();
    let mib = |bytes: u64| bytes >> 20;
    println!("{path} on {}, {}", model.device().info().name, model.device().info().arch);
    println!(
        "weights {} MiB, peak before {} MiB, after loading {} MiB, after running {} MiB, cache {} MiB",
        mib(weights),
        mib(before),
        mib(loaded),
        mib(peak()),
        mib(cache)
    );
    println!(
        "loaded in {:.2?}; prefill {:.1} tokens/s, decode {:.2} tokens/s",
        stats.load_time,
        stats.prefill_tokens_per_s(),
        stats.decode_tokens_per_s()
    );
    assert!(loaded - before <= weights + weights / 10, "loading took {} MiB", mib(loaded - before));
    assert!(peak() - before <= weights + weights / 10 + cache, "running took {} MiB", mib(peak() - before));
}
