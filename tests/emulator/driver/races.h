// Races between the threads of a kernel: two of them access the same byte, at least one writes,
// and nothing orders the two accesses.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_abi.h"

void begin_launch_for_races();
void begin_block_for_races(std::vector<emu_thread> &threads);

// All threads of the block have met at a barrier.
void order_block(std::vector<emu_thread> &threads);

// The lanes in the mask of one warp have met at a barrier.
void order_lanes(emu_thread *warp_threads, uint32_t lanes);

// Note an access, and report it if it races with one before.
void note_global_access(emu_thread *thread, uint64_t address, uint32_t size, int access, int line);
void note_shared_access(emu_thread *thread, uint64_t offset, uint32_t size, int access, int line);

// Memory that is freed has no accesses.
void forget_accesses(uint64_t address, uint64_t size);
