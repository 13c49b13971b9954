//! Plugins that are found, and those that are passed by with a reason.

mod built;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use built::{acme, says};
use qiao_core::{Backend, Error};
use qiao_plugin::Options;
use qiao_plugin::load::{Finding, Found, LazyBackend, Manifest, Places, discover_in};

const ARCH: &str = std::env::consts::ARCH;

fn manifest(folder: &Path, file: &str, name: &str, library: &str, rest: &str) -> PathBuf {
    let path = folder.join(file);
    let text = format!("{{\"qiao_plugin\": {{\"name\": \"{name}\", \"library\": \"{library}\"{rest}}}}}");
    fs::write(&path, text).unwrap();
    path
}

fn ours() -> String {
    format!(", \"abi_major\": 0, \"arch\": \"{ARCH}\"")
}

fn in_folder(folder: &Path) -> Vec<Found> {
    discover_in(&Places { manifests: vec![folder.into()], ..Places::default() })
}

/// Why something was passed by.
fn skipped(found: &Found) -> &str {
    match &found.what {
        Finding::Skipped(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_manifest_leads_to_a_backend_that_is_loaded_when_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lib")).unwrap();
    let library = dir.path().join("lib/libacme_npu.so");
    let rest = format!("{}, \"options\": {{\"a\": \"1\", \"b\": 2, \"c\": true}}", ours());
    manifest(dir.path(), "acme.json", "acme", "lib/libacme_npu.so", &rest);
    let found = in_folder(dir.path());
    let [Found { what: Finding::Manifest(m), .. }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(m.library, library);
    assert_eq!(m.options, [("a", "1"), ("b", "2"), ("c", "true")].map(|(k, v)| (k.to_string(), v.to_string())));
    // Nothing is touched yet: the library is not even there.
    let backend = found[0].backend(&Options::default()).unwrap();
    assert_eq!(backend.name(), "acme");
    says(&backend.devices().unwrap_err(), &["libacme_npu.so", "no such file"]);
    fs::copy(acme(), &library).unwrap();
    assert_eq!(backend.devices().unwrap()[0].name, "ACME NPU");
    assert_eq!(backend.open(0).unwrap().info().name, "ACME NPU");
}

#[test]
fn a_plugin_of_another_name_than_its_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = manifest(dir.path(), "other.json", "other", acme().to_str().unwrap(), &ours());
    let backend = LazyBackend::new(Manifest::read(&path).unwrap(), &Options::default()).unwrap();
    let error = backend.devices().unwrap_err();
    says(&error, &["its manifest calls it 'other', it calls itself 'acme'"]);
}

#[test]
fn other_machines_and_majors_are_passed_by() {
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "a.json", "acme", "a.so", ", \"abi_major\": 0, \"arch\": \"vax\"");
    manifest(dir.path(), "b.json", "acme", "a.so", &format!(", \"abi_major\": 9, \"arch\": \"{ARCH}\""));
    manifest(dir.path(), "c.json", "acme", "a.so", &ours());
    let found = in_folder(dir.path());
    assert_eq!(skipped(&found[0]), format!("acme is for vax, and this process is {ARCH}"));
    assert_eq!(skipped(&found[1]), "acme speaks ABI major 9, and this host 0");
    assert!(matches!(found[2].what, Finding::Manifest(_)));
    assert!(matches!(found[0].backend(&Options::default()), Err(Error::NotPresent { .. })));
}

#[test]
fn a_broken_manifest_is_one_finding_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("a.json", "{");
    write("b.json", "{\"qiao_plugin\": {\"name\": \"acme\"}}");
    write("c.json", &"[".repeat(5000));
    write("d.json", &" ".repeat(70_000));
    manifest(dir.path(), "e.json", "Acme!", "a.so", &ours());
    manifest(dir.path(), "f.json", "acme", "", &ours());
    manifest(dir.path(), "g.json", "acme", "a.so", &format!("{}, \"options\": {{\"a b\": \"1\"}}", ours()));
    manifest(dir.path(), "h.json", "acme", "a.so", &format!("{}, \"options\": {{\"a\": []}}", ours()));
    write("ignored.txt", "no manifest");
    manifest(dir.path(), "z.json", "acme", "a.so", &ours());
    let found = in_folder(dir.path());
    assert_eq!(found.len(), 9);
    let words = ["", "library", "", "more than 65536 bytes", "Acme!", "library is empty", "\"a b\"", ""];
    for (found, word) in found.iter().zip(words) {
        let Finding::Broken(error) = &found.what else { panic!("{found:?}") };
        says(error, &[word, "plugin manifest", found.place.to_str().unwrap(), "write {\"qiao_plugin\""]);
    }
    assert!(matches!(found[8].what, Finding::Manifest(_)));
}

#[test]
fn of_two_with_one_name_or_one_file_the_first_counts() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    manifest(dirs[0].path(), "a.json", "acme", "a.so", &ours());
    manifest(dirs[0].path(), "b.json", "same", "a.so", &ours());
    manifest(dirs[1].path(), "c.json", "acme", "c.so", &ours());
    let places = Places { manifests: dirs.iter().map(|d| d.path().into()).collect(), ..Places::default() };
    let found = discover_in(&places);
    assert!(matches!(found[0].what, Finding::Manifest(_)));
    assert!(skipped(&found[1]).contains("its library was found as"), "{found:?}");
    assert!(skipped(&found[2]).contains("acme was found in"), "{found:?}");
}

#[test]
fn named_files_and_folders_come_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(acme(), dir.path().join("libacme.so")).unwrap();
    fs::write(dir.path().join("libother.so"), "no plugin").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    manifest(dir.path(), "acme.json", "acme", "libacme.so", &ours());
    let (folder, gone) = (dir.path().to_path_buf(), dir.path().join("gone.so"));
    let places = Places { named: vec![acme().into(), folder, gone.clone()], ..Places::default() };
    let found = discover_in(&places);
    assert!(matches!(found[0].what, Finding::Library) && found[0].place == acme());
    assert!(matches!(&found[1].what, Finding::Manifest(m) if m.name == "acme"));
    assert!(skipped(&found[2]).contains("acme.json names it already"));
    assert!(matches!(found[3].what, Finding::Library));
    let Finding::Broken(error) = &found[4].what else { panic!("{found:?}") };
    says(error, &[gone.to_str().unwrap(), "QIAO_PLUGIN"]);
    assert_eq!(found.len(), 5);
    assert_eq!(found[0].backend(&Options::default()).unwrap().name(), "acme");
    says(&found[3].backend(&Options::default()).err().unwrap(), &["no ELF file"]);
}

#[test]
fn variables_name_places_unless_rights_are_elevated() {
    let of = |pairs: &[(&str, &str)], elevated| {
        let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        Places::of(|name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()), elevated)
    };
    let system = ["/usr/local/lib/qiao/plugins.d", "/etc/qiao/plugins.d"].map(PathBuf::from);
    let all = [("QIAO_PLUGIN", "/a.so::/b"), ("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")];
    let places = of(&all, false);
    assert_eq!(places.named, ["/a.so", "/b"].map(PathBuf::from));
    assert_eq!(places.manifests[0], Path::new("/data/qiao/plugins.d"));
    assert_eq!(places.manifests[1..], system);
    assert_eq!(of(&all[1..2], false).manifests[0], Path::new("/home/u/.local/share/qiao/plugins.d"));
    let relative = [("HOME", "/home/u"), ("XDG_DATA_HOME", "data")];
    assert_eq!(of(&relative, false).manifests[0], Path::new("/home/u/.local/share/qiao/plugins.d"));
    assert_eq!(of(&[], false).manifests, system);
    let places = of(&all, true);
    assert!(places.named.is_empty());
    assert_eq!(places.manifests, system);
    assert_eq!(places.ignored, ["QIAO_PLUGIN is ignored: this process has elevated rights"]);
    let found = discover_in(&Places { manifests: Vec::new(), ..places });
    assert_eq!(skipped(&found[0]), "QIAO_PLUGIN is ignored: this process has elevated rights");
}
