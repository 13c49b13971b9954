//! What breaks the device contract without any operator.

use qiao_conformance::Check::{self, Contract, Refusal};

use crate::device::Mutant;
use crate::device::Sabotage;
use crate::queued::Fault;

const fn fault(name: &'static str, clauses: &'static str, checks: &'static [Check], fault: Fault) -> Mutant {
    Mutant::new(name, clauses, checks, Sabotage::Fault(fault))
}

pub(crate) const MUTANTS: &[Mutant] = &[
    fault("sync_does_not_wait", "device/streams/*", &[Contract], Fault::SyncDoesNotWait),
    fault("sync_ignores_its_time", "device/time/a_short_sync*", &[Contract], Fault::SyncIgnoresItsTime),
    fault("an_event_is_reached_early", "device/events/*", &[Contract], Fault::EventReachedEarly),
    fault(
        "an_event_keeps_its_first_point",
        "device/events/recorded_again*",
        &[Contract],
        Fault::EventKeepsItsFirstPoint,
    ),
    fault("a_fresh_event_is_not_reached", "device/events/one_never*", &[Contract], Fault::FreshEventIsNotReached),
    fault("a_wait_is_ignored", "device/order/*", &[Contract], Fault::WaitIsIgnored),
    fault("a_wait_follows_its_event", "device/events/a_wait_keeps*", &[Check::Timeout], Fault::WaitFollowsTheEvent),
    fault("event_times_are_in_wrong_units", "device/events/time*", &[Contract], Fault::TimeIsInWrongUnits),
    fault("fills_overtake_copies", "device/streams/*", &[Contract], Fault::FillsOvertake),
    fault("downloads_overtake_copies", "device/streams/a_download*", &[Contract], Fault::DownloadsOvertake),
    fault("two_buffers_overlap", "device/memory/*", &[Contract], Fault::BuffersOverlap),
    fault("a_buffer_is_a_byte_short", "device/memory/*", &[Contract], Fault::BufferIsShort),
    fault("absurd_sizes_are_granted", "device/memory/*", &[Refusal], Fault::AbsurdSizesAreGranted),
    fault("freed_memory_is_lost", "device/memory/a_full*", &[Contract], Fault::FreedMemoryIsLost),
    fault("out_of_memory_is_for_ever", "device/memory/*", &[Contract], Fault::OutOfMemoryIsForEver),
    fault("any_memory_will_do", "device/memory/*", &[Refusal], Fault::AnyMemoryWillDo),
    fault("ranges_are_not_checked", "device/bounds/*", &[Refusal], Fault::RangesAreNotChecked),
    fault("ranges_wrap_round", "device/bounds/*", &[Refusal], Fault::RangesWrap),
    fault("short_ranges_are_cut", "device/bounds/*", &[Refusal], Fault::ShortRangesAreCut),
    fault("fills_set_one_byte_more", "device/copies/*", &[Contract], Fault::FillsOneByteMore),
    fault("copies_lose_their_tail", "device/copies/*", &[Contract], Fault::CopiesLoseTheirTail),
    fault("odd_offsets_are_rounded_down", "device/copies/*", &[Contract], Fault::OddOffsetsAreRoundedDown),
    fault("overlapping_copies_smear", "device/copies/ranges*", &[Contract], Fault::OverlappingCopiesSmear),
    fault("offsets_are_of_32_bits", "device/memory/offsets*", &[Contract], Fault::OffsetsAreOf32Bits),
    fault("executions_have_offsets_of_32_bits", "device/memory/offsets*", &[Contract], Fault::PlansHave32Bits),
    fault("executions_have_offsets_of_31_bits", "device/memory/offsets*", &[Contract], Fault::PlansHave31Bits),
    fault("large_copies_are_cut", "device/copies/a_large*", &[Contract], Fault::LargeCopiesAreCut),
    fault("refusals_poison_their_stream", "device/errors/*", &[Contract], Fault::RefusalsPoison),
    fault("failures_are_forgotten", "device/errors/the_first*", &[Contract], Fault::FailuresAreForgotten),
    fault("failures_are_told_at_once", "device/errors/*over", &[Contract], Fault::FailuresAreToldAtOnce),
    fault("failures_spread_to_other_streams", "device/errors/a_failure*", &[Contract], Fault::FailuresSpread),
    fault(
        "failures_are_not_told_by_events",
        "device/errors/a_failure_is_told*",
        &[Contract],
        Fault::EventsTellNoFailure,
    ),
    fault("dropped_streams_stop", "device/lives/*", &[Contract], Fault::DroppedStreamsStop),
    fault("queued_work_loses_its_buffers", "device/lives/*", &[Contract], Fault::QueuedWorkLosesItsBuffers),
    fault("streams_die_with_their_device", "device/lives/the_device*", &[Contract], Fault::StreamsDieWithTheDevice),
    fault("a_foreign_buffer_is_a_panic", "device/errors/buffers*", &[Check::Panic], Fault::ForeignBuffersPanic),
    fault("a_foreign_event_is_taken", "device/events/one_of_another*", &[Refusal], Fault::ForeignEventsAreTaken),
    fault("commands_go_to_the_current_stream", "device/streams/*", &[Contract, Check::Timeout], Fault::CurrentStream),
    fault("events_leak", "device/leaks/events*", &[Contract], Fault::EventsLeak),
    fault("tensors_start_on_multiples_of_48", "device/info/*", &[Contract], Fault::OddAlignment),
    fault("a_peak_has_no_source", "device/info/*", &[Contract], Fault::PeakOfUnknownSource),
    fault("a_name_has_two_lines", "device/info/*", &[Contract], Fault::NameOfTwoLines),
    fault("bindings_are_not_counted", "device/bindings/too*", &[Check::Panic], Fault::BindingsAreNotCounted),
    fault("short_bindings_are_taken", "device/bindings/one_too_short*", &[Refusal], Fault::ShortBindingsAreTaken),
    fault("a_short_workspace_is_taken", "device/bindings/a_workspace*", &[Refusal], Fault::ShortWorkspaceIsTaken),
    fault("plans_overtake_copies", "device/plans/*", &[Contract], Fault::PlansOvertake),
    fault("executions_share_their_operands", "device/plans/*", &[Contract], Fault::PlansShareOperands),
    fault("norms_share_scratch", "device/plans/one_runs_on_two*", &[Contract], Fault::NormsShareScratch),
    fault("norms_share_scratch_among_threads", "device/plans/sixteen*", &[Contract], Fault::NormsShareScratch),
];
