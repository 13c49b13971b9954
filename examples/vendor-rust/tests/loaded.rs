//! The plugin, loaded, is the backend that it was made from: the same answers, the same bytes.

use std::path::PathBuf;
use std::sync::Arc;

use qiao_core::{
    Backend, Binding, Buffer, DType, Device, Graph, MatmulAttrs, NoAttrs, NormAttrs, Op, Result, SiluMulAttrs,
    SoftmaxAttrs, TensorDesc,
};
use qiao_plugin::{Options, Plugin};

/// The library that cargo has built for this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    test.with_file_name(format!("{}acme_npu_rust{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

fn loaded() -> Result<Arc<dyn Device>> {
    Plugin::load(library(), &Options::default())?.open(0)
}

/// `silu_mul(rms_norm(x + x) · wᵀ)` of x `[3, 64]` and w `[32, 64]`, into a bound result.
fn graph() -> Result<Graph> {
    let mut graph = Graph::new();
    let x = graph.bind("x", TensorDesc::new(DType::F32, &[3, 64])?);
    let w = graph.bind("w", TensorDesc::new(DType::F32, &[32, 64])?.as_constant());
    let y = graph.bind("y", TensorDesc::new(DType::F32, &[3, 16])?);
    let sum = graph.op1(Op::Add(NoAttrs {}), &[x, x])?;
    let normal = graph.op1(Op::RmsNorm(NormAttrs { eps: 1e-6, ..Default::default() }), &[sum])?;
    let product = graph.op1(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[normal, w])?;
    graph.add_into(Op::SiluMul(SiluMulAttrs::default()), &[Some(product)], &[y])?;
    Ok(graph)
}

/// The result of the graph on a device, for operands that are a wave.
fn run(device: &dyn Device) -> Result<Vec<u8>> {
    let graph = graph()?;
    let plan = device.plan(&graph)?;
    let mut stream = device.stream()?;
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
    let mut bindings = Vec::new();
    for &id in graph.bound() {
        let buffer: Arc<dyn Buffer> = device.alloc(0, graph.desc(id).bytes()?)?;
        let wave = (0..buffer.bytes() / 4).flat_map(|i| ((i as f32 * 0.37).sin()).to_le_bytes());
        stream.upload(&Binding::whole(buffer.clone()), &wave.collect::<Vec<u8>>())?;
        bindings.push(Binding::whole(buffer));
    }
    plan.execute(&mut *stream, &bindings, &workspace)?;
    let mut bytes = vec![0; bindings[2].bytes];
    stream.download(&mut bytes, &bindings[2])?;
    Ok(bytes)
}

#[test]
fn a_graph_gives_the_same_bytes() {
    let (direct, loaded) = (acme_npu_rust::open().unwrap(), loaded().unwrap());
    let result = run(&*loaded).unwrap();
    assert_eq!(result, run(&*direct).unwrap());
    let largest =
        result.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).abs()).fold(0.0, f32::max);
    assert!(largest > 0.1, "the result is more than nothing: {largest}");
}

#[test]
fn answers_and_refusals_are_the_same() {
    let (direct, loaded) = (acme_npu_rust::open().unwrap(), loaded().unwrap());
    let mut graph = graph().unwrap();
    let half = graph.bind("half", TensorDesc::new(DType::F16, &[4]).unwrap());
    graph.op1(Op::Add(NoAttrs {}), &[half, half]).unwrap();
    graph.op1(Op::Softmax(SoftmaxAttrs::default()), &[half]).unwrap();
    let words = |device: &dyn Device| device.plan(&graph).err().unwrap().to_string();
    assert_eq!(words(&*loaded), words(&*direct));
    assert_eq!(
        words(&*loaded),
        "ACME NPU does not run 2 operator(s): add: operand 0: dtype = f16 is not one of f32; softmax: no kernel for this operator"
    );
    let kernels = |device: &dyn Device| device.support(&graph).into_iter().map(|s| s.kernel).collect::<Vec<_>>();
    assert_eq!(kernels(&*loaded), kernels(&*direct));
}
