//! The trials hold an honest device, and none is forgotten.

use std::sync::{Arc, OnceLock};

use qiao_conformance::trials::walk::Walk;
use qiao_conformance::trials::{failures, hold, kv_write, matmul_quant, taken};
use qiao_core::{Backend, Device};
use qiao_cpu::CpuBackend;
use qiao_reference::Trial;

/// Lists that are held to something else than their limits, and one of trials among walks.
const BY_HAND: [&str; 3] = ["of_zeros", "odd_groups", "keys_and_values_differ_in_dtype"];

#[test]
fn every_list_is_named_where_lists_become_tests() {
    let named = include_str!("../src/trials/mod.rs");
    for text in [
        include_str!("../src/trials/attention.rs"),
        include_str!("../src/trials/block_formats.rs"),
        include_str!("../src/trials/casts.rs"),
        include_str!("../src/trials/elementwise.rs"),
        include_str!("../src/trials/kv_write.rs"),
        include_str!("../src/trials/matmul.rs"),
        include_str!("../src/trials/matmul_quant.rs"),
        include_str!("../src/trials/moves.rs"),
        include_str!("../src/trials/scaled_matmul.rs"),
    ] {
        let lists = text.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once("() -> Vec<"));
        for (list, _) in lists.filter(|(list, _)| !BY_HAND.contains(list)) {
            assert!(named.contains(&format!("            {list},\n")), "{list}");
        }
    }
}

fn cpu() -> Arc<dyn Device> {
    static CPU: OnceLock<Arc<dyn Device>> = OnceLock::new();
    CPU.get_or_init(|| CpuBackend.open(0).unwrap()).clone()
}

/// What the processor takes of a list, which is some of it, is within its limits.
#[track_caller]
fn check(trials: &[Trial]) {
    let taken = taken(&*cpu(), trials);
    assert!(!taken.is_empty());
    hold(&failures(&*cpu(), &taken, |_| true));
}

#[track_caller]
fn walk(walks: &[Walk]) {
    hold(&walks.iter().flat_map(|walk| walk.failures(&*cpu(), |_, _| true)).collect::<Vec<_>>());
}

qiao_conformance::trials!(elementwise, |_, trials| check(trials));
qiao_conformance::trials!(moves, |_, trials| check(trials));
qiao_conformance::trials!(casts, |_, trials| check(trials));
qiao_conformance::trials!(block_formats, |_, trials| check(trials));
qiao_conformance::trials!(scaled_matmul, |_, trials| check(trials));
qiao_conformance::trials!(attention, |_, walks| walk(walks));
qiao_conformance::trials!(kv_write, |_, walks| walk(walks));

/// Lists whose names stand in another module too.
mod products {
    qiao_conformance::trials!(matmul, |_, trials| super::check(trials));
}

mod quantised {
    qiao_conformance::trials!(matmul_quant, |_, trials| super::check(trials));
}

#[test]
fn what_stands_apart_from_the_lists_holds_too() {
    check(&kv_write::keys_and_values_differ_in_dtype());
    check(&matmul_quant::of_zeros());
    check(&matmul_quant::odd_groups());
}
