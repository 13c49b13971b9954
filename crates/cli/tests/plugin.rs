//! A vendor's first afternoon: the example under a name of its own, built with a C compiler, judged and run with no rebuild.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn qiao(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiao"));
    command.current_dir(folder).env_remove("QIAO_PLUGIN").args(args).output().unwrap()
}

/// What a run that ends well says on standard output.
fn said(folder: &Path, args: &[&str]) -> String {
    let out = qiao(folder, args);
    assert!(out.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn cc(folder: &Path, source: &str, library: &str) {
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args([
        "-std=c11",
        "-O1",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-o",
        library,
        source,
        "-lm",
    ]);
    let out = cc.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// A folder with the plugin `tianshu`, and the plugin.
fn ported() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let made = said(folder.path(), &["new-backend", "tianshu", "--lang", "c"]);
    assert!(made.contains("tianshu/tianshu.c") && made.contains("make -C tianshu"), "{made}");
    let make = Command::new("make").arg("-s").current_dir(folder.path().join("tianshu")).output();
    match make {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
        Err(_) => cc(&folder.path().join("tianshu"), "tianshu.c", "libtianshu.so"),
    }
    let library = folder.path().join("tianshu/libtianshu.so");
    (folder, library)
}

/// A text with one blank between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_new_backend_is_listed_judged_and_runs_a_model() {
    let (folder, library) = ported();
    let (folder, library) = (folder.path(), library.to_str().unwrap());
    let listed = said(folder, &["devices", "--plugin", library]);
    assert!(words(&listed).contains("tianshu:0 TIANSHU"), "{listed}");

    let judged = said(folder, &["check", "--plugin", library, "--profile", "device", "--filter", "op/matmul/f32/m=5*"]);
    assert!(judged.contains("verdict: passed"), "{judged}");

    let refused = qiao(folder, &["run", "--plugin", library, "--max-tokens", "2"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("rope: no kernel for this operator"), "{error}");
    assert!(error.ends_with("; --fallback host runs them on the processor\n"), "{error}");
    let planned = said(folder, &["plan", "--plugin", library]);
    assert!(planned.contains("not supported.\n--fallback host runs them on the processor.\n"), "{planned}");

    let run = ["--max-tokens", "16", "--temperature", "0", "--json"];
    let read = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&said(folder, args)).unwrap() };
    let there = read(&[&["run", "--plugin", library, "--fallback", "host"], &run[..]].concat());
    let here = read(&[&["run", "--dtype", "f32"], &run[..]].concat());
    assert_eq!(there["token_ids"], here["token_ids"]);
    assert_eq!(there["device"], "tianshu");
    let account = there["account"].as_array().unwrap();
    let of = |op: &str| account.iter().find(|line| line["op"] == op).unwrap();
    assert_eq!((&of("matmul")["way"], &of("rope")["way"]), (&"native".into(), &"host".into()));
    assert!(of("rope")["bytes_down"].as_u64() > Some(0) && of("rope")["host_ms"].as_f64() > Some(0.0));
    assert!(there["on_host"]["operators"].as_u64() > Some(0) && here["on_host"].is_null());
}

#[test]
fn a_plugin_stands_in_for_the_default_device_and_for_none_that_is_named() {
    let (folder, library) = ported();
    let serve = ["bench", "serve", "--plugin", library.to_str().unwrap(), "--fallback", "host", "--json", "-"];
    let few = ["--together", "2", "--requests", "2", "--warm-up", "0", "--prompt", "2", "--output", "2"];
    for (devices, served) in [
        (&[][..], &["tianshu"][..]),
        (&["--device=cpu"], &["cpu"]),
        (&["--device", "cpu", "--device", "cpu"], &["cpu", "cpu"]),
        (&["--device", "cpu", "--device", "tianshu:0"], &["cpu", "tianshu:0"]),
    ] {
        let args = [&serve[..], &few, &["--dtype", "f32"], devices].concat();
        let report: serde_json::Value = serde_json::from_str(&said(folder.path(), &args)).unwrap();
        let more = report["more_devices"].as_array().unwrap();
        let all = std::iter::once(&report["device"]).chain(more);
        assert!(all.clone().map(|device| &device["asked"]).eq(served), "{devices:?}: {report}");
    }
}

#[test]
fn a_wrong_row_is_told_once_over_and_replayed_by_the_line_that_is_printed() {
    let (folder, _) = ported();
    let folder = folder.path();
    let source = folder.join("tianshu/tianshu.c");
    let text = std::fs::read_to_string(&source).unwrap();
    // A row without its case: what the kernel leaves is 0.
    let row = "{QIAO_OP_RELU, 0, \"relu_f32.tianshu\", elementwise},\n    {QIAO_OP_SILU, ";
    std::fs::write(&source, text.replacen("{QIAO_OP_SILU, ", row, 1)).unwrap();
    cc(&folder.join("tianshu"), "tianshu.c", "libwrong.so");
    let check = ["check", "--plugin", "tianshu/libwrong.so", "--profile", "device", "--filter", "op/relu/*"];
    let out = qiao(folder, &check);
    let (said, told) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(told.lines().count() == 21 && told.contains("only counted"), "{told}");
    std::fs::write(folder.join("file"), "").unwrap();
    let kept = qiao(folder, &[&check[..], &["--replays", "file/replays"]].concat());
    let whole = String::from_utf8_lossy(&kept.stdout).into_owned();
    assert!(kept.status.code() == Some(1) && whole.contains("; no replay file in file/replays: "), "{whole}");
    assert!(whole.contains("verdict: failed: "), "the run comes to its end: {whole}");
    let line =
        said.lines().find_map(|line| line.trim().strip_prefix("qiao ")).expect("a failure says how to repeat it");
    let again = qiao(folder, &line.split_whitespace().collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.code() == Some(1) && said.contains("failed     limit"), "{line}: {said}");
}

#[test]
fn a_check_fails_a_plugin_that_does_not_mind_struct_size() {
    let (folder, _) = ported();
    let folder = folder.path();
    let source = folder.join("tianshu/tianshu.c");
    let text = std::fs::read_to_string(&source).unwrap();
    let check = |right: &str, wrong: &str, words: &[&str]| {
        assert!(text.contains(right));
        std::fs::write(&source, text.replacen(right, wrong, 1)).unwrap();
        cc(&folder.join("tianshu"), "tianshu.c", "libwrong.so");
        let args = ["check", "--plugin", "tianshu/libwrong.so", "--profile", "device", "--filter", "op/add/f32/*"];
        let out = qiao(folder, &args);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        let verdict = said.lines().find(|line| line.starts_with("verdict: failed: ")).expect("a verdict");
        assert!(words.iter().all(|word| verdict.contains(word)), "{verdict}");
        assert!(said.contains(" 0 failed, "), "no case sees it: {said}");
    };
    check(
        "if (((const char*)from)[i]) return 0;",
        ";",
        &["backend_init takes a qiao_host that says more than it knows", "(rule R2)"],
    );
    check("memcpy(own, from, theirs < size ? theirs : size);", "memcpy(own, from, size);", &["SIGSEGV", "rule R2"]);
}

#[test]
fn a_plugin_that_the_environment_names_is_found_and_a_broken_one_is_told() {
    let (folder, library) = ported();
    let broken = folder.path().join("broken.so");
    std::fs::write(&broken, "no library").unwrap();
    let list = format!("{}:{}", library.display(), broken.display());
    let out = Command::new(env!("CARGO_BIN_EXE_qiao")).arg("devices").env("QIAO_PLUGIN", list).output().unwrap();
    let text = words(&String::from_utf8_lossy(&out.stdout));
    assert!(text.contains("tianshu:0 TIANSHU") && text.contains(" broken ") && text.contains("cpu:0"), "{text}");
}

#[test]
#[cfg(unix)]
fn a_path_of_a_plugin_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;

    let (folder, library) = ported();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"n\xff\xfe"));
    std::fs::create_dir(&odd).unwrap();
    let odd = odd.join("libtianshu.so");
    std::fs::copy(library, &odd).unwrap();
    // The worker of a check is told the path as well.
    let check = ["check", "--profile", "device", "--filter", "op/matmul/f32/m=5*", "--journal", "journal"];
    for args in [&["devices"][..], &check] {
        let mut qiao = Command::new(env!("CARGO_BIN_EXE_qiao"));
        let out = qiao.current_dir(folder.path()).args(args).arg("--plugin").arg(&odd).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.to_lowercase().contains("tianshu"), "{args:?}: {text}");
    }
    let missing = odd.with_file_name("missing.so");
    let mut qiao = Command::new(env!("CARGO_BIN_EXE_qiao"));
    let out = qiao.arg("run").arg("--plugin").arg(missing).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && error.contains("there is no such file"), "{error}");
}

#[test]
fn a_plugin_that_ends_the_process_that_loads_it_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let source = "#include <stdlib.h>\n__attribute__((constructor)) static void begin(void) { abort(); }\n";
    std::fs::write(folder.path().join("crash.c"), source).unwrap();
    cc(folder.path(), "crash.c", "libcrash.so");
    for args in [&["devices"][..], &["run"], &["check", "--profile", "smoke"]] {
        let out = qiao(folder.path(), &[args, &["--plugin", "./libcrash.so"]].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.contains("libcrash.so") && error.contains("SIGABRT"), "{error}");
    }
}

#[test]
fn a_plugin_that_is_not_present_is_a_row_and_no_failure() {
    let (folder, _) = ported();
    let folder = folder.path();
    let source = folder.join("tianshu/tianshu.c");
    let text = std::fs::read_to_string(&source).unwrap();
    let begin = "  qiao_backend* backend = calloc";
    let absent = "  return fail(e, QIAO_ERR_NOT_PRESENT, \"libtianshu is not on this machine\");\n";
    std::fs::write(&source, text.replacen(begin, &format!("{absent}{begin}"), 1)).unwrap();
    cc(&folder.join("tianshu"), "tianshu.c", "libabsent.so");
    let plugin = ["--plugin", "tianshu/libabsent.so"];
    let listed = words(&said(folder, &[&["devices"], &plugin[..]].concat()));
    assert!(listed.contains("tianshu tianshu is not present: libtianshu is not on this machine"), "{listed}");
    assert!(listed.contains("cpu:0"), "{listed}");
    for args in [&["run"][..], &["check"], &["plan"], &["bench", "ops"], &["adapt"]] {
        let out = qiao(folder, &[args, &plugin].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{args:?}: {error}");
        assert!(error.contains("device 'tianshu' is not present: libtianshu is not on this machine"), "{error}");
    }
    let report = std::fs::read_to_string(folder.join("qiao-report/report.json")).unwrap();
    assert!(report.contains("not_present"), "{report}");
}

/// Runs until the journal has some records, and gives what stands in it then.
fn journal_of(folder: &Path, args: &[&str]) -> String {
    let mut run = Command::new(env!("CARGO_BIN_EXE_qiao"));
    let mut run = run.args(args).current_dir(folder).stdout(std::process::Stdio::null()).spawn().unwrap();
    loop {
        let text = std::fs::read_to_string(folder.join("journal")).unwrap_or_default();
        if text.lines().count() > 4 {
            run.kill().unwrap();
            run.wait().unwrap();
            return text;
        }
        assert!(run.try_wait().unwrap().is_none(), "it ended before its journal was read");
    }
}

#[test]
fn a_journal_goes_on_only_with_the_plugin_that_it_began_with() {
    let (folder, library) = ported();
    let plugin = library.to_str().unwrap();
    let args = ["check", "--plugin", plugin, "--profile", "device", "--filter", "op/matmul/*", "--journal", "journal"];
    let kept = journal_of(folder.path(), &args);
    let again = |more: &[&str]| {
        std::fs::write(folder.path().join("journal"), &kept).unwrap();
        let out = qiao(folder.path(), &[&args[..], more].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{error}");
        error
    };
    assert!(again(&[]).contains("going on with the journal journal: "));
    assert!(
        again(&["--option", "a=b"]).contains("the journal journal is begun anew: it is of a run with another setup")
    );
    let mut bytes = std::fs::read(&library).unwrap();
    bytes.push(0);
    std::fs::write(&library, bytes).unwrap();
    assert!(again(&[]).contains("the journal journal is begun anew: it is of a run with another setup"));
}

#[test]
fn what_is_no_plugin_or_no_option_is_one_clear_error() {
    let (folder, library) = ported();
    let library = library.to_str().unwrap();
    for (args, words) in [
        (&["devices", "--plugin", "./missing.so"][..], "missing.so"),
        (&["devices", "--plugin", library, "--option", "novalue"], "key=value"),
        (&["devices", "--plugin", library, "--plugin", library], "is there already"),
        (&["new-backend", "Tianshu"], "is no name for a backend"),
        (&["new-backend", "tianshu"], "is there already"),
        (&["new-backend", "cuda"], "qiao has a backend 'cuda' already"),
        (&["check", "--plugin", library, "--profile", "device", "--require", "matmull"], "matmull"),
    ] {
        let out = qiao(folder.path(), args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(words), "{args:?}: {error}");
    }
}
