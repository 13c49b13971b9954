//! Lists of values that several families walk, by name: `cols=@edges`.

/// Name and values, as a pattern writes them.
pub(crate) const SETS: &[(&str, &str)] = &[
    // Nothing, one, and either side of the tiles that kernels are made of.
    ("edges", "0,1,15,16,17,31,32,33,63,64,65,127,128,129"),
    // The same without nothing, for dims that can't be empty.
    ("some", "1,15,16,17,31,32,33,63,64,65,127,128,129"),
    // Primes, which no tile divides.
    ("odd", "3,7,13,97,251,509"),
    // Widths of the hidden state of real models: Qwen2.5-0.5B, 1.5B, Llama-3.2-1B, Gemma-2-2B, Qwen3-4B, Llama-3-8B.
    ("hidden", "896,1536,2048,2304,2560,4096"),
    // Head sizes in use.
    ("heads", "64,80,96,128,192,256,576"),
    // Query heads per key head: multi-head, Llama-3, Qwen2.5, and the wide ones.
    ("gqa", "1,4,7,8,16"),
    // Context lengths across borders of blocks of 16 and 128 and of tiles of 512.
    ("contexts", "1,15,16,17,127,128,129,511,512,513,520"),
    // Every kind of data.
    ("fills", "normal,wide,cancelling,subnormal,special,zero"),
    // Every kind of data that has a bounded result.
    ("finite", "normal,wide,cancelling,subnormal,zero"),
    // Every way in which operands lie in memory.
    ("layouts", "plain,gapped,strided,transposed,repeated"),
];

/// The values of a set.
pub(crate) fn named(name: &str) -> Option<&'static str> {
    SETS.iter().find(|(n, _)| *n == name).map(|(_, values)| *values)
}
