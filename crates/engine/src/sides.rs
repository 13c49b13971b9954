//! A device and the host that it may fall back to, and how long either is waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Device, Error, Stream};
use qiao_layers::{Home, Policy};

use crate::error::Result;

/// The longest wait for a device's command, unless another is asked for: a device that hangs ends in an error.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A device, the host of its policy, and the longest wait for either.
#[derive(Clone)]
pub(crate) struct Sides {
    device: Arc<dyn Device>,
    policy: Policy,
    patience: Duration,
}

impl Sides {
    pub(crate) fn new(device: Arc<dyn Device>, policy: Policy, patience: Option<Duration>) -> Sides {
        Sides { device, policy, patience: patience.unwrap_or(PATIENCE) }
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The device of a side. Where there is no host, nothing lives there.
    pub(crate) fn of(&self, home: Home) -> &Arc<dyn Device> {
        match home {
            Home::Host => self.policy.host().unwrap_or(&self.device),
            Home::Device => &self.device,
        }
    }

    /// A stream of a side that waits no longer than its patience.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn stream(&self, home: Home) -> Result<Box<dyn Stream>> {
        let mut stream = self.of(home).stream()?;
        stream.set_patience(self.patience);
        Ok(stream)
    }
}

/// What ran on the host that a device falls back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostWork {
    /// Operators that ran, as often as they did.
    pub operators: u64,
    /// Bytes that came from the device for them, constants that are downloaded once apart.
    pub down: u64,
    /// Bytes that went back.
    pub up: u64,
    /// How long they took: transfers and computing, without waiting for the device.
    pub time: Duration,
}

impl HostWork {
    /// What came since an earlier moment.
    pub fn since(self, earlier: HostWork) -> HostWork {
        HostWork {
            operators: self.operators.saturating_sub(earlier.operators),
            down: self.down.saturating_sub(earlier.down),
            up: self.up.saturating_sub(earlier.up),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

impl std::ops::Add for HostWork {
    type Output = HostWork;

    fn add(self, other: HostWork) -> HostWork {
        HostWork {
            operators: self.operators.saturating_add(other.operators),
            down: self.down.saturating_add(other.down),
            up: self.up.saturating_add(other.up),
            time: self.time.saturating_add(other.time),
        }
    }
}

/// Allocates memory for a tensor of `bytes` bytes, with the padding that the device wants behind it.
pub(crate) fn alloc_padded(device: &dyn Device, bytes: usize) -> Result<Binding> {
    let padded = bytes.max(1).saturating_add(device.info().tensor_tail_pad);
    Ok(Binding::part(&device.alloc(0, padded)?, 0, bytes))
}

/// When a request must be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// The time and how long it was given; none where it may last.
    at: Option<(Instant, Duration)>,
}

impl Deadline {
    /// This long from now; none given is none.
    pub fn after(timeout: Option<Duration>) -> Deadline {
        Deadline::since(Instant::now(), timeout)
    }

    /// This long from then.
    pub(crate) fn since(start: Instant, timeout: Option<Duration>) -> Deadline {
        let at = |timeout: Duration| Some((start.checked_add(timeout)?, timeout));
        Deadline { at: timeout.and_then(at) }
    }

    /// How long a wait may be from now on, and no longer than `most`.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the time is over.
    pub(crate) fn left(&self, most: Duration) -> Result<Duration> {
        let Some((at, given)) = self.at else { return Ok(most) };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let millis = u64::try_from(given.as_millis()).unwrap_or(u64::MAX);
            return Err(Error::Timeout { what: "the request".into(), millis }.into());
        }
        Ok(left.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_leaves_less_and_less_and_then_an_error() {
        let most = Duration::from_secs(7);
        assert_eq!(Deadline::default().left(most).unwrap(), most);
        assert_eq!(Deadline::after(Some(Duration::MAX)).left(most).unwrap(), most, "beyond what a clock can tell");
        let long = Deadline::after(Some(Duration::from_secs(5))).left(most).unwrap();
        assert!(long <= Duration::from_secs(5) && long > Duration::ZERO);
        let error = Deadline::after(Some(Duration::ZERO)).left(most).unwrap_err();
        assert_eq!(error.to_string(), "the request did not finish within 0 ms");
    }
}
