//! Markdown, as a pull request or an issue takes it, in one language.

use std::fmt::Write;

use crate::run::Run;
use crate::verdict::Status;

use super::digest::{Mark, by_reason, count_of, error_of, largest_margins, matrix, replay_command, why_of};
use super::facts::{Path, Report, StepOutcome};
use super::levels::{Missing, MissingKind, Standing, Verdict};
use super::show::{
    bandwidth, bytes, clipped, count, markdown as md, markdown_code as code, moment, number, percent, rate, seconds,
};
use super::words::{self, Language, Said, say};

/// Failures and other long lists are cut after so many.
const LISTED: usize = 50;
const TEXT: usize = 400;

/// A page that is being written in one language.
struct Page {
    text: String,
    language: Language,
}

impl Page {
    fn t(&self, en: &str, zh: &str) -> String {
        self.of(&say(en, zh))
    }

    /// A statement, which may hold a device's own words, as Markdown.
    fn of(&self, said: &Said) -> String {
        md(said.text(self.language))
    }

    fn heading(&mut self, en: &str, zh: &str) {
        let heading = self.t(en, zh);
        let _ = write!(self.text, "\n## {heading}\n\n");
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn heads(&mut self, heads: &[(&str, &str, bool)]) {
        let names: Vec<_> = heads.iter().map(|(en, zh, _)| self.t(en, zh)).collect();
        let rule: Vec<_> = heads.iter().map(|(.., number)| if *number { "---:" } else { "---" }).collect();
        self.line(&format!("| {} |", names.join(" | ")));
        self.line(&format!("| {} |", rule.join(" | ")));
    }

    fn row(&mut self, cells: &[String]) {
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    fn left_out(&mut self, all: usize, shown: usize) {
        if all > shown {
            let rest = count((all - shown) as u64);
            let line = self.of(&say(format!("{rest} more stand in the JSON."), format!("另有 {rest} 项，见 JSON。")));
            self.line(&format!("\n{line}"));
        }
    }
}

fn short(text: &str) -> String {
    md(&clipped(text, TEXT))
}

/// The report in one language.
pub fn write(report: &Report, language: Language) -> String {
    let mut page = Page { text: String::new(), language };
    verdict(&mut page, report);
    platform(&mut page, report);
    support(&mut page, report);
    if let Some(run) = &report.check {
        failures(&mut page, run);
        reasons(&mut page, run, Status::ExpectedFailure, "Expected failures", "预期失败");
        reasons(&mut page, run, Status::Unsupported, "Unsupported, by reason", "不支持项及原因");
        margins(&mut page, run);
    }
    speed(&mut page, report);
    model(&mut page, report);
    account(&mut page, report);
    steps(&mut page, report);
    page.text
}

fn verdict(page: &mut Page, report: &Report) {
    let verdict = Verdict::of(report);
    let name = if report.device.name.is_empty() { &report.device.opened_as } else { &report.device.name };
    let title = page.t("Adaptation report", "芯片适配测试报告");
    page.line(&format!("# {title}: {}\n", short(name)));
    let headline = page.of(&words::headline(&verdict));
    page.line(&format!("**{headline}**\n"));
    let outcome = page.of(&words::outcome_line(report));
    page.line(&outcome);
    if let Some(run) = &report.check {
        let of = |status| count(count_of(run, status) as u64);
        let [passed, failed, unsupported, expected] =
            [Status::Passed, Status::Failed, Status::Unsupported, Status::ExpectedFailure].map(of);
        let counts = page.of(&say(
            format!("{passed} passed, {failed} failed, {unsupported} unsupported, {expected} expected failures."),
            format!("通过 {passed}，失败 {failed}，不支持 {unsupported}，预期失败 {expected}。"),
        ));
        page.line(&format!("\n{counts}\n"));
        for fault in run.faults.iter().take(LISTED) {
            let fault = page.of(&words::fault(&clipped(fault, TEXT)));
            page.line(&format!("- ✕ {fault}"));
        }
    }
    report.notes.iter().take(LISTED).for_each(|note| page.line(&format!("- {}", short(note))));
    page.line("");
    page.heads(&[
        ("level", "等级", false),
        ("standing", "结论", false),
        ("in", "数据类型", false),
        ("cases walked", "已执行用例", true),
    ]);
    for level in &verdict.levels {
        let sign = match level.standing {
            Standing::Reached => "✓",
            Standing::Missed => "✕",
            Standing::NotAsked => "–",
        };
        let (name, standing) = (page.of(&words::level(level.level)), page.of(&words::standing(level.standing)));
        let cases = format!("{} / {}", count(level.walked as u64), count(level.asks as u64));
        page.row(&[name, format!("{sign} {standing}"), level.reached_in().join(", "), cases]);
    }
    for next in verdict.lacking() {
        let line = page.of(&words::next_line_in(&next));
        page.line(&format!("\n{line}\n"));
        let is_open = |m: &&Missing| matches!(m.kind, MissingKind::NotAsked | MissingKind::NoCases);
        let (open, against): (Vec<&Missing>, Vec<&Missing>) = next.lacks.missing.iter().partition(is_open);
        for m in against.iter().take(LISTED) {
            let line = page.of(&words::missing(m));
            page.line(&format!("- {line}"));
        }
        page.left_out(against.len(), LISTED);
        if !open.is_empty() {
            let families: Vec<_> = open.iter().take(LISTED).map(|m| format!("{} {}", code(&m.what), m.count)).collect();
            let not_asked = page.t("Not asked", "未测试");
            page.line(&format!("- {not_asked}: {}", families.join(", ")));
            page.left_out(open.len(), LISTED);
        }
    }
}

fn platform(page: &mut Page, report: &Report) {
    page.heading("Platform", "测试平台");
    let (p, d) = (&report.platform, &report.device);
    page.heads(&[("fact", "项目", false), ("value", "内容", false)]);
    let build = if p.debug_build { " (debug)" } else { "" };
    let known = |n: u64| if n > 0 { bytes(n) } else { String::new() };
    let mut rows = vec![
        (say("device", "设备"), code(&d.opened_as)),
        (say("name", "名称"), short(&d.name)),
        (say("vendor", "厂商"), short(&d.vendor)),
        (say("architecture", "架构"), short(&d.arch)),
        (say("driver", "驱动"), short(&d.driver)),
        (say("device memory", "设备内存"), known(d.memory_bytes)),
        (say("computes in", "计算类型"), short(&d.computes.join(", "))),
        (say("source of declared peaks", "标称来源"), short(&d.peak_source)),
        (say("operating system", "操作系统"), short(&p.os)),
        (say("processor", "处理器"), short(&p.cpu)),
        (say("cores", "核数"), p.cores.to_string()),
        (say("memory", "内存"), known(p.memory_bytes)),
        (say("Qiao", "Qiao 版本"), format!("{}{build}", short(&p.qiao))),
        (say("began", "开始时间"), moment(p.started)),
        (say("mode", "模式"), page.of(&words::mode(report.mode))),
    ];
    if let Some(run) = &report.check {
        rows.push((say("profile, seed", "配置档，随机种子"), format!("{}, {}", run.profile, run.seed)));
    }
    rows.extend(p.environment.iter().take(LISTED).map(|(k, v)| (say(k, k), code(&clipped(v, TEXT)))));
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty() && value != "``") {
        let name = page.of(&name);
        page.row(&[name, value]);
    }
}

fn support(page: &mut Page, report: &Report) {
    page.heading("Support matrix", "支持矩阵");
    let rows = matrix(report);
    let legend: Vec<_> = Mark::ALL.iter().map(|m| format!("{} {}", m.letter(), page.of(&words::mark(*m)))).collect();
    page.line(&format!("{}\n", legend.join(", ")));
    page.heads(&[
        ("operator", "算子", false),
        ("f32", "f32", false),
        ("f16", "f16", false),
        ("bf16", "bf16", false),
        ("others", "其他", false),
    ]);
    for row in rows.iter().take(400) {
        let show = |dtype: &str| {
            row.cell(dtype).map_or(String::new(), |c| {
                let (passed, walked) = (c.passed(), c.walked());
                match walked {
                    0 => "·".into(),
                    _ => format!("{} {passed}/{walked}", c.mark().letter()),
                }
            })
        };
        let is_plain = |d: &str| ["f32", "f16", "bf16"].contains(&d);
        let others = row.cells.iter().filter(|(d, _)| !is_plain(d)).take(64);
        let others: Vec<_> = others.map(|(d, _)| format!("{} {}", md(d), show(d)).trim().to_string()).collect();
        page.row(&[code(&clipped(&row.name, 80)), show("f32"), show("f16"), show("bf16"), others.join(", ")]);
    }
    page.left_out(rows.len(), 400);
}

fn failures(page: &mut Page, run: &Run) {
    page.heading("Failures", "失败用例");
    let all = run.of(Status::Failed).count();
    if all == 0 {
        let none = page.t("No case failed.", "没有失败的用例。");
        page.line(&none);
    }
    for record in run.of(Status::Failed).take(LISTED) {
        page.line(&format!("- {}: {}  ", code(&clipped(&record.id, TEXT)), short(&why_of(record))));
        page.line(&format!("  {}", code(&clipped(&replay_command(run, record), 600))));
    }
    page.left_out(all, LISTED);
}

fn reasons(page: &mut Page, run: &Run, status: Status, en: &str, zh: &str) {
    let shared = by_reason(run, status);
    if shared.is_empty() {
        return;
    }
    page.heading(en, zh);
    page.heads(&[("reason", "原因", false), ("cases", "用例数", true), ("where", "涉及", false)]);
    for s in shared.iter().take(LISTED) {
        let families: Vec<_> =
            s.families.iter().take(8).map(|(f, n)| format!("{} {n}", code(&clipped(f, 80)))).collect();
        let more = if s.families.len() > 8 { format!(", +{}", s.families.len() - 8) } else { String::new() };
        page.row(&[short(&s.reason), count(s.count as u64), families.join(", ") + &more]);
    }
    page.left_out(shared.len(), LISTED);
}

fn margins(page: &mut Page, run: &Run) {
    let margins = largest_margins(run, 20);
    if margins.is_empty() {
        return;
    }
    page.heading("Largest margins of passed cases", "最接近限值的通过用例");
    page.heads(&[
        ("case", "用例", false),
        ("of limit", "占限值", true),
        ("error", "误差", true),
        ("limit", "限值", true),
        ("smallest tolerance", "最小容差", true),
    ]);
    let figure = |x: Option<f64>| x.map_or("∞".into(), number);
    for (r, m) in margins {
        let margin = m.margin.map_or("∞".into(), percent);
        page.row(&[
            code(&clipped(&r.id, TEXT)),
            margin,
            figure(error_of(m)),
            figure(m.limit),
            figure(m.smallest_tolerance),
        ]);
    }
}

fn speed(page: &mut Page, report: &Report) {
    let Some(bench) = &report.bench else { return };
    page.heading("Speed against limits", "性能与上限");
    for limits in std::iter::once(&bench.measured).chain(&bench.declared) {
        let ops: Vec<_> = limits.ops_per_s.iter().map(|(d, v)| format!("{} {}", md(d), rate(*v))).collect();
        let (kind, source) = (short(&limits.kind), short(&limits.source));
        page.line(&format!("- {kind}: {}; {} ({source})", bandwidth(limits.bytes_per_s), ops.join(", ")));
    }
    page.line("");
    page.heads(&[
        ("operator and shape", "算子与形状", false),
        ("p50", "p50", true),
        ("p90", "p90", true),
        ("p99", "p99", true),
        ("min", "最小", true),
        ("cv", "变异系数", true),
        ("cold", "首次", true),
        ("of measured", "占实测上限", true),
        ("of declared", "占标称上限", true),
        ("kernel", "内核", false),
    ]);
    for f in bench.figures.iter().take(LISTED * 2) {
        let times = f.judged();
        let share = |x: Option<f64>| x.map_or(String::new(), percent);
        let id = code(&clipped(&f.id, TEXT));
        if !f.measured() || !f.verified {
            let why = f
                .unsupported
                .as_ref()
                .or(f.skipped.as_ref())
                .or(f.failure.as_ref())
                .map_or(String::new(), |w| short(w));
            let none = || "–".to_string();
            page.row(&[id, none(), none(), none(), none(), none(), none(), none(), none(), why]);
            continue;
        }
        let figures = [times.p50, times.p90, times.p99, times.min].map(seconds);
        let mut cells = vec![id];
        cells.extend(figures);
        cells.extend([percent(times.cv), seconds(f.cold), share(f.of_measured), share(f.of_declared), short(&f.way)]);
        page.row(&cells);
    }
    page.left_out(bench.figures.len(), LISTED * 2);
}

fn model(page: &mut Page, report: &Report) {
    let Some(model) = &report.model else { return };
    page.heading("Model run", "模型运行");
    let verified = if model.verified { page.t("verified", "已验证") } else { page.t("not verified", "未验证") };
    let (name, source) = (short(&model.name), short(&model.source));
    page.line(&format!("**{name}** ({source}), {}, {verified}\n", short(&model.compute_dtype)));
    page.heads(&[
        ("batch × prompt + new", "批 × 提示 + 生成", false),
        ("prompt tokens/s", "预填充 词元/秒", true),
        ("decode tokens/s", "解码 词元/秒", true),
        ("first token p50", "首词元 p50", true),
        ("between tokens p50", "词元间隔 p50", true),
        ("between tokens p99", "词元间隔 p99", true),
    ]);
    for p in model.points.iter().take(LISTED) {
        let rate = |f: &Option<crate::measure::Figures>| f.map_or(String::new(), |f| number(f.p50));
        let time = |x: Option<f64>| x.map_or(String::new(), seconds);
        page.row(&[
            format!("{} × {} + {}", p.batch, p.prompt, p.tokens),
            rate(&p.prompt_tokens_per_s),
            rate(&p.decode_tokens_per_s),
            time(p.ttft.map(|f| f.p50)),
            time(p.inter_token.map(|f| f.p50)),
            time(p.inter_token.map(|f| f.p99)),
        ]);
    }
    if let Some(greedy) = &model.greedy {
        let judged = match greedy.equal {
            Some(true) => page.t("the same tokens as", "词元一致，对比对象："),
            Some(false) => page.t("other tokens than", "词元不一致，对比对象："),
            None => page.t("compared with nothing", "未作对比"),
        };
        let with = greedy.compared_with.as_deref().map_or(String::new(), short);
        page.line(&format!("\n> {}{}\n\n{judged} {with}", short(&greedy.prompt), short(&greedy.text)));
    }
    model.notes.iter().take(LISTED).for_each(|note| page.line(&format!("- {}", short(note))));
}

fn account(page: &mut Page, report: &Report) {
    if report.account.is_empty() {
        return;
    }
    page.heading("How the model's operators run", "模型算子执行方式");
    page.heads(&[
        ("operator", "算子", false),
        ("native", "原生", true),
        ("decomposed", "分解执行", true),
        ("host", "主机回退", true),
        ("kernel or pieces", "内核或分解", false),
        ("reason", "原因", false),
    ]);
    for l in report.account.iter().take(LISTED * 2) {
        let of = |path: Path| if l.path == path { count(l.count as u64) } else { "0".into() };
        let runs = if l.into.is_empty() { l.kernels.join(", ") } else { l.into.join(" + ") };
        let runs = if runs.is_empty() { runs } else { code(&clipped(&runs, TEXT)) };
        let mut reason = l.reason.as_deref().map_or(String::new(), short);
        if let Some(h) = &l.hosted {
            reason.push_str(&format!(" ({})", page.of(&words::hosted(h))));
        }
        page.row(&[code(&clipped(&l.op, 80)), of(Path::Native), of(Path::Decomposed), of(Path::Host), runs, reason]);
    }
    page.left_out(report.account.len(), LISTED * 2);
}

fn steps(page: &mut Page, report: &Report) {
    page.heading("Steps", "测试步骤");
    page.heads(&[("step", "步骤", false), ("outcome", "结果", false), ("time", "耗时", true)]);
    for step in report.steps.iter().take(LISTED) {
        let outcome = match &step.outcome {
            StepOutcome::Done => page.t("done", "完成"),
            StepOutcome::Skipped(why) => format!("{}: {}", page.t("skipped", "跳过"), short(why)),
            StepOutcome::Broken(why) => format!("{}: {}", page.t("not finished", "未完成"), short(why)),
        };
        let name = page.of(&words::step(&step.name));
        page.row(&[name, outcome, seconds(step.seconds)]);
    }
    let total = seconds(report.seconds);
    let line = page.of(&say(format!("{total} in all."), format!("总计 {total}。")));
    page.line(&format!("\n{line}"));
}
