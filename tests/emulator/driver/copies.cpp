// Copies and fills of memory.
//
// What CUDA says of the host ("API synchronization behavior"): cudaMemcpy returns when the copy is
// done, except that one from pageable memory of the host may be on its way still, and that the host
// does not wait for one between devices. cudaMemcpyAsync returns at once, except that pageable
// memory is read before it returns, or written. Memory of the host is pageable if it was not
// allocated or registered by CUDA.
#include "copies.h"

#include <cstring>
#include <memory>

#include "devices.h"
#include "memory.h"
#include "settings.h"

namespace {

// Whether a device may access these bytes; else a fault is reported. Memory that a stream makes has
// to be there when the access runs, not when it is put into a stream.
bool check_range(uint64_t address, size_t size, bool on_device, const char *what,
                 bool running = false) {
    Allocation *allocation = find_allocation(address);
    bool refused = allocation ? address + size > allocation->to || (running && !allocation->ready)
                              : on_device || arena().contains(address);
    if (refused)
        fault(CUDA_ERROR_INVALID_VALUE, "%s %zu bytes at %#lx, %s", what, size, address,
              describe_address(address).c_str());
    return !refused;
}

bool check_copy(const Copy &copy) {
    bool to_device = copy.direction == Direction::TO_DEVICE || copy.direction == Direction::ON_DEVICE;
    bool from_device = copy.direction == Direction::TO_HOST || copy.direction == Direction::ON_DEVICE;
    return check_range(copy.to, copy.to_extent(), to_device, "a copy to") &&
           check_range(copy.from, copy.from_extent(), from_device, "a copy from");
}

enum class Place { DEVICE, PINNED, PAGEABLE };

Place place_of(uint64_t address) {
    Allocation *allocation = find_allocation(address);
    if (!allocation) return Place::PAGEABLE;
    return allocation->on_device() ? Place::DEVICE : Place::PINNED;
}

CUresult move(const Copy &copy) {
    for (size_t row = 0; row < copy.rows; row++)
        memmove(pointer(copy.to + row * copy.to_pitch), pointer(copy.from + row * copy.from_pitch),
                copy.width);
    return CUDA_SUCCESS;
}

// When the copy runs, its memory may have been freed.
CUresult move_if_allocated(const Copy &copy, Place to, Place from) {
    bool usable =
        (to == Place::PAGEABLE || check_range(copy.to, copy.to_extent(), true, "a copy to", true)) &&
        (from == Place::PAGEABLE ||
         check_range(copy.from, copy.from_extent(), true, "a copy from", true));
    return usable ? move(copy) : CUDA_ERROR_ILLEGAL_ADDRESS;
}

CUresult enqueue_copy(const Copy &copy, Place to, Place from, Stream &stream) {
    const char *what = from == Place::PAGEABLE ? "copy from pageable memory"
                       : to == Place::PAGEABLE ? "copy to pageable memory"
                                               : "copy";
    return enqueue(stream, what, [=] { return move_if_allocated(copy, to, from); });
}

// The copy with the bytes that its pageable source has now.
CUresult enqueue_staged_copy(const Copy &copy, Place to, Stream &stream) {
    auto staged = std::make_shared<std::vector<char>>(copy.width * copy.rows);
    move({number(staged->data()), copy.from, copy.width, copy.rows, copy.width, copy.from_pitch});
    Copy rest = copy;
    rest.from = number(staged->data());
    rest.from_pitch = copy.width;
    return enqueue(stream, "copy", [staged, rest, to] {
        return move_if_allocated(rest, to, Place::PAGEABLE);
    });
}

}  // namespace

CUresult copy_and_wait(const Copy &copy) {
    int device = current_device();
    if (CUresult status = sticky_error(device)) return status;
    if (!copy.width || !copy.rows) return CUDA_SUCCESS;
    if (!check_copy(copy)) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult status = check_no_capture("a copy that waits")) return status;
    Stream &stream = legacy_stream(device);
    Place to = place_of(copy.to), from = place_of(copy.from);
    if (to == Place::DEVICE && from == Place::DEVICE)
        return enqueue_copy(copy, to, from, stream);
    count_wait();
    if (to == Place::DEVICE && from == Place::PAGEABLE) {
        // an operation of the legacy stream waits for the blocking streams too
        if (CUresult status = enqueue(stream, "copy", nullptr)) return status;
        finish_stream(stream);
        if (CUresult status = sticky_error(device)) return status;
        return enqueue_staged_copy(copy, to, stream);
    }
    if (CUresult status = enqueue_copy(copy, to, from, stream)) return status;
    finish_stream(stream);
    return sticky_error(device);
}

CUresult copy_in_stream(const Copy &copy, Stream &stream) {
    if (CUresult status = sticky_error(stream.device)) return status;
    if (!copy.width || !copy.rows) return CUDA_SUCCESS;
    if (!check_copy(copy)) return CUDA_ERROR_INVALID_VALUE;
    Place to = place_of(copy.to), from = place_of(copy.from);
    if (from == Place::PAGEABLE && to == Place::DEVICE && !stream.capture)
        return enqueue_staged_copy(copy, to, stream);
    CUresult status = enqueue_copy(copy, to, from, stream);
    if (status || stream.capture) return status;
    if (to == Place::PAGEABLE || from == Place::PAGEABLE) {
        count_wait();
        finish_stream(stream);
    }
    return sticky_error(stream.device);
}

CUresult fill(uint64_t to, unsigned value, int size, size_t count, Stream &stream) {
    if (CUresult status = sticky_error(stream.device)) return status;
    if (!count) return CUDA_SUCCESS;
    if (!check_range(to, count * size, true, "a fill of")) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, "fill", [=] {
        if (!check_range(to, count * size, true, "a fill of", true)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        if (size == 1) memset(pointer(to), value, count);
        for (size_t element = 0; element < count && size > 1; element++)
            memcpy(pointer(to + element * size), &value, size);
        return CUDA_SUCCESS;
    });
}
