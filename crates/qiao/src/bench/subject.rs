//! The model that is measured, on its device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Device, DeviceInfo};
use qiao_engine::EngineError;
use qiao_engine::model::CacheShape;
use qiao_engine::session::Session;
use qiao_layers::Peaks;

use super::meter::Metered;
use super::settings::{Options, Point};
use crate::{Error, Model, ModelOptions, Progress, Result, devices};

/// A model on its device or devices, and what is known of how it came there.
pub struct Subject {
    pub(crate) model: Model,
    /// Its devices, where it was loaded here; else none.
    metered: Vec<Arc<Metered>>,
    /// What the device was asked for as.
    pub(crate) device: String,
    /// The number of threads that was asked for.
    pub(crate) threads: Option<usize>,
    /// From opening the checkpoint to a model that is ready.
    pub(crate) load: Option<Duration>,
    /// What the model is called in reports.
    pub(crate) name: String,
}

impl Subject {
    /// A model that was loaded elsewhere: its load time and the device's memory are not known. `name` and `device` stand in
    /// reports only.
    pub fn of(model: &Model, name: impl Into<String>, device: impl Into<String>) -> Subject {
        let (name, device) = (name.into(), device.into());
        Subject { model: model.clone(), metered: Vec::new(), device, threads: None, load: None, name }
    }

    /// Opens the device and loads the model, for sequences as long as the longest of the points.
    ///
    /// # Errors
    /// As [`ModelOptions::load`]; threads that the device can't have; a point beyond the model's context.
    pub fn load(
        options: &Options,
        threads: Option<usize>,
        points: &[Point],
        tell: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Subject> {
        let longest = points.iter().max_by_key(|point| point.context());
        let opened = Subject::open(options, threads, longest.map(Point::context), tell);
        opened.map_err(|error| match (error, longest) {
            (Error::Model(EngineError::ContextTooLong { limit, .. }), Some(point)) => {
                point.fits(limit).err().unwrap_or(EngineError::ContextTooLong { asked: 0, limit }.into())
            }
            (error, _) => error,
        })
    }

    /// Opens the device and loads the model, for sequences of this length.
    ///
    /// # Errors
    /// As [`ModelOptions::load`]; threads that the device can't have.
    pub(crate) fn open(
        options: &Options,
        threads: Option<usize>,
        context: Option<usize>,
        tell: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Subject> {
        let opened = match options.device.contains(',') && threads.is_none() {
            true => devices::open_all(&options.device)?,
            false => vec![devices::open(&options.device, threads)?],
        };
        let metered: Vec<Arc<Metered>> = opened.into_iter().map(Metered::new).collect();
        let start = Instant::now();
        let devices = metered.iter().map(|metered| metered.clone() as Arc<dyn Device>);
        let loading = ModelOptions::new().on_devices(devices).dtype(options.dtype).on_progress(tell);
        // How long loading takes is the device's, not that of a file which may be there.
        let mut loading = loading.prepacked(None);
        if let Some(split) = &options.split {
            loading = loading.split(split.iter().copied());
        }
        if options.host_fallback {
            loading = loading.host_fallback();
        }
        if let Some(context) = context {
            loading = loading.context(context);
        }
        let model = match &options.model {
            Some(path) => loading.load(path),
            None => loading.demo(),
        }?;
        let name = match &options.model {
            Some(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            None => "demo".into(),
        };
        let device = options.device.clone();
        Ok(Subject { model, metered, device, threads, load: Some(start.elapsed()), name })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Bytes of a session's keys and values, all layers.
    pub(crate) fn cache_bytes(&self, session: &Session) -> Result<u64> {
        // A cache's capacity is a multiple of its block, so the same pages come of it again.
        self.bytes_for(session.capacity())
    }

    /// Bytes of keys and values for this many tokens, all layers.
    fn bytes_for(&self, tokens: usize) -> Result<u64> {
        self.model.devices().try_fold(0u64, |sum, on| Ok(sum.saturating_add(self.bytes_on(on, tokens)?)))
    }

    /// Those of the layers on one device.
    fn bytes_on(&self, (device, layers): (&Arc<dyn Device>, usize), tokens: usize) -> Result<u64> {
        let spec = self.model.loaded().spec();
        let shape = CacheShape::contiguous(&device.info().kv, self.model.kv_dtype(), tokens);
        Ok((layers as u64).saturating_mul(shape.layer_bytes(spec.kv_heads, spec.head_dim)?))
    }

    /// What the devices can do at most by their own words; nothing is known of several together.
    pub(crate) fn declared_peaks(&self) -> Peaks {
        match self.model.devices().count() {
            1 => Peaks::declared(self.model.device().info()),
            _ => Peaks::declared(&DeviceInfo::default()),
        }
    }

    /// From now on the peak of memory is that of what follows.
    pub(crate) fn reset_peak(&self) {
        self.metered.iter().for_each(|metered| metered.reset());
    }

    /// Bytes that live on the devices now, where that is known.
    pub(crate) fn live_bytes(&self) -> Option<u64> {
        let sum = self.metered.iter().map(|metered| metered.live_bytes()).sum();
        (!self.metered.is_empty()).then_some(sum)
    }

    /// The most bytes that lived on each device since the last reset, together, where that is known.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let sum = self.metered.iter().map(|metered| metered.peak_bytes()).sum();
        (!self.metered.is_empty()).then_some(sum)
    }

    /// Refuses a point that the model or the device can't hold.
    ///
    /// # Errors
    /// A sequence beyond the context; keys and values beyond what the device had free when it was opened, where it says so.
    pub(crate) fn admits(&self, point: &Point) -> Result<()> {
        point.fits(self.model.context())?;
        for on in self.model.devices() {
            let asked = self.bytes_on(on, point.context())?.saturating_mul(point.batch as u64);
            let info = on.0.info();
            let free = info.memories.first().map_or(0, |memory| memory.free_bytes);
            if free > 0 && asked > free {
                return Err(qiao_core::Error::OutOfMemory { device: info.name.clone(), asked, free }.into());
            }
        }
        Ok(())
    }
}
