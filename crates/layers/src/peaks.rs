//! What a device can do at most, measured or declared.

use qiao_core::{DType, DeviceInfo};

/// Where a limit comes from. A report never shows one without this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Measured on the device by the named probe.
    Measured(String),
    /// Declared by the backend, which names its source.
    Declared(String),
}

/// The limits of a device that bound every operator on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Bytes per second that a kernel can read from the device's first memory; 0 = not known.
    pub bytes_per_s: f64,
    /// Operations per second of dense products, by dtype of the operands. A multiplication and an addition are two.
    pub ops_per_s: Vec<(DType, f64)>,
    /// Where the figures come from.
    pub provenance: Provenance,
}

impl Peaks {
    /// What the device declares about itself.
    pub fn declared(info: &DeviceInfo) -> Peaks {
        let ops = info.dtypes.iter().filter(|d| d.peak_ops_per_s > 0.0).map(|d| (d.dtype, d.peak_ops_per_s));
        Peaks {
            bytes_per_s: info.memories.first().map_or(0.0, |m| m.peak_bytes_per_s),
            ops_per_s: ops.collect(),
            provenance: Provenance::Declared(info.peak_source.clone()),
        }
    }

    /// Operations per second for operands of a dtype, where known.
    pub fn ops(&self, dtype: DType) -> Option<f64> {
        self.ops_per_s.iter().find(|(d, _)| *d == dtype).map(|(_, ops)| *ops)
    }

    /// The least seconds that work can take: the longer of moving its bytes and doing its operations (the roofline of
    /// Williams, Waterman and Patterson, 2009). `None` where a limit that the work needs is not known.
    pub fn least_seconds(&self, flops: u64, bytes: u64, dtype: DType) -> Option<f64> {
        let moving = match bytes {
            0 => 0.0,
            _ if self.bytes_per_s > 0.0 => bytes as f64 / self.bytes_per_s,
            _ => return None,
        };
        let computing = if flops == 0 { 0.0 } else { flops as f64 / self.ops(dtype)? };
        Some(moving.max(computing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_moving_and_computing_bounds_the_time() {
        let peaks = Peaks {
            bytes_per_s: 100.0,
            ops_per_s: vec![(DType::F16, 1000.0)],
            provenance: Provenance::Declared("a data sheet".into()),
        };
        assert_eq!(peaks.least_seconds(2000, 100, DType::F16), Some(2.0));
        assert_eq!(peaks.least_seconds(1000, 300, DType::F16), Some(3.0));
        assert_eq!(peaks.least_seconds(0, 300, DType::F32), Some(3.0));
        assert_eq!(peaks.least_seconds(1, 300, DType::F32), None);
    }

    #[test]
    fn what_is_not_declared_is_not_known() {
        let peaks = Peaks::declared(&DeviceInfo::default());
        assert_eq!(peaks.least_seconds(0, 1, DType::F32), None);
        assert_eq!(peaks.least_seconds(0, 0, DType::F32), Some(0.0));
    }
}
