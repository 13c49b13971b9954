//! What can go wrong at the contract, each with what was asked, what was found and how to mend it.

use crate::support::Reason;

/// The result of a call at the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One operator that a device does not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The node's position in the graph that was asked about.
    pub node: usize,
    /// The operator's name in the op list.
    pub op: &'static str,
    /// The device's reason.
    pub reason: Reason,
}

/// An error at the contract.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that no device could do: a wrong shape, dtype, attribute, binding or bound.
    #[error("{what}: {found}; {mend}")]
    Invalid {
        /// What was asked.
        what: String,
        /// What was found.
        found: String,
        /// How to mend it.
        mend: String,
    },
    /// The device does not run these nodes.
    #[error("{device} does not run {} operator(s): {}", list.len(), list_unsupported(list))]
    Unsupported {
        /// The device's name.
        device: String,
        /// Every node that it refuses.
        list: Vec<Unsupported>,
    },
    /// Neither the device nor the host that it may fall back to runs these nodes.
    #[error(
        "{device} does not run {} operator(s) that its host {host} does not run either: {}",
        list.len(),
        list_refused(list)
    )]
    UnsupportedByBoth {
        /// The device's name.
        device: String,
        /// The host's name.
        host: String,
        /// Every node that both refuse, with the device's reason, and the host's reason.
        list: Vec<(Unsupported, Reason)>,
    },
    /// A memory of the device has no room.
    #[error(
        "out of memory on {device}: asked for {asked} bytes{}; use a smaller model, context or batch",
        left(*free)
    )]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        asked: u64,
        /// Bytes that could be had, 0 if not known.
        free: u64,
    },
    /// The driver or the chip is not on this machine. Not a failure: the device is skipped unless it was required.
    #[error("{what} is not present: {why}")]
    NotPresent {
        /// The backend or device.
        what: String,
        /// What was looked for and not found.
        why: String,
    },
    /// A wait ended before the work did. The stream stays usable.
    #[error("{what} did not finish within {millis} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The bound of the wait.
        millis: u64,
    },
    /// An earlier command on this stream failed; the first error is kept.
    #[error("the stream is poisoned by an earlier failure: {first}; destroy it and make a new one")]
    Poisoned {
        /// The first error on the stream.
        first: Box<Error>,
    },
    /// The device is gone; every later call on it fails alike.
    #[error("{device} is lost: {why}; close and open it again")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// What the driver said.
        why: String,
    },
    /// The backend failed in a way that is not the caller's doing.
    #[error("{what}: {why}")]
    Internal {
        /// What was being done.
        what: String,
        /// What happened.
        why: String,
    },
}

impl Error {
    /// A caller's mistake: what was asked, what was found, how to mend it.
    pub fn invalid(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), found: found.into(), mend: mend.into() }
    }

    /// A failure inside a backend.
    pub fn internal(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Internal { what: what.into(), why: why.into() }
    }

    /// Something that this machine does not have.
    pub fn not_present(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::NotPresent { what: what.into(), why: why.into() }
    }
}

/// What there is, where it is known.
fn left(free: u64) -> String {
    if free == 0 { String::new() } else { format!(", {free} bytes can be had") }
}

fn list_unsupported(list: &[Unsupported]) -> String {
    each_once(list.iter().map(|u| format!("{}: {}", u.op, u.reason)))
}

fn list_refused(list: &[(Unsupported, Reason)]) -> String {
    each_once(list.iter().map(|(u, host)| format!("{}: {}, and on the host: {host}", u.op, u.reason)))
}

fn each_once(lines: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for line in lines {
        if !seen.contains(&line) {
            seen.push(line);
        }
    }
    seen.join("; ")
}
