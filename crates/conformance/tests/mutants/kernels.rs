//! What any kernel can do wrong around its arithmetic: memory, plans, answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use qiao_conformance::Check::{
    Contract, Execute, Guards, Inputs, Limit, Panic, Plan, Rebind, Repeat, Special, Support, Unwritten,
};
use qiao_core::{DType, Error, Graph, Node, NodeSupport, OpKind, Reason, Result, Storage, Support as Answer, TensorId};
use qiao_reference::Trial;
use qiao_reference::value::Output;

use crate::device::Mutant;
use crate::device::Sabotage::{
    After, Before, Chip, FirstBindings, Kernel, Lost, Pack, PackKeepsSource, Plan as Planning, Rewired, Rounding,
    Scratch, Support as Answers, ValuesByPlace, Workspace,
};
use crate::scene::{Scene, cut_off, one, peek, peek_behind, poke};

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "writes_one_element_behind_its_output",
        "op/rms_norm/f16/*",
        &[Guards],
        After(|s| poke(&s.targets[0], s.targets[0].bytes as isize, s.outs[0].dtype.block_bytes(), |b| b ^ 0x55)),
    ),
    Mutant::new(
        "writes_one_element_before_its_output",
        "op/matmul/f32/*",
        &[Guards],
        After(|s| poke(&s.targets[0], -4, 4, |b| b ^ 0x55)),
    ),
    Mutant::new(
        "writes_one_byte_behind_odd_rows_only",
        "op/add/f16/*cols=97*",
        &[Guards],
        After(|s| {
            if s.outs[0].elements() % 2 == 1 {
                poke(&s.targets[0], s.targets[0].bytes as isize, 1, |_| 0);
            }
        }),
    ),
    Mutant::new(
        "writes_what_already_lies_behind_its_output_but_for_one_bit",
        "op/silu/f32/*",
        &[Guards],
        After(|s| poke(&s.targets[0], s.targets[0].bytes as isize + 60, 1, |b| b ^ 1)),
    ),
    Mutant::new(
        "writes_behind_the_second_output_only",
        "op/top_k/*",
        &[Guards],
        After(|s| poke(&s.targets[1], s.targets[1].bytes as isize, 4, |_| 0)),
    ),
    Mutant::new(
        "writes_before_an_input",
        "op/rope/*",
        &[Guards],
        After(|s| poke(s.sources[0].as_ref().expect("rope has an operand"), -1, 1, |b| !b)),
    ),
    Mutant::new("workspace_is_under_reported", "op/softmax/*", &[Guards], Workspace(64, 65)),
    Mutant::new("workspace_is_used_though_none_was_asked_for", "op/softmax/*", &[Guards], Workspace(0, 1)),
    Mutant::new(
        "changes_an_input_in_place",
        "op/rms_norm/f32/*",
        &[Inputs],
        After(|s| {
            let x = s.sources[0].as_ref().expect("a norm has an operand");
            poke(x, 0, 1, |b| b ^ 1);
        }),
    ),
    Mutant::new(
        "normalises_its_input_in_place",
        "op/layer_norm/f32/*",
        &[Inputs],
        After(|s| {
            let x = s.sources[0].as_ref().expect("a norm has an operand");
            if s.desc(0).is_contiguous() && x.bytes == s.targets[0].bytes {
                let y = peek(&s.targets[0]);
                let (buffer, range) = qiao_core::host::host_range(x).expect("operands are in host memory");
                buffer.write(range, |b| b.copy_from_slice(&y));
            }
        }),
    ),
    Mutant::new(
        "changes_a_weight",
        "op/matmul/bf16/*",
        &[Inputs],
        After(|s| poke(s.sources[1].as_ref().expect("a product has two operands"), 0, 1, |b| b ^ 1)),
    ),
    Mutant::new(
        "adds_to_what_its_output_holds",
        "op/matmul/f32/*",
        &[Special, Limit, Unwritten],
        Kernel(|s| {
            let before = qiao_reference::Value::load(&s.outs[0], &peek(&s.targets[0]))?.data;
            one(s.numbers(0)?.iter().zip(before).map(|(x, b)| x + b).collect())
        }),
    ),
    Mutant::new(
        "multiplies_what_its_output_holds_by_zero",
        "op/matmul/bf16/*",
        &[Special, Unwritten],
        Kernel(|s| {
            let before = qiao_reference::Value::load(&s.outs[0], &peek(&s.targets[0]))?.data;
            one(s.numbers(0)?.iter().zip(before).map(|(x, b)| x + 0.0 * b).collect())
        }),
    ),
    Mutant::new(
        "reads_its_workspace_before_it_writes_it",
        "op/reduce/f32/*",
        &[Special, Limit, Unwritten],
        Scratch(|s| {
            let start = peek(s.workspace).first_chunk::<4>().map_or(0.0, |b| f32::from_le_bytes(*b) as f64);
            one(s.numbers(0)?.iter().map(|x| x + start).collect())
        }),
    ),
    Mutant::new(
        "lets_guard_bytes_into_the_last_row",
        "op/rms_norm/f32/*",
        &[Special, Limit, Unwritten],
        Kernel(|s| {
            // A masked load that multiplies by zero what lies behind the row.
            let behind = peek_behind(s.sources[0].as_ref().expect("a norm has an operand"), 4);
            let stray = behind.first_chunk::<4>().map_or(0.0, |b| f32::from_le_bytes(*b) as f64);
            let mut y = s.numbers(0)?;
            let n = s.outs[0].shape.last_dim();
            let last = y.len().saturating_sub(n);
            y[last..].iter_mut().for_each(|y| *y += 0.0 * stray);
            one(y)
        }),
    ),
    Mutant::new(
        "does_not_write_the_second_time",
        "op/silu_mul/*",
        &[Unwritten, Special, Limit, Rebind],
        Lost(|_, _, _| true),
    )
    .when(|s| s.execution == 1),
    Mutant::new(
        "is_wrong_only_the_second_time",
        "op/rms_norm/f32/*",
        &[Rebind, Limit],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| x * 1.01).collect())),
    )
    .when(|s| s.execution == 1),
    Mutant::new(
        "is_wrong_only_the_third_time",
        "op/softmax/f32/*",
        &[Repeat, Rebind],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| x * 0.5).collect())),
    )
    .when(|s| s.execution == 2),
    Mutant::new("is_stale_the_second_time", "op/add/f32/*", &[Rebind], FirstBindingsValues).when(|s| s.execution > 0),
    Mutant::new(
        "holds_the_first_bindings",
        "op/mul/f32/*",
        &[Unwritten, Special, Limit, Rebind, Guards, Inputs],
        FirstBindings,
    ),
    Mutant::new(
        "ignores_where_in_its_buffer_a_binding_begins",
        "op/sub/f32/*",
        &[Special, Limit, Rebind, Unwritten],
        Before(|s| {
            for i in 0..2 {
                if let Some(source) = &s.sources[i] {
                    let whole = qiao_core::Binding { offset: 0, ..source.clone() };
                    let desc = s.desc(i).clone();
                    s.operands[i] = Some((desc, peek(&whole)));
                }
            }
        }),
    ),
    Mutant::new(
        "is_wrong_where_operands_are_not_aligned_to_128",
        "op/rms_norm/f32/*",
        &[Rebind, Limit],
        Kernel(|s| one(s.numbers(0)?.iter().map(|x| -x).collect())),
    )
    .when(|s| s.sources.iter().flatten().any(|b| b.offset % 64 != 0)),
    Mutant::new(
        "rounds_products_of_many_rows_otherwise",
        "device/batches/rows_of_products*",
        &[Contract],
        Kernel(|s| {
            let mut out = s.truth()?;
            if let Some(Output::Values(data)) = out.first_mut().filter(|_| s.kind() == OpKind::MatmulQuant) {
                data.iter_mut().for_each(|x| *x = (*x as f32).next_up().into());
            }
            Ok(out)
        }),
    )
    .when(|s| s.desc(0).shape.rows() > 4),
    Mutant::new(
        "norms_many_rows_in_another_order",
        "device/batches/rows_of_norms*",
        &[Contract],
        Kernel(|s| match s.kind() {
            OpKind::RmsNorm => one(s.numbers(0)?.iter().map(|x| (*x as f32).next_up().into()).collect()),
            _ => s.truth(),
        }),
    )
    .when(|s| s.desc(0).shape.rows() % 2 == 0),
    Mutant::new(
        "decodes_in_another_order_than_it_prefills",
        "device/batches/sequences*",
        &[Contract],
        Kernel(|s| match s.kind() {
            OpKind::AttentionDecode => one(s.numbers(0)?.iter().map(|x| (*x as f32).next_up().into()).collect()),
            _ => s.truth(),
        }),
    ),
    Mutant::new(
        "is_not_deterministic_within_its_limit",
        "op/exp/f32/*",
        &[Repeat],
        Kernel(|s| {
            let up = s.execution % 3 == 2;
            one(s
                .numbers(0)?
                .iter()
                .map(|x| if up && x.is_finite() { (*x as f32).next_up() as f64 } else { *x })
                .collect())
        }),
    ),
    Mutant::new(
        "panics_while_it_runs",
        "op/tanh/*",
        &[Panic],
        Kernel(|_| panic!("a kernel met what it did not expect")),
    ),
    Mutant::new("panics_on_nothing", "op/rms_norm/*rows=0*", &[Panic], Kernel(|_| panic!("a grid of no blocks")))
        .when(|s| s.outs[0].elements() == 0),
    Mutant::new(
        "fails_every_third_time",
        "op/gelu/*",
        &[Execute],
        Kernel(|s| if s.execution % 3 == 2 { Err(Error::internal("kernel", "the launch failed")) } else { s.truth() }),
    ),
    Mutant::new(
        "calls_native_what_it_can_not_plan",
        "op/layer_norm/*",
        &[Support, Plan],
        Planning(|_| Some(Error::internal("plan", "no kernel for this shape"))),
    ),
    Mutant::new(
        "calls_native_what_it_can_not_plan_for_odd_columns",
        "op/layer_norm/*cols=97*",
        &[Support, Plan],
        Planning(|graph| {
            let odd = graph.tensors().iter().any(|t| t.desc.shape.last_dim() % 2 == 1);
            odd.then(|| Error::internal("plan", "odd rows"))
        }),
    ),
    Mutant::new("refuses_what_it_plans", "op/relu/*", &[Support], Answers(|_, answers| refused(answers))),
    Mutant::new(
        "answers_otherwise_when_asked_again",
        "op/relu/*",
        &[Support],
        Answers(|asked, answers| if asked % 2 == 1 { refused(answers) } else { answers }),
    ),
    Mutant::new(
        "answers_for_one_node_too_many",
        "op/relu/*",
        &[Support],
        Answers(|_, mut answers| {
            answers.push(answers[0].clone());
            answers
        }),
    ),
    Mutant::new(
        "says_that_it_rounds_activations_to_powers_of_two",
        "op/matmul/*",
        &[Support],
        Answers(|_, mut answers| {
            answers[0].act_dtype = Some(DType::F8E8M0);
            answers
        }),
    ),
    Mutant::new("keeps_results_by_where_its_operand_lies", "op/softmax/*", &[Rebind], ValuesByPlace),
    Mutant::new("cuts_results_off", "op/mul/bf16/*", &[Limit], Rounding(cut_off)),
    Mutant::new("cuts_sums_off", "op/softmax/f16/*", &[Limit], Rounding(cut_off)),
    Mutant::new("answers_for_no_node", "op/relu/*", &[Support], Answers(|_, _| Vec::new())),
    Mutant::new(
        "asks_for_a_layout_again_and_again",
        "op/matmul/*",
        &[Support],
        Answers(|asked, mut answers| {
            answers[0].answer = Answer::Relayout { operand: 1, layout: 0x100 + asked as u64 };
            answers
        }),
    ),
    Mutant::new(
        "packs_otherwise_the_second_time",
        "op/matmul/f32/*",
        &[Repeat],
        Pack(|bytes| {
            static TIMES: AtomicUsize = AtomicUsize::new(0);
            if TIMES.fetch_add(1, Ordering::Relaxed) % 2 == 1
                && let Some(first) = bytes.first_mut()
            {
                *first ^= 1;
            }
        }),
    ),
    Mutant::new(
        "packs_the_last_byte_wrongly",
        "op/matmul/f32/*",
        &[Limit, Special],
        Pack(|bytes| {
            // The top byte of the first element: it comes last of all, reversed.
            if let Some(at) = bytes.len().checked_sub(4) {
                bytes[at] ^= 0x08;
            }
        }),
    ),
    Mutant::new(
        "keeps_pointing_at_what_it_packed",
        "op/matmul/f32/m=1,n=*k=40*",
        &[Rebind, Special, Limit],
        PackKeepsSource,
    ),
    Mutant::new(
        "adds_the_newest_result_and_not_the_residual",
        "device/graphs/a_residual_lives_on",
        &[Contract],
        Rewired(|g| {
            rewired(g, 0, |g, node, inputs| {
                if node.op.kind() == OpKind::Add && is_between(g, inputs[1]) {
                    inputs[1] = inputs[0];
                }
            })
        }),
    ),
    Mutant::new(
        "forgets_its_first_result_where_it_may",
        "device/graphs/the_first_result_is_read_last",
        &[Contract],
        Rewired(|g| {
            rewired(g, 0, |g, node, inputs| {
                if node.op.kind() == OpKind::Mul && is_between(g, inputs[1]) {
                    inputs[1] = g.nodes()[1].outputs.first().copied();
                }
            })
        }),
    ),
    Mutant::new(
        "begins_every_part_at_the_start",
        "device/graphs/operands_are_*",
        &[Contract],
        Rewired(|g| rewired(g, usize::MAX, |_, _, _| ())),
    ),
    Mutant::new("host_computes_in_f64_in_silence", "device/compute/*", &[Contract], Chip(|s| s.truth())),
    Mutant::new("host_kernels_compute_in_silence", "device/compute/*", &[Contract], Chip(on_cpu)),
];

use crate::device::Sabotage::FirstValues as FirstBindingsValues;

fn is_between(graph: &Graph, id: Option<TensorId>) -> bool {
    id.is_some_and(|id| matches!(graph.tensor(id).storage, Storage::Temporary))
}

/// The graph with other operands; parts of tensors begin that many bytes earlier, or at the start.
fn rewired(graph: &Graph, earlier: usize, change: fn(&Graph, &Node, &mut Vec<Option<TensorId>>)) -> Result<Graph> {
    let mut made = Graph::new();
    let mut known: HashMap<TensorId, TensorId> =
        graph.bound().iter().map(|&id| (id, made.bind("bound", graph.desc(id).clone()))).collect();
    for node in graph.nodes() {
        let mut inputs = node.inputs.clone();
        change(graph, node, &mut inputs);
        let mut mapped = Vec::new();
        for id in inputs {
            let Some(id) = id else {
                mapped.push(None);
                continue;
            };
            mapped.push(Some(match graph.tensor(id).storage {
                Storage::View(of, from) => {
                    made.view(known[&of], graph.desc(id).clone(), from.saturating_sub(earlier))?
                }
                _ => known[&id],
            }));
        }
        if node.outputs.iter().all(|id| known.contains_key(id)) {
            let outputs: Vec<_> = node.outputs.iter().map(|id| known[id]).collect();
            made.add_into(node.op, &mapped, &outputs)?;
        } else {
            let outputs = made.add(node.op, &mapped)?;
            known.extend(node.outputs.iter().copied().zip(outputs));
        }
    }
    Ok(made)
}

fn refused(answers: Vec<NodeSupport>) -> Vec<NodeSupport> {
    answers.iter().map(|_| NodeSupport::no(Reason::operator())).collect()
}

/// What the host's own kernels make of a scene.
fn on_cpu(s: &mut Scene<'_>) -> Result<Vec<Output>> {
    let cpu = qiao_cpu::CpuDevice::with(&qiao_cpu::CpuOptions::default())?;
    let mut trial = Trial::new(s.op);
    for operand in s.operands.iter().flatten() {
        trial = trial.input(operand.0.clone(), operand.1.clone());
    }
    Ok(trial.run(&cpu)?.into_iter().map(|v| Output::Values(v.data)).collect())
}
