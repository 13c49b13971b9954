//! The parts of the header that come from `core`: the dtype table and the op list as C.

use qiao_core::{DType, DTypeKind, OpKind, WORD_ENUMS};

use crate::dtypes;

/// The header, as it is installed.
pub const TEXT: &str = include_str!("../include/qiao_plugin.h");

/// The widest line of the header.
const WIDTH: usize = 128;

/// The enumerators of all dtypes.
pub fn dtype_list() -> String {
    let mut text = String::from("enum {\n");
    for (i, &dtype) in DType::ALL.iter().enumerate() {
        let number = dtypes::to_c(dtype).expect("every dtype has a number");
        let (code, bits) = (number & 0xff, number >> 8 & 0xff);
        let name = dtype.name().to_uppercase();
        let comma = if i + 1 == DType::ALL.len() { "" } else { "," };
        let (value, note) = match dtype.kind() {
            DTypeKind::Block => (
                format!("QIAO_DTYPE(QIAO_DTYPE_BLOCK, {bits})"),
                format!("  /* {}/{} */", dtype.block_elems(), dtype.block_bytes()),
            ),
            _ => (format!("QIAO_DTYPE({code}, {bits})"), String::new()),
        };
        text.push_str(&format!("  QIAO_{name} = {value}{comma}{note}\n"));
    }
    text.push_str("};\n");
    text
}

/// The enumerators of all operators and of their attributes' values, and the attribute structs.
pub fn op_list() -> String {
    let mut text = String::from("enum {\n");
    for &kind in OpKind::ALL {
        let names = |operands: &[qiao_core::op::Operand]| {
            let mark = |o: &qiao_core::op::Operand| match (o.optional, o.variadic) {
                (true, _) => format!("{}?", o.name),
                (_, true) => format!("{}*", o.name),
                _ => o.name.to_string(),
            };
            operands.iter().map(mark).collect::<Vec<_>>().join(", ")
        };
        let (attrs, fields) = kind.attr_fields();
        let attrs = if fields.is_empty() { String::new() } else { format!("  Attributes: {}.", attr_struct(attrs)) };
        let signature = format!("{}({}) -> {}", kind.name(), names(kind.inputs()), names(kind.outputs()));
        let meaning = kind.meaning().replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
        text.push_str(&comment("  ", &format!("{signature}.  {meaning}{attrs}")));
        text.push_str(&format!("  QIAO_OP_{} = {},\n", kind.name().to_uppercase(), kind as u32));
    }
    text.push_str("  QIAO_OP_VENDOR_BASE = 0x10000 /* a vendor's own; the host never asks for one */\n};\n");
    for list in WORD_ENUMS {
        let prefix = snake(list.name).to_uppercase();
        let value = |(name, value): &(&str, u32)| format!("QIAO_{prefix}_{} = {value}", name.to_uppercase());
        let values: Vec<_> = list.values.iter().map(value).collect();
        text.push_str(&format!("enum {{\n  {}\n}};\n", values.join(",\n  ")));
    }
    let mut seen = Vec::new();
    for (name, fields) in OpKind::ALL.iter().map(|k| k.attr_fields()) {
        if fields.is_empty() || seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let name = attr_struct(name);
        text.push_str(&format!("typedef struct {name} {{\n  uint32_t struct_size;\n"));
        for [field, ty, doc] in fields {
            text.push_str(&comment("  ", &doc.replace('`', "")));
            text.push_str(&format!("  {ty} {field};\n"));
        }
        text.push_str(&format!("}} {name};\n"));
    }
    text
}

/// The header with the generated parts put in.
///
/// # Panics
/// A marker is missing.
pub fn renewed(header: &str) -> String {
    [("dtype list", dtype_list()), ("op list", op_list())].into_iter().fold(
        header.into(),
        |text: String, (what, part)| {
            let begin = text.find(&format!("/* BEGIN {what}")).expect("the header has the marker");
            let begin = begin + text[begin..].find('\n').expect("a marker ends its line") + 1;
            let end = text.find(&format!("/* END {what}")).expect("the header has the marker");
            format!("{}{part}{}", &text[..begin], &text[end..])
        },
    )
}

/// The C name of an attribute struct: `MatmulAttrs` is `qiao_attr_matmul`.
pub fn attr_struct(name: &str) -> String {
    format!("qiao_attr_{}", snake(name.strip_suffix("Attrs").unwrap_or(name)))
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A comment, wrapped.
fn comment(indent: &str, words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() && indent.len() + 6 + line.chars().count() + word.chars().count() + 1 > WIDTH {
            lines.push(word.into());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    format!("{indent}/* {} */\n", lines.join(&format!("\n{indent} * ")))
}
