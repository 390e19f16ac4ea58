// What is left of the runtime API. CuPy has NVIDIA's runtime linked into itself; ../__init__.py lets
// its functions jump to those of this library.
#include <cstring>
#include <utility>

#include "calls.h"
#include "copies.h"
#include "devices.h"
#include "memory_calls.h"
#include "settings.h"

namespace {

Copy as_copy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    Direction direction = kind == cudaMemcpyHostToDevice     ? Direction::TO_DEVICE
                          : kind == cudaMemcpyDeviceToHost   ? Direction::TO_HOST
                          : kind == cudaMemcpyDeviceToDevice ? Direction::ON_DEVICE
                                                             : Direction::ANY;
    return {number(to), number(from), size, 1, 0, 0, direction};
}

Copy as_copy_2d(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                size_t rows, cudaMemcpyKind kind) {
    Copy copy = as_copy(to, from, width, kind);
    copy.rows = rows;
    copy.to_pitch = to_pitch;
    copy.from_pitch = from_pitch;
    return copy;
}

void describe_device(cudaDeviceProp &properties, int device) {
    auto attribute = [device](CUdevice_attribute name) { return device_attribute(name, device); };
    properties = {};
    strcpy(properties.name, "Emulated GPU");
    properties.major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    properties.minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    properties.totalGlobalMem = DEVICE_MEMORY;
    properties.warpSize = attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    properties.multiProcessorCount = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    properties.maxThreadsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    properties.maxThreadsPerMultiProcessor =
        attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
    properties.sharedMemPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    properties.sharedMemPerBlockOptin =
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    properties.regsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
    for (int axis = 0; axis < 3; axis++) {
        int block = CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, grid = CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X;
        properties.maxThreadsDim[axis] = attribute((CUdevice_attribute)(block + axis));
        properties.maxGridSize[axis] = attribute((CUdevice_attribute)(grid + axis));
    }
    properties.l2CacheSize = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    properties.memoryBusWidth = attribute(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    properties.pciBusID = attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
    properties.unifiedAddressing = properties.managedMemory = properties.concurrentKernels = 1;
    properties.concurrentManagedAccess = properties.canMapHostMemory = 1;
}

}  // namespace

RUNTIME(cudaGetDevice, (int *device), {
    *device = current_device();
    return CUDA_SUCCESS;
})
RUNTIME(cudaSetDevice, (int device), {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    set_current_device(device);
    return CUDA_SUCCESS;
})
RUNTIME(cudaRuntimeGetVersion, (int *version), {
    *version = CUDART_VERSION;
    return CUDA_SUCCESS;
})
RUNTIME(cudaDeviceGetAttribute, (int *value, cudaDeviceAttr attribute, int device), {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *value = device_attribute(attribute, device);  // the numbers are those of the driver API
    return CUDA_SUCCESS;
})
RUNTIME(cudaGetDeviceProperties, (cudaDeviceProp * properties, int device), {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    describe_device(*properties, device);
    return CUDA_SUCCESS;
})
RUNTIME(cudaDeviceEnablePeerAccess, (int, unsigned), { return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED; })
RUNTIME(cudaDeviceGetLimit, (size_t * size, cudaLimit), {
    *size = 1024;
    return CUDA_SUCCESS;
})
RUNTIME(cudaDeviceSetLimit, (cudaLimit, size_t), { return CUDA_SUCCESS; })

RUNTIME(cudaMalloc, (void **address, size_t size),
        { return allocate_now((CUdeviceptr *)address, size); })
RUNTIME(cudaFree, (void *address), { return free_now(number(address)); })
RUNTIME(cudaMallocManaged, (void **address, size_t size, unsigned),
        { return allocate_on_host(address, size, MemoryKind::MANAGED); })
RUNTIME(cudaMallocHost, (void **address, size_t size),
        { return allocate_on_host(address, size, MemoryKind::PINNED); })
RUNTIME(cudaMallocAsync, (void **address, size_t size, cudaStream_t handle), {
    STREAM(stream, handle);
    return allocate_in_stream((CUdeviceptr *)address, size, stream);
})
RUNTIME(cudaMallocFromPoolAsync,
        (void **address, size_t size, cudaMemPool_t, cudaStream_t handle), {
            STREAM(stream, handle);
            return allocate_in_stream((CUdeviceptr *)address, size, stream);
        })
RUNTIME(cudaFreeAsync, (void *address, cudaStream_t handle), {
    STREAM(stream, handle);
    return free_in_stream(number(address), stream);
})
RUNTIME(cudaPointerGetAttributes, (cudaPointerAttributes * attributes, const void *address), {
    Allocation *allocation = find_allocation(number(address));
    *attributes = {};
    attributes->device = -2;  // memory of the host that CUDA does not know
    if (!allocation) return CUDA_SUCCESS;
    attributes->device = allocation->device;
    attributes->type = allocation->on_device()                          ? cudaMemoryTypeDevice
                       : allocation->kind == MemoryKind::PINNED ? cudaMemoryTypeHost
                                                                        : cudaMemoryTypeManaged;
    attributes->devicePointer = (void *)address;
    attributes->hostPointer = allocation->on_device() ? nullptr : (void *)address;
    return CUDA_SUCCESS;
})
RUNTIME(cudaMemPrefetchAsync, (const void *, size_t, cudaMemLocation, unsigned, cudaStream_t),
        { return CUDA_SUCCESS; })
RUNTIME(cudaMemAdvise, (const void *, size_t, cudaMemoryAdvise, cudaMemLocation),
        { return CUDA_SUCCESS; })

RUNTIME(cudaMemcpy, (void *to, const void *from, size_t size, cudaMemcpyKind kind),
        { return copy_and_wait(as_copy(to, from, size, kind)); })
RUNTIME(cudaMemcpyAsync,
        (void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t handle), {
            STREAM(stream, handle);
            return copy_in_stream(as_copy(to, from, size, kind), stream);
        })
RUNTIME(cudaMemcpy2D,
        (void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
         cudaMemcpyKind kind),
        { return copy_and_wait(as_copy_2d(to, to_pitch, from, from_pitch, width, rows, kind)); })
RUNTIME(cudaMemcpy2DAsync,
        (void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
         cudaMemcpyKind kind, cudaStream_t handle),
        {
            STREAM(stream, handle);
            return copy_in_stream(as_copy_2d(to, to_pitch, from, from_pitch, width, rows, kind),
                                  stream);
        })
RUNTIME(cudaMemcpyPeer, (void *to, int, const void *from, int, size_t size),
        { return copy_and_wait(as_copy(to, from, size, cudaMemcpyDeviceToDevice)); })
RUNTIME(cudaMemcpyPeerAsync,
        (void *to, int, const void *from, int, size_t size, cudaStream_t handle), {
            STREAM(stream, handle);
            return copy_in_stream(as_copy(to, from, size, cudaMemcpyDeviceToDevice), stream);
        })
RUNTIME(cudaMemset, (void *to, int value, size_t size),
        { return fill(number(to), value, 1, size, legacy_stream(current_device())); })
RUNTIME(cudaMemsetAsync, (void *to, int value, size_t size, cudaStream_t handle), {
    STREAM(stream, handle);
    return fill(number(to), value, 1, size, stream);
})

EXPORT cudaError_t cudaGetLastError() {
    return (cudaError_t)std::exchange(last_error, CUDA_SUCCESS);
}
EXPORT cudaError_t cudaPeekAtLastError() { return (cudaError_t)last_error; }
EXPORT const char *cudaGetErrorName(cudaError_t status) {
    const ErrorText *known = error_text(status);
    return known ? known->runtime_name : "unrecognized error code";
}
EXPORT const char *cudaGetErrorString(cudaError_t status) {
    const ErrorText *known = error_text(status);
    return known ? known->meaning : "unrecognized error code";
}

// What the other functions of CuPy's runtime jump to.
EXPORT cudaError_t emu_not_supported(const char *name) {
    return runtime_call(name, [name] {
        return fault(CUDA_ERROR_NOT_SUPPORTED, "%s is not emulated", name);
    });
}
