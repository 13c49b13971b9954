//! A model for a command: its device, and a bar on standard error while its weights are read.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qiao::core::registry::Listing;
use qiao::core::{DType, Error};
use qiao::{Model, ModelOptions};
use qiao_conformance::DeviceFacts;

use crate::args::{Dtype, KvDtype, Where};
use crate::exit::{NotPresent, Usage};
use crate::plugins;
use crate::terminal::tell_line;

/// What the demo model continues when nothing else is asked for.
pub(crate) const DEMO_PROMPT: &str = "床前明月光";

/// A model and how long it took to load.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

impl Loaded {
    /// Whether no weight had to be packed, since a file had them all.
    pub(crate) fn prepacked(&self) -> bool {
        let weights = self.model.packed_weights();
        weights.mapped > 0 && weights.packed == 0
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> DType {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        }
    }
}

impl From<KvDtype> for DType {
    fn from(dtype: KvDtype) -> DType {
        match dtype {
            KvDtype::F32 => DType::F32,
            KvDtype::Bf16 => DType::BF16,
            KvDtype::F16 => DType::F16,
            KvDtype::I8 => DType::I8,
            KvDtype::F8e4m3 => DType::F8E4M3,
            KvDtype::F8e5m2 => DType::F8E5M2,
        }
    }
}

/// Loads a checkpoint, or the demo model without one.
pub(crate) fn load(path: Option<&Path>, on: &Where) -> anyhow::Result<Loaded> {
    let loaded = load_with(path, on, ModelOptions::new())?;
    for why in loaded.model.packed_weights().refused {
        tell_line(&format!("the weights were packed anew: {why}"));
    }
    Ok(loaded)
}

/// As [`load`], with no weights that were packed before.
pub(crate) fn load_anew(path: Option<&Path>, on: &Where) -> anyhow::Result<Loaded> {
    load_with(path, on, ModelOptions::new().prepacked(None))
}

fn load_with(path: Option<&Path>, on: &Where, options: ModelOptions) -> anyhow::Result<Loaded> {
    present(&on.device)?;
    let start = Instant::now();
    let bar = bar();
    let shown = bar.clone();
    let options = options.device(&on.device).dtype(on.dtype.map(DType::from));
    let mut options = options.kv_dtype(on.kv_dtype.map(DType::from));
    if let Some(split) = &on.split {
        options = options.split(split.iter().copied());
    }
    if on.fallback.to_host() {
        options = options.host_fallback();
    }
    if let Some(context) = on.context {
        options = options.context(context as usize);
    }
    let options = options.on_progress(move |progress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
    });
    let model = match path {
        Some(path) => options.load(path),
        None => options.demo(),
    };
    bar.finish_and_clear();
    Ok(Loaded { model: model?, time: start.elapsed() })
}

/// Refuses several devices where only one will do.
pub(crate) fn require_one(names: &str, who: &str) -> Result<(), Usage> {
    match names.split(',').count() {
        1 => Ok(()),
        count => Err(Usage(format!("{who} works with one device, found {count} ('{names}'): name one with --device"))),
    }
}

/// Refuses devices, with commas between, that no backend of this program has on this machine. A backend that fails for another
/// reason, such as a wrong environment variable, says so itself.
pub(crate) fn present(names: &str) -> anyhow::Result<()> {
    let listings = listings();
    names.split(',').try_for_each(|name| one_present(name.trim(), &listings))
}

/// What a device that is present says of itself.
pub(crate) fn facts(name: &str) -> Option<DeviceFacts> {
    let (backend, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let listing = listings().into_iter().find(|listing| listing.backend == backend)?;
    Some(DeviceFacts::of(name, listing.devices.ok()?.get(ordinal.parse::<usize>().ok()?)?))
}

/// Every backend with its devices; plugins that are not present are among them.
pub(crate) fn listings() -> Vec<Listing> {
    qiao::registry().list().into_iter().chain(plugins::absent()).collect()
}

fn one_present(name: &str, listings: &[Listing]) -> anyhow::Result<()> {
    let absent = |why: String| Err(NotPresent { name: name.into(), why }.into());
    let (backend, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let Some(listing) = listings.iter().find(|l| l.backend == backend) else {
        let known: Vec<_> = listings.iter().map(|l| l.backend.as_str()).collect();
        return absent(format!("no backend has it, there are {}; see 'qiao devices'", known.join(", ")));
    };
    match &listing.devices {
        Err(Error::NotPresent { why, .. }) => absent(why.clone()),
        Err(other) => Err(other.clone().into()),
        Ok(devices) if ordinal.parse().is_ok_and(|n: usize| n < devices.len()) => Ok(()),
        Ok(devices) => absent(format!("{backend} has {} device(s), counted from 0; see 'qiao devices'", devices.len())),
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("loading {bar:40} {bytes} / {total_bytes}  {bytes_per_sec}  {eta}")
        .expect("the template is well formed");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(0).with_style(style)
}
