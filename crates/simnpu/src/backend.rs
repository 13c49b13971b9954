//! The backend: as many devices as the options say, each a chip of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

use crate::chip::Chip;
use crate::device::SimDevice;
use crate::options::Settings;

/// The simulated devices of one set of options.
pub struct SimBackend {
    settings: Settings,
    driver: String,
    /// Whether the host's memory is in reach.
    near: bool,
    chips: Vec<Slot>,
}

/// Where a chip stands. One that was lost is replaced when it is opened again.
type Slot = Arc<Mutex<Arc<Chip>>>;

/// A slot that its backend may have let go of.
type Known = Weak<Mutex<Arc<Chip>>>;

/// Every chip of this process with its position, for the gate that knows no backend.
static SLOTS: Mutex<Vec<(usize, Known)>> = Mutex::new(Vec::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes or opens the gate of every chip of this process at this position of its backend; of all chips without one.
pub(crate) fn gate(ordinal: Option<usize>, closed: bool) {
    let slots = locked(&SLOTS).clone();
    for (position, slot) in slots {
        if let Some(slot) = slot.upgrade().filter(|_| ordinal.is_none_or(|o| o == position)) {
            locked(&slot).referee.close(closed);
        }
    }
}

impl SimBackend {
    /// The devices that options ask for, in this process; [`open`](crate::open) also knows of those in another.
    pub fn new(settings: Settings) -> SimBackend {
        SimBackend::with(settings, "simulated".into(), true)
    }

    /// The devices of a process whose host is another.
    pub(crate) fn far(settings: Settings) -> SimBackend {
        SimBackend::with(settings, format!("simulated, process {}", std::process::id()), false)
    }

    fn with(settings: Settings, driver: String, near: bool) -> SimBackend {
        let chip = |_| Arc::new(Mutex::new(Chip::new(&settings, Arc::default())));
        let chips: Vec<Slot> = (0..settings.devices).map(chip).collect();
        let mut slots = locked(&SLOTS);
        slots.retain(|(_, slot)| slot.strong_count() > 0);
        slots.extend(chips.iter().enumerate().map(|(i, chip)| (i, Arc::downgrade(chip))));
        drop(slots);
        SimBackend { settings, driver, near, chips }
    }

    /// Opens a device as what it is.
    ///
    /// # Errors
    /// There is no device of that number.
    pub fn open_device(&self, ordinal: usize) -> Result<SimDevice> {
        let slot = self.chips.get(ordinal).ok_or_else(|| absent(ordinal, self.chips.len()))?;
        let mut chip = locked(slot);
        if chip.referee.alive().is_err() {
            *chip = Chip::new(&self.settings, chip.counters.clone());
        }
        Ok(SimDevice::new(chip.clone(), &self.driver, self.near))
    }
}

/// The error of a device that is not there.
pub(crate) fn absent(ordinal: usize, count: usize) -> Error {
    Error::invalid("device", format!("simnpu:{ordinal}"), format!("there are {count}, from simnpu:0 on"))
}

impl Backend for SimBackend {
    fn name(&self) -> &str {
        "simnpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        (0..self.chips.len()).map(|i| self.open_device(i).map(|d| d.info().clone())).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(self.open_device(ordinal)?))
    }
}
