//! A report for people.

use std::fmt;

use qiao_layers::Summary;

use super::report::{Memory, ModelReport, PointReport, SoakReport};
use super::slo::SloOutcome;
use super::timing::Latency;
use super::verify::Verified;

impl fmt::Display for ModelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(self, f)?;
        if !self.points.is_empty() {
            writeln!(f)?;
            write!(f, "{}", latency_table(self))?;
            writeln!(f)?;
            write!(f, "{}", rate_table(self))?;
            writeln!(f)?;
            if self.points.iter().any(|point| !point.slos.is_empty()) {
                writeln!(f, "{}", slo_table(self))?;
            }
            footer(self, f)?;
        }
        if let Some(soak) = &self.soak {
            writeln!(f)?;
            soak_text(soak, f)?;
        }
        for failure in &self.failures {
            writeln!(f, "failed: {}: {}", failure.point, failure.why)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if self.interrupted {
            writeln!(f, "interrupted: this is what was measured until then")?;
        }
        Ok(())
    }
}

fn head(report: &ModelReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(m) = &report.model {
        let (name, architecture, dtype) = (&m.name, &m.architecture, m.compute_dtype);
        writeln!(
            f,
            "{name}: {architecture}, {} layers, {} of weights, {:.2} bits each in projections, computes in {dtype}",
            m.layers,
            size(m.weight_bytes),
            m.bits_per_weight
        )?;
    }
    for d in &report.devices {
        let loaded = d.load_s.map_or(String::new(), |s| format!(", loaded in {s:.2} s"));
        writeln!(f, "{}: {} ({}, {}){loaded}", d.asked, d.name, d.arch, d.driver)?;
    }
    let m = &report.method;
    let rounds = match m.soak_s {
        Some(seconds) => format!("a soak of {seconds} s"),
        None => format!("{} rounds after {} of warm-up", m.repeat, m.warm_up),
    };
    writeln!(f, "{rounds}, seed {}, {} choice; times are p50 / p99", m.seed, m.choice)
}

/// A table of right-aligned columns, each as wide as its widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The cells that say which point a row is of.
fn keys(point: &PointReport, rows: &mut Vec<String>) {
    let p = &point.point;
    rows.push(point.threads.map_or("-".into(), |threads| threads.to_string()));
    rows.extend([p.batch, p.depth, p.prompt, p.tokens].map(|count| count.to_string()));
}

const KEYS: [&str; 5] = ["threads", "batch", "depth", "prompt", "tokens"];

fn latency_table(report: &ModelReport) -> String {
    let heads = ["TTFT ms", "TPOT ms", "ITL ms p50/p90/p99", "request ms", "first TTFT ms", "tokens"];
    let mut rows = vec![KEYS.iter().chain(&heads).map(|head| head.to_string()).collect::<Vec<_>>()];
    rows[0][10] = "same tokens".into();
    for point in &report.points {
        let (mut row, l) = (Vec::new(), &point.latency);
        keys(point, &mut row);
        row.push(pair(&l.ttft_s));
        row.push(l.tpot_s.as_ref().map_or("-".into(), pair));
        let three = |s: &Summary| format!("{} / {} / {}", millis(s.p50), millis(s.p90), millis(s.p99));
        row.push(l.itl_s.as_ref().map_or("-".into(), three));
        row.push(pair(&l.request_s));
        row.push(point.first_ttft_s.map_or("-".into(), millis));
        row.push(point.verified.status.into());
        rows.push(row);
    }
    table(&rows)
}

fn rate_table(report: &ModelReport) -> String {
    let heads = [
        "prompt tok/s",
        "cv %",
        "decode tok/s",
        "cv %",
        "prompt GFLOP/s",
        "decode GB/s",
        "MFU prompt %",
        "MFU decode %",
    ];
    let mut rows = vec![KEYS.iter().chain(&heads).map(|head| head.to_string()).collect::<Vec<_>>()];
    rows[0].extend(["MBU decode %", "peak memory", "cache", "workspace"].map(String::from));
    let percent = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1}", 100.0 * share));
    for point in &report.points {
        let (mut row, l, u) = (Vec::new(), &point.latency, &point.utilisation);
        keys(point, &mut row);
        let mut rate = |s: Option<&Summary>| match s {
            Some(s) => row.extend([digits(s.p50), format!("{:.1}", 100.0 * s.cv)]),
            None => row.extend(["-".into(), "-".into()]),
        };
        rate(Some(&l.prompt_tokens_per_s));
        rate(l.decode_tokens_per_s.as_ref());
        row.push(format!("{:.1}", u.prompt_flops_per_s / 1e9));
        row.push(u.decode_bytes_per_s.map_or("-".into(), |bytes| format!("{:.2}", bytes / 1e9)));
        row.extend([u.mfu_prompt, u.mfu_decode, u.mbu_decode].map(percent));
        let m = &point.memory;
        row.extend([m.process_peak.bytes, Some(m.cache_bytes), m.workspace_bytes].map(|b| b.map_or("-".into(), size)));
        rows.push(row);
    }
    table(&rows)
}

fn slo_table(report: &ModelReport) -> String {
    let heads = ["limits", "TTFT ms", "TPOT ms", "met", "goodput %", "goodput req/s", "p99"];
    let mut rows = vec![KEYS.iter().chain(&heads).map(|head| head.to_string()).collect::<Vec<_>>()];
    for (point, o) in report.points.iter().flat_map(|point| point.slos.iter().map(move |o| (point, o))) {
        let mut row = Vec::new();
        keys(point, &mut row);
        row.extend([o.slo.name.clone(), millis(o.slo.ttft_s), millis(o.slo.tpot_s)]);
        row.extend([format!("{} of {}", o.met, o.requests), format!("{:.1}", 100.0 * o.share)]);
        row.extend([digits(o.goodput_requests_per_s), if o.p99_within { "within" } else { "past" }.into()]);
        rows.push(row);
    }
    table(&rows)
}

/// What is the same for all points, or has few words.
fn footer(report: &ModelReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for point in &report.points {
        if let Some(joules) = point.energy.joules {
            let (each, watts) = (point.energy.joules_per_token.unwrap_or(0.0), point.energy.watts.unwrap_or(0.0));
            writeln!(f, "energy at {}: {joules:.1} J, {each:.3} J per token, {watts:.1} W", point.point)?;
        }
        if let Some(line) = difference(&point.verified) {
            writeln!(f, "{line} at {}", point.point)?;
        }
    }
    if let Some(point) = report.points.first() {
        writeln!(f, "energy: {}", point.energy.boundary)?;
        writeln!(f, "peak memory: {}", point.memory.process_peak.scope)?;
    }
    for d in &report.devices {
        let p = &d.peaks;
        let known = [
            p.ops_per_s.map(|ops| format!("{:.1} GFLOP/s", ops / 1e9)),
            p.bytes_per_s.map(|b| format!("{:.1} GB/s", b / 1e9)),
        ];
        let known: Vec<String> = known.into_iter().flatten().collect();
        if !known.is_empty() {
            writeln!(f, "peaks: {}, {}: {}", known.join(", "), p.kind, p.source)?;
        }
    }
    Ok(())
}

fn slo_line(o: &SloOutcome) -> String {
    let verdict = if o.p99_within { "p99 within" } else { "p99 past" };
    let (limits, rate) = ([o.slo.ttft_s, o.slo.tpot_s].map(millis), digits(o.goodput_requests_per_s));
    let share = format!("{} of {} requests, goodput {:.1} %, {rate} requests/s", o.met, o.requests, 100.0 * o.share);
    format!("{} (TTFT {} ms, TPOT {} ms): {share}, {verdict} its limits", o.slo.name, limits[0], limits[1])
}

/// The line on tokens that were not the same.
fn difference(v: &Verified) -> Option<String> {
    let d = v.first_difference?;
    let word =
        if v.holds() { "the device does not say it is deterministic" } else { "the device says it is deterministic" };
    Some(format!("{}: token {} of sequence {} was another in round {}; {word}", v.status, d.token, d.sequence, d.round))
}

fn soak_text(soak: &SoakReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let l = &soak.latency;
    writeln!(f, "soak: {}; {} requests in {:.1} s", soak.point, l.requests, soak.lasted_s)?;
    latency_lines(l, f)?;
    memory_line(&soak.memory, f)?;
    match soak.energy.joules {
        Some(joules) => writeln!(f, "energy: {joules:.1} J; {}", soak.energy.boundary)?,
        None => writeln!(f, "energy: {}", soak.energy.boundary)?,
    }
    soak.slos.iter().try_for_each(|outcome| writeln!(f, "{}", slo_line(outcome)))?;
    difference(&soak.verified).into_iter().try_for_each(|line| writeln!(f, "{line}"))?;
    soak.verdicts.iter().try_for_each(|line| writeln!(f, "{line}"))
}

fn latency_lines(l: &Latency, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "TTFT ms {}, request ms {}", pair(&l.ttft_s), pair(&l.request_s))?;
    if let (Some(tpot), Some(itl), Some(rate)) = (&l.tpot_s, &l.itl_s, &l.decode_tokens_per_s) {
        writeln!(f, "TPOT ms {}, ITL ms {}, decode {} tok/s", pair(tpot), pair(itl), digits(rate.p50))?;
    }
    let partial = if l.sampled { "; percentiles of a uniform sample" } else { "" };
    writeln!(f, "prompt {} tok/s{partial}", digits(l.prompt_tokens_per_s.p50))
}

fn memory_line(m: &Memory, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let peak = m.process_peak.bytes.map_or("-".into(), size);
    let workspace = m.workspace_bytes.map_or("-".into(), size);
    let (cache, scope) = (size(m.cache_bytes), &m.process_peak.scope);
    writeln!(f, "peak memory {peak} {scope}; cache {cache}, workspace {workspace}")
}

fn pair(s: &Summary) -> String {
    format!("{} / {}", millis(s.p50), millis(s.p99))
}

/// A figure with four digits that mean something; what is below 10⁻⁹ is 0.
pub(crate) fn digits(value: f64) -> String {
    if value.abs() < 1e-9 {
        return "0".into();
    }
    let after = usize::try_from(3 - value.abs().log10().floor() as i32).unwrap_or(0);
    format!("{value:.after$}")
}

/// Seconds as milliseconds, with three digits that mean something.
pub(crate) fn millis(seconds: f64) -> String {
    let ms = seconds * 1e3;
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms if ms >= 1.0 => format!("{ms:.2}"),
        ms => format!("{ms:.3}"),
    }
}

pub(crate) fn size(bytes: u64) -> String {
    let of = |unit: u32| bytes as f64 / (1u64 << unit) as f64;
    match bytes {
        0..0x10_0000 => format!("{:.0} KiB", of(10)),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", of(20)),
        _ => format!("{:.2} GiB", of(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_their_unit() {
        assert_eq!([0.000_123_4, 0.001_234, 0.012_34, 0.123_4].map(millis), ["0.123", "1.23", "12.3", "123"]);
        let figures = [0.0, 1234.56, 123.456, -0.001_234_56, 98_765.4, -9.876_54].map(digits);
        assert_eq!(figures, ["0", "1235", "123.5", "-0.001235", "98765", "-9.877"]);
        assert_eq!([512, 3 << 20, 5 << 30].map(size), ["0 KiB", "3.0 MiB", "5.00 GiB"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_string(), "µs".into()], vec!["100".into(), "2".into()]];
        assert_eq!(table(&rows), "  a  µs\n100   2\n");
    }
}
