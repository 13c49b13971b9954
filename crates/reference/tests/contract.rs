//! The reference as a device.

use std::time::Duration;

use qiao_core::host::HostBuffer;
use qiao_core::*;
use qiao_reference::{ReferenceBackend, ReferenceDevice, Trial};

const F32: DType = DType::F32;

/// A stream that is not the reference's.
struct Foreign;

impl Stream for Foreign {
    fn upload(&mut self, _: &Binding, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn download(&mut self, _: &mut [u8], _: &Binding) -> Result<()> {
        Ok(())
    }
    fn sync(&mut self, _: Duration) -> Result<()> {
        Ok(())
    }
}

/// A buffer that is not the reference's.
struct Elsewhere;

impl Buffer for Elsewhere {
    fn bytes(&self) -> usize {
        1 << 20
    }
}

fn desc(shape: &[usize]) -> TensorDesc {
    TensorDesc::new(F32, shape).unwrap()
}

fn bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn buffer(device: &dyn Device, bytes: usize) -> Binding {
    Binding::whole(device.alloc(0, bytes).unwrap())
}

#[test]
fn the_reference_is_found_by_name() {
    let mut registry = Registry::new();
    registry.add(std::sync::Arc::new(ReferenceBackend)).unwrap();
    let device = registry.open("reference:0").unwrap();
    assert_eq!(device.info().name, "reference");
    assert!(registry.open("reference:1").is_err());
    assert_eq!(device.info().dtypes.len(), DType::ALL.len());
    assert!(matches!(device.alloc(0, usize::MAX), Err(Error::OutOfMemory { .. })));
    assert!(device.alloc(1, 8).is_err());
}

#[test]
fn graphs_run_through_views_and_temporaries() {
    let device = ReferenceDevice::default();
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[2, 3]));
    let y = g.bind("y", desc(&[3, 2]));
    let double = g.op1(Op::Add(NoAttrs {}), &[x, x]).unwrap();
    let flat = g.reshape(double, &[3, 2]).unwrap();
    let window = g.view(double, desc(&[2]), 4).unwrap();
    let product = g.op1(Op::Mul(NoAttrs {}), &[flat, window]).unwrap();
    g.add_into(Op::Relu(NoAttrs {}), &[Some(product)], &[y]).unwrap();
    let plan = device.plan(&g).unwrap();
    let kernels: Vec<String> = device.support(&g).into_iter().map(|s| s.kernel).collect();
    assert_eq!(kernels, ["add.reference", "mul.reference", "relu.reference"]);
    let mut stream = device.stream().unwrap();
    let (pool, work) = (buffer(&device, 100), buffer(&device, plan.info().workspace_bytes + 7));
    let (x, y) = (Binding::part(&pool.buffer, 3, 24), Binding::part(&pool.buffer, 51, 24));
    stream.upload(&x, &bytes(&[1., 2., -3., 4., 5., 6.])).unwrap();
    let work = Binding::part(&work.buffer, 7, work.bytes - 7);
    plan.execute(&mut *stream, &[x, y.clone()], &work).unwrap();
    let mut out = vec![0; 24];
    stream.download(&mut out, &y).unwrap();
    // (2, 4, −6, 8, 10, 12) times (4, −6), and nothing below 0.
    assert_eq!(out, bytes(&[8., 0., 0., 0., 40., 0.]));
}

#[test]
fn bad_bindings_are_refused_and_leave_the_stream_usable() {
    let device = ReferenceDevice::default();
    let mut g = Graph::new();
    let x = g.bind("x", desc(&[4]));
    let y = g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
    let z = g.bind("z", desc(&[4]));
    g.add_into(Op::Copy(NoAttrs {}), &[Some(y)], &[z]).unwrap();
    let plan = device.plan(&g).unwrap();
    let mut stream = device.stream().unwrap();
    let (b, work) = (|| buffer(&device, 16), buffer(&device, plan.info().workspace_bytes));
    assert!(plan.execute(&mut *stream, &[b()], &work).is_err());
    assert!(plan.execute(&mut *stream, &[b(), buffer(&device, 8)], &work).is_err());
    assert!(plan.execute(&mut *stream, &[b(), b()], &buffer(&device, 3)).is_err());
    let elsewhere = Binding { buffer: std::sync::Arc::new(Elsewhere), offset: 0, bytes: 16 };
    assert!(plan.execute(&mut *stream, &[b(), elsewhere], &work).is_err());
    let error = plan.execute(&mut Foreign, &[b(), b()], &work).unwrap_err().to_string();
    assert!(error.contains("another device"), "{error}");
    plan.execute(&mut *stream, &[b(), b()], &work).unwrap();
    stream.sync(Duration::MAX).unwrap();
}

#[test]
fn data_that_breaks_an_operators_meaning_poisons_the_stream() {
    let device = ReferenceDevice::default();
    let t = Trial::new(Op::KvWrite(KvWriteAttrs::default()))
        .values(F32, &[2, 1, 1], &[1.; 2])
        .values(F32, &[2, 1, 1], &[1.; 2])
        .values(DType::I32, &[2], &[0.; 2])
        .values(F32, &[1, 2, 1, 1], &[0.; 2])
        .values(F32, &[1, 2, 1, 1], &[0.; 2]);
    let g = t.graph().unwrap();
    let plan = device.plan(&g).unwrap();
    let bindings: Vec<Binding> = g.bound().iter().map(|&t| buffer(&device, g.desc(t).bytes().unwrap())).collect();
    let mut stream = device.stream().unwrap();
    let work = buffer(&device, 0);
    assert!(matches!(plan.execute(&mut *stream, &bindings, &work), Err(Error::Invalid { .. })));
    assert!(matches!(stream.sync(Duration::MAX), Err(Error::Poisoned { .. })));
    assert!(matches!(stream.upload(&bindings[0], &[0]), Err(Error::Poisoned { .. })));
    assert!(device.stream().unwrap().sync(Duration::MAX).is_ok());
}

#[test]
fn private_layouts_are_refused_with_a_reason() {
    let device = ReferenceDevice::default();
    let mut g = Graph::new();
    let a = g.bind("a", desc(&[1, 4]));
    let w = g.bind("w", desc(&[4, 4]).as_constant());
    g.op1(Op::Matmul(MatmulAttrs::default()), &[a, w]).unwrap();
    assert!(device.plan(&g).is_ok());
    g.set_layout(w, 0x77).unwrap();
    let error = device.plan(&g).err().unwrap().to_string();
    assert!(error.contains("operand 1: layout = 0x77 must be 0"), "{error}");
}

#[test]
fn a_trial_notices_an_operand_that_was_changed() {
    /// The reference, but every plan also scribbles over the first binding.
    struct Scribbler(ReferenceDevice);
    struct Scribble(std::sync::Arc<dyn Plan>);
    impl Device for Scribbler {
        fn info(&self) -> &DeviceInfo {
            self.0.info()
        }
        fn alloc(&self, memory: usize, bytes: usize) -> Result<std::sync::Arc<dyn Buffer>> {
            self.0.alloc(memory, bytes)
        }
        fn stream(&self) -> Result<Box<dyn Stream>> {
            self.0.stream()
        }
        fn plan(&self, graph: &Graph) -> Result<std::sync::Arc<dyn Plan>> {
            Ok(std::sync::Arc::new(Scribble(self.0.plan(graph)?)))
        }
    }
    impl Plan for Scribble {
        fn info(&self) -> PlanInfo {
            self.0.info()
        }
        fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
            self.0.execute(stream, bindings, workspace)?;
            bindings[0].buffer.downcast::<HostBuffer>().unwrap().write(0..1, |b| b[0] ^= 1);
            Ok(())
        }
    }
    let t = Trial::new(Op::Silu(NoAttrs {})).values(F32, &[2], &[1., 2.]);
    assert!(t.run(&ReferenceDevice::default()).is_ok());
    assert!(t.run(&Scribbler(ReferenceDevice::default())).is_err());
}
