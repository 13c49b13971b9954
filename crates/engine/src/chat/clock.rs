//! `strftime_now`: the date in a prompt. UTC, where the reference takes local time: a server's prompt should not depend on its zone.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The first second of year 1 and the last of year 9999; moments outside are shown as these.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// A moment as calendar and clock show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    /// 1 to 12.
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 is the first of January.
    day_of_year: i64,
}

/// Formats seconds since 1970 (UTC) by the directives of C's `strftime`. An unknown directive stays as it is.
pub(super) fn format(seconds: i64, pattern: &str) -> String {
    let civil = Civil::from_seconds(seconds);
    let mut out = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let Some(mut directive) = characters.next() else {
            out.push('%');
            break;
        };
        let padded = directive != '-';
        if !padded {
            let Some(next) = characters.next() else {
                out.push_str("%-");
                break;
            };
            directive = next;
        }
        civil.write(directive, padded, seconds, &mut out);
    }
    out
}

impl Civil {
    fn from_seconds(seconds: i64) -> Civil {
        let seconds = seconds.clamp(FIRST, LAST);
        let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let mut year = 1970 + days.div_euclid(366).min(days.div_euclid(365));
        while days >= days_before(year + 1) {
            year += 1;
        }
        let mut rest = days - days_before(year);
        let day_of_year = rest + 1;
        let mut month = 1;
        while rest >= days_in(month, year) {
            rest -= days_in(month, year);
            month += 1;
        }
        Civil {
            year,
            month,
            day: rest + 1,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year,
        }
    }

    fn write(&self, directive: char, padded: bool, seconds: i64, out: &mut String) {
        let number = |out: &mut String, value: i64, width: usize| {
            // Writing to a string cannot fail.
            let _ = if padded { write!(out, "{value:0width$}") } else { write!(out, "{value}") };
        };
        let (month, weekday) = (MONTHS[self.month - 1], DAYS[self.weekday]);
        match directive {
            'Y' => number(out, self.year, 4),
            'y' => number(out, self.year.rem_euclid(100), 2),
            'm' => number(out, self.month as i64, 2),
            'd' => number(out, self.day, 2),
            'e' => out.push_str(&format!("{:>2}", self.day)),
            'j' => number(out, self.day_of_year, 3),
            'H' => number(out, self.hour, 2),
            'I' => number(out, (self.hour + 11) % 12 + 1, 2),
            'M' => number(out, self.minute, 2),
            'S' => number(out, self.second, 2),
            'p' => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
            'B' => out.push_str(month),
            'b' | 'h' => out.push_str(&month[..3]),
            'A' => out.push_str(weekday),
            'a' => out.push_str(&weekday[..3]),
            'w' => number(out, self.weekday as i64, 1),
            'Z' => out.push_str("UTC"),
            'z' => out.push_str("+0000"),
            's' => number(out, seconds, 1),
            'F' => out.push_str(&format(seconds, "%Y-%m-%d")),
            'D' | 'x' => out.push_str(&format(seconds, "%m/%d/%y")),
            'T' | 'X' => out.push_str(&format(seconds, "%H:%M:%S")),
            'R' => out.push_str(&format(seconds, "%H:%M")),
            'c' => out.push_str(&format(seconds, "%a %b %e %H:%M:%S %Y")),
            '%' => out.push('%'),
            other => {
                out.push('%');
                out.push(other);
            }
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from the first of January 1970 to that of a year.
fn days_before(year: i64) -> i64 {
    let last = year - 1;
    (year - 1970) * 365 + (last.div_euclid(4) - 492) - (last.div_euclid(100) - 19) + (last.div_euclid(400) - 4)
}

fn days_in(month: usize, year: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_shown_right() {
        let all = "%Y-%m-%d %H:%M:%S %A %j";
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (1_709_164_799, "2024-02-28 23:59:59 Wednesday 059"),
            (1_735_689_599, "2024-12-31 23:59:59 Tuesday 366"),
            (1_785_542_400, "2026-08-01 00:00:00 Saturday 213"),
            (4_107_542_400, "2100-03-01 00:00:00 Monday 060"),
            (i64::MIN, "0001-01-01 00:00:00 Monday 001"),
            (i64::MAX, "9999-12-31 23:59:59 Friday 365"),
            (-1, "1969-12-31 23:59:59 Wednesday 365"),
        ] {
            assert_eq!(format(seconds, all), shown, "{seconds}");
        }
    }

    #[test]
    fn directives_of_templates_are_known() {
        let moment = 1_709_164_799;
        assert_eq!(format(moment, "%d %b %Y"), "28 Feb 2024");
        assert_eq!(format(moment, "%B %-d, %y %I:%M %p %%"), "February 28, 24 11:59 PM %");
        assert_eq!(format(0, "%F %T %Z%z %e"), "1970-01-01 00:00:00 UTC+0000  1");
        assert_eq!(format(0, "%Q 中 %"), "%Q 中 %");
        assert_eq!(format(0, "%-"), "%-");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = Civil::from_seconds(-86_400 * 365 * 80);
        for day in -365 * 80 + 1..365 * 200 {
            let now = Civil::from_seconds(86_400 * day);
            let next_in_month = now.day == before.day + 1 && now.month == before.month;
            let first = now.day == 1 && before.day == days_in(before.month, before.year);
            assert!(next_in_month || first, "{before:?} {now:?}");
            assert_eq!(now.weekday, (before.weekday + 1) % 7);
            before = now;
        }
    }
}
