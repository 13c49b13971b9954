//! Families of cases: data that says which points of an operator's space are walked, and a function that makes one.

use qiao_core::{DType, OpKind, Result, Tier};
use qiao_reference::Trial;

use crate::make::Make;
use crate::ops;
use crate::point::{Param, Point};

/// How deep a selection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// A few plain points of every operator: what a profile requires to be supported.
    Smoke,
    /// Everything that is not slow.
    Standard,
    /// Large shapes and long walks.
    Full,
}

/// The cases of one operator, or of one use of it.
pub struct Family {
    /// The operator.
    pub op: OpKind,
    /// Which use of it, where it has several families; else empty.
    pub variant: &'static str,
    /// The dtypes that stand in case ids.
    pub dtypes: &'static [DType],
    /// What else a case has.
    pub params: &'static [Param],
    /// Patterns of points, and how deep each lies.
    pub walk: &'static [(Depth, &'static str)],
    /// Makes a case. An error means that the point is none: its parameters contradict each other.
    pub build: fn(&mut Make, &Point) -> Result<Trial>,
}

/// f32, f16 and bf16.
pub const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

impl Family {
    /// Every family, in the order of the op list.
    pub fn all() -> impl Iterator<Item = &'static Family> {
        OpKind::ALL.iter().flat_map(|&kind| Family::of(kind))
    }

    /// The families of an operator.
    pub fn of(kind: OpKind) -> impl Iterator<Item = &'static Family> {
        ops::FAMILIES.iter().flat_map(|f| f.iter()).filter(move |f| f.op == kind)
    }

    /// The profile that the operator belongs to.
    pub fn tier(&self) -> Tier {
        self.op.tier()
    }

    /// What stands between `op/` and the dtype in case ids.
    pub fn name(&self) -> String {
        match self.variant {
            "" => self.op.name().into(),
            variant => format!("{}.{variant}", self.op.name()),
        }
    }

    /// Every point down to a depth with the depth at which it is first named, in the order of the walk.
    ///
    /// # Panics
    /// A pattern of the family that is none: a mistake in the family, which its test finds.
    pub fn points(&self, depth: Depth) -> Vec<(Depth, Point)> {
        let mut points: Vec<(Depth, Point)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for &(at, pattern) in self.walk.iter().filter(|(at, _)| *at <= depth) {
            let expanded =
                Point::expand(self.params, pattern).unwrap_or_else(|e| panic!("{}: {pattern}: {e}", self.name()));
            points.extend(expanded.into_iter().filter(|p| seen.insert(p.clone())).map(|p| (at, p)));
        }
        points
    }

    /// The trial of a point.
    ///
    /// # Errors
    /// Parameters that contradict each other.
    pub fn trial(&self, dtype: DType, point: &Point, seed: u64) -> Result<Trial> {
        (self.build)(&mut Make::new(seed, dtype, point), point)
    }
}

/// Adds an operand to a trial.
pub fn with(trial: Trial, (desc, bytes): crate::make::Data) -> Trial {
    trial.input(desc, bytes)
}
