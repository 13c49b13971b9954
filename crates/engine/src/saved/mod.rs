//! A session in a file: its tokens, and their keys and values, so that they need not be computed again.
//!
//! The file fits every device, layout and block size, and every split over several devices; not every model, and that is checked. It appears whole or not at all, and
//! a sum over all of it tells whether it is still what was written.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use qiao_core::{Binding, DType};
use qiao_layers::Home;
use sha2::{Digest, Sha256};

use crate::cache::LayerBuffers;
use crate::error::{EngineError, Result};
use crate::model::CacheShape;
use crate::pending::Pending;
use crate::runner::LoadedModel;
use crate::session::Session;
use crate::sides::Deadline;

mod format;
mod pages;

use format::{FORMAT, HEADER_BYTES, Header, SUM_BYTES, dtype_field};
use pages::Pages;

/// Token ids that are read at once.
const IDS: usize = 4096;

impl Session {
    /// Writes the tokens held and their keys and values to a file, layer by layer. The file is there whole, or what was there
    /// before is there still.
    ///
    /// # Errors
    /// The file can't be written, as on a full disk; the device's own.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.settle()?;
        let model = self.model().clone();
        let mut out = Summed { file: Pending::new(path.as_ref())?, sum: Sha256::new() };
        out.write(&header(&model, self.len()).encode())?;
        let ids: Vec<u8> = self.tokens().iter().flat_map(|id| id.to_le_bytes()).collect();
        out.write(&ids)?;
        let mut rows = Vec::new();
        for leg in self.legs() {
            let (stage, cache) = (leg.model(), leg.cache());
            let mut streams = Streams::new(stage);
            for part in stage_parts(stage, cache.layers()) {
                let pages = part.pages(cache.shape(), cache.block_table(), self.len());
                rows.resize(pages.bytes(), 0);
                pages.download(streams.of(part.home)?, part.binding, &mut rows)?;
                out.write(&rows)?;
            }
        }
        out.finish()
    }

    /// A sequence as [`Session::save`] left it, with room for `tokens` tokens or those of the file, whichever are more. It goes on
    /// as the one that was saved would have.
    ///
    /// # Errors
    /// A file that is no session's, was cut off or changed; [`EngineError::OtherSession`] for one of another model, with what
    /// differs; one that is longer than the context, or more room than that. All of these before anything is allocated for it, but for
    /// a changed content.
    pub fn restore(model: Arc<LoadedModel>, path: impl AsRef<Path>, tokens: usize) -> Result<Session> {
        Session::restore_with(model, path.as_ref(), Deadline::default(), &|_| tokens)
    }

    /// As [`Session::restore`], with room for as many tokens as `room` says when it is told those of the file, and with steps that
    /// end in an error when the deadline is over.
    ///
    /// # Errors
    /// As [`Session::restore`]; the deadline is over.
    pub(crate) fn restore_with(
        model: Arc<LoadedModel>,
        path: &Path,
        deadline: Deadline,
        room: &dyn Fn(usize) -> usize,
    ) -> Result<Session> {
        let (mut file, count) = Saved::open(&model, path)?;
        let ids = file.ids(count, model.spec().vocab)?;
        let mut session = Session::until(model.clone(), room(count).max(count), deadline)?;
        let mut rows = Vec::new();
        for leg in session.legs() {
            let (stage, cache) = (leg.model(), leg.cache());
            let mut streams = Streams::new(stage);
            for part in stage_parts(stage, cache.layers()) {
                let pages = part.pages(cache.shape(), cache.block_table(), count);
                rows.resize(pages.bytes(), 0);
                file.read(&mut rows)?;
                pages.upload(streams.of(part.home)?, part.binding, &rows)?;
            }
            streams.settle()?;
        }
        file.finish()?;
        session.adopt(ids)?;
        Ok(session)
    }
}

/// A file that ends with the sum of all before.
struct Summed {
    file: Pending,
    sum: Sha256,
}

impl Summed {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.file.write(bytes)
    }

    fn finish(mut self) -> Result<()> {
        let sum = self.sum.finalize();
        self.file.write(&sum)?;
        self.file.finish()
    }
}

/// The header of a session of this many tokens.
fn header(model: &LoadedModel, tokens: usize) -> Header {
    let spec = model.spec();
    let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    Header {
        layers: size(spec.layers),
        kv_heads: size(spec.kv_heads),
        head_dim: size(spec.head_dim),
        dtype: dtype_field(model.kv_dtype().name()),
        tokens: tokens as u64,
        fingerprint: model.fingerprint(),
    }
}

/// One buffer of a layer, in the order of the file.
struct Part<'a> {
    binding: &'a Binding,
    home: Home,
    heads: usize,
    width: usize,
}

impl<'a> Part<'a> {
    fn pages<'t>(&self, shape: CacheShape, table: &'t [i32], tokens: usize) -> Pages<'t> {
        Pages::new(shape, table, self.heads, self.width, tokens)
    }
}

/// The buffers of all layers of a stage, in the order of the file.
fn stage_parts<'a>(stage: &'a LoadedModel, layers: &'a [LayerBuffers]) -> impl Iterator<Item = Part<'a>> {
    layers.iter().enumerate().flat_map(|(layer, buffers)| parts(stage, layer, buffers))
}

/// The buffers of a layer: keys, values, and their scales where they have some.
fn parts<'a>(model: &LoadedModel, layer: usize, buffers: &'a LayerBuffers) -> impl Iterator<Item = Part<'a>> {
    let [k_home, v_home] = model.homes().caches[layer];
    let (heads, width) = (model.spec().kv_heads, head_bytes(model));
    let part = move |binding, home, width| Part { binding, home, heads, width };
    let scales = buffers
        .scales
        .iter()
        .flat_map(move |[k, v]| [part(k, k_home, size_of::<f32>()), part(v, v_home, size_of::<f32>())]);
    [part(&buffers.k, k_home, width), part(&buffers.v, v_home, width)].into_iter().chain(scales)
}

/// Bytes of one head of one token.
fn head_bytes(model: &LoadedModel) -> usize {
    model.kv_dtype().bytes_for(model.spec().head_dim).unwrap_or(0)
}

/// Bytes of a token in all layers.
fn token_bytes(model: &LoadedModel) -> Option<u64> {
    let scales = if model.kv_dtype().is_activation() { 0 } else { DType::F32.block_bytes() };
    let head = (head_bytes(model) + scales) as u64;
    let layer = head.checked_mul(model.spec().kv_heads as u64)?.checked_mul(2)?;
    layer.checked_mul(model.spec().layers as u64)
}

/// A stream for each side that has keys or values, made when first needed.
struct Streams<'a> {
    model: &'a LoadedModel,
    streams: [Option<Box<dyn qiao_core::Stream>>; 2],
}

impl<'a> Streams<'a> {
    fn new(model: &'a LoadedModel) -> Streams<'a> {
        Streams { model, streams: [None, None] }
    }

    fn of(&mut self, home: Home) -> Result<&mut dyn qiao_core::Stream> {
        let place = &mut self.streams[usize::from(home == Home::Host)];
        let stream = match place.take() {
            Some(stream) => stream,
            None => self.model.sides().stream(home)?,
        };
        Ok(&mut **place.insert(stream))
    }

    /// Waits for all that was asked of them.
    fn settle(&mut self) -> Result<()> {
        for stream in self.streams.iter_mut().flatten() {
            stream.sync(self.model.sides().patience())?;
        }
        Ok(())
    }
}

/// A file that is being read.
struct Saved<'a> {
    path: &'a Path,
    file: BufReader<File>,
    sum: Sha256,
}

impl<'a> Saved<'a> {
    /// Opens a file of this model; how many tokens it has.
    fn open(model: &LoadedModel, path: &'a Path) -> Result<(Saved<'a>, usize)> {
        let refuse = |e| EngineError::io("open", path, e);
        // Asked before opening: to open a pipe is to wait for its writer.
        if !std::fs::metadata(path).map_err(refuse)?.is_file() {
            return Err(refuse(std::io::Error::other("not a regular file")));
        }
        let file = File::open(path).map_err(refuse)?;
        let found = file.metadata().map_err(refuse)?.len();
        let mut saved = Saved { path, file: BufReader::new(file), sum: Sha256::new() };
        if found < HEADER_BYTES as u64 {
            return Err(saved.malformed(format!("it has {found} bytes, a header alone has {HEADER_BYTES}")));
        }
        let mut bytes = [0; HEADER_BYTES];
        saved.read(&mut bytes)?;
        let header = Header::decode(&bytes, path)?;
        header.require(&self::header(model, 0), path)?;
        let wanted = token_bytes(model).and_then(|bytes| header.file_bytes(bytes));
        if wanted != Some(found) {
            let wanted = wanted.map_or("more than can be".to_string(), |bytes| format!("{bytes} bytes"));
            let found = format!("its {} tokens make {wanted}, it has {found}", header.tokens);
            return Err(saved.malformed(found));
        }
        let (tokens, context) = (usize::try_from(header.tokens).unwrap_or(usize::MAX), model.context());
        if tokens > context {
            return Err(EngineError::PromptTooLong { tokens, context });
        }
        Ok((saved, tokens))
    }

    fn malformed(&self, found: String) -> EngineError {
        EngineError::malformed(self.path, FORMAT, found, "it was cut off or changed: save the session again")
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|e| EngineError::io("read", self.path, e))?;
        self.sum.update(&bytes);
        Ok(())
    }

    fn ids(&mut self, count: usize, vocab: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(count);
        let mut bytes = [0; 4 * IDS];
        while ids.len() < count {
            let bytes = &mut bytes[..4 * IDS.min(count - ids.len())];
            self.read(bytes)?;
            ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)));
        }
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(self.malformed(format!("it has token id {id}, the vocabulary has {vocab} tokens"))),
            None => Ok(ids),
        }
    }

    /// Compares the sum.
    fn finish(mut self) -> Result<()> {
        let here: [u8; SUM_BYTES] = std::mem::take(&mut self.sum).finalize().into();
        let mut saved = [0; SUM_BYTES];
        self.read(&mut saved)?;
        if saved != here {
            return Err(self.malformed("its content is not what its sum says".into()));
        }
        Ok(())
    }
}
