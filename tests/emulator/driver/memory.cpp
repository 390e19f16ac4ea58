// Memory of the devices, and memory of the host that the devices can use.
//
// All devices' memory is one range of addresses of this process, the arena. Between two pieces of
// work of a stream it is closed, so that a host that reads a device's memory ends as it would on a
// machine with a GPU, by SIGSEGV. An array is followed by a gap that belongs to no array, and freed
// memory is not used again at once; kernels and copies are checked against the list of arrays.
#include "memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "calls.h"
#include "devices.h"
#include "races.h"
#include "settings.h"

namespace {

constexpr uint64_t UNIT = 512;               // of allocation; a gap of one unit follows each array
constexpr int NEW_BYTE = 0xA5, FREED_BYTE = 0xDD;
constexpr uint64_t FREES_BEFORE_REUSE = 8;    // a real driver may use memory again at once
constexpr uint64_t LARGE = 16 << 20;          // such memory goes back to the system when it is freed

std::map<uint64_t, Allocation> &allocations = *new std::map<uint64_t, Allocation>;

struct FreedBlock {
    uint64_t address, size, freed_as;  // freed_as: number of frees before it
};
auto &freed_by_room = *new std::multimap<uint64_t, FreedBlock>;  // oldest first
auto &freed_by_address = *new std::map<uint64_t, FreedBlock>;
uint64_t free_count = 0;

uint64_t arena_used = 0;
int arena_openings = 0;
struct sigaction handler_before;

uint64_t room_for(uint64_t size) { return (size + UNIT - 1) / UNIT * UNIT + UNIT; }

// Say which address the host touched; then the handler that was there before ends the process.
void on_segmentation_fault(int, siginfo_t *info, void *) {
    if (arena().contains(number(info->si_addr))) {
        char message[160];
        int length = snprintf(message, sizeof message,
                              "emulator: the host touches memory of a device at %p\n",
                              info->si_addr);
        if (write(STDERR_FILENO, message, length) < 0) _exit(1);
    }
    sigaction(SIGSEGV, &handler_before, nullptr);
}

Arena make_arena() {
    int access = settings().protect ? PROT_NONE : PROT_READ | PROT_WRITE;
    void *at = mmap(nullptr, Arena::SIZE, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        fault(CUDA_ERROR_OUT_OF_MEMORY, "no addresses for the memory of the devices");
        abort();
    }
    struct sigaction action = {};
    action.sa_sigaction = on_segmentation_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &handler_before);
    return {number(at)};
}

void set_access(int access) {
    if (settings().protect) mprotect(pointer(arena().from), Arena::SIZE, access);
}

// A freed block of exactly this room that was freed long enough ago, or 0.
uint64_t take_freed(uint64_t room) {
    auto oldest = freed_by_room.lower_bound(room);
    if (oldest == freed_by_room.end() || oldest->first != room) return 0;
    if (oldest->second.freed_as + FREES_BEFORE_REUSE > free_count && room < LARGE) return 0;
    uint64_t address = oldest->second.address;
    freed_by_room.erase(oldest);
    freed_by_address.erase(address);
    return address;
}

}  // namespace

const Arena &arena() {
    static const Arena &result = *new Arena(make_arena());
    return result;
}

ArenaAccess::ArenaAccess() {
    if (!arena_openings++) set_access(PROT_READ | PROT_WRITE);
}

ArenaAccess::~ArenaAccess() {
    if (!--arena_openings) set_access(PROT_NONE);
}

size_t used_memory(int device) {
    size_t result = 0;
    for (auto &[from, allocation] : allocations)
        if (allocation.kind == MemoryKind::DEVICE && allocation.device == device)
            result += allocation.to - from;
    return result;
}

uint64_t allocate(size_t size, int device) {
    if (!size || used_memory(device) + size > DEVICE_MEMORY) return 0;
    uint64_t room = room_for(size), address = take_freed(room);
    if (!address) {
        if (arena_used + room > Arena::SIZE) return 0;
        address = arena().from + arena_used;
        arena_used += room;
    }
    ArenaAccess access;
    memset(pointer(address), NEW_BYTE, size);
    allocations[address] = {address, address + size, device, MemoryKind::DEVICE};
    return address;
}

void release(uint64_t address) {
    uint64_t size = allocations.at(address).to - address;
    allocations.erase(address);
    FreedBlock block = {address, size, free_count++};
    freed_by_room.insert({room_for(size), block});
    freed_by_address[address] = block;
    forget_accesses(address, size);
    ArenaAccess access;
    if (size < LARGE) {
        memset(pointer(address), FREED_BYTE, size);
        return;
    }
    uint64_t page = sysconf(_SC_PAGESIZE), first = (address + page - 1) / page * page;
    madvise(pointer(first), (address + size) / page * page - first, MADV_DONTNEED);
}

void register_memory(void *from, size_t size, int device, MemoryKind kind) {
    allocations[number(from)] = {number(from), number(from) + size, device, kind};
}

void unregister_memory(void *from) { allocations.erase(number(from)); }

Allocation *find_allocation(uint64_t address) {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return nullptr;
    Allocation &candidate = std::prev(next)->second;
    return address < candidate.to ? &candidate : nullptr;
}

std::string describe_address(uint64_t address) {
    auto past = [address](uint64_t from, uint64_t size, const char *what) {
        return text("%lu bytes into %s of %lu bytes", address - from, what, size);
    };
    if (Allocation *allocation = find_allocation(address))
        return past(allocation->from, allocation->to - allocation->from,
                    allocation->ready ? "an array" : "an array that its stream has not made yet,");
    if (!arena().contains(address)) return "memory of the host, or none";
    auto freed = freed_by_address.upper_bound(address);
    if (freed != freed_by_address.begin()) {
        const FreedBlock &block = std::prev(freed)->second;
        if (address < block.address + block.size)
            return past(block.address, block.size, "a freed array");
    }
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return "memory of no array";
    const Allocation &before = std::prev(next)->second;
    return text("%lu bytes behind the end of an array of %lu bytes", address - before.to,
                before.to - before.from);
}

// Let the host read and write the memory of devices, as a debugger would.
EXPORT void emu_open(int open) {
    Lock lock;
    static ArenaAccess *access = nullptr;
    if (open && !access) access = new ArenaAccess;
    if (!open && access) {
        delete access;
        access = nullptr;
    }
}
