//! What quantising has done: a table for people, JSON for programs.

use std::fmt;

use qiao_quant::error::Comparison;
use serde::Serialize;
use serde_json::Value;

/// One tensor. Figures of error compare the decoded values with the source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Its name in the output; of one that has become several, the weight's.
    pub name: String,
    /// Its name in the source.
    pub source: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The dtype in the source.
    pub from: String,
    /// What it is encoded as.
    pub format: String,
    /// Bytes in the output, scales and all.
    pub bytes: u64,
    /// Bits of an element.
    pub bits: f64,
    /// Signal to quantisation noise, in dB; infinite where nothing is lost, which JSON writes as null.
    pub sqnr_db: f64,
    /// Cosine of source and decoded.
    pub cosine: f64,
    /// The largest difference.
    pub max_error: f64,
    /// Why it is not what was asked for.
    pub note: Option<String>,
}

impl Line {
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

/// What quantising has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was asked for.
    pub format: String,
    /// Every tensor, in the order of the output.
    pub tensors: Vec<Line>,
    /// Elements of all tensors.
    pub elements: u64,
    /// Bytes of the source's tensors.
    pub bytes_before: u64,
    /// Bytes of the output's tensors.
    pub bytes_after: u64,
    /// Bits of an element, over all tensors.
    pub bits: f64,
    /// Signal to quantisation noise of the encoded matrices together, in dB.
    pub sqnr_db: f64,
    /// Cosine of the encoded matrices together.
    pub cosine: f64,
    /// The largest difference.
    pub max_error: f64,
    /// Whether importances weighed the errors.
    pub importance: bool,
    /// Whether errors were passed on to correlated inputs; figures of error are then larger for outputs that are nearer.
    pub compensated: bool,
    /// What a reader of the output should know.
    pub notes: Vec<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Report {
    pub(super) fn new(format: String, tensors: Vec<Line>, error: &Comparison, bytes_before: u64) -> Report {
        let elements: u64 = tensors.iter().map(Line::elements).sum();
        let bytes_after: u64 = tensors.iter().map(|line| line.bytes).sum();
        Report {
            format,
            elements,
            bytes_before,
            bytes_after,
            bits: bytes_after as f64 * 8.0 / elements.max(1) as f64,
            sqnr_db: error.sqnr_db(),
            cosine: error.cosine(),
            max_error: error.max_abs(),
            importance: false,
            compensated: false,
            notes: Vec::new(),
            seconds: 0.0,
            tensors,
        }
    }

    /// One JSON object; figures that are not finite are null.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn db(x: f64, unit: &str) -> String {
    if x.is_infinite() { "exact".into() } else { format!("{x:.2}{unit}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tensors.iter().map(|line| line.name.len()).max().unwrap_or(0).max(6);
        let formats = self.tensors.iter().map(|line| line.format.len()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:width$}  {:>14}  {:formats$}  {:>6}  {:>8}  {:>9}  {:>9}",
            "tensor", "shape", "format", "bits", "SQNR dB", "cosine", "max error"
        )?;
        for line in &self.tensors {
            let shape = line.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            let note = line.note.as_ref().map_or(String::new(), |note| format!("  {note}"));
            writeln!(
                f,
                "{:width$}  {shape:>14}  {:formats$}  {:>6.2}  {:>8}  {:>9.6}  {:>9.2e}{note}",
                line.name,
                line.format,
                line.bits,
                db(line.sqnr_db, ""),
                line.cosine,
                line.max_error
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "{}: {} tensors, {:.1} MB of weights become {:.1} MB, {:.2} bits a weight; SQNR of the quantised {}, cosine {:.6}, \
             max error {:.2e}; {:.1} s",
            self.format,
            self.tensors.len(),
            mb(self.bytes_before),
            mb(self.bytes_after),
            self.bits,
            db(self.sqnr_db, " dB"),
            self.cosine,
            self.max_error,
            self.seconds
        )
    }
}
