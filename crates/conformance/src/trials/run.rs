//! A plan with buffers of its own.

use std::time::Duration;

use qiao_core::{Binding, Device, Plan, Result, Stream};

/// A plan with buffers of its own on one stream, each with the padding that the device asks for.
pub struct Run {
    /// Where it runs.
    pub stream: Box<dyn Stream>,
    /// The buffers of the bound tensors.
    pub bindings: Vec<Binding>,
    /// The workspace.
    pub workspace: Binding,
}

impl Run {
    /// Uploads what every bound tensor holds.
    ///
    /// # Errors
    /// The device's.
    pub fn new(device: &dyn Device, plan: &dyn Plan, bytes: &[Vec<u8>]) -> Result<Run> {
        let mut stream = device.stream()?;
        let pad = device.info().tensor_tail_pad;
        let alloc = |bytes: usize| Ok(Binding { bytes, ..Binding::whole(device.alloc(0, bytes.saturating_add(pad))?) });
        let bindings = bytes.iter().map(|b| alloc(b.len())).collect::<Result<Vec<_>>>()?;
        for (binding, bytes) in bindings.iter().zip(bytes) {
            stream.upload(binding, bytes)?;
        }
        let workspace = alloc(plan.info().workspace_bytes)?;
        Ok(Run { stream, bindings, workspace })
    }

    /// Queues the plan.
    ///
    /// # Errors
    /// The device's.
    pub fn execute(&mut self, plan: &dyn Plan) -> Result<()> {
        plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// What a bound tensor holds when all is done.
    ///
    /// # Errors
    /// The device's; [`Error::Timeout`](qiao_core::Error::Timeout) after a minute.
    pub fn read(&mut self, position: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bindings[position].bytes];
        self.stream.download(&mut out, &self.bindings[position])?;
        self.stream.sync(Duration::from_secs(60))?;
        Ok(out)
    }
}
