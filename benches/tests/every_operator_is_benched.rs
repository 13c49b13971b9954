//! Every operator of the list, and every kernel of every tier, is something that a benchmark runs.

use qiao_benches::kernels::{INSIDE_OPERATORS, Sizes, device, nodes, rows, tiers, tiny_plan};
use qiao_benches::operators::work;
use qiao_core::{DType, OpKind};
use qiao_kernels_cpu::{detect, kernels};

#[test]
fn every_operator_runs_on_the_cpu_at_a_small_size_and_costs_about_what_was_asked() {
    let device = device(detect().isa).unwrap();
    for &kind in OpKind::ALL {
        let work = work(kind, 64 << 10);
        assert_eq!(work.op.kind(), kind);
        let mut node = work.on(&device).unwrap_or_else(|error| panic!("{kind}: {error}"));
        node.run();
        let bytes = node.cost().read + node.cost().written;
        assert!((8 << 10..1 << 20).contains(&bytes), "{kind}: {bytes} bytes");
    }
}

#[test]
fn every_kernel_of_every_tier_is_called_or_runs_inside_an_operator() {
    for isa in tiers() {
        let table = kernels(isa, &detect()).unwrap();
        let called = rows(&table);
        assert!(called.iter().all(|timed| timed.bytes > 0));
        let text = format!("{table:?}");
        for name in text.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let here = called.iter().any(|timed| timed.name == name);
            let inside = INSIDE_OPERATORS.iter().any(|word| name.starts_with(word));
            assert!(here || inside, "no benchmark runs {name}: add it to `rows`, or to `INSIDE_OPERATORS` and `nodes`");
        }
    }
}

#[test]
fn products_and_attention_run_on_every_tier_and_name_their_kernels() {
    for isa in tiers() {
        let device = device(isa).unwrap();
        let mut all = nodes(&device, Sizes::COUNTED).unwrap();
        assert!(all.len() > 40, "{isa}: {} operators", all.len());
        for timed in &mut all {
            (timed.run)();
            assert!(timed.name.contains(": ") && timed.bytes > 0, "{}", timed.name);
        }
        tiny_plan(&device, 400).unwrap().run();
    }
}

#[test]
fn the_small_model_loads_in_every_format_and_takes_a_step() {
    let device = device(detect().isa).unwrap();
    for format in [DType::BF16, DType::Q8_0, DType::Q4K] {
        let model = qiao_benches::model::load(device.clone(), format).unwrap();
        let mut session = qiao_engine::session::Session::new(model, 8).unwrap();
        assert_eq!(session.step(3).unwrap().len(), qiao_benches::model::VOCAB);
    }
}
