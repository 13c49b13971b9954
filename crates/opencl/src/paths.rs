//! Ways through kernels that only some devices can take.

use opencl3::device::CL_DEVICE_HALF_FP_CONFIG;
use qiao_core::{Error, Result};

use crate::sys::Found;

/// The variable that names the paths to take, separated by commas: `plain` for none. Without it all that suit the device are
/// taken; one that is named needs its extension alone.
const FORCED: &str = "QIAO_OPENCL_PATHS";

/// `CL_FP_DENORM` and `CL_FP_ROUND_TO_NEAREST`.
const ROUNDS_AS_IEEE: u64 = 1 | 1 << 2;

/// A path: its name, the extensions of which a device must list one, what its arithmetic in halves must keep to, and the
/// definition that kernels see.
struct Path {
    name: &'static str,
    extensions: &'static [&'static str],
    halves: u64,
    define: &'static str,
}

const ALL: [Path; 3] = [
    Path {
        name: "subgroups",
        extensions: &["cl_khr_subgroups", "cl_intel_subgroups"],
        halves: 0,
        define: "HAS_SUBGROUPS",
    },
    Path { name: "fp16", extensions: &["cl_khr_fp16"], halves: ROUNDS_AS_IEEE, define: "HAS_FP16" },
    Path { name: "dot", extensions: &["cl_khr_integer_dot_product"], halves: 0, define: "HAS_DOT" },
];

impl Path {
    /// Whether a device that offers these extensions can take it.
    fn is_listed(&self, offers: impl Fn(&str) -> bool) -> bool {
        self.extensions.iter().any(|e| offers(e))
    }

    /// Whether a device that can, with such arithmetic in halves, does so unasked.
    fn suits(&self, halves: u64) -> bool {
        halves & self.halves == self.halves
    }
}

/// The paths that kernels of a device take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    taken: [bool; ALL.len()],
}

impl Paths {
    /// Those that suit a device, or that [`FORCED`] names.
    ///
    /// # Errors
    /// A name that is none, or a path that the device lacks.
    pub(crate) fn of(found: &Found, device: &str) -> Result<Paths> {
        let has = ALL.each_ref().map(|path| path.is_listed(|e| found.offers(e)));
        match std::env::var(FORCED) {
            Ok(names) if !names.trim().is_empty() => Paths::named(&names, has, device),
            _ => {
                let halves = found.number(CL_DEVICE_HALF_FP_CONFIG);
                let suit = |at: usize| has[at] && ALL[at].suits(halves);
                Ok(Paths { taken: std::array::from_fn(suit) })
            }
        }
    }

    fn named(names: &str, has: [bool; ALL.len()], device: &str) -> Result<Paths> {
        let mut paths = Paths::default();
        for name in names.split(',').map(str::trim).filter(|n| *n != "plain") {
            let refused = |found: String, mend: String| Error::invalid(format!("{FORCED}={names}"), found, mend);
            let known = || format!("name some of plain, {}", ALL.map(|p| p.name).join(", "));
            let Some(at) = ALL.iter().position(|p| p.name == name) else {
                return Err(refused(format!("there is no path '{name}'"), known()));
            };
            if !has[at] {
                let found = format!("{device} does not list {}", ALL[at].extensions.join(" or "));
                return Err(refused(found, format!("leave '{name}' out, or take another device")));
            }
            paths.taken[at] = true;
        }
        Ok(paths)
    }

    /// What kernels see of them.
    pub(crate) fn defines(self) -> String {
        let taken = ALL.iter().zip(self.taken).filter(|(_, taken)| *taken);
        taken.map(|(path, _)| format!(" -D{}=1", path.define)).collect()
    }

    /// Their names, `plain` where there are none.
    pub(crate) fn names(self) -> String {
        let taken: Vec<&str> = ALL.iter().zip(self.taken).filter(|(_, t)| *t).map(|(p, _)| p.name).collect();
        if taken.is_empty() { "plain".into() } else { taken.join("+") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_by_name() {
        let all = Paths::named("subgroups, dot", [true; 3], "it").unwrap();
        assert_eq!((all.names().as_str(), all.defines().as_str()), ("subgroups+dot", " -DHAS_SUBGROUPS=1 -DHAS_DOT=1"));
        assert_eq!(Paths::named("plain", [true; 3], "it").unwrap().names(), "plain");
    }

    #[test]
    fn halves_are_taken_where_they_are_as_ieee_has_them() {
        for (halves, is_taken) in [(0b101, true), (0b111, true), (0b100, false), (0b1, false), (0, false)] {
            assert_eq!(ALL.each_ref().map(|path| path.suits(halves)), [true, is_taken, true], "{halves:b}");
        }
        assert_eq!(ALL.each_ref().map(|path| path.is_listed(|e| e == "cl_khr_fp16")), [false, true, false]);
    }

    #[test]
    fn what_the_device_lacks_and_what_nobody_has_are_refused_by_name() {
        let lacking = Paths::named("fp16", [true, false, true], "it").unwrap_err().to_string();
        assert!(lacking.contains("it does not list cl_khr_fp16"), "{lacking}");
        let unknown = Paths::named("fast", [true; 3], "it").unwrap_err().to_string();
        assert!(unknown.contains("'fast'") && unknown.contains("subgroups"), "{unknown}");
    }
}
