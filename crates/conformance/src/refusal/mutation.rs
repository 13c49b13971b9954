//! Single changes to a valid description.

use qiao_core::DType;

use super::draft::{Draft, Piece, Place, Sketch};

/// A private layout that no device has named.
const NO_LAYOUT: u64 = 0x5eed_0bad_c0de_0001;

/// Attributes that are real numbers.
const REALS: &[&str] = &["value", "eps", "clamp", "scale", "softcap"];

/// One of the tensors of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Input(usize),
    Output(usize),
}

/// What is changed about a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// One more dim, in front, of size 1.
    RankUp,
    /// One dim less, the first.
    RankDown,
    /// One more element along an axis.
    Longer(usize),
    /// Another dtype.
    Dtype(DType),
    /// Nine dims.
    RankNine,
    /// More elements than can be counted.
    Overflow,
    /// The same, written past the constructor.
    OverflowByHand,
    /// Strides of another rank, written past the constructor.
    StridesByHand,
    /// Given to the constructor, strides of another rank.
    Strides,
    /// One element repeated along an axis, in an output.
    Repeated,
    /// An output that is constant.
    Constant,
    /// An output in a private layout.
    Layout,
    /// Elsewhere than it should be.
    Place(Place),
}

/// A single change to a description.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mutation {
    /// Of one tensor.
    Tensor(Side, Change),
    /// A required operand is left out.
    Missing(usize),
    /// An optional operand is given that the attributes have no use for.
    Uncalled(usize),
    /// One operand more than the operator has.
    OneTooMany,
    /// One output less.
    OutputMissing,
    /// One output more.
    OutputTooMany,
    /// An attribute has another word, which the name describes.
    Word(usize, &'static str, u32),
    /// A word is used behind the last attribute.
    UnknownTail,
}

impl Mutation {
    /// Every change that could be made to a draft, whether or not it is legal.
    pub(crate) fn all(draft: &Draft) -> Vec<Mutation> {
        let mut all = Vec::new();
        for i in 0..draft.inputs.len() {
            if let Some(sketch) = draft.input(i) {
                let side = Side::Input(i);
                all.extend(shapes(sketch).into_iter().map(|c| Mutation::Tensor(side, c)));
                let places = [Place::Unwritten, Place::OfAnotherGraph].map(Change::Place);
                all.extend(places.map(|c| Mutation::Tensor(side, c)));
                all.push(Mutation::Missing(i));
            }
        }
        all.extend((0..draft.kind.inputs().len()).map(Mutation::Uncalled));
        all.extend([Mutation::OneTooMany, Mutation::OutputMissing, Mutation::OutputTooMany, Mutation::UnknownTail]);
        for (o, piece) in draft.outputs.iter().enumerate() {
            if matches!(piece.place, Place::SameAs(_)) {
                continue;
            }
            let side = Side::Output(o);
            all.extend(shapes(&piece.sketch).into_iter().map(|c| Mutation::Tensor(side, c)));
            all.extend([Change::Repeated, Change::Constant, Change::Layout].map(|c| Mutation::Tensor(side, c)));
            let places = [Place::WrittenBefore, Place::OfAnotherGraph].into_iter();
            let inputs = (0..draft.inputs.len()).filter(|&i| draft.input(i).is_some()).map(Place::WithInput);
            let places = places.chain(inputs).chain((0..o).map(Place::WithOutput));
            all.extend(places.map(|p| Mutation::Tensor(side, Change::Place(p))));
        }
        all.extend(words(draft));
        all
    }

    /// The draft with the change made, where it can be made at all.
    pub(crate) fn apply(&self, draft: &Draft) -> Option<Draft> {
        let mut out = draft.clone();
        match *self {
            Mutation::Tensor(side, change) => {
                let piece = match side {
                    Side::Input(i) => out.inputs[i].as_mut()?,
                    Side::Output(o) => &mut out.outputs[o],
                };
                *piece = changed(piece, change)?;
            }
            Mutation::Missing(i) => {
                let operand = draft.kind.inputs().get(i).or(draft.kind.inputs().last())?;
                if operand.optional {
                    return None;
                }
                out.inputs[i] = None;
            }
            Mutation::Uncalled(i) => {
                let sketch = uncalled(draft, i)?;
                out.inputs.resize(out.inputs.len().max(i + 1), None);
                out.inputs[i] = Some(Piece { sketch, place: Place::Bound });
            }
            Mutation::OneTooMany => {
                let extra = draft.inputs.iter().flatten().next().or(draft.outputs.first())?.clone();
                out.inputs.resize(out.inputs.len().max(draft.kind.inputs().len()), None);
                out.inputs.push(Some(Piece { place: Place::Bound, ..extra }));
            }
            Mutation::OutputMissing => drop(out.outputs.pop()?),
            Mutation::OutputTooMany => {
                let extra = out.outputs.last()?.clone();
                out.outputs.push(Piece { place: Place::Bound, ..extra });
            }
            Mutation::Word(at, _, word) => out.words[at] = word,
            Mutation::UnknownTail => out.words.push(1),
        }
        Some(out)
    }

    /// What stands behind the operator in its path.
    pub(crate) fn name(&self, draft: &Draft) -> String {
        match self {
            Mutation::Tensor(Side::Input(i), change) => format!("{}.{}", input_name(draft, *i), change.name(draft)),
            Mutation::Tensor(Side::Output(o), change) => format!("{}.{}", output_name(draft, *o), change.name(draft)),
            Mutation::Missing(i) => format!("{}.missing", input_name(draft, *i)),
            Mutation::Uncalled(i) => format!("{}.uncalled_for", input_name(draft, *i)),
            Mutation::OneTooMany => "one_operand_too_many".into(),
            Mutation::OutputMissing => "one_output_too_few".into(),
            Mutation::OutputTooMany => "one_output_too_many".into(),
            Mutation::Word(at, what, _) => format!("{}={what}", draft.kind.attr_names()[*at]),
            Mutation::UnknownTail => "unknown_tail_used".into(),
        }
    }
}

fn input_name(draft: &Draft, index: usize) -> String {
    let inputs = draft.kind.inputs();
    match inputs.get(index).filter(|o| !o.variadic).or(inputs.last()) {
        Some(o) if o.variadic => format!("{}{index}", o.name),
        Some(o) => o.name.into(),
        None => format!("operand{index}"),
    }
}

fn output_name(draft: &Draft, index: usize) -> String {
    let outputs = draft.kind.outputs();
    match outputs.get(index).filter(|o| !o.variadic).or(outputs.last()) {
        Some(o) if o.variadic => format!("{}{index}", o.name),
        Some(o) => o.name.into(),
        None => format!("output{index}"),
    }
}

impl Change {
    fn name(self, draft: &Draft) -> String {
        match self {
            Change::RankUp => "one_dim_more".into(),
            Change::RankDown => "one_dim_less".into(),
            Change::Longer(axis) => format!("dim{axis}_one_longer"),
            Change::Dtype(dtype) => format!("dtype={dtype}"),
            Change::RankNine => "nine_dims".into(),
            Change::Overflow => "too_many_elements".into(),
            Change::OverflowByHand => "too_many_elements_by_hand".into(),
            Change::Strides => "strides_of_another_rank".into(),
            Change::StridesByHand => "strides_of_another_rank_by_hand".into(),
            Change::Repeated => "zero_stride".into(),
            Change::Constant => "constant".into(),
            Change::Layout => "private_layout".into(),
            Change::Place(Place::WithInput(i)) => format!("shares_storage_with_{}", input_name(draft, i)),
            Change::Place(Place::WithOutput(o)) => format!("shares_storage_with_{}", output_name(draft, o)),
            Change::Place(Place::Unwritten) => "never_written".into(),
            Change::Place(Place::WrittenBefore) => "written_before".into(),
            Change::Place(_) => "of_another_graph".into(),
        }
    }
}

/// Changes of shape and dtype that can be made to any tensor.
fn shapes(sketch: &Sketch) -> Vec<Change> {
    let mut all = vec![Change::RankUp, Change::RankDown, Change::RankNine, Change::Strides, Change::StridesByHand];
    all.extend([Change::Overflow, Change::OverflowByHand]);
    all.extend((0..sketch.shape.len()).map(Change::Longer));
    // An integer for a float, a float for anything else, and codes that share bytes.
    let plain = if sketch.dtype.is_float() && !sketch.dtype.is_packed() { DType::I32 } else { DType::F32 };
    all.extend([Change::Dtype(plain), Change::Dtype(DType::I4), Change::Dtype(DType::Bool)]);
    all
}

fn changed(piece: &Piece, change: Change) -> Option<Piece> {
    let sketch = &piece.sketch;
    let shape = &sketch.shape;
    let with_dims = |dims: Vec<usize>| Some(sketch.shaped(&dims));
    let sketch = match change {
        Change::RankUp => with_dims([&[1], &shape[..]].concat()),
        Change::RankDown => with_dims(shape.get(1..)?.to_vec()),
        Change::Longer(axis) => {
            let mut dims = shape.clone();
            dims[axis] += 1;
            with_dims(dims)
        }
        Change::RankNine => with_dims([&vec![1; 9usize.checked_sub(shape.len())?][..], shape].concat()),
        Change::Dtype(dtype) => {
            let sketch = Sketch { dtype, ..sketch.shaped(shape) };
            // What no tensor of the dtype could be is not a matter of the operator.
            (dtype != piece.sketch.dtype && sketch.desc().is_ok()).then_some(sketch)
        }
        Change::Overflow | Change::OverflowByHand => {
            let mut dims = shape.clone();
            *dims.first_mut()? = usize::MAX;
            let sketch = sketch.shaped(&dims);
            let overflows = sketch.desc().is_err();
            overflows.then_some(Sketch { by_hand: change == Change::OverflowByHand, ..sketch })
        }
        Change::Strides | Change::StridesByHand => {
            let mut sketch = sketch.clone();
            if sketch.strides.pop().is_none() {
                sketch.strides.push(1);
            }
            sketch.by_hand = change == Change::StridesByHand;
            Some(sketch)
        }
        Change::Repeated => {
            let axis = shape.iter().position(|&d| d > 1)?;
            let mut sketch = sketch.clone();
            sketch.strides[axis] = 0;
            Some(sketch)
        }
        Change::Constant => Some(Sketch { constant: true, ..sketch.clone() }),
        Change::Layout => Some(Sketch { layout: NO_LAYOUT, ..sketch.clone() }),
        Change::Place(_) => Some(sketch.clone()),
    }?;
    let place = if let Change::Place(place) = change { place } else { piece.place };
    Some(Piece { sketch, place })
}

/// An operand of a fitting shape that the attributes have no use for: bias and residual without an epilogue that adds
/// them, scales of a cache that has none.
fn uncalled(draft: &Draft, index: usize) -> Option<Sketch> {
    if draft.input(index).is_some() {
        return None;
    }
    let (name, out) = (draft.kind.inputs().get(index)?.name, &draft.outputs.first()?.sketch);
    match name {
        "bias" if draft.word("epilogue") == Some(0) => Some(out.shaped(out.shape.last_chunk::<1>()?)),
        "residual" if draft.word("epilogue").is_some_and(|e| e != 2) => Some(out.clone()),
        "k_scale" | "v_scale" => {
            let cache = draft.inputs.iter().flatten().map(|p| &p.sketch).find(|s| s.shape.len() == 4)?;
            let plain = cache.dtype.is_activation();
            plain.then(|| Sketch { dtype: DType::F32, ..cache.shaped(&cache.shape[..3]) })
        }
        _ => None,
    }
}

/// Words that attributes must not have: those of no value, and those that the operands contradict.
fn words(draft: &Draft) -> Vec<Mutation> {
    let shape = draft.input(0).map_or(&[][..], |s| &s.shape);
    let (rank, last) = (shape.len() as u32, shape.last().copied().unwrap_or(0) as u32);
    let axis = draft.word("axis").unwrap_or(0) as usize;
    let along = shape.get(axis).copied().unwrap_or(0) as u32;
    let mut all = Vec::new();
    for (at, &name) in draft.kind.attr_names().iter().enumerate() {
        let now = draft.words[at];
        // Enumerations and flags have no such value, and no tensor has such a size.
        let beyond = if REALS.contains(&name) { ("nan", f32::NAN.to_bits()) } else { ("beyond", u32::MAX) };
        let mut list = vec![beyond];
        match name {
            "eps" | "clamp" | "softcap" => {
                list.extend([("negative", (-1f32).to_bits()), ("infinite", f32::INFINITY.to_bits())]);
            }
            "scale" => list.extend([("negative", (-1f32).to_bits()), ("infinite", f32::INFINITY.to_bits())]),
            "weight_offset" => list.push(("two", 2)),
            "axis" => list.push(("rank", rank)),
            "k" => list.extend([("none", 0), ("all_and_one", last + 1)]),
            "rotary_dim" => list.extend([("odd", 3), ("more_than_all", last + 2)]),
            "offset" => list.push(("all", last)),
            "parts" => list.extend([("none", 0), ("one_more", now + 1), ("more_than_all", along + 1)]),
            "start" => list.push(("end", along)),
            "len" => list.extend([("one_more", now + 1), ("more_than_all", along + 1)]),
            "perm" => {
                list.extend([("one_axis_twice", 0x1111_1111), ("an_axis_too_many", now | 1 << (4 * rank.min(7)))])
            }
            "epilogue" => {
                let given = |operand: &str| {
                    let at = draft.kind.inputs().iter().position(|o| o.name == operand);
                    at.is_some_and(|at| draft.input(at).is_some())
                };
                list.extend((!given("bias")).then_some(("bias_without_one", 1)));
                list.extend((!given("residual")).then_some(("residual_without_one", 2)));
            }
            _ => {}
        }
        all.extend(
            list.into_iter().filter(|(_, word)| *word != now).map(|(what, word)| Mutation::Word(at, what, word)),
        );
    }
    all
}
