// Capture of streams, and graphs that repeat what was captured.
#include "card.h"

using namespace card;

namespace {

typedef std::shared_ptr<Graph>* Handle;

void close(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) stream->capture = nullptr;
    state().captures.erase(capture);
}

CUresult run(const Graph& graph) {
    for (const Op& op : graph.ops)
        if (CUresult why = op.work()) return why;
    return CUDA_SUCCESS;
}

CUresult drop(std::set<Handle>& from, Handle handle) {
    if (from.erase(handle) == 0) return CUDA_ERROR_INVALID_VALUE;
    delete handle;
    return CUDA_SUCCESS;
}

}  // namespace

namespace card {

CUresult allowed_in_capture(Stream* stream) {
    if (stream != nullptr && stream->capture) {
        stream->capture->broken = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (stream != nullptr && stream != stream->context->null_stream.get()) return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    for (const auto& capture : state().captures) {
        // 0 forbids to all threads, 1 to the one that captures, 2 to none.
        if (capture->mode == 2 || (capture->mode == 1 && capture->thread != thread_number())) continue;
        capture->broken = true;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

}  // namespace card

EXPORT CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
    ENTER(cuStreamBeginCapture_v2);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (mode < 0 || mode > 2) return CUDA_ERROR_INVALID_VALUE;
    if (stream == context->null_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream.get();
    capture->mode = mode;
    capture->thread = thread_number();
    capture->streams.insert(stream.get());
    capture->graph = std::make_shared<Graph>();
    capture->graph->context = context;
    stream->capture = capture;
    state().captures.insert(capture);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    ENTER(cuStreamEndCapture);
    CONTEXT(context);
    STREAM(stream, handle, context);
    *graph = nullptr;
    const auto capture = stream->capture;
    if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->origin != stream.get()) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != 2 && capture->thread != thread_number()) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    close(capture);
    if (capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!capture->loose.empty()) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    auto* made = new std::shared_ptr<Graph>(capture->graph);
    state().graphs.insert(made);
    *graph = reinterpret_cast<CUgraph>(made);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(CUstream handle, int* status) {
    ENTER(cuStreamIsCapturing);
    CONTEXT(context);
    STREAM(stream, handle, context);
    *status = !stream->capture ? 0 : stream->capture->broken ? 2 : 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
    ENTER(cuThreadExchangeStreamCaptureMode);
    thread_local int mine = 0;
    std::swap(*mode, mine);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    ENTER(cuGraphInstantiateWithFlags);
    CONTEXT(context);
    auto handle = reinterpret_cast<Handle>(graph);
    if (state().graphs.count(handle) == 0) return CUDA_ERROR_INVALID_VALUE;
    auto* made = new std::shared_ptr<Graph>(*handle);
    state().executables.insert(made);
    *executable = reinterpret_cast<CUgraphExec>(made);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphUpload(CUgraphExec executable, CUstream) {
    ENTER(cuGraphUpload);
    return state().executables.count(reinterpret_cast<Handle>(executable)) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    ENTER(cuGraphLaunch);
    CONTEXT(context);
    STREAM(stream, handle, context);
    auto made = reinterpret_cast<Handle>(executable);
    if (state().executables.count(made) == 0) return CUDA_ERROR_INVALID_VALUE;
    if ((*made)->context != context) return CUDA_ERROR_INVALID_CONTEXT;
    const std::shared_ptr<Graph> graph = *made;
    return enqueue(*stream, [graph] { return run(*graph); });
}

EXPORT CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    ENTER(cuGraphGetNodes);
    auto handle = reinterpret_cast<Handle>(graph);
    if (state().graphs.count(handle) == 0 || nodes != nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = (*handle)->ops.size();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    ENTER(cuGraphDestroy);
    return drop(state().graphs, reinterpret_cast<Handle>(graph));
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) {
    ENTER(cuGraphExecDestroy);
    return drop(state().executables, reinterpret_cast<Handle>(executable));
}
