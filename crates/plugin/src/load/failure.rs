//! What a plugin answered instead of OK.

use std::time::Duration;

use qiao_core::Error;

use super::words;
use crate::abi;

/// An answer that is not OK, or one that breaks the contract.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The function that was called.
    pub(super) slot: &'static str,
    /// What it returned; [`abi::ERR_INTERNAL`] where it broke the contract.
    pub(super) status: abi::Status,
    /// Its words.
    pub(super) message: String,
}

/// The answer of a plugin.
pub(super) type Answer<T> = Result<T, Failure>;

/// What was asked for, where an error tells it.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) bytes: u64,
    pub(super) free: u64,
    pub(super) wait: Duration,
}

impl Failure {
    /// A status with the record that came with it.
    pub(super) fn of(slot: &'static str, status: abi::Status, record: &abi::ErrorRecord) -> Failure {
        let mut message = words::text(&record.message);
        if record.operand > 0 {
            message = format!("operand {}: {message}", record.operand - 1);
        }
        if record.vendor_code != 0 {
            message = format!("{message} (the driver's code is {})", record.vendor_code);
        }
        Failure { slot, status, message: message.trim().to_string() }
    }

    /// The plugin broke the contract.
    pub(super) fn broke(slot: &'static str, how: impl Into<String>) -> Failure {
        let message = format!("the plugin breaks its contract: {slot} {}", how.into());
        Failure { slot, status: abi::ERR_INTERNAL, message }
    }

    /// The plugin's words, or that there are none.
    pub(super) fn words(&self) -> String {
        if self.message.is_empty() {
            return format!("{} failed with {} and says no more", self.slot, name(self.status));
        }
        match self.status {
            0..=10 => self.message.clone(),
            unknown => format!("{} ({} returned status {unknown}, which is none)", self.message, self.slot),
        }
    }

    /// The error of the contract. `what` is the device, or the plugin where there is none yet.
    pub(super) fn error(&self, what: &str, asked: Asked) -> Error {
        self.error_of(self.slot, what, asked)
    }

    /// The error of a stream's command, in words that do not depend on which call told it: a failure may come out at the
    /// command, at a sync or at an event.
    pub(super) fn error_of_command(&self, what: &str, asked: Asked) -> Error {
        self.error_of("a command", what, asked)
    }

    fn error_of(&self, call: &str, what: &str, asked: Asked) -> Error {
        let words = self.words();
        match self.status {
            abi::ERR_INVALID_ARG => Error::invalid(
                format!("{call} on {what}"),
                words,
                "nothing was done; give what the plugin's message asks for",
            ),
            abi::ERR_ABI => Error::invalid(
                format!("{call} on {what}"),
                format!("{words} (this host speaks ABI {}.{})", abi::MAJOR, abi::MINOR),
                "use a plugin built with a header at least as new as the host's, or leave out what it does not know",
            ),
            abi::ERR_OUT_OF_MEMORY => Error::OutOfMemory { device: what.into(), asked: asked.bytes, free: asked.free },
            abi::ERR_TIMEOUT => Error::Timeout {
                what: format!("{call} on {what}"),
                millis: asked.wait.as_millis().try_into().unwrap_or(u64::MAX),
            },
            abi::ERR_POISONED => Error::Poisoned { first: Box::new(Error::internal(what, words)) },
            abi::ERR_DEVICE_LOST => Error::DeviceLost { device: what.into(), why: words },
            abi::ERR_NOT_PRESENT => {
                // A plugin in Rust says it in the contract's own words.
                let why = words.strip_prefix(&format!("{what} is not present: "));
                Error::not_present(what, why.unwrap_or(&words))
            }
            abi::ERR_UNSUPPORTED => Error::internal(what, format!("{call} is not supported: {words}")),
            abi::ERR_NOT_READY => Error::internal(what, format!("{call} is not ready: {words}")),
            _ => Error::internal(what, words),
        }
    }

    /// Whether the call did nothing, so that whatever it named is as it was.
    pub(super) fn did_nothing(&self) -> bool {
        matches!(
            self.status,
            abi::ERR_INVALID_ARG | abi::ERR_UNSUPPORTED | abi::ERR_OUT_OF_MEMORY | abi::ERR_TIMEOUT | abi::ERR_ABI
        )
    }
}

/// The name of a status.
pub(super) fn name(status: abi::Status) -> String {
    let names = [
        "OK",
        "QIAO_ERR_INVALID_ARG",
        "QIAO_ERR_UNSUPPORTED",
        "QIAO_ERR_OUT_OF_MEMORY",
        "QIAO_ERR_NOT_READY",
        "QIAO_ERR_TIMEOUT",
        "QIAO_ERR_POISONED",
        "QIAO_ERR_DEVICE_LOST",
        "QIAO_ERR_ABI",
        "QIAO_ERR_INTERNAL",
        "QIAO_ERR_NOT_PRESENT",
    ];
    let known = usize::try_from(status).ok().and_then(|i| names.get(i));
    known.map_or(format!("status {status}, which is none"), |name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Sized32;

    fn failure(status: abi::Status, message: &str) -> Failure {
        let mut record = abi::ErrorRecord::sized();
        for (to, from) in record.message.iter_mut().zip(message.bytes()) {
            *to = from as _;
        }
        Failure::of("copy", status, &record)
    }

    #[test]
    fn every_status_has_its_error_and_an_unknown_one_is_internal() {
        let error = |status| failure(status, "words").error("npu", Asked::default());
        assert!(matches!(error(abi::ERR_INVALID_ARG), Error::Invalid { .. }));
        assert!(matches!(error(abi::ERR_ABI), Error::Invalid { .. }));
        assert!(matches!(error(abi::ERR_OUT_OF_MEMORY), Error::OutOfMemory { .. }));
        assert!(matches!(error(abi::ERR_TIMEOUT), Error::Timeout { .. }));
        assert!(matches!(error(abi::ERR_POISONED), Error::Poisoned { .. }));
        assert!(matches!(error(abi::ERR_DEVICE_LOST), Error::DeviceLost { .. }));
        assert!(matches!(error(abi::ERR_NOT_PRESENT), Error::NotPresent { .. }));
        for status in [abi::ERR_UNSUPPORTED, abi::ERR_NOT_READY, abi::ERR_INTERNAL] {
            assert!(matches!(error(status), Error::Internal { .. }));
        }
        for status in [11, -1, i32::MIN, i32::MAX] {
            let error = error(status).to_string();
            assert!(error.contains(&status.to_string()) && error.contains("words"), "{error}");
        }
    }

    #[test]
    fn what_is_not_present_is_said_once() {
        for words in ["libjing.so was not found", "npu is not present: libjing.so was not found"] {
            let error = failure(abi::ERR_NOT_PRESENT, words).error("npu", Asked::default()).to_string();
            assert_eq!(error, "npu is not present: libjing.so was not found");
        }
    }

    #[test]
    fn a_record_is_told_with_its_operand_and_the_drivers_code() {
        let mut record = abi::ErrorRecord::sized();
        (record.operand, record.vendor_code) = (2, 507_011);
        record.message.fill(b'x' as _);
        let words = Failure::of("upload", abi::ERR_INTERNAL, &record).words();
        assert!(words.starts_with("operand 1: xxx") && words.ends_with("x (the driver's code is 507011)"), "{words}");
        assert_eq!(failure(9, "").words(), "copy failed with QIAO_ERR_INTERNAL and says no more");
        assert!(failure(77, "").words().contains("status 77, which is none"));
    }
}
