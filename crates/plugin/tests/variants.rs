//! Older, newer and broken plugins, each a library built from one source: what must load loads, and every refusal says what
//! met what and how to mend it.

mod built;

use std::process::Command;
use std::sync::Arc;

use built::{acme_with, says, variant};
use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use qiao_core::{
    Backend, DType, Device, Error, Graph, MatmulAttrs, NoAttrs, Op, Precision, Property, Support, TensorDesc,
};
use qiao_plugin::{Options, Plugin, PluginBackend, header};

fn load(name: &str) -> Result<Arc<PluginBackend>, Error> {
    Plugin::load(variant(name), &Options::default())
}

#[track_caller]
fn refused(name: &str, parts: &[&str]) {
    let error = load(name).err().expect("the variant is refused");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    says(&error, parts);
    says(&error, &[&format!("lib{}.so", name.to_lowercase())]);
}

/// Holds a device to the contract and returns the clauses that it breaks.
fn broken(device: Arc<PluginBackend>) -> Vec<String> {
    let subject = Subject::open(move || device.open(0)).unwrap();
    // Leaks are looked for where nothing else runs beside: the whole example is, in a test program of its own.
    let own = |c: &&Clause| c.id != "device/compute/results_are_not_the_hosts" && c.kind() != "leaks";
    let failed = Clause::all().filter(own).filter_map(|clause| match clause.outcome(&subject) {
        Outcome::Failed(failure) => Some(format!("{}: {}", clause.id, failure.why)),
        _ => None,
    });
    failed.collect()
}

fn device(backend: &PluginBackend) -> Arc<dyn Device> {
    backend.open(0).unwrap()
}

fn f32s(shape: &[usize]) -> TensorDesc {
    TensorDesc::new(DType::F32, shape).unwrap()
}

fn add() -> Graph {
    let mut g = Graph::new();
    let (a, b, y) = (g.bind("a", f32s(&[4, 16])), g.bind("b", f32s(&[4, 16])), g.bind("y", f32s(&[4, 16])));
    g.add_into(Op::Add(NoAttrs {}), &[Some(a), Some(b)], &[y]).unwrap();
    g
}

fn matmul(precision: Precision) -> Graph {
    let mut g = Graph::new();
    let (a, b, c) = (g.bind("a", f32s(&[4, 16])), g.bind("b", f32s(&[8, 16])), g.bind("c", f32s(&[4, 8])));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, precision, ..Default::default() });
    g.add_into(op, &[Some(a), Some(b)], &[c]).unwrap();
    g
}

fn is_native(device: &dyn Device, graph: &Graph) -> bool {
    device.support(graph).iter().all(|s| s.answer == Support::Native)
}

#[test]
fn fourteen_functions_are_a_device() {
    let backend = load("FOURTEEN").unwrap();
    let d = device(&backend);
    let notes = backend.notes();
    for part in ["events absent", "graphs absent", "copy absent", "fill absent", "dtype_info absent", "2 dtypes"] {
        assert!(notes.iter().any(|n| n.contains(part)), "{part}: {notes:?}");
    }
    assert!(d.info().dtypes.is_empty());
    let error = d.plan(&add()).err().unwrap();
    says(&error, &["ACME NPU does not run 1 operator(s): add: no kernel for this operator"]);
    assert_eq!(broken(backend), [""; 0]);
}

#[test]
fn an_older_table_loads_and_what_it_ends_before_is_absent() {
    let backend = load("CUT_BEFORE_PREPACK").unwrap();
    assert!(is_native(&*device(&backend), &add()));
    for name in ["CUT_BEFORE_GRAPHS", "CUT_WITHIN_A_SLOT"] {
        let backend = load(name).unwrap();
        assert!(backend.notes().iter().any(|n| n.starts_with("graphs absent")), "{:?}", backend.notes());
        assert!(!is_native(&*device(&backend), &add()));
        device(&backend).alloc(0, 64).unwrap();
    }
}

#[test]
fn a_newer_table_loads_and_what_is_behind_is_not_called() {
    let backend = load("LARGER").unwrap();
    assert_eq!(backend.abi_minor(), 900);
    assert!(is_native(&*device(&backend), &add()));
    assert_eq!(broken(backend), [""; 0]);
}

#[test]
fn a_plugin_built_with_a_later_header_runs_on_this_host() {
    let (mut text, mut edits) = (header::TEXT.to_string(), 0);
    for (from, to) in [
        ("#define QIAO_ABI_MINOR 1u", "#define QIAO_ABI_MINOR 2u"),
        ("} qiao_query;", "  char licence[32]; uint64_t more; } qiao_query;"),
        ("} qiao_host;", "  void (*later)(void* ctx); } qiao_host;"),
        ("} qiao_memory_info;", "  uint64_t granularity; } qiao_memory_info;"),
        ("} qiao_dtype_info;", "  uint64_t sparse_ops_per_s; } qiao_dtype_info;"),
        ("} qiao_device_info;", "  char board[64]; } qiao_device_info;"),
        ("} qiao_tensor;", "  uint64_t sparsity; } qiao_tensor;"),
        ("} qiao_op;", "  const void* more; } qiao_op;"),
        ("} qiao_graph;", "  uint64_t hint; } qiao_graph;"),
        ("} qiao_support;", "  uint64_t cost_ns; } qiao_support;"),
        ("} qiao_plan_info;", "  uint64_t pinned_bytes; } qiao_plan_info;"),
        ("} qiao_attr_matmul;", "  float alpha; } qiao_attr_matmul;"),
        ("} qiao_api;", "  qiao_status (*later)(qiao_device*, qiao_error*); } qiao_api;"),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text = text.replace(from, to);
        edits += 1;
    }
    assert_eq!(edits, 13);
    let backend = Plugin::load(acme_with(&text, "later_header"), &Options::default()).unwrap();
    assert_eq!(backend.abi_minor(), 2);
    assert!(is_native(&*device(&backend), &matmul(Precision::Ieee)));
    assert_eq!(broken(backend), [""; 0]);
}

#[test]
fn a_plugin_that_does_not_know_an_attribute_runs_what_does_not_use_it_and_refuses_what_does() {
    // A header from before `precision` was added to the attributes of matmul.
    let text = header::TEXT.replace("  /* How f32 products are formed. */\n  uint32_t precision;\n", "");
    assert!(text.len() < header::TEXT.len());
    let backend = Plugin::load(acme_with(&text, "earlier_header"), &Options::default()).unwrap();
    let d = device(&backend);
    let (plain, used) = (matmul(Precision::Ieee), matmul(Precision::Tf32));
    assert!(is_native(&*d, &plain));
    assert!(d.plan(&plain).is_ok());
    let answer = d.support(&used).remove(0);
    let Support::No(reason) = &answer.answer else { panic!("{answer:?}") };
    assert_eq!(reason.to_string(), "attribute of a newer header is not supported");
    assert_eq!(reason.property, Property::Attribute("of a newer header"));
    assert!(matches!(d.plan(&used), Err(Error::Unsupported { .. })));
    assert_eq!(broken(backend), [""; 0]);
}

#[test]
fn an_extension_that_must_be_understood_is_refused_and_another_is_not() {
    let backend = load("CRITICAL_EXTENSION").unwrap();
    let error = backend.open(0).err().unwrap();
    says(&error, &["acme:0", "0x80000042", "must be understood", "ABI 0.1", "use a newer Qiao"]);
    assert!(backend.devices().is_err());
    assert!(load("OTHER_EXTENSION").unwrap().open(0).is_ok());
}

#[test]
fn what_is_missing_is_named() {
    refused("MISSING_SLOTS", &["2 of the 14 required slots: device_close, stream_sync"]);
    refused("HALF_A_GROUP", &["half of group [G]: without plan_execute"]);
    refused("NO_TABLE", &["a table at 0x0"]);
    refused("BAD_NAME", &["\"Acme NPU\"", "a-z, 0-9"]);
}

#[test]
fn versions_that_do_not_meet_are_told() {
    let mend = "use a newer Qiao";
    refused("WRONG_MAJOR", &["looks for qiao_plugin_query_v0", "exports qiao_plugin_query_v9", "ABI major 0"]);
    refused(
        "HOST_TOO_OLD",
        &["this host of ABI 0.1", "speaks ABI 0.9", "needs a host of 0.7", "needs 7; use a newer", mend],
    );
    refused("HOST_TOO_OLD_UNSAID", &["speaks ABI 0.9", "needs a host of 0.7 or newer", "this host speaks 0.1", mend]);
    refused(
        "TOO_OLD_FOR_HOST",
        &["speaks ABI 0.0", "this host speaks 0.1", "0.1 or newer", "newer build of the plugin"],
    );
    refused("QUERY_FAILS", &["the query does more than it should", "does not say which ABI it speaks"]);
    refused("SANITIZED", &["the address sanitizer", "no sanitizer", "load a build without"]);
    assert!(load("TWO_MAJORS").is_ok());
}

#[test]
fn further_symbols_are_allowed_and_reported() {
    let backend = load("EXTRA_SYMBOLS").unwrap();
    let notes = backend.notes();
    let note = notes.iter().find(|n| n.contains("more symbols")).unwrap_or_else(|| panic!("{notes:?}"));
    assert!(note.contains("exports 2 more symbols, such as acme_internal") && note.contains("-fvisibility"), "{note}");
    assert!(!load("TWO_MAJORS").unwrap().notes().iter().any(|n| n.contains("qiao_plugin_query_v9")));
}

#[test]
fn a_plugin_that_writes_behind_a_struct_is_told_and_ends_nothing() {
    let told = |error: &Error, slot: &str, what: &str| {
        let words = format!("{slot} wrote 40 bytes beyond {what} that it was given: it must mind struct_size");
        says(error, &["acme", "breaks its contract", &words]);
    };
    for (name, slot, what) in [
        ("BEHIND_DEVICE_INFO", "device_info", "the struct"),
        ("BEHIND_ERROR", "device_info", "the qiao_error"),
        ("BEHIND_MEMORY_INFO", "memory_info", "the struct"),
    ] {
        told(&load(name).unwrap().open(0).err().unwrap(), slot, what);
    }
    let d = device(&load("BEHIND_SUPPORT").unwrap());
    says(&d.plan(&add()).err().unwrap(), &["ACME NPU", "graph_support wrote 40 bytes beyond a record"]);
    let d = device(&load("BEHIND_PLAN_INFO").unwrap());
    says(&d.plan(&add()).err().unwrap(), &["ACME NPU", "plan_create wrote 40 bytes beyond the struct"]);
    refused("BEHIND_QUERY", &["its query wrote 40 bytes beyond the qiao_query", "struct_size"]);
}

#[test]
fn a_machine_without_the_chip_is_no_failure() {
    match load("NOT_PRESENT") {
        Err(Error::NotPresent { what, why }) => {
            assert_eq!((what.as_str(), why.as_str()), ("acme", "libacme_driver.so.1 is not on this machine"));
        }
        other => panic!("{:?}", other.err()),
    }
    let backend = load("NO_DEVICES").unwrap();
    assert!(matches!(backend.devices(), Err(Error::NotPresent { .. })));
    assert!(matches!(backend.open(0), Err(Error::NotPresent { .. })));
}

#[test]
fn a_driver_that_fails_is_told_with_its_code() {
    let error = load("INIT_FAILS").err().unwrap();
    assert!(matches!(error, Error::Internal { .. }), "{error:?}");
    says(&error, &["acme: the driver's version is too old", "507011"]);
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, driver) = (dir.path().join("driver.c"), dir.path().join("libacme_driver.so"));
    std::fs::write(&source, "int acme_driver_open(void) { return 0; }\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&driver).status().unwrap();
    assert!(built.success());
    let search = format!("-L{}", dir.path().display());
    let variants = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/variants.c");
    let flags = ["-DVARIANT=NO_SUCH_LIBRARY", &search, "-Wl,--no-as-needed", "-lacme_driver"];
    let library = built::c_plugin(&variants, "no_such_library", &flags);
    std::fs::remove_file(driver).unwrap();
    let error = Plugin::load(&library, &Options::default()).err().unwrap();
    says(&error, &["needs libacme_driver.so, which is not found here", "LD_LIBRARY_PATH", "backend_init"]);
}

#[test]
fn an_undefined_symbol_is_told_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("plugin.c"), dir.path().join("libundefined.so"));
    std::fs::write(&source, "int nowhere(void);\nint qiao_plugin_query_v0(void) { return nowhere(); }\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&library).status().unwrap();
    assert!(built.success());
    let error = Plugin::load(&library, &Options::default()).err().unwrap();
    says(&error, &["undefined symbol: nowhere", "-Wl,-z,defs"]);
}

#[test]
fn what_is_no_plugin_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Plugin::load(&path, &Options::default()).err().unwrap()
    };
    says(&error("text.so", b"#!/bin/sh\necho no\n"), &["text.so", "no ELF file, but text"]);
    says(&error("empty.so", b""), &["it is empty"]);
    says(&error("other.so", b"\x89PNG\r\n\x1a\n and so on and on and on"), &["no ELF file, but something else"]);
    let own = std::fs::read(built::acme()).unwrap();
    let mut foreign = own.clone();
    foreign[18..20].copy_from_slice(&(if cfg!(target_arch = "aarch64") { 62u16 } else { 183 }).to_le_bytes());
    let (theirs, ours) =
        if cfg!(target_arch = "aarch64") { ("x86_64", "aarch64") } else { ("aarch64", std::env::consts::ARCH) };
    says(
        &error("foreign.so", &foreign),
        &[&format!("it is for {theirs}, and this process is {ours}"), "get the plugin's build"],
    );
    says(&error("cut.so", &own[..200]), &["cut.so"]);
    says(&error("short.so", &own[..30]), &["short.so"]);
    let gone = Plugin::load(dir.path().join("gone.so"), &Options::default()).err().unwrap();
    says(&gone, &["gone.so", "there is no such file", "give the path"]);
    says(&Plugin::load(dir.path(), &Options::default()).err().unwrap(), &["it is no file"]);
    let program = Plugin::load(std::env::current_exe().unwrap(), &Options::default()).err().unwrap();
    assert!(matches!(program, Error::Invalid { .. }), "{program}");
    // A library, but none of ours.
    let source = dir.path().join("plain.c");
    std::fs::write(&source, "int plain(void) { return 1; }\n").unwrap();
    let library = built::c_plugin(&source, "plain", &[]);
    says(
        &Plugin::load(&library, &Options::default()).err().unwrap(),
        &["does not export qiao_plugin_query_v0", "QIAO_EXPORT"],
    );
}

#[test]
fn a_build_with_a_sanitizer_is_refused_before_it_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("plugin.c"), dir.path().join("libasan.so"));
    std::fs::write(&source, "void __asan_init(void);\nvoid qiao_plugin_query_v0(void) { __asan_init(); }\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&library).status().unwrap();
    assert!(built.success());
    says(
        &Plugin::load(&library, &Options::default()).err().unwrap(),
        &["built with the address sanitizer", "without a sanitizer"],
    );
}
