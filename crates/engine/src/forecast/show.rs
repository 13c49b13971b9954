//! A forecast as a report for people and as JSON for programs.

use std::fmt;

use qiao_layers::{Peaks, Provenance, Refusal, Way};
use serde_json::{Value, json};

use super::{By, Forecast, Least, Memory, Operator, Phase, Work};

/// A number with three digits and a decimal prefix.
fn scaled(x: f64) -> String {
    let (mut x, mut prefix) = (x, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if x < 999.5 {
            break;
        }
        (x, prefix) = (x / 1e3, next);
    }
    let digits = if x >= 99.95 || prefix.is_empty() && x.fract() == 0.0 {
        0
    } else if x >= 9.995 {
        1
    } else {
        2
    };
    format!("{x:.digits$} {prefix}")
}

fn bytes(n: u64) -> String {
    format!("{}B", scaled(n as f64))
}

/// Seconds in the unit that suits them.
fn time(seconds: f64) -> String {
    let (x, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    format!("{x:.digits$} {unit}")
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Memory => f.write_str("memory"),
            By::Compute => f.write_str("compute"),
            By::MemoryAlone(dtype) => write!(f, "memory; {dtype} operations not known"),
            By::ComputeAlone => f.write_str("compute; bytes/s not known"),
            By::NotKnown => f.write_str("not known"),
        }
    }
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Memory => "memory",
            By::Compute => "compute",
            By::MemoryAlone(_) => "memory_alone",
            By::ComputeAlone => "compute_alone",
            By::NotKnown => "not_known",
        }
    }
}

fn provenance(peaks: &Peaks) -> (&'static str, &str) {
    match &peaks.provenance {
        Provenance::Measured(by) => ("measured", by),
        Provenance::Declared(source) => ("declared", source),
    }
}

/// The limits in one line, with where they come from.
fn limits_line(peaks: &Peaks) -> String {
    let (kind, source) = provenance(peaks);
    if peaks.bytes_per_s <= 0.0 && peaks.ops_per_s.is_empty() {
        return "none: the device declares none, so no time can be told; give measured ones, or a data sheet's".into();
    }
    let moving = match peaks.bytes_per_s {
        x if x > 0.0 => format!("{}B/s", scaled(x)),
        _ => "bytes/s not known".into(),
    };
    let ops: Vec<_> = peaks.ops_per_s.iter().map(|(dtype, x)| format!("{dtype} {}op/s", scaled(*x))).collect();
    let ops = if ops.is_empty() { "operations/s not known".into() } else { ops.join(", ") };
    let source = if source.is_empty() { "source not named" } else { source };
    format!("{moving}, {ops}; {kind}: {source}")
}

fn way(way: &Result<Way, Refusal>) -> String {
    match way {
        Ok(Way::Native { kernel }) if kernel.is_empty() => "native".into(),
        Ok(Way::Native { kernel }) => kernel.clone(),
        Ok(Way::Decomposed { into, .. }) => {
            let pieces: Vec<_> = into.iter().map(|p| p.op).collect();
            format!("→ {}", pieces.join(" + "))
        }
        Ok(Way::Host { hosted, .. }) => {
            format!("HOST ({} down, {} up)", bytes(hosted.down), bytes(hosted.up))
        }
        Err(_) => "NOT SUPPORTED".into(),
    }
}

/// Cells in columns as wide as they need; the first `left` columns and the last are flush left.
fn table(f: &mut fmt::Formatter<'_>, head: &[&str], rows: &[Vec<String>], left: &[usize]) -> fmt::Result {
    let all = || std::iter::once(head.iter().map(|h| h.to_string()).collect::<Vec<_>>()).chain(rows.iter().cloned());
    let widths: Vec<usize> =
        (0..head.len()).map(|c| all().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    for row in all() {
        let cells = row.iter().enumerate().map(|(c, cell)| match left.contains(&c) {
            true => format!("{cell:<0$}", widths[c]),
            false => format!("{cell:>0$}", widths[c]),
        });
        writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn least_cells(least: Least) -> [String; 2] {
    [least.seconds.map_or("–".into(), time), least.by.to_string()]
}

impl Phase {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work_cells = |w: &Work| [scaled(w.flops as f64).trim_end().to_string(), bytes(w.bytes())];
        let row = |o: &Operator| {
            let mut row = vec![o.count.to_string(), o.op.to_string(), o.part.clone(), way(&o.way)];
            let least = match o.hosted() {
                Some(_) => ["–".to_string(), "the host".to_string()],
                None => least_cells(o.least),
            };
            row.extend(work_cells(&o.work).into_iter().chain(least));
            row
        };
        let mut rows: Vec<_> = self.operators.iter().map(row).collect();
        let count: u64 = self.operators.iter().map(|o| o.count).sum();
        let (hosted, crossing) = self.on_host();
        let all = if hosted == 0 { "in all" } else { "in all on the device" };
        let mut total = vec![(count - hosted).to_string(), all.into(), String::new(), String::new()];
        total.extend(work_cells(&self.work).into_iter().chain(least_cells(self.least)));
        total[7] = "one operator after the other".into();
        rows.push(total);
        let head = ["count", "operator", "weight", "runs as", "operations", "bytes", "at least", "bound by"];
        table(f, &head, &rows, &[1, 2, 3, 7])?;
        match (self.bound.seconds, self.tokens_per_s()) {
            (Some(seconds), Some(rate)) => {
                let rate = if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
                let (time, by) = (time(seconds), self.bound.by);
                writeln!(f, "  at most {rate} tokens/s: weights, cache and products alone take {time} ({by})")?;
            }
            _ => writeln!(f, "  at most – tokens/s: no limit is known")?,
        }
        if hosted == 0 {
            return Ok(());
        }
        let (down, up) = (bytes(crossing.down), bytes(crossing.up));
        writeln!(f, "  not in these times: {hosted} operator(s) on the host, for which {down} come down and {up} go up")
    }
}

impl Memory {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = match self.weights_placed == self.weights {
            true => bytes(self.weights),
            false => format!("{} (stored as {})", bytes(self.weights_placed), bytes(self.weights)),
        };
        let workspace = match &self.workspace {
            Ok(n) => bytes(*n),
            Err(why) => format!("not known: {why}"),
        };
        let free = if self.free > 0 { format!(", {} free", bytes(self.free)) } else { String::new() };
        let device = match self.fits() {
            Some(true) => format!("{}{free}: fits", bytes(self.total)),
            Some(false) => format!("{}{free}: DOES NOT FIT", bytes(self.total)),
            None => "its size is not known".into(),
        };
        let rows = [
            ("weights", placed),
            ("keys and values", bytes(self.cache)),
            ("inputs and logits", bytes(self.inputs)),
            ("workspace", workspace),
            ("on the host", bytes(self.host)),
            ("needed", bytes(self.needed())),
            ("device", device),
        ];
        let shown = rows.iter().filter(|(name, _)| *name != "on the host" || self.host > 0);
        shown.into_iter().try_for_each(|(name, value)| writeln!(f, "  {name:17}  {value}"))
    }
}

/// Operators that do not run natively, with the device's reasons, each once.
fn reasons(forecast: &Forecast) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for o in forecast.decode.operators.iter().chain(&forecast.prefill.operators) {
        let line = match &o.way {
            Ok(Way::Native { .. }) => continue,
            Ok(Way::Decomposed { reason, .. }) => format!("{}: runs as smaller operators: {reason}", o.op),
            Ok(Way::Host { reason, .. }) => format!("{}: runs on the host: {reason}", o.op),
            Err(Refusal { reason, pieces, host }) => {
                let pieces: Vec<_> =
                    pieces.iter().map(|(op, why)| format!("; as smaller operators, {op}: {why}")).collect();
                let host = host.as_ref().map_or(String::new(), |why| format!("; on the host: {why}"));
                format!("{}: not supported: {reason}{}{host}", o.op, pieces.concat())
            }
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = if self.weights_said { "as the checkpoint says" } else { "assumed: config.json does not say" };
        let parameters = scaled(self.parameters as f64);
        writeln!(f, "model   {}, {} layers, {} parameters", self.model, self.layers, parameters.trim_end())?;
        let others: String = self.other_weights.iter().map(|dtype| format!(", {dtype}")).collect();
        writeln!(f, "dtypes  weights {}{others} ({said}), activations and cache {}", self.weights, self.compute)?;
        writeln!(f, "device  {}", self.device)?;
        writeln!(f, "limits  {}", limits_line(&self.peaks))?;
        let (batch, prompt, steps) = (self.batch, self.prompt, self.prefill.steps);
        writeln!(f, "\nprefill: {batch} × {prompt} tokens, in {steps} step(s)")?;
        self.prefill.write(f)?;
        writeln!(f, "\ndecode: {batch} × 1 token at a context of {}", self.context)?;
        self.decode.write(f)?;
        writeln!(f, "\nmemory")?;
        self.memory.write(f)?;
        let reasons = reasons(self);
        if !reasons.is_empty() {
            writeln!(f, "\nnot native")?;
            reasons.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        let nodes = |phase: &Phase| phase.operators.iter().map(|o| o.count).sum::<u64>();
        let refused: u64 = self.decode.unsupported().map(|o| o.count).sum();
        let all = nodes(&self.decode);
        match (self.supported(), refused) {
            (true, _) => match (self.decode.on_host().0, self.prefill.on_host().0) {
                (0, 0) => write!(f, "\nThe device runs every operator of this model."),
                (n, more) => write!(
                    f,
                    "\nThis model runs with {n} of {all} operators of a token, and {more} of the prompts', on the host."
                ),
            },
            (false, 0) => write!(f, "\nThe device does not run this model: operators of a prompt are not supported."),
            (false, n) => {
                write!(f, "\nThe device does not run this model: {n} of {all} operators of a token are not supported.")
            }
        }
    }
}

impl Forecast {
    /// The forecast as JSON. A figure that is not known is null.
    pub fn to_json(&self) -> Value {
        let (kind, source) = provenance(&self.peaks);
        let ops = self.peaks.ops_per_s.iter().map(|(dtype, x)| (dtype.name().to_string(), json!(x)));
        let known = |x: f64| (x > 0.0).then_some(x);
        json!({
            "model": self.model,
            "layers": self.layers,
            "parameters": self.parameters,
            "weights_dtype": self.weights.name(),
            "other_weights_dtypes": self.other_weights.iter().map(|dtype| dtype.name()).collect::<Vec<_>>(),
            "weights_dtype_said": self.weights_said,
            "compute_dtype": self.compute.name(),
            "device": self.device,
            "batch": self.batch,
            "prompt": self.prompt,
            "context": self.context,
            "supported": self.supported(),
            "limits": {
                "bytes_per_s": known(self.peaks.bytes_per_s),
                "ops_per_s": ops.collect::<serde_json::Map<_, _>>(),
                "provenance": kind,
                "source": source,
            },
            "prefill": phase(&self.prefill),
            "decode": phase(&self.decode),
            "memory": {
                "weights": self.memory.weights,
                "weights_placed": self.memory.weights_placed,
                "cache": self.memory.cache,
                "host": self.memory.host,
                "inputs": self.memory.inputs,
                "workspace": self.memory.workspace.as_ref().ok(),
                "workspace_not_known": self.memory.workspace.as_ref().err(),
                "needed": self.memory.needed(),
                "device_total": (self.memory.total > 0).then_some(self.memory.total),
                "device_free": (self.memory.free > 0).then_some(self.memory.free),
                "fits": self.memory.fits(),
            },
        })
    }
}

fn work(w: &Work) -> Value {
    json!({
        "flops": w.flops,
        "bytes": w.bytes(),
        "weight_bytes": w.weights,
        "cache_bytes": w.cache,
        "activation_bytes": w.activations,
    })
}

fn least(least: Least) -> Value {
    json!({ "seconds": least.seconds, "bound_by": least.by.name() })
}

fn phase(p: &Phase) -> Value {
    json!({
        "steps": p.steps,
        "tokens": p.tokens,
        "work": work(&p.work),
        "one_after_the_other": least(p.least),
        "bound": least(p.bound),
        "tokens_per_s_at_most": p.tokens_per_s(),
        "on_host": on_host(p),
        "operators": p.operators.iter().map(operator).collect::<Vec<_>>(),
    })
}

/// What is in none of the phase's figures.
fn on_host(p: &Phase) -> Value {
    let (operators, crossing) = p.on_host();
    json!({ "operators": operators, "bytes_down": crossing.down, "bytes_up": crossing.up })
}

fn operator(o: &Operator) -> Value {
    let support = match &o.way {
        Ok(Way::Native { kernel }) => json!({ "way": "native", "kernel": kernel }),
        Ok(Way::Decomposed { into, reason }) => {
            let into: Vec<_> = into.iter().map(|p| json!({ "op": p.op, "kernel": p.kernel })).collect();
            json!({ "way": "decomposed", "into": into, "reason": reason.to_string() })
        }
        Ok(Way::Host { kernel, reason, hosted }) => json!({
            "way": "host",
            "kernel": kernel,
            "reason": reason.to_string(),
            "bytes_down": hosted.down,
            "bytes_up": hosted.up,
        }),
        Err(Refusal { reason, pieces, host }) => {
            let pieces: Vec<_> =
                pieces.iter().map(|(op, why)| json!({ "op": op, "reason": why.to_string() })).collect();
            let mut object = json!({ "way": "unsupported", "reason": reason.to_string(), "pieces": pieces });
            if let Some(why) = host {
                object["host_reason"] = json!(why.to_string());
            }
            object
        }
    };
    json!({
        "op": o.op,
        "weight": o.part,
        "count": o.count,
        "support": support,
        "work": work(&o.work),
        "at_least": o.hosted().is_none().then(|| least(o.least)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let told = [0.0, 7.0, 999.0, 1000.0, 1234.0, 99_960.0, 999_600.0, 4.94e8, 1.5e12].map(scaled);
        assert_eq!(told, ["0 ", "7 ", "999 ", "1.00 k", "1.23 k", "100 k", "1.00 M", "494 M", "1.50 T"]);
        assert_eq!([2.5, 0.0123, 4.56e-5, 0.0].map(time), ["2.50 s", "12.3 ms", "45.6 µs", "0.00 µs"]);
    }
}
