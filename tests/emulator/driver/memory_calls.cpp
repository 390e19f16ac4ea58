// Allocation of memory as the functions of both APIs say it, and those that both have.
#include "memory_calls.h"

#include <cstdlib>

#include "calls.h"
#include "devices.h"
#include "settings.h"

// A wait for the device that the program did not ask for.
static void finish_silently(int device) {
    for (Stream *stream : all_streams())
        if (stream->device == device && !stream->queue.empty()) {
            count_wait();
            break;
        }
    finish_device(device);
}

CUresult allocate_now(CUdeviceptr *address, size_t size) {
    *address = 0;
    if (CUresult status = sticky_error(current_device())) return status;
    if (CUresult status = check_no_capture("an allocation of memory")) return status;
    *address = allocate(size, current_device());
    return *address || !size ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

// The array that begins at an address, null if there is none to be freed.
static Allocation *find_array(uint64_t address) {
    Allocation *allocation = find_allocation(address);
    bool usable = allocation && allocation->from == address && !allocation->free_is_queued &&
                  allocation->kind != MemoryKind::PINNED &&
                  allocation->kind != MemoryKind::VARIABLE;
    if (usable) return allocation;
    fault(CUDA_ERROR_INVALID_VALUE, "memory is freed that is not allocated: %#lx, %s", address,
          describe_address(address).c_str());
    return nullptr;
}

CUresult free_now(uint64_t address) {
    if (!address) return CUDA_SUCCESS;
    if (CUresult status = check_no_capture("a release of memory")) return status;
    Allocation *allocation = find_array(address);
    if (!allocation) return CUDA_ERROR_INVALID_VALUE;
    int device = allocation->device;
    finish_silently(device);
    if (allocation->kind == MemoryKind::MANAGED) {
        unregister_memory(pointer(address));
        free(pointer(address));
    } else {
        release(address);
    }
    return sticky_error(device);
}

CUresult allocate_in_stream(CUdeviceptr *address, size_t size, Stream &stream) {
    *address = 0;
    if (stream.capture)
        return invalidate(*stream.capture, CUDA_ERROR_NOT_SUPPORTED, "cudaMallocAsync");
    if (CUresult status = sticky_error(stream.device)) return status;
    uint64_t memory = allocate(size, stream.device);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    find_allocation(memory)->ready = false;
    *address = memory;
    return enqueue(stream, "allocation", [memory] {
        if (Allocation *allocation = find_allocation(memory)) allocation->ready = true;
        return CUDA_SUCCESS;
    });
}

CUresult free_in_stream(uint64_t address, Stream &stream) {
    if (!address) return CUDA_SUCCESS;
    if (stream.capture)
        return invalidate(*stream.capture, CUDA_ERROR_NOT_SUPPORTED, "cudaFreeAsync");
    Allocation *allocation = find_array(address);
    if (!allocation) return CUDA_ERROR_INVALID_VALUE;
    allocation->free_is_queued = true;
    return enqueue(stream, "release", [address] {
        release(address);
        return CUDA_SUCCESS;
    });
}

CUresult allocate_on_host(void **address, size_t size, MemoryKind kind) {
    constexpr size_t PAGE = 4096;
    *address = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
    if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
    register_memory(*address, size, current_device(), kind);
    return CUDA_SUCCESS;
}

static CUresult forget_pinned(void *address) {
    Allocation *allocation = find_allocation(number(address));
    if (!allocation || allocation->from != number(address) || allocation->kind != MemoryKind::PINNED)
        return fault(CUDA_ERROR_INVALID_VALUE, "memory at %p is freed that is not pinned", address);
    for (int device = 0; device < settings().device_count; device++) finish_silently(device);
    unregister_memory(address);
    return CUDA_SUCCESS;
}

CUresult pointer_attribute(void *value, int attribute, uint64_t address) {
    Allocation *allocation = find_allocation(address);
    if (!allocation) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
            *(CUcontext *)value = context_of(allocation->device);
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            *(unsigned *)value =
                allocation->on_device() ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
            *(uint64_t *)value = address;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
            *(unsigned *)value = allocation->kind == MemoryKind::MANAGED;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            *(int *)value = allocation->device;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            *(uint64_t *)value = allocation->from;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
            *(uint64_t *)value = allocation->to - allocation->from;
            return CUDA_SUCCESS;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
}

BOTH(cuMemGetInfo, cudaMemGetInfo, (size_t * available, size_t *total), {
    *total = DEVICE_MEMORY;
    *available = DEVICE_MEMORY - used_memory(current_device());
    return CUDA_SUCCESS;
})
BOTH(cuMemHostAlloc, cudaHostAlloc, (void **address, size_t size, unsigned),
     { return allocate_on_host(address, size, MemoryKind::PINNED); })
BOTH(cuMemFreeHost, cudaFreeHost, (void *address), {
    if (!address) return CUDA_SUCCESS;
    CUresult status = forget_pinned(address);
    if (!status) free(address);
    return status;
})
BOTH(cuMemHostRegister, cudaHostRegister, (void *address, size_t size, unsigned), {
    register_memory(address, size, current_device(), MemoryKind::PINNED);
    return CUDA_SUCCESS;
})
BOTH(cuMemHostUnregister, cudaHostUnregister, (void *address), { return forget_pinned(address); })

BOTH(cuDriverGetVersion, cudaDriverGetVersion, (int *version), {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
})
BOTH(cuDeviceGetCount, cudaGetDeviceCount, (int *count), {
    *count = settings().device_count;
    return CUDA_SUCCESS;
})
BOTH(cuDeviceGetPCIBusId, cudaDeviceGetPCIBusId, (char *id, int size, int device), {
    snprintf(id, size, "0000:%02x:00.0", device + 1);
    return CUDA_SUCCESS;
})
BOTH(cuDeviceCanAccessPeer, cudaDeviceCanAccessPeer, (int *can, int, int), {
    *can = 0;
    return CUDA_SUCCESS;
})
BOTH(cuProfilerStart, cudaProfilerStart, (), { return CUDA_SUCCESS; })
BOTH(cuProfilerStop, cudaProfilerStop, (), { return CUDA_SUCCESS; })

// Memory pools: each device has one, whose attributes are of no effect.
static const uint64_t FIRST_POOL = 0x2000;

BOTH(cuDeviceGetDefaultMemPool, cudaDeviceGetDefaultMemPool, (CUmemoryPool * pool, int device), {
    *pool = (CUmemoryPool)(FIRST_POOL + device);
    return CUDA_SUCCESS;
})
BOTH(cuDeviceGetMemPool, cudaDeviceGetMemPool, (CUmemoryPool * pool, int device), {
    *pool = (CUmemoryPool)(FIRST_POOL + device);
    return CUDA_SUCCESS;
})
BOTH(cuMemPoolTrimTo, cudaMemPoolTrimTo, (CUmemoryPool, size_t), { return CUDA_SUCCESS; })
DRIVER(cuMemPoolSetAttribute, (CUmemoryPool, CUmemPool_attribute, void *), { return CUDA_SUCCESS; })
DRIVER(cuMemPoolGetAttribute, (CUmemoryPool, CUmemPool_attribute, void *value), {
    *(uint64_t *)value = ~0ull;
    return CUDA_SUCCESS;
})
RUNTIME(cudaMemPoolSetAttribute, (cudaMemPool_t, cudaMemPoolAttr, void *), { return CUDA_SUCCESS; })
RUNTIME(cudaMemPoolGetAttribute, (cudaMemPool_t, cudaMemPoolAttr, void *value), {
    *(uint64_t *)value = ~0ull;
    return CUDA_SUCCESS;
})
