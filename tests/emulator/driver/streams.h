// Streams, events and captured graphs.
#pragma once

#include <cuda.h>

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

struct Stream;

// One piece of work in a stream.
struct Operation {
    std::string what;
    std::function<CUresult()> run;
    Stream *stream;
    std::vector<std::shared_ptr<Operation>> needs;  // of other streams
    bool done = false;
    double finished_at = 0;  // milliseconds
};
using OperationPointer = std::shared_ptr<Operation>;

// The graph of a capture: nodes in the order of their capture, each after those that it needs.
struct Graph {
    struct Node {
        std::string what;
        std::vector<size_t> needs;
    };
    std::vector<Node> nodes;
    CUstreamCaptureMode mode;
    Stream *origin;
    uint64_t thread;  // that began the capture
    bool capturing = true, invalid = false;
};
using GraphPointer = std::shared_ptr<Graph>;

struct Stream {
    int device;
    unsigned flags;
    bool legacy = false;     // the default stream of its device
    bool destroyed = false;  // by the program, while work is left in it
    std::deque<OperationPointer> queue;
    OperationPointer last;  // operation that was put into the stream last
    GraphPointer capture;   // null where the stream is not capturing
    std::vector<size_t> capture_ends;  // nodes that the next node needs

    bool blocking() const { return !legacy && !(flags & CU_STREAM_NON_BLOCKING); }
};

struct Event {
    unsigned flags;
    int device;
    OperationPointer operation;  // of the last record outside of captures
    GraphPointer capture;        // of the last record, if that was captured
    std::vector<size_t> capture_ends;
};

// Objects that the program knows by a pointer. They are never freed, so that a stale one is known.
template <class Object>
class Handles {
   public:
    template <class Handle>
    void add(Object *object, Handle *handle) {
        live.insert(object);
        *handle = (Handle)object;
    }
    Object *find(const void *handle) const {
        auto found = live.find((Object *)handle);
        return found == live.end() ? nullptr : *found;
    }
    void remove(Object *object) { live.erase(object); }

   private:
    std::set<Object *> live;
};

// The stream of a handle, null for one that was destroyed (which is reported). The handles 0, 1
// and 2 are the legacy stream: CuPy's per-thread stream is not told from it.
Stream *find_stream(CUstream handle);
Stream &legacy_stream(int device);

// In a function of an API: the stream of a handle as a reference.
#define STREAM(name, handle)                              \
    Stream *name##_pointer = find_stream(handle);         \
    if (!name##_pointer) return CUDA_ERROR_INVALID_HANDLE; \
    Stream &name = *name##_pointer

// Put work into a stream, or into the graph that it captures. `kernel`: the name, for a launch.
CUresult enqueue(Stream &stream, const std::string &what, std::function<CUresult()> run,
                 const std::string &kernel = "");

// Run all that an operation needs, and the operation.
void run_until(const OperationPointer &operation);
void finish_stream(Stream &stream);
void finish_device(int device);

// What the host does when it waits: the status of the device, after the work.
CUresult synchronize_stream(Stream &stream);
CUresult synchronize_device(int device);
void count_wait();

// The status that a call gets which CUDA forbids while a graph is captured; CUDA_SUCCESS if none is.
CUresult check_no_capture(const char *what);

// Defined in graphs.cpp, used by streams.cpp.
CUresult capture_operation(Stream &stream, const std::string &what);
CUresult capture_record(Event &event, Stream &stream);
CUresult capture_wait(Stream &stream, Event &event);
CUresult invalidate(Graph &graph, CUresult status, const char *what);
const std::vector<Stream *> &all_streams();

// Names of kernels, in the order of their launches: noted when they are put into a stream.
void note_launch(const std::string &kernel);
