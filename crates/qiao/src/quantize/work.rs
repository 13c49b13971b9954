//! What is to be done, tensor by tensor, and what has been done.

use std::sync::Arc;

use qiao_core::DType;
use qiao_quant::compensate::Factor;
use qiao_quant::error::Comparison;

use super::compensation::Compensation;
use super::encode::{self, Encoded, Matrix};
use super::format::{Encoding, Format};
use super::importance::Importance;
use super::recipe::Choice;
use super::report::Line;
use super::source::{Role, Source, SourceTensor};
use crate::Result;

/// A tensor to be written.
pub(super) struct Job<'a> {
    pub(super) tensor: &'a SourceTensor,
    /// Its name in the output.
    pub(super) target: String,
    pub(super) choice: Choice,
}

impl Job<'_> {
    /// The tensor as a matrix; a vector is one of single elements, a number one of one.
    pub(super) fn matrix<'a>(&'a self, bytes: &'a [u8], importance: Option<&'a [f32]>) -> Matrix<'a> {
        let (rows, k) = match self.tensor.shape[..] {
            [] => (1, 1),
            [rows] => (rows, 1),
            [rows, ref rest @ ..] => (rows, rest.iter().product()),
        };
        let name = &self.tensor.name;
        Matrix { name, dtype: self.tensor.dtype, bytes, rows, k, order: None, importance, factor: None }
    }

    /// The dtype of scales that stand beside codes: that of the weights.
    pub(super) fn scales(&self) -> DType {
        if self.tensor.dtype.is_activation() { self.tensor.dtype } else { DType::F32 }
    }
}

/// Where a run stands.
pub(super) struct Work<'a> {
    pub(super) source: &'a Source,
    pub(super) format: Format,
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) importance: Option<&'a Importance>,
    /// Errors are passed on, where this is given.
    pub(super) compensation: Option<Compensation>,
    pub(super) threads: usize,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Bytes of the source done and in all.
    pub(super) progress: &'a mut dyn FnMut(u64, u64),
    pub(super) read: u64,
    pub(super) total: u64,
    pub(super) lines: Vec<Line>,
    /// Of the encoded matrices together.
    pub(super) error: Comparison,
    pub(super) notes: Vec<String>,
}

impl<'a> Work<'a> {
    /// The importances of a weight's columns.
    pub(super) fn importance(&self, name: &str) -> Option<&'a [f32]> {
        self.importance.and_then(|all| all.of(name))
    }

    /// What passes the errors of a job on, where anything does; `None` when cancelled.
    pub(super) fn factor(&mut self, jobs: &[Job<'_>], at: usize) -> Result<Option<Option<Arc<Factor>>>> {
        let cancelled = self.cancelled;
        self.compensation.as_mut().map_or(Ok(Some(None)), |all| all.factor(jobs, at, &cancelled))
    }

    /// Encodes a tensor; `None` when cancelled.
    pub(super) fn encode(&self, matrix: &Matrix<'_>, job: &Job<'_>) -> Result<Option<Encoded>> {
        let cancelled = self.cancelled;
        if cancelled() {
            return Ok(None);
        }
        encode::encode(matrix, job.choice.encoding, job.scales(), self.threads, cancelled)
    }

    /// A tensor is written.
    pub(super) fn done(&mut self, job: &Job<'_>, bytes: u64, error: &Comparison) {
        let tensor = job.tensor;
        let elements: u64 = tensor.shape.iter().map(|&dim| dim as u64).product();
        let format = match job.choice.encoding {
            Encoding::Keep => tensor.dtype.name().to_string(),
            encoding => encoding.to_string(),
        };
        if tensor.role != Role::Small {
            self.error.merge(error);
        }
        self.lines.push(Line {
            name: job.target.clone(),
            source: tensor.name.clone(),
            shape: tensor.shape.clone(),
            from: tensor.dtype.name().to_string(),
            format,
            bytes,
            bits: bytes as f64 * 8.0 / elements.max(1) as f64,
            sqnr_db: error.sqnr_db(),
            cosine: error.cosine(),
            max_error: error.max_abs(),
            note: job.choice.note.clone(),
        });
        self.source.checkpoint.weights.release(&tensor.name);
        self.read += self.source.stored_bytes(tensor);
        (self.progress)(self.read, self.total);
    }
}
