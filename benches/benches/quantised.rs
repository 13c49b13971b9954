//! Products with quantised weights: one row and 128 rows of activations times `[4096, 4096]`, per format and ISA tier,
//! beside bf16 weights and a plain copy on as many threads.
//!
//!     cargo bench -p qiao-benches --bench quantised
//!
//! Throughput is in bytes of resident weights, so a line beside the copy's is a share of the bandwidth. Only tiers that
//! the machine has are run.

#![forbid(unsafe_code)]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qiao_benches::timing::short;
use qiao_core::{
    Binding, DType, Device, Graph, MatmulAttrs, MatmulQuantAttrs, NoAttrs, Op, Plan, Stream, Support, TensorDesc,
};
use qiao_cpu::{CpuDevice, CpuOptions, Isa};
use qiao_reference::data::{Rng, block_bytes};

/// Outputs and inputs of the weights.
const SIZE: usize = 4096;

/// An operand: its description and its bytes.
type Data = (TensorDesc, Vec<u8>);

/// A node on the CPU device, ready to execute.
struct Product {
    plan: Arc<dyn Plan>,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
    /// Bytes of the constants as they are resident.
    resident: usize,
}

impl Product {
    fn new(device: &CpuDevice, op: Op, operands: &[Data], out: &TensorDesc) -> qiao_core::Result<Self> {
        let mut g = Graph::new();
        let ids: Vec<_> =
            operands.iter().enumerate().map(|(i, (desc, _))| Some(g.bind(format!("x{i}"), desc.clone()))).collect();
        let y = g.bind("y", out.clone());
        g.add_into(op, &ids, &[y])?;
        let mut stream = device.stream()?;
        let alloc = |bytes| device.alloc(0, bytes).map(Binding::whole);
        let mut bindings =
            operands.iter().map(|(_, bytes)| alloc(bytes.len())).collect::<qiao_core::Result<Vec<_>>>()?;
        for (binding, (_, bytes)) in bindings.iter().zip(operands) {
            stream.upload(binding, bytes)?;
        }
        bindings.push(alloc(out.bytes()?)?);
        while let Support::Relayout { operand, layout } = device.support(&g)[0].answer {
            let id = ids[operand].expect("a device asks for operands that are given");
            let desc = g.desc(id).clone();
            let packed = alloc(device.prepack_bytes(&desc, layout)?)?;
            device.prepack(&mut *stream, &desc, &bindings[operand], layout, &packed)?;
            bindings[operand] = packed;
            g.set_layout(id, layout)?;
        }
        let constant = |(binding, (desc, _)): (&Binding, &Data)| if desc.constant { binding.bytes } else { 0 };
        let resident = bindings.iter().zip(operands).map(constant).sum();
        let plan = device.plan(&g)?;
        let workspace = alloc(plan.info().workspace_bytes)?;
        Ok(Product { plan, stream, bindings, workspace, resident })
    }

    fn run(&mut self) {
        self.plan.execute(&mut *self.stream, &self.bindings, &self.workspace).expect("the bindings fit the plan");
    }
}

fn desc(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).expect("the shapes are small")
}

/// Small f32, as bytes.
fn activations(rows: usize) -> Data {
    let bytes = (0..rows * SIZE).flat_map(|i| (((i * 37 % 101) as f32 - 50.0) / 64.0).to_le_bytes()).collect();
    (desc(DType::F32, &[rows, SIZE]), bytes)
}

/// A constant whose bytes repeat a few.
fn constant(dtype: DType, shape: &[usize], pattern: &[u8]) -> Data {
    let desc = desc(dtype, shape).as_constant();
    let bytes = pattern.iter().copied().cycle().take(desc.bytes().expect("the shapes are small")).collect();
    (desc, bytes)
}

/// Codes in groups of `group`, with zeros or without.
fn grouped(codes: DType, group: usize, zeros: bool) -> (String, Op, Vec<Data>) {
    let name = format!("{codes}/{group}{}", if zeros { " zeros" } else { "" });
    let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: group as u32, ..Default::default() });
    let mut operands = vec![constant(codes, &[SIZE, SIZE], &[0x35, 0x9c, 0x71])];
    operands.push(constant(DType::F16, &[SIZE, SIZE / group], &[0x00, 0x2c]));
    if zeros {
        operands.push(constant(codes, &[SIZE, SIZE / group], &[0x88, 0x79]));
    }
    (name, op, operands)
}

/// Name, operator and weights of every line.
fn lines() -> Vec<(String, Op, Vec<Data>)> {
    let mut rng = Rng::new(1);
    let matmul = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let mut lines = vec![("bf16".to_string(), matmul, vec![constant(DType::BF16, &[SIZE, SIZE], &[0x40, 0x3c])])];
    for format in [DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q5K, DType::Q6K, DType::Iq4Xs, DType::Mxfp4] {
        let w = desc(format, &[SIZE, SIZE]).as_constant();
        let bytes = block_bytes(&mut rng, format, SIZE * SIZE / format.block_elems());
        lines.push((format.to_string(), Op::MatmulQuant(MatmulQuantAttrs::default()), vec![(w, bytes)]));
    }
    for group in [32, 64, 128] {
        lines.extend([grouped(DType::I4, group, false), grouped(DType::U4, group, true)]);
    }
    lines.push(grouped(DType::F8E4M3, 128, false));
    lines
}

/// int8 activations and weights, an exact sum, scaled.
fn int8(rows: usize) -> Vec<Data> {
    let one = |count: usize| constant(DType::F32, &[count], &[0, 0, 128, 63]);
    let (a, bytes) = constant(DType::I8, &[rows, SIZE], &[3, 250, 17]);
    let a = (TensorDesc { constant: false, ..a }, bytes);
    vec![a, constant(DType::I8, &[SIZE, SIZE], &[0x35, 0x9c, 0x71]), one(rows), one(SIZE)]
}

fn products(c: &mut Criterion) {
    let lines = lines();
    for isa in Isa::ALL.into_iter().rev().filter(|isa| *isa != Isa::Scalar) {
        let Ok(device) = CpuDevice::with(&CpuOptions { isa: Some(isa), threads: None, ..Default::default() }) else {
            continue;
        };
        for rows in [1, 128] {
            let mut group = c.benchmark_group(format!("{isa} {rows}x{SIZE}x{SIZE}"));
            let elements = 2 * (rows * SIZE * SIZE) as u64;
            let out = desc(DType::F32, &[rows, SIZE]);
            let mut bench = |name: &str, op: Op, operands: &[Data]| {
                let mut product = Product::new(&device, op, operands, &out).expect("the CPU multiplies");
                let bits = product.resident as f64 * 8.0 / (SIZE * SIZE) as f64;
                group.throughput(Throughput::ElementsAndBytes { elements, bytes: product.resident as u64 });
                group.bench_function(BenchmarkId::new(name, format!("{bits:.3} bits")), |b| b.iter(|| product.run()));
            };
            for (name, op, weights) in &lines {
                bench(name, *op, &[&[activations(rows)][..], weights].concat());
            }
            bench("int8 by int8", Op::ScaledMatmul(NoAttrs {}), &int8(rows));
            group.finish();
        }
    }
}

/// Copies as many bytes as the bf16 weights have on every thread of the machine at once; the throughput counts what is read.
fn copies(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let from = vec![1u64; SIZE * SIZE / 4];
    let mut to = vec![0u64; SIZE * SIZE / 4];
    let part = from.len().div_ceil(threads);
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Bytes(8 * from.len() as u64));
    group.bench_function(format!("copy on {threads} threads"), |b| {
        b.iter(|| {
            std::thread::scope(|s| {
                for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                    s.spawn(|| to.copy_from_slice(from));
                }
            });
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = copies, products
}
criterion_main!(benches);
