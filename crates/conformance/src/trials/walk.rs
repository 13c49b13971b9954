//! Points of the suite's own families beyond those that it walks.

use qiao_core::{DType, Device, OpKind};

use super::faults;
use crate::family::Family;
use crate::point::Point;

/// A pattern of a family, in some dtypes.
pub struct Walk {
    /// The operator of the family.
    pub op: OpKind,
    /// The family's variant.
    pub variant: &'static str,
    /// The dtypes in which every point is made.
    pub dtypes: Vec<DType>,
    /// Which points there are.
    pub pattern: &'static str,
}

impl Walk {
    /// A pattern of a family, in these dtypes.
    pub fn new(op: OpKind, variant: &'static str, dtypes: &[DType], pattern: &'static str) -> Self {
        Walk { op, variant, dtypes: dtypes.to_vec(), pattern }
    }

    /// Several patterns of a family, in these dtypes.
    pub fn over(op: OpKind, variant: &'static str, dtypes: &[DType], patterns: &[&'static str]) -> Vec<Self> {
        patterns.iter().map(|pattern| Walk::new(op, variant, dtypes, pattern)).collect()
    }

    /// What is wrong with the points on a device that runs them natively, with three sets of data in turn, each by a kernel for
    /// whose name `by` answers yes.
    ///
    /// # Panics
    /// The suite has no such family, or the family no such points.
    #[track_caller]
    pub fn failures(&self, device: &dyn Device, by: impl Fn(DType, &str) -> bool) -> Vec<String> {
        let family = Family::of(self.op).find(|f| f.variant == self.variant).expect("the suite has this family");
        let points = Point::expand(family.params, self.pattern).expect("the pattern is one of the family's");
        let each = points.iter().flat_map(|point| self.dtypes.iter().map(move |&dtype| (point, dtype)));
        let mut failures = Vec::new();
        for (i, (point, dtype)) in each.enumerate() {
            let at = format!("{} {dtype} {}", family.name(), point.text());
            let trial = family.trial(dtype, point, 7 + i as u64 % 3).unwrap_or_else(|e| panic!("{at}: {e}"));
            let wrong = faults(device, &trial, &|kernel| by(dtype, kernel));
            failures.extend(wrong.into_iter().map(|why| format!("{at}: {why}")));
        }
        failures
    }
}
