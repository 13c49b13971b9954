//! The kernels that a text declares, read after its preprocessing.

use qiao_kernels_cuda::Unit;

/// What `vendor.cuh` puts before each kernel of a text.
const MARK: &str = "[[simt::kernel(";

/// A kernel as its text has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    pub(crate) threads: String,
    /// Whether it begins by taking its turn.
    pub(crate) turns: bool,
}

/// The first words of a kernel, which may be started while the one before it ends.
const TURN: &str = "take_turn();";

/// Every kernel of a preprocessed text, in order.
pub(crate) fn read(preprocessed: &str) -> Vec<Symbol> {
    let symbol = |after: &str| {
        let (threads, rest) = after.split_once(")]]")?;
        let (_, declared) = rest.split_once("void")?;
        let (name, rest) = declared.split_once('(')?;
        let (_, body) = rest.split_once('{')?;
        let turns = body.trim_start().starts_with(TURN);
        Some(Symbol { name: name.trim().to_string(), threads: threads.trim().to_string(), turns })
    };
    preprocessed.split(MARK).skip(1).filter_map(symbol).collect()
}

/// Every way in which a unit's rows and its text differ, a line each.
pub(crate) fn differences(unit: &Unit, symbols: &[Symbol]) -> Vec<String> {
    let mut faults = Vec::new();
    for symbol in symbols {
        match unit.kernels.iter().find(|k| k.symbol == symbol.name) {
            None => faults.push(format!("{}.cu has {}, which no row names", unit.name, symbol.name)),
            Some(row) if evaluate(&symbol.threads) != Some(row.threads) => faults.push(format!(
                "{}: the text says {} threads, its row says {}",
                row.symbol, symbol.threads, row.threads
            )),
            Some(_) if !symbol.turns => faults.push(format!("{} does not begin with {TURN}", symbol.name)),
            Some(_) => {}
        }
        if symbols.iter().filter(|s| s.name == symbol.name).count() > 1 {
            faults.push(format!("{}.cu has {} more than once", unit.name, symbol.name));
        }
    }
    for row in unit.kernels.iter().filter(|k| symbols.iter().all(|s| s.name != k.symbol)) {
        faults.push(format!("{} has a row, and {}.cu has no such kernel", row.symbol, unit.name));
    }
    faults
}

/// The value of a product of numbers, as threads are written: `256`, `(4 * 32)`.
fn evaluate(words: &str) -> Option<u32> {
    let plain: String = words.chars().filter(|c| !c.is_whitespace() && *c != '(' && *c != ')').collect();
    plain.split('*').map(|factor| factor.trim_end_matches(['u', 'U']).parse::<u32>().ok()).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_kernels_cuda::Kernel;

    const UNIT: Unit = Unit {
        name: "norms",
        text: "",
        kernels: &[
            Kernel { symbol: "norm_f32", threads: 256, params: "pu" },
            Kernel { symbol: "norm_f16", threads: 128, params: "pu" },
        ],
    };

    #[test]
    fn kernels_are_read_with_their_threads() {
        let text = "[[simt::kernel(256)]] void norm_f32(float* y) { take_turn(); }\n[[simt::kernel(4 * 32)]] void\n norm_f16 (int n) {\n take_turn(); y = 1; }";
        let symbols = read(text);
        assert_eq!(symbols[0], Symbol { name: "norm_f32".into(), threads: "256".into(), turns: true });
        assert_eq!(symbols[1].name, "norm_f16");
        assert_eq!(differences(&UNIT, &symbols), Vec::<String>::new());
    }

    #[test]
    fn a_kernel_that_does_not_wait_for_the_one_before_is_told() {
        let text = "[[simt::kernel(256)]] void norm_f32(float* y) { y[0] = 1; take_turn(); } \
                    [[simt::kernel(128)]] void norm_f16(int n) { take_turn(); }";
        assert_eq!(differences(&UNIT, &read(text)), ["norm_f32 does not begin with take_turn();"]);
    }

    #[test]
    fn a_missing_row_a_missing_kernel_and_other_threads_are_told() {
        let text = "[[simt::kernel(64)]] void norm_f32(float* y) {} [[simt::kernel(32)]] void norm_bf16(int n) {}";
        let faults = differences(&UNIT, &read(text));
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("64 threads") && faults[1].contains("norm_bf16") && faults[2].contains("norm_f16"));
    }
}
