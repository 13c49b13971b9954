//! A plugin tried in a process of its own: whatever it does there is one clear error here.

mod built;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use built::{acme, says, variant};
use qiao_core::{Backend, Error, Result};
use qiao_plugin::load::probe::{self, Report};
use qiao_plugin::{Options, Plugin};

/// The child's part of this file: the program runs itself with this test alone.
#[test]
#[ignore = "it is run by the other tests, with a plugin as its last argument"]
fn child() {
    let path = std::env::args().next_back().unwrap();
    let options = Options::parse(std::env::var("QIAO_TEST_OPTION").ok()).unwrap();
    match std::env::var_os("QIAO_TEST_RULES") {
        Some(_) => probe::answer_rules(Path::new(&path), &options),
        None => probe::answer(Path::new(&path), &options),
    }
}

fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command
}

fn probed(path: &Path) -> Result<Report> {
    probe::in_child(command(), path, Duration::from_secs(60))
}

fn broken(path: &Path) -> Result<Vec<String>> {
    let mut command = command();
    command.env("QIAO_TEST_RULES", "1");
    probe::broken_rules(command, path, Duration::from_secs(60))
}

/// The vendor's example with one of its lines changed.
fn acme_but(name: &str, from: &str, to: &str) -> PathBuf {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/vendor-c/acme_npu.c");
    let text = std::fs::read_to_string(example).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("acme.c");
    std::fs::write(&source, text.replace(from, to)).unwrap();
    built::c_plugin(&source, name, &[])
}

#[track_caller]
fn fails(name: &str, parts: &[&str]) {
    let error = probed(&variant(name)).unwrap_err();
    assert!(matches!(error, Error::Internal { .. }), "{error:?}");
    says(&error, parts);
    says(&error, &[&format!("lib{}.so", name.to_lowercase())]);
}

#[test]
fn one_that_works_says_what_it_is() {
    let report = probed(acme()).unwrap();
    assert_eq!((report.name.as_str(), report.vendor.as_str(), report.version.as_str()), ("acme", "ACME", "1.0.0"));
    assert_eq!((report.abi_minor, report.devices), (1, vec!["ACME NPU".to_string()]));
    assert!(report.notes.iter().any(|n| n.starts_with("events absent")), "{:?}", report.notes);
}

#[test]
fn a_crash_is_told_with_its_signal_and_when_it_came() {
    fails("ABORTS_WHEN_LOADED", &["the plugin crashed with SIGABRT while it was loaded and started"]);
    fails("CRASHES_IN_INIT", &["the plugin crashed with SIGSEGV while it was loaded and started"]);
    fails("CRASHES_IN_SHUTDOWN", &["the plugin crashed with SIGABRT while it was shut down", "free(): invalid"]);
}

#[test]
fn one_that_ends_the_process_is_told() {
    fails("EXITS_WHEN_LOADED", &["the plugin ended the process with code 7 while it was loaded"]);
}

#[test]
fn one_that_hangs_is_ended_in_time() {
    let start = Instant::now();
    let error = probe::in_child(command(), &variant("HANGS_WHEN_LOADED"), Duration::from_millis(800)).unwrap_err();
    assert!(matches!(error, Error::Timeout { millis: 800, .. }), "{error:?}");
    says(&error, &["libhangs_when_loaded.so, while it was loaded and started did not finish within 800 ms"]);
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_it_says_of_itself_comes_through_as_it_is() {
    match probed(&variant("NOT_PRESENT")) {
        Err(Error::NotPresent { what, why }) => {
            assert_eq!((what.as_str(), why.as_str()), ("acme", "libacme_driver.so.1 is not on this machine"));
        }
        other => panic!("{other:?}"),
    }
    let error = probed(&variant("MISSING_SLOTS")).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    says(&error, &["device_close, stream_sync", "PORTING.md"]);
    let error = probed(&variant("INIT_FAILS")).unwrap_err();
    assert!(matches!(error, Error::Internal { .. }), "{error:?}");
    says(&error, &["the driver's version is too old"]);
    says(&probed(Path::new("/nowhere/libnone.so")).unwrap_err(), &["/nowhere/libnone.so", "no such file"]);
}

#[test]
fn a_plugin_that_minds_struct_size_breaks_no_rule() {
    for library in [acme().to_path_buf(), variant("LARGER"), variant("FOURTEEN"), variant("NOT_PRESENT")] {
        assert_eq!(broken(&library).unwrap(), [""; 0], "{}", library.display());
    }
    let error = broken(&variant("MISSING_SLOTS")).unwrap_err();
    says(&error, &["device_close, stream_sync"]);
}

#[test]
fn a_plugin_that_takes_what_it_does_not_know_is_told() {
    let look = "  for (uint32_t i = size; i < theirs; i++)\n    if (((const char*)from)[i]) return 0;\n";
    let found = broken(&acme_but("takes_all", look, "")).unwrap();
    for slot in ["graph_support", "plan_create"] {
        for part in ["qiao_graph", "qiao_op", "qiao_tensor", "qiao_attr struct"] {
            let line = format!("{slot} takes a {part} that says more than it knows");
            assert!(found.iter().any(|f| f.starts_with(&line) && f.contains("rule R2")), "{line}: {found:?}");
        }
    }
    assert!(found.iter().any(|f| f.starts_with("backend_init takes a qiao_host that says more")), "{found:?}");
    assert_eq!(found.len(), 9, "{found:?}");
}

#[test]
fn a_plugin_that_writes_or_reads_whole_structs_is_told() {
    let write = "memcpy(to, own, theirs < size ? theirs : size);";
    let found = broken(&acme_but("writes_all", write, "memcpy(to, own, size);")).unwrap();
    for (slot, what) in [
        ("qiao_plugin_query_v0", "32 bytes beyond the qiao_query"),
        ("device_info", "8 bytes beyond the qiao_device_info"),
        ("memory_info", "8 bytes beyond the qiao_memory_info"),
        ("dtype_info", "8 bytes beyond the qiao_dtype_info"),
        ("graph_support", "64 bytes beyond the qiao_support"),
    ] {
        let line = format!("{slot} wrote {what} of ");
        assert!(found.iter().any(|f| f.starts_with(&line) && f.contains("mind struct_size")), "{line}: {found:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
    let read = "memcpy(own, from, theirs < size ? theirs : size);";
    let error = broken(&acme_but("reads_all", read, "memcpy(own, from, size);")).unwrap_err();
    says(&error, &["crashed with SIGSEGV while it was held to rule R2, a graph with a qiao_graph of another size"]);
}

#[test]
fn a_plugin_that_talks_does_not_drown_its_answer() {
    assert_eq!(probed(&variant("TALKS")).unwrap().name, "acme");
}

#[test]
fn a_program_that_does_not_answer_is_told() {
    let error = probe::in_child(Command::new("true"), acme(), Duration::from_secs(60)).unwrap_err();
    says(&error, &["ended the process with code 0 before it was loaded"]);
    let error = probe::in_child(Command::new("/nowhere/qiao"), acme(), Duration::from_secs(60)).unwrap_err();
    says(&error, &["can't be tried in a process of its own"]);
}

#[test]
fn a_plugin_may_be_tried_each_time_before_it_is_loaded() {
    let options = Options::default().with_before(|path, _| probed(path).map(|_| ()));
    let crash: PathBuf = variant("ABORTS_WHEN_LOADED");
    says(&Plugin::load(crash, &options).err().unwrap(), &["crashed with SIGABRT"]);
    assert_eq!(Plugin::load(acme(), &options).unwrap().name(), "acme");
}

#[test]
fn a_trace_has_a_line_for_every_call_and_a_log_the_defaults() {
    let run = |variable: &str, value: &str| {
        let out = command().arg(acme()).env(variable, value).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let trace = run("QIAO_PLUGIN_TRACE", "1");
    let calls: Vec<_> = trace.lines().filter_map(|l| l.strip_prefix("acme ")).collect();
    let slots: Vec<_> = calls.iter().map(|l| l.split(' ').next().unwrap()).collect();
    let first =
        ["backend_init", "device_count", "device_count", "device_open", "device_info", "memory_info", "dtype_info"];
    assert!(slots.starts_with(&first) && slots.ends_with(&["device_close", "backend_shutdown"]), "{trace}");
    assert!(calls[0].starts_with("backend_init OK ") && calls[0].trim_end().ends_with('s'), "{trace}");
    let log = run("QIAO_LOG", "info");
    assert!(log.contains("acme Info: events absent: the host synchronises the stream instead"), "{log}");
    assert!(!run("QIAO_LOG", "error").contains("acme"));
}
