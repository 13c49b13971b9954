//! Every form is well formed, complete and bounded, whatever stands in the facts.

use serde_json::Value;

use qiao_conformance::report::{Form, ReadError, Report, json, read, save};
use qiao_conformance::{Profile, Record, Status};

use crate::markup::elements;
use crate::sample;

const ATTACK: &str = "<script>alert(1)</script>\"'&]]>|`\u{1b}[31m\u{202e}\n=1+1,";

/// A report in which every text holds markup, quotes, control characters and line ends.
fn hostile() -> Report {
    fn poison(value: &mut Value, key: &str) {
        // Words of a fixed set stay as they are; all else is anybody's text.
        const FIXED: [&str; 9] = ["schema", "status", "check", "profile", "mode", "path", "tier", "outcome", "qiao"];
        match value {
            Value::String(text) if !FIXED.contains(&key) => text.push_str(ATTACK),
            Value::Array(list) => list.iter_mut().for_each(|v| poison(v, key)),
            Value::Object(map) => map.iter_mut().for_each(|(k, v)| poison(v, k)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(sample::report()).unwrap();
    poison(&mut value, "");
    let mut report: Report = serde_json::from_value(value).unwrap();
    report.platform.qiao.push_str(ATTACK);
    report.suite.qiao.push_str(ATTACK);
    report.notes.push(ATTACK.into());
    report
}

#[test]
fn junit_is_well_formed_and_counts_right() {
    for report in [sample::report(), hostile(), sample::clean(Profile::Smoke)] {
        let xml = Form::Junit.write(&report);
        let all = elements(&xml, false).unwrap();
        let count = |name: &str| all.iter().filter(|e| e.name == name).count();
        let number = |name: &str| all[0].get(name).unwrap().parse::<usize>().unwrap();
        assert_eq!(all[0].name, "testsuites");
        assert_eq!(
            (number("tests"), number("failures"), number("skipped")),
            (count("testcase"), count("failure"), count("skipped"))
        );
        let run = report.check.as_ref().unwrap();
        let skipped = run.counts.unsupported + run.counts.expected_failures;
        assert_eq!(count("failure"), run.counts.failed + run.faults.len());
        assert_eq!(count("skipped"), skipped);
        let suites: usize = all
            .iter()
            .filter(|e| e.name == "testsuite")
            .map(|e| e.get("tests").unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(suites, number("tests"));
        assert!(count("property") > 10);
    }
    let xml = Form::Junit.write(&sample::report());
    assert!(xml.contains("type=\"limit\"") && xml.contains("--replay qiao-report/replays/op_rope"), "{xml}");
}

#[test]
fn a_passed_case_never_shows_an_error_past_its_limit_and_commands_name_the_device() {
    let mut report = sample::report();
    for record in &mut report.check.as_mut().unwrap().records {
        // A larger error stands where a larger one is allowed.
        record.measured.iter_mut().for_each(|m| (m.max_abs, m.max_ulp) = (77.0, 1e12));
    }
    let page = Form::Html.write(&report);
    let (_, margins) = page.split_once("id=\"margins\"").unwrap();
    let (margins, _) = margins.split_once("</section>").unwrap();
    assert!(!margins.contains(">77<") && margins.contains("0.00378") && margins.contains("1.00e12"), "{margins}");
    assert!(Form::Markdown.write(&report).contains("| 89.9 % | 0.00378 | 0.0042 |"));
    assert!(page.contains("qiao check --plugin=./libacme.so --device acme:0 --profile full"));
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    for report in [sample::report(), hostile(), sample::clean(Profile::Smoke)] {
        let page = Form::Html.write(&report);
        let all = elements(&page, true).unwrap();
        assert_eq!(all.iter().filter(|e| e.name == "script").count(), 1, "the page's own script alone");
        for element in &all {
            assert!(
                !["link", "img", "iframe", "object", "embed", "base", "form", "use"].contains(&element.name.as_str())
            );
            for (name, value) in &element.attributes {
                assert!(!name.starts_with("on") && name != "src" && name != "srcset", "{element:?}");
                assert!(name != "href" || value.starts_with('#'), "{element:?}");
            }
        }
        for loads in ["http://", "https://", "url(", "@import", "//cdn", "<script>alert", "\u{202e}", "\u{1b}"] {
            assert!(!page.contains(loads), "{loads}");
        }
        assert!(page.contains("default-src 'none'"));
        let ids: Vec<&str> = all.iter().filter_map(|e| e.get("id")).collect();
        let targets = all.iter().filter_map(|e| e.get("href")).map(|h| &h[1..]);
        targets.for_each(|target| assert!(ids.contains(&target), "{target}"));
    }
}

#[test]
fn the_page_says_everything_in_both_languages() {
    let page = Form::Html.write(&sample::report());
    let sections = [
        "verdict",
        "matrix",
        "failures",
        "expected",
        "unsupported",
        "margins",
        "speed",
        "model",
        "platform",
        "steps",
        "method",
    ];
    sections.iter().for_each(|id| assert!(page.contains(&format!("id=\"{id}\"")), "{id}"));
    let count = |needle: &str| page.matches(needle).count();
    assert_eq!(count("class=\"en\""), count("class=\"zh\""));
    assert!(count("class=\"en\"") > 200);
    for words in
        ["Support matrix", "支持矩阵", "Roofline", "屋顶线", "Expected failures", "预期失败", "疑是地上霜", "ACME-4711"]
    {
        assert!(page.contains(words), "{words}");
    }
    for (en, zh) in sample_pairs(&page) {
        assert!(!zh.is_ascii(), "'{en}' has no Chinese: '{zh}'");
    }
}

/// What stands in English with its neighbour in Chinese.
fn sample_pairs(page: &str) -> Vec<(&str, &str)> {
    let pairs = page.split("<span class=\"en\">").skip(1).filter_map(|after| {
        let (en, rest) = after.split_once("</span>")?;
        let zh = rest.strip_prefix("<span class=\"zh\" lang=\"zh-Hans\">")?.split_once("</span>")?.0;
        Some((en, zh))
    });
    pairs.collect()
}

#[test]
fn markdown_and_csv_hold_their_rows_together() {
    for report in [sample::report(), hostile()] {
        for form in [Form::Markdown, Form::MarkdownChinese] {
            let text = form.write(&report);
            assert!(!text.contains("<script>alert(1)</script>\"'&]]>|`\n"));
            for table in text.split("\n\n").filter(|t| t.starts_with('|')) {
                let bars = |line: &str| line.replace("\\|", "").matches('|').count();
                let wanted = bars(table.lines().next().unwrap());
                table.lines().for_each(|line| assert_eq!(bars(line), wanted, "{line}"));
            }
        }
        let csv = Form::Csv.write(&report);
        let rows = records(&csv);
        assert!(rows.len() > 50);
        rows.iter().for_each(|row| assert_eq!(row.len(), rows[0].len(), "{row:?}"));
    }
    let text = Form::Markdown.write(&sample::report());
    assert!(!text.contains("<script"));
    let csv = Form::Csv.write(&sample::report());
    assert!(csv.contains("\nmatmul_quant,q5_0,llm-serving,unsupported,"), "{csv}");
    assert!(csv.contains("\nadd_rms_norm,f16,llm-core,decomposed,"), "{csv}");
}

#[test]
fn hostile_text_is_text_in_markdown() {
    let text = Form::Markdown.write(&hostile());
    // In code a tag is text already; everywhere else it is escaped.
    let outside: String = text.split('`').step_by(2).collect();
    assert!(!outside.contains("<script") || text.contains("``"), "a tag stands outside code");
}

/// The fields of CSV (RFC 4180).
fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.push(chars.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            c => field.push(c),
        }
    }
    rows
}

#[test]
fn thousands_of_records_make_no_huge_page() {
    let mut report = sample::clean(Profile::Full);
    let run = report.check.as_mut().unwrap();
    for i in 0..30_000 {
        let mut record: Record = sample::passed(&format!("op/matmul/bf16/rows={i},cols=1"));
        if i % 3 == 0 {
            record.status = Status::Failed;
            record.failure =
                Some(qiao_conformance::Failure::new(qiao_conformance::Check::Limit, "far off ".repeat(4000)));
        }
        run.records.push(record);
    }
    let page = Form::Html.write(&report);
    assert!(page.len() < 2_000_000, "{}", page.len());
    assert!(page.contains("9\u{202f}800 more are left out here"));
    assert!(Form::Markdown.write(&report).len() < 500_000);
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = sample::report();
    let files = save(&report, dir.path()).unwrap();
    assert_eq!(files.len(), Form::ALL.len());
    let back = read(&dir.path().join(Form::Json.file())).unwrap();
    let records =
        |r: &Report| r.check.as_ref().unwrap().records.iter().map(|r| (r.id.clone(), r.status)).collect::<Vec<_>>();
    assert_eq!(records(&back), records(&report));
    assert_eq!((&back.suite, &back.steps, &back.account), (&report.suite, &report.steps, &report.account));
    // The last digit of a number may differ; nothing that is shown does.
    for form in Form::ALL.into_iter().filter(|f| *f != Form::Json) {
        assert_eq!(form.write(&back), form.write(&report), "{form:?}");
    }
}

#[test]
fn a_conformance_run_alone_is_a_report() {
    let run = sample::report().check.unwrap();
    let text = serde_json::to_string(&run).unwrap();
    let report = json::parse("run.json", &text).unwrap();
    assert_eq!(report.check.as_ref().unwrap().records.len(), run.records.len());
    assert!(Form::Html.write(&report).contains("No model was run."));
}

#[test]
fn what_is_no_report_is_refused_with_what_is_wrong() {
    let whole = json::write(&sample::report());
    let cut = json::parse("a.json", &whole[..whole.len() / 2 - 1]).unwrap_err();
    assert!(matches!(cut, ReadError::Truncated { .. }) && cut.to_string().contains("cut off"), "{cut}");
    for (text, says) in [
        ("[]", "schema none"),
        ("{\"schema\":\"qiao.replay/1\"}", "'qiao.replay/1'"),
        ("hello", "can't be read"),
        ("{\"schema\":\"qiao.report/1\"}", "missing field"),
        ("{\"schema\":\"qiao.check/1\",\"platform\":{\"qiao\":\"9.9\"}}", "9.9"),
    ] {
        let error = json::parse("a.json", text).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("a.json"), "{text}: {error}");
    }
    let missing = read(std::path::Path::new("there-is-no-such-file.json")).unwrap_err();
    assert!(matches!(missing, ReadError::Unreadable { .. }));
}

#[test]
fn a_verdict_that_was_written_by_hand_is_refused() {
    let mut value: Value = serde_json::from_str(&json::write(&sample::report())).unwrap();
    value["verdict"]["reached"] = "full".into();
    let error = json::parse("a.json", &value.to_string()).unwrap_err();
    assert!(matches!(error, ReadError::Altered { .. }), "{error}");
    assert!(error.to_string().contains("'full'"), "{error}");
}

#[test]
fn no_time_of_a_debug_build_is_shown_as_a_speed() {
    let mut report = sample::report();
    assert!(Form::Html.write(&report).contains("<dt><span class=\"en\">decode, median"));
    report.platform.debug_build = true;
    report.bench.as_mut().unwrap().platform.debug_build = true;
    let page = Form::Html.write(&report);
    assert!(!page.contains("<dt><span class=\"en\">decode, median"));
    assert!(page.contains("no time in this report is a speed") && page.contains("none of these times is a speed"));
}
