//! A device that fails on purpose: what runs on it is tested for what it does then.
//!
//! Which call fails, and how, follows from a plan of faults and its seed: the same calls in the same order fail alike.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Error, Event, Graph, HostMemory, NodeSupport, Plan, PlanInfo, Result, Stream,
    TensorDesc, TensorId,
};

/// A call that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// [`Device::alloc`].
    Alloc,
    /// [`Device::stream`].
    Stream,
    /// [`Stream::upload`].
    Upload,
    /// [`Stream::download`].
    Download,
    /// [`Stream::copy`].
    Copy,
    /// [`Stream::fill`].
    Fill,
    /// [`Stream::sync`].
    Sync,
    /// [`Plan::execute`].
    Execute,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// [`Error::OutOfMemory`]; nothing was done, and the device and its streams stay usable.
    OutOfMemory,
    /// [`Error::Timeout`]; nothing was done, and the stream stays usable.
    Timeout,
    /// The command fails, and its stream is poisoned: every later command on it answers [`Error::Poisoned`]. What the command
    /// was to write holds junk, or is as it should be: either may be met after a failure.
    Failure,
    /// [`Error::DeviceLost`], from now on for every call that goes to the device.
    DeviceLost,
}

/// When calls of one kind fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At this one, counted from 0 while faults are on.
    Nth(u64),
    /// At this share of them, 0 to 1.
    Share(f64),
}

/// Calls of one kind, and when and how they fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The calls.
    pub command: Command,
    /// When they fail.
    pub when: When,
    /// How.
    pub fault: Fault,
}

/// A device that fails by rules. It begins sound: [`Faulty::switch`] turns the faults on.
pub struct Faulty {
    inner: Arc<dyn Device>,
    switch: Faults,
}

/// Turns the faults of a device on and off, and counts them. Clones are the same switch.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    name: Arc<str>,
}

struct State {
    rules: Vec<Rule>,
    on: bool,
    random: u64,
    calls: BTreeMap<Command, u64>,
    done: BTreeMap<(Command, Fault), u64>,
    lost: bool,
}

impl State {
    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// What becomes of a call.
    fn decide(&mut self, command: Command) -> Option<Fault> {
        if self.lost {
            return Some(Fault::DeviceLost);
        }
        if !self.on {
            return None;
        }
        let count = self.calls.entry(command).or_default();
        let nth = *count;
        *count += 1;
        let rules: Vec<Rule> = self.rules.iter().copied().filter(|rule| rule.command == command).collect();
        let due = rules.into_iter().find(|rule| match rule.when {
            When::Nth(n) => n == nth,
            When::Share(share) => ((self.next() >> 11) as f64) < share * (1u64 << 53) as f64,
        })?;
        *self.done.entry((command, due.fault)).or_default() += 1;
        self.lost |= due.fault == Fault::DeviceLost;
        Some(due.fault)
    }
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns faults on or off. A device that is lost stays so.
    pub fn set(&self, on: bool) {
        self.state().on = on;
    }

    /// Faults so far, by call and kind.
    pub fn done(&self) -> BTreeMap<(Command, Fault), u64> {
        self.state().done.clone()
    }

    /// Faults so far.
    pub fn total(&self) -> u64 {
        self.state().done.values().sum()
    }

    /// Nothing, or the fault that a call meets. Of [`Fault::Failure`] the caller poisons its stream.
    fn meet(&self, command: Command, bytes: u64) -> Result<(), (Fault, Error)> {
        let Some(fault) = self.state().decide(command) else { return Ok(()) };
        let device = self.name.to_string();
        Err((
            fault,
            match fault {
                Fault::OutOfMemory => Error::OutOfMemory { device, asked: bytes, free: 0 },
                Fault::Timeout => Error::Timeout { what: format!("{command:?} on {device}"), millis: 0 },
                Fault::Failure => Error::internal(format!("{command:?} on {device}"), "a fault was planned here"),
                Fault::DeviceLost => Error::DeviceLost { device, why: "a fault was planned here".into() },
            },
        ))
    }

    /// Whether a failed command is to leave junk.
    fn junk(&self) -> bool {
        self.state().next() & 1 == 0
    }
}

impl Faulty {
    /// Puts planned faults in front of a device.
    pub fn new(inner: Arc<dyn Device>, seed: u64, rules: impl IntoIterator<Item = Rule>) -> Faulty {
        let state = State {
            rules: rules.into_iter().collect(),
            on: false,
            random: seed,
            calls: BTreeMap::new(),
            done: BTreeMap::new(),
            lost: false,
        };
        let name = inner.info().name.as_str().into();
        Faulty { inner, switch: Faults { state: Arc::new(Mutex::new(state)), name } }
    }

    /// What turns its faults on.
    pub fn switch(&self) -> Faults {
        self.switch.clone()
    }

    /// The device, and what turns its faults on.
    pub fn wrap(inner: Arc<dyn Device>, seed: u64, rules: impl IntoIterator<Item = Rule>) -> (Arc<dyn Device>, Faults) {
        let faulty = Faulty::new(inner, seed, rules);
        let switch = faulty.switch();
        (Arc::new(faulty), switch)
    }
}

impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.switch.meet(Command::Alloc, bytes as u64).map_err(|(_, error)| error)?;
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.switch.meet(Command::Stream, 0).map_err(|(_, error)| error)?;
        Ok(Box::new(FaultyStream { inner: self.inner.stream()?, switch: self.switch.clone(), first: None }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.inner.event()
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.import(memory, offset, bytes)
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let reads = |id| move |input: &TensorId| graph.root(*input).0 == id;
        let read = |id| graph.nodes().iter().any(|node| node.inputs.iter().flatten().any(reads(id)));
        let results = (0..graph.bound().len()).filter(|&at| graph.writes_bound(at) && !read(graph.bound()[at]));
        let results = results.collect();
        Ok(Arc::new(FaultyPlan { inner: self.inner.plan(graph)?, results }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.inner.prepack(&mut *own(stream)?.usable()?.inner, tensor, src, layout, dst)
    }
}

/// A stream that such a device made.
fn own(stream: &mut dyn Stream) -> Result<&mut FaultyStream> {
    let other = || Error::invalid("stream", "it is of another device", "make it with Device::stream of this one");
    (stream as &mut dyn Any).downcast_mut::<FaultyStream>().ok_or_else(other)
}

struct FaultyStream {
    inner: Box<dyn Stream>,
    switch: Faults,
    /// The failure that poisoned it.
    first: Option<Error>,
}

impl FaultyStream {
    fn usable(&mut self) -> Result<&mut Self> {
        match &self.first {
            Some(first) => Err(Error::Poisoned { first: Box::new(first.clone()) }),
            None => Ok(self),
        }
    }

    /// Runs a command, or lets it fail; `junk` spoils what it was to write.
    fn command(
        &mut self,
        command: Command,
        run: impl FnOnce(&mut dyn Stream) -> Result<()>,
        junk: impl FnOnce(&mut dyn Stream) -> Result<()>,
    ) -> Result<()> {
        self.usable()?;
        let Err((fault, error)) = self.switch.meet(command, 0) else { return run(&mut *self.inner) };
        if fault == Fault::Failure {
            // What the device itself has to say about it is no news beside the planned error.
            let _ = if self.switch.junk() { junk(&mut *self.inner) } else { run(&mut *self.inner) };
            self.first = Some(error.clone());
        }
        Err(error)
    }
}

/// What spoiled bytes hold: NaN in every float.
const JUNK: u8 = 0xff;

impl Stream for FaultyStream {
    fn set_patience(&mut self, limit: Duration) {
        self.inner.set_patience(limit);
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        let part = Binding::part(&dst.buffer, dst.offset, src.len().min(dst.bytes));
        self.command(Command::Upload, |s| s.upload(dst, src), |s| s.fill(&part, JUNK))
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.usable()?;
        if let Err((fault, error)) = self.switch.meet(Command::Download, 0) {
            if fault == Fault::Failure {
                dst.fill(JUNK);
                self.first = Some(error.clone());
            }
            return Err(error);
        }
        self.inner.download(dst, src)
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        let part = Binding::part(&dst.buffer, dst.offset, src.bytes.min(dst.bytes));
        self.command(Command::Copy, |s| s.copy(dst, src), |s| s.fill(&part, JUNK))
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        self.command(Command::Fill, |s| s.fill(dst, byte), |s| s.fill(dst, JUNK))
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.command(Command::Sync, |s| s.sync(timeout), |s| s.sync(timeout))
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.usable()?.inner.record(event)
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.usable()?.inner.wait(event)
    }
}

struct FaultyPlan {
    inner: Arc<dyn Plan>,
    /// Bound tensors that it writes and does not read.
    results: Vec<usize>,
}

impl Plan for FaultyPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let spoil = |s: &mut dyn Stream| {
            let results = self.results.iter().filter_map(|&at| bindings.get(at));
            results.chain([workspace]).try_for_each(|binding| s.fill(binding, JUNK))
        };
        let run = |s: &mut dyn Stream| self.inner.execute(s, bindings, workspace);
        own(stream)?.command(Command::Execute, run, spoil)
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::{DType, NoAttrs, Op};
    use qiao_reference::ReferenceDevice;

    use super::*;

    fn faulty(rules: &[Rule]) -> (Arc<dyn Device>, Faults) {
        let (device, faults) = Faulty::wrap(Arc::new(ReferenceDevice::default()), 1, rules.iter().copied());
        faults.set(true);
        (device, faults)
    }

    fn rule(command: Command, n: u64, fault: Fault) -> Rule {
        Rule { command, when: When::Nth(n), fault }
    }

    fn memory(device: &dyn Device, bytes: usize) -> Binding {
        Binding::whole(device.alloc(0, bytes).unwrap())
    }

    #[test]
    fn nothing_fails_before_it_is_switched_on() {
        let rules = [Rule { command: Command::Alloc, when: When::Share(1.0), fault: Fault::OutOfMemory }];
        let (device, faults) = faulty(&rules);
        faults.set(false);
        assert!(device.alloc(0, 8).is_ok());
        faults.set(true);
        assert!(matches!(device.alloc(0, 8), Err(Error::OutOfMemory { asked: 8, .. })));
        faults.set(false);
        assert!(device.alloc(0, 8).is_ok());
        assert_eq!((faults.total(), faults.done()[&(Command::Alloc, Fault::OutOfMemory)]), (1, 1));
    }

    #[test]
    fn the_call_that_was_named_fails_and_no_other() {
        let (device, _) = faulty(&[rule(Command::Upload, 2, Fault::Timeout)]);
        let to = memory(&*device, 4);
        let mut stream = device.stream().unwrap();
        let outcomes: Vec<bool> = (0..5).map(|i| stream.upload(&to, &[i; 4]).is_ok()).collect();
        assert_eq!(outcomes, [true, true, false, true, true]);
        let mut found = [0; 4];
        stream.download(&mut found, &to).unwrap();
        assert_eq!(found, [4; 4]);
    }

    #[test]
    fn a_failure_poisons_its_stream_and_no_other() {
        let (device, _) = faulty(&[rule(Command::Fill, 0, Fault::Failure)]);
        let to = memory(&*device, 4);
        let (mut first, mut second) = (device.stream().unwrap(), device.stream().unwrap());
        assert!(matches!(first.fill(&to, 1), Err(Error::Internal { .. })));
        assert!(matches!(first.fill(&to, 2), Err(Error::Poisoned { .. })));
        assert!(matches!(first.sync(Duration::ZERO), Err(Error::Poisoned { .. })));
        second.fill(&to, 3).unwrap();
        let mut found = [0; 4];
        second.download(&mut found, &to).unwrap();
        assert_eq!(found, [3; 4]);
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let (device, faults) = faulty(&[rule(Command::Stream, 1, Fault::DeviceLost)]);
        let mut stream = device.stream().unwrap();
        assert!(matches!(device.stream(), Err(Error::DeviceLost { .. })));
        faults.set(false);
        assert!(matches!(stream.sync(Duration::ZERO), Err(Error::DeviceLost { .. })));
        assert!(matches!(device.alloc(0, 1), Err(Error::DeviceLost { .. })));
    }

    #[test]
    fn a_failed_plan_spoils_results_and_nothing_that_it_reads() {
        let rules = [Rule { command: Command::Execute, when: When::Share(0.5), fault: Fault::Failure }];
        let (device, faults) = faulty(&rules);
        let mut graph = Graph::new();
        let desc = TensorDesc::new(DType::I32, &[2]).unwrap();
        let (a, y) = (graph.bind("a", desc.clone()), graph.bind("y", desc));
        graph.add_into(Op::Copy(NoAttrs {}), &[Some(a)], &[y]).unwrap();
        let plan = device.plan(&graph).unwrap();
        let bindings = [memory(&*device, 8), memory(&*device, 8)];
        let workspace = memory(&*device, plan.info().workspace_bytes);
        let (mut junk, mut right) = (0, 0);
        for _ in 0..40 {
            let mut stream = device.stream().unwrap();
            stream.upload(&bindings[0], &[1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
            stream.fill(&bindings[1], 0).unwrap();
            let failed = plan.execute(&mut *stream, &bindings, &workspace).is_err();
            let (mut input, mut output) = ([0; 8], [0; 8]);
            let mut other = device.stream().unwrap();
            other.download(&mut input, &bindings[0]).unwrap();
            other.download(&mut output, &bindings[1]).unwrap();
            assert_eq!(input, [1, 0, 0, 0, 2, 0, 0, 0]);
            assert!(failed || output == input);
            junk += usize::from(failed && output == [JUNK; 8]);
            right += usize::from(failed && output == input);
        }
        assert!(junk > 0 && right > 0 && (junk + right) as u64 == faults.total(), "{junk} {right}");
    }

    #[test]
    fn the_same_seed_fails_alike() {
        let rules = [Rule { command: Command::Alloc, when: When::Share(0.3), fault: Fault::OutOfMemory }];
        let run = || -> Vec<bool> {
            let (device, _) = faulty(&rules);
            (0..50).map(|_| device.alloc(0, 1).is_ok()).collect()
        };
        assert_eq!(run(), run());
        assert!(run().contains(&true) && run().contains(&false));
    }
}
