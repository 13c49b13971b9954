//! What libtest prints, counted.

/// What a run of `cargo test` printed, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Names of tests that were not run, with their reason where they give one.
    pub(crate) ignored: Vec<String>,
}

impl Tally {
    /// Reads one line of libtest's output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let number = counts.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
                number.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            self.passed += count(" passed");
            self.failed += count(" failed");
        } else if let Some((name, how)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ignored")) {
            self.ignored.push(format!("{name}{}", how.replacen(", ", ": ", 1)));
        }
    }

    /// Adds what another run counted.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored.extend(other.ignored.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_every_binary_are_added() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::long ... ignored, takes an hour",
            "test a::off ... ignored",
            "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.line(line);
        }
        let ignored = vec!["a::long: takes an hour".to_string(), "a::off".to_string()];
        assert_eq!(tally, Tally { passed: 15, failed: 2, ignored });
    }
}
