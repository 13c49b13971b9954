//! The C++ that the build writes itself.

use std::fmt::Write;

use qiao_kernels_cuda::Unit;

/// A unit's text in a namespace of its own, and an entry for each of its rows.
pub(crate) fn unit(unit: &Unit) -> String {
    let (name, space) = (unit.name, format!("unit_{}", unit.name));
    let mut out = format!("#include \"simt.h\"\nnamespace {space} {{\n#include \"{name}.cu\"\n}}\n");
    let _ = write!(out, "#include \"registry.h\"\nstatic simt::Register kept(\"{name}\", {{\n");
    for k in unit.kernels {
        let _ = writeln!(out, "    SIMT_ENTRY({space}, {}, {}, \"{}\"),", k.symbol, k.threads, k.params);
    }
    out.push_str("});\n");
    out
}

/// What the run-time compiler knows of the texts.
pub(crate) fn texts(units: &[&Unit]) -> String {
    let mut out = String::from("#include \"nvrtc.h\"\nconst std::vector<nvrtc::Text>& nvrtc::texts() {\n");
    out.push_str("    static const std::vector<Text> all = {\n");
    for unit in units {
        let symbols: Vec<String> = unit.kernels.iter().map(|k| format!("\"{}\"", k.symbol)).collect();
        let _ = writeln!(out, "        {{\"{}\", {:#x}u, {{{}}}}},", unit.name, sum(unit.text), symbols.join(", "));
    }
    out.push_str("    };\n    return all;\n}\n");
    out
}

/// FNV-1a, as `image.h` has it.
fn sum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
