//! The device under test, and what a case may ask of the run around it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qiao_core::{DType, Device, Result};
use qiao_reference::Trial;
use qiao_reference::trial::Golden;

/// Opens the device under test.
pub type Open = Arc<dyn Fn() -> Result<Arc<dyn Device>> + Send + Sync>;

/// The device under test.
#[derive(Clone)]
pub struct Subject {
    /// The device, opened once for the run.
    pub device: Arc<dyn Device>,
    /// Opens it again.
    pub open: Open,
    /// The host's own kernels, to tell a chip's results from the host's; `None` where the device is the host.
    pub host: Option<Arc<dyn Device>>,
    /// How long one wait may take.
    pub timeout: Duration,
    truths: Arc<Truths>,
}

impl Subject {
    /// Opens the device under test.
    ///
    /// # Errors
    /// The backend's.
    pub fn open(open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static) -> Result<Subject> {
        Ok(Subject {
            device: open()?,
            open: Arc::new(open),
            host: None,
            timeout: Duration::from_secs(60),
            truths: Arc::default(),
        })
    }

    /// Another device under the same cases: truths that were worked out last are shared.
    ///
    /// # Errors
    /// The backend's.
    pub fn beside(&self, open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static) -> Result<Subject> {
        Ok(Subject { truths: self.truths.clone(), ..Subject::open(open)? })
    }

    /// The truth of a trial, which `key` names.
    pub(crate) fn golden(&self, key: &str, trial: &Trial, act: Option<DType>) -> Result<Arc<Golden>> {
        let mut kept = self.truths.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., golden)) = kept.iter().find(|(k, a, _)| k == key && *a == act) {
            return Ok(golden.clone());
        }
        let golden = Arc::new(trial.golden(act)?);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((key.into(), act, golden.clone()));
        Ok(golden)
    }
}

/// The truths that were worked out last, so that several devices under one case share them.
#[derive(Default)]
struct Truths(Mutex<Vec<Kept>>);

/// What names a truth, and the truth.
type Kept = (String, Option<DType>, Arc<Golden>);

/// A case has at most two truths, and one device may round activations where another does not.
const KEPT: usize = 4;
