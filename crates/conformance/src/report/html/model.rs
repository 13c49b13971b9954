//! The model's run, and the account of its operators.

use std::fmt::Write;

use crate::measure::Figures;

use super::super::facts::{AccountLine, Greedy, ModelPoint, ModelRun, Path, Report};
use super::super::show::{bytes, clipped, count, markup, number, percent, seconds};
use super::super::words::{self, say};
use super::{LISTED, both, facts, left_out, own, section, t, table};

/// Points of a model's run that are listed.
const POINTS: usize = 100;

/// The model's run and the account of its lowering; nothing where there is neither.
pub(super) fn model(report: &Report) -> String {
    let mut body = String::new();
    match &report.model {
        Some(model) => body.push_str(&run(model)),
        None => {
            let _ = writeln!(body, "<p class=\"none\">{}</p>", t("No model was run.", "未运行模型。"));
        }
    }
    body.push_str(&account(&report.account));
    section(
        "model",
        ("Model run", "模型运行"),
        (
            "One model from its first operator to its last, on this device alone.",
            "在本设备上完整运行一个模型，从首个算子到最后一个算子。",
        ),
        &body,
    )
}

fn run(model: &ModelRun) -> String {
    let verified = match model.verified {
        true => format!("<span class=\"tag native\">✓ {}</span>", t("verified", "已验证")),
        false => format!("<span class=\"tag failed\">✕ {}</span>", t("not verified", "未验证")),
    };
    let known = |n: u64, f: fn(u64) -> String| if n > 0 { f(n) } else { String::new() };
    let some = |n: Option<u64>| n.map_or(String::new(), bytes);
    let limits = match model.limits_kind.is_empty() {
        true => String::new(),
        false => {
            let kind = if model.limits_kind == "declared" { t("declared", "标称") } else { t("measured", "实测") };
            format!("{kind}: {}", own(&model.limits_source))
        }
    };
    let mut out = facts(&[
        (say("model", "模型"), format!("{} {verified}", own(&model.name))),
        (say("source", "来源"), own(&model.source)),
        (say("architecture", "架构"), own(&model.architecture)),
        (say("parameters", "参数量"), known(model.parameters, count)),
        (say("computes in", "计算类型"), own(&model.compute_dtype)),
        (say("weights stored as", "权重存储类型"), own(&model.weight_dtypes.join(", "))),
        (say("weights", "权重"), known(model.weight_bytes, bytes)),
        (
            say("bits per weight of projections, where it lives", "投影权重每个驻留位数"),
            own(&model.bits_per_weight.map_or("–".into(), |bits| format!("{bits:.2}"))),
        ),
        (say("loaded in", "加载耗时"), model.load_seconds.map_or(String::new(), seconds)),
        (say("peak memory of the process", "进程内存峰值"), some(model.peak_memory_bytes)),
        (say("peak memory on the device", "设备内存峰值"), some(model.device_peak_bytes)),
        (say("MFU and MBU against limits", "MFU 与 MBU 所用上限"), limits),
    ]);
    if !model.points.is_empty() {
        let rows: Vec<Vec<String>> = model.points.iter().take(POINTS).map(point).collect();
        let _ = write!(out, "<h3>{}</h3>{}", t("Speed", "速度"), table(POINT_HEADS, &rows));
        out.push_str(&left_out(model.points.len(), POINTS));
    }
    if let Some(greedy) = &model.greedy {
        out.push_str(&said(greedy));
    }
    for note in model.notes.iter().take(20) {
        let _ = writeln!(out, "<p class=\"small soft\">{}</p>", own(note));
    }
    out
}

const POINT_HEADS: &[(&str, &str, bool)] = &[
    ("batch × prompt + new", "批 × 提示 + 生成", false),
    ("prompt, tokens/s", "预填充，词元/秒", true),
    ("decode, tokens/s", "解码，词元/秒", true),
    ("first token p50 / p99", "首词元 p50 / p99", true),
    ("between tokens p50 / p99", "词元间隔 p50 / p99", true),
    ("MFU prompt", "预填充 MFU", true),
    ("MBU decode", "解码 MBU", true),
    ("KV cache", "KV 缓存", true),
];

fn point(p: &ModelPoint) -> Vec<String> {
    let depth = if p.depth > 0 { format!(" @ {}", p.depth) } else { String::new() };
    let rate = |f: &Option<Figures>| f.map_or(String::new(), |f| number(f.p50));
    let times = |f: &Option<Figures>| f.map_or(String::new(), |f| format!("{} / {}", seconds(f.p50), seconds(f.p99)));
    let share = |x: Option<f64>| x.map_or(String::new(), percent);
    vec![
        format!("<span class=\"keep\">{} × {}{depth} + {}</span>", p.batch, p.prompt, p.tokens),
        rate(&p.prompt_tokens_per_s),
        rate(&p.decode_tokens_per_s),
        times(&p.ttft),
        times(&p.inter_token),
        share(p.mfu_prompt),
        share(p.mbu_decode),
        if p.cache_bytes > 0 { bytes(p.cache_bytes) } else { String::new() },
    ]
}

/// What the model said, and whether that is right.
fn said(greedy: &Greedy) -> String {
    let with = greedy.compared_with.clone().unwrap_or_default();
    let with = clipped(&with, 200);
    let (class, judged) = match greedy.equal {
        Some(true) => ("native", say(format!("✓ the same tokens as {with}"), format!("✓ 与 {with} 的词元完全一致"))),
        Some(false) => {
            let at = greedy.first_difference.map_or(String::new(), |i| i.to_string());
            (
                "failed",
                say(
                    format!("✕ other tokens than {with}, from position {at}"),
                    format!("✕ 与 {with} 的词元不一致，自位置 {at} 起"),
                ),
            )
        }
        None => ("idle", say("○ compared with nothing", "○ 未作对比")),
    };
    let mut out = format!(
        "<h3>{}</h3><p><span class=\"tag {class}\" style=\"white-space:normal\">{}</span></p>",
        t("What it says, greedily", "贪心解码输出"),
        both(&judged)
    );
    match greedy.text.is_empty() {
        true => {
            let ids: Vec<_> = greedy.ids.iter().take(64).map(u32::to_string).collect();
            let _ = write!(out, "<blockquote class=\"mono\">{}</blockquote>", ids.join(" "));
        }
        false => {
            let prompt = own(&greedy.prompt);
            let _ = write!(out, "<blockquote><span class=\"soft\">{prompt}</span>{}</blockquote>", own(&greedy.text));
        }
    }
    out
}

/// How the model's operators run: native, decomposed, on the host.
fn account(lines: &[AccountLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let of = |path: Path| lines.iter().filter(|l| l.path == path).map(|l| l.count).sum::<usize>();
    let all = lines.iter().map(|l| l.count).sum::<usize>().max(1);
    let mut out = format!("<h3>{}</h3>", t("How its operators run", "算子执行方式"));
    out.push_str("<div class=\"bars\">");
    for (path, class) in [(Path::Native, "native"), (Path::Decomposed, "decomposed"), (Path::Host, "host")] {
        let n = of(path);
        let share = n as f64 / all as f64;
        let _ = write!(
            out,
            "<span>{}</span><span class=\"bar\"><i class=\"{class}\" style=\"width:{:.2}%\"></i></span>\
             <span class=\"num\">{} <span class=\"soft small\">{}</span></span>",
            both(&words::path(path)),
            share * 100.0,
            count(n as u64),
            percent(share)
        );
    }
    out.push_str("</div>\n");
    let mut sorted: Vec<&AccountLine> = lines.iter().collect();
    sorted.sort_by_key(|l| std::cmp::Reverse(l.path));
    let rows: Vec<Vec<String>> = sorted
        .iter()
        .take(LISTED)
        .map(|l| {
            let (class, letter) = match l.path {
                Path::Native => ("native", "N"),
                Path::Decomposed => ("decomposed", "D"),
                Path::Host => ("failed", "H"),
            };
            let kernels = match (l.into.is_empty(), l.kernels.is_empty()) {
                (true, _) => l.kernels.join(", "),
                (false, true) => l.into.join(" + "),
                (false, false) => format!("{} ({})", l.into.join(" + "), l.kernels.join(", ")),
            };
            vec![
                format!("<span class=\"mono keep\">{}</span>", markup(&clipped(&l.op, 40))),
                format!("<span class=\"chip {class}\"><i>{letter}</i>{}</span>", both(&words::path(l.path))),
                count(l.count as u64),
                format!("<span class=\"mono\">{}</span>", markup(&clipped(&kernels, 300))),
                l.reason.as_deref().map_or(String::new(), own)
                    + &l.hosted.as_ref().map_or(String::new(), |h| format!(" ({})", both(&words::hosted(h)))),
            ]
        })
        .collect();
    let heads = [
        ("operator", "算子", false),
        ("runs", "方式", false),
        ("nodes", "节点数", true),
        ("kernel or pieces", "内核或分解", false),
        ("reason", "原因", false),
    ];
    out.push_str(&table(&heads, &rows));
    out.push_str(&left_out(lines.len(), LISTED));
    out
}
