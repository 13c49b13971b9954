//! A run in lock step as a report for people and as JSON for programs.

use std::fmt;

use serde_json::{Value, json};

use super::{Divergence, Drift, Parting, Site};

/// Tokens and further operators that the report for people lists at most.
const LISTED: usize = 24;

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op)?;
        if !self.part.is_empty() {
            write!(f, " ({})", self.part)?;
        }
        if let Some(layer) = self.layer {
            write!(f, " of layer {layer}")?;
        }
        write!(f, ", token {}", self.token)?;
        match self.step {
            1 => f.write_str(", alone in its step"),
            n => write!(f, ", in a step of {n}"),
        }
    }
}

/// A margin for people: how many times the limit.
fn margin(margin: f64) -> String {
    match margin {
        m if m.is_infinite() => "where no error is allowed".into(),
        m if m < 1e4 => format!("{m:.2} × its limit"),
        m => format!("{m:.1e} × its limit"),
    }
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let j = &self.judgement;
        let (output, element) = (self.site.output, j.element);
        write!(f, "{}: {output}[{element}] = {} instead of {}, {}", self.site, j.found, j.trusted, margin(j.margin))
    }
}

impl Drift {
    fn words(&self) -> String {
        format!("{:.2e} at {}", self.relative, self.site)
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device    {}", self.device)?;
        writeln!(f, "against   {}", self.against)?;
        let (prompt, more) = (self.prompt, self.effects.len() - self.prompt.min(self.effects.len()));
        writeln!(f, "tokens    {prompt} of the prompt, {more} chosen by the trusted device; {}", self.compute)?;
        writeln!(f, "\neach operator by itself, on the trusted device's operands: {} compared", self.compared)?;
        for (i, parting) in self.local.iter().take(LISTED).enumerate() {
            let (rank, tokens) = (if i == 0 { "parts first at" } else { "and at" }, parting.tokens);
            writeln!(f, "  {rank:14} {parting}; {tokens} token(s)")?;
        }
        if self.local.len() > LISTED {
            writeln!(f, "  and {} more", self.local.len() - LISTED)?;
        }
        match &self.largest_margin {
            Some((site, at)) if self.local.is_empty() => {
                writeln!(f, "  all agree; closest to its limit: {} at {site}", margin(*at))?
            }
            None if self.local.is_empty() => writeln!(f, "  all agree, bit for bit")?,
            _ => {}
        }
        if let Some(parting) = &self.in_plan {
            writeln!(f, "\neach operator within the whole plan, on the operands that it had there")?;
            writeln!(f, "  parts first at {parting}")?;
        }
        writeln!(
            f,
            "\nall operators one after the other, each device on its own operands: drift at most {:.0e}",
            self.drift_bound
        )?;
        match (&self.drift, &self.largest_drift) {
            (Some(first), _) => writeln!(f, "  passes it first with {}", first.words())?,
            (None, Some(largest)) => writeln!(f, "  stays within it; largest {}", largest.words())?,
            (None, None) => writeln!(f, "  none at all")?,
        }
        writeln!(f, "\nlogits of {} tokens", self.effects.len())?;
        writeln!(
            f,
            "  KL divergence      mean {:.3e}, largest {:.3e}",
            self.mean_kl(),
            self.worst().map_or(0.0, |e| e.kl)
        )?;
        writeln!(f, "  same top-1         {} of {}", self.top1(), self.effects.len())?;
        writeln!(f, "  largest difference {:.3e}", self.max_difference())?;
        writeln!(
            f,
            "\n  {:>5}  {:>8}  {:>8}  {:>5}  {:>10}  {:>10}",
            "token", "id", "next", "top-1", "KL", "difference"
        )?;
        for e in self.effects.iter().take(LISTED) {
            let top1 = if e.top1 { "same" } else { "other" };
            writeln!(
                f,
                "  {:>5}  {:>8}  {:>8}  {top1:>5}  {:>10.3e}  {:>10.3e}",
                e.position, e.id, e.next, e.kl, e.max_difference
            )?;
        }
        if self.effects.len() > LISTED {
            writeln!(f, "  and {} more, in the JSON", self.effects.len() - LISTED)?;
        }
        match self.culprit() {
            None => write!(f, "\nThe devices agree."),
            Some(site) => write!(f, "\nThe devices part at {site}."),
        }
    }
}

impl Divergence {
    /// The report as JSON. A figure beyond all numbers is null.
    pub fn to_json(&self) -> Value {
        let effects = self.effects.iter().map(|e| {
            json!({
                "position": e.position,
                "id": e.id,
                "next": e.next,
                "top1": e.top1,
                "kl": e.kl,
                "max_difference": e.max_difference,
            })
        });
        json!({
            "agrees": self.agrees(),
            "device": self.device,
            "against": self.against,
            "compute_dtype": self.compute.name(),
            "prompt_tokens": self.prompt,
            "tokens": self.effects.len(),
            "culprit": self.culprit().map(site),
            "local": {
                "compared": self.compared,
                "partings": self.local.iter().map(parting).collect::<Vec<_>>(),
                "largest_margin": self.largest_margin.as_ref().map(|(at, m)| json!({ "site": site(at), "margin": m })),
            },
            "in_plan": self.in_plan.as_ref().map(parting),
            "accumulated": {
                "bound": self.drift_bound,
                "first": self.drift.as_ref().map(drift),
                "largest": self.largest_drift.as_ref().map(drift),
            },
            "logits": {
                "kl_mean": self.mean_kl(),
                "kl_max": self.worst().map(|e| e.kl),
                "top1_agreement": self.top1() as f64 / self.effects.len().max(1) as f64,
                "max_difference": self.max_difference(),
                "tokens": effects.collect::<Vec<_>>(),
            },
        })
    }
}

fn site(s: &Site) -> Value {
    json!({
        "op": s.op,
        "weight": s.part,
        "layer": s.layer,
        "output": s.output,
        "token": s.token,
        "step_tokens": s.step,
    })
}

fn parting(p: &Parting) -> Value {
    let j = &p.judgement;
    json!({
        "site": site(&p.site),
        "tokens": p.tokens,
        "failures": j.failures,
        "margin": j.margin,
        "element": j.element,
        "found": j.found,
        "trusted": j.trusted,
    })
}

fn drift(d: &Drift) -> Value {
    json!({ "site": site(&d.site), "relative": d.relative })
}
