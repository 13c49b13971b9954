//! What a report says, in English and Chinese. Names that files, commands and devices use stay as they are.

use crate::verdict::{Check, Status};

use super::digest::Mark;
use super::facts::{HostedNodes, Mode, Path, Report, Step};
use super::levels::{Lacking, Level, LevelVerdict, Missing, MissingKind, Standing, Verdict};
use super::show::{bytes, clipped, count, seconds};

/// The languages of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// 简体中文。
    Chinese,
}

/// One statement in both languages, as plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

/// A statement in both languages.
pub fn say(en: impl Into<String>, zh: impl Into<String>) -> Said {
    Said { en: en.into(), zh: zh.into() }
}

impl Said {
    /// The statement in one language.
    pub fn text(&self, language: Language) -> &str {
        match language {
            Language::English => &self.en,
            Language::Chinese => &self.zh,
        }
    }
}

/// How long a device's own words may be inside a statement.
const QUOTE: usize = 300;

/// A level's name.
pub fn level(level: Level) -> Said {
    match level {
        Level::Present => say("present", "设备在位"),
        Level::DeviceContract => say("device contract", "设备契约"),
        Level::Smoke => say("smoke", "smoke 冒烟"),
        Level::LlmCore => say("llm-core", "llm-core 大模型核心"),
        Level::LlmServing => say("llm-serving", "llm-serving 大模型服务"),
        Level::Full => say("full", "full 全量"),
    }
}

/// What a level asks for.
pub fn level_meaning(level: Level) -> Said {
    match level {
        Level::Present => say("The device is on the machine and opens.", "设备存在于本机，且能够打开。"),
        Level::DeviceContract => say(
            "Memory, copies, streams, events and errors behave as the contract says: every plain clause, and none of those \
             walked is broken.",
            "内存、拷贝、流、事件与错误均符合契约：所有基本条款成立，且已执行的条款无一违反。",
        ),
        Level::Smoke => say(
            "Every operator that a language model needs is right on plain shapes.",
            "语言模型所需的每个算子在基本形状上结果正确。",
        ),
        Level::LlmCore => say(
            "What a language model needs to produce a token: all shapes, layouts and values.",
            "语言模型产生词元所需的算子：覆盖全部形状、布局与取值。",
        ),
        Level::LlmServing => say(
            "What serving needs on top: paged attention, the KV cache, quantised products.",
            "在此之上的推理服务能力：分页注意力、KV 缓存、量化矩阵乘。",
        ),
        Level::Full => say(
            "Everything in the suite, large shapes and long walks included.",
            "测试集全部内容，含大形状与长时用例。",
        ),
    }
}

/// How a device stands to a level.
pub fn standing(standing: Standing) -> Said {
    match standing {
        Standing::Reached => say("reached", "达到"),
        Standing::NotAsked => say("not asked in full", "未完整测试"),
        Standing::Missed => say("not reached", "未达到"),
    }
}

/// A status.
pub fn status(status: Status) -> Said {
    match status {
        Status::Passed => say("passed", "通过"),
        Status::Failed => say("failed", "失败"),
        Status::Unsupported => say("unsupported", "不支持"),
        Status::ExpectedFailure => say("expected failure", "预期失败"),
        Status::NotPresent => say("not present", "不在位"),
    }
}

/// A cell of the support matrix in a word.
pub fn mark(mark: Mark) -> Said {
    match mark {
        Mark::Native => say("native", "原生"),
        Mark::Holds => say("holds", "成立"),
        Mark::Decomposed => say("decomposed", "分解执行"),
        Mark::Partial => say("in part", "部分支持"),
        Mark::Unsupported => say("unsupported", "不支持"),
        Mark::Expected => say("expected failure", "预期失败"),
        Mark::Failed => say("failed", "失败"),
        Mark::NotAsked => say("not asked", "未测试"),
    }
}

/// What a mark of the support matrix stands for.
pub fn mark_meaning(mark: Mark) -> Said {
    match mark {
        Mark::Native => say(
            "every case that was asked passed, run by the device's own kernels",
            "已测用例全部通过，由设备自身内核执行",
        ),
        Mark::Holds => {
            say("every case that was asked passed; none of them needs a kernel", "已测用例全部通过；均不涉及内核")
        }
        Mark::Decomposed => say(
            "every case that was asked passed, some as smaller operators on the device",
            "已测用例全部通过，部分在设备上分解为更小算子执行",
        ),
        Mark::Partial => say("some cases passed, the device does not run others", "部分用例通过，其余设备不支持"),
        Mark::Unsupported => say("the device runs none of the cases that were asked", "已测用例设备均不支持"),
        Mark::Expected => say("some cases fail as the expectations file says", "部分用例失败，且已列入预期失败清单"),
        Mark::Failed => say("some case failed", "有用例失败"),
        Mark::NotAsked => say("no case was asked", "没有测试任何用例"),
    }
}

/// How a node of a graph runs.
pub fn path(path: Path) -> Said {
    match path {
        Path::Native => say("native", "原生"),
        Path::Decomposed => say("decomposed", "分解执行"),
        Path::Host => say("host", "主机回退"),
    }
}

/// What nodes on the host cost.
pub fn hosted(h: &HostedNodes) -> Said {
    let (down, up) = (bytes(h.bytes_down), bytes(h.bytes_up));
    let (mut en, mut zh) = (format!("{down} down and {up} up a token"), format!("每 token 下行 {down}、上行 {up}"));
    if h.runs > 0 {
        let each = seconds(h.seconds / h.runs as f64);
        en.push_str(&format!(", {each} a node and token"));
        zh.push_str(&format!("，每节点每 token {each}"));
    }
    say(en, zh)
}

/// How much was asked.
pub fn mode(mode: Mode) -> Said {
    match mode {
        Mode::Quick => say("quick", "快速"),
        Mode::Full => say("full", "完整"),
        Mode::Check => say("conformance run alone", "仅一致性测试"),
    }
}

/// The name of a step.
pub fn step(name: &str) -> Said {
    match name {
        Step::OPEN => say("open the device", "打开设备"),
        Step::CHECK => say("conformance", "一致性测试"),
        Step::BENCH => say("speed of operators", "算子性能"),
        Step::LOWER => say("lower the model onto the device", "模型图下发到设备"),
        Step::MODEL => say("run the model", "运行模型"),
        Step::SOAK => say("soak", "长稳测试"),
        other => say(other, other),
    }
}

/// What a check holds a device to.
pub fn check(check: Check) -> Said {
    match check {
        Check::Support => say("what it says it supports is so", "支持性回答属实"),
        Check::Plan => say("a graph it calls its own can be planned", "自称支持的图可以规划"),
        Check::Execute => say("runs without an error", "执行无错误"),
        Check::Special => say("NaN and ∞ stand where they should", "NaN 与 ∞ 位置及符号正确"),
        Check::Limit => say("every element within its limit", "每个元素误差在限值内"),
        Check::Unwritten => say("every output element is written", "输出元素全部写入"),
        Check::Inputs => say("inputs unchanged", "输入未被改动"),
        Check::Guards => say("bytes around buffers unchanged", "缓冲区外围字节未被改动"),
        Check::Repeat => say("the same bytes again", "重复执行结果逐字节相同"),
        Check::Rebind => say("the same plan right for other data", "同一计划换绑数据后仍正确"),
        Check::Refusal => say("bad input is refused", "非法输入被拒绝"),
        Check::Contract => say("the contract holds", "契约成立"),
        Check::Panic => say("no panic", "不发生 panic"),
        Check::Crash => say("no crash", "进程不崩溃"),
        Check::Timeout => say("answers in time", "按时返回"),
        Check::UnexpectedPass => say("an expected failure fails", "预期失败应当失败"),
        Check::Profile => say("what the profile asks for is supported", "支持配置档所要求的内容"),
    }
}

/// One thing that is missing.
pub fn missing(m: &Missing) -> Said {
    let (n, of, what) = (count(m.count as u64), count(m.of as u64), &m.what);
    let (en, zh) = match m.why.is_empty() {
        true => (String::new(), String::new()),
        false => (format!(": {}", clipped(&m.why, QUOTE)), format!("：{}", clipped(&m.why, QUOTE))),
    };
    match m.kind {
        MissingKind::Absent => say(format!("{what} is not on this machine{en}"), format!("本机没有设备 {what}{zh}")),
        MissingKind::Failed => say(
            format!("{what}: {n} of {of} cases failed; the first{}", en_or(&en)),
            format!("{what}：{of} 个用例中 {n} 个失败；首个{zh}"),
        ),
        MissingKind::ExpectedFailure => say(
            format!("{what}: {n} of {of} plain cases fail as expected{en}"),
            format!("{what}：{of} 个基本用例中 {n} 个为预期失败{zh}"),
        ),
        MissingKind::Unsupported => say(
            format!("{what}: {n} of {of} plain cases are not run by the device{en}"),
            format!("{what}：{of} 个基本用例中设备不支持 {n} 个{zh}"),
        ),
        MissingKind::NotAsked => {
            say(format!("{what}: {n} of {of} cases were not asked"), format!("{what}：{of} 个用例中 {n} 个未测试"))
        }
        MissingKind::NoCases => {
            say(format!("{what}: the suite has no case for it"), format!("{what}：测试集中没有对应用例"))
        }
    }
}

fn en_or(why: &str) -> &str {
    if why.is_empty() { " gave no reason" } else { why }
}

/// The verdict in one line: the highest level that is reached, and in which dtypes.
pub fn headline(verdict: &Verdict) -> Said {
    let Some(reached) = verdict.reached() else { return say("The device is not present", "设备不在位") };
    let dtypes = reached.reached_in();
    let name = level(reached.level);
    match reached.level {
        Level::Present => say("The device opens; no further level is reached", "设备可打开；尚未达到更高等级"),
        Level::DeviceContract => {
            say("Holds the device contract; no profile is reached", "满足设备契约；尚未达到任何配置档")
        }
        _ => say(
            format!("Reaches {} in {}", name.en, joined(&dtypes)),
            format!("达到 {}（{}）", name.zh, dtypes.join("、")),
        ),
    }
}

/// What stands between the device and its next level, in the dtype that is closest to it, in one line.
pub fn next_line(next: &LevelVerdict) -> Said {
    let closest = next.closest();
    next_line_in(&Lacking { level: next.level, lacks: closest, dtypes: vec![&closest.dtype] })
}

/// What stands between the device and its next level in dtypes that lack the same things, in one line.
pub fn next_line_in(next: &Lacking<'_>) -> Said {
    let (name, closest) = (level(next.level), next.lacks);
    let (en_in, zh_in) = match closest.dtype.is_empty() {
        true => (String::new(), String::new()),
        false => (format!(" in {}", joined(&next.dtypes)), format!("（{}）", next.dtypes.join("、"))),
    };
    let of = |wanted: &[MissingKind]| {
        let found = closest.missing.iter().filter(|m| wanted.contains(&m.kind));
        found.fold((0usize, 0usize), |(cases, places), m| (cases + m.count, places + 1))
    };
    let mut parts: Vec<Said> = Vec::new();
    let mut part = |kinds: &[MissingKind], en: &str, zh: &str| {
        let (cases, places) = of(kinds);
        if places > 0 {
            let families = if places == 1 { "family" } else { "families" };
            let (cases, places) = (count(cases as u64), count(places as u64));
            parts.push(say(
                format!("{cases} {en} ({places} {families})"),
                format!("{cases} 个{zh}（{places} 个用例族）"),
            ));
        }
    };
    part(&[MissingKind::Failed], "cases failed", "用例失败");
    part(&[MissingKind::Unsupported], "plain cases not run", "基本用例不支持");
    part(&[MissingKind::ExpectedFailure], "plain cases failing as expected", "基本用例为预期失败");
    part(&[MissingKind::NotAsked], "cases not asked", "用例未测试");
    part(&[MissingKind::NoCases], "operators without cases", "算子没有用例");
    if closest.missing.iter().any(|m| m.kind == MissingKind::Absent) {
        parts.push(say("the device is not there", "设备不在位"));
    }
    let en: Vec<_> = parts.iter().map(|p| p.en.as_str()).collect();
    let zh: Vec<_> = parts.iter().map(|p| p.zh.as_str()).collect();
    say(
        format!("Next{en_in}: {}. Missing: {}.", name.en, en.join(", ")),
        format!("下一等级{zh_in}：{}。尚缺：{}。", name.zh, zh.join("，")),
    )
}

/// Whether the run itself passed, and over what.
pub fn outcome_line(report: &Report) -> Said {
    let Some(run) = &report.check else {
        return say("No conformance run is part of this report.", "本报告不含一致性测试。");
    };
    let (profile, filter) = (run.profile.name(), run.filter.join(", "));
    let (en_part, zh_part) = match filter.is_empty() {
        true => (String::new(), String::new()),
        false => (
            format!(", only cases that match {}", clipped(&filter, QUOTE)),
            format!("，仅限匹配 {} 的用例", clipped(&filter, QUOTE)),
        ),
    };
    let required: Vec<&str> = run.required.iter().map(|r| r.op.as_str()).collect();
    let (en_part, zh_part) = match required.is_empty() {
        true => (en_part, zh_part),
        false => (
            format!("{en_part} with {} required", joined(&required)),
            format!("{zh_part}（要求算子：{}）", required.join("、")),
        ),
    };
    let nothing = if run.demands_nothing() { nothing_demanded() } else { Said::default() };
    let walked = count(run.records.len() as u64);
    match run.passes() {
        true => say(
            format!("Run of profile {profile}{en_part}: passed. {walked} cases walked.{}", nothing.en),
            format!("配置档 {profile} 的测试{zh_part}：通过。共执行 {walked} 个用例。{}", nothing.zh),
        ),
        false => say(
            format!("Run of profile {profile}{en_part}: not passed. {walked} cases walked."),
            format!("配置档 {profile} 的测试{zh_part}：未通过。共执行 {walked} 个用例。"),
        ),
    }
}

/// What a pass is worth where no operator was demanded.
fn nothing_demanded() -> Said {
    say(" The device contract only; no operator was demanded.", "仅检验设备契约；未要求任何算子。")
}

/// Names in a sentence: `a`, `a and b`, `a, b and c`.
pub fn joined(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).into(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

/// Why a run fails, in the words of the run; what the runner itself says is told in both languages.
pub fn fault(text: &str) -> Said {
    let all = |zh: String| say(text, zh);
    if let Some(n) = text.strip_suffix(" cases failed") {
        return all(format!("{n} 个用例失败"));
    }
    if text == "the run was stopped before its last case" {
        return all("测试在最后一个用例之前被中止".into());
    }
    if text.starts_with("no case was executed and passed") {
        return all("没有任何用例执行并通过：什么都不支持的设备不算通过".into());
    }
    let held = text.strip_prefix("profile ").and_then(|t| t.split_once(" is held in no dtype; "));
    let closest = held.and_then(|(profile, t)| Some((profile, t.split_once(" comes closest and lacks ")?)));
    if let Some((profile, (dtype, lacks))) = closest {
        return all(format!("配置档 {profile} 在任何数据类型下均未满足；最接近的是 {dtype}，尚缺 {lacks}"));
    }
    if let Some((profile, lacks)) = text.strip_prefix("profile ").and_then(|t| t.split_once(" is not held and lacks "))
    {
        return all(format!("配置档 {profile} 未满足，尚缺 {lacks}"));
    }
    let required = text.strip_prefix("operator ").and_then(|t| t.split_once(" is required and held in no dtype: "));
    if let Some((op, why)) = required {
        return all(format!("要求的算子 {op} 在任何数据类型下均未满足：{why}"));
    }
    let stale = text.strip_prefix("line ").and_then(|t| t.split_once(" of the expectations, "));
    if let Some((line, rest)) = stale {
        let row = rest.strip_suffix(", names no case; take it away").unwrap_or(rest);
        return all(format!("预期失败清单第 {line} 行 {row} 不对应任何用例，请删除"));
    }
    say(text, text)
}
