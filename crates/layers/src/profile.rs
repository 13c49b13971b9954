//! Where the time goes: every node planned and timed by itself.
//!
//! A profiled plan waits for the stream before and after each node, so the whole is slower than the plan it stands for;
//! what fused or overlapped there is seen apart here. Bytes and operations are those of the cost model
//! ([`qiao_core::cost`]): where work depends on values, upper bounds.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{
    Binding, Buffer, Cost, Device, DeviceInfo, Event, Graph, HostMemory, NodeSupport, OpKind, Plan, PlanInfo, Result,
    Stream, TensorDesc,
};

use crate::steps::Steps;

/// The executions of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The operator.
    pub op: OpKind,
    /// The kernel, as `what.how`; empty where the device does not say.
    pub kernel: String,
    /// How many times it ran.
    pub count: u64,
    /// How long in all.
    pub time: Duration,
    /// The work in all.
    pub cost: Cost,
}

impl Usage {
    /// Bytes moved per second, in units of 10⁹; 0 before any time was measured.
    pub fn gb_per_s(&self) -> f64 {
        per_ns(self.cost.read.saturating_add(self.cost.written), self.time)
    }

    /// Operations per second, in units of 10⁹; 0 before any time was measured.
    pub fn gflop_per_s(&self) -> f64 {
        per_ns(self.cost.flops, self.time)
    }
}

fn per_ns(amount: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount as f64 / time.as_nanos() as f64 }
}

/// Where the time went. Its `Display` is a table, the longest time first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// One entry for every operator and kernel that ran, the longest time first.
    pub usages: Vec<Usage>,
}

impl Times {
    /// The time of all kernels together.
    pub fn total(&self) -> Duration {
        self.usages.iter().map(|u| u.time).sum()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let kernel = self.usages.iter().map(|u| u.kernel.chars().count()).max().unwrap_or(0).max("kernel".len());
        let head = ("operator", "kernel", "count", "ms", "%", "GB/s", "GFLOP/s");
        let (op, name, count, ms, share, bytes, flops) = head;
        writeln!(f, "{op:18} {name:kernel$} {count:>8} {ms:>10} {share:>6} {bytes:>9} {flops:>9}")?;
        for u in &self.usages {
            let ms = u.time.as_secs_f64() * 1e3;
            let share = 100.0 * u.time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
            let (bytes, flops) = (u.gb_per_s(), u.gflop_per_s());
            let (op, name, count) = (u.op, &u.kernel, u.count);
            writeln!(f, "{op:18} {name:kernel$} {count:>8} {ms:>10.3} {share:>6.1} {bytes:>9.2} {flops:>9.2}")?;
        }
        write!(f, "{:.3} ms in all", total.as_secs_f64() * 1e3)
    }
}

/// A device whose plans run node by node under a clock. Streams and buffers are the inner device's own.
pub struct Profile {
    inner: Arc<dyn Device>,
    times: Arc<Mutex<Vec<Usage>>>,
}

impl Profile {
    /// Puts a clock in front of a device.
    pub fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Profile { inner, times: Arc::default() })
    }

    /// Where the time went since the last [`Profile::reset`].
    pub fn times(&self) -> Times {
        let mut usages = lock(&self.times).clone();
        usages.retain(|u| u.count > 0);
        usages.sort_by_key(|u| std::cmp::Reverse(u.time));
        Times { usages }
    }

    /// Forgets all times.
    pub fn reset(&self) {
        for usage in lock(&self.times).iter_mut() {
            (usage.count, usage.time, usage.cost) = (0, Duration::ZERO, Cost::default());
        }
    }

    /// The place of an operator's kernel among the usages.
    fn usage(&self, op: OpKind, kernel: &str) -> usize {
        let mut usages = lock(&self.times);
        usages.iter().position(|u| u.op == op && u.kernel == kernel).unwrap_or_else(|| {
            let (count, time, cost) = Default::default();
            usages.push(Usage { op, kernel: kernel.into(), count, time, cost });
            usages.len() - 1
        })
    }
}

fn lock(times: &Mutex<Vec<Usage>>) -> std::sync::MutexGuard<'_, Vec<Usage>> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for Profile {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
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
        let steps = Steps::new(&*self.inner, graph)?;
        let answers = self.inner.support(graph);
        let kernel = |index: usize| answers.get(index).map_or("", |a| a.kernel.as_str());
        let nodes = graph.views().map(|n| (self.usage(n.kind(), kernel(n.index)), n.cost())).collect();
        Ok(Arc::new(TimedPlan { steps, nodes, times: self.times.clone() }))
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
        self.inner.prepack(stream, tensor, src, layout, dst)
    }
}

struct TimedPlan {
    steps: Steps,
    /// For each node its place among the usages, and its work.
    nodes: Vec<(usize, Cost)>,
    times: Arc<Mutex<Vec<Usage>>>,
}

impl Plan for TimedPlan {
    fn info(&self) -> PlanInfo {
        self.steps.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        stream.sync(Duration::MAX)?;
        self.steps.run(stream, bindings, workspace, |index, plan, stream, own, scratch| {
            let start = Instant::now();
            plan.execute(stream, own, scratch)?;
            stream.sync(Duration::MAX)?;
            let time = start.elapsed();
            let (place, cost) = self.nodes[index];
            let usage = &mut lock(&self.times)[place];
            usage.count += 1;
            usage.time += time;
            usage.cost = usage.cost + cost;
            Ok(())
        })
    }
}
