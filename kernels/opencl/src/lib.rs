//! The text of the OpenCL kernels, and a row for every symbol in it.
//!
//! A program holds one kernel: pieces of text, one behind the other, and the definitions that make one symbol of them. The text
//! includes nothing, needs OpenCL C 1.2 and no extension, and is the same for every device: what a device has beyond that it
//! sees as definitions.
#![forbid(unsafe_code)]

mod size;

mod kernel;

mod units;

pub use kernel::{Group, Kernel};
pub use size::Size;
pub use units::UNITS;

/// The kernel of this name.
pub fn find(symbol: &str) -> Option<&'static Kernel> {
    UNITS.iter().flat_map(|unit| unit.iter()).find(|k| k.symbol == symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_stands_once_and_its_parameters_have_letters() {
        let all: Vec<&Kernel> = UNITS.iter().flat_map(|unit| unit.iter()).collect();
        for (i, kernel) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|k| k.symbol != kernel.symbol), "{} stands twice", kernel.symbol);
            let own = kernel.params.strip_suffix('m').unwrap_or(kernel.params);
            assert!(own.chars().all(|c| "puilfs".contains(c)), "{}: {}", kernel.symbol, kernel.params);
            let bodies = kernel.texts.iter().map(|text| text.matches("KERNEL(").count()).sum::<usize>();
            assert!(bodies > 0, "{} has no kernel", kernel.symbol);
        }
    }

    #[test]
    fn a_kernel_reads_the_sizes_of_its_row() {
        for kernel in UNITS.iter().flat_map(|unit| unit.iter()) {
            let text = kernel.source();
            let reads =
                |define: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == define);
            for size in kernel.sizes {
                let define = size.define();
                assert!(reads(define), "{} does not read {}", kernel.symbol, size.name());
                assert!(!text.contains(&format!("#define {define} ")), "{} defines {define}", kernel.symbol);
                assert!(!kernel.options.contains(&format!("-D{define}=")), "{} is given {define} twice", kernel.symbol);
            }
        }
    }

    #[test]
    fn sizes_have_names_of_their_own_and_ascending_values() {
        for (i, size) in Size::ALL.into_iter().enumerate() {
            assert_eq!((size as usize, Size::named(size.name())), (i, Some(size)));
            assert!(size.allowed().is_sorted(), "{}", size.name());
        }
    }
}
