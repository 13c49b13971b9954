//! A chip's results are the chip's.

use qiao_core::{DType, Device, Error, MatmulAttrs, Op};
use qiao_reference::data::{Fill, Rng, to_bytes, values};
use qiao_reference::{Trial, Value};

use super::scene::Found;
use super::{Broken, Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] =
    &[Clause { id: "device/compute/results_are_not_the_hosts", depth: Depth::Standard, run: not_the_hosts }];

/// M, N and K of the products: 4096 sums each, of 2048 terms and of 1536.
const PRODUCTS: &[[usize; 3]] = &[[64, 64, 2048], [1, 4096, 1536]];

fn product([m, n, k]: [usize; 3]) -> Trial {
    let mut rng = Rng::new((m * n + k) as u64);
    let mut operand = |rows: usize| {
        let data = values(&mut rng, Fill::Normal, DType::F32, rows * k);
        to_bytes(DType::F32, &data)
    };
    let (a, b) = (operand(m), operand(n));
    let desc = |rows: usize| qiao_core::TensorDesc::new(DType::F32, &[rows, k]).expect("the shapes are small");
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    Trial::new(op).input(desc(m), a).input(desc(n).as_constant(), b)
}

/// The result, or nothing where the device does not run it.
fn result(trial: &Trial, device: &dyn Device) -> Found<Option<Value>> {
    match trial.run(device) {
        Ok(values) => Ok(values.into_iter().next()),
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn bits(value: &Value) -> Vec<u32> {
    value.data.iter().map(|x| (*x as f32).to_bits()).collect()
}

/// A device with memory of its own must have computed in it. Two products of f32 are evidence:
///
/// - A sum of 2048 terms in f32, in whatever order, is the correctly rounded one about one time in three or less; that 4096
///   sums all are does not happen. Where all are, somebody computed in f64 and rounded once, as the host's reference does.
///   (A chip that sums f32 in f64 or exactly does the same by right: its expectations file says so.)
/// - The rounding of each sum tells the order of its terms. The host's kernels split a row's sum over the lanes of their
///   vectors and a matrix's over the blocks of their caches, each in their own way; a chip that agrees with them bit for
///   bit in both shapes has their order, that is, it is them.
///
/// It is no proof of the contrary: a fallback to another library on the host rounds in its own way and is not seen.
fn not_the_hosts(subject: &Subject) -> Held {
    let device = &subject.device;
    let memory = device.info().memories.first().map(|m| m.kind).unwrap_or_default();
    if !memory.device_local || memory.host_visible {
        return Err(Broken::unsupported("its memory is the host's"));
    }
    let (mut run, mut as_host) = (0, 0);
    for &shape in PRODUCTS {
        let trial = product(shape);
        let Some(got) = result(&trial, &**device)? else { continue };
        run += 1;
        let [m, n, k] = shape;
        let truth = &trial.golden(None)?.outputs[0];
        if bits(&got) == bits(truth) {
            return Err(Broken::contract(format!(
                "all {} sums of {k} products in f32 are rounded as if computed in f64 (M = {m}, N = {n}): it is the \
                 host's reference that computes",
                m * n
            )));
        }
        if let Some(host) = &subject.host
            && let Some(of_host) = result(&trial, &**host)?
        {
            as_host += usize::from(bits(&got) == bits(&of_host));
        }
    }
    match run {
        0 => Err(Broken::unsupported("it runs no f32 matmul")),
        _ if as_host == PRODUCTS.len() => Err(Broken::contract(
            "every sum of two f32 products of 4096 elements has the very bits of the host's kernels: they compute",
        )),
        _ => Ok(()),
    }
}
