//! A graph whose nodes run partly on a device and partly on the host that it falls back to.
//!
//! Segments run in order. Before a host node the stream is waited for and what the node reads is downloaded; before device
//! nodes what host nodes wrote for them is uploaded. Waiting for the device is never booked as time of the host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use qiao_core::{
    Binding, Buffer, Device, Error, Graph, PlanInfo, Result, Storage, Stream, TensorId, place::place_where,
};

use crate::account::{Account, Way};
use crate::body::Body;
use crate::draft::{Draft, Pack};
use crate::flow::part;
use crate::hosted::{HostNode, KeptAs, Rooms, plan};
use crate::policy::{Fallback, Home};
use crate::schedule::{Schedule, Segment as Planned};
use crate::steps::Source;

/// A tensor on its way between device and host.
struct Move {
    /// In what the caller binds.
    device: Source,
    /// In the host's own memory.
    host: usize,
    bytes: usize,
}

/// An upload, and the meter of the node that wrote it.
struct Up {
    tensor: Move,
    meter: usize,
}

enum Segment {
    Device { up: Vec<Up>, body: Body, operands: Vec<Source>, workspace: usize },
    Host { down: Vec<Move>, node: HostNode, meter: usize },
}

/// How often a host node ran, and for how long in all.
#[derive(Default)]
struct Meter {
    /// The given node.
    node: usize,
    runs: AtomicU64,
    nanos: AtomicU64,
}

impl Meter {
    fn add(&self, time: Duration) {
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

pub(crate) struct Mixed {
    fallback: Fallback,
    segments: Vec<Segment>,
    after: Vec<Up>,
    kept: Vec<KeptAs>,
    meters: Vec<Meter>,
    info: PlanInfo,
    /// Where the plans' workspace starts in the caller's, and in the host's memory.
    scratch_at: [usize; 2],
    host_bytes: usize,
    // What no execution uses at the moment, so that a steady state allocates nothing.
    spare: Mutex<Vec<Scratch>>,
}

/// What an execution needs on the host.
struct Scratch {
    stream: Box<dyn Stream>,
    arena: Binding,
    /// Bytes on their way.
    bytes: Vec<u8>,
    /// The caller's bindings, and after them the copies of constants.
    bindings: Vec<Binding>,
    operands: Vec<Binding>,
    /// The copies of constants that the last execution used.
    copies: Vec<Option<Copied>>,
}

/// The host's copy of a constant, and of which buffer and offset it is one.
#[derive(Clone)]
struct Copied {
    of: Weak<dyn Buffer>,
    offset: usize,
    host: Binding,
}

impl Mixed {
    /// Plans the segments of a settled graph; what the host wants packed goes to `packs`.
    ///
    /// # Errors
    /// The device's and the host's.
    pub(crate) fn new(
        device: &dyn Device,
        fallback: &Fallback,
        draft: &Draft<'_>,
        homes: &[Home],
        schedule: &Schedule,
        packs: &mut Vec<Pack>,
    ) -> Result<Mixed> {
        let host = &**fallback.host();
        let rooms = Rooms::new(host, draft, homes, schedule)?;
        let info =
            PlanInfo { workspace_align: device.info().tensor_align.max(1).next_power_of_two(), ..PlanInfo::default() };
        let room = place_where(
            &draft.graph,
            info.workspace_align,
            device.info().tensor_tail_pad,
            |id| schedule.crossing[id.index()],
            |node| schedule.segment_of[node],
        )?;
        let mut make = Make {
            device,
            host,
            draft,
            homes,
            schedule,
            offsets: &room.offsets,
            rooms,
            meters: Vec::new(),
            info,
            scratch: [0; 2],
            host_align: host.info().tensor_align.max(1),
        };
        let segments = schedule.segments.iter().map(|s| make.segment(s, packs)).collect::<Result<Vec<_>>>()?;
        let after = schedule.after.iter().map(|up| make.up(up.root, up.by)).collect::<Result<Vec<_>>>()?;
        let Make { rooms, meters, mut info, scratch, host_align, .. } = make;
        let (scratch_at, total) = behind(room.bytes, info.workspace_align, scratch[0])?;
        let (host_at, host_bytes) = behind(rooms.bytes, host_align, scratch[1])?;
        info.workspace_bytes = total;
        Ok(Mixed {
            fallback: fallback.clone(),
            segments,
            after,
            kept: rooms.kept,
            meters,
            info,
            scratch_at: [scratch_at, host_at],
            host_bytes,
            spare: Mutex::default(),
        })
    }

    pub(crate) fn info(&self) -> PlanInfo {
        self.info
    }

    /// The constants that are packed on the device and of which the host must be given copies, by position.
    pub(crate) fn unpacked(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self.kept.iter().filter(|k| k.packed_on_device != 0).map(|k| k.bound).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Adds what was measured so far to an account.
    pub(crate) fn measured(&self, account: &mut Account) {
        for meter in &self.meters {
            if let Way::Host { hosted, .. } = &mut account.entries[meter.node].way {
                hosted.runs = meter.runs.load(Ordering::Relaxed);
                hosted.time = Duration::from_nanos(meter.nanos.load(Ordering::Relaxed));
            }
        }
    }

    /// Runs it. Bindings and workspace were checked by the caller.
    pub(crate) fn run(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let spare = self.spare().pop();
        let mut scratch = spare.map_or_else(|| self.scratch(), Ok)?;
        scratch.bindings.extend_from_slice(bindings);
        let copies = bindings.len() + self.kept.len();
        scratch.bindings.resize(copies, scratch.arena.clone());
        let mut run = Run { mixed: self, stream, workspace, bound: bindings.len(), s: &mut scratch, busy: true };
        run.all()?;
        // After a failure the host's stream may be poisoned, and what it holds is not kept.
        scratch.bindings.clear();
        scratch.operands.clear();
        self.spare().push(scratch);
        Ok(())
    }

    fn scratch(&self) -> Result<Scratch> {
        let host = self.fallback.host();
        Ok(Scratch {
            stream: host.stream()?,
            arena: Binding::whole(host.alloc(0, self.host_bytes)?),
            bytes: Vec::new(),
            bindings: Vec::new(),
            operands: Vec::new(),
            copies: vec![None; self.kept.len()],
        })
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where `more` bytes start behind `bytes`, and where they end.
fn behind(bytes: usize, align: usize, more: usize) -> Result<(usize, usize)> {
    let at = bytes.checked_next_multiple_of(align);
    let total = at.and_then(|at| at.checked_add(more));
    match (at, total) {
        (Some(_), Some(_)) if more == 0 => Ok((bytes, bytes)),
        (Some(at), Some(total)) => Ok((at, total)),
        _ => Err(Error::invalid("workspace", "its size overflows", "use a smaller batch or context")),
    }
}

/// Segments while they are planned.
struct Make<'a> {
    device: &'a dyn Device,
    host: &'a dyn Device,
    draft: &'a Draft<'a>,
    homes: &'a [Home],
    schedule: &'a Schedule,
    /// Where temporaries that cross lie in the caller's workspace.
    offsets: &'a [Option<usize>],
    rooms: Rooms,
    meters: Vec<Meter>,
    info: PlanInfo,
    /// The most that a plan needs, on the device and on the host.
    scratch: [usize; 2],
    /// On what the host's plans want their workspace to start.
    host_align: usize,
}

impl Make<'_> {
    fn graph(&self) -> &Graph {
        &self.draft.graph
    }

    fn segment(&mut self, planned: &Planned, packs: &mut Vec<Pack>) -> Result<Segment> {
        match planned {
            Planned::Device { nodes, up } => {
                let up = up.iter().map(|up| self.up(up.root, up.by)).collect::<Result<Vec<_>>>()?;
                let crossing = |id: TensorId| self.schedule.crossing[id.index()];
                let part = part(self.graph(), nodes.clone(), &crossing)?;
                let body = Body::new(self.device, &part.graph)?;
                let operands = part.bound.iter().map(|&id| self.on_device(id, true)).collect::<Result<Vec<_>>>()?;
                let needs = body.info();
                self.scratch[0] = self.scratch[0].max(needs.workspace_bytes);
                self.info.workspace_align = self.info.workspace_align.max(needs.workspace_align);
                self.info.resident_bytes = self.info.resident_bytes.saturating_add(needs.resident_bytes);
                Ok(Segment::Device { up, body, operands, workspace: needs.workspace_bytes })
            }
            Planned::Host { node, down } => {
                let down = down.iter().map(|&id| self.moved(id)).collect::<Result<Vec<_>>>()?;
                let given = self.draft.origin[*node];
                let node = plan(self.host, self.draft, self.homes, &mut self.rooms, *node, packs)?;
                let needs = node.body.info();
                self.scratch[1] = self.scratch[1].max(needs.workspace_bytes);
                self.host_align = self.host_align.max(needs.workspace_align);
                self.meters.push(Meter { node: given, ..Meter::default() });
                Ok(Segment::Host { down, node, meter: self.meters.len() - 1 })
            }
        }
    }

    /// Where a tensor that is no view lies on the device, outside of plans.
    fn on_device(&self, id: TensorId, whole: bool) -> Result<Source> {
        let bytes = || self.graph().desc(id).bytes();
        Ok(match self.graph().tensor(id).storage {
            Storage::Bound(position) if whole => Source::Whole(position),
            Storage::Bound(position) => Source::Bound { position, offset: 0, bytes: bytes()? },
            _ => {
                let offset = self.offsets[id.index()].expect("a temporary that crosses is placed");
                Source::Workspace { offset, bytes: bytes()? }
            }
        })
    }

    fn moved(&self, id: TensorId) -> Result<Move> {
        let bytes = self.graph().desc(id).bytes()?;
        Ok(Move { device: self.on_device(id, false)?, host: self.rooms.at(id), bytes })
    }

    fn up(&self, id: TensorId, by: usize) -> Result<Up> {
        let meter = self.meters.iter().position(|m| m.node == by).expect("who wrote it has run");
        Ok(Up { tensor: self.moved(id)?, meter })
    }
}

/// An execution.
struct Run<'a> {
    mixed: &'a Mixed,
    stream: &'a mut dyn Stream,
    workspace: &'a Binding,
    /// The caller's bindings among those of the scratch.
    bound: usize,
    s: &'a mut Scratch,
    /// Whether the device may have work left.
    busy: bool,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let mixed = self.mixed;
        for segment in &mixed.segments {
            match segment {
                Segment::Device { up, body, operands, workspace } => {
                    up.iter().try_for_each(|up| self.up(up))?;
                    self.bind(operands, self.workspace.clone());
                    let start = self.workspace.offset + mixed.scratch_at[0];
                    let scratch = Binding::part(&self.workspace.buffer, start, *workspace);
                    body.run(self.stream, &self.s.operands, &scratch)?;
                    self.busy = true;
                }
                Segment::Host { down, node, meter } => self.host(down, node, &mixed.meters[*meter])?,
            }
        }
        mixed.after.iter().try_for_each(|up| self.up(up))
    }

    fn bind(&mut self, operands: &[Source], workspace: Binding) {
        let s = &mut *self.s;
        s.operands.clear();
        s.operands.extend(operands.iter().map(|o| o.bind(&s.bindings, &workspace)));
    }

    /// Waits until the device has done what it was given.
    fn settle(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.busy, false) {
            self.stream.sync(Duration::MAX)?;
        }
        Ok(())
    }

    fn host(&mut self, down: &[Move], node: &HostNode, meter: &Meter) -> Result<()> {
        for &kept in &node.kept {
            self.copy(kept, meter)?;
        }
        if !down.is_empty() {
            self.settle()?;
        }
        let start = Instant::now();
        for tensor in down {
            let device = tensor.device.bind(&self.s.bindings, self.workspace);
            let host = self.in_arena(tensor.host, tensor.bytes);
            let s = &mut *self.s;
            transfer(tensor.bytes, (self.stream, &device), (&mut *s.stream, &host), &mut s.bytes)?;
        }
        self.bind(&node.operands, self.s.arena.clone());
        let workspace = self.in_arena(self.mixed.scratch_at[1], node.body.info().workspace_bytes);
        node.body.run(&mut *self.s.stream, &self.s.operands, &workspace)?;
        self.s.stream.sync(Duration::MAX)?;
        meter.add(start.elapsed());
        meter.runs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn up(&mut self, up: &Up) -> Result<()> {
        self.settle()?;
        let start = Instant::now();
        let host = self.in_arena(up.tensor.host, up.tensor.bytes);
        let device = up.tensor.device.bind(&self.s.bindings, self.workspace);
        let s = &mut *self.s;
        transfer(up.tensor.bytes, (&mut *s.stream, &host), (self.stream, &device), &mut s.bytes)?;
        self.mixed.meters[up.meter].add(start.elapsed());
        Ok(())
    }

    fn in_arena(&self, offset: usize, bytes: usize) -> Binding {
        Binding::part(&self.s.arena.buffer, self.s.arena.offset + offset, bytes)
    }

    /// Puts the host's copy of a constant among the bindings, made if it is not there.
    fn copy(&mut self, kept: usize, meter: &Meter) -> Result<()> {
        let constant = self.s.bindings[self.mixed.kept[kept].bound].clone();
        let same = |of: &Weak<dyn Buffer>| of.as_ptr().cast::<()>() == Arc::as_ptr(&constant.buffer).cast::<()>();
        let found = match &self.s.copies[kept] {
            Some(last) if same(&last.of) && last.offset == constant.offset => last.host.clone(),
            _ => {
                let host = self.find(kept, &constant, meter)?;
                let of = Arc::downgrade(&constant.buffer);
                self.s.copies[kept] = Some(Copied { of, offset: constant.offset, host: host.clone() });
                host
            }
        };
        self.s.bindings[self.bound + kept] = found;
        Ok(())
    }

    fn find(&mut self, kept: usize, constant: &Binding, meter: &Meter) -> Result<Binding> {
        let mixed = self.mixed;
        let (want, fallback) = (&mixed.kept[kept], &mixed.fallback);
        if let Some(copy) = fallback.find(constant, want.layout, want.bytes) {
            return Ok(copy);
        }
        let plain = match fallback.find(constant, 0, want.tensor.bytes()?) {
            Some(plain) => plain,
            None => self.fetch(want, constant, meter)?,
        };
        let copy = match want.layout {
            0 => plain,
            layout => {
                let start = Instant::now();
                let packed = alloc(&**fallback.host(), want.bytes)?;
                fallback.host().prepack(&mut *self.s.stream, &want.tensor, &plain, layout, &packed)?;
                self.s.stream.sync(Duration::MAX)?;
                meter.add(start.elapsed());
                packed
            }
        };
        fallback.insert(constant, want.layout, copy.clone());
        Ok(copy)
    }

    /// Downloads a constant.
    fn fetch(&mut self, want: &KeptAs, constant: &Binding, meter: &Meter) -> Result<Binding> {
        if want.packed_on_device != 0 {
            let found = format!("it is on the device in its private layout {:#x}", want.packed_on_device);
            let what = format!("bound constant {} for a node on the host", want.bound);
            return Err(Error::invalid(what, found, "give the host a copy of it with Fallback::keep"));
        }
        self.settle()?;
        let start = Instant::now();
        let bytes = want.tensor.bytes()?;
        let copy = alloc(&**self.mixed.fallback.host(), bytes)?;
        let s = &mut *self.s;
        transfer(bytes, (self.stream, constant), (&mut *s.stream, &copy), &mut s.bytes)?;
        meter.add(start.elapsed());
        Ok(copy)
    }
}

/// Copies bytes from the start of a range on one stream to the start of another on another.
fn transfer(
    bytes: usize,
    (from, src): (&mut dyn Stream, &Binding),
    (to, dst): (&mut dyn Stream, &Binding),
    way: &mut Vec<u8>,
) -> Result<()> {
    if way.len() < bytes {
        way.resize(bytes, 0);
    }
    from.download(&mut way[..bytes], src)?;
    to.upload(dst, &way[..bytes])
}

/// Memory of the host for one tensor.
fn alloc(host: &dyn Device, bytes: usize) -> Result<Binding> {
    let padded = bytes.max(1).saturating_add(host.info().tensor_tail_pad);
    Ok(Binding::part(&host.alloc(0, padded)?, 0, bytes))
}
