//! JUnit XML, as continuous integration reads it: a test suite for each family, a test case for each case.

use std::fmt::Write;

use crate::run::Run;
use crate::verdict::{Record, Status};

use super::digest::{family_of, replay_command, why_of};
use super::facts::Report;
use super::levels::Verdict;
use super::show::{clipped, markup};
use super::words;

/// The longest message in an attribute; the whole text stands in the element.
const MESSAGE: usize = 500;

/// The report's records as JUnit XML. Unsupported cases and expected failures are `skipped` with their reason; the faults of the
/// run itself, such as a profile that is not held, are a suite of their own, so that a run that fails is red.
pub fn write(report: &Report) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (records, faults) = report.check.as_ref().map_or((&[][..], &[][..]), |run| (&run.records, &run.faults));
    let failed = records.iter().filter(|r| is_failure(r)).count() + faults.len();
    let skipped = records.iter().filter(|r| r.status != Status::Passed && !is_failure(r)).count();
    let seconds = report.check.as_ref().map_or(report.seconds, |run| run.seconds);
    let name = markup(&format!("qiao {}", report.device.opened_as));
    let tests = records.len() + faults.len().max(1);
    let counts = format!("tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\"");
    let _ = writeln!(xml, "<testsuites name=\"{name}\" {counts} time=\"{seconds:.3}\">");
    the_run(&mut xml, report, faults);
    if let Some(run) = &report.check {
        for family in run.records.chunk_by(|a, b| family_of(&a.id) == family_of(&b.id)) {
            suite(&mut xml, run, family);
        }
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// The run itself: its properties, and a failure for each of its faults.
fn the_run(xml: &mut String, report: &Report, faults: &[String]) {
    let tests = faults.len().max(1);
    let head = format!("tests=\"{tests}\" failures=\"{}\" errors=\"0\" skipped=\"0\" time=\"0.000\"", faults.len());
    let _ = writeln!(xml, "  <testsuite name=\"run\" {head}>\n    <properties>");
    for (name, value) in properties(report) {
        let _ = writeln!(xml, "      <property name=\"{}\" value=\"{}\"/>", markup(&name), markup(&value));
    }
    xml.push_str("    </properties>\n");
    for (index, fault) in faults.iter().enumerate() {
        let _ = writeln!(xml, "    <testcase classname=\"run\" name=\"fault {}\" time=\"0.000\">", index + 1);
        let message = markup(&clipped(fault, MESSAGE));
        let _ = writeln!(xml, "      <failure message=\"{message}\" type=\"fault\">{}</failure>", markup(fault));
        xml.push_str("    </testcase>\n");
    }
    if faults.is_empty() {
        xml.push_str("    <testcase classname=\"run\" name=\"no fault\" time=\"0.000\"/>\n");
    }
    xml.push_str("  </testsuite>\n");
}

fn properties(report: &Report) -> Vec<(String, String)> {
    let (platform, device) = (&report.platform, &report.device);
    let mut list: Vec<(String, String)> = [
        ("verdict", words::headline(&Verdict::of(report)).en),
        ("mode", words::mode(report.mode).en),
        ("device", device.opened_as.clone()),
        ("device.name", device.name.clone()),
        ("device.vendor", device.vendor.clone()),
        ("device.arch", device.arch.clone()),
        ("device.driver", device.driver.clone()),
        ("os", platform.os.clone()),
        ("cpu", platform.cpu.clone()),
        ("cores", platform.cores.to_string()),
        ("qiao", platform.qiao.clone()),
        ("debug_build", platform.debug_build.to_string()),
        ("started", platform.started.to_string()),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into();
    if let Some(run) = &report.check {
        list.push(("profile".into(), run.profile.name().into()));
        list.push(("filter".into(), run.filter.join(" ")));
        list.push(("seed".into(), run.seed.to_string()));
    }
    list.extend(platform.environment.iter().map(|(name, value)| (format!("env.{name}"), value.clone())));
    list
}

/// Whether a record makes its test case red: a failure, or a device that is not present though it is required.
fn is_failure(record: &Record) -> bool {
    record.status == Status::Failed || (record.status == Status::NotPresent && record.failure.is_some())
}

fn suite(xml: &mut String, run: &Run, records: &[Record]) {
    let name = markup(family_of(&records[0].id));
    let failures = records.iter().filter(|r| is_failure(r)).count();
    let skipped = records.iter().filter(|r| r.status != Status::Passed && !is_failure(r)).count();
    let seconds: f64 = records.iter().map(|r| r.millis).sum::<f64>() / 1e3;
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\"", records.len());
    let _ = writeln!(xml, "  <testsuite name=\"{name}\" {counts} time=\"{seconds:.3}\">");
    for record in records {
        let case = markup(record.id.rsplit('/').next().unwrap_or(&record.id));
        let class = name.replace('/', ".");
        let _ = write!(xml, "    <testcase classname=\"{class}\" name=\"{case}\" time=\"{:.3}\"", record.millis / 1e3);
        if record.status == Status::Passed {
            xml.push_str("/>\n");
            continue;
        }
        let why = why_of(record);
        let message = markup(&clipped(&why, MESSAGE));
        match &record.failure {
            Some(failure) if is_failure(record) => {
                let kind = failure.check;
                let text = markup(&format!("{why}\nreplay: {}", replay_command(run, record)));
                let _ = write!(
                    xml,
                    ">\n      <failure message=\"{message}\" type=\"{kind}\">{text}</failure>\n    </testcase>\n"
                );
            }
            _ if is_failure(record) => {
                let _ = write!(xml, ">\n      <failure message=\"{message}\"/>\n    </testcase>\n");
            }
            _ => {
                let text = markup(&format!("{}: {}", record.status, clipped(&why, MESSAGE)));
                let _ = write!(xml, ">\n      <skipped message=\"{text}\"/>\n    </testcase>\n");
            }
        }
    }
    xml.push_str("  </testsuite>\n");
}
