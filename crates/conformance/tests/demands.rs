//! Operators that are demanded by name.

use std::sync::Arc;

use qiao_conformance::{Executor, Glob, Profile, Run, Selection, Subject, run};
use qiao_core::noop::NoopDevice;
use qiao_core::{Device, OpKind, Result};
use qiao_cpu::{CpuDevice, CpuOptions};

fn walked(selection: &Selection, open: fn() -> Result<Arc<dyn Device>>) -> Result<Run> {
    let subject = Subject::open(open)?;
    run(selection, &mut Executor::Here("new".into(), Box::new(subject)), |_| true)
}

fn noop() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(NoopDevice::default()))
}

fn cpu() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(1), ..Default::default() })?))
}

#[test]
fn an_operator_that_is_demanded_is_a_fault_where_it_is_missing() {
    // Of the second operator the profile walks nothing.
    let required = vec![OpKind::Add, OpKind::KvWrite];
    let selection = Selection { required, ..Selection::new(Profile::Smoke) };
    let found = walked(&selection, noop).unwrap();
    let fault = |op: &str| format!("operator {op} is required and held in no dtype: op/{op}/");
    for op in ["add", "kv_write"] {
        assert!(found.faults.iter().any(|f| f.starts_with(&fault(op))), "{op}: {:?}", found.faults);
    }
    let found = walked(&selection, cpu).unwrap();
    assert!(found.passes() && found.required.iter().all(|r| r.held == ["f32", "f16", "bf16"]), "{:?}", found.required);
    let narrow = Selection { filter: vec![Glob::new("op/add/*")], ..selection };
    let found = walked(&narrow, cpu).unwrap();
    let [fault] = &found.faults[..] else { panic!("{:?}", found.faults) };
    assert!(fault.starts_with("operator kv_write is required") && fault.ends_with("did not run"), "{fault}");
}
