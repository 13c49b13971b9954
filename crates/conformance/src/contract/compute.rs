//! A chip's results are the chip's.

use qiao_core::{DType, Device, Error, MatmulAttrs, Op, ReduceAttrs, SoftmaxAttrs, TensorDesc};
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

/// Rows and columns of what else is computed.
const ROWS: [usize; 2] = [192, 2048];

/// Random numbers in f32.
fn operand(rng: &mut Rng, rows: usize, columns: usize) -> (TensorDesc, Vec<u8>) {
    let data = values(rng, Fill::Normal, DType::F32, rows * columns);
    let desc = TensorDesc::new(DType::F32, &[rows, columns]).expect("the shapes are small");
    (desc, to_bytes(DType::F32, &data))
}

fn product([m, n, k]: [usize; 3]) -> Trial {
    let mut rng = Rng::new((m * n + k) as u64);
    let ((a, a_bytes), (b, b_bytes)) = (operand(&mut rng, m, k), operand(&mut rng, n, k));
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    Trial::new(op).input(a, a_bytes).input(b.as_constant(), b_bytes)
}

/// Rows that are summed, and rows of which a softmax is taken.
fn by_rows() -> [Trial; 2] {
    let mut rng = Rng::new(17);
    let sum = ReduceAttrs { axis: 1, ..Default::default() };
    [Op::Reduce(sum), Op::Softmax(SoftmaxAttrs::default())].map(|op| {
        let (desc, bytes) = operand(&mut rng, ROWS[0], ROWS[1]);
        Trial::new(op).input(desc, bytes)
    })
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

/// Sums of a trial, each added up term by term: the order that anybody may have, of fused steps and of two roundings.
/// Nothing for a trial of another kind.
fn plain(trial: &Trial) -> Found<Vec<Vec<u32>>> {
    let load = |i: usize| -> Found<Vec<f32>> {
        let (desc, bytes) = trial.operands()[i].as_ref().expect("these operands are given");
        Ok(Value::load(desc, bytes)?.data.iter().map(|x| *x as f32).collect())
    };
    let steps: [fn(f32, f32, f32) -> f32; 2] = [|sum, a, b| a.mul_add(b, sum), |sum, a, b| sum + a * b];
    Ok(match trial.op() {
        Op::Matmul(_) => {
            let k = trial.operands()[0].as_ref().map_or(1, |(desc, _)| desc.shape.last_dim());
            let (a, b) = (load(0)?, load(1)?);
            let sums = |step: fn(f32, f32, f32) -> f32| {
                let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |sum, (a, b)| step(sum, *a, *b));
                a.chunks_exact(k).flat_map(|a| b.chunks_exact(k).map(move |b| sum(a, b).to_bits())).collect()
            };
            steps.map(sums).into()
        }
        Op::Reduce(_) => vec![load(0)?.chunks_exact(ROWS[1]).map(|row| row.iter().sum::<f32>().to_bits()).collect()],
        _ => Vec::new(),
    })
}

/// A device with memory of its own must have computed in it. Products, sums and softmaxes of f32 are evidence:
///
/// - A sum of 2048 terms in f32, in whatever order, is the correctly rounded one about one time in three or less; that 4096
///   sums all are does not happen. Where all are, somebody computed in f64 and rounded once, as the host's reference does.
///   (A chip that sums f32 in f64 or exactly does the same by right: its expectations file says so.)
/// - The rounding of each sum tells the order of its terms. Where the host's kernels add up term by term, agreement means
///   nothing: a plain chip does the same. Where they split a row over the lanes of their vectors, and where their own
///   exponential is in it, a chip that agrees with them bit for bit, each time, has their order and their polynomial; that
///   is, it is them.
///
/// It is no proof of the contrary: a fallback to another library on the host rounds in its own way and is not seen.
fn not_the_hosts(subject: &Subject) -> Held {
    let device = &subject.device;
    let memory = device.info().memories.first().map(|m| m.kind).unwrap_or_default();
    if !memory.device_local || memory.host_visible {
        return Err(Broken::unsupported("its memory is the host's"));
    }
    let (mut run, mut telling, mut as_host) = (0, 0, 0);
    for trial in PRODUCTS.iter().map(|&shape| product(shape)).chain(by_rows()) {
        let Some(got) = result(&trial, &**device)?.map(|got| bits(&got)) else { continue };
        run += 1;
        let truth = bits(&trial.golden(None)?.outputs[0]);
        if matches!(trial.op(), Op::Matmul(_)) && got == truth {
            return Err(Broken::contract(format!(
                "all {} sums of a product in f32 are rounded as if computed in f64, as the host's reference does: if the \
                 chip itself sums in f64 or exactly, name this clause in its expectations file (--expectations)",
                got.len()
            )));
        }
        let Some(host) = &subject.host else { continue };
        let Some(of_host) = result(&trial, &**host)?.map(|of_host| bits(&of_host)) else { continue };
        if of_host != truth && !plain(&trial)?.contains(&of_host) {
            telling += 1;
            as_host += usize::from(got == of_host);
        }
    }
    match run {
        0 => Err(Broken::unsupported("it runs no f32 matmul, sum or softmax")),
        _ if telling >= 2 && as_host == telling => Err(Broken::contract(
            "every result whose rounding tells who computed it has the very bits of the host's kernels: they compute",
        )),
        _ => Ok(()),
    }
}
