//! The support matrix as CSV: one row for each operator family and dtype.

use super::digest::matrix;
use super::facts::Report;
use super::show::csv;

const HEADER: &str = "operator,dtype,tier,support,suite_cases,walked,native,decomposed,other_passed,failed,expected_failure,\
                      unsupported,largest_margin,reason,device,device_name,arch,driver,qiao\n";

/// The support matrix.
pub fn write(report: &Report) -> String {
    let mut text = String::from(HEADER);
    let device = &report.device;
    let facts = [&device.opened_as, &device.name, &device.arch, &device.driver, &report.platform.qiao].map(|s| csv(s));
    for row in matrix(report) {
        for (dtype, cell) in &row.cells {
            let counts = [
                cell.cases,
                cell.walked(),
                cell.native,
                cell.decomposed,
                cell.other,
                cell.failed,
                cell.expected,
                cell.unsupported,
            ];
            let mut fields = vec![csv(&row.name), csv(dtype), csv(&row.tier), cell.mark().name().to_string()];
            fields.extend(counts.map(|n| n.to_string()));
            fields.push(cell.margin.map_or(String::new(), |m| format!("{m:.4}")));
            let reasons: Vec<_> = cell.reasons.iter().map(|(why, n)| format!("{n} × {why}")).collect();
            fields.push(csv(&reasons.join("; ")));
            fields.extend(facts.iter().cloned());
            text.push_str(&fields.join(","));
            text.push('\n');
        }
    }
    text
}
