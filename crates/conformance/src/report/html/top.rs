//! The top of the page: the verdict in plain words, the levels, what is missing, and a few figures.

use std::fmt::Write;

use crate::verdict::Status;

use super::super::digest::largest_margins;
use super::super::facts::{Path, Report};
use super::super::levels::{LevelVerdict, Missing, MissingKind, Standing, Verdict};
use super::super::show::{count, markup, moment, number, percent, seconds};
use super::super::words::{self, Said, say};
use super::{both, left_out, name_of, own, t};

/// Missing things that are shown unfolded, and in all.
const SHOWN: usize = 6;
const MISSING: usize = 200;

/// The verdict.
pub(super) fn verdict(report: &Report, verdict: &Verdict) -> String {
    let mut out = String::from("<section class=\"verdict\" id=\"verdict\">\n");
    let device = &report.device;
    let subject: Vec<String> =
        [name_of(report), &device.arch].into_iter().filter(|s| !s.is_empty()).map(own).collect();
    let when = moment(report.platform.started);
    let _ = writeln!(
        out,
        "<p class=\"subject\">{} · <span class=\"mono\">{}</span> · {when}</p>",
        subject.join(" · "),
        own(&device.opened_as)
    );
    let _ = writeln!(out, "<h1>{}</h1>", both(&words::headline(verdict)));
    out.push_str(&outcome(report));
    out.push_str(&ladder(verdict));
    out.push_str(&next(verdict));
    out.push_str(&key_figures(report));
    out.push_str(CONTENTS_OPEN);
    for (id, en, zh) in CONTENTS {
        let _ = write!(out, "<a href=\"#{id}\">{}</a>", t(en, zh));
    }
    out.push_str("</nav>\n</section>\n");
    out
}

const CONTENTS_OPEN: &str = "<nav class=\"contents\" aria-label=\"Contents 目录\">";
const CONTENTS: [(&str, &str, &str); 9] = [
    ("matrix", "Support", "支持矩阵"),
    ("failures", "Failures", "失败"),
    ("unsupported", "Unsupported", "不支持"),
    ("margins", "Accuracy", "精度"),
    ("speed", "Speed", "性能"),
    ("model", "Model", "模型"),
    ("platform", "Platform", "平台"),
    ("steps", "Steps", "步骤"),
    ("method", "Method", "方法"),
];

fn outcome(report: &Report) -> String {
    let passes = report.check.as_ref().map(|run| run.passes());
    let (class, word) = match passes {
        Some(true) => ("native", t("✓ run passed", "✓ 测试通过")),
        Some(false) => ("failed", t("✕ run not passed", "✕ 测试未通过")),
        None => ("idle", t("○ no run", "○ 未测试")),
    };
    let line = both(&words::outcome_line(report));
    let mut out = format!("<p class=\"outcome\"><span class=\"tag {class}\">{word}</span> {line}</p>\n");
    let faults = report.check.as_ref().map_or(&[][..], |run| &run.faults);
    if !faults.is_empty() {
        out.push_str("<ul class=\"faults\">");
        for fault in faults.iter().take(SHOWN * 2) {
            let _ = write!(out, "<li>{}</li>", own(fault));
        }
        out.push_str("</ul>\n");
        out.push_str(&left_out(faults.len(), SHOWN * 2));
    }
    if report.platform.debug_build {
        let said = t(
            "This is a debug build: no time in this report is a speed.",
            "本报告由调试版本生成：其中任何时间都不代表性能。",
        );
        let _ = writeln!(out, "<p class=\"outcome\"><span class=\"tag partial\">!</span> {said}</p>");
    }
    for note in report.notes.iter().take(SHOWN) {
        let _ = writeln!(out, "<p class=\"outcome small soft\">{}</p>", own(note));
    }
    out
}

fn ladder(verdict: &Verdict) -> String {
    let mut out = String::from("<ol class=\"ladder\">");
    for level in &verdict.levels {
        let (class, dot) = match level.standing {
            Standing::Reached => ("reached", "✓"),
            Standing::Missed => ("missed", "✕"),
            Standing::NotAsked => ("not-asked", "–"),
        };
        let name = both(&words::level(level.level));
        let meaning = words::level_meaning(level.level);
        let (title_en, title_zh) = (markup(&meaning.en), markup(&meaning.zh));
        let _ = write!(
            out,
            "<li class=\"{class}\" title=\"{title_en} {title_zh}\"><span class=\"dot\" aria-hidden=\"true\">{dot}</span>\
             <b>{name}</b><span class=\"state\">{}</span></li>",
            both(&state(level))
        );
    }
    out.push_str("</ol>\n");
    out
}

fn state(level: &LevelVerdict) -> Said {
    let dtypes = level.reached_in();
    if !dtypes.is_empty() {
        return say(format!("in {}", words::joined(&dtypes)), dtypes.join("、"));
    }
    let word = words::standing(level.standing);
    match level.standing {
        Standing::NotAsked if level.asks > 1 => {
            let (walked, asks) = (count(level.walked as u64), count(level.asks as u64));
            say(format!("{}: {walked} of {asks} cases", word.en), format!("{}：{walked} / {asks} 个用例", word.zh))
        }
        _ => word,
    }
}

fn next(verdict: &Verdict) -> String {
    let Some(next) = verdict.next() else {
        let said = t("Every level of the suite is reached.", "测试集的全部等级均已达到。");
        return format!("<div class=\"next\"><p>{said}</p></div>\n");
    };
    let mut missing: Vec<&Missing> = next.closest().missing.iter().collect();
    missing.sort_by_key(|m| matches!(m.kind, MissingKind::NotAsked | MissingKind::NoCases));
    let item = |m: &&Missing| format!("<li>{}</li>", both(&words::missing(m)));
    let (first, rest) = missing.split_at(missing.len().min(SHOWN));
    let mut out = format!("<div class=\"next\"><p>{}</p>\n", both(&words::next_line(next)));
    let _ = writeln!(out, "<ul>{}</ul>", first.iter().map(item).collect::<String>());
    if !rest.is_empty() {
        let n = count(rest.len() as u64);
        let summary = both(&say(format!("{n} more"), format!("另有 {n} 项")));
        let items: String = rest.iter().take(MISSING).map(item).collect();
        let tail = left_out(rest.len(), MISSING);
        let _ = writeln!(
            out,
            "<details class=\"plain small\"><summary>{summary}</summary><div><ul>{items}</ul>{tail}</div></details>"
        );
    }
    if let Some(profile) = next.level.profile().filter(|_| next.standing == Standing::NotAsked) {
        let how = t("To ask for the rest:", "补齐测试的命令：");
        let _ = writeln!(
            out,
            "<p class=\"small\" style=\"font-weight:400;margin-top:.6rem\">{how}</p><code class=\"cmd\">qiao check --profile \
             {profile}</code>"
        );
    }
    out.push_str("</div>\n");
    out
}

/// One figure: what it is, the figure, and what stands small behind it.
type Figure = (Said, String, String);

fn key_figures(report: &Report) -> String {
    let mut figures: Vec<Figure> = Vec::new();
    if let Some(run) = &report.check {
        let counts = &run.counts;
        let walked = both(&say(
            format!("of {} walked", count(run.records.len() as u64)),
            format!("/ 已执行 {}", count(run.records.len() as u64)),
        ));
        figures.push((say("cases passed", "通过的用例"), count(counts.passed as u64), walked));
        figures.push((say("cases failed", "失败的用例"), count(counts.failed as u64), String::new()));
        let expected = match counts.expected_failures {
            0 => String::new(),
            n => both(&say(format!("+ {} expected failures", count(n as u64)), format!("+ 预期失败 {}", count(n as u64)))),
        };
        figures.push((say("cases not run by the device", "设备不支持的用例"), count(counts.unsupported as u64), expected));
        if let Some((record, measured)) = largest_margins(run, 1).first() {
            let family = own(super::super::digest::family_of(&record.id));
            let share = measured.margin.map_or("∞".into(), percent);
            figures.push((say("largest error, share of its limit", "最大误差占限值的比例"), share, family));
        }
        debug_assert!(run.of(Status::Passed).count() == counts.passed || run.schema.is_empty());
    }
    figures.extend(speed_figures(report));
    if figures.is_empty() {
        return String::new();
    }
    let mut out = String::from("<dl class=\"figures\">");
    for (name, figure, after) in figures {
        let after = if after.is_empty() { after } else { format!(" <small>{after}</small>") };
        let _ = write!(out, "<div><dt>{}</dt><dd>{figure}{after}</dd></div>", both(&name));
    }
    out.push_str("</dl>\n");
    out
}

fn speed_figures(report: &Report) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    if let Some(bench) = &report.bench {
        let mut shares: Vec<f64> = bench.figures.iter().filter(|f| f.verified).filter_map(|f| f.of_measured).collect();
        shares.sort_by(f64::total_cmp);
        if let Some(median) = shares.get(shares.len() / 2) {
            let n = count(shares.len() as u64);
            let after = both(&say(format!("median of {n}"), format!("{n} 项的中位数")));
            figures.push((say("operators, share of the measured limit", "算子性能占实测上限"), percent(*median), after));
        }
    }
    if let Some(point) = report.model.as_ref().and_then(|m| m.points.first()) {
        if let Some(rate) = &point.decode_tokens_per_s {
            let after = both(&say(
                format!("tokens/s, batch {}", point.batch),
                format!("词元/秒，批大小 {}", point.batch),
            ));
            figures.push((say("decode, median", "解码速度（中位数）"), number(rate.p50), after));
        }
        if let Some(ttft) = &point.ttft {
            let after = both(&say(
                format!("p50, prompt of {}", point.prompt),
                format!("p50，提示 {} 词元", point.prompt),
            ));
            figures.push((say("time to first token", "首词元延迟"), seconds(ttft.p50), after));
        }
    }
    if !report.account.is_empty() {
        let of = |path: Path| report.account.iter().filter(|l| l.path == path).map(|l| l.count).sum::<usize>();
        let all: usize = report.account.iter().map(|l| l.count).sum();
        let after = both(&say(
            format!("of {} nodes; {} decomposed", count(all as u64), count(of(Path::Decomposed) as u64)),
            format!("/ {} 个节点；分解执行 {}", count(all as u64), count(of(Path::Decomposed) as u64)),
        ));
        figures.push((say("fell back to the host", "回退到主机"), count(of(Path::Host) as u64), after));
    }
    figures
}
