//! The least time that a device's limits leave for some work.

use std::path::Path;

use qiao_core::DType;
use qiao_layers::{Peaks, Provenance};

use super::Work;
use crate::error::Result;
use crate::json::{self, Object};

/// Which limit bounds a time from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Moving the bytes takes longest.
    Memory,
    /// The operations take longest.
    Compute,
    /// Moving the bytes; how fast the device multiplies in this dtype is not known.
    MemoryAlone(DType),
    /// The operations; how fast the device moves bytes is not known.
    ComputeAlone,
    /// No limit that the work needs is known.
    NotKnown,
}

/// The least time of some work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Least {
    /// Seconds; `None` where no limit is known.
    pub seconds: Option<f64>,
    /// What bounds it.
    pub by: By,
}

impl Least {
    /// The longer of moving bytes and doing operations, of what is known; `flops` are of products in the given dtypes.
    pub(super) fn of(peaks: &Peaks, bytes: u64, flops: &[(DType, u64)]) -> Least {
        let moving = match bytes {
            0 => Some(0.0),
            _ if peaks.bytes_per_s > 0.0 => Some(bytes as f64 / peaks.bytes_per_s),
            _ => None,
        };
        let (mut computing, mut unknown) = (0.0, None);
        for &(dtype, flops) in flops.iter().filter(|(_, flops)| *flops > 0) {
            match peaks.ops(dtype) {
                Some(ops) => computing += flops as f64 / ops,
                None => unknown = Some(dtype),
            }
        }
        let (seconds, by) = match (moving, unknown) {
            (None, _) if computing > 0.0 => (Some(computing), By::ComputeAlone),
            (None, _) => (None, By::NotKnown),
            (Some(moving), _) if computing > moving => (Some(computing), By::Compute),
            (Some(moving), Some(dtype)) => (Some(moving), By::MemoryAlone(dtype)),
            (Some(moving), None) => (Some(moving), By::Memory),
        };
        Least { seconds, by }
    }

    /// The least time of one node. Peaks are those of products, so only a product's operations count.
    pub(super) fn of_node(peaks: &Peaks, work: &Work, product: Option<DType>) -> Least {
        let flops = product.map(|dtype| (dtype, work.flops));
        Least::of(peaks, work.bytes(), flops.as_slice())
    }

    /// One after the other. What bounds the longer one is named.
    pub(super) fn then(self, next: Least) -> Least {
        let seconds = self.seconds.zip(next.seconds).map(|(a, b)| a + b);
        let by = match (self.seconds, next.seconds) {
            (None, _) => self.by,
            (_, None) => next.by,
            (Some(a), Some(b)) => {
                if b > a {
                    next.by
                } else {
                    self.by
                }
            }
        };
        Least { seconds, by }
    }
}

/// Reads peaks from a JSON file: `bytes_per_s`, `ops_per_s` by dtype, `source`, and `measured` where they were measured and not
/// only declared. A figure that is left out is not known.
///
/// # Errors
/// A file that can not be read; a key whose value is not what it must be; a dtype that does not exist; no source.
pub fn read_peaks(path: impl AsRef<Path>) -> Result<Peaks> {
    peaks_of(&json::read_object(path.as_ref())?)
}

fn peaks_of(object: &Object) -> Result<Peaks> {
    const KEYS: [&str; 4] = ["bytes_per_s", "ops_per_s", "source", "measured"];
    if let Some(other) = object.keys().find(|key| !KEYS.contains(key)) {
        return Err(object.refuse(other, format!("left out: the keys are {}", KEYS.join(", "))));
    }
    let source = object.text("source")?.filter(|text| !text.trim().is_empty());
    let source = source.ok_or_else(|| object.refuse("source", "where the figures come from, in words"))?.to_string();
    let bytes_per_s = object.positive("bytes_per_s")?.unwrap_or(0.0);
    let mut ops_per_s = Vec::new();
    if let Some(table) = object.object("ops_per_s")? {
        for key in table.keys() {
            let dtype = DType::ALL.iter().copied().find(|d| d.name() == key);
            let dtype = dtype.ok_or_else(|| table.refuse(key, "under the name of a dtype, such as f32, bf16 or i8"))?;
            ops_per_s.extend(table.positive(key)?.map(|ops| (dtype, ops)));
        }
    }
    if bytes_per_s == 0.0 && ops_per_s.is_empty() {
        return Err(object.refuse("bytes_per_s", "a number above 0, or ops_per_s be given"));
    }
    let provenance = match object.boolean("measured")?.unwrap_or(false) {
        true => Provenance::Measured(source),
        false => Provenance::Declared(source),
    };
    Ok(Peaks { bytes_per_s, ops_per_s, provenance })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(bytes_per_s: f64, ops_per_s: &[(DType, f64)]) -> Peaks {
        Peaks { bytes_per_s, ops_per_s: ops_per_s.to_vec(), provenance: Provenance::Declared("a data sheet".into()) }
    }

    fn work(flops: u64, bytes: u64) -> Work {
        Work { flops, weights: bytes, ..Work::default() }
    }

    #[test]
    fn what_is_not_known_bounds_nothing_and_is_named() {
        let (bf16, f32) = (Some(DType::BF16), Some(DType::F32));
        let both = peaks(100.0, &[(DType::BF16, 1000.0)]);
        let least = |p: &Peaks, w, d| (Least::of_node(p, &w, d).seconds, Least::of_node(p, &w, d).by);
        assert_eq!(least(&both, work(3000, 100), bf16), (Some(3.0), By::Compute));
        assert_eq!(least(&both, work(500, 100), bf16), (Some(1.0), By::Memory));
        assert_eq!(least(&both, work(3000, 100), f32), (Some(1.0), By::MemoryAlone(DType::F32)));
        assert_eq!(least(&both, work(3000, 100), None), (Some(1.0), By::Memory), "no product");
        let compute = peaks(0.0, &[(DType::BF16, 1000.0)]);
        assert_eq!(least(&compute, work(500, 100), bf16), (Some(0.5), By::ComputeAlone));
        assert_eq!(least(&compute, work(500, 100), None), (None, By::NotKnown));
        assert_eq!(least(&peaks(0.0, &[]), work(500, 100), bf16), (None, By::NotKnown));
        let sum = Least::of_node(&both, &work(3000, 100), bf16).then(Least::of_node(&both, &work(0, 100), None));
        assert_eq!(sum, Least { seconds: Some(4.0), by: By::Compute });
        assert_eq!(sum.then(Least { seconds: None, by: By::NotKnown }).seconds, None);
    }

    #[test]
    fn peaks_are_read_with_their_provenance() {
        let read = |text: &str| peaks_of(&Object::parse(Path::new("peaks.json"), text.as_bytes()).unwrap());
        let found = read(r#"{"bytes_per_s": 2e11, "ops_per_s": {"f32": 1e12}, "source": "a data sheet"}"#).unwrap();
        assert_eq!(
            found,
            Peaks { provenance: Provenance::Declared("a data sheet".into()), ..peaks(2e11, &[(DType::F32, 1e12)]) }
        );
        let found = read(r#"{"bytes_per_s": 2e11, "source": "a copy", "measured": true}"#).unwrap();
        assert_eq!(found.provenance, Provenance::Measured("a copy".into()));
        for (text, words) in [
            (r#"{"bytes_per_s": 1}"#, "source"),
            (r#"{"bytes_per_s": 0, "source": "x"}"#, "bytes_per_s"),
            (r#"{"source": "x"}"#, "bytes_per_s"),
            (r#"{"ops_per_s": {"f31": 1}, "source": "x"}"#, "ops_per_s.f31"),
            (r#"{"bytes_per_s": 1, "source": "x", "flops": 3}"#, "flops"),
            (r#"{"ops_per_s": {"f32": "fast"}, "source": "x"}"#, "ops_per_s.f32"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("peaks.json") && error.contains(words), "{text}: {error}");
        }
    }
}
