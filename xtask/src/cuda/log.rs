//! What compilers say of the kernels that they made.

/// A kernel as a compiler made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// The most threads of a block, where the compiler says it.
    pub(crate) threads: Option<u32>,
    /// Registers of a thread.
    pub(crate) registers: Option<u32>,
    /// Bytes of shared memory of a block.
    pub(crate) shared: u32,
    /// Bytes of a thread's stack.
    pub(crate) stack: u32,
    /// Bytes or registers that are spilled.
    pub(crate) spilled: u32,
}

impl Kernel {
    fn named(name: &str) -> Kernel {
        Kernel { name: name.to_string(), ..Kernel::default() }
    }
}

/// The number before these words.
fn before(line: &str, words: &str) -> Option<u32> {
    line.split(words).next().filter(|start| start.len() < line.len())?.split_whitespace().last()?.parse().ok()
}

/// The number after these words.
fn after(line: &str, words: &str) -> Option<u32> {
    line.split_once(words)?.1.split_whitespace().next()?.parse().ok()
}

/// The lines of PTX that name kernels and their threads.
pub(crate) fn entries(ptx: &str) -> String {
    let named = |line: &&str| line.contains(ENTRY) || line.contains(THREADS);
    ptx.lines().filter(named).flat_map(|line| [line, "\n"]).collect()
}

const ENTRY: &str = ".entry ";
const THREADS: &str = ".maxntid ";

/// Reads what nvcc says, with the entries of its PTX.
pub(crate) fn nvcc(words: &str) -> Vec<Kernel> {
    let mut kernels = ptxas(words);
    for entry in ptx(words) {
        match kernels.iter_mut().find(|k| k.name == entry.name) {
            Some(kernel) => kernel.threads = entry.threads,
            None => kernels.push(entry),
        }
    }
    kernels
}

/// Reads what `ptxas -v` says.
fn ptxas(words: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut of_kernel = false;
    for line in words.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernels.extend(rest.split('\'').next().map(Kernel::named));
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            of_kernel = name.starts_with(&kernel.name);
        }
        if of_kernel && line.contains("stack frame") {
            kernel.stack = before(line, " bytes stack frame").unwrap_or(0);
            let loads = before(line, " bytes spill loads").unwrap_or(0);
            kernel.spilled = before(line, " bytes spill stores").unwrap_or(0) + loads;
        }
        if line.contains(": Used ") {
            kernel.registers = before(line, " registers");
            kernel.shared = before(line, " bytes smem").unwrap_or(0);
        }
    }
    kernels
}

/// Reads the entries of PTX.
fn ptx(words: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in words.lines() {
        if let Some((_, rest)) = line.split_once(ENTRY) {
            kernels.extend(rest.split(['(', ' ']).next().map(Kernel::named));
        }
        if let (Some(kernel), Some((_, rest))) = (kernels.last_mut(), line.split_once(THREADS)) {
            let sides = rest.split(',').map(|side| side.trim().parse::<u32>().ok());
            kernel.threads = sides.product();
        }
    }
    kernels
}

/// Reads clang's remarks on the use of resources.
pub(crate) fn hipcc(words: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in words.lines().filter(|line| line.contains("remark: ")) {
        if let Some((_, rest)) = line.split_once("Function Name: ") {
            kernels.extend(rest.split_whitespace().next().map(Kernel::named));
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(registers) = after(line, " VGPRs: ") {
            kernel.registers = Some(registers);
        }
        kernel.spilled += after(line, "VGPRs Spill: ").unwrap_or(0);
        kernel.stack += after(line, "ScratchSize [bytes/lane]: ").unwrap_or(0);
        kernel.shared += after(line, "LDS Size [bytes/block]: ").unwrap_or(0);
    }
    // Functions that kernels call have mangled names.
    kernels.retain(|kernel| !kernel.name.starts_with("_Z"));
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptxas_tells_registers_shared_memory_and_spills() {
        let words = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'norm_f32' for 'sm_80'
ptxas info    : Function properties for norm_f32
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem, 676 bytes cmem[0]
ptxas info    : Compiling entry function 'norm_f16' for 'sm_80'
ptxas info    : Function properties for norm_f16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers, 384 bytes cmem[0]";
        let kernels = ptxas(words);
        let first = Kernel { registers: Some(38), shared: 64, stack: 16, spilled: 20, ..Kernel::named("norm_f32") };
        assert_eq!(kernels, [first, Kernel { registers: Some(20), ..Kernel::named("norm_f16") }]);
    }

    #[test]
    fn ptx_tells_threads() {
        let words = ".visible .entry norm_f32(\n\t.param .u64 norm_f32_param_0\n)\n.maxntid 256\n.minnctapersm 2\n\
                     .visible .entry norm_f16(\n)\n.maxntid 128, 2, 1\n";
        let threads: Vec<_> = ptx(words).into_iter().map(|k| (k.name, k.threads)).collect();
        assert_eq!(threads, [("norm_f32".to_string(), Some(256)), ("norm_f16".to_string(), Some(256))]);
        assert_eq!(ptx(&entries(words)), ptx(words));
        assert_eq!(nvcc(words)[1].threads, Some(256));
    }

    #[test]
    fn clang_tells_vector_registers() {
        let words = "a.cu:1:1: remark: Function Name: norm_f32 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     SGPRs: 11 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     VGPRs: 12 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     ScratchSize [bytes/lane]: 8 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     SGPRs Spill: 3 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     VGPRs Spill: 2 [-Rpass-analysis=kernel-resource-usage]
a.cu:1:1: remark:     LDS Size [bytes/block]: 64 [-Rpass-analysis=kernel-resource-usage]
a.cu:9:1: remark: Function Name: _Z3sumf [-Rpass-analysis=kernel-resource-usage]
a.cu:9:1: remark:     VGPRs: 3 [-Rpass-analysis=kernel-resource-usage]";
        let kernel = Kernel { registers: Some(12), shared: 64, stack: 8, spilled: 2, ..Kernel::named("norm_f32") };
        assert_eq!(hipcc(words), [kernel]);
    }
}
