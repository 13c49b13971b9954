//! The plugin, loaded, is the backend: the contract's plain clauses, and every operator's answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qiao_ascend::AscendBackend;
use qiao_conformance::contract::Clause;
use qiao_conformance::{Depth, Outcome, Subject};
use qiao_core::*;
use qiao_plugin::{Options, Plugin, PluginBackend};

/// The library that cargo has built for this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    test.with_file_name(format!("{}qiao_ascend_plugin{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

fn loaded() -> Arc<PluginBackend> {
    let folder = qiao_simascend::install().folder().display().to_string();
    Plugin::load(library(), &Options::parse([format!("ascend.libraries={folder}")]).unwrap()).unwrap()
}

#[test]
fn it_holds_the_plain_clauses() {
    let backend = loaded();
    assert_eq!((backend.name(), backend.devices().unwrap()[0].name.as_str()), ("ascend", "Ascend910B3"));
    let mut subject = Subject::open(move || backend.open(0)).unwrap();
    subject.timeout = Duration::from_secs(60);
    let mut failures = Vec::new();
    for clause in Clause::all().filter(|c| c.depth == Depth::Smoke) {
        if let Outcome::Failed(failure) = clause.outcome(&subject) {
            failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn it_answers_as_the_backend_does() {
    let direct = AscendBackend::with_libraries(qiao_simascend::install().folder()).open(0).unwrap();
    let plugin = loaded().open(0).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32] {
        let mut graph = Graph::new();
        let x = graph.bind("x", TensorDesc::new(dtype, &[32, 64]).unwrap());
        let w = graph.bind("w", TensorDesc::new(dtype, &[48, 64]).unwrap().as_constant());
        graph.op1(Op::Copy(NoAttrs {}), &[x]).unwrap();
        if dtype != DType::I32 {
            graph.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
            graph.op1(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[x, w]).unwrap();
            graph.op1(Op::Softmax(SoftmaxAttrs::default()), &[x]).unwrap();
        }
        assert_eq!(plugin.support(&graph), direct.support(&graph), "{dtype}");
    }
}

#[test]
fn without_libraries_it_is_not_present() {
    let options = Options::parse(["ascend.libraries=/nowhere"]).unwrap();
    let answer = Plugin::load(library(), &options).and_then(|backend| backend.devices());
    match answer {
        Err(Error::NotPresent { why, .. }) => assert!(why.contains("/nowhere/libascendcl.so"), "{why}"),
        other => panic!("{other:?}"),
    }
}
