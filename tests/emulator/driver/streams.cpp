// Streams and events.
//
// CUDA promises an order and nothing else: work of one stream runs in order; a stream that waits
// for an event runs after what was in the event's stream when the event was recorded; the legacy
// default stream waits for all blocking streams of its device, and they wait for it. Here work
// runs as late as that allows: when the host waits for it, and only what that work needs. A
// program that forgets to wait therefore reads old values each time, not once in a thousand runs.
#include "streams.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "calls.h"
#include "devices.h"
#include "memory.h"
#include "settings.h"

namespace {

auto &streams = *new std::vector<Stream *>;  // all that may have work, by their age
auto &handles = *new Handles<Stream>;
auto &events = *new Handles<Event>;
auto &launches = *new std::vector<std::string>;
long waits = 0;

double milliseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

bool pending(const OperationPointer &operation) { return operation && !operation->done; }

CUresult create_stream(CUstream *handle, unsigned flags) {
    Stream *stream = new Stream{current_device(), flags};
    streams.push_back(stream);
    handles.add(stream, handle);
    return CUDA_SUCCESS;
}

// The work that is left in the stream still runs: CUDA destroys a stream when it is done.
CUresult destroy_stream(Stream &stream) {
    if (stream.legacy) return fault(CUDA_ERROR_INVALID_HANDLE, "the default stream is destroyed");
    if (stream.capture) stream.capture->invalid = true;
    stream.destroyed = true;
    handles.remove(&stream);
    return CUDA_SUCCESS;
}

void forget_finished_streams() {
    auto finished = [](Stream *stream) { return stream->destroyed && stream->queue.empty(); };
    streams.erase(std::remove_if(streams.begin(), streams.end(), finished), streams.end());
}

void run(Operation &operation) {
    CUresult &sticky = sticky_error(operation.stream->device);
    if (!sticky && operation.run) {
        ArenaAccess access;
        sticky = operation.run();
    }
    operation.finished_at = milliseconds();
    operation.done = true;
    operation.needs.clear();
    operation.run = nullptr;
}

Event *find_event(CUevent handle) {
    Event *event = events.find(handle);
    if (!event) fault(CUDA_ERROR_INVALID_HANDLE, "an event that does not exist is used");
    return event;
}

CUresult create_event(CUevent *handle, unsigned flags) {
    events.add(new Event{flags, current_device()}, handle);
    return CUDA_SUCCESS;
}

CUresult record_event(Event &event, Stream &stream) {
    if (event.device != stream.device)
        return fault(CUDA_ERROR_INVALID_HANDLE,
                     "an event of device %d is recorded in a stream of device %d", event.device,
                     stream.device);
    if (stream.capture) return capture_record(event, stream);
    CUresult status = enqueue(stream, "event", nullptr);
    if (status) return status;
    event.capture = nullptr;
    event.operation = stream.last;
    return CUDA_SUCCESS;
}

CUresult wait_for_event(Stream &stream, Event &event) {
    if (stream.capture || event.capture) return capture_wait(stream, event);
    if (!pending(event.operation)) return CUDA_SUCCESS;
    OperationPointer awaited = event.operation;  // not a later record
    CUresult status = enqueue(stream, "wait for an event", nullptr);
    if (!status && !stream.last->done) stream.last->needs.push_back(awaited);
    return status;
}

CUresult check_event(Event &event, const char *what) {
    if (!event.capture) return CUDA_SUCCESS;
    if (event.capture->capturing) return invalidate(*event.capture, CUDA_ERROR_CAPTURED_EVENT, what);
    return fault(CUDA_ERROR_CAPTURED_EVENT, "%s: it was recorded in a capture", what);
}

CUresult synchronize_event(Event &event) {
    if (CUresult status = check_event(event, "the host waits for an event")) return status;
    count_wait();
    if (!event.operation) return CUDA_SUCCESS;
    run_until(event.operation);
    return sticky_error(event.device);
}

CUresult query_event(Event &event) {
    if (CUresult status = check_event(event, "an event is queried")) return status;
    if (pending(event.operation)) return CUDA_ERROR_NOT_READY;
    return sticky_error(event.device);
}

CUresult elapsed_time(float *time, const Event &from, const Event &to) {
    for (const Event *event : {&from, &to}) {
        if (!event->operation || event->flags & CU_EVENT_DISABLE_TIMING)
            return CUDA_ERROR_INVALID_HANDLE;
        if (!event->operation->done) return CUDA_ERROR_NOT_READY;
    }
    *time = to.operation->finished_at - from.operation->finished_at;
    return CUDA_SUCCESS;
}

CUresult query_stream(Stream &stream) {
    if (stream.capture)
        return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "query");
    return pending(stream.last) ? CUDA_ERROR_NOT_READY : sticky_error(stream.device);
}

}  // namespace

const std::vector<Stream *> &all_streams() { return streams; }

Stream &legacy_stream(int device) {
    static auto &known = *new std::vector<Stream *>(settings().device_count);
    if (!known[device]) {
        known[device] = new Stream{device, 0, true};
        streams.push_back(known[device]);
    }
    return *known[device];
}

Stream *find_stream(CUstream handle) {
    if (handle <= CU_STREAM_PER_THREAD) return &legacy_stream(current_device());
    Stream *stream = handles.find(handle);
    if (!stream) fault(CUDA_ERROR_INVALID_HANDLE, "a stream that does not exist is used");
    return stream;
}

CUresult enqueue(Stream &stream, const std::string &what, std::function<CUresult()> run,
                 const std::string &kernel) {
    if (stream.capture) return capture_operation(stream, what);
    if (stream.legacy)
        for (Stream *other : streams)
            if (other->capture && other->blocking())
                return invalidate(*other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                                  (what + " in the legacy stream").c_str());
    auto operation = std::make_shared<Operation>(Operation{what, run, &stream});
    for (Stream *other : streams) {
        bool ordered = stream.legacy ? other->blocking() : stream.blocking() && other->legacy;
        if (ordered && other->device == stream.device && pending(other->last))
            operation->needs.push_back(other->last);
    }
    stream.queue.push_back(operation);
    stream.last = operation;
    if (!kernel.empty()) note_launch(kernel);
    if (!settings().lazy) finish_stream(stream);
    return CUDA_SUCCESS;
}

void run_until(const OperationPointer &wanted) {
    std::vector<OperationPointer> stack = {wanted};
    while (!stack.empty()) {
        OperationPointer operation = stack.back();
        auto &queue = operation->stream->queue;
        if (operation->done) {
            stack.pop_back();
        } else if (queue.front() != operation) {
            stack.push_back(queue.front());
        } else {
            auto need = std::find_if(operation->needs.begin(), operation->needs.end(), pending);
            if (need != operation->needs.end()) {
                stack.push_back(*need);
                continue;
            }
            queue.pop_front();
            run(*operation);
        }
    }
}

void finish_stream(Stream &stream) {
    if (pending(stream.last)) run_until(stream.last);
}

void finish_device(int device) {
    std::vector<Stream *> known = streams;
    if (settings().order == "reverse") std::reverse(known.begin(), known.end());
    for (Stream *stream : known)
        if (stream->device == device) finish_stream(*stream);
    forget_finished_streams();
}

void count_wait() { waits++; }

CUresult synchronize_stream(Stream &stream) {
    if (stream.capture)
        return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "synchronize");
    if (stream.legacy)
        if (CUresult status = check_no_capture("a wait for the legacy stream")) return status;
    count_wait();
    finish_stream(stream);
    if (stream.legacy)
        for (Stream *other : std::vector<Stream *>(streams))
            if (other->blocking() && other->device == stream.device) finish_stream(*other);
    return sticky_error(stream.device);
}

CUresult synchronize_device(int device) {
    for (Stream *stream : streams)
        if (stream->capture && stream->device == device)
            return invalidate(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                              "a wait for the device");
    count_wait();
    finish_device(device);
    return sticky_error(device);
}

void note_launch(const std::string &kernel) { launches.push_back(kernel); }

// Functions of both APIs.

#define EVENT(name, handle)                         \
    Event *name##_pointer = find_event(handle);        \
    if (!name##_pointer) return CUDA_ERROR_INVALID_HANDLE; \
    Event &name = *name##_pointer

RUNTIME(cudaStreamCreate, (cudaStream_t * stream), { return create_stream(stream, 0); })
BOTH(cuStreamCreate, cudaStreamCreateWithFlags, (CUstream * stream, unsigned flags),
     { return create_stream(stream, flags); })
DRIVER(cuStreamCreateWithPriority, (CUstream * stream, unsigned flags, int),
       { return create_stream(stream, flags); })
RUNTIME(cudaStreamCreateWithPriority, (cudaStream_t * stream, unsigned flags, int),
        { return create_stream(stream, flags); })
BOTH(cuStreamDestroy, cudaStreamDestroy, (CUstream handle), {
    STREAM(stream, handle);
    return destroy_stream(stream);
})
BOTH(cuStreamSynchronize, cudaStreamSynchronize, (CUstream handle), {
    STREAM(stream, handle);
    return synchronize_stream(stream);
})
BOTH(cuStreamQuery, cudaStreamQuery, (CUstream handle), {
    STREAM(stream, handle);
    return query_stream(stream);
})
BOTH(cuStreamWaitEvent, cudaStreamWaitEvent, (CUstream to, CUevent from, unsigned), {
    STREAM(stream, to);
    EVENT(event, from);
    return wait_for_event(stream, event);
})
BOTH(cuStreamGetFlags, cudaStreamGetFlags, (CUstream handle, unsigned *flags), {
    STREAM(stream, handle);
    *flags = stream.flags;
    return CUDA_SUCCESS;
})
BOTH(cuStreamGetPriority, cudaStreamGetPriority, (CUstream, int *priority), {
    *priority = 0;
    return CUDA_SUCCESS;
})
BOTH(cuStreamGetId, cudaStreamGetId, (CUstream handle, unsigned long long *id), {
    STREAM(stream, handle);
    *id = number(&stream);
    return CUDA_SUCCESS;
})
BOTH(cuStreamGetDevice, cudaStreamGetDevice, (CUstream handle, int *device), {
    STREAM(stream, handle);
    *device = stream.device;
    return CUDA_SUCCESS;
})
DRIVER(cuStreamGetCtx, (CUstream handle, CUcontext *context), {
    STREAM(stream, handle);
    *context = context_of(stream.device);
    return CUDA_SUCCESS;
})
BOTH(cuLaunchHostFunc, cudaLaunchHostFunc, (CUstream handle, CUhostFn function, void *data), {
    STREAM(stream, handle);
    return enqueue(stream, "host function", [=] {
        function(data);
        return CUDA_SUCCESS;
    });
})
DRIVER(cuStreamAddCallback,
       (CUstream handle, CUstreamCallback function, void *data, unsigned), {
           STREAM(stream, handle);
           return enqueue(stream, "callback", [=] {
               function(handle, CUDA_SUCCESS, data);
               return CUDA_SUCCESS;
           });
       })
RUNTIME(cudaStreamAddCallback,
        (cudaStream_t handle, cudaStreamCallback_t function, void *data, unsigned), {
            STREAM(stream, handle);
            return enqueue(stream, "callback", [=] {
                function(handle, cudaSuccess, data);
                return CUDA_SUCCESS;
            });
        })

RUNTIME(cudaEventCreate, (cudaEvent_t * event), { return create_event(event, 0); })
BOTH(cuEventCreate, cudaEventCreateWithFlags, (CUevent * event, unsigned flags),
     { return create_event(event, flags); })
// An operation that waits for the event keeps its place: CUDA lets go of the event alone.
BOTH(cuEventDestroy, cudaEventDestroy, (CUevent handle), {
    EVENT(event, handle);
    events.remove(&event);
    return CUDA_SUCCESS;
})
BOTH(cuEventRecord, cudaEventRecord, (CUevent handle, CUstream to), {
    EVENT(event, handle);
    STREAM(stream, to);
    return record_event(event, stream);
})
BOTH(cuEventRecordWithFlags, cudaEventRecordWithFlags, (CUevent handle, CUstream to, unsigned), {
    EVENT(event, handle);
    STREAM(stream, to);
    return record_event(event, stream);
})
BOTH(cuEventSynchronize, cudaEventSynchronize, (CUevent handle), {
    EVENT(event, handle);
    return synchronize_event(event);
})
BOTH(cuEventQuery, cudaEventQuery, (CUevent handle), {
    EVENT(event, handle);
    return query_event(event);
})
BOTH(cuEventElapsedTime, cudaEventElapsedTime, (float *time, CUevent first, CUevent second), {
    EVENT(from, first);
    EVENT(to, second);
    return elapsed_time(time, from, to);
})

DRIVER(cuCtxSynchronize, (), { return synchronize_device(current_device()); })
RUNTIME(cudaDeviceSynchronize, (), { return synchronize_device(current_device()); })

// For Python: names of the kernels that were launched, and how often the host has waited, since the
// last call; and the number of operations that nobody has waited for.
EXPORT const char *emu_take_launches() {
    Lock lock;
    static thread_local std::string result;
    result.clear();
    for (const std::string &kernel : launches) result += kernel + "\n";
    launches.clear();
    return result.c_str();
}

EXPORT long emu_take_waits() {
    Lock lock;
    return std::exchange(waits, 0);
}

EXPORT long emu_pending() {
    Lock lock;
    long result = 0;
    for (Stream *stream : streams) result += stream->queue.size();
    return result;
}
