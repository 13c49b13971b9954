//! Steps that are done, kept in the report's folder until all are.

use std::path::PathBuf;

use qiao_conformance::journal::differing;
use qiao_conformance::platform::environment;
use qiao_conformance::report::Mode;
use qiao_conformance::save;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::Adapt;
use crate::load::facts;
use crate::plugins;
use crate::terminal::tell_line;

/// Steps in all.
const ALL: usize = 3;

/// The steps of one run.
pub(crate) struct Steps {
    file: PathBuf,
    /// What must be equal for steps to be of the same run.
    head: Value,
    kept: serde_json::Map<String, Value>,
    told: usize,
}

impl Steps {
    /// What is left of a run that was cut off, if it was the same one.
    pub(crate) fn open(args: &Adapt, mode: Mode) -> anyhow::Result<Steps> {
        let head = json!({
            "qiao": env!("CARGO_PKG_VERSION"),
            "device": args.device,
            "model": args.model,
            "mode": mode,
            "profile": args.profile.map(qiao_conformance::Profile::from),
            "seed": args.seed,
            "expectations": args.expectations.as_ref().and_then(|p| std::fs::read_to_string(p).ok()),
            "timeout": args.timeout,
            "fallback": args.fallback.to_host(),
            "facts": facts(&args.device),
            "setup": plugins::setup(),
            "environment": environment(),
        });
        let file = args.report.join("steps.json");
        std::fs::create_dir_all(&args.report)
            .map_err(|e| anyhow::anyhow!("{} can't be made: {e}; give another --report", args.report.display()))?;
        let old: Option<Value> = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut kept = serde_json::Map::new();
        if let Some(old) = old {
            // As it is read back: a number may part from the one that was written.
            let other = differing(&old["head"], &serde_json::from_str(&head.to_string())?);
            if other.is_empty() {
                kept = old["steps"].as_object().cloned().unwrap_or_default();
                tell_line(&format!("going on with the run of {}: {} steps kept", file.display(), kept.len()));
            } else {
                let (file, other) = (file.display(), other.join(", "));
                tell_line(&format!("{file} is begun anew: it is of a run with another {other}"));
            }
        }
        Ok(Steps { file, head, kept, told: 0 })
    }

    /// The result of a step that is done.
    pub(crate) fn done<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let done = serde_json::from_value(self.kept.get(name)?.clone()).ok()?;
        self.told += 1;
        Some(done)
    }

    /// Keeps the result of a step.
    pub(crate) fn keep(&mut self, name: &str, result: &impl Serialize) -> anyhow::Result<()> {
        self.kept.insert(name.into(), serde_json::to_value(result)?);
        let text = json!({ "head": self.head, "steps": self.kept }).to_string();
        save::whole(&self.file, text.as_bytes())
            .map_err(|e| anyhow::anyhow!("{} can't be written: {e}; free some room", self.file.display()))
    }

    /// Says which step begins.
    pub(crate) fn tell(&mut self, what: &str) {
        self.told += 1;
        tell_line(&format!("[{}/{ALL}] {what}", self.told));
    }

    /// Ends the run: it has nothing to go on with.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        if self.file.exists() {
            std::fs::remove_file(&self.file)?;
        }
        Ok(())
    }
}
