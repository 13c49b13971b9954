//! The adaptation report: one set of facts, written in several forms.
//!
//! - [`Report`] holds facts alone; the [`Verdict`] is worked out from them whenever it is shown.
//! - A [`Form`] is a pure function of a report: JSON, JUnit XML, Markdown, the support matrix as CSV, one HTML page.
//!
//! Modules, from ground to roof: `suite`, `facts`, `levels`, `digest`, `show`, `words`; `csv`, `html`, `json`,
//! `junit` and `markdown`; `forms`; `diff`.

pub mod suite;

pub mod facts;

pub mod levels;

pub mod digest;

pub mod show;

pub mod words;

pub mod csv;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;

pub mod forms;

pub mod diff;

pub use diff::{Change, ChangeKind, Comparison, diff};
pub use facts::{AccountLine, Greedy, HostedNodes, Mode, ModelPoint, ModelRun, Path, Report, Step, StepOutcome};
pub use forms::{Form, save};
pub use json::{ReadError, read};
pub use levels::{Lacking, Level, LevelVerdict, Missing, MissingKind, Standing, Verdict};
pub use suite::Suite;
pub use words::Language;
