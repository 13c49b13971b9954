//! Where the facts come from: machine, device, steps, method.

use std::fmt::Write;

use super::super::facts::{Report, StepOutcome};
use super::super::show::{bandwidth, bytes, clipped, count, markup, moment, rate, seconds};
use super::super::words::{self, say};
use super::{LISTED, both, facts, left_out, own, section, t, table};

/// The platform block.
pub(super) fn platform(report: &Report) -> String {
    let (p, d) = (&report.platform, &report.device);
    let known = |n: u64| if n > 0 { bytes(n) } else { String::new() };
    let list = |names: &[String]| own(&names.join(", "));
    let host = match d.host_memory {
        true => format!(" ({})", t("the host's own", "即主机内存")),
        false => String::new(),
    };
    let memory = if d.memory_bytes > 0 { bytes(d.memory_bytes) + &host } else { String::new() };
    let ops: Vec<_> = d.declared_ops_per_s.iter().map(|(dtype, v)| format!("{dtype} {}", rate(*v))).collect();
    let declared = match d.declared_bytes_per_s > 0.0 {
        true => [vec![bandwidth(d.declared_bytes_per_s)], ops].concat().join(", "),
        false => ops.join(", "),
    };
    let kv: Vec<_> = d.kv.iter().map(|(layout, block)| format!("{layout}/{block}")).collect();
    let device = facts(&[
        (say("opened as", "打开方式"), format!("<span class=\"mono\">{}</span>", own(&d.opened_as))),
        (say("name", "名称"), own(&d.name)),
        (say("vendor", "厂商"), own(&d.vendor)),
        (say("architecture", "架构"), own(&d.arch)),
        (say("driver", "驱动"), own(&d.driver)),
        (say("memory", "内存"), memory),
        (say("computes in", "计算类型"), list(&d.computes)),
        (say("stores", "仅存储类型"), list(&d.stores)),
        (say("KV cache layouts / block", "KV 缓存布局/块"), own(&kv.join(", "))),
        (say("capabilities", "能力"), list(&d.caps)),
        (
            say("tensor alignment", "张量对齐"),
            if d.tensor_align > 0 { bytes(d.tensor_align as u64) } else { String::new() },
        ),
        (say("declared peaks", "标称峰值"), own(&declared)),
        (say("source of the peaks", "标称来源"), own(&d.peak_source)),
    ]);
    let build = match p.debug_build {
        true => t("debug: no figure is a speed", "调试版本：数据不代表性能"),
        false => t("release", "发布版本"),
    };
    let run = report.check.as_ref();
    let machine = facts(&[
        (say("operating system", "操作系统"), own(&p.os)),
        (say("processor", "处理器"), own(&p.cpu)),
        (say("cores", "核数"), count(p.cores as u64)),
        (say("memory", "内存"), known(p.memory_bytes)),
        (say("Qiao", "Qiao 版本"), format!("{} ({build})", own(&p.qiao))),
        (say("began", "开始时间"), moment(p.started)),
        (say("mode", "模式"), both(&words::mode(report.mode))),
        (say("profile", "配置档"), run.map_or(String::new(), |r| r.profile.name().into())),
        (say("filter", "过滤"), run.map_or(String::new(), |r| own(&r.filter.join(", ")))),
        (say("seed", "随机种子"), run.map_or(String::new(), |r| r.seed.to_string())),
    ]);
    let mut body = format!(
        "<div class=\"pair\"><div><h3>{}</h3>{device}</div><div><h3>{}</h3>{machine}</div></div>\n",
        t("Device", "设备"),
        t("Machine", "主机")
    );
    if !p.environment.is_empty() {
        let _ = write!(body, "<h3>{}</h3><dl class=\"facts mono\">", t("Environment", "环境变量"));
        for (name, value) in p.environment.iter().take(LISTED) {
            let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", markup(&clipped(name, 80)), markup(&clipped(value, 300)));
        }
        body.push_str("</dl>\n");
        body.push_str(&left_out(p.environment.len(), LISTED));
    }
    section("platform", ("Platform", "测试平台"), ("", ""), &body)
}

/// The steps, how long each took, and what was left out and why.
pub(super) fn steps(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .steps
        .iter()
        .take(LISTED)
        .map(|step| {
            let (class, word, why) = match &step.outcome {
                StepOutcome::Done => ("native", say("✓ done", "✓ 完成"), ""),
                StepOutcome::Skipped(why) => ("idle", say("– skipped", "– 跳过"), why.as_str()),
                StepOutcome::Broken(why) => ("failed", say("✕ not finished", "✕ 未完成"), why.as_str()),
            };
            let time = if step.outcome == StepOutcome::Done || step.seconds > 0.0 {
                seconds(step.seconds)
            } else {
                String::new()
            };
            let tag = format!("<span class=\"tag {class}\">{}</span>", both(&word));
            vec![both(&words::step(&clipped(&step.name, 80))), tag, own(why), time]
        })
        .collect();
    let heads = [("step", "步骤", false), ("outcome", "结果", false), ("why", "原因", false), ("time", "耗时", true)];
    let whole = seconds(report.seconds);
    let total = both(&say(format!("{whole} in all."), format!("总计 {whole}。")));
    let body = format!("{}<p class=\"small soft\">{total}</p>\n", table(&heads, &rows));
    section("steps", ("Steps", "测试步骤"), ("", ""), &body)
}

/// The method in short.
pub(super) fn method() -> String {
    let lines = [
        (
            "Truth: every result is compared with a scalar computation in f64 that reads like the operator's formula.",
            "真值：每个结果均与按算子公式逐项书写的 f64 标量计算比较。",
        ),
        (
            "Limits follow from the class of the operator, its dtypes and its sizes, never from the chip. A margin is error / \
             limit: above 100 % a case fails.",
            "限值由算子类别、数据类型与规模决定，与芯片无关。占比为误差/限值，超过 100 % 即失败。",
        ),
        (
            "NaN and ∞ are compared by position and sign before any number is; inputs must stay unchanged, outputs be written \
             in full, and bytes around every buffer stay as they were.",
            "先按位置与符号比较 NaN 与 ∞，再比较数值；输入须保持不变，输出须全部写入，缓冲区外围字节须保持原样。",
        ),
        (
            "A profile is reached in a dtype when every plain case of its operators passed in it, every other case was walked, \
             and none failed. What was not asked is not claimed.",
            "某配置档在某数据类型下达到，是指其全部算子的基本用例均通过、其余用例均已执行且无失败。未测试的内容不作声明。",
        ),
        (
            "Speeds: percentiles by nearest rank over warm runs with rotated operands; verified after timing. Limits named \
             measured come from a copy and a matrix product in the same run; declared ones are the vendor's, with their source.",
            "性能：以轮换操作数预热后的多次执行按最近秩取百分位，计时后复核结果。“实测”上限来自同次运行的拷贝与矩阵乘探针；“标称”上限\
             由厂商给出并注明来源。",
        ),
        (
            "No result of the host stands for the device: operators that fell back to the host are counted by name.",
            "主机结果不计作设备结果：回退到主机的算子逐一列出。",
        ),
    ];
    let items: String = lines.iter().map(|(en, zh)| format!("<li>{}</li>", t(en, zh))).collect();
    let link = both(&say(
        "Definitions and sources of every figure: docs/conformance.md in Qiao's repository. The JSON's schema: \
         docs/report-schema.json.",
        "各项数据的定义与出处见 Qiao 仓库 docs/conformance.md；JSON 格式见 docs/report-schema.json。",
    ));
    section(
        "method",
        ("Method", "测试方法"),
        ("", ""),
        &format!("<ul>{items}</ul><p class=\"small soft\">{link}</p>\n"),
    )
}
