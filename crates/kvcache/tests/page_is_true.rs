//! docs/kv-cache.md: its figures follow from its formulas, and the tests that it names are there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/kv-cache.md")).unwrap()
}

/// Cells of the rows of the table whose head begins with this cell.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {head} |"))).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn words(bytes: u64) -> String {
    let (unit, of) = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, of)| bytes >> of > 0).unwrap();
    format!("{} {unit}", bytes as f64 / (1u64 << of) as f64)
}

#[test]
fn sizes_follow_from_the_formulas() {
    let rows = table(&page(), "model");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let [layers, heads, dim] = [1, 2, 3].map(|i| row[i].parse::<u64>().unwrap());
        let token = layers * heads * 2 * dim * 2;
        let codes = layers * heads * (2 * dim + 2 * 4);
        let want = [token.to_string(), words(16 * token), words(4096 * token), words(32768 * token), codes.to_string()];
        assert_eq!(row[4..], want, "{}", row[0]);
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let page = page();
    let rows = page.lines().skip_while(|line| !line.contains("| held by |")).skip(2);
    let mut named = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let mut file = String::new();
        for word in row.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                file = std::fs::read_to_string(root().join(word)).unwrap_or_else(|e| panic!("{word}: {e}"));
            } else if word.contains('_') {
                assert!(file.contains(&format!("fn {word}(")), "{word} is not in the file before it: {row}");
                named += 1;
            }
        }
    }
    assert!(named >= 12, "{named} tests are named");
}
