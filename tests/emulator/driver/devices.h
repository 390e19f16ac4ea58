// Devices, and which one a thread uses.
#pragma once

#include <cuda.h>

#include <cstddef>

constexpr size_t DEVICE_MEMORY = 16ull << 30;

// Each thread has a stack of contexts, as the driver API knows it. A device has one context, the
// primary one; cudaSetDevice makes it current.
int current_device();
bool has_context();
bool is_device(int device);
void set_current_device(int device);

CUcontext context_of(int device);

// The first error of a device that only the end of the process would clear: a kernel that
// accessed memory out of bounds. Every later call for that device returns it.
CUresult &sticky_error(int device);

int device_attribute(int attribute, int device);

// Names and text of an error, as cuGetErrorName and cudaGetErrorName give them.
struct ErrorText {
    int status;
    const char *driver_name, *runtime_name, *meaning;
};
const ErrorText *error_text(int status);
