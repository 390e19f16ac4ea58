// Copies and fills of memory.
#pragma once

#include <cuda.h>

#include "streams.h"

// Which of the two addresses must belong to a device: what cuMemcpyHtoD and the like say.
enum class Direction { ANY, TO_DEVICE, TO_HOST, ON_DEVICE };

struct Copy {
    uint64_t to, from;
    size_t width, rows = 1;  // bytes of a row
    size_t to_pitch = 0, from_pitch = 0;
    Direction direction = Direction::ANY;

    size_t to_extent() const { return (rows - 1) * to_pitch + width; }
    size_t from_extent() const { return (rows - 1) * from_pitch + width; }
};

// cudaMemcpy and cudaMemcpyAsync.
CUresult copy_and_wait(const Copy &copy);
CUresult copy_in_stream(const Copy &copy, Stream &stream);

// cudaMemset: `count` elements of 1, 2 or 4 bytes.
CUresult fill(uint64_t to, unsigned value, int size, size_t count, Stream &stream);
