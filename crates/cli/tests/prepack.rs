//! `qiao prepack`: written once, used by every command, told when it can't be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder with models, and one that commands take for the user's cache.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }

    fn qiao(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_qiao")).args(args).env("QIAO_CACHE_DIR", self.path("cache")).output().unwrap()
    }

    /// What a command that succeeds writes to its two outputs.
    fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.qiao(args);
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
        assert!(output.status.success(), "{args:?}: {err}");
        (out, err)
    }

    fn json(&self, args: &[&str]) -> (Value, String) {
        let (out, err) = self.ok(&[args, &["--json"]].concat());
        (serde_json::from_str(&out).unwrap(), err)
    }

    /// What a model goes on with, and what was told beside it.
    fn says(&self, model: &str) -> (Value, String) {
        let (found, err) = self.json(&["run", model, "--prompt", "床前", "--max-tokens", "12", "--temperature", "0"]);
        let was = found["prepacked"].as_bool().unwrap();
        assert_eq!(was, !self.kept().is_empty() && !err.contains("packed anew"), "{found}");
        (found["token_ids"].clone(), err)
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join("cache/prepacked"));
        entries.map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    }
}

fn demo() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../qiao/demo").to_str().unwrap().to_string()
}

#[test]
fn every_format_says_the_same_before_and_after() {
    for format in ["q4_0", "q8_0", "q4_k_m", "iq4_nl", "f16"] {
        let place = Place::new();
        let model = place.path(&format!("poem {format}.gguf"));
        place.ok(&["quantize", &demo(), &model, "--format", format]);
        let (before, _) = place.says(&model);
        assert!(place.kept().is_empty(), "nothing is kept unasked");
        let (told, _) = place.json(&["prepack", &model]);
        let [file] = &place.kept()[..] else { panic!("{:?}", place.kept()) };
        assert_eq!(told["files"][0]["path"], file.to_str().unwrap());
        assert_eq!(told["files"][0]["bytes"], fs::metadata(file).unwrap().len());
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with(&format!("poem_{format}-")), "{file:?}");
        let (after, err) = place.says(&model);
        assert_eq!((after, err.contains("packed anew")), (before.clone(), false), "{format}");
        // A change of one byte of the probe, which stands first.
        let mut bytes = fs::read(file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header] ^= 1;
        fs::write(file, bytes).unwrap();
        let (after, err) = place.says(&model);
        assert!(err.contains("the weights were packed anew: ") && err.contains("qiao prepack"), "{err}");
        assert_eq!(after, before, "{format}");
        place.ok(&["prepack", &model]);
        assert!(!place.says(&model).1.contains("packed anew"));
    }
}

#[test]
fn a_folder_of_safetensors_is_kept_too_and_its_file_is_told() {
    let place = Place::new();
    let (before, _) = place.says(&demo());
    let (out, err) = place.ok(&["prepack", &demo()]);
    assert_eq!(Path::new(out.trim_end()), place.kept()[0]);
    assert!(err.contains("GiB written"), "{err}");
    assert_eq!(place.says(&demo()).0, before);
    let (out, _) = place.ok(&["prepack", &demo(), "--folder", &place.path("elsewhere")]);
    assert!(Path::new(out.trim_end()).starts_with(place.path("elsewhere")), "{out}");
}

#[test]
fn a_device_that_packs_nothing_and_a_model_that_is_not_there_are_errors() {
    let place = Place::new();
    for (args, words) in [
        (["prepack", &demo(), "--device", "reference"], "does not read files where they are mapped"),
        (["prepack", &place.path("none"), "--device", "cpu"], "none"),
        (["prepack", &demo(), "--device", "quantum"], "quantum"),
    ] {
        let output = place.qiao(&args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && err.starts_with("error: ") && err.contains(words), "{args:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    assert!(place.kept().is_empty());
}
