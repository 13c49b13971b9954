//! One self-contained page: no resource from elsewhere, and no script needed to read it.
//!
//! Every text stands in the page in both languages, and style alone shows one of them; the script remembers the choice. What a
//! device or an environment says is text and never markup: it passes [`markup`]. Sizes are bounded: passed
//! cases are summed up, and of everything that is listed so many are shown as the caps below say, with a count of the rest.

mod about;
mod conformance;
mod model;
mod plot;
mod speed;
mod top;

use std::fmt::Write;

use super::facts::Report;
use super::levels::Verdict;
use super::show::{clipped, count, markup};
use super::words::{Said, say};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// Failures that are shown in full.
pub(super) const FAILURES: usize = 200;
/// Expected failures, reasons, and lines of an account that are listed.
pub(super) const LISTED: usize = 200;
/// Characters of a text that are shown.
pub(super) const TEXT: usize = 1200;

/// The page of a report.
pub fn write(report: &Report) -> String {
    let verdict = Verdict::of(report);
    let title = format!("Qiao: {}", markup(&clipped(name_of(report), 120)));
    let mut body = String::new();
    body.push_str(&top::verdict(report, &verdict));
    body.push_str(&conformance::matrix_section(report));
    body.push_str(&conformance::failures(report));
    body.push_str(&conformance::expected(report));
    body.push_str(&conformance::unsupported(report));
    body.push_str(&conformance::margins(report));
    body.push_str(&speed::speed(report));
    body.push_str(&model::model(report));
    body.push_str(&about::platform(report));
    body.push_str(&about::steps(report));
    body.push_str(&about::method());
    document(&title, &body, &report.platform.qiao)
}

/// What the device is called.
pub(super) fn name_of(report: &Report) -> &str {
    if report.device.name.is_empty() { &report.device.opened_as } else { &report.device.name }
}

/// A whole page round its body.
pub(super) fn document(title: &str, body: &str, qiao: &str) -> String {
    let mut page = String::with_capacity(body.len() + STYLE.len() + SCRIPT.len() + 4096);
    page.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Nothing may be loaded from anywhere: the page holds all that it needs.
    page.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; img-src data:\">\n<meta name=\"color-scheme\" content=\"light dark\">\n",
    );
    let _ = writeln!(page, "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>");
    page.push_str(&toggles());
    let _ = writeln!(page, "<main>\n{body}</main>");
    let made = both(&say(
        format!("Written by Qiao {}. Every figure stands in the report's JSON.", clipped(qiao, 40)),
        format!("由 Qiao {} 生成。所有数据见报告的 JSON 文件。", clipped(qiao, 40)),
    ));
    let _ = write!(page, "<footer>{made}</footer>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

fn toggles() -> String {
    let radio = |group: &str, value: &str, label: String, checked: bool| {
        let checked = if checked { " checked" } else { "" };
        format!(
            "<label><input type=\"radio\" name=\"{group}\" value=\"{value}\" id=\"{group}-{value}\"{checked}>\
             <span class=\"seg\">{label}</span></label>"
        )
    };
    let languages = radio("lang", "en", "English".into(), true)
        + &radio("lang", "zh", "<span lang=\"zh-Hans\">中文</span>".into(), false);
    let themes = radio("theme", "auto", t("Auto", "自动"), true)
        + &radio("theme", "light", t("Light", "浅色"), false)
        + &radio("theme", "dark", t("Dark", "深色"), false);
    format!(
        "<header class=\"top\"><span><span class=\"brand\">Qiao 桥</span> · {}</span><span class=\"toggles\">\
         <fieldset><legend>Language 语言</legend>{languages}</fieldset>\
         <fieldset><legend>Theme 主题</legend>{themes}</fieldset></span></header>\n",
        t("Adaptation report", "芯片适配测试报告")
    )
}

/// A statement as markup, in both languages.
pub(super) fn both(said: &Said) -> String {
    if said.en == said.zh {
        return markup(&said.en);
    }
    let (en, zh) = (markup(&said.en), markup(&said.zh));
    format!("<span class=\"en\">{en}</span><span class=\"zh\" lang=\"zh-Hans\">{zh}</span>")
}

/// The same for texts that stand here.
pub(super) fn t(en: &str, zh: &str) -> String {
    both(&say(en, zh))
}

/// A device's own words, bounded.
pub(super) fn own(text: &str) -> String {
    markup(&clipped(text, TEXT))
}

/// The path of a case, which may be broken after a comma.
pub(super) fn path(text: &str) -> String {
    format!("<span class=\"mono\">{}</span>", own(text).replace(',', ",<wbr>"))
}

/// A section with its heading and what it shows.
pub(super) fn section(id: &str, heading: (&str, &str), lead: (&str, &str), body: &str) -> String {
    let lead = match lead.0.is_empty() {
        true => String::new(),
        false => format!("<p class=\"lead\">{}</p>\n", t(lead.0, lead.1)),
    };
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{lead}{body}</section>\n", t(heading.0, heading.1))
}

/// How many are not shown, where some are not.
pub(super) fn left_out(all: usize, shown: usize) -> String {
    if all <= shown {
        return String::new();
    }
    let rest = count((all - shown) as u64);
    let said = say(
        format!("{rest} more are left out here; all stand in the JSON."),
        format!("另有 {rest} 项未在此列出，全部内容见 JSON。"),
    );
    format!("<p class=\"small soft\">{}</p>\n", both(&said))
}

/// A definition list of facts; what is empty is left out.
pub(super) fn facts(rows: &[(Said, String)]) -> String {
    let mut list = String::from("<dl class=\"facts\">");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(list, "<dt>{}</dt><dd>{value}</dd>", both(name));
    }
    list.push_str("</dl>\n");
    list
}

/// A table that a phone shows as a list: heads in both languages, whether a column is a number, and rows of markup.
pub(super) fn table(heads: &[(&str, &str, bool)], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<table class=\"stack\"><thead><tr>");
    let class = |number: bool| if number { " class=\"num\"" } else { "" };
    for (en, zh, number) in heads {
        let _ = write!(out, "<th{}>{}</th>", class(*number), t(en, zh));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (i, (cell, (en, zh, number))) in row.iter().zip(heads).enumerate() {
            let names = match i {
                0 => String::new(),
                _ => format!(" data-en=\"{}\" data-zh=\"{}\"", markup(en), markup(zh)),
            };
            let _ = write!(out, "<td{}{names}>{cell}</td>", class(*number));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
    out
}
