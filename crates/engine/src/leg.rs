//! A sequence's part on one stage of a model: its cache, its inputs, and its steps on the stage's device.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, Device, Plan, Stream};
use qiao_layers::Home;

use crate::border::{Border, Crossing};
use crate::cache::{ContiguousCache, KvCache};
use crate::entry::Entry;
use crate::error::Result;
use crate::model::Step;
use crate::prepared::{Prepared, SessionBuffers};
use crate::rotary::Rotary;
use crate::runner::LoadedModel;
use crate::sides::{Deadline, alloc_padded};

/// A plan with everything bound.
struct Bound {
    plan: Arc<Prepared>,
    bindings: Vec<Binding>,
    workspace: Binding,
}

enum RotaryOf {
    Model(Arc<Rotary>),
    /// With a stream of the host where they live there.
    Session(Rotary, Option<Box<dyn Stream>>),
}

impl RotaryOf {
    fn get(&self) -> &Rotary {
        match self {
            RotaryOf::Model(shared) => shared,
            RotaryOf::Session(own, _) => own,
        }
    }
}

/// Buffers that steps of any size share; each grows when a step needs more.
struct Scratch {
    input: Binding,
    logits: Binding,
    workspace: Binding,
    border: Border,
    hidden: Vec<Binding>,
}

/// What a step gives out on the host.
pub(crate) struct Given<'a> {
    /// Comes from the stage before, and is left for the one behind.
    pub(crate) crossing: &'a mut Crossing,
    /// Of the last stage, `[rows, vocab]`.
    pub(crate) logits: &'a mut Vec<f32>,
}

pub(crate) struct Leg {
    model: Arc<LoadedModel>,
    deadline: Deadline,
    stream: Box<dyn Stream>,
    cache: ContiguousCache,
    rotary: RotaryOf,
    scratch: Scratch,
    /// The decode step, bound when first taken.
    decode: Option<Bound>,
    staging: Vec<u8>,
}

impl Leg {
    /// An empty sequence on one stage.
    ///
    /// # Errors
    /// The device has no room for the cache; the deadline is over.
    pub(crate) fn new(model: Arc<LoadedModel>, tokens: usize, deadline: Deadline) -> Result<Leg> {
        let (spec, sides) = (model.spec(), model.sides());
        let shape = model.cache_shape(tokens);
        let homes = model.homes().caches.iter().map(|pair| pair.map(|home| &**sides.of(home) as &dyn Device));
        let cache = ContiguousCache::spread(shape, homes, spec.kv_heads, spec.head_dim)?;
        let mut stream = sides.stream(Home::Device)?;
        let patience = deadline.left(sides.patience())?;
        stream.set_patience(patience);
        let rotary = match model.rope().depends_on_length() {
            true => {
                let home = model.homes().rotary;
                let mut own = if home == Home::Host { Some(sides.stream(home)?) } else { None };
                let with = own.as_mut().unwrap_or(&mut stream);
                let rotary = Rotary::new(&**sides.of(home), &mut **with, model.rope(), shape.capacity())?;
                RotaryOf::Session(rotary, own)
            }
            false => RotaryOf::Model(model.shared_rotary(shape.capacity(), patience)?),
        };
        let empty = alloc_padded(&**sides.device(), 0)?;
        let scratch = Scratch {
            input: empty.clone(),
            logits: empty.clone(),
            workspace: empty.clone(),
            border: Border::new(&empty),
            hidden: Vec::new(),
        };
        Ok(Leg { model, deadline, stream, cache, rotary, scratch, decode: None, staging: Vec::new() })
    }

    pub(crate) fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    pub(crate) fn cache(&self) -> &dyn KvCache {
        &self.cache
    }

    pub(crate) fn cache_mut(&mut self) -> &mut dyn KvCache {
        &mut self.cache
    }

    /// Waits until everything that was asked of the device is done.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let patience = self.left()?;
        Ok(self.stream.sync(patience)?)
    }

    fn left(&self) -> Result<Duration> {
        self.deadline.left(self.model.sides().patience())
    }

    /// Bounds the next waits for the device by what is left.
    fn hurry(&mut self) -> Result<()> {
        self.stream.set_patience(self.left()?);
        Ok(())
    }

    /// Runs tokens that the cache has room for already. `total` is the length that the rotary frequencies are for.
    ///
    /// # Errors
    /// The device's own; the deadline is over.
    pub(crate) fn run(&mut self, ids: &[u32], step: Step, total: usize, given: Given<'_>) -> Result<()> {
        let (len, rows) = (self.cache.len(), step.rows);
        let step = self.model.own_step(step);
        self.hurry()?;
        if let RotaryOf::Session(rotary, own) = &mut self.rotary {
            let positions = len - ids.len()..len;
            rotary.prepare(&mut **own.as_mut().unwrap_or(&mut self.stream), self.model.rope(), total, positions)?;
            if let Some(own) = own {
                // Plans read it by way of another stream of the host.
                own.sync(self.model.sides().patience())?;
            }
        }
        let decode = step == Step::of_one(1, 1);
        let bound = match self.decode.take().filter(|_| decode) {
            Some(bound) => bound,
            None => self.bind(step)?,
        };
        let entry = Entry { ids, start: len - ids.len(), table: self.cache.block_table(), rows: step.rows };
        bound.plan.write_inputs(&[entry], &mut self.staging);
        self.hurry()?;
        self.stream.upload(&self.scratch.input, &self.staging)?;
        self.scratch.border.enter(&bound.plan, &mut *self.stream, given.crossing)?;
        bound.plan.plan().execute(&mut *self.stream, &bound.bindings, &bound.workspace)?;
        self.hurry()?;
        let bytes = self.model.border_bytes(step.tokens);
        if !self.scratch.border.leave(&bound.plan, &mut *self.stream, bytes, given.crossing)? {
            given.logits.resize(rows * self.model.spec().vocab, 0.0);
            if rows > 0 {
                self.stream.download(bytemuck::cast_slice_mut(given.logits), &self.scratch.logits)?;
            }
        }
        if decode {
            self.decode = Some(bound);
        }
        Ok(())
    }

    /// Finds the plan of a step and binds it. Buffers that grow here leave no older binding behind: the one that is kept, for
    /// decode steps, is taken out before.
    fn bind(&mut self, step: Step) -> Result<Bound> {
        let plan = self.model.prepared((step, self.cache.shape()))?;
        self.reserve(&plan, step)?;
        if step.keep_hidden {
            let bytes = step.tokens * self.model.spec().hidden * size_of::<f32>();
            let device = self.model.device();
            let each = self.model.layers().map(|_| alloc_padded(&**device, bytes));
            self.scratch.hidden = each.collect::<Result<_>>()?;
        }
        let rotary = self.rotary.get();
        let own = SessionBuffers {
            input: &self.scratch.input,
            layers: self.cache.layers(),
            cos: &rotary.cos,
            sin: &rotary.sin,
            logits: &self.scratch.logits,
            hidden: &self.scratch.hidden,
            border: Some(&self.scratch.border),
        };
        let bindings = self.model.bindings(&plan, &own)?;
        Ok(Bound { plan, bindings, workspace: self.scratch.workspace.clone() })
    }

    fn reserve(&mut self, plan: &Prepared, step: Step) -> Result<()> {
        let device = self.model.device();
        let logits = step.rows * self.model.spec().vocab * size_of::<f32>();
        let needs = [
            (&mut self.scratch.input, plan.input_bytes()),
            (&mut self.scratch.logits, if plan.leaves() { 0 } else { logits }),
            (&mut self.scratch.workspace, plan.workspace_bytes()),
        ];
        for (binding, bytes) in needs {
            if binding.bytes < bytes {
                *binding = alloc_padded(&**device, bytes)?;
            }
        }
        self.scratch.border.grow(&**device, plan, self.model.border_bytes(step.tokens))?;
        Ok(())
    }

    /// The residual stream after each layer of the last step, which kept it.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn download_hidden(&mut self, tokens: usize) -> Result<Vec<Vec<f32>>> {
        let width = self.model.spec().hidden;
        let mut all = Vec::with_capacity(self.scratch.hidden.len());
        self.hurry()?;
        for binding in &self.scratch.hidden {
            let mut values = vec![0f32; tokens * width];
            self.stream.download(bytemuck::cast_slice_mut(&mut values), binding)?;
            all.push(values);
        }
        Ok(all)
    }
}
