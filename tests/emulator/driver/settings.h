// Environment variables, what Python tells the driver, and reports of faults.
#pragma once

#include <cuda.h>

#include <cstdio>
#include <string>

// The environment variables of the emulator, read once. The README lists them for users; those
// that Python alone reads (EMU, EMU_CACHE, EMU_EXACT) are in ../__init__.py.
struct Settings {
    bool lazy;                   // EMU_LAZY=0: run work at once, not as late as CUDA allows
    bool launch;                 // EMU_LAUNCH=0: forget launches, for the time of the host
    bool protect;                // EMU_PROTECT=0: the host may touch the memory of a device
    bool races;                  // EMU_RACE=1: look for races between threads
    int device_count;            // EMU_DEVICES
    std::string order;           // EMU_ORDER: forward, reverse or random
    unsigned seed;               // EMU_SEED: of the random order
    std::string compiler_flags;  // EMU_CFLAGS: for the C code of kernels
    FILE *trace;                 // EMU_TRACE: a file that gets the name of each call; or null
};
const Settings &settings();

// What ../__init__.py says when it starts the emulator: how kernels are translated, and where the
// result is kept. `key` changes whenever the translator does.
struct Translator {
    std::string python, program, cache_folder, key;
};
extern Translator &translator;

// Report that the program did something that CUDA forbids. Returns the status for the caller.
CUresult fault(CUresult status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The same, once per distinct text: for what a loop would repeat.
void fault_once(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A line for EMU_TRACE.
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A text of printf.
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
