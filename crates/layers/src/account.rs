//! What became of every node of a graph on a device, and why.

use std::fmt;

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
        self.entries.len() - self.native()
    }

    /// The work of all nodes together.
    pub fn cost(&self) -> Cost {
        self.entries.iter().fold(Cost::default(), |sum, e| sum + e.cost)
    }

    /// The counts in one line.
    pub fn summary(&self) -> String {
        let (all, native, decomposed) = (self.entries.len(), self.native(), self.decomposed());
        format!("{}: {all} operators, {native} native, {decomposed} decomposed", self.device)
    }

    /// Entries with equal cells, counted, in order of first appearance.
    fn lines(&self) -> Vec<(usize, [String; 3])> {
        let mut lines: Vec<(usize, [String; 3])> = Vec::new();
        for entry in &self.entries {
            let cells = entry.cells();
            match lines.iter_mut().find(|(_, seen)| *seen == cells) {
                Some((count, _)) => *count += 1,
                None => lines.push((1, cells)),
            }
        }
        lines
    }
}

impl Entry {
    fn cells(&self) -> [String; 3] {
        match &self.way {
            Way::Native { kernel } => [self.op.into(), format!("native {kernel}").trim_end().into(), String::new()],
            Way::Decomposed { into, reason } => {
                let pieces: Vec<_> = into.iter().map(|p| p.op).collect();
                [self.op.into(), format!("decomposed: {}", pieces.join(" + ")), reason.to_string()]
            }
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let width = |column: usize| lines.iter().map(|(_, c)| c[column].chars().count()).max().unwrap_or(0);
        let (op, way) = (width(0), width(1));
        for (count, [name, how, why]) in &lines {
            let line = format!("{count:>5} × {name:op$}  {how:way$}  {why}");
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
        let account = Account { device: "toy".into(), entries: vec![native(0), native(1), last] };
        let want = "    2 × add       native add_f32.avx2
    1 × silu_mul  decomposed: silu + mul  no kernel for this operator
toy: 3 operators, 2 native, 1 decomposed";
        assert_eq!(account.to_string(), want);
        assert_eq!(account.cost().flops, 4);
    }
}
