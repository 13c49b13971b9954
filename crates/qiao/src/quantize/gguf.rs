//! GGUF output: order of rows, and the file.

use std::io::{BufWriter, Write};

use qiao_core::DType;
use qiao_engine::weights::MappedFile;
use qiao_gguf::{Gguf, GgufHeader};

use super::encode::{Encoded, Matrix};
use super::fault;
use super::format::{Encoding, Format};
use super::metadata;
use super::output::{Pending, refused};
use super::source::{Part, Role, Source, SourceTensor};
use super::work::{Job, Work};
use crate::Result;

/// From which row each row of a tensor is taken: files of the llama architecture hold q and k so that neighbours rotate together,
/// row `2i + h` of a head is row `h·D/2 + i` of the checkpoint. `None` where rows stay in order.
///
/// # Errors
/// Rows that are not those of as many heads as `config.json` has.
fn order(source: &Source, tensor: &SourceTensor, permutes: bool) -> Result<Option<Vec<usize>>> {
    if !permutes || source.interleaved {
        return Ok(None);
    }
    let config = &source.checkpoint.config;
    let heads = match tensor.role {
        Role::Projection { part: Part::Query, .. } => config.num_heads,
        Role::Projection { part: Part::Key, .. } => config.num_kv_heads,
        Role::Small if tensor.name.ends_with("q_proj.bias") => config.num_heads,
        Role::Small if tensor.name.ends_with("k_proj.bias") => config.num_kv_heads,
        _ => return Ok(None),
    };
    let (rows, width) = (tensor.shape.first().copied().unwrap_or(0), config.head_dim);
    if heads.checked_mul(width) != Some(rows) {
        let found = format!("{} has {rows} rows, and config.json says {heads} heads of {width}", tensor.name);
        return Err(fault(found, "config.json and weights do not belong together"));
    }
    let from = |row: usize| row / width * width + row % 2 * (width / 2) + row % width / 2;
    Ok(Some((0..rows).map(from).collect()))
}

/// The header: metadata of the model and its tokenizer; those of the source where that is a GGUF file.
fn header(source: &Source, format: Format, notes: &mut Vec<String>) -> Result<(GgufHeader, bool)> {
    if source.config_json()?.is_some() {
        return metadata::header(source, format, notes);
    }
    let path = source.checkpoint.weights.files().next().unwrap_or(&source.path).to_path_buf();
    let file = MappedFile::open(&path)?;
    let read = Gguf::parse(file.bytes()).map_err(|e| fault(format!("{}: {e}", path.display()), "check the file"))?;
    let mut kept = read.metadata().clone();
    let split: Vec<String> =
        kept.iter().map(|(key, _)| key.to_string()).filter(|key| key.starts_with("split.")).collect();
    for key in split {
        kept.remove(&key);
    }
    let mut header = GgufHeader::with_metadata(kept);
    header.set("general.file_type", metadata::file_type(format));
    Ok((header, false))
}

/// What a job writes, as a dtype of GGUF.
fn dtype(job: &Job<'_>) -> DType {
    match job.choice.encoding {
        Encoding::Float(dtype) | Encoding::Block(dtype) => dtype,
        _ => job.tensor.dtype,
    }
}

/// Writes a GGUF file; `None` when cancelled.
pub(super) fn write(work: &mut Work<'_>, pending: Pending) -> Result<Option<Pending>> {
    let (file, path) = pending.create("")?;
    let source = work.source;
    let (mut header, permutes) = header(source, work.format, &mut work.notes)?;
    let told = |e: qiao_gguf::GgufError| fault(format!("{}: {e}", path.display()), "see what stands before");
    let extra = metadata::rope_factors(source)?;
    for (name, values) in &extra {
        header.tensor(name, DType::F32, &[values.len()]).map_err(told)?;
    }
    let jobs = std::mem::take(&mut work.jobs);
    for job in &jobs {
        order(source, job.tensor, permutes)?;
        header.tensor(&job.target, dtype(job), &job.tensor.shape).map_err(told)?;
    }
    // What the file refuses is told as its own error, and not as one of the format.
    let failed = std::cell::RefCell::new(None);
    let out = Told { inner: BufWriter::with_capacity(1 << 20, file), failed: &failed };
    let outcome = stream(work, header, out, &extra, &jobs, permutes, told);
    if let Some(error) = failed.borrow_mut().take() {
        return Err(refused("write", &path, &error));
    }
    let Some(out) = outcome? else { return Ok(None) };
    let file = out.inner.into_inner().map_err(|e| refused("write", &path, e.error()))?;
    file.sync_all().map_err(|e| refused("sync", &path, &e))?;
    Ok(Some(pending))
}

/// Writes header and tensors; `None` when cancelled.
fn stream<W: Write>(
    work: &mut Work<'_>,
    header: GgufHeader,
    out: W,
    extra: &[(String, Vec<f32>)],
    jobs: &[Job<'_>],
    permutes: bool,
    told: impl Fn(qiao_gguf::GgufError) -> crate::Error + Copy,
) -> Result<Option<W>> {
    let source = work.source;
    let mut writer = header.begin(out).map_err(told)?;
    for (name, values) in extra {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(name, &bytes).map_err(told)?;
    }
    for (at, job) in jobs.iter().enumerate() {
        let Some(factor) = work.factor(jobs, at)? else { return Ok(None) };
        let bytes = source.bytes(&job.tensor.name)?;
        let order = order(source, job.tensor, permutes)?;
        let matrix = Matrix {
            order: order.as_deref(),
            factor: factor.as_deref(),
            ..job.matrix(&bytes, work.importance(&job.tensor.name))
        };
        let Some(Encoded { codes, error, .. }) = work.encode(&matrix, job)? else { return Ok(None) };
        writer.tensor(&job.target, &codes).map_err(told)?;
        work.done(job, codes.len() as u64, &error);
    }
    writer.finish().map(Some).map_err(told)
}

/// Keeps the error with which an output refused its bytes.
struct Told<'a, W> {
    inner: W,
    failed: &'a std::cell::RefCell<Option<std::io::Error>>,
}

impl<W: Write> Told<'_, W> {
    fn keep<T>(&self, result: std::io::Result<T>) -> std::io::Result<T> {
        result.map_err(|error| {
            let again = std::io::Error::from(error.kind());
            self.failed.borrow_mut().get_or_insert(error);
            again
        })
    }
}

impl<W: Write> Write for Told<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = self.inner.write(bytes);
        self.keep(result)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let result = self.inner.flush();
        self.keep(result)
    }
}
