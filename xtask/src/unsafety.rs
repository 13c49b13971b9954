//! `unsafe` stays in kernels, backends and the plugin: every other crate root forbids it.

use std::fs;

use crate::lengths::walk;
use crate::workspace::Member;

/// What a crate root must say of unsafe code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Law {
    /// Nothing: unsafe code is what the crate is for.
    Free,
    /// `deny`, lifted in this many files, each of which says why.
    Deny(usize),
    /// `forbid`.
    Forbid,
}

fn law(name: &str) -> Law {
    match name {
        "qiao-cpu" | "qiao-cuda" | "qiao-opencl" | "qiao-plugin" | "qiao-ascend" => Law::Free,
        // A driver of another's names is C from end to end.
        "qiao-simascend" => Law::Free,
        // Loading the simulated driver is unsafe.
        "qiao-simcuda" => Law::Deny(1),
        // A trap reads and writes what the instruction that raised it does.
        "qiao-simamx" => Law::Deny(1),
        // Mapping a file is unsafe.
        "qiao-engine" => Law::Deny(1),
        // The exporter writes the plugin's entry point.
        "qiao-simnpu" => Law::Deny(1),
        name if name.starts_with("qiao-kernels-") => Law::Free,
        _ => Law::Forbid,
    }
}

/// Every crate root that does not say what it must.
pub(crate) fn check(members: &[Member]) -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    for member in members {
        let law = law(&member.name);
        let attribute = match law {
            Law::Free => continue,
            Law::Deny(_) => "#![deny(unsafe_code)]",
            Law::Forbid => "#![forbid(unsafe_code)]",
        };
        let roots = member.targets.iter().filter(|t| matches!(t.kind.as_str(), "lib" | "bin" | "example"));
        for root in roots {
            let text = fs::read_to_string(&root.path).map_err(|e| format!("{}: {e}", root.path.display()))?;
            if !says(&text, attribute) {
                faults.push(format!("{} lacks {attribute}", root.path.display()));
            }
        }
        if let Law::Deny(most) = law {
            faults.extend(lifted(member, most)?);
        }
    }
    Ok(faults)
}

/// Whether a line of the text is this attribute.
fn says(text: &str, attribute: &str) -> bool {
    text.lines().any(|line| line.trim() == attribute)
}

/// The files of a crate that allow unsafe code, if there are more than may.
fn lifted(member: &Member, most: usize) -> Result<Option<String>, String> {
    let mut files = Vec::new();
    walk(&member.folder.join("src"), &mut |file| {
        let text = fs::read_to_string(file)?;
        if text.lines().any(|l| l.trim_start().starts_with('#') && l.contains("allow(unsafe_code")) {
            files.push(file.display().to_string());
        }
        Ok(())
    })
    .map_err(|e| format!("{}: {e}", member.folder.display()))?;
    Ok((files.len() > most).then(|| {
        format!("{} allows unsafe code in {} files, {most} may: {}", member.name, files.len(), files.join(", "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn unsafe_code_is_forbidden_where_it_does_not_belong() {
        let faults = check(&workspace::members().unwrap()).unwrap();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn only_kernels_backends_and_the_plugin_are_free() {
        assert_eq!(law("qiao-kernels-cuda"), Law::Free);
        assert_eq!(law("qiao-plugin"), Law::Free);
        assert_eq!(law("qiao-engine"), Law::Deny(1));
        assert_eq!(law("qiao-core"), Law::Forbid);
        assert_eq!(law("anything-new"), Law::Forbid);
    }

    #[test]
    fn a_mention_is_not_the_attribute() {
        assert!(says("//! Words.\n#![forbid(unsafe_code)]\n", "#![forbid(unsafe_code)]"));
        assert!(!says("// #![forbid(unsafe_code)]\n#![deny(unsafe_code)]\n", "#![forbid(unsafe_code)]"));
    }
}
