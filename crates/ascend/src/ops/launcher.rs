//! The launcher of one execution: makes the objects that operators take, queues both phases, and gives every object back,
//! whatever fails.

use qiao_core::{DType, Dims, Error, Graph, NodeView, Result, TensorDesc, TensorId};

use super::nz::{Blocks, NZ as NZ_LAYOUT};
use crate::codes::{Code, Handle, ND, NZ, SUCCESS, data_type};
use crate::operators::{Ints, List, Operators, Queues, Scalar, Second, Tensor};
use crate::stream::AscendStream;

/// Where a tensor's storage is: its address, its elements, and the first that is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) base: usize,
    pub(crate) holds: usize,
    pub(crate) offset: usize,
}

/// An object that AscendCL made.
enum Made {
    Tensor(Handle),
    List(Handle),
    Scalar(Handle),
    Ints(Handle),
}

/// What an execution is given: for each tensor of the graph the address of what it lies in.
pub(crate) struct Given<'a> {
    pub(crate) graph: &'a Graph,
    /// By tensor: the address of a tensor that owns its bytes; 0 where nothing touches it.
    pub(crate) addresses: &'a [usize],
    /// The start of what nodes work in.
    pub(crate) scratch: usize,
    /// The address of the mask of causal attention; 0 where the graph has none.
    pub(crate) mask: usize,
}

/// Integers of a device tensor that the host has read, by the tensor that owns the bytes and the first of them.
type Read = (TensorId, usize, Vec<i32>);

/// The launcher of an execution, on one node after the other.
pub(crate) struct Launcher<'a> {
    stream: &'a mut AscendStream,
    given: Given<'a>,
    made: Vec<Made>,
    read: Vec<Read>,
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(stream: &'a mut AscendStream, given: Given<'a>) -> Self {
        Launcher { stream, given, made: Vec::new(), read: Vec::new() }
    }

    /// The graph.
    pub(crate) fn graph(&self) -> &'a Graph {
        self.given.graph
    }

    /// The address of the mask of causal attention.
    pub(crate) fn mask(&self) -> usize {
        self.given.mask
    }

    /// Where a node's working room starts, this many bytes in.
    pub(crate) fn scratch(&self, offset: usize) -> usize {
        self.given.scratch + offset
    }

    /// Where a tensor of the graph lies.
    pub(crate) fn at(&self, id: TensorId) -> At {
        let graph = self.given.graph;
        let (root, offset) = graph.root(id);
        let size = graph.desc(id).dtype.block_bytes();
        let holds = graph.desc(root).bytes().unwrap_or(0) / size;
        At { base: self.given.addresses[root.index()], holds, offset: offset / size }
    }

    /// An object for a tensor of the graph.
    ///
    /// # Errors
    /// AscendCL makes none.
    pub(crate) fn tensor(&mut self, id: TensorId) -> Result<Tensor> {
        let desc = self.given.graph.desc(id).clone();
        self.view(self.at(id), &desc)
    }

    /// An object for an operand that may be left out.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn optional(&mut self, id: Option<TensorId>) -> Result<Tensor> {
        id.map_or(Ok(std::ptr::null()), |id| self.tensor(id))
    }

    /// An object for operand `index` of a node.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn input(&mut self, node: &NodeView<'_>, index: usize) -> Result<Tensor> {
        self.optional(node.node.inputs.get(index).copied().flatten())
    }

    /// An object for result `index` of a node.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn output(&mut self, node: &NodeView<'_>, index: usize) -> Result<Tensor> {
        self.tensor(node.node.outputs[index])
    }

    /// An object for a contiguous tensor in the node's working room.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn room(&mut self, offset: usize, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let desc = TensorDesc::new(dtype, shape)?;
        self.view(At { base: self.scratch(offset), holds: desc.elements(), offset: 0 }, &desc)
    }

    /// An object for a description of what lies at a place.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn view(&mut self, at: At, desc: &TensorDesc) -> Result<Tensor> {
        self.object(at, desc.dtype, &desc.shape, &desc.strides, ND, &[at.holds as i64])
    }

    /// An object for a weight `[N, K]` in blocks, as the matrix `[K, N]` that a product takes.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn weight(&mut self, id: TensorId) -> Result<Tensor> {
        let desc = TensorDesc { layout: 0, ..self.given.graph.desc(id).clone() };
        let storage = Blocks::check(&desc, NZ_LAYOUT)?.storage();
        let (view, strides) = (Dims::new(&[desc.shape[1], desc.shape[0]])?, Dims::new(&[1, desc.shape[1]])?);
        self.object(self.at(id), desc.dtype, &view, &strides, NZ, &storage)
    }

    fn object(
        &mut self,
        at: At,
        dtype: DType,
        view: &Dims,
        strides: &Dims,
        format: i32,
        storage: &[i64],
    ) -> Result<Tensor> {
        let number = data_type(dtype).ok_or_else(|| Error::internal("a tensor", format!("{dtype} has no number")))?;
        let to = |dims: &Dims| {
            let mut out = [0i64; qiao_core::MAX_RANK];
            out.iter_mut().zip(dims.iter()).for_each(|(o, d)| *o = *d as i64);
            out
        };
        let (shape, steps, rank) = (to(view), to(strides), view.len() as u64);
        let objects = &self.stream.context.api.objects;
        // SAFETY: the arrays are as long as is said, and are copied by the call.
        let made = unsafe {
            (objects.tensor_create)(
                shape.as_ptr(),
                rank,
                number,
                steps.as_ptr(),
                at.offset as i64,
                format,
                storage.as_ptr(),
                storage.len() as u64,
                at.base as Handle,
            )
        };
        self.keep(made, "a tensor", Made::Tensor).map(|h| h.cast_const())
    }

    fn keep(&mut self, made: Handle, what: &str, kind: fn(Handle) -> Made) -> Result<Handle> {
        if made.is_null() {
            let api = self.stream.context.api;
            return Err(Error::internal(format!("making {what}"), api.describe(0)));
        }
        self.made.push(kind(made));
        Ok(made)
    }

    /// A list of one tensor or more, which has them from now on.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn list(&mut self, tensors: &[Tensor]) -> Result<List> {
        // SAFETY: the array is as long as is said, and is copied by the call.
        let made = unsafe { (self.stream.context.api.objects.list_create)(tensors.as_ptr(), tensors.len() as u64) };
        let made = self.keep(made, "a list of tensors", Made::List)?;
        // Whoever destroys a list destroys what is in it.
        self.made.retain(|m| !matches!(m, Made::Tensor(t) if tensors.contains(&t.cast_const())));
        Ok(made)
    }

    /// A scalar of f32.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn scalar(&mut self, value: f32) -> Result<Scalar> {
        let mut value = value;
        // SAFETY: the value is read by the call.
        let made = unsafe { (self.stream.context.api.objects.scalar_create)((&raw mut value).cast(), 0) };
        self.keep(made, "a scalar", Made::Scalar).map(|h| h.cast_const())
    }

    /// A scalar of i32.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn whole(&mut self, value: i32) -> Result<Scalar> {
        let mut value = value;
        // SAFETY: the value is read by the call.
        let made = unsafe { (self.stream.context.api.objects.scalar_create)((&raw mut value).cast(), 3) };
        self.keep(made, "a scalar", Made::Scalar).map(|h| h.cast_const())
    }

    /// Integers of the host.
    ///
    /// # Errors
    /// As [`Launcher::tensor`].
    pub(crate) fn ints(&mut self, values: &[i64]) -> Result<Ints> {
        // SAFETY: the array is as long as is said, and is copied by the call.
        let made = unsafe { (self.stream.context.api.objects.ints_create)(values.as_ptr(), values.len() as u64) };
        self.keep(made, "an array", Made::Ints).map(|h| h.cast_const())
    }

    /// The integers of an operand, which operators want from the host. Waits for the stream, once for all nodes that ask.
    ///
    /// # Errors
    /// [`Error::Timeout`]; the stream's failure.
    pub(crate) fn integers(&mut self, id: TensorId) -> Result<Vec<i32>> {
        let (root, first) = self.given.graph.root(id);
        if let Some((.., list)) = self.read.iter().find(|(r, f, _)| (*r, *f) == (root, first)) {
            return Ok(list.clone());
        }
        let mut bytes = vec![0; self.given.graph.desc(id).bytes()?];
        self.stream.read(self.given.addresses[root.index()] + first, &mut bytes)?;
        let list: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        self.read.push((root, first, list.clone()));
        Ok(list)
    }

    /// Sets bytes of a place to zero, in the order of the stream.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn clear(&mut self, address: usize, bytes: usize) -> Result<()> {
        self.stream.clear(address, bytes)
    }

    /// Ends a node: its objects go, and what it wrote is no longer what the host has read.
    pub(crate) fn end(&mut self, node: &NodeView<'_>) {
        self.give_back();
        let graph = self.given.graph;
        self.read.retain(|(root, ..)| node.node.outputs.iter().all(|o| graph.root(*o).0 != *root));
    }

    fn give_back(&mut self) {
        let objects = &self.stream.context.api.objects;
        for made in self.made.drain(..).rev() {
            // SAFETY: each was made by this launcher, and is destroyed once; executors have run or are gone.
            unsafe {
                match made {
                    Made::Tensor(t) => (objects.tensor_destroy)(t),
                    Made::List(l) => (objects.list_destroy)(l),
                    Made::Scalar(s) => (objects.scalar_destroy)(s),
                    Made::Ints(i) => (objects.ints_destroy)(i),
                };
            }
        }
    }
}

impl Drop for Launcher<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Queues for Launcher<'_> {
    fn operators(&self) -> &'static Operators {
        &self.stream.context.api.operators
    }

    fn two_phases(
        &mut self,
        name: &str,
        first: &mut dyn FnMut(*mut u64, *mut Handle) -> Code,
        second: Second,
    ) -> Result<()> {
        let context = self.stream.context.clone();
        let (mut size, mut executor) = (0, std::ptr::null_mut());
        context.check(&format!("{name}GetWorkspaceSize"), first(&mut size, &mut executor))?;
        let room = usize::try_from(size).map_err(|_| Error::internal(name, format!("a workspace of {size} bytes")));
        let workspace = match room.and_then(|bytes| self.stream.scratch(bytes)) {
            Ok(workspace) => workspace,
            Err(error) => {
                // SAFETY: an executor that did not run.
                unsafe { (context.api.objects.executor_destroy)(executor) };
                return Err(error);
            }
        };
        // SAFETY: the executor was just made, the workspace is as large as it told, and the stream is of this context.
        let code = unsafe { second(workspace as Handle, size, executor, self.stream.queue.raw) };
        if code == SUCCESS { Ok(()) } else { Err(context.fault(name, code)) }
    }
}
