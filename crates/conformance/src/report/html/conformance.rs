//! What the cases came to: the support matrix, failures, expected failures, reasons, and margins.

use std::fmt::Write;

use crate::profile::Profile;
use crate::run::Run;
use crate::verdict::{Record, Status};

use super::super::digest::{Cell, Mark, Row, Shared, by_reason, error_of, largest_margins, matrix, replay_command};
use super::super::facts::Report;
use super::super::levels::ACTIVATIONS;
use super::super::show::{clipped, count, markup, number, percent};
use super::super::suite::dtype_rank;
use super::super::words::{self, say};
use super::{FAILURES, LISTED, both, left_out, own, path, section, t, table};

/// Rows and, in a row, formats of the matrix; a suite has fewer, a hostile file may not.
const ROWS: usize = 300;
const FORMATS: usize = 64;

/// More native formats than these in one row are told together.
const ALIKE: usize = 10;

/// Reasons in the panel of a cell.
const REASONS: usize = 4;

/// Records of largest margins.
const MARGINS: usize = 20;

/// The support matrix: operators by dtypes.
pub(super) fn matrix_section(report: &Report) -> String {
    let rows = matrix(report);
    let mut body = legend();
    body.push_str("<div class=\"matrix\" role=\"table\">\n<div class=\"row head\" role=\"row\">");
    let _ = write!(body, "<span role=\"columnheader\">{}</span>", t("operator", "算子"));
    for dtype in ACTIVATIONS {
        let _ = write!(body, "<span role=\"columnheader\">{dtype}</span>");
    }
    let _ =
        writeln!(body, "<span role=\"columnheader\">{}</span></div>", t("other dtypes and formats", "其他类型与格式"));
    let operators = joined(rows.iter().filter(|r| kind(r).is_empty()));
    let mut tier = None;
    for row in operators.iter().take(ROWS) {
        if tier != Some(&row.tier) {
            tier = Some(&row.tier);
            let said = match row.tier.as_str() {
                "" => say("unknown to this suite", "本测试集未收录"),
                tier => say(format!("asked by {tier}"), format!("{tier} 所要求")),
            };
            let _ = writeln!(body, "<div class=\"group\">{}</div>", both(&said));
        }
        body.push_str(&matrix_row(row));
    }
    body.push_str(&without_dtype(&rows));
    body.push_str("</div>\n");
    body.push_str(&left_out(rows.len(), ROWS));
    section(
        "matrix",
        ("Support matrix", "支持矩阵"),
        (
            "Cases that passed out of those walked, for each operator and dtype. Point at a cell, or tap it, for counts and \
             reasons; all reasons stand below as well.",
            "各算子、各数据类型的通过用例数与已执行用例数。将指针移到单元格上（或点按）可查看计数与原因；下文亦列出全部原因。",
        ),
        &body,
    )
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Failed => "failed",
        Mark::Expected => "expected",
        Mark::Unsupported => "unsupported",
        Mark::Partial => "partial",
        Mark::Decomposed => "decomposed",
        Mark::Native | Mark::Holds => "native",
        Mark::NotAsked => "asked-none",
    }
}

fn legend() -> String {
    let mut out = String::from("<ul class=\"legend\">");
    for mark in Mark::ALL {
        let (class, letter) = (class(mark), mark.letter());
        let meaning = words::mark_meaning(mark);
        let _ = write!(
            out,
            "<li title=\"{} {}\"><span class=\"chip {class}\"><i>{letter}</i></span>{}</li>",
            markup(&meaning.en),
            markup(&meaning.zh),
            both(&words::mark(mark))
        );
    }
    out.push_str("</ul>\n");
    out
}

/// The rows of operators by profile, those of an operator's families in one row where no dtype is in two of them.
fn joined<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Row> {
    let mut joined: Vec<Row> = Vec::new();
    for row in rows {
        let operator = row.name.split('.').next().unwrap_or_default();
        let is_free = |r: &&mut Row| r.name == operator && row.cells.iter().all(|(d, _)| r.cell(d).is_none());
        match joined.iter_mut().find(is_free) {
            Some(whole) => whole.cells.extend(row.cells.iter().cloned()),
            None => joined.push(row.clone()),
        }
    }
    let rank = |tier: &str| Profile::ALL.iter().position(|p| p.name() == tier).unwrap_or(usize::MAX);
    joined.sort_by_key(|r| rank(&r.tier));
    joined.iter_mut().for_each(|r| r.cells.sort_by_key(|(dtype, _)| dtype_rank(dtype)));
    joined
}

/// `device` and `refuse` for rows that have no dtypes; else empty.
fn kind(row: &Row) -> &str {
    row.name.split_once('/').map_or("", |(kind, _)| kind)
}

/// The device contract and what must be refused: one row each.
fn without_dtype(rows: &[Row]) -> String {
    let kinds = [
        ("device", say("device contract", "设备契约")),
        ("refuse", say("bad input that must be refused", "必须拒绝的非法输入")),
    ];
    let mut out = String::new();
    for (name, said) in kinds {
        let of: Vec<&Row> = rows.iter().filter(|r| kind(r) == name).collect();
        if of.is_empty() {
            continue;
        }
        let _ = write!(out, "<div class=\"group\">{}</div>", both(&said));
        let _ = write!(out, "<div class=\"row\" role=\"row\"><span class=\"name\" role=\"rowheader\">{name}</span>");
        out.push_str("<span class=\"more across\" role=\"cell\">");
        for row in of.iter().take(ROWS) {
            let last = row.name.split_once('/').map_or(row.name.as_str(), |(_, last)| last);
            row.cells.iter().take(1).for_each(|(_, cell)| out.push_str(&chip(name, last, cell, true)));
        }
        out.push_str("</span></div>\n");
    }
    out
}

fn matrix_row(row: &Row) -> String {
    let mut out = String::from("<div class=\"row\" role=\"row\">");
    let _ = write!(out, "<span class=\"name\" role=\"rowheader\">{}</span>", markup(&clipped(&row.name, 80)));
    for dtype in ACTIVATIONS {
        let cell = row.cell(dtype).map_or(String::new(), |c| chip(&row.name, dtype, c, false));
        let _ = write!(out, "<span role=\"cell\">{cell}</span>");
    }
    out.push_str("<span class=\"more\" role=\"cell\">");
    let others = || row.cells.iter().filter(|(d, _)| !d.is_empty() && !ACTIVATIONS.contains(&d.as_str()));
    // Where many formats are alike, one chip stands for them.
    let is_native = |(_, cell): &&(String, Cell)| cell.mark() == Mark::Native;
    let asked = others().filter(|(_, cell)| cell.walked() > 0);
    let (native, others_asked) = asked.partition::<Vec<_>, _>(is_native);
    if native.len() > ALIKE {
        let names: Vec<_> =
            native.iter().map(|(d, cell)| format!("{} {}", markup(&clipped(d, 24)), cell.passed())).collect();
        let n = native.len();
        let said = both(&say(format!("{n} others"), format!("其他 {n} 种")));
        out.push_str(&group_chip("native", 'N', &said, &names.join(", ")));
    } else {
        native.iter().for_each(|(dtype, cell)| out.push_str(&chip(&row.name, dtype, cell, true)));
    }
    others_asked.iter().take(FORMATS).for_each(|(dtype, cell)| out.push_str(&chip(&row.name, dtype, cell, true)));
    if others_asked.len() > FORMATS {
        let _ = write!(out, "<span class=\"soft small\">+{}</span>", others_asked.len() - FORMATS);
    }
    let idle: Vec<&str> = others().filter(|(_, cell)| cell.walked() == 0).map(|(d, _)| d.as_str()).collect();
    if !idle.is_empty() {
        let (n, names) = (idle.len(), markup(&clipped(&idle.join(", "), 400)));
        let said = both(&say(format!("{n} not asked"), format!("{n} 项未测试")));
        out.push_str(&group_chip("asked-none", '·', &said, &names));
    }
    out.push_str("</span></div>\n");
    out
}

/// A chip for several cells, whose names stand in its panel.
fn group_chip(class: &str, letter: char, said: &str, names: &str) -> String {
    format!(
        "<span class=\"has-tip\" tabindex=\"0\"><span class=\"chip {class}\"><i>{letter}</i>{said}</span>\
         <span class=\"tip\" role=\"tooltip\">{names}</span></span>"
    )
}

/// A cell with its panel.
fn chip(name: &str, dtype: &str, cell: &Cell, named: bool) -> String {
    let mark = cell.mark();
    let (class, letter) = (class(mark), mark.letter());
    let dtype = markup(&clipped(dtype, 24));
    let label = match named {
        true => format!("<span>{dtype}</span>"),
        false => format!("<span class=\"label\">{dtype}</span>"),
    };
    let (passed, walked) = (cell.passed(), cell.walked());
    let figure = match (mark, passed == walked) {
        (Mark::NotAsked, _) => String::new(),
        (_, true) => count(passed as u64),
        (_, false) => format!("{}/{}", count(passed as u64), count(walked as u64)),
    };
    let figure = if figure.is_empty() { figure } else { format!("<span class=\"n\">{figure}</span>") };
    let tip = tip(name, &dtype, cell);
    format!(
        "<span class=\"has-tip\" tabindex=\"0\"><span class=\"chip {class}\"><i>{letter}</i>{label}{figure}</span>\
         <span class=\"tip\" role=\"tooltip\">{tip}</span></span>"
    )
}

fn tip(name: &str, dtype: &str, cell: &Cell) -> String {
    let mut out = format!("<b>{} {dtype}</b>", markup(&clipped(name, 80)));
    let meaning = both(&words::mark_meaning(cell.mark()));
    let _ = write!(out, "<span class=\"line\">{meaning}</span>");
    let parts = [
        (cell.native, "native", "原生"),
        (cell.decomposed, "decomposed", "分解执行"),
        (cell.other, "checks without a kernel", "无内核检查"),
        (cell.failed, "failed", "失败"),
        (cell.expected, "expected failures", "预期失败"),
        (cell.unsupported, "not run by the device", "设备不支持"),
        (cell.cases.saturating_sub(cell.walked()), "not asked", "未测试"),
    ];
    let told = || parts.iter().filter(|(n, ..)| *n > 0);
    let en: Vec<_> = told().map(|(n, en, _)| format!("{} {en}", count(*n as u64))).collect();
    let zh: Vec<_> = told().map(|(n, _, zh)| format!("{zh} {}", count(*n as u64))).collect();
    let _ = write!(out, "<span class=\"line\">{}</span>", both(&say(en.join(", "), zh.join("，"))));
    if let Some(margin) = cell.margin {
        let said = say(
            format!("largest error of those that passed: {} of its limit", percent(margin)),
            format!("通过用例的最大误差为限值的 {}", percent(margin)),
        );
        let _ = write!(out, "<span class=\"line\">{}</span>", both(&said));
    }
    for (why, n) in cell.reasons.iter().take(REASONS) {
        let _ = write!(out, "<span class=\"line\">{} × {}</span>", count(*n as u64), markup(&clipped(why, 240)));
    }
    if cell.reasons.len() > REASONS {
        let n = cell.reasons.len() - REASONS;
        let _ = write!(
            out,
            "<span class=\"line\">{}</span>",
            both(&say(format!("and {n} more reasons"), format!("另有 {n} 种原因")))
        );
    }
    out
}

fn none(en: &str, zh: &str) -> String {
    format!("<p class=\"none\">{}</p>\n", t(en, zh))
}

/// Every failure with what was found and the command that repeats it.
pub(super) fn failures(report: &Report) -> String {
    let Some(run) = &report.check else { return String::new() };
    let failed: Vec<&Record> = run.of(Status::Failed).collect();
    let body = match failed.is_empty() {
        true => none("No case failed.", "没有失败的用例。"),
        false => {
            let cases: String = failed.iter().take(FAILURES).map(|r| failure(run, r)).collect();
            cases + &left_out(failed.len(), FAILURES)
        }
    };
    let lead = match failed.is_empty() {
        true => ("", ""),
        false => (
            "The first check that did not hold, what was found, and the command that repeats the case alone.",
            "列出首个未通过的检查、实际现象，以及单独重现该用例的命令。",
        ),
    };
    section("failures", ("Failures", "失败用例"), lead, &body)
}

fn failure(run: &Run, record: &Record) -> String {
    let mut out = format!("<div class=\"case\"><p class=\"id\">{}</p>", own(&record.id));
    if let Some(failure) = &record.failure {
        let check = both(&words::check(failure.check));
        let _ = write!(
            out,
            "<p><span class=\"tag failed\">✕ {}</span> <span class=\"soft small\">{check}</span></p><p>{}</p>",
            failure.check,
            own(&failure.why)
        );
    }
    let worst = record.measured.iter().filter(|m| m.failures > 0).max_by_key(|m| m.failures);
    if let Some(m) = worst {
        let figure = |x: Option<f64>| x.map_or("∞".into(), number);
        let said = say(
            format!(
                "{} of {} elements past their limit; largest error {}, {} ulp; worst element at {}: got {}, want {}, limit {}; \
                 smallest tolerance that passes {}",
                count(m.failures as u64),
                count(m.elements as u64),
                number(m.max_abs),
                number(m.max_ulp),
                m.worst.map_or("?".into(), |w| count(w as u64)),
                clipped(&m.got, 40),
                clipped(&m.want, 40),
                figure(m.limit),
                figure(m.smallest_tolerance),
            ),
            format!(
                "{} 个元素中 {} 个超限；最大误差 {}（{} ulp）；最差元素 {}：实得 {}，应为 {}，限值 {}；可通过的最小容差 {}",
                count(m.elements as u64),
                count(m.failures as u64),
                number(m.max_abs),
                number(m.max_ulp),
                m.worst.map_or("?".into(), |w| count(w as u64)),
                clipped(&m.got, 40),
                clipped(&m.want, 40),
                figure(m.limit),
                figure(m.smallest_tolerance),
            ),
        );
        let _ = write!(out, "<p class=\"small soft\">{}</p>", both(&said));
    }
    if !record.way.is_empty() {
        let _ = write!(out, "<p class=\"small soft mono\">{}</p>", own(&record.way));
    }
    let _ = writeln!(out, "<code class=\"cmd\">{}</code></div>", own(&replay_command(run, record)));
    out
}

/// Failures that the expectations file names.
pub(super) fn expected(report: &Report) -> String {
    let Some(run) = &report.check else { return String::new() };
    let reasons = by_reason(run, Status::ExpectedFailure);
    if reasons.is_empty() {
        return String::new();
    }
    section(
        "expected",
        ("Expected failures", "预期失败"),
        (
            "Temporary exceptions that the expectations file names, each with its reason. A case that passes in spite of its \
             row fails the run.",
            "预期失败清单中登记的临时例外，均附原因。若用例意外通过，则本次测试判为失败。",
        ),
        &shared(&reasons),
    )
}

/// What the device does not run, by reason.
pub(super) fn unsupported(report: &Report) -> String {
    let Some(run) = &report.check else { return String::new() };
    let reasons = by_reason(run, Status::Unsupported);
    let body = match reasons.is_empty() {
        true => none("The device ran every case that was asked.", "设备支持全部已测用例。"),
        false => shared(&reasons),
    };
    section(
        "unsupported",
        ("Unsupported, by reason", "不支持项及原因"),
        ("What the device says that it does not run, in its own words.", "设备声明不支持的内容，原因为设备原文。"),
        &body,
    )
}

fn shared(reasons: &[Shared<'_>]) -> String {
    let rows: Vec<Vec<String>> = reasons
        .iter()
        .take(LISTED)
        .map(|s| {
            let families: Vec<_> =
                s.families.iter().take(12).map(|(f, n)| format!("{} {}", markup(&clipped(f, 80)), n)).collect();
            let more = s.families.len().saturating_sub(12);
            let more = if more > 0 { format!(" … +{more}") } else { String::new() };
            let reason = if s.reason.is_empty() { t("no reason given", "未说明原因") } else { own(&s.reason) };
            vec![reason, count(s.count as u64), format!("<span class=\"mono\">{}{more}</span>", families.join("<br>"))]
        })
        .collect();
    let heads = [("reason", "原因", false), ("cases", "用例数", true), ("where", "涉及", false)];
    table(&heads, &rows) + &left_out(reasons.len(), LISTED)
}

/// The passed cases that came closest to their limits.
pub(super) fn margins(report: &Report) -> String {
    let Some(run) = &report.check else { return String::new() };
    let margins = largest_margins(run, MARGINS);
    let body = match margins.is_empty() {
        true => none("No passed case was measured against a limit.", "没有通过且经限值测量的用例。"),
        false => {
            let figure = |x: Option<f64>| x.map_or("∞".into(), number);
            let rows: Vec<Vec<String>> = margins
                .iter()
                .map(|(r, m)| {
                    vec![
                        path(&r.id),
                        m.margin.map_or("∞".into(), percent),
                        figure(error_of(m)),
                        figure(m.limit),
                        number(m.max_ulp),
                        figure(m.smallest_tolerance),
                    ]
                })
                .collect();
            let heads = [
                ("case", "用例", false),
                ("of limit", "占限值", true),
                ("error", "误差", true),
                ("limit", "限值", true),
                ("most ulp", "最大 ulp", true),
                ("smallest tolerance", "最小容差", true),
            ];
            table(&heads, &rows)
        }
    };
    section(
        "margins",
        ("Accuracy: the largest margins", "精度：最接近限值的用例"),
        (
            "The passed case of each family and dtype that came closest to its limit, the closest first. Error and limit are those of its worst element: \
             the error is |result − truth|, the truth is worked out in f64. The most ulp are those of any element. The smallest tolerance is the least r that would have passed as \
             |error| ≤ r · max(|truth|, rms of the truth).",
            "每个用例族与数据类型中通过且最接近限值的用例，按接近程度排列。误差与限值取自最差元素：误差为 |结果 − 真值|，真值以 f64 计算。最大 ulp 取自所有元素。最小容差为满足 |误差| ≤ r · \
             max(|真值|, 真值均方根) 的最小 r。",
        ),
        &body,
    )
}
