//! Where a model goes from one device to the next: the residual stream and its norm come down to the host and go up again.

use qiao_core::{Binding, Device, Stream};

use crate::error::Result;
use crate::prepared::Prepared;
use crate::sides::alloc_padded;

/// The residual stream and its norm on the host, between two stages.
pub(crate) type Crossing = [Vec<u8>; 2];

/// Both on one device, as they come in and as they go out. Of the first stage nothing comes in, of the last nothing goes out.
#[derive(Clone, Debug)]
pub(crate) struct Border {
    pub(crate) enters: [Binding; 2],
    pub(crate) leaves: [Binding; 2],
}

impl Border {
    /// Without room.
    pub(crate) fn new(empty: &Binding) -> Border {
        let both = || [empty.clone(), empty.clone()];
        Border { enters: both(), leaves: both() }
    }

    /// Makes room for so many bytes of each tensor that crosses in a plan; whether any buffer is another now.
    ///
    /// # Errors
    /// The device has no room. Some buffers may be others by then.
    pub(crate) fn grow(&mut self, device: &dyn Device, plan: &Prepared, bytes: usize) -> Result<bool> {
        let mut grown = false;
        for (crosses, bindings) in [(plan.enters(), &mut self.enters), (plan.leaves(), &mut self.leaves)] {
            for binding in bindings.iter_mut().filter(|binding| crosses && binding.bytes < bytes) {
                *binding = alloc_padded(device, bytes)?;
                grown = true;
            }
        }
        Ok(grown)
    }

    /// Uploads what the stage before left, where there is one.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn enter(&self, plan: &Prepared, stream: &mut dyn Stream, crossing: &Crossing) -> Result<()> {
        if plan.enters() {
            for (binding, bytes) in self.enters.iter().zip(crossing) {
                stream.upload(binding, bytes)?;
            }
        }
        Ok(())
    }

    /// Downloads so many bytes of each for the stage behind; false where there is none.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn leave(
        &self,
        plan: &Prepared,
        stream: &mut dyn Stream,
        bytes: usize,
        crossing: &mut Crossing,
    ) -> Result<bool> {
        if plan.leaves() {
            for (binding, to) in self.leaves.iter().zip(crossing) {
                to.resize(bytes, 0);
                stream.download(to, binding)?;
            }
        }
        Ok(plan.leaves())
    }
}
