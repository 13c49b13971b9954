//! Numbers and texts as people read them, and as each form of a report needs them written.

use std::fmt::Write;

/// A number in three significant digits, without a tail of zeros; very large and very small ones with a power of ten.
pub fn number(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN".into()
        } else if x > 0.0 {
            "∞".into()
        } else {
            "−∞".into()
        };
    }
    let magnitude = x.abs().log10().floor() as i32;
    if !(-3..6).contains(&magnitude) {
        return format!("{x:.2e}");
    }
    let digits = (2 - magnitude).clamp(0, 6) as usize;
    let text = format!("{x:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

/// A count with a thin gap between thousands.
pub fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number before a unit, with the decimal prefix that keeps it between 1 and 1000.
fn with_prefix(x: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let at = if x.abs() >= 1.0 { ((x.abs().log10() / 3.0).floor() as usize).min(PREFIXES.len() - 1) } else { 0 };
    let scaled = x / 1000f64.powi(at as i32);
    format!("{} {}{unit}", number(scaled), PREFIXES[at])
}

/// Bytes per second.
pub fn bandwidth(x: f64) -> String {
    with_prefix(x, "B/s")
}

/// Operations per second.
pub fn rate(x: f64) -> String {
    with_prefix(x, "FLOP/s")
}

/// Bytes, in binary units.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = if n == 0 { 0 } else { ((63 - n.leading_zeros()) / 10).min(UNITS.len() as u32 - 1) as usize };
    format!("{} {}", number(n as f64 / 1024f64.powi(at as i32)), UNITS[at])
}

/// Seconds, from nanoseconds to hours.
pub fn seconds(s: f64) -> String {
    match s {
        0.0 => "0 s".into(),
        s if !s.is_finite() => number(s),
        s if s < 1e-6 => format!("{} ns", number(s * 1e9)),
        s if s < 1e-3 => format!("{} µs", number(s * 1e6)),
        s if s < 1.0 => format!("{} ms", number(s * 1e3)),
        s if s < 120.0 => format!("{} s", number(s)),
        s if s < 7200.0 => format!("{} min {:02} s", (s / 60.0) as u64, (s % 60.0) as u64),
        s => format!("{} h {:02} min", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
    }
}

/// A share as a percentage.
pub fn percent(x: f64) -> String {
    if x.is_finite() && x.abs() < 10.0 { format!("{:.1} %", x * 100.0) } else { format!("{} %", number(x * 100.0)) }
}

/// A moment in UTC, from seconds since 1970-01-01: `2026-08-01 09:30 UTC`.
pub fn moment(unix: u64) -> String {
    // Days to a date by Howard Hinnant's `civil_from_days`; a year has at most five digits here.
    let (days, seconds) = ((unix / 86_400).min(30_000_000) as i64 + 719_468, unix % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds % 3600 / 60)
}

/// A text cut to at most so many characters, saying how many are left out.
pub fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some((at, _)) => format!("{} … (+{})", &text[..at], text[at..].chars().count()),
    }
}

/// Characters that are no text, or that reorder what stands round them; blanks and line ends are kept.
fn is_unfit(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let control = c.is_control() && !matches!(c, '\n' | '\t');
    control || reorders || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// A text for HTML and XML, between tags or in a quoted attribute. Characters that are no text are shown as U+FFFD.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_unfit(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A text for Markdown, in a line or a table's cell.
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                let _ = write!(out, "\\{c}");
            }
            '\n' | '\t' => out.push(' '),
            c if is_unfit(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A text as code in a line of Markdown, also in a table's cell.
pub fn markdown_code(text: &str) -> String {
    let plain: String =
        text.chars().map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c }).filter(|c| !is_unfit(*c)).collect();
    let longest = plain.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if longest > 0 { " " } else { "" };
    format!("{fence}{pad}{}{pad}{fence}", plain.replace('|', "\\|"))
}

/// A field of CSV (RFC 4180). A text that a spreadsheet would take for a formula stands behind an apostrophe.
pub fn csv(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_unfit(c) { '\u{fffd}' } else { c }).collect();
    let formula = text.starts_with(['=', '+', '-', '@', '\t']) && text.parse::<f64>().is_err();
    let text = if formula { format!("'{text}") } else { text };
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (12.345, "12.3"),
            (999.6, "1000"),
            (123456.0, "123456"),
            (0.00123, "0.00123"),
            (1.5e-7, "1.50e-7"),
            (-2.5, "-2.5"),
            (3.0e9, "3.00e9"),
        ];
        cases.iter().for_each(|(x, want)| assert_eq!(number(*x), *want));
        assert_eq!((number(f64::NAN), number(f64::INFINITY)), ("NaN".into(), "∞".into()));
    }

    #[test]
    fn units_fit_the_size() {
        assert_eq!(count(1234567u64), "1\u{202f}234\u{202f}567");
        assert_eq!((bytes(0), bytes(1023), bytes(1 << 30)), ("0 B".into(), "1023 B".into(), "1 GiB".into()));
        assert_eq!((bandwidth(3.2e10), rate(1.5e12)), ("32 GB/s".into(), "1.5 TFLOP/s".into()));
        let times = [3.2e-9, 4.5e-6, 0.012, 2.5, 125.0, 7260.0].map(seconds);
        assert_eq!(times, ["3.2 ns", "4.5 µs", "12 ms", "2.5 s", "2 min 05 s", "2 h 01 min"]);
        assert_eq!(percent(0.423), "42.3 %");
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(moment(1_785_576_600), "2026-08-01 09:30 UTC");
        assert!(moment(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn text_is_nothing_but_text() {
        assert_eq!(markup("<a b='\"&\u{1}\u{202e}"), "&lt;a b=&#39;&quot;&amp;\u{fffd}\u{fffd}");
        assert_eq!(markdown("a|b_<x>\n"), "a\\|b\\_&lt;x&gt; ");
        assert_eq!(markdown_code("a`b|c"), "`` a`b\\|c ``");
        assert_eq!((csv("=1+1"), csv("-1"), csv("a,\"b\"")), ("'=1+1".into(), "-1".into(), "\"a,\"\"b\"\"\"".into()));
        assert_eq!(clipped("abcdef", 4), "abcd … (+2)");
        assert_eq!(clipped("桥桥", 2), "桥桥");
    }
}
