//! What tests on the simulated card share: the card, makers of operands, and trials that must be within their limits.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Once, OnceLock};

pub(crate) use qiao_conformance::trials::run::Run;
pub(crate) use qiao_conformance::trials::*;
use qiao_core::*;
use qiao_cuda::Family;
use qiao_reference::Trial;
use qiao_simcuda::Card;

/// The simulated card of this process. What is compiled is kept in a folder of this program's, which is empty at its start.
pub(crate) fn card() -> &'static Card {
    static NAMED: Once = Once::new();
    NAMED.call_once(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("cuda-", env!("CARGO_CRATE_NAME")));
        let folder = folder.join(family().name());
        std::fs::remove_dir_all(&folder).ok();
        // SAFETY: done once, before the first device is opened; nothing else of this process reads the environment yet.
        unsafe { std::env::set_var("QIAO_CACHE_DIR", folder) };
    });
    let card = qiao_simcuda::install();
    if let Some(compiler) = card.compiler() {
        // SAFETY: as above; the vendor without a run-time compiler has one named.
        unsafe { std::env::set_var("QIAO_COREX_COMPILER", compiler) };
    }
    card
}

/// The vendor whose names the simulated card answers to: `QIAO_SIMCUDA_FAMILY`, NVIDIA without it.
pub(crate) fn family() -> Family {
    let name = qiao_simcuda::Family::of_environment().name();
    Family::ALL.into_iter().find(|family| family.name() == name).expect("every name has its backend")
}

/// Runs the other tests of this program once more for every other vendor, each in a process of its own; `this` is the name of
/// the test that asks for it.
pub(crate) fn run_for_other_vendors(this: &str) {
    const VARIABLE: &str = "QIAO_SIMCUDA_FAMILY";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    for family in Family::ALL.into_iter().skip(1) {
        let mut command = Command::new(&program);
        let output =
            command.args(["--skip", this]).env(VARIABLE, family.name()).env_remove("QIAO_SIMCUDA_WARP").output();
        let output = output.expect("this program starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("test result: ok"), "for {}:\n{said}", family.name());
    }
}

/// The first card, opened once for all tests of this process.
pub(crate) fn device() -> Arc<dyn Device> {
    static DEVICE: OnceLock<Arc<dyn Device>> = OnceLock::new();
    let open = || {
        card();
        family().open(0).expect("the simulated card opens")
    };
    DEVICE.get_or_init(open).clone()
}

/// Every trial runs natively on the card and is within its limits.
#[track_caller]
pub(crate) fn check_all(trials: &[Trial]) {
    let mut wrong = failures(&*device(), trials, |_| true);
    if !wrong.is_empty() {
        wrong.extend(card().fault().map(|said| format!("the card: {said}")));
    }
    hold(&wrong);
}

/// Why the card refuses a trial's node; nothing where it takes it.
pub(crate) fn refused(trial: &Trial) -> Option<Reason> {
    refusal(&*device(), trial)
}
