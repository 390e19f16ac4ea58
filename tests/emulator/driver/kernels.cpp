// Threads of a kernel.
//
// Blocks run one after the other, in any order (EMU_ORDER). The threads of a block take turns: each
// runs until it ends, or until it waits at a barrier. Every
// access to memory is checked: it must be inside one array of this device, and a multiple of its
// size must be its address.
#include "kernels.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "calls.h"
#include "devices.h"
#include "memory.h"
#include "races.h"
#include "settings.h"

namespace {

// Thrown out of a kernel, through the C code that was made of its PTX.
struct KernelFault {
    CUresult status;
    std::string message;
};

const char *name_of(int access) {
    return access == EMU_READ ? "read" : "write";
}

std::mt19937 &random_numbers() {
    static auto &result = *new std::mt19937(settings().seed);
    return result;
}

void reorder(std::vector<uint32_t> &numbers) {
    std::iota(numbers.begin(), numbers.end(), 0);
    if (settings().order == "reverse") std::reverse(numbers.begin(), numbers.end());
    if (settings().order == "random")
        std::shuffle(numbers.begin(), numbers.end(), random_numbers());
}

// One launch while it runs.
class Run {
   public:
    explicit Run(const Launch &launch);
    void run_blocks();

    const Launch &launch;
    uint64_t block = 0;

   private:
    void begin_block(uint64_t number);
    void run_block();
    bool run_ready_threads();
    bool release_warp(emu_thread *warp);
    bool release_barrier();

    const emu_kernel &kernel;
    std::vector<emu_thread> threads;
    std::vector<uint32_t> thread_order;
    std::vector<char> shared;
    std::vector<std::max_align_t> frames;
    size_t frame_units;
};

Run::Run(const Launch &launch)
    : launch(launch),
      kernel(*launch.function->kernel),
      threads(launch.threads()),
      thread_order(launch.threads()),
      shared((kernel.static_shared_size + 15) / 16 * 16 + launch.dynamic_shared_size),
      frame_units((kernel.frame_size + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t)) {
    if (kernel.stops) frames.resize(frame_units * threads.size());
    reorder(thread_order);
    for (uint32_t number = 0; number < threads.size(); number++) {
        emu_thread &thread = threads[number];
        thread = {};
        for (int axis = 0, rest = number; axis < 3; rest /= launch.block[axis++]) {
            thread.thread_index[axis] = rest % launch.block[axis];
            thread.block_size[axis] = launch.block[axis];
            thread.grid_size[axis] = launch.grid[axis];
        }
        thread.number = number;
        thread.lane = number % EMU_WARP_SIZE;
        thread.warp = number / EMU_WARP_SIZE;
        thread.warp_threads = &threads[number - thread.lane];
        thread.warp_lanes =
            std::min<size_t>(EMU_WARP_SIZE, threads.size() - (number - thread.lane));
        thread.shared = shared.data();
        thread.shared_size = shared.size();
        thread.launch = this;
    }
}

void Run::run_blocks() {
    constexpr uint64_t MOST_IN_RANDOM_ORDER = 1 << 24;
    uint64_t count = launch.blocks();
    std::vector<uint32_t> order;
    if (settings().order == "random" && count <= MOST_IN_RANDOM_ORDER) {
        order.resize(count);
        reorder(order);
    }
    bool backwards = settings().order != "forward";
    for (uint64_t turn = 0; turn < count; turn++) {
        begin_block(!order.empty() ? order[turn] : backwards ? count - 1 - turn : turn);
        run_block();
    }
}

void Run::begin_block(uint64_t number) {
    constexpr int UNINITIALISED = 0xA5;
    block = number;
    memset(shared.data(), UNINITIALISED, shared.size());
    uint32_t index[3] = {(uint32_t)(number % launch.grid[0]),
                         (uint32_t)(number / launch.grid[0] % launch.grid[1]),
                         (uint32_t)(number / launch.grid[0] / launch.grid[1])};
    for (emu_thread &thread : threads) {
        memcpy(thread.block_index, index, sizeof index);
        thread.state = EMU_READY;
        thread.resume_at = 0;
    }
    if (emu_race_detection) begin_block_for_races(threads);
}

void Run::run_block() {
    const char *params = launch.params.data();
    if (!kernel.stops) {
        for (uint32_t number : thread_order) kernel.run(&threads[number], nullptr, params);
        return;
    }
    auto finished = [](const emu_thread &thread) { return thread.state == EMU_FINISHED; };
    while (!std::all_of(threads.begin(), threads.end(), finished)) {
        bool progress = run_ready_threads();
        for (size_t warp = 0; warp < threads.size(); warp += EMU_WARP_SIZE)
            progress |= release_warp(&threads[warp]);
        progress |= release_barrier();
        if (!progress)
            throw KernelFault{CUDA_ERROR_LAUNCH_TIMEOUT, "DEADLOCK: threads wait for one another"};
    }
}

bool Run::run_ready_threads() {
    bool progress = false;
    for (uint32_t number : thread_order) {
        emu_thread &thread = threads[number];
        if (thread.state != EMU_READY) continue;
        void *frame = frames.data() + number * frame_units;
        thread.state = kernel.run(&thread, frame, launch.params.data());
        progress = true;
    }
    return progress;
}

// Lanes that have all come to the same barrier of a warp go on.
bool Run::release_warp(emu_thread *warp) {
    bool progress = false;
    for (uint32_t first = 0; first < warp->warp_lanes; first++) {
        uint32_t state = warp[first].state, mask = warp[first].barrier_mask;
        if (state != EMU_AT_WARP_BARRIER) continue;
        auto named = [=](uint32_t lane) { return mask >> lane & 1; };
        bool complete = true;
        for (uint32_t lane = 0; lane < warp->warp_lanes; lane++)
            if (named(lane) && warp[lane].state != EMU_FINISHED)
                complete &= warp[lane].state == state && warp[lane].barrier_mask == mask;
        if (!complete) continue;
        uint32_t together = 0;
        for (uint32_t lane = 0; lane < warp->warp_lanes; lane++)
            if (named(lane) && warp[lane].state == state) {
                warp[lane].state = EMU_READY;
                together |= 1u << lane;
            }
        warp[first].state = EMU_READY;  // even if its mask lacks its own lane
        if (emu_race_detection) order_lanes(warp, together);
        progress = true;
    }
    return progress;
}

// When all threads that have not ended are at the barrier of the block, they go on.
bool Run::release_barrier() {
    const emu_thread *first = nullptr;
    bool same_barrier = true, some_ended = false;
    for (const emu_thread &thread : threads) {
        if (thread.state == EMU_FINISHED) {
            some_ended = true;
        } else if (thread.state != EMU_AT_BARRIER) {
            return false;
        } else {
            if (!first) first = &thread;
            same_barrier &= thread.resume_at == first->resume_at;
        }
    }
    if (!first) return false;
    const char *name = launch.function->name.c_str();
    if (!same_barrier) fault_once("threads of a block wait at different barriers in %s", name);
    if (some_ended) fault_once("a barrier after threads of its block have returned in %s", name);
    for (emu_thread &thread : threads)
        if (thread.state == EMU_AT_BARRIER) thread.state = EMU_READY;
    if (emu_race_detection) order_block(threads);
    return true;
}

const Run &run_of(const emu_thread *thread) { return *(const Run *)thread->launch; }

[[noreturn]] void throw_fault(const emu_thread *thread, int line, CUresult status,
                              const std::string &message) {
    throw KernelFault{status, text("%s: thread %u of block %lu, %s", message.c_str(),
                                   thread->number, block_number(thread),
                                   where(thread, line).c_str())};
}

}  // namespace

const std::string &kernel_name(const emu_thread *thread) {
    return run_of(thread).launch.function->name;
}

uint64_t block_number(const emu_thread *thread) { return run_of(thread).block; }

std::string where(const emu_thread *thread, int line) {
    return text("line %d of the PTX of %.120s", line, kernel_name(thread).c_str());
}

CUresult run_kernel(const Launch &launch) {
    emu_race_detection = settings().races;
    if (emu_race_detection) begin_launch_for_races();
    CUresult status = CUDA_SUCCESS;
    try {
        Run(launch).run_blocks();
    } catch (const KernelFault &error) {
        status = fault(error.status, "%s", error.message.c_str());
    }
    emu_race_detection = 0;
    return status;
}

// The functions that translated kernels call.

EXPORT void emu_check_global(emu_thread *thread, uint64_t address, uint32_t size, int access,
                             int line) {
    if (address < thread->known_from || address + size > thread->known_to) {
        int device = run_of(thread).launch.device;
        Allocation *allocation = find_allocation(address);
        if (!allocation || address + size > allocation->to || !allocation->ready)
            throw_fault(thread, line, CUDA_ERROR_ILLEGAL_ADDRESS,
                        text("OUT OF BOUNDS %s of %u bytes at %#lx (%s)", name_of(access), size,
                             address, describe_address(address).c_str()));
        if (allocation->on_device() && allocation->device != device)
            throw_fault(thread, line, CUDA_ERROR_ILLEGAL_ADDRESS,
                        text("%s of memory of device %d from device %d", name_of(access),
                             allocation->device, device));
        thread->known_from = allocation->from;
        thread->known_to = allocation->to;
    }
    if (address & (size - 1))
        throw_fault(thread, line, CUDA_ERROR_MISALIGNED_ADDRESS,
                    text("MISALIGNED %s of %u bytes at %#lx", name_of(access), size, address));
    if (emu_race_detection) note_global_access(thread, address, size, access, line);
}

EXPORT void emu_check_shared(emu_thread *thread, uint64_t address, uint32_t size, int access,
                             int line) {
    if (address + size > thread->shared_size)
        throw_fault(thread, line, CUDA_ERROR_ILLEGAL_ADDRESS,
                    text("OUT OF BOUNDS %s of %u bytes at %lu in %lu bytes of shared memory",
                         name_of(access), size, address, thread->shared_size));
    if (address & (size - 1))
        throw_fault(thread, line, CUDA_ERROR_MISALIGNED_ADDRESS,
                    text("MISALIGNED %s of %u bytes at %lu in shared memory", name_of(access), size,
                         address));
    if (emu_race_detection) note_shared_access(thread, address, size, access, line);
}

EXPORT void emu_trap(emu_thread *thread, const char *what, int line) {
    throw_fault(thread, line, CUDA_ERROR_LAUNCH_FAILED, text("TRAP (%s)", what));
}
