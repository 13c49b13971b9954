//! An evaluation as a report for people and as JSON for programs.

use std::fmt;

use serde_json::Value;

use super::{Against, Chunking, Evaluation, Spread, Uncertain};

impl fmt::Display for Chunking {
    /// One sentence or two, as a report tells them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chunking { context, first_scored, chunks, .. } = *self;
        write!(
            f,
            "{chunks} of {} chunks of {context} tokens (the text has {})",
            self.chunks_of_text, self.tokens_of_text
        )?;
        match self.bos {
            Some(bos) => write!(f, "; token {bos} stands first in each")?,
            None => write!(f, "; no BOS is added")?,
        }
        let last = context - 2;
        write!(f, ". Each starts from an empty cache; positions {first_scored} to {last} predict the token after them")
    }
}

/// A figure with its error, both with the same digits.
fn pair(x: Uncertain, digits: usize) -> (String, String) {
    let error = if x.error.is_nan() { String::new() } else { format!("± {:.digits$}", x.error) };
    (format!("{:.digits$}", x.value), error)
}

fn pair_e(x: Uncertain) -> (String, String) {
    let error = if x.error.is_nan() { String::new() } else { format!("± {:.1e}", x.error) };
    (format!("{:.3e}", x.value), error)
}

fn percent(x: f64) -> String {
    format!("{:.3} %", 100.0 * x)
}

fn kl_rows(kl: &Spread) -> Vec<(&'static str, (String, String))> {
    let plain = |x: f64| (format!("{x:.3e}"), String::new());
    vec![
        ("KL(base || model)", pair_e(kl.mean)),
        ("  median", plain(kl.median)),
        ("  90 %", plain(kl.p90)),
        ("  99 %", plain(kl.p99)),
        ("  largest", plain(kl.max)),
    ]
}

fn against_rows(found: &Against) -> Vec<(&'static str, (String, String))> {
    let share = |x: Uncertain| {
        let error = if x.error.is_nan() { String::new() } else { format!("± {}", percent(x.error)) };
        (percent(x.value), error)
    };
    let mut rows = vec![
        ("perplexity of the base", pair(found.base.perplexity, 4)),
        ("ln(PPL / PPL of the base)", pair(found.ln_ratio, 6)),
    ];
    rows.extend(kl_rows(&found.kl));
    rows.push(("same most likely token", share(found.top1_agreement)));
    rows.push(("mean difference of p", share(found.mean_delta_p)));
    rows.push(("RMS difference of p", (percent(found.rms_delta_p), String::new())));
    rows
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.", self.chunking)?;
        if self.interrupted {
            writeln!(f, "Interrupted: the figures are those of the chunks done until then.")?;
        }
        let mut rows = vec![("perplexity", pair(self.model.perplexity, 4)), ("mean -ln p", pair(self.model.nll, 6))];
        rows.extend(self.against.iter().flat_map(against_rows));
        for (name, (value, error)) in rows {
            writeln!(f, "{}", format!("{name:26} {value:>14}  {error}").trim_end())?;
        }
        let (scored, run) = (self.tokens_scored, self.chunking.chunks * self.chunking.context);
        write!(f, "{scored} tokens scored of {run} run in {:.2} s, {:.1} tokens/s", self.seconds, self.tokens_per_s)
    }
}

impl Evaluation {
    /// One JSON object; figures that are not finite are null. `chunking.words` says the chunking as the report does.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::to_value(self).unwrap_or_default();
        object["chunking"]["words"] = Value::from(self.chunking.to_string());
        object
    }
}
