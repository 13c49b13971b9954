//! A graph of the boundary, read into memory of our own. What a newer host asks for that is unknown here becomes a refusal of
//! the operator, with its reason.

use std::ffi::c_void;

use qiao_core::{DType, Dims, MAX_RANK, Op, OpKind, TensorDesc};

use crate::abi::{self, Status};
use crate::dtypes;
use crate::export::fault::{Fault, Result};
use crate::export::wire::{Array, In, extensions, struct_size, tail_is_zero};

/// The most tensors and operators of a graph, and operands of an operator: far above any model, far below what a wild number
/// would make us read.
const MOST: u32 = 1 << 20;
const MOST_OPERANDS: u32 = 1 << 16;

/// A graph as it was given.
pub(super) struct Request {
    pub(super) tensors: Vec<Tensor>,
    pub(super) ops: Vec<Asked>,
    /// Indices of tensors, in order of the bindings.
    pub(super) bound: Vec<u32>,
}

/// A tensor as it was given.
pub(super) struct Tensor {
    /// What it is, or the number of its dtype where that is unknown.
    pub(super) desc: Result<TensorDesc, u32>,
    pub(super) layout: u64,
    pub(super) bound: Option<usize>,
    /// Index of a tensor, and bytes from its start.
    pub(super) view: Option<(usize, usize)>,
}

/// An operator as it was given, with operands that are tensors of the graph.
pub(super) struct Asked {
    pub(super) op: Result<Op, Refusal>,
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) outputs: Vec<usize>,
}

/// Why an operator can't be asked about here at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What `plan_create` answers.
    pub(super) code: Status,
    pub(super) reason: u32,
    pub(super) operand: i32,
    pub(super) property: u32,
    pub(super) value: i64,
    pub(super) message: String,
}

impl Refusal {
    fn new(reason: u32, value: i64, message: impl Into<String>) -> Self {
        Refusal { code: abi::ERR_UNSUPPORTED, reason, operand: 0, property: 0, value, message: message.into() }
    }

    /// An operand whose dtype is unknown.
    pub(super) fn dtype(operand: usize, number: u32) -> Self {
        let message = format!("operand {operand}: dtype {number:#x} is not known to this plugin");
        Refusal { operand: operand as i32 + 1, ..Refusal::new(abi::REASON_DTYPE, i64::from(number), message) }
    }
}

impl From<Refusal> for Fault {
    fn from(r: Refusal) -> Self {
        Fault { code: r.code, operand: r.operand, reason: r.reason, message: r.message }
    }
}

impl Request {
    /// Reads a graph.
    ///
    /// # Errors
    /// A struct, count, index or description that is none.
    ///
    /// # Safety
    /// Every pointer in the graph is NULL or valid for reads of what the header says lies behind it.
    pub(super) unsafe fn read(graph: &In<abi::Graph>) -> Result<Request> {
        let graph = graph.read("graph")?;
        // SAFETY: the pointers of a graph are lent for the call.
        let (tensors, ops, bound) = unsafe {
            extensions(graph.ext, "graph")?;
            (Array::new(graph.tensors), Array::new(graph.ops), Array::new(graph.bound))
        };
        let bound: Vec<u32> = bound.read("bound tensors", graph.n_bound, MOST)?.collect();
        let mut request = Request { tensors: Vec::new(), ops: Vec::new(), bound };
        for (i, tensor) in tensors.read("tensors", graph.n_tensors, MOST)?.enumerate() {
            // SAFETY: as above.
            let tensor = unsafe { Tensor::read(&In::new(tensor)) }.map_err(|f| f.of(format!("tensor {i}")))?;
            request.tensors.push(tensor);
        }
        request.check_storage()?;
        for (i, op) in ops.read("operators", graph.n_ops, MOST)?.enumerate() {
            // SAFETY: as above.
            let op = unsafe { request.read_op(&In::new(op)) }.map_err(|f| f.of(format!("op {i}")))?;
            request.ops.push(op);
        }
        Ok(request)
    }

    /// Checks that bindings and tensors name each other, and that views are of tensors that own their bytes.
    fn check_storage(&self) -> Result<()> {
        for (position, &index) in self.bound.iter().enumerate() {
            let tensor = self.tensors.get(index as usize);
            if tensor.is_none_or(|t| t.bound != Some(position)) {
                let found = format!("tensor {index} does not say that it is bound there");
                return Err(Fault::invalid(
                    format!("binding {position}"),
                    found,
                    "set its `bound` to the position + 1",
                ));
            }
        }
        for (index, tensor) in self.tensors.iter().enumerate() {
            let what = || format!("tensor {index}");
            if let Some(position) = tensor.bound
                && self.bound.get(position) != Some(&(index as u32))
            {
                let found = format!("it says that it is bound at {position}, which the graph does not say");
                return Err(Fault::invalid(what(), found, "list it in the graph's `bound`"));
            }
            let Some((of, _)) = tensor.view else { continue };
            if tensor.bound.is_some() || self.tensors.get(of).is_none_or(|t| t.view.is_some()) {
                let found = format!("it is a view of tensor {of}");
                let mend = "view a tensor of the graph that is no view, and bind that";
                return Err(Fault::invalid(what(), found, mend));
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Request::read`].
    unsafe fn read_op(&self, op: &In<abi::Op>) -> Result<Asked> {
        let op = op.read("operator")?;
        // SAFETY: as promised.
        let operands = unsafe {
            extensions(op.ext, "operator")?;
            Array::new(op.operands)
        };
        let flags =
            |flags| Fault::abi(format!("operator: flags {flags:#x} are not known; leave them 0 or update the plugin"));
        if op.flags != 0 {
            return Err(flags(op.flags));
        }
        let (n_in, n_out) = (op.n_in.min(MOST_OPERANDS + 1), op.n_out.min(MOST_OPERANDS + 1));
        let operands: Vec<u32> = operands.read("operands", n_in + n_out, MOST_OPERANDS)?.collect();
        let index = |(i, &operand): (usize, &u32)| match operand {
            abi::ABSENT if i < n_in as usize => Ok(None),
            n if (n as usize) < self.tensors.len() => Ok(Some(n as usize)),
            n => {
                let found = format!("tensor {n} of {}", self.tensors.len());
                Err(Fault::invalid(format!("operand {i}"), found, "use indices into the graph's tensors"))
            }
        };
        let mut operands = operands.iter().enumerate().map(index).collect::<Result<Vec<_>>>()?;
        let outputs: Vec<usize> = operands.split_off(n_in as usize).into_iter().flatten().collect();
        // SAFETY: as promised.
        let op = match unsafe { operator(&op)? } {
            Ok(op) => self.unknown_dtype(&operands, &outputs).map_or(Ok(op), Err),
            refused => refused,
        };
        Ok(Asked { op, inputs: operands, outputs })
    }

    /// The first operand that is, or lies in, a tensor of an unknown dtype.
    fn unknown_dtype(&self, inputs: &[Option<usize>], outputs: &[usize]) -> Option<Refusal> {
        let outs = outputs.iter().map(|&i| Some(i));
        inputs
            .iter()
            .copied()
            .chain(outs)
            .enumerate()
            .find_map(|(operand, tensor)| self.unknown(tensor?).map(|number| Refusal::dtype(operand, number)))
    }

    /// The unknown dtype of a tensor or of what it lies in.
    pub(super) fn unknown(&self, index: usize) -> Option<u32> {
        let tensor = &self.tensors[index];
        let root = tensor.view.map_or(tensor, |(of, _)| &self.tensors[of]);
        tensor.desc.as_ref().err().or(root.desc.as_ref().err()).copied()
    }
}

impl Tensor {
    /// Reads a tensor.
    ///
    /// # Errors
    /// A struct, rank, dim or stride that is none.
    ///
    /// # Safety
    /// As [`Request::read`].
    pub(super) unsafe fn read(tensor: &In<abi::Tensor>) -> Result<Tensor> {
        let t = tensor.read("tensor")?;
        // SAFETY: as promised.
        unsafe { extensions(t.ext, "tensor")? };
        if t.flags & !abi::TENSOR_CONST != 0 {
            let message = format!("flags {:#x} are not known; leave them out or update the plugin", t.flags);
            return Err(Fault::abi(message));
        }
        let rank = t.rank as usize;
        if rank > MAX_RANK {
            return Err(Fault::invalid("rank", format!("{rank}"), format!("use at most {MAX_RANK} dims")));
        }
        let sizes = |what: &str, from: &[i64]| {
            let size = |&v: &i64| usize::try_from(v).map_err(|_| Fault::invalid(what, format!("{v}"), "use 0 or more"));
            let sizes = from.iter().map(size).collect::<Result<Vec<_>>>()?;
            Dims::new(&sizes).map_err(Fault::from)
        };
        let (shape, strides) = (sizes("dim", &t.dims[..rank])?, sizes("stride", &t.strides[..rank])?);
        let constant = t.flags & abi::TENSOR_CONST != 0;
        let desc =
            dtypes::from_c(t.dtype).map(|dtype: DType| TensorDesc { dtype, shape, strides, layout: 0, constant });
        if let Some(desc) = &desc {
            desc.check()?;
        }
        let offset = usize::try_from(t.view_offset).map_err(|_| Fault::invalid("view", "its offset", "use less"))?;
        Ok(Tensor {
            desc: desc.ok_or(t.dtype),
            layout: t.layout,
            bound: (t.bound as usize).checked_sub(1),
            view: (t.view_of as usize).checked_sub(1).map(|of| (of, offset)),
        })
    }

    /// What it is, for a call that takes a tensor by itself.
    pub(super) fn known(self) -> Result<TensorDesc> {
        if self.layout != 0 {
            let found = format!("it is in private layout {:#x}", self.layout);
            return Err(Fault::invalid("tensor", found, "describe it as it was before it was packed"));
        }
        self.desc.map_err(|number| Fault::unsupported(format!("dtype {number:#x} is not known to this plugin")))
    }
}

/// The operator that an opcode and its attributes stand for.
///
/// # Safety
/// As [`Request::read`].
unsafe fn operator(op: &abi::Op) -> Result<Result<Op, Refusal>> {
    let Some(kind) = OpKind::from_opcode(op.opcode) else {
        let message = format!("opcode {} is not known to this plugin", op.opcode);
        return Ok(Err(Refusal::new(abi::REASON_OPCODE, i64::from(op.opcode), message)));
    };
    if op.revision != 0 {
        let message = format!("{kind}: revision {} is not known to this plugin, which knows 0", op.revision);
        return Ok(Err(Refusal::new(abi::REASON_REVISION, i64::from(op.revision), message)));
    }
    // SAFETY: as promised.
    let words = match unsafe { attributes(kind, op.attrs)? } {
        Ok(words) => words,
        Err(refusal) => return Ok(Err(refusal)),
    };
    Ok(Op::from_words(kind, &words).ok_or_else(|| {
        // The first word that stands for nothing is the last of the shortest list that does.
        let bad = (0..words.len()).find(|&i| Op::from_words(kind, &words[..=i]).is_none()).unwrap_or(0);
        let (name, value) = (kind.attr_names()[bad], words[bad]);
        let message = format!("{kind}: attribute {name} = {value} stands for nothing that this plugin knows");
        let refusal = Refusal::new(abi::REASON_ATTRIBUTE, i64::from(value), message);
        Refusal { property: bad as u32 + 1, ..refusal }
    }))
}

/// The words of an attribute struct, by rule R2.
///
/// # Safety
/// As [`Request::read`].
unsafe fn attributes(kind: OpKind, attrs: *const c_void) -> Result<Result<Vec<u32>, Refusal>> {
    let names = kind.attr_names();
    if attrs.is_null() {
        if names.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        return Err(Fault::invalid(format!("{kind} attributes"), "NULL", "give the operator's attribute struct"));
    }
    let mut bytes = vec![0u8; 4 + 4 * names.len()];
    // SAFETY: the struct is valid for as many bytes as it says.
    let used = unsafe {
        let size = struct_size(attrs.cast(), "attributes")?;
        let known = size.min(bytes.len());
        attrs.cast::<u8>().copy_to_nonoverlapping(bytes.as_mut_ptr(), known);
        !tail_is_zero(attrs.cast(), known, size)
    };
    if used {
        let message = format!("{kind}: an attribute that this plugin does not know is in use; update the plugin");
        return Ok(Err(Refusal { code: abi::ERR_ABI, ..Refusal::new(abi::REASON_ATTRIBUTE, 0, message) }));
    }
    Ok(Ok(bytes[4..].chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]])).collect()))
}
