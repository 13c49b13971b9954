//! A report for people.

use std::fmt;

use qiao_layers::Summary;

use super::super::text::{digits, millis, size, table};
use super::report::{PointReport, ServeReport};

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(self, f)?;
        if !self.points.is_empty() {
            writeln!(f, "\n{}", rate_table(self))?;
            writeln!(f, "{}", latency_table(self))?;
            if self.points.iter().any(|point| !point.shares.is_empty()) {
                writeln!(f, "{}", share_table(self))?;
            }
            if self.points.iter().any(|point| !point.served.slos.is_empty()) {
                writeln!(f, "{}", slo_table(self))?;
            }
            if self.points.iter().any(|point| point.phases.is_some()) {
                writeln!(f, "{}", phase_table(self))?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if self.interrupted {
            writeln!(f, "interrupted: this is what was measured until then")?;
        }
        Ok(())
    }
}

fn head(report: &ServeReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (m, d, how) = (&report.model, &report.device, &report.method);
    writeln!(
        f,
        "{}: {}, {} layers, {} of weights, computes in {}",
        m.name,
        m.architecture,
        m.layers,
        size(m.weight_bytes),
        m.compute_dtype
    )?;
    for d in std::iter::once(d).chain(&report.more_devices) {
        writeln!(f, "{}: {} ({}, {})", d.asked, d.name, d.arch, d.driver)?;
    }
    let cache = size(report.cache.bytes);
    let (tokens, sequences) = (how.batch_tokens, how.batch_sequences);
    writeln!(f, "cache {cache} in {} blocks; batches of {tokens} tokens, {sequences} sequences", report.cache.blocks)?;
    let mix = &how.mix;
    let prefix = match mix.prefix {
        0 => String::new(),
        prefix => format!(" after a common prefix of {prefix} in {:.0} % of requests", 100.0 * mix.shared),
    };
    let samples = if mix.samples > 1 { format!(", {} samples each", mix.samples) } else { String::new() };
    writeln!(f, "prompts of {} tokens{prefix}, answers of {}{samples}; seed {}", mix.prompt, mix.output, how.seed)
}

/// A row for every point that has cells.
fn rows(report: &ServeReport, heads: &[&str], cells: impl Fn(&PointReport) -> Vec<String>) -> String {
    let mut rows = vec![std::iter::once("load").chain(heads.iter().copied()).map(String::from).collect()];
    for point in &report.points {
        let cells = cells(point);
        if !cells.is_empty() {
            rows.push(std::iter::once(point.arriving.to_string()).chain(cells).collect::<Vec<_>>());
        }
    }
    table(&rows)
}

fn rate_table(report: &ServeReport) -> String {
    let heads = [
        "requests",
        "refused",
        "offered/s",
        "done/s",
        "output tok/s",
        "total tok/s",
        "hits %",
        "preempted",
        "batch tokens",
        "batch seqs",
        "peak blocks",
        "peak memory",
    ];
    rows(report, &heads, |point| {
        let s = &point.served;
        vec![
            s.completed.to_string(),
            s.refused.to_string(),
            s.offered_requests_per_s.map_or("-".into(), digits),
            digits(s.requests_per_s),
            digits(s.output_tokens_per_s),
            digits(s.total_tokens_per_s),
            format!("{:.1}", 100.0 * s.cache_hit_rate),
            s.preemptions.to_string(),
            format!("{:.1}", point.mean_batch_tokens),
            format!("{:.2}", point.mean_batch_sequences),
            point.peak_blocks.to_string(),
            point.process_peak.bytes.map_or("-".into(), size),
        ]
    })
}

fn latency_table(report: &ServeReport) -> String {
    let heads = ["TTFT ms p50/p90/p99", "TPOT ms p50/p90/p99", "ITL ms p50/p90/p99", "request ms p50/p90/p99"];
    rows(report, &heads, |point| {
        let s = &point.served;
        [&s.ttft_s, &s.tpot_s, &s.itl_s, &s.request_s].map(three).into()
    })
}

fn three(times: &Option<Summary>) -> String {
    times.map_or("-".into(), |s| [s.p50, s.p90, s.p99].map(millis).join(" / "))
}

/// A row for every device of every point.
fn share_table(report: &ServeReport) -> String {
    let heads = ["load", "device", "speed", "requests", "taken over", "tokens", "share %", "state"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for point in &report.points {
        rows.extend(point.shares.iter().map(|share| {
            vec![
                point.arriving.to_string(),
                share.device.clone(),
                digits(share.speed),
                share.requests.to_string(),
                share.taken_over.to_string(),
                share.tokens.to_string(),
                format!("{:.1}", 100.0 * share.share),
                if share.lost.is_some() { "lost" } else { "ready" }.to_string(),
            ]
        }));
    }
    table(&rows)
}

fn slo_table(report: &ServeReport) -> String {
    let most = report.points.iter().map(|point| point.served.slos.len()).max().unwrap_or(0);
    let limits = |nth: usize| {
        rows(report, &["limits", "met", "goodput %", "goodput req/s", "p99"], |point| {
            let Some(o) = point.served.slos.get(nth) else { return Vec::new() };
            vec![
                o.slo.name.clone(),
                format!("{} of {}", o.met, o.requests),
                format!("{:.1}", 100.0 * o.share),
                digits(o.goodput_requests_per_s),
                if o.p99_within { "within" } else { "past" }.into(),
            ]
        })
    };
    (0..most).map(limits).collect::<Vec<_>>().join("\n")
}

fn phase_table(report: &ServeReport) -> String {
    rows(report, &["rounds", "prompt s", "prompt tok/s", "generation s", "generation tok/s", "overlap"], |point| {
        let Some(p) = &point.phases else { return Vec::new() };
        let median =
            [p.prompt_s, p.prompt_tokens_per_s, p.generation_s, p.generation_tokens_per_s].map(|s| digits(s.p50));
        let mut cells = vec![p.rounds.to_string()];
        cells.extend(median);
        cells.push(p.overlapping_tokens.to_string());
        cells
    })
}
