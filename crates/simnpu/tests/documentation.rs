//! What the pages say is what there is.

use qiao_simnpu::{OPTIONS, presets};

const CRATE: &str = include_str!("../src/lib.rs");
const PAGE: &str = include_str!("../../../docs/simulated-npu.md");

#[test]
fn both_tables_of_options_hold_every_option_and_no_other() {
    let rows: Vec<String> = OPTIONS.iter().map(|o| format!("| `{}` | {} | {} |", o.key, o.values, o.meaning)).collect();
    for (name, text, prefix) in [("the crate's documentation", CRATE, "//! "), ("docs/simulated-npu.md", PAGE, "")] {
        let lines = text.lines().filter_map(|l| l.strip_prefix(prefix));
        let found: Vec<&str> = lines.filter(|l| l.starts_with("| `sim.") && l.matches('|').count() == 4).collect();
        assert_eq!(found, rows, "{name}");
    }
}

#[test]
fn the_page_names_every_preset_and_every_source() {
    for preset in presets::all() {
        assert!(PAGE.contains(&format!("### `{}`", preset.name)), "{}", preset.name);
        assert!(PAGE.contains(preset.mimics), "{}", preset.mimics);
        for (key, source) in preset.sources {
            assert!(PAGE.contains(&format!("- `{key}`: {source}")), "{}: {key}: {source}", preset.name);
        }
    }
}
