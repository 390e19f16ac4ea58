/* What a kernel that was translated from PTX to C and the emulated driver know of each other.
 *
 * Plain C. The translator puts this text at the head of the C code that it generates, the driver
 * includes it; no other file says any of it.
 *
 * A kernel is a function that runs one thread of a block until that thread ends or has to wait for
 * other threads. In the second case the function stores its registers in its frame, stores in
 * `thread->resume_at` where it goes on, and returns why it stopped. The driver runs the other
 * threads meanwhile and then calls the function again with the same frame.
 */
#ifndef EMULATOR_KERNEL_ABI_H
#define EMULATOR_KERNEL_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Why a thread is not running. The function of a kernel returns one of the first three. */
enum emu_thread_state {
    EMU_FINISHED = 0,
    EMU_AT_BARRIER = 1,      /* waits for all threads of its block: bar.sync */
    EMU_AT_WARP_BARRIER = 2, /* waits for the lanes of barrier_mask: bar.warp.sync */
    EMU_READY = 3            /* may run: set by the driver alone */
};

/* What a thread does with memory. */
enum emu_access { EMU_READ = 0, EMU_WRITE = 1 };

enum { EMU_WARP_SIZE = 32 };

struct emu_thread {
    /* Special registers: %tid, %ntid, %ctaid, %nctaid, %laneid, %warpid. */
    uint32_t thread_index[3], block_size[3], block_index[3], grid_size[3];
    uint32_t lane, warp;

    uint32_t number; /* of this thread in its block */
    uint32_t state;  /* enum emu_thread_state */

    /* 0 when the thread begins. The kernel sets it to another number at each place where it stops,
     * so that the driver sees whether all threads of a block wait at the same barrier. */
    uint32_t resume_at;

    /* Global memory between these addresses is known to be accessible: the allocation that the
     * thread used last. emu_check_global moves them. */
    uint64_t known_from, known_to;

    /* Shared memory of the block. An address of the shared space is an offset into it; the generic
     * address of the same byte is `shared` plus the offset. */
    char *shared;
    uint64_t shared_size; /* static and dynamic together */

    uint32_t barrier_mask; /* the lanes that it waits for */

    struct emu_thread *warp_threads; /* lane 0 of this thread's warp */
    uint32_t warp_lanes;             /* lanes of this warp: 32, or fewer in the last warp */

    uint32_t race_number; /* the driver's own: see races.cpp */
    void *launch;         /* the driver's own */
};

/* One .entry of a module. Generated code defines `struct emu_kernel emu_kernels[]`, whose last
 * element has the name NULL. */
struct emu_kernel {
    const char *name;
    /* The frame holds registers and local memory and is aligned to 16 bytes. It is NULL for a
     * kernel with stops == 0, which then needs none that outlives the call. */
    int (*run)(struct emu_thread *thread, void *frame, const char *params);
    uint32_t frame_size;
    uint32_t stops; /* 1 if the kernel has barriers */
    uint32_t static_shared_size;
    uint32_t max_threads; /* of a block, by .maxntid or .reqntid; 0: no limit */
    uint32_t param_count;
    const uint32_t *param_offsets, *param_sizes;
};

/* One variable of a module (.global or .const). Generated code defines
 * `struct emu_global emu_globals[]`, whose last element has the name NULL. */
struct emu_global {
    const char *name;
    void *address;
    uint64_t size;
};

#pragma GCC visibility push(default)

/* Nonzero while each access to memory must be checked for races. */
extern int emu_race_detection;

/* Check an access to global memory (`address` is the host's) or to shared memory (`address` is an
 * offset). They end the kernel if it is out of bounds or misaligned. `line` is that of the PTX.
 * Generated code calls them where its own quick test fails: outside known_from..known_to or
 * shared_size, misaligned, or emu_race_detection. */
void emu_check_global(struct emu_thread *thread, uint64_t address, uint32_t size, int access,
                      int line);
void emu_check_shared(struct emu_thread *thread, uint64_t address, uint32_t size, int access,
                      int line);

/* End the kernel with an error: a trap, a failed assertion, an instruction without a translation. */
void emu_trap(struct emu_thread *thread, const char *what, int line);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
