//! What a device says of itself, read and checked.

use qiao_core::{Caps, DeviceInfo, DtypeInfo, Error, KvInfo, KvLayout, MemoryInfo, MemoryKind, Result, attrs::Word};

use super::calls::Raw;
use super::failure::{Answer, Asked};
use super::session::Session;
use super::words;
use crate::abi;
use crate::dtypes;
use crate::export::Level;

/// No list of a device is longer.
const MOST: u32 = 4096;

/// No device aligns or pads more.
const MOST_PADDING: u64 = 1 << 20;

/// No cache has more tokens in a block.
const MOST_TOKENS: u32 = 1 << 16;

/// No chain of extensions is longer.
const MOST_EXTENSIONS: usize = 64;

/// What is wrong with a device, and how to mend it.
struct Nonsense(String, &'static str);

/// Reads a device.
///
/// # Errors
/// The plugin's, or the first thing that makes no sense.
pub(super) fn read(session: &Session, device: Raw<abi::Device>, ordinal: usize) -> Result<DeviceInfo> {
    let reader = Reader { session, device };
    let what = format!("{}:{ordinal}", session.name);
    reader.all().map_err(|e| match e {
        Wrong::Answer(failure) => failure.error(&what, Asked::default()),
        Wrong::Nonsense(Nonsense(found, mend)) => {
            Error::invalid(format!("what device {what} says of itself"), found, mend)
        }
    })
}

enum Wrong {
    Answer(super::failure::Failure),
    Nonsense(Nonsense),
}

impl From<super::failure::Failure> for Wrong {
    fn from(failure: super::failure::Failure) -> Wrong {
        Wrong::Answer(failure)
    }
}

impl From<Nonsense> for Wrong {
    fn from(nonsense: Nonsense) -> Wrong {
        Wrong::Nonsense(nonsense)
    }
}

fn nonsense<T>(found: impl Into<String>, mend: &'static str) -> Result<T, Wrong> {
    Err(Wrong::Nonsense(Nonsense(found.into(), mend)))
}

struct Reader<'a> {
    session: &'a Session,
    device: Raw<abi::Device>,
}

impl Reader<'_> {
    fn note(&self, text: String) {
        self.session.note(Level::Warn, text);
    }

    fn all(&self) -> Result<DeviceInfo, Wrong> {
        let c = self.head()?;
        extensions(c.ext)?;
        let name = words::text(&c.name);
        if name.is_empty() {
            return nonsense("its name is empty", "name it for people, as on its box");
        }
        let align = if c.tensor_align == 0 { 1 } else { c.tensor_align };
        if !align.is_power_of_two() || align > MOST_PADDING {
            return nonsense(format!("tensor_align = {align}"), "give a power of two up to 1 MiB");
        }
        if c.tensor_tail_pad > MOST_PADDING {
            return nonsense(format!("tensor_tail_pad = {}", c.tensor_tail_pad), "give at most 1 MiB");
        }
        for (what, count) in [("memories", c.memory_count), ("dtypes", c.dtype_count), ("cache layouts", c.kv_count)] {
            if count > MOST {
                return nonsense(format!("it counts {count} {what}"), "count what its function answers for");
            }
        }
        if c.memory_count == 0 {
            return nonsense("it has no memory", "declare at least one: memory 0 is where tensors go");
        }
        Ok(DeviceInfo {
            name,
            vendor: self.session.vendor.clone(),
            arch: words::text(&c.arch),
            driver: words::text(&c.driver),
            memories: (0..c.memory_count).map(|i| self.memory(i, align)).collect::<Result<_, _>>()?,
            dtypes: self.dtypes(c.dtype_count)?,
            kv: self.kv(c.kv_count)?,
            caps: self.caps(c.caps),
            tensor_align: align as usize,
            tensor_tail_pad: c.tensor_tail_pad as usize,
            peak_source: words::text(&c.peak_source),
        })
    }

    fn head(&self) -> Answer<abi::DeviceInfo> {
        self.session.calls.filled("device_info", |out, err| {
            // SAFETY: the device is open; the out-pointers are the call's.
            unsafe { (self.session.slots.required.device_info)(self.device.get(), out, err) }
        })
    }

    fn memory(&self, index: u32, align: u64) -> Result<MemoryInfo, Wrong> {
        let m = memory(self.session, self.device, index)?;
        if m.base_align == 0 || m.base_align % align != 0 || m.base_align > isize::MAX as u64 {
            let found = format!("memory {index}: base_align = {}, tensor_align = {align}", m.base_align);
            return nonsense(found, "say on what multiples buffer_alloc starts; it must be one of tensor_align");
        }
        if m.total_bytes != 0 && (m.free_bytes > m.total_bytes || m.max_alloc > m.total_bytes) {
            let (free, most, total) = (m.free_bytes, m.max_alloc, m.total_bytes);
            let found = format!("memory {index}: {free} bytes free and {most} in one allocation, of {total}");
            return nonsense(found, "give no more than total_bytes, or 0 where it is not known");
        }
        Ok(MemoryInfo {
            kind: MemoryKind {
                device_local: m.flags & abi::MEM_DEVICE_LOCAL != 0,
                host_visible: m.flags & abi::MEM_HOST_VISIBLE != 0,
                pinned: m.flags & abi::MEM_PINNED != 0,
            },
            total_bytes: m.total_bytes,
            free_bytes: m.free_bytes,
            max_alloc: m.max_alloc,
            base_align: m.base_align as usize,
            peak_bytes_per_s: m.peak_bytes_per_s as f64,
        })
    }

    fn dtypes(&self, count: u32) -> Result<Vec<DtypeInfo>, Wrong> {
        let Some(ask) = self.session.slots.single.dtype_info else {
            if count > 0 {
                self.note(format!("it counts {count} dtypes but has no dtype_info: none is known"));
            }
            return Ok(Vec::new());
        };
        let mut list: Vec<DtypeInfo> = Vec::new();
        for index in 0..count {
            let d: abi::DtypeInfo = self.session.calls.filled("dtype_info", |out, err| {
                // SAFETY: the device is open; the out-pointers are the call's.
                unsafe { ask(self.device.get(), index, out, err) }
            })?;
            let Some(dtype) = dtypes::from_c(d.dtype) else {
                self.note(format!("dtype {:#x} is not known to this host: skipped", d.dtype));
                continue;
            };
            if list.iter().any(|e| e.dtype == dtype) {
                return nonsense(format!("dtype {dtype} stands twice"), "list each dtype once");
            }
            let compute = d.flags & abi::DTYPE_COMPUTE != 0;
            if compute || d.flags & abi::DTYPE_STORE != 0 {
                list.push(DtypeInfo { dtype, compute, peak_ops_per_s: d.peak_ops_per_s as f64 });
            } else {
                self.note(format!("dtype {dtype} is listed but neither stored nor computed in: skipped"));
            }
        }
        Ok(list)
    }

    fn kv(&self, count: u32) -> Result<Vec<KvInfo>, Wrong> {
        let Some(ask) = self.session.slots.single.kv_info else {
            if count > 0 {
                self.note(format!("it counts {count} cache layouts but has no kv_info: none is known"));
            }
            return Ok(Vec::new());
        };
        let mut list = Vec::new();
        for index in 0..count {
            let kv: abi::KvInfo = self.session.calls.filled("kv_info", |out, err| {
                // SAFETY: the device is open; the out-pointers are the call's.
                unsafe { ask(self.device.get(), index, out, err) }
            })?;
            let Some(layout) = KvLayout::from_word(kv.layout) else {
                self.note(format!("cache layout {} is not known to this host: skipped", kv.layout));
                continue;
            };
            if kv.block_size > MOST_TOKENS {
                let found = format!("cache layout {layout} with blocks of {} tokens", kv.block_size);
                return nonsense(found, "give at most 65536 tokens, or 0 for any");
            }
            let kv = KvInfo { layout, block_size: kv.block_size as usize };
            if list.contains(&kv) {
                let found = format!("cache layout {layout} of {} tokens stands twice", kv.block_size);
                return nonsense(found, "list each layout once");
            }
            list.push(kv);
        }
        Ok(list)
    }

    fn caps(&self, caps: u64) -> Caps {
        let import = caps & abi::CAP_IMPORT_HOST != 0;
        let can_import = self.session.slots.single.buffer_import.is_some();
        if import && !can_import {
            self.note("it says QIAO_CAP_IMPORT_HOST but has no buffer_import: host memory is uploaded".into());
        }
        Caps {
            multi_op: caps & abi::CAP_GRAPH != 0,
            import_host: import && can_import,
            strided: caps & abi::CAP_STRIDED != 0,
            index_i64: caps & abi::CAP_INDEX_I64 != 0,
            deterministic: caps & abi::CAP_DETERMINISTIC != 0,
            flush_subnormals: caps & abi::CAP_FLUSH_SUBNORMALS != 0,
            batch_invariant: caps & abi::CAP_BATCH_INVARIANT != 0,
        }
    }
}

/// What a memory says of itself, as it says it.
pub(super) fn memory(session: &Session, device: Raw<abi::Device>, index: u32) -> Answer<abi::MemoryInfo> {
    session.calls.filled("memory_info", |out, err| {
        // SAFETY: the device is open; the out-pointers are the call's.
        unsafe { (session.slots.required.memory_info)(device.get(), index, out, err) }
    })
}

/// Walks a chain of extensions: this host knows none, so that one that must be understood is an error.
fn extensions(mut next: *const abi::Ext) -> Result<(), Wrong> {
    for _ in 0..MOST_EXTENSIONS {
        if next.is_null() {
            return Ok(());
        }
        if !next.is_aligned() || next.addr() < 4096 {
            return nonsense(format!("an extension at {next:p}"), "end the chain with NULL");
        }
        // SAFETY: the plugin's chain of extensions, each of which begins with this head.
        let head = unsafe { *next };
        if head.ty & abi::EXT_CRITICAL != 0 {
            let found = format!(
                "extension {:#x} must be understood (QIAO_EXT_CRITICAL), and this host of ABI {}.{} does not know it",
                head.ty,
                abi::MAJOR,
                abi::MINOR
            );
            return nonsense(found, "use a newer Qiao, or a plugin that does not need it");
        }
        next = head.next;
    }
    nonsense(format!("a chain of more than {MOST_EXTENSIONS} extensions"), "end the chain with NULL")
}
