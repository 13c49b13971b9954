//! Support and plans, on whichever operator a device runs.

use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Device, Error, Graph, NoAttrs, Op, Stream, Support, TensorDesc};

use super::members::{Facts, Member, Places};
use super::probe::{Candidate, Probe};
use super::scene::{Busy, Found, Scene, joined, pattern, read, same};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/plans/support_answers_for_every_node", depth: Depth::Smoke, run: every_node },
    Clause { id: "device/plans/what_is_native_can_be_planned", depth: Depth::Smoke, run: native },
    Clause { id: "device/plans/a_refusal_lists_every_refused_node", depth: Depth::Smoke, run: refusals },
    Clause { id: "device/plans/one_runs_again_and_again", depth: Depth::Smoke, run: again },
    Clause { id: "device/plans/one_outlives_its_graph", depth: Depth::Smoke, run: outlives_graph },
    Clause { id: "device/plans/one_outlives_its_device_handle", depth: Depth::Standard, run: outlives_device },
    Clause { id: "device/plans/one_may_go_while_it_runs", depth: Depth::Standard, run: goes },
    Clause { id: "device/plans/it_runs_in_order_with_copies", depth: Depth::Smoke, run: in_order },
    Clause { id: "device/plans/it_runs_in_order_across_streams", depth: Depth::Standard, run: across },
    Clause { id: "device/plans/one_runs_on_two_streams_at_once", depth: Depth::Standard, run: two_streams },
    Clause { id: "device/plans/sixteen_threads_run_one", depth: Depth::Standard, run: threads },
    Clause { id: "device/plans/the_workspace_told_is_enough", depth: Depth::Smoke, run: workspace },
    Clause { id: "device/plans/every_allocation_holds_a_tensor", depth: Depth::Standard, run: anywhere },
];

/// A private layout that no device has named.
const NO_LAYOUT: u64 = 0x5eed_0bad_c0de_0001;

fn every_node(subject: &Subject) -> Held {
    let device = &subject.device;
    let mut all = Graph::new();
    let mut alone = Vec::new();
    for candidate in Candidate::all()? {
        let answers = device.support(&candidate.graph);
        ensure(answers.len() == 1, || format!("{} answers for a graph of one node", answers.len()))?;
        ensure(device.support(&candidate.graph) == answers, || "asked twice, support answers differently".into())?;
        if let Support::No(reason) = &answers[0].answer {
            ensure(!reason.to_string().trim().is_empty(), || "a node is refused without a reason".into())?;
        }
        alone.extend(answers);
        candidate.add_to(&mut all)?;
    }
    let together = device.support(&all);
    ensure(together.len() == all.nodes().len(), || {
        format!("{} answers for a graph of {} nodes", together.len(), all.nodes().len())
    })?;
    for (node, (one, many)) in all.views().zip(alone.iter().zip(&together)) {
        ensure(one.answer == many.answer, || {
            format!("{node}: {:?} by itself, {:?} beside nodes that it has nothing to do with", one.answer, many.answer)
        })?;
    }
    ensure(device.support(&Graph::new()).is_empty(), || "an empty graph has answers".into())
}

fn native(subject: &Subject) -> Held {
    let device = &subject.device;
    for candidate in Candidate::all()? {
        let answer = device.support(&candidate.graph).into_iter().next().map(|s| s.answer);
        let plan = device.plan(&candidate.graph);
        match (answer, plan) {
            (Some(Support::Native), Ok(_)) | (Some(Support::Relayout { .. }), _) => {}
            (Some(Support::Native), Err(e)) => {
                return Err(Broken::contract(format!("support calls it native, yet plan says: {e}")));
            }
            (Some(Support::No(_)), Err(Error::Unsupported { .. })) => {}
            (Some(Support::No(reason)), Ok(_)) => {
                return Err(Broken::contract(format!("support refuses it ({reason}), yet it is planned")));
            }
            (Some(Support::No(_)), Err(e)) => {
                return Err(Broken::contract(format!("what support refuses is unsupported, not: {e}")));
            }
            (None, _) => return Err(Broken::contract("support has no answer for the node")),
        }
    }
    Ok(())
}

/// A graph whose every second node no device runs: an operand is in a private layout that nobody asked for.
fn half_refused() -> Found<Graph> {
    let mut graph = Graph::new();
    for i in 0..6 {
        let desc = TensorDesc::new(qiao_core::DType::F32, &[4, 64])?;
        let x = graph.bind("x", desc.clone());
        let w = graph.bind("w", desc.as_constant());
        if i % 2 == 1 {
            graph.set_layout(w, NO_LAYOUT)?;
        }
        graph.op1(Op::Add(NoAttrs {}), &[x, w])?;
    }
    Ok(graph)
}

fn refusals(subject: &Subject) -> Held {
    let device = &subject.device;
    let graph = half_refused()?;
    let answers = device.support(&graph);
    ensure(answers.len() == graph.nodes().len(), || format!("{} answers for 6 nodes", answers.len()))?;
    let refused: Vec<usize> = (0..answers.len()).filter(|&i| matches!(answers[i].answer, Support::No(_))).collect();
    for node in [1, 3, 5] {
        ensure(refused.contains(&node), || {
            format!("node {node} has an operand in a private layout that nobody asked for, and is not refused")
        })?;
    }
    let list = match device.plan(&graph) {
        Err(Error::Unsupported { list, .. }) => list,
        Err(e) => return Err(Broken::contract(format!("a graph with refused nodes is unsupported, not: {e}"))),
        Ok(_) => return Err(Broken::refusal("a graph with refused nodes was planned")),
    };
    let listed: Vec<usize> = list.iter().map(|u| u.node).collect();
    ensure(listed == refused, || format!("support refuses nodes {refused:?}, plan lists {listed:?}"))?;
    for entry in &list {
        let Support::No(reason) = &answers[entry.node].answer else { continue };
        ensure(entry.op == "add" && entry.reason == *reason, || {
            format!("node {}: support says '{reason}', plan says '{}: {}'", entry.node, entry.op, entry.reason)
        })?;
    }
    Scene::new(subject)?.usable("a graph was refused")
}

fn again(subject: &Subject) -> Held {
    Member::each(&subject.device)?.iter().try_for_each(|member| again_and_again(subject, member))
}

fn again_and_again(subject: &Subject, member: &Member) -> Held {
    let mut scene = Scene::new(subject)?;
    let rooms = [member.room()?, member.room()?];
    let facts = (0..3).map(|seed| member.facts(seed)).collect::<Found<Vec<_>>>()?;
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for round in 0..8usize {
        let (room, facts) = (&rooms[round % 2], &facts[round % 3]);
        member.load(&mut *scene.stream, room, facts)?;
        member.execute(&mut *scene.stream, room)?;
        let got = member.read(&mut *scene.stream, room)?;
        member.right(facts, &got, &format!("execution {round}"))?;
        if round < 3 {
            seen.push(got);
        } else if scene.device.info().caps.deterministic {
            for (one, before) in got.iter().zip(&seen[round % 3]) {
                same(one, before, &format!("execution {round} of {} with operands of before", member.kind))?;
            }
        }
        for (place, bytes) in member.reads(facts) {
            scene.expect(&room.0[place], bytes, &format!("{} after the execution", member.name(place)))?;
        }
    }
    Ok(())
}

fn outlives_graph(subject: &Subject) -> Held {
    let (mut probe, mut scene) = Probe::with_scene(subject)?;
    let (room, data) = (probe.room(&*scene.device)?, probe.data(5)?);
    let graph = std::mem::take(&mut probe.what.graph);
    probe.plan = scene.device.plan(&graph)?;
    let copy = graph.clone();
    drop(graph);
    probe.load(&mut *scene.stream, &room, &data)?;
    probe.execute(&mut *scene.stream, &room)?;
    let got = scene.read(room.output())?;
    probe.what.graph = copy;
    probe.right(&data, &got, "a plan whose graph is gone")
}

fn outlives_device(subject: &Subject) -> Held {
    let Scene { device, mut stream, timeout } = Scene::reopened(subject)?;
    let probe = Probe::find(&*device)?;
    let (room, data) = (probe.room(&*device)?, probe.data(6)?);
    drop(device);
    for _ in 0..3 {
        probe.run(&mut *stream, &room, &data, "a plan whose device handle is gone")?;
    }
    stream.sync(timeout)?;
    Ok(())
}

fn goes(subject: &Subject) -> Held {
    let (mut probe, mut scene) = Probe::with_scene(subject)?;
    let busy = Busy::new(&*scene.device)?;
    for round in 0..8 {
        let (room, data) = (probe.room(&*scene.device)?, probe.data(round)?);
        probe.load(&mut *scene.stream, &room, &data)?;
        busy.queue(&mut *scene.stream)?;
        probe.execute(&mut *scene.stream, &room)?;
        // The plan of the execution that is pending goes.
        probe.plan = scene.device.plan(&probe.what.graph)?;
        let output = room.output().clone();
        drop(room);
        let got = scene.read(&output)?;
        probe.right(&data, &got, "an execution whose plan and operands were dropped at once")?;
    }
    Ok(())
}

/// Queues uploads, executions and copies of results in turn, and looks at the results only then.
fn in_order(subject: &Subject) -> Held {
    let (probe, mut scene) = Probe::with_scene(subject)?;
    let room = probe.room(&*scene.device)?;
    let busy = Busy::new(&*scene.device)?;
    let data = (0..16).map(|i| probe.data(i)).collect::<Found<Vec<_>>>()?;
    let kept = data.iter().map(|_| scene.alloc(room.output().bytes)).collect::<Found<Vec<_>>>()?;
    busy.queue(&mut *scene.stream)?;
    for (data, kept) in data.iter().zip(&kept) {
        probe.load(&mut *scene.stream, &room, data)?;
        probe.execute(&mut *scene.stream, &room)?;
        scene.stream.copy(kept, room.output())?;
        for binding in &room.bindings {
            scene.stream.fill(binding, 0x11)?;
        }
    }
    for (i, (data, kept)) in data.iter().zip(&kept).enumerate() {
        let got = scene.read(kept)?;
        probe.right(data, &got, &format!("execution {i} between copies on its stream"))?;
    }
    Ok(())
}

fn across(subject: &Subject) -> Held {
    let (probe, mut scene) = Probe::with_scene(subject)?;
    let mut worker = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    let room = probe.room(&*scene.device)?;
    let (loaded, done) = (scene.device.event()?, scene.device.event()?);
    for round in 0..30 {
        let data = probe.data(round)?;
        busy.queue(&mut *scene.stream)?;
        probe.load(&mut *scene.stream, &room, &data)?;
        scene.stream.record(&*loaded)?;
        worker.wait(&*loaded)?;
        probe.execute(&mut *worker, &room)?;
        worker.record(&*done)?;
        scene.stream.wait(&*done)?;
        let got = scene.read(room.output())?;
        probe.right(&data, &got, &format!("round {round}: loaded and read on one stream, executed on another"))?;
    }
    Ok(worker.sync(scene.timeout)?)
}

/// Executes over and over on some streams in turn, each with operands of its own and each result kept in a place of its own,
/// and looks at them in the end.
fn over_and_over(member: &Member, lanes: &mut [Lane<'_>], times: usize, who: &str) -> Held {
    let mut kept = Vec::new();
    for lane in lanes.iter_mut() {
        member.load(lane.stream, &lane.room, &lane.facts)?;
        let each = member.results(&lane.room).into_iter();
        let each = each.map(|r| Ok((Binding::whole(lane.device.alloc(0, r.bytes * times)?), r.bytes)));
        kept.push(each.collect::<qiao_core::Result<Vec<_>>>()?);
    }
    for round in 0..times {
        for (lane, kept) in lanes.iter_mut().zip(&kept) {
            member.execute(lane.stream, &lane.room)?;
            for (result, (all, bytes)) in member.results(&lane.room).into_iter().zip(kept) {
                lane.stream.copy(&Binding::part(&all.buffer, bytes * round, *bytes), result)?;
            }
            member.poison(lane.stream, &lane.room)?;
        }
    }
    for (i, (lane, kept)) in lanes.iter_mut().zip(&kept).enumerate() {
        let all = kept.iter().map(|(all, bytes)| read(lane.stream, &Binding::part(&all.buffer, 0, bytes * times)));
        let all = all.collect::<Found<Vec<_>>>()?;
        let of = |round: usize| -> Vec<Vec<u8>> {
            kept.iter().zip(&all).map(|((_, bytes), all)| all[bytes * round..][..*bytes].to_vec()).collect()
        };
        let first = of(0);
        for round in 0..times {
            let got = of(round);
            if round == 0 || got != first {
                member.right(&lane.facts, &got, &format!("execution {round} of {who} {i}"))?;
            }
            if lane.device.info().caps.deterministic {
                let what = format!("execution {round} of {} of {who} {i} beside its first", member.kind);
                got.iter().zip(&first).try_for_each(|(one, first)| same(one, first, &what))?;
            }
        }
    }
    Ok(())
}

/// A stream with the operands of a node.
struct Lane<'a> {
    device: &'a dyn Device,
    stream: &'a mut dyn Stream,
    room: Places,
    facts: Facts,
}

/// How often a node is executed on one of some streams at once: a slow device does it less often.
fn often(subject: &Subject, member: &Member, streams: u32, least: usize, most: usize) -> Found<usize> {
    let mut scene = Scene::new(subject)?;
    let (room, facts) = (member.room()?, member.facts(1)?);
    member.load(&mut *scene.stream, &room, &facts)?;
    scene.done()?;
    let start = Instant::now();
    member.execute(&mut *scene.stream, &room)?;
    scene.done()?;
    let limit = (subject.timeout / 120).min(Duration::from_millis(300)) / streams;
    let times = limit.as_nanos() / start.elapsed().as_nanos().max(1);
    Ok(usize::try_from(times).unwrap_or(most).clamp(least, most))
}

fn two_streams(subject: &Subject) -> Held {
    for member in Member::each(&subject.device)? {
        let times = often(subject, &member, 2, 8, 150)?;
        let (mut one, mut other) = (subject.device.stream()?, subject.device.stream()?);
        let mut lanes = Vec::new();
        for (stream, seed) in [(&mut *one, 1), (&mut *other, 2)] {
            let (room, facts) = (member.room()?, member.facts(seed)?);
            lanes.push(Lane { device: &*subject.device, stream, room, facts });
        }
        over_and_over(&member, &mut lanes, times, "stream")?;
    }
    Ok(())
}

fn threads(subject: &Subject) -> Held {
    // All threads run one node before they go on to the next.
    Member::each(&subject.device)?.iter().try_for_each(|member| on_sixteen_threads(subject, member))
}

fn on_sixteen_threads(subject: &Subject, member: &Member) -> Held {
    let times = often(subject, member, 16, 2, 12)?;
    let job = |thread: u64| -> Held {
        let mut stream = subject.device.stream()?;
        let (room, facts) = (member.room()?, member.facts(thread)?);
        let mut lanes = [Lane { device: &*subject.device, stream: &mut *stream, room, facts }];
        over_and_over(member, &mut lanes, times, &format!("thread {thread}, on stream"))?;
        Ok(stream.sync(subject.timeout)?)
    };
    thread::scope(|s| {
        let job = &job;
        let threads: Vec<_> = (0..16).map(|i| s.spawn(move || job(i))).collect();
        let results: Vec<Held> = threads.into_iter().map(joined).collect();
        results.into_iter().collect()
    })
}

/// Exactly the workspace that is told, between bytes that must stay.
fn workspace(subject: &Subject) -> Held {
    const GUARD: usize = 512;
    let (probe, mut scene) = Probe::with_scene(subject)?;
    let chain = probe.chained(&*scene.device)?;
    for graph in [Some(probe.what.graph.clone()), chain].into_iter().flatten() {
        let plan = scene.device.plan(&graph)?;
        let info = plan.info();
        ensure(plan.info() == info, || "a plan tells two workspaces".into())?;
        let align = info.workspace_align.max(1);
        ensure(align.is_power_of_two() && align <= 1 << 20, || {
            format!("workspace_align = {align} is no power of two")
        })?;
        let front = GUARD.next_multiple_of(align);
        let image = pattern(1, front + info.workspace_bytes + GUARD);
        let held = scene.holding(&image)?;
        let room = probe.room(&*scene.device)?;
        let mut bindings = room.bindings.clone();
        bindings.truncate(probe.what.inputs.len());
        bindings.push(room.output().clone());
        let data = probe.data(9)?;
        let run = |scene: &mut Scene| -> Found<Vec<u8>> {
            probe.load(&mut *scene.stream, &room, &data)?;
            let exact = Binding::part(&held.buffer, front, info.workspace_bytes);
            plan.execute(&mut *scene.stream, &bindings, &exact)?;
            scene.read(room.output())
        };
        let first = run(&mut scene)?;
        let after = scene.read(&held)?;
        same(&after[..front], &image[..front], "the bytes before the workspace")?;
        let end = front + info.workspace_bytes;
        same(&after[end..], &image[end..], "the bytes behind the workspace")?;
        // Whatever the workspace holds before, the result is the same.
        scene.stream.fill(&held, 0xff)?;
        let second = run(&mut scene)?;
        if scene.device.info().caps.deterministic {
            same(&second, &first, "the result with another workspace")?;
        }
        if graph == probe.what.graph {
            probe.right(&data, &first, "an execution with exactly its workspace")?;
        }
    }
    Ok(())
}

fn anywhere(subject: &Subject) -> Held {
    let (probe, mut scene) = Probe::with_scene(subject)?;
    let (align, pad) = (scene.device.info().tensor_align, scene.device.info().tensor_tail_pad);
    let sizes = probe.sizes()?;
    let mut between = Vec::new();
    for round in 0..12usize {
        let data = probe.data(round as u64)?;
        let mut room = probe.room(&*scene.device)?;
        for (i, &bytes) in sizes.iter().enumerate() {
            // Odd sizes in between, so that starts are what the device makes of them.
            between.push(scene.alloc(1 + 37 * round + i)?);
            let offset = align * ((round + i) % 4);
            let buffer = scene.device.alloc(0, offset + bytes + pad)?;
            room.bindings[i] = Binding::part(&buffer, offset, bytes);
        }
        probe.run(&mut *scene.stream, &room, &data, &format!("round {round}: tensors at multiples of {align}"))?;
    }
    Ok(())
}
