// How the functions of both APIs are written: one lock, a trace, the last error of a thread.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

// The driver is one big critical section: threads of the program call it at any time, and the
// functions that a stream runs may call it from inside. A fork waits until nobody is inside.
struct Lock {
    Lock();
    ~Lock();
};

// The status with which every call ends that a process makes after a fork: CUDA cannot be used
// there once its parent has. CUDA_SUCCESS in the parent.
CUresult status_of_process();

// A thread's last error, which cudaGetLastError hands out.
extern thread_local CUresult last_error;

void trace_call(const char *name);

template <class Body>
CUresult driver_call(const char *name, Body body) {
    Lock lock;
    trace_call(name);
    if (CUresult status = status_of_process()) return status;
    return body();
}

// Numbers of cudaError_t are those of CUresult. "Not ready" is an answer, not an error.
template <class Body>
cudaError_t runtime_call(const char *name, Body body) {
    CUresult status = driver_call(name, body);
    if (status && status != CUDA_ERROR_NOT_READY) last_error = status;
    return (cudaError_t)status;
}

// DRIVER(cuName, (parameters), body) defines a function of the driver API; the body returns a
// CUresult. cuda.h gives many names a suffix such as _v2, which the definition gets as well.
#define DRIVER(name, parameters, ...)                                      \
    EXPORT CUresult name parameters {                                      \
        return driver_call(#name, [&]() -> CUresult { __VA_ARGS__ });      \
    }
#define RUNTIME(name, parameters, ...)                                     \
    EXPORT cudaError_t name parameters {                                   \
        return runtime_call(#name, [&]() -> CUresult { __VA_ARGS__ });     \
    }
// The same function in both APIs: streams, events and graphs have the same types there.
#define BOTH(driver_name, runtime_name, parameters, ...) \
    DRIVER(driver_name, parameters, __VA_ARGS__)         \
    RUNTIME(runtime_name, parameters, __VA_ARGS__)
