//! What happens when the backend fails: R5, R9 and their like, for any backend.

use std::ptr::{null, null_mut};

use qiao_plugin::abi::{self, Binding};

use crate::graphs::Sketch;
use crate::host::{Failed, Session, call, get, slot};

/// A copy that is planned, and its bindings.
fn planned(session: &Session) -> (*mut abi::Plan, [Binding; 2]) {
    let buffer = session.alloc(32);
    let (plan, _) = Sketch::copy(4).plan(session).unwrap();
    (plan, [0, 16].map(|offset| Binding { buffer, offset, bytes: 16 }))
}

fn holds(failed: &Failed, code: i32, words: &str) {
    assert_eq!(failed.code, code, "{}", failed.message);
    assert!(failed.message.contains(words), "{}", failed.message);
}

#[test]
fn panics_are_internal_errors_with_their_words() {
    let session = Session::with_fault("alloc panics");
    let failed = get(null_mut(), |out, err| slot!(buffer_alloc(session.device, 0, 12, out, err))).unwrap_err();
    holds(&failed, abi::ERR_INTERNAL, "the shelf broke after 12 bytes");
    let session = Session::with_fault("support panics");
    holds(&Sketch::copy(4).support(&session).unwrap_err(), abi::ERR_INTERNAL, "too hard a question");
    // Nobody minds a missing record.
    let status = Sketch::copy(4).with(|graph| {
        let mut answer = <abi::Support as abi::Sized32>::sized();
        let place: *mut abi::Support = &raw mut answer;
        slot!(graph_support(session.device, graph, &raw const place, null_mut()))
    });
    assert_eq!(status, abi::ERR_INTERNAL);
}

#[test]
fn a_panic_in_a_command_is_its_streams_failure() {
    let session = Session::with_fault("execute panics");
    let (plan, bindings) = planned(&session);
    holds(&session.execute(plan, &bindings).unwrap_err(), abi::ERR_INTERNAL, "a wheel came off");
    holds(&session.upload(bindings[0].buffer, 0, &[1]).unwrap_err(), abi::ERR_POISONED, "a wheel came off");
    holds(&session.execute(plan, &bindings).unwrap_err(), abi::ERR_POISONED, "a wheel came off");
    holds(&session.sync().unwrap_err(), abi::ERR_INTERNAL, "a wheel came off");
    // Another stream of the device goes on.
    let other = get(null_mut(), |out, err| slot!(stream_create(session.device, 0, out, err))).unwrap();
    call(|err| slot!(fill(other, bindings[0].buffer, 0, 32, 7, err))).unwrap();
}

#[test]
fn a_stream_answers_its_first_failure_when_it_is_waited_for() {
    let session = Session::with_fault("execute fails");
    let (plan, bindings) = planned(&session);
    holds(&session.execute(plan, &bindings).unwrap_err(), abi::ERR_INTERNAL, "it fell over");
    holds(&session.execute(plan, &bindings).unwrap_err(), abi::ERR_POISONED, "it fell over");
    holds(&session.sync().unwrap_err(), abi::ERR_INTERNAL, "it fell over");
    let event = get(null_mut(), |out, err| slot!(event_create(session.device, 0, out, err))).unwrap();
    call(|err| slot!(event_record(event, session.stream, err))).unwrap();
    holds(&call(|err| slot!(event_sync(event, 0, err))).unwrap_err(), abi::ERR_INTERNAL, "it fell over");
    holds(&call(|err| slot!(event_query(event, err))).unwrap_err(), abi::ERR_INTERNAL, "it fell over");
}

#[test]
fn a_lost_device_stays_lost_until_it_is_opened_again() {
    let session = Session::with_fault("chip is lost");
    let (plan, bindings) = planned(&session);
    let event = get(null_mut(), |out, err| slot!(event_create(session.device, 0, out, err))).unwrap();
    let lost = |failed: Failed| holds(&failed, abi::ERR_DEVICE_LOST, "the dog took it");
    lost(session.execute(plan, &bindings).unwrap_err());
    lost(session.execute(plan, &bindings).unwrap_err());
    lost(session.sync().unwrap_err());
    lost(session.download(bindings[0].buffer, 0, 4).unwrap_err());
    lost(get(null_mut(), |out, err| slot!(buffer_alloc(session.device, 0, 8, out, err))).unwrap_err());
    lost(get(null_mut(), |out, err| slot!(stream_create(session.device, 0, out, err))).unwrap_err());
    lost(call(|err| slot!(event_query(event, err))).unwrap_err());
    lost(Sketch::copy(4).support(&session).unwrap_err());
    lost(Sketch::copy(4).plan(&session).unwrap_err());
    slot!(plan_destroy(plan));
    slot!(buffer_free(bindings[0].buffer));
    let again = get(null_mut(), |out, err| slot!(device_open(session.backend, 0, out, err))).unwrap();
    get(null_mut(), |out, err| slot!(buffer_alloc(again, 0, 8, out, err))).unwrap();
}

#[test]
fn a_time_out_poisons_nothing() {
    let session = Session::with_fault("never done");
    let event = get(null_mut(), |out, err| slot!(event_create(session.device, 0, out, err))).unwrap();
    call(|err| slot!(event_record(event, session.stream, err))).unwrap();
    holds(&call(|err| slot!(stream_sync(session.stream, 5_000_000, err))).unwrap_err(), abi::ERR_TIMEOUT, "5 ms");
    holds(&call(|err| slot!(event_sync(event, 0, err))).unwrap_err(), abi::ERR_TIMEOUT, "0 ms");
    assert_eq!(call(|err| slot!(event_query(event, err))).unwrap_err().code, abi::ERR_NOT_READY);
    let buffer = session.alloc(8);
    session.upload(buffer, 0, &[1; 8]).unwrap();
}

#[test]
fn out_of_memory_leaves_the_device_usable() {
    let session = Session::new(&[]);
    for bytes in [u64::MAX, 1 << 40, (1 << 20) + 1] {
        let failed = get(null_mut(), |out, err| slot!(buffer_alloc(session.device, 0, bytes, out, err))).unwrap_err();
        holds(&failed, abi::ERR_OUT_OF_MEMORY, "out of memory on toy");
    }
    session.alloc(1 << 20);
}

#[test]
fn a_backend_that_answers_for_too_few_operators_is_found_out() {
    let session = Session::with_fault("support is short");
    holds(&Sketch::copy(4).support(&session).unwrap_err(), abi::ERR_INTERNAL, "0 answers for 1 operators");
}

#[test]
fn workspace_is_asked_for_where_the_plan_wants_some() {
    let session = Session::with_fault("wants workspace");
    let buffer = session.alloc(256);
    let (plan, info) = Sketch::copy(4).plan(&session).unwrap();
    assert_eq!(info.workspace_bytes, 96);
    let bindings = [0, 16].map(|offset| Binding { buffer, offset, bytes: 16 });
    let run = |workspace: *const Binding| {
        call(|err| slot!(plan_execute(plan, session.stream, bindings.as_ptr(), 2, workspace, err)))
    };
    let part = |offset, bytes| Binding { buffer, offset, bytes };
    run(&part(64, 96)).unwrap();
    holds(&run(null()).unwrap_err(), abi::ERR_INVALID_ARG, "workspace: NULL");
    holds(&run(&part(64, 95)).unwrap_err(), abi::ERR_INVALID_ARG, "give it 96 bytes");
    holds(&run(&part(192, 96)).unwrap_err(), abi::ERR_INVALID_ARG, "stay within the buffer");
}
