//! Every operator has families, and every family is what it says: its points are cases with stable ids.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use qiao_conformance::{Case, Depth, Family};
use qiao_core::{DType, Error, OpKind};

const SEED: u64 = 7;

/// Fewer points down to `Standard` than this are no walk.
const FEWEST: usize = 4;

/// Size above which a point is left to the runs themselves.
const LARGE: usize = 1 << 20;

fn each_case(depth: Depth, mut f: impl FnMut(&'static Family, DType, Case)) {
    for case in Case::all(depth) {
        if let Case::Op { family, dtype, .. } = &case {
            f(family, *dtype, case.clone());
        }
    }
}

#[test]
fn every_op_has_cases() {
    for &kind in OpKind::ALL {
        let smoke = Family::of(kind).flat_map(|f| f.points(Depth::Smoke)).count();
        assert!(smoke >= 2, "{kind} has {smoke} cases that a profile asks for: give it a family in ops/");
    }
}

#[test]
fn every_family_walks_enough_points() {
    for family in Family::all() {
        let count = family.points(Depth::Standard).len() * family.dtypes.len();
        assert!(count >= FEWEST, "{} has {count} cases", family.name());
    }
}

#[test]
fn ids_are_unique_and_read_back_as_themselves() {
    let mut seen = HashSet::new();
    for case in Case::all(Depth::Full) {
        let id = case.id();
        assert_eq!(Case::parse(&id).unwrap().id(), id);
        assert!(seen.insert(id.clone()), "{id} stands twice");
    }
}

/// The product of the three largest numbers of a case's path: about the elements of its operands.
fn size_of(id: &str) -> usize {
    let values = id.split([',', '/']).filter_map(|p| p.split_once('=')).filter_map(|(_, v)| v.parse::<usize>().ok());
    let mut numbers: Vec<usize> = values.collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.iter().take(3).fold(1, |n, &v| n.saturating_mul(v.max(1)))
}

#[test]
fn every_point_is_a_case_whose_descriptions_depend_on_it_alone() {
    let mut failures = Vec::new();
    each_case(Depth::Full, |family, dtype, case| {
        let Case::Op { point, .. } = &case else { return };
        // Of large points one dtype stands for all.
        let most = if dtype == family.dtypes[0] { LARGE / 4 } else { LARGE / 64 };
        if size_of(&case.id()) > most {
            return;
        }
        let build = |seed| family.trial(dtype, point, seed)?.build();
        match (build(SEED), build(SEED + 1)) {
            (Ok(a), Ok(b)) if a.graph == b.graph => {}
            (Ok(_), Ok(_)) => failures.push(format!("{}: another seed gives other descriptions", case.id())),
            (Err(e), _) | (_, Err(e)) => failures.push(format!("{}: {e}", case.id())),
        }
    });
    assert!(
        failures.is_empty(),
        "{} points are none:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

#[test]
fn every_attribute_of_every_operator_takes_two_values() {
    let mut taken: BTreeMap<(OpKind, usize), BTreeSet<u32>> = BTreeMap::new();
    each_case(Depth::Standard, |family, dtype, case| {
        let Case::Op { point, .. } = &case else { return };
        if dtype != family.dtypes[0] || size_of(&case.id()) > LARGE {
            return;
        }
        let op = family.trial(dtype, point, SEED).expect("points are cases").op();
        for (i, word) in op.attr_words().into_iter().enumerate() {
            taken.entry((op.kind(), i)).or_default().insert(word);
        }
    });
    for &kind in OpKind::ALL {
        for (i, name) in kind.attr_names().iter().enumerate() {
            let values = taken.get(&(kind, i)).map_or(0, BTreeSet::len);
            assert!(values >= 2, "{kind}: attribute {name} takes {values} values in the walk");
        }
    }
}

#[test]
fn what_a_profile_asks_for_is_plain() {
    each_case(Depth::Smoke, |family, dtype, case| {
        let Case::Op { point, .. } = &case else { return };
        let built = family.trial(dtype, point, SEED).and_then(|t| t.build()).expect("points are cases");
        for id in built.graph.bound() {
            let desc = built.graph.desc(*id);
            assert!(desc.is_contiguous(), "{}: {desc}", case.id());
            assert!(desc.dtype != DType::I64 && desc.dtype != DType::F64, "{}: {desc}", case.id());
        }
    });
}

#[test]
fn a_path_that_names_no_case_is_an_error_that_says_why() {
    for (id, found) in [
        ("op/no_such/f32/rows=1", "no family"),
        ("op/rms_norm/i8/rows=1,cols=1", "no dtype"),
        ("op/rms_norm/f32/rows=1,colls=1", "no such parameter"),
        ("rms_norm", "no such case"),
    ] {
        let Err(Error::Invalid { .. }) = Case::parse(id) else { panic!("{id} is a case") };
        let text = Case::parse(id).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains(found), "{id}: {text}");
    }
}
