//! A Rust backend through the exporter and the loader is the same backend.

use std::sync::Arc;
use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Case, Depth, Outcome, Profile, Subject};
use qiao_core::{Backend, Result};
use qiao_plugin::abi::{Api, ErrorRecord, Query, Status};
use qiao_plugin::{Host, Options, Plugin, PluginBackend, export};
use qiao_reference::ReferenceBackend;

struct Exported;

impl export::Plugin for Exported {
    const VENDOR: &'static str = "Qiao";
    const NAME: &'static str = "through-c";
    const VERSION: &'static str = "1";

    fn open(_: &Host) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(ReferenceBackend))
    }
}

static TABLE: Api = export::table::<Exported>();

unsafe extern "C" fn query(query: *mut Query, error: *mut ErrorRecord) -> Status {
    // SAFETY: the loader keeps to the header.
    unsafe { export::answer_query::<Exported>(&TABLE, query, error) }
}

fn loaded() -> Arc<PluginBackend> {
    // SAFETY: the exporter keeps to the header.
    unsafe { Plugin::of_query(query, &Options::default()) }.unwrap()
}

fn subjects() -> [Subject; 2] {
    let backend = loaded();
    let mut direct = Subject::open(|| ReferenceBackend.open(0)).unwrap();
    direct.timeout = Duration::from_secs(60);
    let mut through = direct.beside(move || backend.open(0)).unwrap();
    through.timeout = direct.timeout;
    [direct, through]
}

#[test]
fn it_says_of_itself_what_it_said_before() {
    let [direct, through] = subjects();
    let (mut a, b) = (direct.device.info().clone(), through.device.info().clone());
    a.vendor = "Qiao".into();
    for (a, b) in a.memories.iter_mut().zip(&b.memories) {
        a.free_bytes = b.free_bytes;
    }
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

#[test]
fn it_answers_every_question_as_it_did_before() {
    let [direct, through] = subjects();
    let mut asked = 0;
    for case in Profile::Full.cases().into_iter().filter(|c| c.depth() == Depth::Smoke) {
        let Case::Op { .. } = &case else { continue };
        let (a, b) = (case.run(&direct, 1), case.run(&through, 1));
        let what = |r: &qiao_conformance::Record| (r.status, r.way.clone(), r.reason.clone());
        assert_eq!(what(&a), what(&b), "{}\n{a:#?}\n{b:#?}", case.id());
        asked += 1;
    }
    assert!(asked > 100, "{asked} cases");
}

#[test]
fn it_keeps_the_contract() {
    let [_, through] = subjects();
    let host = ["device/compute/results_are_not_the_hosts"];
    let broken =
        Clause::all().filter(|c| !host.contains(&c.id) && c.kind() != "leaks").filter_map(|clause| {
            match clause.outcome(&through) {
                Outcome::Failed(failure) => Some(format!("{}: {}", clause.id, failure.why)),
                _ => None,
            }
        });
    assert_eq!(broken.collect::<Vec<_>>(), [""; 0]);
}
