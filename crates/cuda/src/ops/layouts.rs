//! Private layouts of constants: how large they are, and what packs them.

use std::sync::Arc;

use qiao_core::{Binding, Error, Result, TensorDesc};
use qiao_launch::{Layout, prepack};

use super::plan::Card;
use super::program::{Place, Program};
use crate::context::Context;
use crate::memory::{ALIGN, CudaBuffer, resolve};
use crate::stream::CudaStream;

/// Every private layout.
fn layouts() -> Vec<Layout> {
    prepack::layouts()
}

/// The layout of this number.
///
/// # Errors
/// No row asks for it.
pub(crate) fn layout(tensor: &TensorDesc, id: u64) -> Result<Layout> {
    layouts().into_iter().find(|l| l.id == id).ok_or_else(|| {
        let what = format!("private layout {id:#x} of {tensor}");
        Error::invalid(what, "no kernel of this card reads it", "ask only for layouts that an answer named")
    })
}

/// Packs a tensor, in stream order.
///
/// # Errors
/// A layout that no row asks for; bindings that do not fit; the driver's.
pub(crate) fn pack(
    card: &Card,
    stream: &mut CudaStream,
    tensor: &TensorDesc,
    src: &Binding,
    id: u64,
    dst: &Binding,
) -> Result<()> {
    stream.healthy()?;
    let layout = layout(tensor, id)?;
    let context: &Arc<Context> = &card.context;
    let from = resolve(context, src, "packed tensor", tensor.bytes()?)?;
    let to = resolve(context, dst, "private layout", (layout.bytes)(tensor)?)?;
    for (address, what, binding) in [(from, "packed tensor", src), (to, "private layout", dst)] {
        if !address.is_multiple_of(ALIGN as u64) {
            let found = format!("it starts at byte {}", binding.offset);
            let mend = format!("start it on a multiple of {ALIGN} of an allocated buffer");
            return Err(Error::invalid(format!("binding of '{what}'"), found, mend));
        }
    }
    let prepared = (layout.pack)(tensor, &card.chip)?;
    let scratch = CudaBuffer::new(context, prepared.scratch)?;
    let place = |tensor| (tensor < 2).then_some(Place { base: tensor, offset: 0 });
    let program = Program::new(context, &[prepared], place, Place { base: 2, offset: 0 })?;
    let mut block = program.block();
    program.fill(&mut block, &[from, to, scratch.address()]);
    let _entered = context.enter()?;
    let queued = program.launch(stream, &mut block);
    stream.keep(queued)
}
