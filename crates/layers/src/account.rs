//! What became of every node of a graph on a device, and why.

use std::fmt;
use std::time::Duration;

use qiao_core::{Cost, Reason};

/// One operator of a decomposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name in the op list.
    pub op: &'static str,
    /// The kernel that runs it, as `what.how`; empty where the device does not say.
    pub kernel: String,
}

/// How a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a kernel of the device.
    Native {
        /// The kernel, as `what.how`; empty where the device does not say.
        kernel: String,
    },
    /// As smaller operators on the device.
    Decomposed {
        /// Those operators, in order.
        into: Vec<Piece>,
        /// Why the device has no kernel for the node itself.
        reason: Reason,
    },
    /// Not on the device at all, but on the host that it falls back to.
    Host {
        /// The host's kernels, as `what.how`; empty where the host does not say.
        kernel: String,
        /// Why the node does not run on the device.
        reason: Reason,
        /// What that costs.
        hosted: Hosted,
    },
}

/// What nodes that run on the host cost: what crosses between device and host for them, and the time that it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosted {
    /// Bytes from the device to the host in each execution.
    pub down: u64,
    /// Bytes from the host to the device in each execution.
    pub up: u64,
    /// Bytes of constants from the device to the host, once.
    pub once: u64,
    /// How many times it ran.
    pub runs: u64,
    /// How long it took in all: transfers and computing, without waiting for the device.
    pub time: Duration,
}

impl std::ops::Add for Hosted {
    type Output = Hosted;

    fn add(self, other: Hosted) -> Hosted {
        Hosted {
            down: self.down.saturating_add(other.down),
            up: self.up.saturating_add(other.up),
            once: self.once.saturating_add(other.once),
            runs: self.runs.saturating_add(other.runs),
            time: self.time.saturating_add(other.time),
        }
    }
}

impl fmt::Display for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes down, {} up", self.down, self.up)?;
        if self.once > 0 {
            write!(f, ", {} once", self.once)?;
        }
        match self.runs {
            0 => Ok(()),
            runs => write!(f, ", {runs} run(s) in {:.3} ms", self.time.as_secs_f64() * 1e3),
        }
    }
}

/// What became of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node's position in the graph that was lowered.
    pub node: usize,
    /// The operator's name in the op list.
    pub op: &'static str,
    /// How it runs.
    pub way: Way,
    /// The work of what runs: of the pieces together where the node is decomposed.
    pub cost: Cost,
}

/// What became of every node of a graph on a device. Its `Display` is a table with one line for all nodes that share
/// operator, way and reason, and [`Account::summary`] below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The device's name.
    pub device: String,
    /// The name of the host on which nodes run that are accounted as [`Way::Host`]; empty where none does.
    pub host: String,
    /// One entry for every node of the graph that was lowered, in order.
    pub entries: Vec<Entry>,
}

impl Account {
    /// How many nodes run natively.
    pub fn native(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e.way, Way::Native { .. })).count()
    }

    /// How many nodes run as smaller operators.
    pub fn decomposed(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e.way, Way::Decomposed { .. })).count()
    }

    /// How many nodes run on the host.
    pub fn on_host(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e.way, Way::Host { .. })).count()
    }

    /// What the nodes on the host cost together.
    pub fn hosted(&self) -> Hosted {
        self.entries.iter().filter_map(Entry::hosted).fold(Hosted::default(), |sum, hosted| sum + hosted)
    }

    /// Adds what was measured in another account of the same operators, such as those of another cache size, where the same
    /// nodes run on the host.
    pub fn add_measured(&mut self, other: &Account) {
        for (own, other) in self.entries.iter_mut().zip(&other.entries) {
            if let (Way::Host { hosted, .. }, Some(more)) = (&mut own.way, other.hosted()) {
                hosted.runs = hosted.runs.saturating_add(more.runs);
                hosted.time = hosted.time.saturating_add(more.time);
            }
        }
    }

    /// The work of all nodes together, wherever they run.
    pub fn cost(&self) -> Cost {
        self.entries.iter().fold(Cost::default(), |sum, e| sum + e.cost)
    }

    /// The counts in one line.
    pub fn summary(&self) -> String {
        let (all, native, decomposed) = (self.entries.len(), self.native(), self.decomposed());
        let line = format!("{}: {all} operators, {native} native, {decomposed} decomposed", self.device);
        match self.on_host() {
            0 => line,
            count => format!("{line}, {count} host ({}: {})", self.host, self.hosted()),
        }
    }

    /// Entries with equal operator, way and reason, counted, in order of first appearance; with what those on the host cost
    /// together.
    pub fn lines(&self) -> Vec<Line<'_>> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for entry in &self.entries {
            match lines.iter_mut().find(|line| line.entry.is_like(entry)) {
                Some(line) => {
                    line.count += 1;
                    line.hosted = line.hosted.zip(entry.hosted()).map(|(sum, more)| sum + more);
                }
                None => lines.push(Line { count: 1, entry, hosted: entry.hosted() }),
            }
        }
        lines
    }
}

/// Nodes that share operator, way and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// How many.
    pub count: usize,
    /// The first of them.
    pub entry: &'a Entry,
    /// What they cost together, where they run on the host.
    pub hosted: Option<Hosted>,
}

impl Entry {
    /// What the node costs, where it runs on the host.
    pub fn hosted(&self) -> Option<Hosted> {
        match &self.way {
            Way::Host { hosted, .. } => Some(*hosted),
            _ => None,
        }
    }

    fn is_like(&self, other: &Entry) -> bool {
        let ways = match (&self.way, &other.way) {
            (Way::Host { kernel: a, reason: x, .. }, Way::Host { kernel: b, reason: y, .. }) => a == b && x == y,
            // Pieces may run by different kernels.
            (Way::Decomposed { into: a, reason: x }, Way::Decomposed { into: b, reason: y }) => {
                x == y && a.iter().map(|p| p.op).eq(b.iter().map(|p| p.op))
            }
            (a, b) => a == b,
        };
        self.op == other.op && ways
    }

    fn cells(&self) -> [String; 3] {
        match &self.way {
            Way::Native { kernel } => [self.op.into(), format!("native {kernel}").trim_end().into(), String::new()],
            Way::Decomposed { into, reason } => {
                let pieces: Vec<_> = into.iter().map(|p| p.op).collect();
                [self.op.into(), format!("decomposed: {}", pieces.join(" + ")), reason.to_string()]
            }
            Way::Host { kernel, reason, .. } => {
                [self.op.into(), format!("host {kernel}").trim_end().into(), reason.to_string()]
            }
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.lines().into_iter().map(|line| (line, line.entry.cells())).collect();
        let width = |column: usize| lines.iter().map(|(_, c)| c[column].chars().count()).max().unwrap_or(0);
        let (op, way) = (width(0), width(1));
        for (Line { count, hosted, .. }, [name, how, why]) in &lines {
            let cost = hosted.map_or(String::new(), |hosted| format!(" ({hosted})"));
            let line = format!("{count:>5} × {name:op$}  {how:way$}  {why}{cost}");
            writeln!(f, "{}", line.trim_end())?;
        }
        f.write_str(&self.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_nodes_share_a_line() {
        let native = |node| Entry {
            node,
            op: "add",
            way: Way::Native { kernel: "add_f32.avx2".into() },
            cost: Cost { flops: 2, read: 3, written: 4 },
        };
        let piece = |op| Piece { op, kernel: String::new() };
        let way = Way::Decomposed { into: vec![piece("silu"), piece("mul")], reason: Reason::operator() };
        let last = Entry { node: 2, op: "silu_mul", way, cost: Cost::default() };
        let account = Account { device: "toy".into(), host: String::new(), entries: vec![native(0), native(1), last] };
        let want = "    2 × add       native add_f32.avx2
    1 × silu_mul  decomposed: silu + mul  no kernel for this operator
toy: 3 operators, 2 native, 1 decomposed";
        assert_eq!(account.to_string(), want);
        assert_eq!(account.cost().flops, 4);
    }

    #[test]
    fn what_runs_on_the_host_is_told_with_its_bytes_and_time() {
        let hosted = Hosted { down: 8, up: 4, once: 16, runs: 3, time: Duration::from_micros(250) };
        let way = Way::Host { kernel: "silu_f32.cpu".into(), reason: Reason::operator(), hosted };
        let entry = |node, hosted| match (&way, hosted) {
            (Way::Host { kernel, reason, .. }, hosted) => Entry {
                node,
                op: "silu",
                way: Way::Host { kernel: kernel.clone(), reason: reason.clone(), hosted },
                cost: Cost::default(),
            },
            _ => unreachable!("it is on the host"),
        };
        let entries = vec![entry(0, hosted), entry(1, Hosted { once: 0, ..hosted })];
        let account = Account { device: "toy".into(), host: "cpu".into(), entries };
        let want = "    2 × silu  host silu_f32.cpu  no kernel for this operator (16 bytes down, 8 up, 16 once, 6 run(s) in 0.500 ms)
toy: 2 operators, 0 native, 0 decomposed, 2 host (cpu: 16 bytes down, 8 up, 16 once, 6 run(s) in 0.500 ms)";
        assert_eq!(account.to_string(), want);
        assert_eq!((account.native(), account.decomposed(), account.on_host()), (0, 0, 2));
    }
}
