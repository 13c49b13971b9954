//! The top of the page: the verdict in plain words, the levels, what is missing, and a few figures.

use std::fmt::Write;

use crate::verdict::Status;

use super::super::digest::{count_of, family_of, largest_margins, profile_command};
use super::super::facts::{Path, Report};
use super::super::levels::{LevelVerdict, Missing, MissingKind, Standing, Verdict};
use super::super::show::{clipped, count, markup, moment, number, percent, seconds};
use super::super::words::{self, Said, say};
use super::{TEXT, both, left_out, name_of, own, t};

/// Missing things that are shown unfolded, and in all.
const SHOWN: usize = 6;
const MISSING: usize = 200;

/// The verdict.
pub(super) fn verdict(report: &Report, verdict: &Verdict) -> String {
    let mut out = String::from("<section class=\"verdict\" id=\"verdict\">\n");
    let device = &report.device;
    let subject: Vec<String> = [name_of(report), &device.arch].into_iter().filter(|s| !s.is_empty()).map(own).collect();
    let when = moment(report.platform.started);
    let _ = writeln!(
        out,
        "<p class=\"subject\">{} · <span class=\"mono\">{}</span> · <span class=\"keep\">{when}</span></p>",
        subject.join(" · "),
        own(&device.opened_as)
    );
    let _ = writeln!(out, "<h1>{}</h1>", unbroken(both(&words::headline(verdict))));
    out.push_str(&outcome(report));
    out.push_str(&ladder(verdict));
    out.push_str(&next(report, verdict));
    out.push_str(&key_figures(report));
    out.push_str(CONTENTS_OPEN);
    for (id, en, zh) in CONTENTS {
        let _ = write!(out, "<a href=\"#{id}\">{}</a>", t(en, zh));
    }
    out.push_str("</nav>\n</section>\n");
    out
}

/// Names of levels are not broken at their hyphen.
fn unbroken(markup: String) -> String {
    ["llm-core", "llm-serving"]
        .iter()
        .fold(markup, |m, name| m.replace(name, &format!("<span class=\"keep\">{name}</span>")))
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
            let _ = write!(out, "<li>{}</li>", both(&words::fault(&clipped(fault, TEXT))));
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
    let front = verdict.reached().map(|l| l.level);
    for level in &verdict.levels {
        let (class, dot) = match level.standing {
            Standing::Reached if front == Some(level.level) => ("reached front", "✓"),
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
        return say(format!("in {}", words::joined(&dtypes)), format!("{} 达到", dtypes.join("、")));
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

/// What is missing for the next level, in every dtype.
fn next(report: &Report, verdict: &Verdict) -> String {
    let lacking = verdict.lacking();
    if lacking.is_empty() {
        let said = t("Every level of the suite is reached.", "测试集的全部等级均已达到。");
        return format!("<div class=\"next\"><p>{said}</p></div>\n");
    }
    let mut out = String::from("<div class=\"next\">");
    for (i, next) in lacking.iter().enumerate() {
        let class = if i > 0 { " class=\"lower\"" } else { "" };
        let line = both(&words::next_line_in(next));
        let _ = write!(out, "<p{class}>{line}</p>\n{}", missing_list(&next.lacks.missing));
        if let Some(profile) = next.level.profile().filter(|_| next.lacks.standing == Standing::NotAsked) {
            let how = t("To ask for the rest:", "补齐测试的命令：");
            let command = markup(&profile_command(&report.device, profile));
            let _ = writeln!(out, "<p class=\"how\">{how}</p><code class=\"cmd\">{command}</code>");
        }
    }
    out.push_str("</div>\n");
    out
}

/// What speaks against a level, case by case; what was merely not asked, by its families.
fn missing_list(missing: &[Missing]) -> String {
    let is_open = |m: &&Missing| matches!(m.kind, MissingKind::NotAsked | MissingKind::NoCases);
    let (open, against): (Vec<&Missing>, Vec<&Missing>) = missing.iter().partition(is_open);
    let item = |m: &&Missing| format!("<li>{}</li>", both(&words::missing(m)));
    let (first, more) = against.split_at(against.len().min(SHOWN));
    let mut out = String::new();
    if !first.is_empty() {
        let _ = writeln!(out, "<ul>{}</ul>", first.iter().map(item).collect::<String>());
    }
    if !more.is_empty() {
        let n = count(more.len() as u64);
        let summary = both(&say(format!("{n} more"), format!("另有 {n} 项")));
        let items: String = more.iter().take(MISSING).map(item).collect();
        let tail = left_out(more.len(), MISSING);
        let _ = writeln!(
            out,
            "<details class=\"plain\"><summary>{summary}</summary><div><ul>{items}</ul>{tail}</div></details>"
        );
    }
    if !open.is_empty() {
        let summary = t("Not asked, by family: cases", "未测试的用例族与用例数");
        let family = |m: &&Missing| {
            let what = markup(&clipped(m.what.strip_prefix("op/").unwrap_or(&m.what), 80));
            format!("<span class=\"keep\">{what}&#160;{}</span>", m.count)
        };
        let families: Vec<String> = open.iter().take(MISSING * 4).map(family).collect();
        let tail = left_out(open.len(), MISSING * 4);
        let _ = writeln!(
            out,
            "<details class=\"plain\"><summary>{summary}</summary><div class=\"mono small\">{}{tail}</div></details>",
            families.join(", ")
        );
    }
    out
}

/// One figure: what it is, the figure, and what stands small behind it.
type Figure = (Said, String, String);

fn key_figures(report: &Report) -> String {
    let mut figures: Vec<Figure> = Vec::new();
    if let Some(run) = &report.check {
        let of = |status| count_of(run, status);
        let walked = both(&say(
            format!("of {} walked", count(run.records.len() as u64)),
            format!("/ 已执行 {}", count(run.records.len() as u64)),
        ));
        figures.push((say("cases passed", "通过的用例"), count(of(Status::Passed) as u64), walked));
        figures.push((say("cases failed", "失败的用例"), count(of(Status::Failed) as u64), String::new()));
        let expected = match of(Status::ExpectedFailure) {
            0 => String::new(),
            n => both(&say(
                format!("+ {} expected failures", count(n as u64)),
                format!("+ 预期失败 {}", count(n as u64)),
            )),
        };
        figures.push((
            say("cases not run by the device", "设备不支持的用例"),
            count(of(Status::Unsupported) as u64),
            expected,
        ));
        if let Some((record, measured)) = largest_margins(run, 1).first() {
            let family = own(family_of(&record.id));
            let share = measured.margin.map_or("∞".into(), percent);
            figures.push((say("largest error, share of its limit", "最大误差占限值的比例"), share, family));
        }
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
    // No time of a debug build is a speed.
    let is_speed = !report.platform.debug_build;
    if let Some(bench) = report.bench.as_ref().filter(|_| is_speed) {
        let mut shares: Vec<f64> = bench.figures.iter().filter(|f| f.verified).filter_map(|f| f.of_measured).collect();
        shares.sort_by(f64::total_cmp);
        if let Some(median) = shares.get(shares.len() / 2) {
            let n = count(shares.len() as u64);
            let after = both(&say(format!("median of {n}"), format!("{n} 项的中位数")));
            figures.push((
                say("operators, share of the measured limit", "算子性能占实测上限"),
                percent(*median),
                after,
            ));
        }
    }
    if let Some(point) = report.model.as_ref().filter(|_| is_speed).and_then(|m| m.points.first()) {
        if let Some(rate) = &point.decode_tokens_per_s {
            let after =
                both(&say(format!("tokens/s, batch {}", point.batch), format!("词元/秒，批大小 {}", point.batch)));
            figures.push((say("decode, median", "解码速度（中位数）"), number(rate.p50), after));
        }
        if let Some(ttft) = &point.ttft {
            let after =
                both(&say(format!("p50, prompt of {}", point.prompt), format!("p50，提示 {} 词元", point.prompt)));
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
