// Devices: what they are said to be (an H100 with 16 GiB), contexts, and texts of errors.
#include "devices.h"

#include <pthread.h>

#include <mutex>
#include <vector>

#include "calls.h"
#include "settings.h"

namespace {

std::recursive_mutex &mutex = *new std::recursive_mutex;
bool in_use = false;       // some call was made in this process
bool parent_used = false;  // this is the child of a fork, and its parent had made some call

constexpr int NO_CONTEXT = -1;
thread_local int device_without_context = 0;
constexpr uint64_t FIRST_CONTEXT = 0x1000;  // handle of the context of device 0

// Contexts that the thread has pushed. A vector would be destroyed before CuPy's last call.
struct ContextStack {
    static constexpr int DEPTH = 64;
    int devices[DEPTH], size;
};
thread_local ContextStack stack;

int device_of(CUcontext context) { return context ? (uint64_t)context - FIRST_CONTEXT : NO_CONTEXT; }

void watch_forks() {
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                   [] {
                       parent_used = in_use;
                       new (&mutex) std::recursive_mutex;
                   });
}

}  // namespace

thread_local CUresult last_error = CUDA_SUCCESS;

Lock::Lock() { mutex.lock(); }
Lock::~Lock() { mutex.unlock(); }

CUresult status_of_process() {
    static const bool watched = (watch_forks(), true);
    in_use = watched;
    if (!parent_used) return CUDA_SUCCESS;
    fault_once("CUDA is used in a forked process, whose parent had used it before");
    return CUDA_ERROR_NOT_INITIALIZED;
}

void trace_call(const char *name) { trace("%s", name); }

bool is_device(int device) { return device >= 0 && device < settings().device_count; }

bool has_context() { return stack.size && stack.devices[stack.size - 1] != NO_CONTEXT; }

int current_device() {
    return has_context() ? stack.devices[stack.size - 1] : device_without_context;
}

void set_current_device(int device) {
    if (device != NO_CONTEXT) device_without_context = device;
    if (!stack.size) stack.size = 1;
    stack.devices[stack.size - 1] = device;
}

CUcontext context_of(int device) { return (CUcontext)(FIRST_CONTEXT + device); }

CUresult &sticky_error(int device) {
    static auto &errors = *new std::vector<CUresult>(settings().device_count, CUDA_SUCCESS);
    return errors[device];
}

int device_attribute(int attribute, int device) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 132;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return 32;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return 65535;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 49152;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 232448;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 233472;
        case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 65536;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1980000;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 2619000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 5120;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 52428800;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 3;
        case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return device + 1;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: return 1;
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: return 1;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: return 1;
        case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY: return 1;
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS: return 1;
        case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED: return 1;
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
        default: return 0;
    }
}

const ErrorText *error_text(int status) {
    static const ErrorText texts[] = {
        {0, "CUDA_SUCCESS", "cudaSuccess", "no error"},
        {1, "CUDA_ERROR_INVALID_VALUE", "cudaErrorInvalidValue", "invalid argument"},
        {2, "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "out of memory"},
        {3, "CUDA_ERROR_NOT_INITIALIZED", "cudaErrorInitializationError", "initialization error"},
        {101, "CUDA_ERROR_INVALID_DEVICE", "cudaErrorInvalidDevice", "invalid device ordinal"},
        {201, "CUDA_ERROR_INVALID_CONTEXT", "cudaErrorDeviceUninitialized",
         "invalid device context"},
        {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "cudaErrorNoKernelImageForDevice",
         "no kernel image is available for execution on the device"},
        {217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "cudaErrorPeerAccessUnsupported",
         "peer access is not supported between these two devices"},
        {218, "CUDA_ERROR_INVALID_PTX", "cudaErrorInvalidPtx", "a PTX compilation failed"},
        {400, "CUDA_ERROR_INVALID_HANDLE", "cudaErrorInvalidResourceHandle",
         "invalid resource handle"},
        {401, "CUDA_ERROR_ILLEGAL_STATE", "cudaErrorIllegalState",
         "the operation cannot be performed in the present state"},
        {500, "CUDA_ERROR_NOT_FOUND", "cudaErrorSymbolNotFound", "named symbol not found"},
        {600, "CUDA_ERROR_NOT_READY", "cudaErrorNotReady", "device not ready"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "cudaErrorIllegalAddress",
         "an illegal memory access was encountered"},
        {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "cudaErrorLaunchTimeout",
         "the launch timed out and was terminated"},
        {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "cudaErrorMisalignedAddress",
         "misaligned address"},
        {719, "CUDA_ERROR_LAUNCH_FAILED", "cudaErrorLaunchFailure",
         "unspecified launch failure"},
        {801, "CUDA_ERROR_NOT_SUPPORTED", "cudaErrorNotSupported",
         "operation not supported (by the emulator)"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "cudaErrorStreamCaptureUnsupported",
         "operation not permitted when stream is capturing"},
        {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "cudaErrorStreamCaptureInvalidated",
         "operation failed due to a previous error during capture"},
        {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "cudaErrorStreamCaptureMerge",
         "operation would result in a merge of separate capture sequences"},
        {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "cudaErrorStreamCaptureUnmatched",
         "capture was not ended in the same stream as it began"},
        {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "cudaErrorStreamCaptureUnjoined",
         "capturing stream has unjoined work"},
        {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "cudaErrorStreamCaptureIsolation",
         "dependency created on uncaptured work in another stream"},
        {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "cudaErrorStreamCaptureImplicit",
         "operation would make the legacy stream depend on a capturing blocking stream"},
        {907, "CUDA_ERROR_CAPTURED_EVENT", "cudaErrorCapturedEvent",
         "operation not permitted on an event last recorded in a capturing stream"},
        {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "cudaErrorStreamCaptureWrongThread",
         "attempt to terminate a thread-local capture sequence from another thread"},
    };
    for (const ErrorText &known : texts)
        if (known.status == status) return &known;
    return nullptr;
}

// Contexts. The driver API alone knows them.

DRIVER(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device), {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *context = context_of(device);
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetCurrent, (CUcontext * context), {
    *context = has_context() ? context_of(current_device()) : nullptr;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxSetCurrent, (CUcontext context), {
    set_current_device(device_of(context));
    return CUDA_SUCCESS;
})
DRIVER(cuCtxPushCurrent, (CUcontext context), {
    if (stack.size == ContextStack::DEPTH) return CUDA_ERROR_OUT_OF_MEMORY;
    stack.devices[stack.size++] = device_of(context);
    return CUDA_SUCCESS;
})
DRIVER(cuCtxPopCurrent, (CUcontext * context), {
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = context_of(current_device());
    stack.size--;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetDevice, (CUdevice * device), {
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *device = current_device();
    return CUDA_SUCCESS;
})
