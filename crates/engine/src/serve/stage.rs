//! One stage of a model over a pool of pages on its device.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, Device, Error, Plan, Stream};
use qiao_layers::Home;

use crate::border::{Border, Crossing};
use crate::cache::LayerBuffers;
use crate::entry::Entry;
use crate::error::Result;
use crate::model::{CacheShape, Step};
use crate::prepared::{Prepared, SessionBuffers};
use crate::rotary::Rotary;
use crate::runner::LoadedModel;
use crate::sides::{Deadline, alloc_padded};

/// A plan, and what is bound to it.
struct Bound {
    plan: Arc<Prepared>,
    bindings: Vec<Binding>,
}

/// Buffers that grow with the steps.
struct Scratch {
    input: Binding,
    logits: Binding,
    workspace: Binding,
    border: Border,
}

/// The part of a pool that is on one device, and what runs there.
pub(super) struct PagedStage {
    model: Arc<LoadedModel>,
    deadline: Deadline,
    shape: CacheShape,
    layers: Vec<LayerBuffers>,
    rotary: Arc<Rotary>,
    stream: Box<dyn Stream>,
    /// Of the host, where pages live there.
    host: Option<Box<dyn Stream>>,
    scratch: Scratch,
    bound: HashMap<Step, Bound>,
    staging: Vec<u8>,
}

impl PagedStage {
    /// Allocates the pages of a stage's layers.
    ///
    /// # Errors
    /// No room on the device.
    pub(super) fn new(model: Arc<LoadedModel>, shape: CacheShape) -> Result<PagedStage> {
        let (spec, sides, homes) = (model.spec(), model.sides(), &model.homes().caches);
        let devices = homes.iter().map(|pair| pair.map(|home| &**sides.of(home) as &dyn Device));
        let layers = LayerBuffers::spread(shape, devices, spec.kv_heads, spec.head_dim)?;
        let on_host = homes.iter().flatten().any(|home| *home == Home::Host);
        let empty = alloc_padded(&**model.device(), 0)?;
        Ok(PagedStage {
            rotary: model.shared_rotary(shape.capacity(), sides.patience())?,
            stream: sides.stream(Home::Device)?,
            host: if on_host { Some(sides.stream(Home::Host)?) } else { None },
            scratch: Scratch {
                border: Border::new(&empty),
                input: empty.clone(),
                logits: empty.clone(),
                workspace: empty,
            },
            bound: HashMap::new(),
            staging: Vec::new(),
            deadline: Deadline::default(),
            model,
            shape,
            layers,
        })
    }

    /// From now on no wait for the device lasts beyond this.
    pub(super) fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// How long the next wait for the device may be.
    ///
    /// # Errors
    /// The deadline is over.
    fn patience(&self) -> Result<Duration> {
        self.deadline.left(self.model.sides().patience())
    }

    /// Runs a step that the entries fit into; gives the row of the logits where each row wanted stands. Nothing is waited for but what
    /// crosses to the stage behind.
    ///
    /// # Errors
    /// The device's own; the deadline is over.
    pub(super) fn run(&mut self, step: Step, entries: &[Entry<'_>], crossing: &mut Crossing) -> Result<Vec<usize>> {
        let step = self.model.own_step(step);
        self.bind(step)?;
        self.stream.set_patience(self.patience()?);
        let Some(Bound { plan, bindings }) = self.bound.get(&step) else {
            return Err(Error::internal("a step", "it was bound, and is not there").into());
        };
        let at = plan.write_inputs(entries, &mut self.staging);
        self.stream.upload(&self.scratch.input, &self.staging)?;
        self.scratch.border.enter(plan, &mut *self.stream, crossing)?;
        plan.plan().execute(&mut *self.stream, bindings, &self.scratch.workspace)?;
        self.scratch.border.leave(plan, &mut *self.stream, self.model.border_bytes(step.tokens), crossing)?;
        Ok(at)
    }

    /// The first rows of the logits of the last step, as many as fill `rows`; where that is none, waits for the step.
    ///
    /// # Errors
    /// The device's own; the deadline is over.
    pub(super) fn logits(&mut self, rows: &mut [f32]) -> Result<()> {
        let patience = self.patience()?;
        self.stream.set_patience(patience);
        match rows {
            [] => Ok(self.stream.sync(patience)?),
            rows => Ok(self.stream.download(bytemuck::cast_slice_mut(rows), &self.scratch.logits)?),
        }
    }

    /// The plan of a step with everything bound to it.
    fn bind(&mut self, step: Step) -> Result<()> {
        let plan = match self.bound.get(&step) {
            Some(bound) => bound.plan.clone(),
            None => self.model.prepared((step, self.shape))?,
        };
        let grown = self.grow(&plan, step);
        if !matches!(grown, Ok(false)) {
            // Older bindings name buffers that went, maybe also where one that was to come after them found no room.
            self.bound.clear();
        }
        grown?;
        if !self.bound.contains_key(&step) {
            let own = SessionBuffers {
                input: &self.scratch.input,
                layers: &self.layers,
                cos: &self.rotary.cos,
                sin: &self.rotary.sin,
                logits: &self.scratch.logits,
                hidden: &[],
                border: Some(&self.scratch.border),
            };
            let bindings = self.model.bindings(&plan, &own)?;
            self.bound.insert(step, Bound { plan, bindings });
        }
        Ok(())
    }

    /// Makes room for a plan; whether any buffer is another now.
    ///
    /// # Errors
    /// The device has no room. Some buffers may be others by then.
    fn grow(&mut self, plan: &Prepared, step: Step) -> Result<bool> {
        let logits = step.rows * self.model.spec().vocab * size_of::<f32>();
        let needs = [
            (&mut self.scratch.input, plan.input_bytes()),
            (&mut self.scratch.logits, if plan.leaves() { 0 } else { logits }),
            (&mut self.scratch.workspace, plan.workspace_bytes()),
        ];
        let device = &**self.model.device();
        let mut grown = false;
        for (binding, bytes) in needs {
            if binding.bytes < bytes {
                *binding = alloc_padded(device, bytes)?;
                grown = true;
            }
        }
        Ok(self.scratch.border.grow(device, plan, self.model.border_bytes(step.tokens))? || grown)
    }

    /// One block in every buffer of the stage, and the side where the buffer lives.
    pub(super) fn parts(&self, block: u32) -> impl Iterator<Item = (Home, Binding)> + '_ {
        let homes = &self.model.homes().caches;
        let blocks = self.shape.blocks;
        let part = move |whole: &Binding| {
            let bytes = whole.bytes / blocks;
            Binding::part(&whole.buffer, whole.offset + block as usize * bytes, bytes)
        };
        self.layers.iter().zip(homes).flat_map(move |(layer, &[k, v])| {
            let scales = layer.scales.iter().flat_map(move |[ks, vs]| [(k, ks), (v, vs)]);
            [(k, &layer.k), (v, &layer.v)].into_iter().chain(scales).map(move |(home, whole)| (home, part(whole)))
        })
    }

    /// The stream of a side.
    pub(super) fn stream(&mut self, home: Home) -> &mut dyn Stream {
        match (home, &mut self.host) {
            (Home::Host, Some(host)) => &mut **host,
            _ => &mut *self.stream,
        }
    }

    /// Waits for all that was asked of both sides.
    ///
    /// # Errors
    /// The devices' own.
    pub(super) fn sync(&mut self) -> Result<()> {
        let patience = self.patience()?;
        self.stream.sync(patience)?;
        match &mut self.host {
            Some(host) => Ok(host.sync(patience)?),
            None => Ok(()),
        }
    }

    /// New streams after an error.
    ///
    /// # Errors
    /// The device can't go on.
    pub(super) fn recover(&mut self) -> Result<()> {
        let (sides, patience) = (self.model.sides(), self.patience()?);
        // What a step that failed left in flight writes to the pages as long as it lives.
        for stream in [Some(&mut self.stream), self.host.as_mut()].into_iter().flatten() {
            let waited = stream.sync(patience);
            if let Err(error @ (Error::Timeout { .. } | Error::DeviceLost { .. })) = waited {
                return Err(error.into());
            }
        }
        self.stream = sides.stream(Home::Device)?;
        if self.host.is_some() {
            self.host = Some(sides.stream(Home::Host)?);
        }
        Ok(())
    }
}
