//! A backend that crashes, hangs, aborts, leaves or babbles costs one case and not the run. This binary starts itself as
//! the worker.

use std::any::Any;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qiao_conformance::worker::{self, Worker};
use qiao_conformance::{Check, Executor, Expectations, Glob, Profile, Replay, Run, Selection, Status, Subject, run};
use qiao_core::host::HostStream;
use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Graph, NodeSupport, OpKind, Plan, PlanInfo, Reason, Result, Stream, Support,
    device::refuse,
};
use qiao_reference::ReferenceDevice;

/// The variable that names what a worker does wrong.
const MANNER: &str = "QIAO_TEST_MANNER";

/// A reference device that runs `relu` alone and ends badly on tensors of five rows.
struct Ill {
    inner: ReferenceDevice,
    info: DeviceInfo,
    manner: String,
}

impl Ill {
    fn new(manner: &str) -> Ill {
        let inner = ReferenceDevice::default();
        let info = DeviceInfo { name: "ill".into(), ..inner.info().clone() };
        Ill { inner, info, manner: manner.into() }
    }
}

impl Device for Ill {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let mine = |kind| kind == OpKind::Relu && self.manner != "nothing";
        let answer =
            |kind| if mine(kind) { NodeSupport::native("relu.ill") } else { NodeSupport::no(Reason::operator()) };
        graph.views().map(|v| answer(v.kind())).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let answers = self.support(graph);
        if answers.iter().any(|a| a.answer != Support::Native) {
            return Err(refuse(&self.info, graph, &answers));
        }
        let rows = graph.desc(graph.bound()[0]).shape.first().copied().unwrap_or(0);
        Ok(Arc::new(IllPlan { inner: self.inner.plan(graph)?, manner: self.manner.clone(), rows }))
    }
}

struct IllPlan {
    inner: Arc<dyn Plan>,
    manner: String,
    rows: usize,
}

/// Writes bytes to standard output past the lock of the test harness.
fn babble(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).expect("the parent listens");
}

impl Plan for IllPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        match self.manner.as_str() {
            // Half a line, lines that look like answers, and bytes that are no text.
            "babbles" => {
                babble(b"\n\x01qiao-worker {\"Record\":{}}\n\x01qiao-worker \n\xff\xfe driver: 100% [=====>  \x01qiao")
            }
            "fills the pipe" => babble(&[b'x'; 1 << 20]),
            "fills the other pipe" => (0..20_000).for_each(|i| eprintln!("driver: line {i}")),
            _ => {}
        }
        if self.rows >= 5 {
            match self.manner.as_str() {
                "aborts" => {
                    eprintln!("driver: assertion failed in kernel 7");
                    std::process::abort()
                }
                "leaves" => std::process::exit(0),
                "hangs" => loop {
                    std::thread::sleep(Duration::from_secs(3600));
                },
                "spins" => loop {
                    std::hint::spin_loop();
                },
                "panics" => panic!("the driver is unwell"),
                "answers for another" => {
                    babble(b"\n\x01qiao-worker {\"Record\":{\"id\":\"op/exp/f32/rows=1,cols=1\",\"status\":\"passed\",\"failure\":null,\"reason\":null,\"way\":\"\",\"measured\":[],\"millis\":0.0,\"replay\":null}}\n");
                }
                "overflows its stack" => overflow(0),
                _ => {}
            }
        }
        let host = (stream as &mut dyn Any).downcast_mut::<HostStream>().expect("the stream is the reference's");
        self.inner.execute(host, bindings, workspace)?;
        if self.manner == "is wrong" && self.rows >= 5 {
            let output = &bindings[1];
            let mut bytes = vec![0; output.bytes];
            host.download(&mut bytes, output)?;
            // Every number becomes one between 8 and 32.
            bytes.iter_mut().skip(3).step_by(4).for_each(|b| *b = 0x41);
            host.upload(output, &bytes)?;
        }
        Ok(())
    }
}

#[allow(unconditional_recursion, reason = "this is how a stack overflows")]
fn overflow(depth: usize) {
    let room = [depth; 4096];
    overflow(std::hint::black_box(room)[17] + 1);
    std::hint::black_box(&room);
}

/// The worker's side: does nothing unless a manner is given.
#[test]
fn serves_as_the_worker() {
    let Ok(manner) = std::env::var(MANNER) else { return };
    let open = move || {
        if manner == "can not be opened" {
            std::process::abort();
        }
        Subject::open(move || Ok(Arc::new(Ill::new(&manner)) as Arc<dyn Device>))
    };
    worker::serve("ill:0", open, std::io::stdin(), std::io::stdout()).expect("the parent listens");
    // What the harness of tests would print afterwards is none of the parent's concern.
    std::process::exit(0);
}

fn worker_for(manner: &str, timeout: Duration) -> Executor {
    let manner = manner.to_string();
    let start = move || {
        let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
        command.args(["--exact", "serves_as_the_worker", "--nocapture", "--test-threads=1"]).env(MANNER, &manner);
        command
    };
    Executor::Worker(Worker::new(start, timeout))
}

fn selection(filter: &[&str]) -> Selection {
    Selection { filter: filter.iter().map(|f| Glob::new(*f)).collect(), ..Selection::new(Profile::Smoke) }
}

/// relu over one and over five rows.
const FOUR: &[&str] = &["op/relu/f32/rows=1,cols=*", "op/relu/f32/rows=5,cols=*"];

fn run_all(selection: &Selection, manner: &str, timeout: Duration) -> Run {
    run(selection, &mut worker_for(manner, timeout), |_| true).expect("the run goes on to its end")
}

const LONG: Duration = Duration::from_secs(60);

/// A manner costs the cases of five rows this check, and no other case.
fn costs_its_cases_only(manner: &str, timeout: Duration, check: Check) -> Run {
    let found = run_all(&selection(FOUR), manner, timeout);
    assert_eq!(found.records.len(), 4, "{:?}", found.records);
    for record in &found.records {
        match record.id.contains("rows=5") {
            true => assert_eq!(record.failure.as_ref().map(|f| f.check), Some(check), "{manner}: {record:?}"),
            false => assert_eq!(record.status, Status::Passed, "{manner}: {record:?}"),
        }
    }
    assert!(!found.passes() && found.counts.failed == 2 && found.counts.passed == 2, "{:?}", found.counts);
    found
}

#[test]
fn an_abort_is_one_failed_case_with_its_last_words() {
    let found = costs_its_cases_only("aborts", LONG, Check::Crash);
    let why = &found.of(Status::Failed).next().unwrap().failure.as_ref().unwrap().why;
    assert!(why.contains("signal 6 (abort)") && why.contains("assertion failed in kernel 7"), "{why}");
}

#[test]
fn a_stack_overflow_is_one_failed_case() {
    costs_its_cases_only("overflows its stack", LONG, Check::Crash);
}

#[test]
fn leaving_without_a_word_is_one_failed_case() {
    let found = costs_its_cases_only("leaves", LONG, Check::Crash);
    let why = &found.of(Status::Failed).next().unwrap().failure.as_ref().unwrap().why;
    assert!(why.contains("ended by itself"), "{why}");
}

#[test]
fn a_panic_is_one_failed_case() {
    costs_its_cases_only("panics", LONG, Check::Panic);
}

#[test]
fn a_hang_is_a_time_out_after_the_limit() {
    let limit = Duration::from_secs(4);
    for manner in ["hangs", "spins"] {
        let start = Instant::now();
        let found = costs_its_cases_only(manner, limit, Check::Timeout);
        assert!(start.elapsed() >= 2 * limit && start.elapsed() < 20 * limit, "{manner}: {:?}", start.elapsed());
        let slowest = found.records.iter().map(|r| r.millis).fold(0.0, f64::max);
        assert!(slowest >= limit.as_secs_f64() * 1e3, "{manner}: {slowest}");
    }
}

#[test]
fn an_answer_for_another_case_is_none() {
    costs_its_cases_only("answers for another", LONG, Check::Crash);
}

#[test]
fn what_a_driver_prints_is_passed_over() {
    for manner in ["babbles", "fills the pipe", "fills the other pipe"] {
        let found = run_all(&selection(FOUR), manner, LONG);
        assert!(found.passes() && found.counts.passed == 4, "{manner}: {:?} {:?}", found.faults, found.records);
    }
}

#[test]
fn a_device_that_can_not_be_opened_is_told_at_once() {
    let error = run(&selection(FOUR), &mut worker_for("can not be opened", LONG), |_| true).unwrap_err().to_string();
    assert!(error.contains("opening the device") && error.contains("abort"), "{error}");
}

#[test]
fn a_run_that_was_cut_off_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("run.journal");
    let selection = Selection { journal: Some(journal.clone()), ..selection(FOUR) };
    let mut on = worker_for("aborts", LONG);
    let first = run(&selection, &mut on, |p| p.done < 3).unwrap();
    assert!(first.interrupted && first.records.len() == 3 && !first.passes());
    assert!(journal.exists());
    // A line that was cut short is as if it were not there.
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, &text[..text.len() - 40]).unwrap();
    // Only what is not in the journal is run again, on a device that is well by now.
    let (executed, mut seen) = (AtomicUsize::new(0), Vec::new());
    let second = run(&selection, &mut worker_for("is well", LONG), |p| {
        seen.push((p.done, p.all));
        executed.fetch_add(usize::from(p.last.failure.is_none()), Ordering::Relaxed);
        true
    })
    .unwrap();
    assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    for (kept, before) in second.records.iter().zip(&first.records[..2]) {
        let same_time = (kept.millis - before.millis).abs() < 1e-9 * before.millis;
        assert!(kept.id == before.id && same_time, "what was done is kept, time and all: {kept:?}");
    }
    assert!(second.passes() && executed.into_inner() == 4, "{:?}", second.records);
    assert!(!second.interrupted && second.records.len() == 4);
    assert!(!journal.exists(), "a run that is over has nothing to go on with");
}

#[test]
fn a_journal_of_another_run_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("run.journal");
    let with_seed = |seed| Selection { journal: Some(journal.clone()), seed, ..selection(FOUR) };
    let first = run(&with_seed(1), &mut worker_for("is well", LONG), |p| p.done < 2).unwrap();
    let second = run(&with_seed(2), &mut worker_for("is well", LONG), |_| true).unwrap();
    assert!(second.passes() && second.records.len() == 4);
    assert_ne!(first.records[0].millis, second.records[0].millis, "the record is not that of the other run");
}

/// The one replay file of a folder.
fn only_replay(folder: &Path) -> Replay {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    Replay::read(&files[0]).unwrap()
}

#[test]
fn a_failure_is_made_smaller_and_its_replay_fails_alone() {
    for (manner, check) in [("is wrong", Check::Limit), ("aborts", Check::Crash)] {
        let folder = tempfile::tempdir().unwrap();
        let found = "op/relu/f32/rows=5,cols=97";
        let selection = Selection { replays: Some(folder.path().into()), ..selection(&[found]) };
        let all = run_all(&selection, manner, LONG);
        assert_eq!(all.counts.failed, 1);
        let replay = only_replay(folder.path());
        assert_eq!(all.records[0].replay.as_deref(), Some(only_path(folder.path()).as_str()));
        assert_eq!((replay.found_as.as_str(), replay.seed), (found, selection.seed));
        // It fails from five rows on, whatever the columns: nothing smaller does. With no column nothing is wrong.
        let smallest = if check == Check::Limit { "op/relu/f32/rows=5,cols=1" } else { "op/relu/f32/rows=5,cols=0" };
        assert_eq!(replay.id, smallest, "{manner}");
        let Executor::Worker(mut ill) = worker_for(manner, LONG) else { unreachable!("it is a worker") };
        let alone = ill.run(&replay.id, replay.seed);
        assert_eq!(alone.failure.map(|f| f.check), Some(check), "{manner}");
        let Executor::Worker(mut well) = worker_for("is well", LONG) else { unreachable!("it is a worker") };
        assert_eq!(well.run(&replay.id, replay.seed).status, Status::Passed, "{manner}");
    }
}

fn only_path(folder: &Path) -> String {
    let entry = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    entry.path().display().to_string()
}

fn expecting(rows: &str, filter: &[&str]) -> Selection {
    Selection { expectations: Expectations::parse(rows).unwrap(), ..selection(filter) }
}

#[test]
fn an_expected_failure_is_no_failure() {
    let found = run_all(&expecting("op/relu/f32/rows=5,* = the driver is unwell", FOUR), "aborts", LONG);
    assert!(found.passes(), "{:?}", found.faults);
    assert_eq!((found.counts.expected_failures, found.counts.failed, found.counts.passed), (2, 0, 2));
    let expected = found.of(Status::ExpectedFailure).next().unwrap();
    assert_eq!(expected.reason.as_deref(), Some("the driver is unwell"));
    assert_eq!(expected.failure.as_ref().map(|f| f.check), Some(Check::Crash));
}

#[test]
fn an_unexpected_pass_is_a_failure() {
    let found = run_all(&expecting("op/relu/f32/rows=5,* = the driver is unwell", FOUR), "is well", LONG);
    assert!(!found.passes() && found.counts.failed == 2);
    let failed = found.of(Status::Failed).next().unwrap();
    assert_eq!(failed.failure.as_ref().map(|f| f.check), Some(Check::UnexpectedPass));
}

#[test]
fn a_row_that_names_no_case_is_a_failure() {
    let rows = "op/relu/f32/rows=5,* = the driver is unwell\nop/relu/f33/* = a slip of the pen";
    let found = run_all(&expecting(rows, FOUR), "aborts", LONG);
    assert!(!found.passes());
    assert!(found.faults.iter().any(|f| f.contains("line 2") && f.contains("op/relu/f33/*")), "{:?}", found.faults);
}

#[test]
fn an_empty_selection_is_an_error() {
    let error = run(&selection(&["op/relo/*"]), &mut worker_for("is well", LONG), |_| true).unwrap_err().to_string();
    assert!(error.contains("op/relo/*"), "{error}");
}

#[test]
fn a_device_that_supports_nothing_does_not_pass() {
    let found = run_all(&selection(FOUR), "nothing", LONG);
    assert_eq!((found.counts.unsupported, found.counts.passed, found.counts.failed), (4, 0, 0));
    assert!(!found.passes());
    // Nor does one whose every case is an expected failure: nothing was executed and passed.
    let only = expecting("op/relu/f32/rows=5,* = the driver is unwell", &FOUR[1..]);
    let found = run_all(&only, "aborts", LONG);
    assert!(!found.passes() && found.counts.expected_failures == 2, "{:?}", found.counts);
}
