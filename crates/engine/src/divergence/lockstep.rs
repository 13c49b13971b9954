//! The run itself: step by step, node by node.

use std::sync::Arc;

use qiao_core::{OpKind, TensorId};

use super::drift::{numbers, relative};
use super::lane::{Lane, Record};
use super::{CHUNK, Case, Divergence, Drift, Effect, Judge, Judgement, Parting, Site};
use crate::compare::divergence;
use crate::error::Result;
use crate::model::Place;
use crate::runner::LoadedModel;
use crate::sampler::argmax;
use crate::weights::Weights;

pub(super) struct Lockstep<'a> {
    subject: Lane,
    trusted: Lane,
    model: &'a Arc<LoadedModel>,
    weights: &'a Weights,
    judge: &'a dyn Judge,
    found: Divergence,
}

/// A step that both devices have run.
struct Done<'a> {
    /// The position of its first token.
    start: usize,
    tokens: usize,
    places: &'a [Place],
    subject: &'a Record,
    trusted: &'a Record,
}

/// Whose operands a single operator gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The subject runs it on the trusted device's.
    Local,
    /// The trusted device runs it on the subject's.
    InPlan,
}

impl<'a> Lockstep<'a> {
    pub(super) fn new(
        subject: &'a Arc<LoadedModel>,
        trusted: &Arc<LoadedModel>,
        weights: &'a Weights,
        judge: &'a dyn Judge,
        tokens: usize,
        drift_bound: f64,
    ) -> Result<Lockstep<'a>> {
        let name = |model: &LoadedModel| {
            let info = model.device().info();
            if info.arch.is_empty() { info.name.clone() } else { format!("{} ({})", info.name, info.arch) }
        };
        Ok(Lockstep {
            found: Divergence {
                device: name(subject),
                against: name(trusted),
                compute: subject.compute_dtype(),
                prompt: 0,
                compared: 0,
                local: Vec::new(),
                largest_margin: None,
                in_plan: None,
                drift: None,
                largest_drift: None,
                drift_bound,
                effects: Vec::new(),
            },
            subject: Lane::new(subject, tokens)?,
            trusted: Lane::new(trusted, tokens)?,
            model: subject,
            weights,
            judge,
        })
    }

    pub(super) fn run(
        mut self,
        prompt: &[u32],
        tokens: usize,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Divergence> {
        let total = prompt.len() + tokens;
        self.found.prompt = prompt.len();
        tell(0, total);
        let mut next = 0;
        for ids in prompt.chunks(CHUNK) {
            next = self.step(ids, prompt.len())?;
            tell(self.subject.len(), total);
        }
        for _ in 0..tokens {
            next = self.step(&[next], self.subject.len() + 1)?;
            tell(self.subject.len(), total);
        }
        Ok(self.found)
    }

    /// Runs a step on both devices and compares; gives the trusted device's choice of the next token.
    fn step(&mut self, ids: &[u32], total: usize) -> Result<u32> {
        let start = self.subject.len();
        let trusted = self.trusted.run(ids, total)?;
        let subject = self.subject.run(ids, total)?;
        let places = self.subject.graph(ids.len()).places(self.model.spec());
        let step = Done { start, tokens: ids.len(), places: &places, subject: &subject, trusted: &trusted };
        let clean = self.found.drift.is_none();
        for index in 0..places.len() {
            self.compare(&step, index, Reading::Local)?;
            self.drift(&step, index)?;
        }
        if clean && self.found.drift.is_some() && self.found.local.is_empty() {
            for index in 0..places.len() {
                self.compare(&step, index, Reading::InPlan)?;
                if self.found.in_plan.is_some() {
                    break;
                }
            }
        }
        self.effects(&step, ids)
    }

    /// Compares the results of one node on the same operands.
    fn compare(&mut self, step: &Done<'_>, index: usize, reading: Reading) -> Result<()> {
        let node = &self.subject.graph(step.tokens).graph.nodes()[index];
        let (kind, roots) = (node.op.kind(), node.outputs.clone());
        let (feed, whole) = match reading {
            Reading::Local => (step.trusted, step.trusted),
            Reading::InPlan => (step.subject, step.subject),
        };
        let lane = if reading == Reading::Local { &mut self.subject } else { &mut self.trusted };
        let single = lane.run_single(step.tokens, index, feed)?;
        let whole = results(kind, whole, &roots, step.places[index].layer);
        self.found.compared += u64::from(reading == Reading::Local);
        if single.iter().zip(&whole).all(|(a, b)| a == b) {
            return Ok(());
        }
        let single: Vec<&[u8]> = single.iter().map(Vec::as_slice).collect();
        let (found, trusted) = if reading == Reading::Local { (&single, &whole) } else { (&whole, &single) };
        let judgements = match kind {
            OpKind::KvWrite => {
                let row = self.subject.row();
                found.iter().zip(trusted).map(|(f, t)| self.rows_of_a_cache(f, t, row, step.start)).collect()
            }
            _ => {
                let (act, trusted_act) = (self.subject.act(step.tokens, index), self.trusted.act(step.tokens, index));
                let lane = if reading == Reading::Local { &mut self.subject } else { &mut self.trusted };
                let (judge, tokens) = (self.judge, step.tokens);
                lane.with_operands(tokens, index, feed, self.weights, |node, inputs| {
                    let case = Case { node, inputs, trusted, found, tokens, act, trusted_act };
                    Ok(judge.judge(&case)?)
                })?
            }
        };
        self.note(step, index, kind, reading, &judgements);
        Ok(())
    }

    /// Rows that a cache should hold; those before the step should be as they were. A copy is exact.
    fn rows_of_a_cache(&self, found: &[u8], trusted: &[u8], row: usize, start: usize) -> Vec<Judgement> {
        let dtype = self.found.compute;
        let judge = |(f, t): (&[u8], &[u8])| {
            let (f, t) = (numbers(dtype, f).unwrap_or_default(), numbers(dtype, t).unwrap_or_default());
            let differs = |i: &usize| f[*i] != t[*i] && !(f[*i].is_nan() && t[*i].is_nan());
            let wrong: Vec<usize> = (0..f.len()).filter(differs).collect();
            wrong.first().map_or(Judgement::default(), |&element| Judgement {
                failures: wrong.len(),
                margin: f64::INFINITY,
                element,
                found: f[element].into(),
                trusted: t[element].into(),
            })
        };
        let all: Vec<Judgement> = found.chunks_exact(row).zip(trusted.chunks_exact(row)).map(judge).collect();
        // An earlier token's row that changed is told as the step's first token's.
        let (earlier, now) = all.split_at(start.min(all.len()));
        let mut now = now.to_vec();
        if let (Some(spoiled), Some(first)) = (earlier.iter().find(|j| j.failures > 0), now.first_mut())
            && first.failures == 0
        {
            *first = *spoiled;
        }
        now
    }

    fn site(&self, step: &Done<'_>, index: usize, output: usize, token: usize) -> Site {
        let (op, place) = (&self.subject.graph(step.tokens).graph.nodes()[index].op, &step.places[index]);
        let name = op.kind().outputs().get(output).map_or("", |operand| operand.name);
        let (op, part, layer) = (op.kind().name(), place.part.clone(), place.layer);
        Site { op, part, layer, output: name, token: step.start + token, step: step.tokens }
    }

    /// Keeps what is beyond its limit, and the largest margin of what is not.
    fn note(&mut self, step: &Done<'_>, index: usize, kind: OpKind, reading: Reading, outputs: &[Vec<Judgement>]) {
        let mut failed: Option<(usize, usize)> = None;
        let mut failing = vec![false; step.tokens];
        for (output, tokens) in outputs.iter().enumerate() {
            for (token, judgement) in tokens.iter().enumerate() {
                if judgement.failures > 0 {
                    failing[token] = true;
                    if failed.is_none_or(|(_, first)| token < first) {
                        failed = Some((output, token));
                    }
                } else if reading == Reading::Local
                    && self.found.largest_margin.as_ref().is_none_or(|(_, margin)| judgement.margin > *margin)
                {
                    self.found.largest_margin = Some((self.site(step, index, output, token), judgement.margin));
                }
            }
        }
        let Some((output, token)) = failed else { return };
        let count = failing.iter().filter(|f| **f).count();
        let site = self.site(step, index, output, token);
        let parting = Parting { site, judgement: outputs[output][token], tokens: count };
        if reading == Reading::InPlan {
            self.found.in_plan.get_or_insert(parting);
            return;
        }
        let (name, place) = (kind.name(), &step.places[index]);
        let same = |p: &&mut Parting| p.site.op == name && p.site.part == place.part && p.site.layer == place.layer;
        match self.found.local.iter_mut().find(same) {
            Some(seen) => seen.tokens += count,
            None => self.found.local.push(parting),
        }
    }

    /// Compares the results of one node of the two runs.
    fn drift(&mut self, step: &Done<'_>, index: usize) -> Result<()> {
        let g = &self.subject.graph(step.tokens).graph;
        let node = &g.nodes()[index];
        let (kind, dtypes) = (node.op.kind(), node.outputs.iter().map(|&id| g.desc(id).dtype).collect::<Vec<_>>());
        let roots = node.outputs.clone();
        let layer = step.places[index].layer;
        let found = results(kind, step.subject, &roots, layer);
        let trusted = results(kind, step.trusted, &roots, layer);
        for (output, dtype) in dtypes.into_iter().enumerate() {
            let (found, trusted) = (found[output], trusted[output]);
            if found == trusted {
                continue;
            }
            let (Some(found), Some(trusted)) = (numbers(dtype, found), numbers(dtype, trusted)) else { continue };
            let rows = if kind == OpKind::KvWrite { step.start + step.tokens } else { step.tokens };
            let width = (found.len() / rows).max(1);
            let new = found.chunks_exact(width).zip(trusted.chunks_exact(width)).skip(rows - step.tokens);
            for (token, (found, trusted)) in new.enumerate() {
                let relative = relative(found, trusted);
                let beyond = relative > self.found.drift_bound;
                let largest = self.found.largest_drift.as_ref().is_none_or(|d| relative > d.relative);
                if !(largest || beyond && self.found.drift.is_none()) {
                    continue;
                }
                let drift = Drift { site: self.site(step, index, output, token), relative };
                if beyond && self.found.drift.is_none() {
                    self.found.drift = Some(drift.clone());
                }
                if largest {
                    self.found.largest_drift = Some(drift);
                }
            }
        }
        Ok(())
    }

    /// Compares the logits of every token; gives the trusted device's choice after the last.
    fn effects(&mut self, step: &Done<'_>, ids: &[u32]) -> Result<u32> {
        let g = self.subject.graph(step.tokens);
        let id = g.graph.bound()[g.logits.expect("every token wants logits")];
        let vocab = self.model.spec().vocab;
        let rows = |record: &Record| numbers(g.graph.desc(id).dtype, &record.values[&id]).unwrap_or_default();
        let (found, trusted) = (rows(step.subject), rows(step.trusted));
        let mut next = 0;
        for (i, (f, t)) in found.chunks_exact(vocab).zip(trusted.chunks_exact(vocab)).enumerate() {
            next = argmax(t)?;
            let finite = f.iter().chain(t).all(|x| x.is_finite());
            let difference = |(f, t): (&f32, &f32)| (f64::from(*f) - f64::from(*t)).abs();
            self.found.effects.push(Effect {
                position: step.start + i,
                id: ids[i],
                kl: if finite { divergence(t, f) } else { f64::INFINITY },
                next,
                top1: argmax(f).is_ok_and(|id| id == next),
                max_difference: match finite {
                    true => f.iter().zip(t).map(difference).fold(0.0, f64::max),
                    false => f64::INFINITY,
                },
            });
        }
        Ok(next)
    }
}

/// The bytes of a node's results in a run; those of a cache as plain rows.
fn results<'r>(kind: OpKind, record: &'r Record, roots: &[TensorId], layer: Option<usize>) -> Vec<&'r [u8]> {
    match (kind, layer) {
        (OpKind::KvWrite, Some(layer)) => record.after[layer].iter().map(Vec::as_slice).collect(),
        _ => roots.iter().map(|id| record.values[id].as_slice()).collect(),
    }
}
