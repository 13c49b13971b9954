//! Bindings that do not fit: refused at the call, outputs untouched, the stream as it was.

use std::sync::Arc;

use qiao_core::{Binding, Plan, Stream};

use super::probe::{Bound, Data, POISON, Probe};
use super::scene::{Found, Scene, StrangeStream, refused, strange};
use super::{Broken, Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/bindings/too_few_or_too_many_are_refused", depth: Depth::Smoke, run: count },
    Clause { id: "device/bindings/one_too_short_is_refused", depth: Depth::Smoke, run: short },
    Clause { id: "device/bindings/one_outside_its_buffer_is_refused", depth: Depth::Smoke, run: outside },
    Clause { id: "device/bindings/one_of_another_device_is_refused", depth: Depth::Smoke, run: foreign },
    Clause { id: "device/bindings/a_stream_of_another_device_is_refused", depth: Depth::Smoke, run: stream },
    Clause { id: "device/bindings/a_workspace_that_does_not_fit_is_refused", depth: Depth::Smoke, run: workspace },
    Clause { id: "device/bindings/an_imported_output_is_never_written", depth: Depth::Smoke, run: imported },
];

/// A plan with operands that fit, and what they hold.
struct Stage {
    probe: Probe,
    scene: Scene,
    room: Bound,
    data: Data,
}

impl Stage {
    fn new(subject: &Subject) -> Found<Stage> {
        let (probe, mut scene) = Probe::with_scene(subject)?;
        let (room, data) = (probe.room(&*scene.device)?, probe.data(3)?);
        probe.load(&mut *scene.stream, &room, &data)?;
        Ok(Stage { probe, scene, room, data })
    }

    /// An execution that must be refused and must have written nothing.
    fn refuses(&mut self, what: &str, bindings: &[Binding], workspace: &Binding) -> Held {
        self.call(what, |plan, stream| plan.execute(stream, bindings, workspace))
    }

    fn call(
        &mut self,
        what: &str,
        execute: impl FnOnce(&Arc<dyn Plan>, &mut dyn Stream) -> qiao_core::Result<()>,
    ) -> Held {
        refused(execute(&self.probe.plan, &mut *self.scene.stream), what)?;
        self.scene.done()?;
        let output = self.room.output();
        let poison = vec![POISON; output.bytes];
        self.scene.expect(output, &poison, &format!("the output after {what} was refused"))?;
        for (binding, bytes) in self.room.bindings.iter().zip(&self.data.inputs) {
            self.scene.expect(binding, bytes, &format!("an operand after {what} was refused"))?;
        }
        Ok(())
    }

    /// Each binding in turn replaced by one that does not fit.
    fn each(&mut self, what: &str, replace: impl Fn(&Binding) -> Binding) -> Held {
        for i in 0..self.room.bindings.len() {
            let mut bindings = self.room.bindings.clone();
            bindings[i] = replace(&bindings[i]);
            let workspace = self.room.workspace.clone();
            self.refuses(&format!("binding {i} {what}"), &bindings, &workspace)?;
        }
        Ok(())
    }

    /// What fits is still executed rightly.
    fn goes_on(mut self) -> Held {
        self.scene.usable("bindings that do not fit")?;
        let (probe, stream) = (&self.probe, &mut *self.scene.stream);
        probe.run(stream, &self.room, &self.data, "an execution after others were refused")
    }
}

fn count(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    let (all, workspace) = (stage.room.bindings.clone(), stage.room.workspace.clone());
    stage.refuses("an execution with no bindings", &[], &workspace)?;
    stage.refuses("an execution with one binding too few", &all[..all.len() - 1], &workspace)?;
    let mut more = all.clone();
    more.push(all[0].clone());
    stage.refuses("an execution with one binding too many", &more, &workspace)?;
    stage.goes_on()
}

fn short(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    stage.each("of one byte too few", |b| Binding { bytes: b.bytes - 1, ..b.clone() })?;
    stage.each("of no bytes", |b| Binding { bytes: 0, ..b.clone() })?;
    stage.goes_on()
}

fn outside(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    let align = stage.scene.device.info().tensor_align;
    stage.each("that begins inside and ends outside", |b| {
        let past = b.buffer.bytes() - b.bytes + 1;
        Binding { offset: past.next_multiple_of(align), ..b.clone() }
    })?;
    stage.each("that begins outside", |b| Binding { offset: b.buffer.bytes().next_multiple_of(align), ..b.clone() })?;
    stage.each("whose end wraps round", |b| Binding { offset: usize::MAX & !(align - 1), ..b.clone() })?;
    stage.each("that claims more than its buffer has", |b| Binding { bytes: usize::MAX, ..b.clone() })?;
    stage.goes_on()
}

fn foreign(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    stage.each("of another device", |b| strange(b.bytes))?;
    stage.goes_on()
}

fn stream(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    let (bindings, workspace) = (stage.room.bindings.clone(), stage.room.workspace.clone());
    stage.call("an execution on a stream of another device", |plan, _| {
        plan.execute(&mut StrangeStream, &bindings, &workspace)
    })?;
    stage.goes_on()
}

fn workspace(subject: &Subject) -> Held {
    let mut stage = Stage::new(subject)?;
    let single = stage.probe.plan.clone();
    if single.info().workspace_bytes == 0
        && let Some(chain) = stage.probe.chained(&*stage.scene.device)?
    {
        // The same bindings, with something between the nodes.
        stage.probe.plan = stage.scene.device.plan(&chain)?;
    }
    let info = stage.probe.plan.info();
    let need = info.workspace_bytes;
    if need == 0 {
        return Err(Broken::unsupported("what was tried needs no workspace"));
    }
    let (all, fits) = (stage.room.bindings.clone(), stage.scene.alloc(need)?);
    let short = Binding { bytes: need - 1, ..fits.clone() };
    stage.refuses("a workspace of one byte too few", &all, &short)?;
    stage.refuses("a workspace of no bytes", &all, &Binding { bytes: 0, ..fits.clone() })?;
    let past = (fits.buffer.bytes() - need + 1).next_multiple_of(info.workspace_align.max(1));
    stage.refuses("a workspace that ends outside its buffer", &all, &Binding { offset: past, ..fits.clone() })?;
    stage.refuses("a workspace of another device", &all, &strange(need))?;
    stage.probe.plan = single;
    stage.goes_on()
}

/// Imported memory is for reading: a plan that would write to it is refused, or does not write.
fn imported(subject: &Subject) -> Held {
    struct Bytes(Vec<u8>);
    impl qiao_core::HostMemory for Bytes {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }
    if !subject.device.info().caps.import_host {
        return Err(Broken::unsupported("it does not declare import_host"));
    }
    let mut stage = Stage::new(subject)?;
    let bytes = stage.room.output().bytes;
    // Some slack, so that a part of it starts on a multiple of what tensors start on.
    let align = stage.scene.device.info().tensor_align;
    let memory = Arc::new(Bytes(vec![0x77; bytes + 2 * align + stage.scene.device.info().tensor_tail_pad]));
    let start = memory.0.as_ptr().align_offset(align).min(align);
    let buffer = stage.scene.device.import(memory.clone(), start, memory.0.len() - start)?;
    let mut bindings = stage.room.bindings.clone();
    *bindings.last_mut().expect("a probe has a result") = Binding::part(&buffer, 0, bytes);
    let workspace = stage.room.workspace.clone();
    let _ = stage.probe.plan.execute(&mut *stage.scene.stream, &bindings, &workspace);
    stage.scene.done()?;
    if memory.0.iter().any(|b| *b != 0x77) {
        return Err(Broken::contract("a plan wrote to imported host memory"));
    }
    stage.goes_on()
}
