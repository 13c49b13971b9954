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
    // Counts of rows and of what lies in them that kernels tell apart or forget: every small one, and some between the edges.
    ("counts", "2,3,4,5,6,7,8,9,10,11,12,13,14,18,24,48,96,100"),
    // Query heads per key head: multi-head, and every count up to those of Llama-3 (4), Qwen2.5 (5, 6, 7, 8), and the wide ones.
    ("gqa", "1,2,3,4,5,6,7,8,9,10,12,16"),
    // Context lengths across borders of blocks of 16 and 128 and of tiles of 512.
    ("contexts", "1,15,16,17,127,128,129,511,512,513,520"),
    // Every kind of data.
    ("fills", "normal,wide,cancelling,subnormal,special,zero"),
    // Every kind of data that has a bounded result.
    ("finite", "normal,wide,cancelling,subnormal,zero"),
    // Every way in which operands lie in memory.
    ("layouts", "plain,gapped,strided,transposed,repeated"),
    // Columns of LM heads: Llama-3, Qwen2.5 and Qwen3, Qwen3.5.
    ("vocabularies", "128256,151936,248320"),
    // K of the products of Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-4B, Llama-3-8B.
    ("model_inputs", "896,2048,2560,4096,4864,8192,9728,14336"),
    // N of the same.
    ("model_outputs", "128,512,896,1024,2048,2560,4096,4864,8192,9728,14336"),
    // Every block format, and those of 256 elements.
    ("block_formats", "q4_0,q4_1,q5_0,q5_1,q8_0,q2_k,q3_k,q4_k,q5_k,q6_k,iq4_nl,iq4_xs,mxfp4"),
    ("block_formats_256", "q2_k,q3_k,q4_k,q5_k,q6_k,iq4_xs"),
    // Every dtype of codes whose scales lie beside them.
    ("code_formats", "i4,u4,i8,u8,f8_e4m3,f8_e5m2,f4_e2m1"),
    // The dtypes that a cast may ask for.
    ("scalars", "f32,f16,bf16,f64,f8_e4m3,f8_e5m2,f8_e4m3fnuz,f8_e5m2fnuz,i64,i32,i16,i8,u64,u32,u16,u8,bool"),
    // Values that round, overflow, saturate or are none.
    ("fill_values", "1,0,-0,0.1,-2.5,2.5,300,-300,65520,1e20,-1e20,1e-7,1e-40,NaN,inf,-inf"),
    // What element by element operators are given.
    ("elementwise_fills", "normal,wide,cancelling,subnormal,special,zero,positive,negative,notable"),
    // What the rows of which one chooses hold.
    ("choice_values", "normal,wide,negative,few,equal,zeros,last,spread,twin,lanes,nan,infinite,lowest"),
];

/// The values of a set.
pub(crate) fn named(name: &str) -> Option<&'static str> {
    SETS.iter().find(|(n, _)| *n == name).map(|(_, values)| *values)
}
