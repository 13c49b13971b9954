//! Private layouts of constants: how large they are, and what packs them.

use qiao_core::{Binding, Error, Result, TensorDesc};
use qiao_launch::Prepared;

use super::Target;
use super::plan::Card;
use super::program::{Place, Program};
use crate::memory::{OpenClBuffer, resolve};
use crate::stream::OpenClStream;

/// A private layout.
pub(crate) struct Layout {
    /// Its number, as a row's answer names it; never 0.
    pub(crate) id: u64,
    /// The bytes of a tensor in it.
    pub(crate) bytes: fn(&TensorDesc) -> Result<usize>,
    /// Packs a tensor: argument tensor 0 is the source, tensor 1 the result.
    pub(crate) pack: fn(&TensorDesc, &Target) -> Result<Prepared>,
}

/// Every private layout.
fn layouts() -> Vec<Layout> {
    Vec::new()
}

/// The layout of this number.
///
/// # Errors
/// No row asks for it.
pub(crate) fn layout(tensor: &TensorDesc, id: u64) -> Result<Layout> {
    layouts().into_iter().find(|l| l.id == id).ok_or_else(|| {
        let what = format!("private layout {id:#x} of {tensor}");
        Error::invalid(what, "no kernel of this device reads it", "ask only for layouts that an answer named")
    })
}

/// Packs a tensor, in stream order.
///
/// # Errors
/// A layout that no row asks for; bindings that do not fit; the driver's.
pub(crate) fn pack(
    card: &Card,
    stream: &mut OpenClStream,
    tensor: &TensorDesc,
    src: &Binding,
    id: u64,
    dst: &Binding,
) -> Result<()> {
    stream.healthy()?;
    let layout = layout(tensor, id)?;
    let context = &card.context;
    let from = resolve(context, src, "packed tensor", tensor.bytes()?)?;
    let to = resolve(context, dst, "private layout", (layout.bytes)(tensor)?)?;
    for (start, what) in [(from, "packed tensor"), (to, "private layout")] {
        if !start.offset.is_multiple_of(card.align) {
            let found = format!("it starts at byte {}", start.offset);
            let mend = format!("start it on a multiple of {} of an allocated buffer", card.align);
            return Err(Error::invalid(format!("binding of '{what}'"), found, mend));
        }
    }
    let prepared = (layout.pack)(tensor, &card.target)?;
    let scratch = OpenClBuffer::new(context, prepared.scratch)?;
    let place = |tensor| (tensor < 2).then_some(Place { base: tensor, offset: 0 });
    let mut program = Program::new(context, &[prepared], place, Place { base: 2, offset: 0 })?;
    let queued = program.launch(stream, &[from, to, scratch.start()]);
    let end = stream.keep(queued)?;
    stream.launched(end);
    Ok(())
}
