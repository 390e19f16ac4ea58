// Memory of the devices, and memory of the host that the devices can use.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <string>

enum class MemoryKind { DEVICE, PINNED, MANAGED, VARIABLE };  // VARIABLE: of a loaded module

struct Allocation {
    uint64_t from, to;
    int device;
    MemoryKind kind;
    bool ready = true;           // false: its cudaMallocAsync has not run in its stream yet
    bool free_is_queued = false;  // by cudaFreeAsync

    bool on_device() const { return kind == MemoryKind::DEVICE || kind == MemoryKind::VARIABLE; }
};

// The addresses of all devices' own memory.
struct Arena {
    static constexpr uint64_t SIZE = 32ull << 30;
    uint64_t from;

    bool contains(uint64_t address) const { return address - from < SIZE; }
};
const Arena &arena();

// While an object of this class exists, the driver may read and write the memory of the devices.
struct ArenaAccess {
    ArenaAccess();
    ~ArenaAccess();
};

// Memory of a device: exact to the byte, filled with 0xA5, aligned to 512 bytes. 0: there is none.
uint64_t allocate(size_t size, int device);
void release(uint64_t address);
size_t used_memory(int device);

// Memory that devices can use, but that is not in the arena.
void register_memory(void *from, size_t size, int device, MemoryKind kind);
void unregister_memory(void *from);

// The allocation that holds an address, or null.
Allocation *find_allocation(uint64_t address);

// An address for people: "8 bytes behind the end of an array of 400 bytes".
std::string describe_address(uint64_t address);

inline uint64_t number(const void *pointer) { return (uint64_t)pointer; }
inline char *pointer(uint64_t address) { return (char *)address; }
