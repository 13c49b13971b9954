//! A node as it is described, valid or not.

use qiao_core::{DType, Dims, Error, FillAttrs, Graph, Op, OpKind, Result, TensorDesc, TensorId};
use qiao_reference::trial;

/// A tensor as it is described, valid or not.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) layout: u64,
    pub(crate) constant: bool,
    /// Put together field by field instead of by its constructor.
    pub(crate) by_hand: bool,
}

impl Sketch {
    fn of(desc: &TensorDesc) -> Sketch {
        Sketch {
            dtype: desc.dtype,
            shape: desc.shape.to_vec(),
            strides: desc.strides.to_vec(),
            layout: desc.layout,
            constant: desc.constant,
            by_hand: false,
        }
    }

    /// The same with another shape, contiguous.
    pub(crate) fn shaped(&self, shape: &[usize]) -> Sketch {
        let mut strides = vec![1usize; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
        }
        Sketch { shape: shape.to_vec(), strides, ..self.clone() }
    }

    /// The tensor it describes.
    pub(crate) fn desc(&self) -> Result<TensorDesc> {
        let desc = if self.by_hand {
            let (shape, strides) = (Dims::new(&self.shape)?, Dims::new(&self.strides)?);
            TensorDesc { dtype: self.dtype, shape, strides, layout: 0, constant: false }
        } else {
            TensorDesc::strided(self.dtype, &self.shape, &self.strides)?
        };
        Ok(TensorDesc { layout: self.layout, constant: self.constant, ..desc })
    }
}

/// Where a tensor of a draft is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bound by itself.
    Bound,
    /// The very tensor of this input.
    SameAs(usize),
    /// In storage that this input has, too.
    WithInput(usize),
    /// In storage that this output has, too.
    WithOutput(usize),
    /// A temporary that no node writes.
    Unwritten,
    /// A temporary that another node writes first.
    WrittenBefore,
    /// A tensor of another graph.
    OfAnotherGraph,
}

/// A tensor of a draft.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) sketch: Sketch,
    pub(crate) place: Place,
}

/// A node as it is described.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) kind: OpKind,
    /// The attributes, word by word.
    pub(crate) words: Vec<u32>,
    pub(crate) inputs: Vec<Option<Piece>>,
    pub(crate) outputs: Vec<Piece>,
}

/// What became of a draft.
pub(crate) enum Built {
    /// Its words stand for no attributes.
    NoAttributes,
    /// It was refused.
    Refused(Error),
    /// It was taken.
    Taken(Box<Graph>),
}

impl Draft {
    /// The node of a trial.
    pub(crate) fn of(built: &trial::Built) -> Draft {
        let (graph, node) = (&built.graph, &built.graph.nodes()[0]);
        let piece = |id: TensorId, place| Piece { sketch: Sketch::of(graph.desc(id)), place };
        let output = |&id: &TensorId| {
            let input = node.inputs.iter().position(|i| *i == Some(id));
            piece(id, input.map_or(Place::Bound, Place::SameAs))
        };
        Draft {
            kind: node.op.kind(),
            words: node.op.attr_words(),
            inputs: node.inputs.iter().map(|id| id.map(|id| piece(id, Place::Bound))).collect(),
            outputs: node.outputs.iter().map(output).collect(),
        }
    }

    /// Which operands are given.
    pub(crate) fn given(&self) -> Vec<bool> {
        self.inputs.iter().map(Option::is_some).collect()
    }

    /// The description of an input that is given.
    pub(crate) fn input(&self, index: usize) -> Option<&Sketch> {
        self.inputs.get(index).and_then(Option::as_ref).map(|piece| &piece.sketch)
    }

    /// The word of an attribute.
    pub(crate) fn word(&self, name: &str) -> Option<u32> {
        let at = self.kind.attr_names().iter().position(|n| *n == name)?;
        self.words.get(at).copied()
    }

    /// Builds the graph of the node, as far as it goes.
    pub(crate) fn build(&self) -> Built {
        match Op::from_words(self.kind, &self.words) {
            None => Built::NoAttributes,
            Some(op) => self.graph(op).map_or_else(Built::Refused, |graph| Built::Taken(Box::new(graph))),
        }
    }

    fn graph(&self, op: Op) -> Result<Graph> {
        let mut graph = Graph::new();
        // Storage for an input and an output that are to share it.
        let shared = self.outputs.iter().enumerate().find_map(|(o, piece)| match piece.place {
            Place::WithInput(i) => Some((self.inputs[i].as_ref(), o)),
            _ => None,
        });
        let pool = match shared {
            Some((Some(input), o)) => {
                let bytes = input.sketch.desc()?.bytes()?.max(self.outputs[o].sketch.desc()?.bytes()?);
                Some(graph.bind("shared", TensorDesc::new(DType::U8, &[bytes])?))
            }
            _ => None,
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (i, piece) in self.inputs.iter().enumerate() {
            let Some(piece) = piece else {
                inputs.push(None);
                continue;
            };
            let sharing = self.outputs.iter().any(|o| o.place == Place::WithInput(i));
            inputs.push(Some(match pool.filter(|_| sharing) {
                Some(pool) => graph.view(pool, piece.sketch.desc()?, 0)?,
                None => place(&mut graph, piece)?,
            }));
        }
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for piece in &self.outputs {
            outputs.push(match piece.place {
                Place::SameAs(i) => inputs[i].ok_or_else(|| left_out("an output in place of it"))?,
                Place::WithInput(_) => graph.view(
                    pool.ok_or_else(|| left_out("an output that shares its storage"))?,
                    piece.sketch.desc()?,
                    0,
                )?,
                Place::WithOutput(o) => graph.view(outputs[o], piece.sketch.desc()?, 0)?,
                _ => place(&mut graph, piece)?,
            });
        }
        graph.add_into(op, &inputs, &outputs)?;
        Ok(graph)
    }
}

fn left_out(wanted: &str) -> Error {
    Error::invalid("operand", "it was left out", format!("give it, or give up {wanted}"))
}

fn place(graph: &mut Graph, piece: &Piece) -> Result<TensorId> {
    let desc = piece.sketch.desc()?;
    match piece.place {
        Place::Unwritten => Ok(graph.temporary("unwritten", desc)),
        Place::WrittenBefore => {
            let id = graph.temporary("twice", desc);
            graph.add_into(Op::Fill(FillAttrs::default()), &[], &[id])?;
            Ok(id)
        }
        Place::OfAnotherGraph => {
            let mut other = graph.clone();
            // Far enough on that this graph has no tensor of that number.
            for _ in 0..64 {
                other.bind("elsewhere", desc.clone());
            }
            Ok(other.bind("elsewhere", desc))
        }
        _ => Ok(graph.bind("operand", desc)),
    }
}
