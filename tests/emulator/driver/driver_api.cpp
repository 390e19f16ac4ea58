// What is left of the driver API: devices, memory, copies, errors, and the way to its functions.
//
// Streams, events and graphs, whose functions are those of the runtime API too, are in streams.cpp
// and graphs.cpp; contexts in devices.cpp; modules and launches in modules.cpp.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "calls.h"
#include "copies.h"
#include "devices.h"
#include "memory_calls.h"
#include "settings.h"

DRIVER(cuInit, (unsigned), { return CUDA_SUCCESS; })
DRIVER(cuDeviceGet, (CUdevice * device, int ordinal), {
    *device = ordinal;
    return is_device(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
})
DRIVER(cuDeviceGetName, (char *name, int size, CUdevice), {
    snprintf(name, size, "Emulated GPU");
    return CUDA_SUCCESS;
})
DRIVER(cuDeviceTotalMem, (size_t * size, CUdevice), {
    *size = DEVICE_MEMORY;
    return CUDA_SUCCESS;
})
DRIVER(cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device), {
    *value = device_attribute(attribute, device);
    return CUDA_SUCCESS;
})
DRIVER(cuDeviceGetUuid, (CUuuid * uuid, CUdevice device), {
    memset(uuid, 0x11 + device, sizeof *uuid);
    return CUDA_SUCCESS;
})
DRIVER(cuDevicePrimaryCtxRelease, (CUdevice), { return CUDA_SUCCESS; })
DRIVER(cuDevicePrimaryCtxReset, (CUdevice), { return CUDA_SUCCESS; })
DRIVER(cuDevicePrimaryCtxSetFlags, (CUdevice, unsigned), { return CUDA_SUCCESS; })
DRIVER(cuDevicePrimaryCtxGetState, (CUdevice, unsigned *flags, int *active), {
    *flags = 0;
    *active = 1;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetApiVersion, (CUcontext, unsigned *version), {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetFlags, (unsigned *flags), {
    *flags = 0;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetId, (CUcontext context, unsigned long long *id), {
    *id = (uint64_t)(context ? context : context_of(current_device()));
    return CUDA_SUCCESS;
})
DRIVER(cuCtxGetLimit, (size_t * size, CUlimit), {
    *size = 1024;
    return CUDA_SUCCESS;
})
DRIVER(cuCtxSetLimit, (CUlimit, size_t), { return CUDA_SUCCESS; })
DRIVER(cuCtxGetStreamPriorityRange, (int *least, int *greatest), {
    *least = *greatest = 0;
    return CUDA_SUCCESS;
})

DRIVER(cuMemAlloc, (CUdeviceptr * address, size_t size), {
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    return allocate_now(address, size);
})
DRIVER(cuMemFree, (CUdeviceptr address), { return free_now(address); })
DRIVER(cuMemAllocManaged, (CUdeviceptr * address, size_t size, unsigned),
       { return allocate_on_host((void **)address, size, MemoryKind::MANAGED); })
DRIVER(cuMemAllocAsync, (CUdeviceptr * address, size_t size, CUstream handle), {
    STREAM(stream, handle);
    return allocate_in_stream(address, size, stream);
})
DRIVER(cuMemAllocFromPoolAsync,
       (CUdeviceptr * address, size_t size, CUmemoryPool, CUstream handle), {
           STREAM(stream, handle);
           return allocate_in_stream(address, size, stream);
       })
DRIVER(cuMemFreeAsync, (CUdeviceptr address, CUstream handle), {
    STREAM(stream, handle);
    return free_in_stream(address, stream);
})
DRIVER(cuMemAllocHost, (void **address, size_t size),
       { return allocate_on_host(address, size, MemoryKind::PINNED); })
DRIVER(cuMemHostGetDevicePointer, (CUdeviceptr * on_device, void *on_host, unsigned), {
    *on_device = number(on_host);
    return CUDA_SUCCESS;
})
DRIVER(cuMemGetAddressRange, (CUdeviceptr * from, size_t *size, CUdeviceptr address), {
    Allocation *allocation = find_allocation(address);
    if (!allocation) return CUDA_ERROR_INVALID_VALUE;
    if (from) *from = allocation->from;
    if (size) *size = allocation->to - allocation->from;
    return CUDA_SUCCESS;
})
DRIVER(cuPointerGetAttribute, (void *value, CUpointer_attribute attribute, CUdeviceptr address),
       { return pointer_attribute(value, attribute, address); })

DRIVER(cuMemcpy, (CUdeviceptr to, CUdeviceptr from, size_t size),
       { return copy_and_wait({to, from, size}); })
DRIVER(cuMemcpyHtoD, (CUdeviceptr to, const void *from, size_t size), {
    return copy_and_wait({to, number(from), size, 1, 0, 0, Direction::TO_DEVICE});
})
DRIVER(cuMemcpyDtoH, (void *to, CUdeviceptr from, size_t size), {
    return copy_and_wait({number(to), from, size, 1, 0, 0, Direction::TO_HOST});
})
DRIVER(cuMemcpyDtoD, (CUdeviceptr to, CUdeviceptr from, size_t size), {
    return copy_and_wait({to, from, size, 1, 0, 0, Direction::ON_DEVICE});
})
DRIVER(cuMemcpyAsync, (CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle), {
    STREAM(stream, handle);
    return copy_in_stream({to, from, size}, stream);
})
DRIVER(cuMemcpyHtoDAsync, (CUdeviceptr to, const void *from, size_t size, CUstream handle), {
    STREAM(stream, handle);
    return copy_in_stream({to, number(from), size, 1, 0, 0, Direction::TO_DEVICE}, stream);
})
DRIVER(cuMemcpyDtoHAsync, (void *to, CUdeviceptr from, size_t size, CUstream handle), {
    STREAM(stream, handle);
    return copy_in_stream({number(to), from, size, 1, 0, 0, Direction::TO_HOST}, stream);
})
DRIVER(cuMemcpyDtoDAsync, (CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle), {
    STREAM(stream, handle);
    return copy_in_stream({to, from, size, 1, 0, 0, Direction::ON_DEVICE}, stream);
})
DRIVER(cuMemsetD8, (CUdeviceptr to, unsigned char value, size_t count),
       { return fill(to, value, 1, count, legacy_stream(current_device())); })
DRIVER(cuMemsetD32, (CUdeviceptr to, unsigned value, size_t count),
       { return fill(to, value, 4, count, legacy_stream(current_device())); })
DRIVER(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t count, CUstream handle), {
    STREAM(stream, handle);
    return fill(to, value, 1, count, stream);
})
DRIVER(cuMemsetD32Async, (CUdeviceptr to, unsigned value, size_t count, CUstream handle), {
    STREAM(stream, handle);
    return fill(to, value, 4, count, stream);
})

DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor,
       (int *blocks, CUfunction, int threads, size_t), {
           *blocks = 2048 / threads;
           return CUDA_SUCCESS;
       })
DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
       (int *blocks, CUfunction, int threads, size_t, unsigned), {
           *blocks = 2048 / threads;
           return CUDA_SUCCESS;
       })
DRIVER(cuOccupancyMaxPotentialBlockSize,
       (int *blocks, int *threads, CUfunction, CUoccupancyB2DSize, size_t, int), {
           *blocks = 264;
           *threads = 1024;
           return CUDA_SUCCESS;
       })

DRIVER(cuGetErrorName, (CUresult status, const char **name), {
    const ErrorText *known = error_text(status);
    *name = known ? known->driver_name : nullptr;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
})
DRIVER(cuGetErrorString, (CUresult status, const char **meaning), {
    const ErrorText *known = error_text(status);
    *meaning = known ? known->meaning : nullptr;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
})
// Tables of functions that NVIDIA's own libraries use. There are none.
DRIVER(cuGetExportTable, (const void **, const CUuuid *), { return CUDA_ERROR_NOT_FOUND; })

// The functions of the driver are found by this one. Whoever asks for a name may mean any of its
// versions; here each has one.
DRIVER(cuGetProcAddress, (const char *name, void **function, int, cuuint64_t,
                          CUdriverProcAddressQueryResult *result), {
    static void *driver = [] {
        Dl_info info;
        dladdr((void *)cuInit, &info);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    *function = nullptr;
    for (const char *version : {"", "_v2", "_v3", "_v4"})
        if (void *known = dlsym(driver, (std::string(name) + version).c_str())) *function = known;
    if (result)
        *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (!*function) trace("  there is no %s", name);
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
})
