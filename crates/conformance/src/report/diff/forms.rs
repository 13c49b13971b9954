//! A comparison as text, Markdown, JSON, and one page.

use std::fmt::Write;

use super::super::digest::Mark;
use super::super::html::{both, document, left_out, section, t, table};
use super::super::levels::Standing;
use super::super::show::{
    clipped, count, markdown as md, markdown_code as code, markup, moment, number, percent, seconds,
};
use super::super::words::{self, Said, say};
use super::Comparison;
use super::changes::{Change, ChangeKind};
use super::sides::{Side, SideLevel};

/// Changes and rows that are shown; all stand in the JSON.
const LISTED: usize = 300;

/// The comparison as JSON.
///
/// # Panics
/// Never: every part of it is plain data.
pub fn json(comparison: &Comparison) -> String {
    serde_json::to_string_pretty(comparison).expect("a comparison is plain data") + "\n"
}

/// What kind of change, in words.
pub fn kind(kind: ChangeKind) -> Said {
    match kind {
        ChangeKind::LevelLost => say("level lost", "等级丢失"),
        ChangeKind::Fails => say("fails now", "由通过变为失败"),
        ChangeKind::NewFailure => say("new failure", "新增失败"),
        ChangeKind::SupportLost => say("support lost", "不再支持"),
        ChangeKind::Gone => say("gone", "记录缺失"),
        ChangeKind::NowDecomposed => say("no longer native", "不再原生执行"),
        ChangeKind::MarginGrown => say("error grown", "误差增大"),
        ChangeKind::Slower => say("slower", "变慢"),
        ChangeKind::ModelSlower => say("model slower", "模型变慢"),
        ChangeKind::ModelWrong => say("model no longer right", "模型结果不再正确"),
        ChangeKind::MoreOnHost => say("more on the host", "主机回退增多"),
        ChangeKind::LevelGained => say("level gained", "新达到等级"),
        ChangeKind::Mended => say("mended", "已修复"),
        ChangeKind::SupportGained => say("support gained", "新增支持"),
        ChangeKind::NowNative => say("native now", "转为原生执行"),
        ChangeKind::Faster => say("faster", "变快"),
        ChangeKind::ModelFaster => say("model faster", "模型变快"),
    }
}

/// The comparison in one line.
pub fn headline(c: &Comparison) -> Said {
    if !c.same_chip {
        let n = c.sides.len();
        return say(format!("{n} reports side by side"), format!("{n} 份报告并列对比"));
    }
    let worse = c.changes.iter().filter(|c| c.worse).count();
    let better = c.changes.len() - worse;
    match (worse, better) {
        (0, 0) => say("Nothing changed beyond noise", "无超出噪声的变化"),
        (0, n) => say(format!("No regression, {n} improvements"), format!("无退化，{n} 项改进")),
        (m, n) => say(format!("{m} regressions, {n} improvements"), format!("{m} 项退化，{n} 项改进")),
    }
}

fn letter(index: usize) -> String {
    u8::try_from(index).ok().filter(|i| *i < 26).map_or(format!("#{}", index + 1), |i| char::from(b'A' + i).into())
}

fn level_cell(level: &SideLevel) -> String {
    let sign = match level.standing {
        Standing::Reached => "✓",
        Standing::Missed => "✕",
        Standing::NotAsked => "–",
    };
    format!("{sign} {}", level.reached_in.join(", ")).trim_end().into()
}

fn support_cell(mark: Mark, (passed, walked): (usize, usize)) -> String {
    if mark == Mark::NotAsked { "·".into() } else { format!("{} {passed}/{walked}", mark.letter()) }
}

fn speed_cell(p50: Option<f64>, share: Option<f64>) -> String {
    match (p50, share) {
        (Some(p50), Some(share)) => format!("{} ({})", seconds(p50), percent(share)),
        (Some(p50), None) => seconds(p50),
        _ => String::new(),
    }
}

/// Rows of plain text: what, and one cell for each side.
type Rows = Vec<(Said, Vec<String>)>;

fn overview(c: &Comparison) -> Rows {
    let of = |name: Said, f: &dyn Fn(&Side) -> String| (name, c.sides.iter().map(f).collect::<Vec<_>>());
    let mut rows = vec![
        of(say("device", "设备"), &|s| clipped(&s.name, 120)),
        of(say("opened as", "打开方式"), &|s| clipped(&s.opened_as, 60)),
        of(say("architecture", "架构"), &|s| clipped(&s.arch, 60)),
        of(say("driver", "驱动"), &|s| clipped(&s.driver, 60)),
        of(say("Qiao", "Qiao 版本"), &|s| clipped(&s.qiao, 40)),
        of(say("began", "开始时间"), &|s| moment(s.started)),
        of(say("profile", "配置档"), &|s| s.profile.clone()),
    ];
    for (i, level) in c.sides.first().map_or(&[][..], |s| &s.levels).iter().enumerate() {
        rows.push(of(words::level(level.level), &|s| s.levels.get(i).map_or(String::new(), level_cell)));
    }
    for (i, name) in [
        say("passed", "通过"),
        say("failed", "失败"),
        say("unsupported", "不支持"),
        say("expected failures", "预期失败"),
    ]
    .into_iter()
    .enumerate()
    {
        rows.push(of(name, &|s| count(s.counts[i] as u64)));
    }
    if c.sides.iter().any(|s| s.decode_tokens_per_s.is_some()) {
        rows.push(of(say("decode, tokens/s", "解码，词元/秒"), &|s| {
            s.decode_tokens_per_s.map_or(String::new(), number)
        }));
        rows.push(of(say("time to first token", "首词元延迟"), &|s| s.ttft.map_or(String::new(), seconds)));
    }
    rows
}

fn support(c: &Comparison) -> Rows {
    let row = |r: &super::sides::SupportRow| {
        let cells = r.marks.iter().zip(&r.passed).map(|(m, p)| support_cell(*m, *p)).collect();
        let name = format!("{} {}", r.name, r.dtype);
        (say(name.trim(), name.trim()), cells)
    };
    c.support.iter().map(row).collect()
}

fn speeds(c: &Comparison) -> Rows {
    let row = |r: &super::sides::SpeedRow| {
        let cells = r.p50.iter().zip(&r.of_measured).map(|(p, s)| speed_cell(*p, *s)).collect();
        (say(&r.id, &r.id), cells)
    };
    c.speeds.iter().map(row).collect()
}

/// The comparison for a terminal.
pub fn text(c: &Comparison) -> String {
    let plain = |s: &str| s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    let mut out = format!("{}\n", headline(c).en);
    for (i, side) in c.sides.iter().enumerate() {
        let reached = side.reached.map_or("nothing", |l| l.name());
        let _ = writeln!(out, "  {}: {} ({}), reaches {reached}", letter(i), plain(&side.name), plain(&side.opened_as));
    }
    c.notes.iter().for_each(|note| {
        let _ = writeln!(out, "  note: {}", plain(note));
    });
    for change in c.changes.iter().take(LISTED) {
        let sign = if change.worse { '-' } else { '+' };
        let (what, before, after) = (plain(&change.what), plain(&change.before), plain(&change.after));
        let _ = writeln!(out, "{sign} {}: {what}: {before} -> {after}", kind(change.kind).en);
    }
    if c.changes.len() > LISTED {
        let _ = writeln!(out, "  and {} more", c.changes.len() - LISTED);
    }
    if !c.same_chip {
        for (title, rows) in [("", overview(c)), ("support", support(c)), ("speed", speeds(c))] {
            aligned(&mut out, title, &rows, &plain);
        }
    }
    out
}

fn aligned(out: &mut String, title: &str, rows: &Rows, plain: &dyn Fn(&str) -> String) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    let length = |text: &str| text.chars().count();
    let first = rows.iter().map(|(name, _)| length(&name.en)).max().unwrap_or(0);
    let column = |i: usize| rows.iter().map(|(_, cells)| cells.get(i).map_or(0, |c| length(c))).max().unwrap_or(0);
    let columns: Vec<usize> = (0..rows[0].1.len()).map(column).collect();
    for (name, cells) in rows {
        let mut line = format!("  {:first$}", plain(&name.en));
        for (cell, w) in cells.iter().zip(&columns) {
            let _ = write!(line, "  {:w$}", plain(cell));
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The comparison as Markdown, in English.
pub fn markdown(c: &Comparison) -> String {
    let mut out = format!("# {}\n\n", md(&headline(c).en));
    c.notes.iter().for_each(|note| {
        let _ = writeln!(out, "- {}", md(note));
    });
    grid(&mut out, c, "What was compared", &overview(c));
    for (worse, title) in [(true, "Regressions"), (false, "Improvements")] {
        let of: Vec<&Change> = c.changes.iter().filter(|c| c.worse == worse).collect();
        if of.is_empty() {
            continue;
        }
        let _ = write!(out, "\n## {title}\n\n| what | change | before | after |\n| --- | --- | --- | --- |\n");
        for change in of.iter().take(LISTED) {
            let (what, change_kind) = (code(&change.what), md(&kind(change.kind).en));
            let _ = writeln!(out, "| {what} | {change_kind} | {} | {} |", md(&change.before), md(&change.after));
        }
        if of.len() > LISTED {
            let _ = writeln!(out, "\n{} more stand in the JSON.", of.len() - LISTED);
        }
    }
    grid(&mut out, c, "Support", &support(c));
    grid(&mut out, c, "Speed (median, share of the side's own measured limit)", &speeds(c));
    out
}

fn grid(out: &mut String, c: &Comparison, title: &str, rows: &Rows) {
    if rows.is_empty() {
        return;
    }
    let letters: Vec<_> = (0..c.sides.len()).map(letter).collect();
    let rules = vec!["---"; letters.len() + 1];
    let _ = write!(out, "\n## {title}\n\n|  | {} |\n| {} |\n", letters.join(" | "), rules.join(" | "));
    for (name, cells) in rows.iter().take(LISTED) {
        let cells: Vec<_> = cells.iter().map(|c| md(c)).collect();
        let _ = writeln!(out, "| {} | {} |", md(&name.en), cells.join(" | "));
    }
    if rows.len() > LISTED {
        let _ = writeln!(out, "\n{} more stand in the JSON.", rows.len() - LISTED);
    }
}

/// The comparison as one page, in both languages.
pub fn html(c: &Comparison) -> String {
    let (class, word) = match (c.same_chip, c.regressed()) {
        (true, true) => ("failed", t("✕ regressed", "✕ 有退化")),
        (true, false) => ("native", t("✓ no regression", "✓ 无退化")),
        _ => ("idle", t("○ different chips or more than two runs", "○ 不同芯片或两次以上测试")),
    };
    let mut body = format!(
        "<section class=\"verdict\"><h1>{}</h1>\n<p class=\"outcome\"><span class=\"tag {class}\">{word}</span></p>\n",
        both(&headline(c))
    );
    c.notes.iter().for_each(|note| {
        let _ = writeln!(body, "<p class=\"outcome small soft\">{}</p>", markup(note));
    });
    body.push_str("</section>\n");
    body.push_str(&page_grid(c, "sides", ("What was compared", "对比对象"), ("", ""), &overview(c)));
    for (worse, id, heading) in
        [(true, "regressions", ("Regressions", "退化")), (false, "improvements", ("Improvements", "改进"))]
    {
        body.push_str(&changes(c, worse, id, heading));
    }
    let support_lead = match c.same_chip {
        true => ("What differs between the two runs.", "两次测试之间的差异。"),
        false => ("Letter, cases that passed, cases that were walked.", "标记、通过用例数 / 已执行用例数。"),
    };
    body.push_str(&page_grid(c, "support", ("Support", "支持情况"), support_lead, &support(c)));
    let speed_lead = (
        "Median time, and in brackets the share of what the side's own measured limits allow.",
        "中位时间；括号内为占该设备自身实测上限的比例。",
    );
    body.push_str(&page_grid(c, "speed", ("Speed", "性能"), speed_lead, &speeds(c)));
    document("Qiao: comparison", &body, env!("CARGO_PKG_VERSION"))
}

fn changes(c: &Comparison, worse: bool, id: &str, heading: (&str, &str)) -> String {
    let of: Vec<&Change> = c.changes.iter().filter(|c| c.worse == worse).collect();
    if of.is_empty() {
        return String::new();
    }
    let class = if worse { "failed" } else { "native" };
    let sign = if worse { "✕" } else { "✓" };
    let rows: Vec<Vec<String>> = of
        .iter()
        .take(LISTED)
        .map(|change| {
            vec![
                format!("<span class=\"mono\">{}</span>", markup(&clipped(&change.what, 300))),
                format!("<span class=\"tag {class}\">{sign} {}</span>", both(&kind(change.kind))),
                markup(&clipped(&change.before, 400)),
                markup(&clipped(&change.after, 400)),
            ]
        })
        .collect();
    let heads =
        [("what", "对象", false), ("change", "变化", false), ("before", "之前", false), ("after", "之后", false)];
    section(id, heading, ("", ""), &(table(&heads, &rows) + &left_out(of.len(), LISTED)))
}

fn page_grid(c: &Comparison, id: &str, heading: (&str, &str), lead: (&str, &str), rows: &Rows) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let letters: Vec<String> = (0..c.sides.len()).map(letter).collect();
    let mut heads: Vec<(&str, &str, bool)> = vec![("", "", false)];
    heads.extend(letters.iter().map(|l| (l.as_str(), l.as_str(), false)));
    let line = |(name, cells): &(Said, Vec<String>)| {
        let first = both(&say(clipped(&name.en, 300), clipped(&name.zh, 300)));
        std::iter::once(first).chain(cells.iter().map(|c| markup(c))).collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = rows.iter().take(LISTED).map(line).collect();
    section(id, heading, lead, &(table(&heads, &lines) + &left_out(rows.len(), LISTED)))
}
