//! What the backend declares, read from its own lists.

use super::c::{Signature, Type};

/// A function that the backend calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) signature: Signature,
}

/// Every `here = there(arguments) -> result;` of a text; an operator's result is not written, and is a code.
pub(crate) fn functions(text: &str) -> Result<Vec<Declared>, String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(" = acl") {
        let rest = &text[at + 3..];
        let (Some(open), Some(end)) = (rest.find('('), rest.find(';')) else { continue };
        let (name, line) = (&rest[..open], rest[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        let Some(close) = line.rfind(')').filter(|_| name.chars().all(|c| c.is_ascii_alphanumeric())) else { continue };
        let result = line[close + 1..].trim().strip_prefix("->").unwrap_or("Code");
        let arguments = line[open + 1..close].split(',').map(str::trim).filter(|a| !a.is_empty());
        let typed = arguments.map(|a| a.split_once(':').ok_or_else(|| format!("{name}: '{a}' has no type")));
        let arguments = typed.map(|t| type_of(t?.1, name)).collect::<Result<_, String>>()?;
        found.push(Declared { name: name.into(), signature: Signature { result: type_of(result, name)?, arguments } });
    }
    Ok(found)
}

/// Every `(number, "NAME")` of a text.
pub(crate) fn numbers(text: &str) -> Vec<(i64, String)> {
    let row = |line: &str| {
        let (number, rest) = line.trim().strip_prefix('(')?.split_once(", \"")?;
        let name = rest.strip_suffix("\"),")?;
        Some((number.replace('_', "").parse().ok()?, name.to_string()))
    };
    text.lines().filter_map(row).collect()
}

/// A type of Rust, with the names that the backend has for some.
fn type_of(text: &str, of: &str) -> Result<Type, String> {
    let (mut rest, mut pointers, mut constant) = (text.trim(), 0, false);
    while let Some(after) = rest.strip_prefix('*') {
        let (word, inner) = after.split_once(' ').ok_or_else(|| format!("{of}: '{text}'"))?;
        // What the last pointer leads to decides.
        (rest, pointers, constant) = (inner.trim(), pointers + 1, word == "const");
    }
    let (base, more, fixed) = match rest {
        "Handle" => ("void", 1, false),
        "Tensor" | "List" | "Scalar" | "Ints" => ("void", 1, true),
        "Code" => ("i32", 0, constant),
        "c_void" => ("void", 0, constant),
        "c_char" => ("char", 0, constant),
        other => (other, 0, constant),
    };
    Ok(Type { base: base.into(), pointers: pointers + more, constant: fixed && pointers + more > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let text = r#"
            Runtime "libascendcl.so":
            alloc = aclrtMalloc(address: *mut Handle, size: usize, policy: i32) -> Code;
            words = aclWords() -> *const c_char;
            add = aclnnAdd(
                a: Tensor, list: *const *const c_void
            );
            (107_002, "ACL_ERROR_X"),
        "#;
        let shown: Vec<String> = functions(text)
            .unwrap()
            .iter()
            .map(|d| {
                let arguments: Vec<String> = d.signature.arguments.iter().map(Type::to_string).collect();
                format!("{} {}({})", d.signature.result, d.name, arguments.join(", "))
            })
            .collect();
        let want = [
            "i32 aclrtMalloc(void**, usize, i32)",
            "const char* aclWords()",
            "i32 aclnnAdd(const void*, const void**)",
        ];
        assert_eq!(shown, want);
        assert_eq!(numbers(text), [(107_002, "ACL_ERROR_X".to_string())]);
    }
}
