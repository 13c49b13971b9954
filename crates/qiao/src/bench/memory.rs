//! What this process takes of the machine's memory, as Linux tells it.

use std::fs;

use serde::Serialize;

/// Bytes that the process has in physical memory now; `None` where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    status_bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most bytes that a process had in physical memory, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessPeak {
    /// `VmHWM` of `/proc/self/status`: resident pages, those of mapped weight files included. Absent where the system does
    /// not tell.
    pub bytes: Option<u64>,
    /// Since when: the measurement, or the start of the process where the mark can't be reset; or why there is no figure.
    pub scope: String,
}

/// The high-water mark of the process since this was made.
#[derive(Debug)]
pub(crate) struct HighWater {
    reset: Result<(), String>,
}

impl HighWater {
    /// Sets the mark back to what is resident now (`5` to `/proc/self/clear_refs`, see proc(5)).
    pub(crate) fn reset() -> HighWater {
        HighWater { reset: fs::write("/proc/self/clear_refs", "5").map_err(|error| error.to_string()) }
    }

    /// The mark.
    pub(crate) fn peak(&self) -> ProcessPeak {
        let bytes = fs::read_to_string("/proc/self/status").ok().and_then(|text| status_bytes(&text, "VmHWM:"));
        let scope = match (&self.reset, bytes) {
            (_, None) => "not available: /proc/self/status does not tell VmHWM here".to_string(),
            (Ok(()), _) => "since the measurement began".to_string(),
            (Err(why), _) => format!("since the process began: the mark could not be reset ({why})"),
        };
        ProcessPeak { bytes, scope }
    }
}

/// A figure of `/proc/self/status`, which is in KiB.
fn status_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_status_file_are_kibibytes() {
        let text = "Name:\tqiao\nVmHWM:\t    1716 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(status_bytes(text, "VmHWM:"), Some(1716 * 1024));
        assert_eq!(status_bytes(text, "VmSwap:"), None);
        assert_eq!(status_bytes("VmHWM:\t many kB", "VmHWM:"), None);
        assert_eq!(status_bytes("VmHWM:\t 99999999999999999999 kB", "VmHWM:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_was_touched_shows_in_the_mark() {
        let water = HighWater::reset();
        let before = resident().unwrap();
        let block = vec![1u8; 64 << 20];
        assert!(std::hint::black_box(&block).iter().all(|&b| b == 1));
        drop(block);
        let peak = water.peak();
        assert!(peak.bytes.unwrap() >= before.saturating_sub(8 << 20) + (60 << 20), "{peak:?} from {before}");
    }
}
