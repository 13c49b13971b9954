//! The speeds of operators: limits, the roofline, and how latencies are distributed.

use std::fmt::Write;

use crate::measure::{Limits, OpFigure, OpsBench};

use super::super::facts::Report;
use super::super::show::{bandwidth, clipped, count, markup, number, percent, rate, seconds};
use super::super::words::say;
use super::plot;
use super::{both, left_out, own, path, section, t, table};

/// Operators whose latencies are shown unfolded, and in all.
const SHOWN: usize = 24;
const ROWS: usize = 160;

/// The section on speed.
pub(super) fn speed(report: &Report) -> String {
    let heading = ("Speed against limits", "性能与上限");
    let Some(bench) = &report.bench else {
        let none = format!("<p class=\"none\">{}</p>\n", t("No speed was measured.", "未测量性能。"));
        return section("speed", heading, ("", ""), &none);
    };
    let mut body = limits(bench);
    if bench.platform.debug_build {
        let said =
            t("Measured by a debug build: none of these times is a speed.", "由调试版本测得：以下时间均不代表性能。");
        let _ = writeln!(body, "<p><span class=\"tag partial\">!</span> {said}</p>");
    }
    if bench.interrupted {
        let said = t("The measurement was stopped before its end.", "测量在完成前被中止。");
        let _ = writeln!(body, "<p><span class=\"tag partial\">!</span> {said}</p>");
    }
    body.push_str(&roofline(bench));
    body.push_str(&latencies(bench));
    body.push_str(&not_measured(bench));
    let lead = (
        "Warm runs; times are the device's own where it can tell them, else as the host sees them. What a limit allows is the \
         longer of moving an operator's bytes and doing its operations.",
        "预热后测量；设备能给出时间时采用设备计时，否则采用主机计时。上限允许的最短时间取搬运字节与完成运算两者中较长者。",
    );
    section("speed", heading, lead, &body)
}

fn limits(bench: &OpsBench) -> String {
    let row = |l: &Limits| {
        let kind = match l.kind.as_str() {
            "measured" => t("measured", "实测"),
            "declared" => t("declared", "标称"),
            other => own(other),
        };
        let ops: Vec<_> = l.ops_per_s.iter().map(|(d, v)| format!("{} {}", markup(d), rate(*v))).collect();
        let bytes = if l.bytes_per_s > 0.0 { bandwidth(l.bytes_per_s) } else { String::new() };
        vec![kind, bytes, ops.join("<br>"), own(&l.source)]
    };
    let rows: Vec<Vec<String>> = std::iter::once(&bench.measured).chain(&bench.declared).map(row).collect();
    let heads = [
        ("limit", "上限", false),
        ("memory", "访存", true),
        ("dense products", "稠密矩阵乘", true),
        ("source", "来源", false),
    ];
    let mut out = table(&heads, &rows);
    for probe in bench.probes.iter().filter(|p| p.failure.is_some()).take(SHOWN) {
        let (name, why) = (clipped(&probe.name, 160), clipped(probe.failure.as_deref().unwrap_or_default(), 400));
        let said = say(format!("{name} does not count: {why}"), format!("{name} 不计入：{why}"));
        let _ = writeln!(out, "<p class=\"small\"><span class=\"tag failed\">✕</span> {}</p>", both(&said));
    }
    if !bench.timer.source.is_empty() {
        let source = clipped(&bench.timer.source, 400);
        let said = say(format!("Time by {source}."), format!("计时来源：{source}。"));
        let _ = writeln!(out, "<p class=\"small soft\">{}</p>", both(&said));
    }
    out
}

fn roofline(bench: &OpsBench) -> String {
    let Some((wide, narrow)) = plot::roofline(bench) else { return String::new() };
    let plotted = bench.figures.iter().filter(|f| plot::is_plotted(f)).count();
    let caption = say(
        format!(
            "Roofline of {} verified figures. Across: operations per byte; up: operations per second. Solid lines are measured \
             limits, dashed ones declared. Named are the points furthest below their limit. Operators without arithmetic stand \
             in the table alone.",
            count(plotted as u64)
        ),
        format!(
            "{} 项已验证数据的屋顶线图。横轴：每字节运算数；纵轴：每秒运算数。实线为实测上限，虚线为标称上限。标注名称的为距上限最远的点。\
             无算术运算的算子仅列于表中。",
            count(plotted as u64)
        ),
    );
    format!(
        "<h3>{}</h3><figure><div class=\"wide\">{wide}</div><div class=\"narrow\">{narrow}</div>\
         <figcaption>{}</figcaption></figure>\n",
        t("Roofline", "屋顶线"),
        both(&caption)
    )
}

fn latencies(bench: &OpsBench) -> String {
    let is_figure = |f: &&OpFigure| f.measured() && f.verified && f.judged().min > 0.0 && f.judged().p99.is_finite();
    let measured: Vec<&OpFigure> = bench.figures.iter().filter(is_figure).collect();
    if measured.is_empty() {
        return String::new();
    }
    let low = measured.iter().map(|f| f.judged().min / f.judged().p50).fold(1.0, f64::min);
    let high = measured.iter().map(|f| f.judged().p99 / f.judged().p50).fold(1.0, f64::max);
    let axis = plot::LogAxis::of_multiples(low, high);
    let head = || {
        let mut row =
            format!("<div class=\"row head\"><span class=\"what\">{}</span>", t("operator and shape", "算子与形状"));
        let _ = write!(row, "<span class=\"strip scale\">{}</span>", axis_labels(&axis));
        for (en, zh) in
            [("p50", "p50"), ("p99", "p99"), ("cv", "变异系数"), ("reached", "达到"), ("of limit", "占上限")]
        {
            let _ = write!(row, "<span class=\"num\">{}</span>", t(en, zh));
        }
        row.push_str("</div>\n");
        row
    };
    let (first, rest) = measured.split_at(measured.len().min(SHOWN));
    let rows = |of: &[&OpFigure]| of.iter().map(|f| latency(f, &axis)).collect::<String>();
    let mut out = format!(
        "<h3>{}</h3>\n<ul class=\"legend\"><li>{}</li></ul>\n",
        t("Latency", "延迟分布"),
        t(
            "Each strip is relative to its own median, on one logarithmic scale: thick tick at the median, band to p90, thin line from \
         the least to p99.",
            "每条均以自身中位数为基准，共用同一对数刻度：粗刻线为中位数，色带至 p90，细线从最小值到 p99。",
        )
    );
    let _ = write!(out, "<div class=\"speed\">\n{}{}</div>\n", head(), rows(first));
    if !rest.is_empty() {
        let n = count(rest.len() as u64);
        let summary = both(&say(format!("{n} more operators and shapes"), format!("其余 {n} 项")));
        let shown = &rest[..rest.len().min(ROWS - SHOWN)];
        let _ = write!(
            out,
            "<details class=\"plain\"><summary>{summary}</summary><div class=\"speed\">\n{}{}</div></details>\n",
            head(),
            rows(shown)
        );
        out.push_str(&left_out(rest.len(), ROWS - SHOWN));
    }
    out
}

fn axis_labels(axis: &plot::LogAxis) -> String {
    let mut out = String::from("<span class=\"ticks\">");
    for (multiple, at) in axis.multiples() {
        let _ = write!(out, "<span style=\"left:{:.2}%\">×{}</span>", at * 100.0, number(multiple));
    }
    out.push_str("</span>");
    out
}

fn latency(figure: &OpFigure, axis: &plot::LogAxis) -> String {
    let f = figure.judged();
    let strip = plot::strip(f, axis);
    let reached = match (figure.flops, figure.bound.as_str()) {
        (0, _) | (_, "memory") => bandwidth(figure.bytes_per_s),
        _ => rate(figure.ops_per_s),
    };
    let share = figure.of_measured.map_or(String::new(), percent);
    let title = say(
        format!("{}; cold {}", clipped(&figure.way, 160), seconds(figure.cold)),
        format!("{}；首次 {}", clipped(&figure.way, 160), seconds(figure.cold)),
    );
    let id = figure.id.strip_prefix("op/").unwrap_or(&figure.id);
    format!(
        "<div class=\"row\"><span class=\"what\">{}<small>{}{}{}</small></span>\
         <span class=\"strip\">{strip}</span><span class=\"num\">{}</span><span class=\"num\">{}</span>\
         <span class=\"num\">{}</span><span class=\"num\">{reached}</span><span class=\"num\">{share}</span></div>\n",
        path(&clipped(id, 160)),
        markup(&clipped(&figure.origin, 120)),
        if figure.origin.is_empty() { "" } else { " · " },
        both(&title),
        seconds(f.p50),
        seconds(f.p99),
        percent(f.cv),
    )
}

/// Figures that are none: not run by the device, or wrong after the timing.
fn not_measured(bench: &OpsBench) -> String {
    let none: Vec<&OpFigure> = bench.figures.iter().filter(|f| !f.measured() || !f.verified).collect();
    if none.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = none
        .iter()
        .take(ROWS)
        .map(|f| {
            let (class, word, why) = match (&f.unsupported, &f.skipped) {
                (Some(why), _) => ("idle", t("unsupported", "不支持"), why.as_str()),
                (_, Some(why)) => ("idle", t("skipped", "跳过"), why.as_str()),
                _ => ("failed", t("✕ failed", "✕ 失败"), f.failure.as_deref().unwrap_or_default()),
            };
            let id = path(&f.id);
            vec![id, format!("<span class=\"tag {class}\">{word}</span>"), own(why)]
        })
        .collect();
    let heads = [("operator and shape", "算子与形状", false), ("outcome", "结果", false), ("why", "原因", false)];
    format!("<h3>{}</h3>{}{}", t("Without a figure", "无有效数据"), table(&heads, &rows), left_out(none.len(), ROWS))
}
