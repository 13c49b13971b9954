//! One operator on a device, held to everything at once.
//!
//! Every operand lies between guard bytes in a buffer of its own; outputs and workspace are poisoned. The plan runs with one
//! set of bindings, with another set that is shifted by the device's alignment and holds other data, with the first again,
//! and with the first that holds the other data. After each run every byte that is not an element of an output must be as it
//! was.

use std::borrow::Cow;
use std::sync::Arc;

use qiao_core::{
    Binding, DType, Device, Error, Graph, NodeSupport, NormAttrs, Op, OpKind, Plan, Stream, Support, TensorDesc,
};
use qiao_layers::{Lowered, Pack, Policy, Way, lower};
use qiao_reference::round::{min_normal, ulp};
use qiao_reference::trial::{Built, Golden};
use qiao_reference::truth::class;
use qiao_reference::value::{Walk, load_exact};
use qiao_reference::{Class, Trial, Value};

use crate::subject::Subject;
use crate::verdict::{Check, Failure, Measured, Outcome};

/// Bytes before and after every operand.
const GUARD: usize = 4096;

/// Work of a node above which its truth is asked for one set of data only.
const CHEAP: u64 = 4_000_000;

/// What a case came to, how it ran, and what was measured.
pub(crate) struct Found {
    pub(crate) outcome: Outcome,
    pub(crate) way: String,
    pub(crate) measured: Vec<Measured>,
}

type Checked<T = ()> = Result<T, Failure>;

fn broken(check: Check) -> impl Fn(Error) -> Failure {
    move |error| match error {
        Error::Timeout { .. } => Failure::new(Check::Timeout, error.to_string()),
        _ => Failure::new(check, error.to_string()),
    }
}

/// Runs a trial; `other` is the same point with other data, `key` names both.
pub(crate) fn run(subject: &Subject, key: &str, trial: &Trial, other: &Trial) -> Found {
    let mut found = Found { outcome: Outcome::Passed, way: String::new(), measured: Vec::new() };
    match attempt(subject, key, trial, other, &mut found) {
        Ok(None) => {}
        Ok(Some(reason)) => found.outcome = Outcome::Unsupported(reason),
        Err(failure) => found.outcome = Outcome::Failed(failure),
    }
    found
}

/// The reason where the device does not run the trial.
fn attempt(subject: &Subject, key: &str, trial: &Trial, other: &Trial, found: &mut Found) -> Checked<Option<String>> {
    let device = &subject.device;
    let built = trial.build().map_err(|e| Failure::new(Check::Support, format!("the case is not valid: {e}")))?;
    let answer = ask(&**device, &built.graph)?;
    if let Support::No(reason) = &answer
        && device.plan(&built.graph).is_ok()
    {
        let why = format!("support refuses the node ({reason}), yet plan accepts it");
        return Err(Failure::new(Check::Support, why));
    }
    let lowered = match lower(device, built.graph.clone(), &Policy::DeviceOnly) {
        Ok(lowered) => lowered,
        Err(Error::Unsupported { list, .. }) if answer != Support::Native => {
            let reasons: Vec<_> = list.iter().map(|u| u.reason.to_string()).collect();
            return Ok(Some(reasons.join("; ")));
        }
        Err(e) => return Err(Failure::new(Check::Support, format!("support accepts the node, yet: {e}"))),
    };
    let act = rounding(&device.support(&lowered.graph))?;
    found.way = way(&lowered);
    if let Some(act) = act {
        found.way += &format!(", activations in {act}");
    }
    let truth = |key: &str, trial: &Trial| -> Checked<Arc<Golden>> {
        let golden = subject.golden(key, trial, act).map_err(broken(Check::Support))?;
        Ok(match lowered.account.entries.first().map(|e| &e.way) {
            Some(Way::Decomposed { into, .. }) => widened(golden, trial.op().kind(), into.iter().map(|p| p.op)),
            _ => golden,
        })
    };
    let golden = truth(key, trial)?;

    let mut bench = Bench { subject, lowered: &lowered, stream: device.stream().map_err(broken(Check::Execute))? };
    let mut first = bench.set(&built, Dressing { shift: 0, poison: 0xff, guard: 0xff })?;
    let outputs = bench.execute(&mut first, &built)?;
    let (measured, judged) = compare(&golden, &outputs, &built, 0xff);
    found.measured = measured;
    judged?;
    rounded_as_asked(trial, &golden, &outputs)?;

    let cheap = built.graph.cost().flops <= CHEAP;
    let second = other.build().ok().filter(|o| cheap && o.graph == built.graph);
    let (again, golden) = match &second {
        Some(second) => (second, truth(&format!("{key}#2"), other)?),
        None => (&built, golden),
    };
    let mut shifted = bench.set(again, Dressing { shift: 1, poison: 0xa5, guard: 0x5c })?;
    let rebound = bench.execute(&mut shifted, again)?;
    let rebind = |f: Failure| match f.check {
        Check::Limit | Check::Special => {
            Failure::new(Check::Rebind, format!("right at first, wrong with other bindings and data: {}", f.why))
        }
        _ => f,
    };
    let (measured, judged) = compare(&golden, &rebound, again, 0xa5);
    keep_worst(&mut found.measured, measured);
    judged.map_err(rebind)?;

    bench.redress(&mut first)?;
    let repeated = bench.execute(&mut first, &built)?;
    if device.info().caps.deterministic && !same(&repeated, &outputs) {
        return Err(Failure::new(Check::Repeat, "the same plan on the same bytes gave other bytes"));
    }
    let golden = truth(key, trial)?;
    let (measured, judged) = compare(&golden, &repeated, &built, 0xff);
    keep_worst(&mut found.measured, measured);
    judged.map_err(rebind)?;

    // Other data where the first lay; constants are the same in both.
    if let Some(second) = second {
        bench.refill(&mut first, &second, 0xff)?;
        let renewed = bench.execute(&mut first, &second)?;
        let golden = truth(&format!("{key}#2"), other)?;
        let (measured, judged) = compare(&golden, &renewed, &second, 0xff);
        keep_worst(&mut found.measured, measured);
        judged.map_err(rebind)?;
    }
    Ok(None)
}

/// The device's answer for the one node, which must be the same each time.
fn ask(device: &dyn Device, graph: &Graph) -> Checked<Support> {
    let answers = device.support(graph);
    if answers.len() != 1 {
        return Err(Failure::new(Check::Support, format!("{} answers for one node", answers.len())));
    }
    if device.support(graph) != answers {
        return Err(Failure::new(Check::Support, "asked twice, it answers differently"));
    }
    Ok(answers.into_iter().next().expect("there is one").answer)
}

/// The dtype to which a kernel says that it rounds activations first.
fn rounding(answers: &[NodeSupport]) -> Checked<Option<DType>> {
    const KNOWN: [DType; 3] = [DType::F16, DType::BF16, DType::I8];
    let act = answers.iter().find_map(|s| s.act_dtype);
    match act.filter(|act| !KNOWN.contains(act)) {
        Some(act) => {
            let known = KNOWN.map(|d| d.name()).join(", ");
            let why = format!("it says that it rounds activations to {act}; only {known} are granted");
            Err(Failure::new(Check::Support, why))
        }
        None => Ok(act),
    }
}

fn way(lowered: &Lowered) -> String {
    match lowered.account.entries.first().map(|e| &e.way) {
        Some(Way::Native { kernel }) => format!("native {kernel}").trim_end().into(),
        Some(Way::Decomposed { into, .. }) => {
            let pieces: Vec<_> = into.iter().map(|p| p.op).collect();
            format!("decomposed: {}", pieces.join(" + "))
        }
        Some(Way::Host { kernel, .. }) => format!("host {kernel}").trim_end().into(),
        None => String::new(),
    }
}

/// The truth with limits for an operator that runs in pieces.
///
/// Pieces pass f32 to each other, whose rounding the bounds of sums and products hold: they are several times the unit
/// roundoff of an f32 accumulator. An elementwise operator's limit is a few units in the last place alone, and each of its
/// pieces may take as many of an f32.
pub(crate) fn widened<'a>(golden: Arc<Golden>, kind: OpKind, pieces: impl Iterator<Item = &'a str>) -> Arc<Golden> {
    let elementwise = |kind: OpKind| class(kind) == Class::Rounding;
    if !elementwise(kind) {
        return golden;
    }
    let computed = pieces.filter(|name| name.parse().is_ok_and(elementwise)).count();
    let mut golden = Golden::clone(&golden);
    for (limits, output) in golden.limits.iter_mut().zip(&golden.outputs) {
        for (limit, &y) in limits.iter_mut().zip(&output.data) {
            *limit += 4.0 * computed as f64 * ulp(DType::F32, y);
        }
    }
    Arc::new(golden)
}

/// How a set of operands lies in memory.
#[derive(Clone, Copy)]
struct Dressing {
    /// Steps of the device's alignment by which every operand is shifted.
    shift: usize,
    /// What outputs and workspace hold.
    poison: u8,
    /// What lies around operands.
    guard: u8,
}

/// One operand in a buffer of its own.
struct Place {
    binding: Binding,
    /// What the whole buffer must hold, elements of outputs apart.
    image: Vec<u8>,
}

impl Place {
    /// What the operand itself must hold.
    fn elements(&self) -> &[u8] {
        &self.image[self.binding.offset..][..self.binding.bytes]
    }
}

/// Bindings for one execution.
struct Set {
    places: Vec<Place>,
    /// Where a constant is held in a private layout, by position.
    packed: Vec<(usize, Place)>,
    workspace: Place,
}

/// A device, a lowered node, and the stream on which it runs.
struct Bench<'a> {
    subject: &'a Subject,
    lowered: &'a Lowered,
    stream: Box<dyn Stream>,
}

impl Bench<'_> {
    fn place(&mut self, bytes: &[u8], align: usize, dress: Dressing) -> Checked<Place> {
        let info = self.subject.device.info();
        let align = align.max(info.tensor_align).max(8);
        let front = GUARD.next_multiple_of(align) + dress.shift * align;
        let size = front + bytes.len() + info.tensor_tail_pad + GUARD;
        let mut image = vec![dress.guard; size];
        image[front..front + bytes.len()].copy_from_slice(bytes);
        let buffer = self.subject.device.alloc(0, size).map_err(broken(Check::Execute))?;
        let place = Place { binding: Binding::part(&buffer, front, bytes.len()), image };
        self.load(&place)?;
        Ok(place)
    }

    fn load(&mut self, place: &Place) -> Checked {
        let whole = Binding { offset: 0, bytes: place.image.len(), ..place.binding.clone() };
        self.stream.upload(&whole, &place.image).map_err(broken(Check::Execute))
    }

    fn read(&mut self, place: &Place) -> Checked<Vec<u8>> {
        let mut bytes = vec![0; place.image.len()];
        let whole = Binding { offset: 0, bytes: place.image.len(), ..place.binding.clone() };
        self.stream.download(&mut bytes, &whole).map_err(broken(Check::Execute))?;
        Ok(bytes)
    }

    fn set(&mut self, built: &Built, dress: Dressing) -> Checked<Set> {
        let places = contents(built, dress.poison).map(|bytes| self.place(&bytes, 1, dress));
        let mut places = places.collect::<Checked<Vec<_>>>()?;
        let mut packed = Vec::new();
        for pack in &self.lowered.packs {
            let target = self.pack(pack, &places[pack.bound].binding, dress)?;
            if dress.shift == 0 {
                let elsewhere = Dressing { shift: 1, poison: !dress.poison, ..dress };
                let again = self.pack(pack, &places[pack.bound].binding, elsewhere)?;
                if again.elements() != target.elements() {
                    let why = format!("operand {}, packed twice into one layout, came to other bytes", pack.bound);
                    return Err(Failure::new(Check::Repeat, why));
                }
            }
            packed.push((pack.bound, target));
            // The source may be dropped once it is packed: whoever still reads it finds nothing of it.
            let source = &mut places[pack.bound];
            source.image[source.binding.offset..][..source.binding.bytes].fill(!dress.poison);
            self.load(&places[pack.bound])?;
        }
        let info = self.lowered.info();
        let workspace = self.place(&vec![dress.poison; info.workspace_bytes], info.workspace_align, dress)?;
        Ok(Set { places, packed, workspace })
    }

    /// A constant in the layout that the device asked for.
    fn pack(&mut self, pack: &Pack, source: &Binding, dress: Dressing) -> Checked<Place> {
        let mut target = self.place(&vec![dress.poison; pack.bytes], 1, dress)?;
        let device = &self.subject.device;
        device
            .prepack(&mut *self.stream, &pack.tensor, source, pack.layout, &target.binding)
            .map_err(broken(Check::Execute))?;
        let after = self.read(&target)?;
        guards_hold(&target, &after, &format!("packed operand {}", pack.bound))?;
        target.image = after;
        Ok(target)
    }

    /// Puts everything that may have changed back as it was.
    fn redress(&mut self, set: &mut Set) -> Checked {
        for place in &set.places {
            self.load(place)?;
        }
        self.load(&set.workspace)
    }

    /// Puts other data into the places of a set. What was packed stays as it is, and so does what is left of its source.
    fn refill(&mut self, set: &mut Set, built: &Built, poison: u8) -> Checked {
        let Set { places, packed, .. } = set;
        for (position, (place, bytes)) in places.iter_mut().zip(contents(built, poison)).enumerate() {
            if packed.iter().all(|(of, _)| *of != position) {
                place.image[place.binding.offset..][..bytes.len()].copy_from_slice(&bytes);
            }
        }
        self.redress(set)
    }

    /// Executes, and reads every output; every other byte must be as it was.
    fn execute(&mut self, set: &mut Set, built: &Built) -> Checked<Vec<(Value, Vec<u8>)>> {
        let mut bindings: Vec<Binding> = set.places.iter().map(|p| p.binding.clone()).collect();
        for (position, place) in &set.packed {
            bindings[*position] = place.binding.clone();
        }
        self.lowered.execute(&mut *self.stream, &bindings, &set.workspace.binding).map_err(broken(Check::Execute))?;
        self.stream.sync(self.subject.timeout).map_err(broken(Check::Execute))?;
        let written = built.written();
        let mut outputs = vec![None; written.len()];
        for (position, place) in set.places.iter().enumerate() {
            let after = self.read(place)?;
            let what = format!("operand {position}");
            guards_hold(place, &after, &what)?;
            let range = place.binding.offset..place.binding.offset + place.binding.bytes;
            match written.iter().position(|w| *w == position) {
                Some(output) => {
                    let desc = built.graph.desc(built.outputs[output]);
                    gaps_hold(desc, &place.image[range.clone()], &after[range.clone()], &what)?;
                    let value = Value::load(desc, &after[range.clone()]).map_err(broken(Check::Execute))?;
                    outputs[output] = Some((value, after[range].to_vec()));
                }
                None if after[range.clone()] != place.image[range.clone()] => {
                    let at = first_difference(&after[range.clone()], &place.image[range]);
                    return Err(Failure::new(Check::Inputs, format!("{what} was changed at byte {at}")));
                }
                None => {}
            }
        }
        for (position, place) in &set.packed {
            if self.read(place)? != place.image {
                return Err(Failure::new(Check::Inputs, format!("packed operand {position} was changed")));
            }
        }
        let after = self.read(&set.workspace)?;
        guards_hold(&set.workspace, &after, "the workspace")?;
        Ok(outputs.into_iter().map(|o| o.expect("every output is bound")).collect())
    }
}

/// What each operand holds before an execution: poison where it is an output and nothing else.
fn contents(built: &Built, poison: u8) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let node = &built.graph.nodes()[0];
    built.graph.bound().iter().zip(&built.bytes).map(move |(id, bytes)| {
        let fresh = built.outputs.contains(id) && !node.inputs.contains(&Some(*id));
        if fresh { vec![poison; bytes.len()].into() } else { bytes.as_slice().into() }
    })
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0)
}

/// The bytes before and after an operand are as they were. Behind it, the padding that a device asks for is its own.
fn guards_hold(place: &Place, after: &[u8], what: &str) -> Checked {
    let (start, end) = (place.binding.offset, place.binding.offset + place.binding.bytes);
    if after[..start] != place.image[..start] {
        let at = start - first_difference(&after[..start], &place.image[..start]);
        return Err(Failure::new(Check::Guards, format!("{what}: written {at} bytes before its start")));
    }
    let tail = after.len() - GUARD;
    let behind = end.max(tail);
    if after[behind..] != place.image[behind..] {
        let at = behind - end + first_difference(&after[behind..], &place.image[behind..]);
        return Err(Failure::new(Check::Guards, format!("{what}: written {at} bytes behind its end")));
    }
    Ok(())
}

/// The bytes of a strided output that belong to no element are as they were.
fn gaps_hold(desc: &TensorDesc, before: &[u8], after: &[u8], what: &str) -> Checked {
    if desc.is_contiguous() || desc.dtype.is_packed() {
        return Ok(());
    }
    let size = desc.dtype.block_bytes();
    let mut element = vec![false; before.len()];
    for at in Walk::new(&desc.shape, &desc.strides) {
        element[at * size..(at + 1) * size].fill(true);
    }
    match (0..before.len()).find(|&i| !element[i] && before[i] != after[i]) {
        Some(at) => Err(Failure::new(Check::Guards, format!("{what}: written between its elements, at byte {at}"))),
        None => Ok(()),
    }
}

fn same(a: &[(Value, Vec<u8>)], b: &[(Value, Vec<u8>)]) -> bool {
    a.iter().zip(b).all(|((_, a), (_, b))| a == b)
}

/// Compares outputs with the truth: how far each is off, and the first that is too far.
fn compare(golden: &Golden, outputs: &[(Value, Vec<u8>)], built: &Built, poison: u8) -> (Vec<Measured>, Checked) {
    let values: Vec<Value> = outputs.iter().map(|(value, _)| value.clone()).collect();
    let mut measured = Vec::with_capacity(values.len());
    let mut judged = Ok(());
    for (i, c) in golden.compare(&values).iter().enumerate() {
        let (got, want, limits) = (&values[i].data, &golden.outputs[i].data, &golden.limits[i]);
        let m = Measured::of(i, c, got, want, limits);
        if !c.passes() && judged.is_ok() {
            let check = match c.worst {
                Some(at) if is_poison(built.graph.desc(built.outputs[i]), &outputs[i].1, at, poison) => {
                    Check::Unwritten
                }
                _ if c.special_mismatches > 0 => Check::Special,
                _ => Check::Limit,
            };
            let at = c.worst.map_or(String::new(), |at| position(&values[i].shape, at));
            let limit = m.limit.map_or("none".into(), |l| format!("{l:.3e}"));
            let why = format!(
                "output {i}: {} of {} elements; worst at {at}: {} instead of {}, limit {limit}",
                c.failures, c.elements, m.got, m.want
            );
            judged = Err(Failure::new(check, why));
        }
        measured.push(m);
    }
    let judged = judged.and_then(|()| bits_hold(golden, &values, outputs, built));
    let judged = judged.and_then(|()| nearest(golden, &values, built));
    (measured, judged)
}

/// Whether a norm rounds before its weight, or does not, shows in the last place alone, within the limits of either: where the two
/// differ, most results must be nearer to what was asked.
fn rounded_as_asked(trial: &Trial, golden: &Golden, outputs: &[(Value, Vec<u8>)]) -> Checked {
    /// Elements from which most of them are no chance.
    const ENOUGH: usize = 24;
    let turned = |attrs: NormAttrs| NormAttrs { round_before_weight: !attrs.round_before_weight, ..attrs };
    let other = match trial.op() {
        Op::RmsNorm(attrs) => Op::RmsNorm(turned(attrs)),
        Op::AddRmsNorm(attrs) => Op::AddRmsNorm(turned(attrs)),
        _ => return Ok(()),
    };
    let other = trial.clone().with_op(other).golden(None).map_err(broken(Check::Support))?;
    for (i, (got, _)) in outputs.iter().enumerate() {
        let (asked, turned) = (&golden.outputs[i].data, &other.outputs[i].data);
        let (mut differ, mut astray) = (0, 0);
        // What lies within a few roundings of f32 tells nothing.
        let apart = |y: f64, z: f64| (y - z).abs() > 2f64.powi(-16) * y.abs();
        for ((x, y), z) in got.data.iter().zip(asked).zip(turned).filter(|((_, y), z)| apart(**y, **z)) {
            differ += 1;
            astray += usize::from((x - z).abs() < (x - y).abs());
        }
        if differ >= ENOUGH && astray * 4 >= differ * 3 {
            let why = format!(
                "output {i}: {astray} of the {differ} elements for which it matters are those of the other value of \
                 round_before_weight"
            );
            return Err(Failure::new(Check::Limit, why));
        }
    }
    Ok(())
}

/// Results of two bytes are rounded to nearest: cut off, half of them would be one unit in the last place too small, each
/// within its limit.
fn nearest(golden: &Golden, values: &[Value], built: &Built) -> Checked {
    /// Elements from which the share of those that are too small is told from chance.
    const ENOUGH: usize = 200;
    for (i, (got, want)) in values.iter().zip(&golden.outputs).enumerate() {
        let dtype = built.graph.desc(built.outputs[i]).dtype;
        if !matches!(dtype, DType::F16 | DType::BF16) {
            continue;
        }
        let (mut judged, mut below, mut off) = (0, 0, 0);
        // Smaller numbers may be flushed.
        let normal = |y: f64| y.is_finite() && y.abs() >= 2.0 * min_normal(dtype);
        for (&x, &y) in got.data.iter().zip(&want.data).filter(|(_, y)| normal(**y)) {
            judged += 1;
            let cut = y.abs() - x.abs();
            below += usize::from(cut > 0.0 && cut <= ulp(dtype, y) && x * y > 0.0);
            off += usize::from(cut != 0.0);
        }
        if judged >= ENOUGH && below * 5 >= judged * 2 && below * 20 >= off * 19 {
            let why = format!(
                "output {i}: {below} of {judged} elements are one unit in the last place nearer to zero, {} further from \
                 it: results are cut off, and not rounded to nearest",
                off - below
            );
            return Err(Failure::new(Check::Limit, why));
        }
    }
    Ok(())
}

/// What a comparison of numbers does not see, in operators that are exact: the sign of a zero, and where elements are only
/// moved every bit, those of a NaN included. A NaN that an operator makes itself may be any.
fn bits_hold(golden: &Golden, values: &[Value], outputs: &[(Value, Vec<u8>)], built: &Built) -> Checked {
    if class(built.graph.node(0).kind()) != Class::Exact {
        return Ok(());
    }
    for (i, (got, want)) in values.iter().zip(&golden.outputs).enumerate() {
        let sign = |(x, y): (&f64, &f64)| *x == 0.0 && *y == 0.0 && x.is_sign_negative() != y.is_sign_negative();
        if let Some(at) = got.data.iter().zip(&want.data).position(sign) {
            let why = format!("output {i}: the zero at {} has the other sign", position(&got.shape, at));
            return Err(Failure::new(Check::Limit, why));
        }
        let Some(want) = &golden.bytes[i] else { continue };
        let got = load_exact(built.graph.desc(built.outputs[i]), &outputs[i].1).map_err(broken(Check::Execute))?.1;
        if let Some(at) = got.iter().zip(want).position(|(g, w)| g != w) {
            let why = format!("output {i}: byte {at} is {:#04x} instead of {:#04x}, bit for bit", got[at], want[at]);
            return Err(Failure::new(Check::Limit, why));
        }
    }
    Ok(())
}

/// `[row, column]` of an element, from its position in row-major order.
fn position(shape: &[usize], mut at: usize) -> String {
    let mut index = vec![0; shape.len()];
    for (i, &dim) in shape.iter().enumerate().rev() {
        index[i] = at % dim.max(1);
        at /= dim.max(1);
    }
    format!("{index:?}")
}

/// Whether an element still holds the poison.
fn is_poison(desc: &TensorDesc, bytes: &[u8], element: usize, poison: u8) -> bool {
    if desc.dtype.is_packed() {
        return false;
    }
    let size = desc.dtype.block_bytes();
    let at = Walk::new(&desc.shape, &desc.strides).nth(element).unwrap_or(0) * size;
    bytes[at..at + size].iter().all(|b| *b == poison)
}

/// Keeps, for each output, the measurement with the larger margin.
fn keep_worst(kept: &mut [Measured], other: Vec<Measured>) {
    for (kept, other) in kept.iter_mut().zip(other) {
        let margin = |m: &Measured| m.margin.unwrap_or(f64::INFINITY);
        if margin(&other) > margin(kept) {
            *kept = other;
        }
    }
}
