// Races between the threads of a kernel.
//
// Each thread has a number that no thread had before, and gets a new one at each barrier. Beside
// each byte of memory stand the number of the thread that wrote it last and that of a thread that
// read it. As blocks run one after the other, numbers grow: of two accesses by different numbers
//   - the older is of an earlier launch: ordered;
//   - it is of another block of this launch: a race;
//   - it is of this block, from before its last barrier: ordered;
//   - it is of this block, after that barrier: a race, unless both threads are lanes of one warp
//     and have met at a barrier of the warp since.
// A barrier of some lanes of a warp orders them after all its lanes, which may hide a race.
#include "races.h"

#include <sys/mman.h>

#include "calls.h"
#include "kernels.h"
#include "memory.h"
#include "settings.h"

int emu_race_detection = 0;

namespace {

// Numbers are given in groups, one for each warp and barrier: GROUP * group + lane. Two more are for
// a byte that several lanes of the group have read, and for one that several warps have read.
constexpr uint32_t GROUP = 64, SEVERAL_LANES = 63, SEVERAL_WARPS = 1u << 31;
constexpr uint32_t HIGHEST_NUMBER = SEVERAL_WARPS - 64 * GROUP;

// Numbers of this launch, of this block and of the time since its last barrier begin here.
uint32_t next_number = GROUP, first_of_launch, first_of_block, first_of_interval;
auto &warp_of_group = *new std::vector<uint32_t>;  // of this block

struct Accesses {
    uint32_t *writers, *readers;  // one for each byte
    uint64_t size;
};

uint32_t *reserve(uint64_t bytes) {
    void *at = mmap(nullptr, bytes * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) return (uint32_t *)at;
    fault(CUDA_ERROR_OUT_OF_MEMORY, "EMU_RACE: no memory for the accesses of threads");
    abort();
}

Accesses &accesses_to_global() {
    static Accesses &result =
        *new Accesses{reserve(Arena::SIZE), reserve(Arena::SIZE), Arena::SIZE};
    return result;
}

Accesses &accesses_to_shared() {
    constexpr uint64_t LARGEST_BLOCK = 256 << 10;
    static Accesses &result =
        *new Accesses{reserve(LARGEST_BLOCK), reserve(LARGEST_BLOCK), LARGEST_BLOCK};
    return result;
}

void discard(Accesses &accesses, uint64_t from, uint64_t size) {
    constexpr uint64_t PAGE = 4096 / sizeof(uint32_t);
    uint64_t first = (from + PAGE - 1) / PAGE * PAGE, end = (from + size) / PAGE * PAGE;
    if (first >= end) return;
    for (uint32_t *numbers : {accesses.writers, accesses.readers})
        madvise(numbers + first, (end - first) * sizeof(uint32_t), MADV_DONTNEED);
}

uint32_t take_numbers(uint32_t warp) {
    uint32_t result = next_number;
    next_number += GROUP;
    warp_of_group.push_back(warp);
    return result;
}

// Begin anew when all numbers are used up, which forgets all accesses. Few launches are so long.
void renew_numbers() {
    discard(accesses_to_global(), 0, Arena::SIZE);
    discard(accesses_to_shared(), 0, accesses_to_shared().size);
    next_number = first_of_launch = GROUP;
}

// What an earlier access is compared with. `first` is that of the launch for global memory and
// that of the block for shared memory, which no other block uses.
struct Comparison {
    emu_thread *thread;
    uint32_t first;

    // Most bytes were touched by this thread alone, or in earlier launches.
    bool harmless(uint32_t earlier) const {
        return earlier < first || earlier == thread->race_number;
    }
    bool races_with(uint32_t earlier) const {
        if (harmless(earlier)) return false;
        uint32_t plain = earlier & ~SEVERAL_WARPS;
        if (plain < first) return false;
        if (plain < first_of_block) return true;
        if (plain < first_of_interval) return false;
        return earlier != plain || same_group(plain) || !same_warp(plain);
    }
    bool same_group(uint32_t earlier) const {
        return earlier / GROUP == thread->race_number / GROUP;
    }
    bool same_warp(uint32_t earlier) const {
        return warp_of_group[(earlier - first_of_block) / GROUP] == thread->warp;
    }
    // The number that stands for this read and the earlier ones.
    uint32_t reader_after(uint32_t earlier) const {
        uint32_t own = thread->race_number;
        if (!races_with(earlier)) return own;
        bool of_other_block = (earlier & ~SEVERAL_WARPS) < first_of_block;
        if (of_other_block || earlier & SEVERAL_WARPS) return earlier;
        return same_group(earlier) ? earlier | SEVERAL_LANES : own | SEVERAL_WARPS;
    }
};

std::string name_of(uint32_t earlier) {
    if (earlier & SEVERAL_WARPS) return "threads of several warps";
    if (earlier < first_of_block) return "a thread of another block";
    uint32_t first = warp_of_group[(earlier - first_of_block) / GROUP] * EMU_WARP_SIZE;
    uint32_t lane = earlier % GROUP;
    if (lane == SEVERAL_LANES) return text("threads of warp %u", first / EMU_WARP_SIZE);
    return text("thread %u", first + lane);
}

void report_race(emu_thread *thread, uint32_t earlier, const char *kind, const char *memory,
                 uint64_t address, int line) {
    static auto &known = *new std::vector<std::string>;
    std::string kernel = kernel_name(thread), key = text("%s %d %s", kind, line, kernel.c_str());
    for (const std::string &seen : known)
        if (seen == key) return;
    known.push_back(key);
    fault(CUDA_SUCCESS, "RACE (%s) in %s memory at %#lx: thread %u of block %lu and %s, %s", kind,
          memory, address, thread->number, block_number(thread), name_of(earlier).c_str(),
          where(thread, line).c_str());
}

void note_access(const Comparison &comparison, Accesses &accesses, uint64_t offset, uint32_t size,
                 int access, int line, const char *memory, uint64_t address) {
    uint32_t *writers = accesses.writers + offset, *readers = accesses.readers + offset;
    uint32_t own = comparison.thread->race_number;
    bool harmless = true;
    for (uint32_t byte = 0; byte < size; byte++) harmless &= comparison.harmless(writers[byte]);
    if (!harmless)
        for (uint32_t byte = 0; byte < size; byte++)
            if (comparison.races_with(writers[byte])) {
                report_race(comparison.thread, writers[byte],
                            access == EMU_WRITE ? "write after write" : "read after write", memory,
                            address + byte, line);
                break;
            }
    if (access == EMU_READ) {
        for (uint32_t byte = 0; byte < size; byte++)
            if (readers[byte] != own) readers[byte] = comparison.reader_after(readers[byte]);
        return;
    }
    for (uint32_t byte = 0; byte < size; byte++) {
        if (!comparison.harmless(readers[byte]) && comparison.races_with(readers[byte]))
            report_race(comparison.thread, readers[byte], "write after read", memory,
                        address + byte, line);
        writers[byte] = own;
    }
}

}  // namespace

void begin_launch_for_races() {
    if (next_number > HIGHEST_NUMBER / 2) renew_numbers();
    first_of_launch = next_number;
}

void begin_block_for_races(std::vector<emu_thread> &threads) {
    if (next_number > HIGHEST_NUMBER) renew_numbers();
    warp_of_group.clear();
    first_of_block = next_number;
    order_block(threads);
}

void order_block(std::vector<emu_thread> &threads) {
    first_of_interval = next_number;
    for (emu_thread &thread : threads)
        if (!thread.lane) order_lanes(&thread, ~0u);
}

void order_lanes(emu_thread *warp_threads, uint32_t lanes) {
    uint32_t numbers = take_numbers(warp_threads->warp);
    for (uint32_t lane = 0; lane < warp_threads->warp_lanes; lane++)
        if (lanes >> lane & 1) warp_threads[lane].race_number = numbers + lane;
}

void note_global_access(emu_thread *thread, uint64_t address, uint32_t size, int access, int line) {
    if (!arena().contains(address)) return;
    note_access({thread, first_of_launch}, accesses_to_global(), address - arena().from, size,
                access, line, "global", address);
}

void note_shared_access(emu_thread *thread, uint64_t offset, uint32_t size, int access, int line) {
    note_access({thread, first_of_block}, accesses_to_shared(), offset, size, access, line,
                "shared", offset);
}

void forget_accesses(uint64_t address, uint64_t size) {
    if (settings().races) discard(accesses_to_global(), address - arena().from, size);
}
