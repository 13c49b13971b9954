//! The floor table: which crate may depend on which. `ARCHITECTURE.md` draws it, this file holds the tree to it.
//!
//! - What a crate's own code uses must stand in its row; a row names lower floors only.
//! - Its tests may use any crate of its own floor or a lower one.
//! - A crate of the workspace that is in no row is an error, and so is a peer or an oracle outside the room that it is
//!   kept to.

use crate::workspace::{Dependency, For, Member};

/// One crate of the house.
struct Room {
    name: &'static str,
    floor: u8,
    may_use: May,
}

enum May {
    /// These crates.
    Only(&'static [&'static str]),
    /// Every crate of a lower floor.
    Below,
}

use May::{Below, Only};

const fn room(floor: u8, name: &'static str, may_use: May) -> Room {
    Room { name, floor, may_use }
}

/// Every crate that there is or will be, from the ground up.
const ROOMS: &[Room] = &[
    room(0, "qiao-core", Only(&[])),
    room(1, "qiao-quant", Only(&["qiao-core"])),
    room(1, "qiao-gguf", Only(&["qiao-core"])),
    room(1, "qiao-kvcache", Only(&[])),
    room(1, "qiao-images", Only(&[])),
    room(2, "qiao-kernels-cpu", Only(&["qiao-quant"])),
    room(2, "qiao-simamx", Only(&[])),
    room(2, "qiao-kernels-cuda", Only(&[])),
    room(2, "qiao-kernels-opencl", Only(&[])),
    room(2, "qiao-reference", Only(&["qiao-core", "qiao-quant"])),
    room(2, "qiao-layers", Only(&["qiao-core"])),
    room(2, "qiao-launch", Only(&["qiao-core", "qiao-quant"])),
    room(3, "qiao-cpu", Only(&["qiao-core", "qiao-quant", "qiao-kernels-cpu"])),
    room(3, "qiao-cuda", Only(&["qiao-core", "qiao-images", "qiao-launch", "qiao-kernels-cuda"])),
    room(3, "qiao-simcuda", Only(&["qiao-kernels-cuda"])),
    room(3, "qiao-opencl", Only(&["qiao-core", "qiao-quant", "qiao-images", "qiao-launch", "qiao-kernels-opencl"])),
    room(3, "qiao-ascend", Only(&["qiao-core"])),
    room(3, "qiao-simascend", Only(&["qiao-core", "qiao-reference"])),
    room(3, "qiao-plugin", Only(&["qiao-core"])),
    room(3, "qiao-engine", Only(&["qiao-core", "qiao-quant", "qiao-gguf", "qiao-kvcache", "qiao-layers"])),
    room(3, "qiao-conformance", Only(&["qiao-core", "qiao-quant", "qiao-reference", "qiao-layers"])),
    room(4, "qiao-simnpu", Only(&["qiao-core", "qiao-plugin", "qiao-reference"])),
    room(4, "qiao-ascend-plugin", Only(&["qiao-core", "qiao-plugin", "qiao-ascend"])),
    room(4, "qiao", Below),
    room(5, "qiao-cli", Only(&["qiao", "qiao-conformance"])),
    room(5, "qiao-benches", Below),
    room(5, "qiao-examples", Below),
    room(5, "acme-npu-rust", Only(&["qiao-core", "qiao-plugin"])),
    room(5, "xtask", Only(&["qiao-kernels-cuda"])),
];

/// Crates from outside that only one room may use, whatever for.
const KEPT_TO: &[(&str, &str)] = &[("candle-core", "qiao-benches"), ("criterion", "qiao-benches")];

fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|r| r.name == name)
}

/// Every way in which these members break the table.
pub(crate) fn check(members: &[Member]) -> Vec<String> {
    let mut faults = Vec::new();
    for member in members {
        let Some(room) = find(&member.name) else {
            faults.push(format!("{} is in no row of the floor table: give it one in xtask/src/arrows.rs", member.name));
            continue;
        };
        faults.extend(member.dependencies.iter().filter_map(|d| fault(room, d)));
    }
    faults
}

fn fault(room: &Room, dependency: &Dependency) -> Option<String> {
    let (from, to) = (room.name, dependency.name.as_str());
    if !dependency.inside {
        let (_, only) = KEPT_TO.iter().find(|(name, only)| *name == to && *only != from)?;
        return Some(format!("{from} uses {to}, which is kept to {only}"));
    }
    let Some(target) = find(to) else {
        return Some(format!("{from} uses {to}, which is in no row of the floor table"));
    };
    let allowed = match (dependency.purpose, &room.may_use) {
        (For::Tests, _) => target.floor <= room.floor,
        (For::Code, Below) => target.floor < room.floor,
        (For::Code, Only(list)) => list.contains(&to),
    };
    let purpose = if dependency.purpose == For::Tests { " for its tests" } else { "" };
    let mend = match (dependency.purpose, &room.may_use) {
        (For::Tests, _) => "tests may use its own floor and those below".to_string(),
        (For::Code, Below) => "it may use lower floors".to_string(),
        (For::Code, Only([])) => "it may use no other crate".to_string(),
        (For::Code, Only(list)) => format!("it may use {}", list.join(", ")),
    };
    (!allowed).then(|| format!("{from} (floor {}) uses {to} (floor {}){purpose}: {mend}", room.floor, target.floor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// A workspace of one member with these dependencies: name, kind, and whether it is a path.
    fn invented(name: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Vec<Member> {
        let dependency = |(name, kind, inside): &(&str, Option<&str>, bool)| {
            let path = inside.then_some("/somewhere");
            serde_json::json!({ "name": name, "kind": kind, "path": path })
        };
        let package = serde_json::json!({
            "name": name,
            "manifest_path": "/house/crates/x/Cargo.toml",
            "dependencies": dependencies.iter().map(dependency).collect::<Vec<_>>(),
            "targets": [],
        });
        workspace::read(serde_json::json!({ "packages": [package] }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_tree_keeps_to_the_floor_table() {
        let faults = check(&workspace::members().unwrap());
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn rows_name_lower_floors_only() {
        for room in ROOMS {
            let Only(list) = room.may_use else { continue };
            for name in list {
                let target = find(name).unwrap_or_else(|| panic!("{name} has no row"));
                assert!(target.floor < room.floor, "{} names {name}", room.name);
            }
        }
    }

    #[test]
    fn an_arrow_upwards_or_sideways_is_a_fault() {
        let faults = check(&invented("qiao-core", &[("qiao-layers", None, true)]));
        assert_eq!(faults, ["qiao-core (floor 0) uses qiao-layers (floor 2): it may use no other crate"]);
        assert_eq!(check(&invented("qiao-engine", &[("qiao-cpu", None, true)])).len(), 1);
        assert_eq!(check(&invented("qiao-engine", &[("qiao-core", Some("build"), true)])).len(), 0);
        assert_eq!(
            check(&invented("qiao-layers", &[("qiao-quant", None, true)])).len(),
            1,
            "below, but not in the row"
        );
        assert_eq!(check(&invented("qiao", &[("qiao-cpu", None, true), ("qiao-engine", None, true)])).len(), 0);
        assert_eq!(check(&invented("qiao", &[("qiao-cli", None, true)])).len(), 1);
    }

    #[test]
    fn tests_may_use_their_own_floor_but_none_above() {
        assert_eq!(check(&invented("qiao-layers", &[("qiao-reference", Some("dev"), true)])).len(), 0);
        assert_eq!(check(&invented("qiao-layers", &[("qiao-reference", None, true)])).len(), 1);
        let faults = check(&invented("qiao-layers", &[("qiao-engine", Some("dev"), true)]));
        assert!(faults[0].contains("for its tests"), "{faults:?}");
    }

    #[test]
    fn crates_without_a_row_and_peers_in_the_wrong_room_are_faults() {
        assert!(check(&invented("qiao-utils", &[]))[0].contains("in no row"));
        assert!(check(&invented("qiao", &[("qiao-utils", None, true)]))[0].contains("in no row"));
        assert!(
            check(&invented("qiao-cpu", &[("candle-core", Some("dev"), false)]))[0].contains("kept to qiao-benches")
        );
        assert_eq!(check(&invented("qiao-benches", &[("candle-core", Some("dev"), false)])).len(), 0);
    }
}
