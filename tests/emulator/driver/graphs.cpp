// Captures of streams, and graphs.
//
// A capture turns the calls on a stream into nodes of a graph. Other streams join it when they wait
// for an event of the capture, and must be waited for before it ends. While it goes on, CUDA
// forbids to wait for captured work and, by the mode of the capture, calls that may wait, such as
// cudaMalloc. A graph is made and destroyed, but cannot be launched.
#include <pthread.h>

#include <algorithm>

#include "calls.h"
#include "devices.h"
#include "settings.h"
#include "streams.h"

namespace {

struct GraphHandle {
    GraphPointer graph;
};
struct ExecutableGraph {
    GraphPointer graph;
};
auto &graphs = *new Handles<GraphHandle>;
auto &executables = *new Handles<ExecutableGraph>;
thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

void add_ends(std::vector<size_t> &ends, const std::vector<size_t> &more) {
    for (size_t node : more)
        if (std::find(ends.begin(), ends.end(), node) == ends.end()) ends.push_back(node);
}

bool all_work_joined(const Graph &graph, const std::vector<size_t> &ends) {
    std::vector<bool> needed(graph.nodes.size());
    for (size_t node : ends) needed[node] = true;
    for (auto &node : graph.nodes)
        for (size_t before : node.needs) needed[before] = true;
    return std::find(needed.begin(), needed.end(), false) == needed.end();
}

CUresult begin_capture(Stream &stream, CUstreamCaptureMode mode) {
    if (stream.legacy)
        return fault(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a capture of the legacy stream");
    if (stream.capture) return fault(CUDA_ERROR_ILLEGAL_STATE, "a capture in a captured stream");
    stream.capture = std::make_shared<Graph>();
    stream.capture->mode = mode;
    stream.capture->origin = &stream;
    stream.capture->thread = pthread_self();
    stream.capture_ends.clear();
    return CUDA_SUCCESS;
}

// Whether a capture could be ended, and why not.
CUresult check_end(const Stream &stream) {
    const Graph &graph = *stream.capture;
    if (graph.invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (graph.mode != CU_STREAM_CAPTURE_MODE_RELAXED && graph.thread != pthread_self())
        return fault(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "a capture ends in another thread");
    if (!all_work_joined(graph, stream.capture_ends))
        return fault(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                     "a capture ends before its stream waits for the streams that joined it");
    return CUDA_SUCCESS;
}

CUresult end_capture(Stream &stream, CUgraph *handle) {
    *handle = nullptr;
    if (!stream.capture) return fault(CUDA_ERROR_ILLEGAL_STATE, "the end of no capture");
    GraphPointer graph = stream.capture;
    if (graph->origin != &stream)
        return invalidate(*graph, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "its end in another stream");
    CUresult status = check_end(stream);
    graph->capturing = false;
    for (Stream *other : all_streams())
        if (other->capture == graph) other->capture = nullptr;
    if (status) return status;
    for (auto &node : graph->nodes)
        if (node.what.find("pageable") != std::string::npos)
            fault(CUDA_SUCCESS, "a graph holds a %s, which must outlive it", node.what.c_str());
    graphs.add(new GraphHandle{graph}, handle);
    return CUDA_SUCCESS;
}

CUresult instantiate(CUgraphExec *result, CUgraph handle) {
    GraphHandle *graph = graphs.find(handle);
    if (!graph) return fault(CUDA_ERROR_INVALID_HANDLE, "a graph that does not exist is used");
    executables.add(new ExecutableGraph{graph->graph}, result);
    return CUDA_SUCCESS;
}

CUresult capture_status(Stream &stream, CUstreamCaptureStatus *status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (stream.legacy)
        for (Stream *other : all_streams())
            if (other->capture && other->blocking()) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (stream.capture)
        *status = stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                          : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

}  // namespace

CUresult invalidate(Graph &graph, CUresult status, const char *what) {
    graph.invalid = true;
    return fault(status, "%s while a graph is captured", what);
}

CUresult capture_operation(Stream &stream, const std::string &what) {
    Graph &graph = *stream.capture;
    if (graph.invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    graph.nodes.push_back({what, stream.capture_ends});
    stream.capture_ends = {graph.nodes.size() - 1};
    return CUDA_SUCCESS;
}

CUresult capture_record(Event &event, Stream &stream) {
    event.capture = stream.capture;
    event.capture_ends = stream.capture_ends;
    return CUDA_SUCCESS;
}

CUresult capture_wait(Stream &stream, Event &event) {
    if (!event.capture) {
        if (!event.operation) return CUDA_SUCCESS;
        return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                          "a wait for an event that was recorded outside");
    }
    if (!event.capture->capturing)
        return fault(CUDA_ERROR_CAPTURED_EVENT, "a wait for an event of a capture that has ended");
    if (stream.legacy)
        return invalidate(*event.capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                          "a wait of the legacy stream for an event of the capture");
    if (stream.capture && stream.capture != event.capture)
        return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_MERGE,
                          "a wait for an event of another capture");
    if (!stream.capture) {
        stream.capture = event.capture;
        stream.capture_ends.clear();
    }
    add_ends(stream.capture_ends, event.capture_ends);
    return CUDA_SUCCESS;
}

CUresult check_no_capture(const char *what) {
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
    for (Stream *stream : all_streams()) {
        if (!stream->capture || stream->capture->origin != stream) continue;
        CUstreamCaptureMode mode = stream->capture->mode;
        bool here = stream->capture->thread == pthread_self();
        bool forbidden = here ? mode != CU_STREAM_CAPTURE_MODE_RELAXED
                              : mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                    thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (forbidden)
            return invalidate(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, what);
    }
    return CUDA_SUCCESS;
}

DRIVER(cuStreamBeginCapture, (CUstream handle, CUstreamCaptureMode mode), {
    STREAM(stream, handle);
    return begin_capture(stream, mode);
})
RUNTIME(cudaStreamBeginCapture, (cudaStream_t handle, cudaStreamCaptureMode mode), {
    STREAM(stream, handle);
    return begin_capture(stream, (CUstreamCaptureMode)mode);
})
BOTH(cuStreamEndCapture, cudaStreamEndCapture, (CUstream handle, CUgraph *graph), {
    STREAM(stream, handle);
    return end_capture(stream, graph);
})
DRIVER(cuStreamIsCapturing, (CUstream handle, CUstreamCaptureStatus *status), {
    STREAM(stream, handle);
    return capture_status(stream, status);
})
RUNTIME(cudaStreamIsCapturing, (cudaStream_t handle, cudaStreamCaptureStatus *status), {
    STREAM(stream, handle);
    return capture_status(stream, (CUstreamCaptureStatus *)status);
})
DRIVER(cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode * mode), {
    std::swap(thread_mode, *mode);
    return CUDA_SUCCESS;
})
RUNTIME(cudaThreadExchangeStreamCaptureMode, (cudaStreamCaptureMode * mode), {
    std::swap(thread_mode, *(CUstreamCaptureMode *)mode);
    return CUDA_SUCCESS;
})
BOTH(cuGraphInstantiate, cudaGraphInstantiate,
     (CUgraphExec * result, CUgraph graph, unsigned long long), {
         return instantiate(result, graph);
     })
RUNTIME(cudaGraphInstantiateWithFlags,
        (cudaGraphExec_t * result, cudaGraph_t graph, unsigned long long), {
            return instantiate(result, graph);
        })
BOTH(cuGraphDestroy, cudaGraphDestroy, (CUgraph handle), {
    GraphHandle *graph = graphs.find(handle);
    if (!graph) return fault(CUDA_ERROR_INVALID_HANDLE, "a graph is destroyed twice");
    graphs.remove(graph);
    graph->graph = nullptr;
    return CUDA_SUCCESS;
})
BOTH(cuGraphExecDestroy, cudaGraphExecDestroy, (CUgraphExec handle), {
    ExecutableGraph *executable = executables.find(handle);
    if (!executable) return fault(CUDA_ERROR_INVALID_HANDLE, "a graph is destroyed twice");
    executables.remove(executable);
    executable->graph = nullptr;
    return CUDA_SUCCESS;
})
