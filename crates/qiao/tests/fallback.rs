//! A chip that lacks operators, or has none, runs the demo model with the CPU's help, and nobody takes that for the chip's work.

#[path = "../../layers/tests/chip/mod.rs"]
mod chip;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chip::{Bare, Chip};
use qiao::bench::{self, Settings, Subject, Sweep};
use qiao::core::{DType, OpKind};
use qiao::{Canceller, Device, Model, ModelOptions, Params, Peaks, Provenance, Way};

/// SwiGLU and all that it could be taken apart into but products.
const SILU: [OpKind; 5] = [OpKind::SiluMul, OpKind::Silu, OpKind::Sigmoid, OpKind::Exp, OpKind::Tanh];

/// A chip that allocates, copies and waits, in memory of its own, and lists nothing.
fn bare() -> Arc<dyn Device> {
    let mut chip = Chip::new(&[], true);
    (chip.info.kv, chip.info.dtypes) = (Vec::new(), Vec::new());
    Arc::new(Bare(chip))
}

fn lacking(kinds: &[OpKind]) -> Arc<dyn Device> {
    Arc::new(Chip::new(kinds, true))
}

fn tokens(model: &Model, params: &Params) -> Vec<u32> {
    model.generate("床前明月光", params).unwrap().collect_all().unwrap().token_ids
}

#[test]
fn a_chip_of_three_methods_says_what_the_cpu_says() {
    let (cpu, chip) = (Model::demo().unwrap(), ModelOptions::new().on(bare()).host_fallback().demo().unwrap());
    for params in [
        Params::new().temperature(0.0).max_tokens(40).ignore_eos(true),
        Params::new().temperature(0.9).top_k(40).seed(7).max_tokens(40).ignore_eos(true),
    ] {
        assert_eq!(tokens(&chip, &params), tokens(&cpu, &params));
    }
    let account = chip.account().unwrap();
    assert_eq!(account.on_host(), account.entries.len());
    assert!(account.summary().contains(&format!("{} host (", account.entries.len())), "{}", account.summary());
    assert!(account.entries.iter().all(|e| matches!(e.way, Way::Host { .. })));
    let hosted = account.hosted();
    // The token, its position, slot, length and page come down; the logits go up.
    assert_eq!((hosted.down, hosted.up), (5 * 4, chip.config().vocab_size as u64 * 4));
    assert_eq!(hosted.runs, 2 * 39 * account.entries.len() as u64);
    assert!(chip.host_work().time > Duration::ZERO);
    assert_eq!((chip.weight_bytes(), cpu.host_weight_bytes()), (0, 0));
    assert_eq!(chip.host_weight_bytes(), cpu.weight_bytes());
}

#[test]
fn without_the_policy_every_operator_is_named_once_with_its_reason() {
    let text = ModelOptions::new().on(bare()).demo().err().unwrap().to_string();
    let cpu = Model::demo().unwrap().account().unwrap();
    let mut kinds: Vec<&str> = cpu.entries.iter().map(|e| e.op).collect();
    assert!(text.contains(&format!("chip does not run {} operator(s): ", kinds.len())), "{text}");
    kinds.sort_unstable();
    kinds.dedup();
    let listed: Vec<&str> = text.rsplit_once("operator(s): ").unwrap().1.split("; ").collect();
    assert_eq!(listed.len(), kinds.len(), "{text}");
    for kind in kinds {
        assert!(listed.contains(&format!("{kind}: no kernel for this operator").as_str()), "{kind}: {text}");
    }
}

#[test]
fn a_chip_in_lock_step_agrees_although_the_cpu_helps() {
    let reference = qiao::open("reference", None).unwrap();
    for kinds in
        [&[OpKind::AttentionDecode, OpKind::AttentionPrefill][..], &[OpKind::Matmul, OpKind::Rope], OpKind::ALL]
    {
        let run = || qiao::LockStep::new("床前明月光").tokens(2);
        let found = run().host_fallback().demo(&lacking(kinds), &reference).unwrap();
        assert!(found.agrees(), "{kinds:?}: {found}");
        assert!(run().demo(&lacking(kinds), &reference).is_err());
    }
}

#[test]
fn a_chip_without_the_dtype_of_the_weights_is_compared_in_its_own() {
    let mut chip = Chip::new(&[], true);
    chip.info.dtypes.retain(|d| d.dtype == DType::F32 || d.dtype == DType::I32);
    let chip: Arc<dyn Device> = Arc::new(chip);
    let found =
        qiao::LockStep::new("床前明月光").tokens(1).demo(&chip, &qiao::open("reference", None).unwrap()).unwrap();
    assert!(found.agrees() && found.compute == DType::F32, "{found}");
}

#[test]
fn a_measurement_says_what_was_not_the_chips_work() {
    let sweep = Sweep { prompts: vec![8], tokens: 4, repeat: 2, ..Sweep::default() };
    let peaks = Peaks {
        bytes_per_s: 1e11,
        ops_per_s: vec![(DType::F32, 1e12), (DType::BF16, 1e12), (DType::F16, 1e12)],
        provenance: Provenance::Declared("a data sheet".into()),
    };
    let settings = Settings { sweep, peaks: Some(peaks), ..Settings::default() };
    let measure = |options: ModelOptions| {
        let model = options.demo().unwrap();
        bench::measure(&Subject::of(&model, "demo", "chip"), &settings, &Canceller::default(), bench::silent()).unwrap()
    };
    let alone = measure(ModelOptions::new().on(lacking(&[])).host_fallback());
    assert!(alone.devices[0].on_host.is_none() && alone.points[0].host_share.is_none());
    assert!(alone.points[0].utilisation.mfu_decode.is_some());
    let helped = measure(ModelOptions::new().on(lacking(&SILU)).host_fallback());
    let on_host = helped.devices[0].on_host.as_ref().unwrap();
    assert!(on_host.operators > 0 && on_host.operators < on_host.of && on_host.bytes_down > on_host.bytes_up);
    let share = helped.points[0].host_share.unwrap();
    assert!(share > 0.0 && share <= 1.0, "{share}");
    let used = &helped.points[0].utilisation;
    assert_eq!((used.mfu_prompt, used.mfu_decode, used.mbu_decode), (None, None, None));
    assert!(helped.notes.iter().any(|n| n.contains("operators of a token ran on the host")), "{:?}", helped.notes);
    assert!(helped.to_string().contains("ran on the host"), "{helped}");
}

#[test]
fn a_request_to_a_chip_that_hangs_ends_within_its_time() {
    let chip = Chip::new(&[OpKind::RmsNorm], true);
    let log = chip.log.clone();
    let model = ModelOptions::new().on(Arc::new(chip)).host_fallback().demo().unwrap();
    let mut hung = model.generate("床前明月光", &Params::new().timeout(Duration::from_secs(9))).unwrap();
    log.hangs.store(true, Ordering::Relaxed);
    let text = hung.next().unwrap().unwrap_err().to_string();
    assert!(text.contains("did not finish within"), "{text}");
    assert!(hung.next().is_none());
}
