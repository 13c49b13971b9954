//! Waiting for a device that is asked again and again: mostly asleep, awake when the work should be about done.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a wait asks again and again before it sleeps.
const EAGER: Duration = Duration::from_micros(30);

/// The longest sleep.
const LONGEST: Duration = Duration::from_millis(1);

/// A wait with an end.
pub struct Watch {
    what: &'static str,
    limit: Duration,
    start: Option<Instant>,
    /// How long such a wait took before: most of that is slept through.
    expected: Duration,
}

impl Watch {
    /// A wait for `what`, no longer than `limit`.
    pub fn new(what: &'static str, limit: Duration) -> Watch {
        Watch { what, limit, start: None, expected: Duration::ZERO }
    }

    /// A wait that is like one that took so long.
    pub fn like(what: &'static str, limit: Duration, expected: Duration) -> Watch {
        Watch { expected, ..Watch::new(what, limit) }
    }

    /// How long it took so far.
    pub fn elapsed(&self) -> Duration {
        self.start.map_or(Duration::ZERO, |start| start.elapsed())
    }

    /// Lets some time pass before the device is asked again.
    ///
    /// # Errors
    /// [`Error::Timeout`] at the end of the wait.
    pub fn pause(&mut self) -> Result<()> {
        let elapsed = self.start.get_or_insert_with(Instant::now).elapsed();
        let Some(left) = self.limit.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
            let millis = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
            return Err(Error::Timeout { what: self.what.into(), millis });
        };
        let most = self.expected * 3 / 4;
        if elapsed < most {
            std::thread::sleep((most - elapsed).min(left).min(LONGEST));
        } else if elapsed < most + EAGER.max(self.expected / 2) {
            std::thread::yield_now();
        } else {
            // A sleep never adds more than a small part to the wait.
            std::thread::sleep((elapsed / 32).max(Duration::from_micros(5)).min(LONGEST).min(left));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_its_time_is_up() {
        let mut watch = Watch::like("work", Duration::from_millis(3), Duration::from_millis(1));
        let start = Instant::now();
        let error = loop {
            if let Err(error) = watch.pause() {
                break error;
            }
        };
        assert!(matches!(error, Error::Timeout { millis: 3, .. }), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(3) && watch.elapsed() >= Duration::from_millis(3));
    }

    #[test]
    fn no_time_at_all_only_asks() {
        assert!(matches!(Watch::new("work", Duration::ZERO).pause(), Err(Error::Timeout { millis: 0, .. })));
    }
}
