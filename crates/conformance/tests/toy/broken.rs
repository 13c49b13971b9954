//! Which clause catches which broken chip.

use std::sync::Arc;
use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Check, Outcome, Subject};
use qiao_cpu::{CpuDevice, CpuOptions};

use super::{Chip, Fault};

/// A chip that is broken in one thing: the clause that must catch it, and how it shows.
pub(crate) const BROKEN: &[(Fault, &str, Check)] = &[
    (Fault::Nameless, "device/info/it_has_a_name_and_a_memory", Check::Contract),
    (Fault::OddAlignment, "device/info/alignments_and_sizes_are_sane", Check::Contract),
    (Fault::DtypeTwice, "device/info/dtypes_and_cache_layouts_stand_once", Check::Contract),
    (Fault::PeakWithoutSource, "device/info/declared_peaks_have_a_source", Check::Contract),
    (Fault::AnotherDriverEachTime, "device/info/it_is_the_same_when_opened_again", Check::Contract),
    (Fault::UploadLosesTail, "device/memory/what_is_uploaded_is_downloaded", Check::Contract),
    (Fault::AllocTooSmall, "device/memory/a_buffer_is_as_large_as_asked", Check::Contract),
    (Fault::AllocOverlaps, "device/memory/allocations_never_overlap", Check::Contract),
    (Fault::AnyMemoryTaken, "device/memory/a_memory_that_is_not_there_is_refused", Check::Refusal),
    (Fault::AbsurdGranted, "device/memory/an_absurd_allocation_is_refused", Check::Refusal),
    (Fault::LargestIgnored, "device/memory/more_than_the_largest_allocation_is_refused", Check::Refusal),
    (Fault::NeverRecovers, "device/memory/a_full_memory_recovers", Check::Contract),
    (Fault::RefusedUploadWritesPart, "device/bounds/an_upload_outside_its_buffer_is_refused", Check::Contract),
    (Fault::DownloadClamps, "device/bounds/a_download_outside_its_buffer_is_refused", Check::Refusal),
    (Fault::FillClamps, "device/bounds/a_fill_outside_its_buffer_is_refused", Check::Refusal),
    (Fault::CopySourceUnchecked, "device/bounds/a_copy_from_outside_its_buffer_is_refused", Check::Refusal),
    (Fault::LongUploadCut, "device/bounds/a_range_too_short_for_the_bytes_is_refused", Check::Refusal),
    (Fault::DownloadIgnoresOffset, "device/copies/a_download_reads_its_range", Check::Contract),
    (Fault::UploadClearsRest, "device/copies/an_upload_writes_its_range_and_no_more", Check::Contract),
    (Fault::CopyOneMore, "device/copies/a_copy_between_buffers_is_exact", Check::Contract),
    (Fault::CopyForwards, "device/copies/ranges_that_overlap_are_copied_or_refused", Check::Contract),
    (Fault::FillZero, "device/copies/a_fill_sets_its_range_and_no_more", Check::Contract),
    (Fault::NoBytesPanic, "device/copies/nothing_is_moved_by_no_bytes", Check::Panic),
    (Fault::ImportIgnoresOffset, "device/import/what_is_imported_is_seen", Check::Contract),
    (Fault::ImportKeeps, "device/import/memory_lives_as_long_as_its_buffer", Check::Contract),
    (Fault::ImportUndeclared, "device/import/it_is_there_as_declared", Check::Contract),
    (Fault::Reorders, "device/streams/commands_run_in_order", Check::Contract),
    (Fault::DownloadOvertakes, "device/streams/a_download_comes_after_all_earlier_work", Check::Contract),
    (Fault::AlwaysReached, "device/events/one_that_is_reached_has_its_work_done", Check::Contract),
    (Fault::NeverReachedUnrecorded, "device/events/one_never_recorded_is_reached", Check::Contract),
    (Fault::EventSyncAtOnce, "device/events/a_wait_on_the_host_ends_with_the_work_done", Check::Contract),
    (Fault::RecordsOnce, "device/events/recorded_again_it_means_the_later_point", Check::Contract),
    (Fault::WaitIgnored, "device/events/recorded_on_one_stream_it_holds_another", Check::Contract),
    (Fault::WaitIgnored, "device/order/ping_pong_over_two_events", Check::Contract),
    (Fault::WaitIgnored, "device/order/a_fork_joins_again", Check::Contract),
    (Fault::WaitIgnored, "device/threads/sixteen_hand_on_buffers_by_events", Check::Contract),
    (Fault::EventNeedsItsStream, "device/threads/an_event_is_asked_while_its_streams_go", Check::Contract),
    (Fault::WaitIsLate, "device/events/a_wait_keeps_the_point_it_was_given", Check::Timeout),
    (Fault::Lazy, "device/events/a_recorded_one_is_reached_in_the_end", Check::Contract),
    (Fault::Lazy, "device/events/a_wait_on_the_host_ends_with_the_work_done", Check::Timeout),
    (Fault::ForeignEventTaken, "device/events/one_of_another_device_is_refused", Check::Refusal),
    (Fault::TimeInOtherUnits, "device/events/time_between_them_is_told_rightly", Check::Contract),
    (Fault::RefusedPoisons, "device/errors/what_is_refused_leaves_the_stream_as_it_was", Check::Contract),
    (Fault::ForeignBufferTaken, "device/errors/buffers_of_another_device_are_refused", Check::Refusal),
    (Fault::WordlessErrors, "device/errors/they_say_what_was_asked_and_found", Check::Contract),
    (Fault::ErrorForgotten, "device/errors/the_first_failure_of_a_stream_is_kept", Check::Contract),
    (Fault::ErrorReplaced, "device/errors/the_first_failure_of_a_stream_is_kept", Check::Contract),
    (Fault::FailsEverywhere, "device/errors/a_failure_stays_on_its_stream", Check::Contract),
    (Fault::EventsHideErrors, "device/errors/a_failure_is_told_by_the_events_behind_it", Check::Contract),
    (Fault::SyncIgnoresTimeout, "device/time/a_short_sync_ends_in_time", Check::Contract),
    (Fault::SyncLies, "device/time/a_short_sync_ends_in_time", Check::Contract),
    (Fault::EventIgnoresTimeout, "device/time/a_short_wait_for_an_event_ends_in_time", Check::Contract),
    (Fault::LongWaitsPanic, "device/time/the_longest_wait_is_one", Check::Panic),
    (Fault::FreedAtOnce, "device/lives/a_source_dropped_while_it_is_read_is_read", Check::Contract),
    (Fault::FreedAtOnce, "device/lives/a_target_dropped_while_it_is_written_harms_none", Check::Contract),
    (Fault::DropCancels, "device/lives/a_dropped_stream_finishes_its_work", Check::Contract),
    (Fault::DropCancels, "device/lives/an_event_outlives_its_stream", Check::Contract),
    (Fault::HandleKills, "device/lives/the_device_handle_may_go_first", Check::Contract),
    (Fault::BoundToThread, "device/threads/a_stream_moves_from_thread_to_thread", Check::Contract),
    (Fault::FirstNodeOnly, "device/plans/support_answers_for_every_node", Check::Contract),
    (Fault::RefusesOneOnly, "device/plans/a_refusal_lists_every_refused_node", Check::Contract),
    (Fault::LyingSupport, "device/plans/what_is_native_can_be_planned", Check::Contract),
    (Fault::SharedScratch, "device/plans/one_runs_on_two_streams_at_once", Check::Contract),
    (Fault::SharedScratch, "device/plans/sixteen_threads_run_one", Check::Contract),
    (Fault::RunsAtOnce, "device/plans/it_runs_in_order_with_copies", Check::Contract),
    (Fault::RunsAtOnce, "device/plans/it_runs_in_order_across_streams", Check::Contract),
    (Fault::RightOnceOnly, "device/plans/one_runs_again_and_again", Check::Contract),
    (Fault::WorkspaceOverrun, "device/plans/the_workspace_told_is_enough", Check::Contract),
    (Fault::ShortBindingTaken, "device/bindings/one_too_short_is_refused", Check::Refusal),
    (Fault::TooManyTaken, "device/bindings/too_few_or_too_many_are_refused", Check::Refusal),
    (Fault::OutsideTaken, "device/bindings/one_outside_its_buffer_is_refused", Check::Refusal),
    (Fault::WorkspaceUnchecked, "device/bindings/a_workspace_that_does_not_fit_is_refused", Check::Refusal),
    (Fault::HostTruth, "device/compute/results_are_not_the_hosts", Check::Contract),
    (Fault::HostKernels, "device/compute/results_are_not_the_hosts", Check::Contract),
    // What leaks little first: what is freed behind it would hide it.
    (Fault::LeaksPlans, "device/leaks/plans_are_given_back", Check::Contract),
    (Fault::LeaksEvents, "device/leaks/events_are_given_back", Check::Contract),
    (Fault::LeaksCommands, "device/leaks/commands_are_given_back", Check::Contract),
    (Fault::LeaksThreads, "device/leaks/streams_are_given_back", Check::Contract),
    (Fault::LeaksBuffers, "device/leaks/buffers_are_given_back", Check::Contract),
];

/// The chips that the clauses which should catch them do not, of the clauses that are asked for.
pub(crate) fn escaped(timeout: Duration, of: impl Fn(&Clause) -> bool) -> Vec<String> {
    let mut escaped = Vec::new();
    for &(fault, id, check) in BROKEN {
        let clause = Clause::all().find(|c| c.id == id).unwrap_or_else(|| panic!("no clause {id}"));
        if !of(clause) {
            continue;
        }
        let chip = Chip::new(fault);
        let mut subject = Subject::open(move || chip.open()).unwrap();
        subject.host =
            Some(Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(2), ..Default::default() }).unwrap()));
        subject.timeout = timeout;
        match clause.outcome(&subject) {
            Outcome::Failed(failure) if failure.check == check => println!("{fault:?}: {}", failure.why),
            other => escaped.push(format!("{fault:?} is not caught by {id}: {other:?}")),
        }
    }
    escaped
}
