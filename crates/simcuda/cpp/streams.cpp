// Streams, events, and when queued work is done.
#include "card.h"

#include <algorithm>
#include <thread>

using namespace card;

namespace {

// A broken context does nothing that was queued, and nobody waits for it.
void abandon(Context& context) {
    const auto clear = [](Stream& stream) {
        for (const Op& op : stream.queue)
            if (op.mark) op.mark->done = true;
        stream.queue.clear();
    };
    clear(*context.null_stream);
    for (const auto& stream : context.streams) clear(*stream);
}

void forget_destroyed(Context& context) {
    auto& all = context.streams;
    all.erase(std::remove_if(all.begin(), all.end(), [](const auto& s) { return s->destroyed && s->queue.empty(); }),
              all.end());
}

// The legacy stream waits for blocking streams, and they for it.
CUresult settle(Stream& stream) {
    if (!stream.blocking) return CUDA_SUCCESS;
    Context& context = *stream.context;
    if (&stream != context.null_stream.get()) return drain(*context.null_stream);
    for (const auto& other : context.streams) {
        if (!other->blocking) continue;
        if (other->capture) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        if (CUresult why = drain(*other)) return why;
    }
    return CUDA_SUCCESS;
}

CUresult push(Stream& stream, Op op) {
    if (CUresult why = settle(stream)) return why;
    stream.queue.push_back(std::move(op));
    return state().knobs.eager != 0 && state().knobs.stalled == 0 ? drain(stream) : CUDA_SUCCESS;
}

// Nothing moves while a test has stalled the card; others may call meanwhile.
void wait_while_stalled() {
    while (state().knobs.stalled != 0) {
        state().lock.unlock();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        state().lock.lock();
    }
}

// What a question lets happen: work goes on for a moment, until the ticket's place at most.
void work_a_while(Stream& stream, const Ticket* until) {
    const auto alive = stream.shared_from_this();
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    while ((until == nullptr || !until->done) && step(stream) && std::chrono::steady_clock::now() < end) {}
}

CUresult known(CUevent handle, Event*& event) {
    event = reinterpret_cast<Event*>(handle);
    return state().events.count(event) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult state_of(const Context& context) {
    const CUresult lost = state().devices[context.device]->lost;
    return lost != CUDA_SUCCESS ? lost : context.sticky;
}

}  // namespace

namespace card {

std::shared_ptr<Stream> stream_of(CUstream handle, Context& context) {
    // Null and 1 are the legacy stream, 2 that of the thread, which is here the same.
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return context.null_stream;
    for (const auto& stream : context.streams)
        if (stream.get() == reinterpret_cast<Stream*>(handle) && !stream->destroyed) return stream;
    return nullptr;
}

CUresult enqueue(Stream& stream, std::function<CUresult()> work) {
    if (!stream.capture) return push(stream, {std::move(work), nullptr, nullptr});
    Capture& capture = *stream.capture;
    if (capture.broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture.graph->ops.push_back({std::move(work), nullptr, nullptr});
    stream.captured++;
    if (&stream != capture.origin) capture.loose.insert(&stream);
    return CUDA_SUCCESS;
}

bool step(Stream& stream) {
    if (stream.queue.empty() || state().knobs.stalled != 0) return false;
    if (const auto wait = stream.queue.front().wait) finish(wait);
    // Waiting may have met an error, which empties all queues.
    if (stream.queue.empty()) return false;
    Op op = std::move(stream.queue.front());
    stream.queue.pop_front();
    const CUresult result = op.work ? op.work() : CUDA_SUCCESS;
    if (op.mark) {
        op.mark->time = std::chrono::steady_clock::now();
        op.mark->done = true;
    }
    if (result != CUDA_SUCCESS) {
        stream.context->sticky = result;
        abandon(*stream.context);
    }
    return true;
}

CUresult drain(Stream& stream) {
    const auto alive = stream.shared_from_this();
    if (CUresult why = state_of(*stream.context)) return why;
    if (stream.blocking && &stream == stream.context->null_stream.get())
        if (CUresult why = settle(stream)) return why;
    while (!stream.queue.empty()) {
        wait_while_stalled();
        step(stream);
    }
    return state_of(*stream.context);
}

CUresult drain(Context& context) {
    // The latest stream first: whoever relies on the order in which streams were made is wrong.
    for (bool more = true; more;) {
        more = false;
        const auto streams = context.streams;
        for (size_t i = streams.size(); i-- > 0;) {
            more |= !streams[i]->queue.empty();
            if (CUresult why = drain(*streams[i])) return why;
        }
    }
    forget_destroyed(context);
    return drain(*context.null_stream);
}

CUresult finish(const std::shared_ptr<Ticket>& ticket) {
    while (!ticket->done) {
        const auto stream = ticket->stream.lock();
        if (!stream || stream->queue.empty()) break;
        wait_while_stalled();
        step(*stream);
    }
    return CUDA_SUCCESS;
}

}  // namespace card

EXPORT CUresult cuStreamCreateWithPriority(CUstream* handle, unsigned flags, int) {
    ENTER(cuStreamCreateWithPriority);
    CONTEXT(context);
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
    auto stream = std::make_shared<Stream>();
    stream->context = context;
    stream->blocking = flags == 0;
    context->streams.push_back(stream);
    *handle = reinterpret_cast<CUstream>(stream.get());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(CUstream* handle, unsigned flags) {
    ENTER(cuStreamCreate);
    return cuStreamCreateWithPriority(handle, flags, 0);
}

EXPORT CUresult cuStreamDestroy_v2(CUstream handle) {
    ENTER(cuStreamDestroy_v2);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (stream == context->null_stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) stream->capture->broken = true;
    stream->destroyed = true;
    forget_destroyed(*context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream handle) {
    ENTER(cuStreamSynchronize);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (CUresult why = allowed_in_capture(stream.get())) return why;
    if (CUresult why = drain(*stream)) return why;
    return check_zones("a synchronisation of a stream");
}

EXPORT CUresult cuStreamQuery(CUstream handle) {
    ENTER(cuStreamQuery);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (CUresult why = allowed_in_capture(stream.get())) return why;
    work_a_while(*stream, nullptr);
    if (CUresult why = state_of(*context)) return why;
    return stream->queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned) {
    ENTER(cuStreamWaitEvent);
    CONTEXT(context);
    STREAM(stream, handle, context);
    Event* event;
    if (CUresult why = known(event_handle, event)) return why;
    const auto capture = event->capture.lock();
    if (event->in_capture) {
        if (!capture || state().captures.count(capture) == 0) return CUDA_ERROR_CAPTURED_EVENT;
        if (stream->capture && stream->capture != capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
        stream->capture = capture;
        capture->streams.insert(stream.get());
        // What the event covers is now the waiting stream's to bring home.
        if (event->stream->captured == event->captured && capture->loose.erase(event->stream) != 0 &&
            stream.get() != capture->origin)
            capture->loose.insert(stream.get());
        return CUDA_SUCCESS;
    }
    if (stream->capture) {
        stream->capture->broken = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (!event->ticket || event->ticket->done) return CUDA_SUCCESS;
    return push(*stream, {nullptr, nullptr, event->ticket});
}

EXPORT CUresult cuLaunchHostFunc(CUstream handle, void (*call)(void*), void* data) {
    ENTER(cuLaunchHostFunc);
    CONTEXT(context);
    STREAM(stream, handle, context);
    return enqueue(*stream, [=] {
        state().in_callback = true;
        call(data);
        state().in_callback = false;
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuEventCreate(CUevent* handle, unsigned flags) {
    ENTER(cuEventCreate);
    CONTEXT(context);
    auto* event = new Event;
    event->context = context;
    event->timed = (flags & 2) == 0;
    state().events.insert(event);
    *handle = reinterpret_cast<CUevent>(event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent handle) {
    ENTER(cuEventDestroy_v2);
    Event* event;
    if (CUresult why = known(handle, event)) return why;
    state().events.erase(event);
    delete event;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent handle, CUstream stream_handle) {
    ENTER(cuEventRecord);
    CONTEXT(context);
    STREAM(stream, stream_handle, context);
    Event* event;
    if (CUresult why = known(handle, event)) return why;
    if (event->context != context) return CUDA_ERROR_INVALID_HANDLE;
    event->in_capture = stream->capture != nullptr;
    if (stream->capture) {
        if (stream->capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->stream = stream.get();
        event->captured = stream->captured;
        return CUDA_SUCCESS;
    }
    event->ticket = std::make_shared<Ticket>();
    event->ticket->stream = stream;
    return push(*stream, {nullptr, event->ticket, nullptr});
}

EXPORT CUresult cuEventQuery(CUevent handle) {
    ENTER(cuEventQuery);
    CONTEXT(context);
    Event* event;
    if (CUresult why = known(handle, event)) return why;
    if (event->in_capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (!event->ticket || event->ticket->done) return CUDA_SUCCESS;
    if (const auto stream = event->ticket->stream.lock()) work_a_while(*stream, event->ticket.get());
    if (CUresult why = state_of(*context)) return why;
    return event->ticket->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

EXPORT CUresult cuEventSynchronize(CUevent handle) {
    ENTER(cuEventSynchronize);
    CONTEXT(context);
    Event* event;
    if (CUresult why = known(handle, event)) return why;
    if (event->in_capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (event->ticket) finish(event->ticket);
    if (CUresult why = state_of(*context)) return why;
    return check_zones("a wait for an event");
}

EXPORT CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent from, CUevent to) {
    ENTER(cuEventElapsedTime_v2);
    Event *first, *last;
    if (CUresult why = known(from, first)) return why;
    if (CUresult why = known(to, last)) return why;
    if (!first->timed || !last->timed || !first->ticket || !last->ticket) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->ticket->done || !last->ticket->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(last->ticket->time - first->ticket->time).count();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
    ENTER(cuEventElapsedTime);
    return cuEventElapsedTime_v2(milliseconds, from, to);
}
