// Modules of kernels, and their launches.
#pragma once

#include <cuda.h>

#include <memory>
#include <string>
#include <vector>

#include "kernel_abi.h"
#include "streams.h"

struct Module {
    void *library;  // of the translated kernels; null once the module is unloaded
    const emu_kernel *kernels;
    const emu_global *variables;
    int device;  // NO_DEVICE: a library of the driver API, for all of them

    static constexpr int NO_DEVICE = -1;
};

// What CUfunction and CUkernel point to.
struct Function {
    Module *module;
    const emu_kernel *kernel;
    std::string name;
    uint32_t dynamic_shared_limit;
};

struct Launch {
    const Function *function;
    int device;
    uint32_t grid[3], block[3];
    uint32_t dynamic_shared_size;
    std::vector<char> params;

    uint32_t threads() const { return block[0] * block[1] * block[2]; }
    uint64_t blocks() const { return (uint64_t)grid[0] * grid[1] * grid[2]; }
};

// The translated kernels of PTX, loaded: a copy each, because a module has its own variables.
void *load_translation(const std::string &ptx);

// Run all threads of all blocks.
CUresult run_kernel(const Launch &launch);

// For reports: the kernel that a thread runs, its block, and a line of the PTX.
const std::string &kernel_name(const emu_thread *thread);
uint64_t block_number(const emu_thread *thread);
std::string where(const emu_thread *thread, int line);
