// Allocation of memory as the functions of both APIs say it.
#pragma once

#include "memory.h"
#include "streams.h"

// cudaMalloc and cudaFree, which may wait for the device, and do when they free.
CUresult allocate_now(CUdeviceptr *address, size_t size);
CUresult free_now(uint64_t address);

// cudaMallocAsync and cudaFreeAsync: the memory exists between these two operations of a stream.
CUresult allocate_in_stream(CUdeviceptr *address, size_t size, Stream &stream);
CUresult free_in_stream(uint64_t address, Stream &stream);

// cudaMallocHost, cudaMallocManaged.
CUresult allocate_on_host(void **address, size_t size, MemoryKind kind);

CUresult pointer_attribute(void *value, int attribute, uint64_t address);
