/* What the C code of a translated kernel is made of. The translator puts it behind kernel_abi.h, in
 * front of the kernels of a module. LOCAL_SIZE is the local memory of a thread, in bytes. */

/* --- registers -------------------------------------------------------------------------------- */

typedef union {
    uint8_t u;
    int8_t s;
} reg8;

typedef union {
    uint16_t u;
    int16_t s;
} reg16;

typedef union {
    uint32_t u;
    int32_t s;
    float f;
} reg32;

typedef union {
    uint64_t u;
    int64_t s;
    double f;
} reg64;

#define INLINE static inline __attribute__((unused))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* --- memory ------------------------------------------------------------------------------------ */

INLINE char *global_at(struct emu_thread *thread, uint64_t address, uint32_t size, int access,
                       int line) {
    if (UNLIKELY(address < thread->known_from || address + size > thread->known_to ||
                 address & (size - 1) || emu_race_detection))
        emu_check_global(thread, address, size, access, line);
    return (char *)address;
}

INLINE char *shared_at(struct emu_thread *thread, uint64_t address, uint32_t size, int access,
                       int line) {
    address &= 0xffffffffu;
    if (UNLIKELY(address + size > thread->shared_size || address & (size - 1) ||
                 emu_race_detection))
        emu_check_shared(thread, address, size, access, line);
    return thread->shared + address;
}

/* Local memory or a parameter: `room` bytes from `begin`. */
INLINE char *own_at(struct emu_thread *thread, const char *begin, uint64_t room, uint64_t address,
                    uint32_t size, int line) {
    if (UNLIKELY(address - (uint64_t)begin > room || address - (uint64_t)begin + size > room))
        emu_trap(thread, "access outside of local memory or of the parameters", line);
    return (char *)address;
}

/* An address of any state space but that of parameters. */
INLINE char *generic_at(struct emu_thread *thread, const char *local, uint64_t address,
                        uint32_t size, int access, int line) {
    if (address - (uint64_t)thread->shared < thread->shared_size)
        return shared_at(thread, address - (uint64_t)thread->shared, size, access, line);
    if (address - (uint64_t)local < LOCAL_SIZE)
        return own_at(thread, local, LOCAL_SIZE, address, size, line);
    return global_at(thread, address, size, access, line);
}

/* --- floats ------------------------------------------------------------------------------------ */

INLINE float bits_to_float(uint32_t bits) {
    return ((reg32){.u = bits}).f;
}

INLINE uint32_t float_bits(float x) {
    return ((reg32){.f = x}).u;
}

INLINE double bits_to_double(uint64_t bits) {
    return ((reg64){.u = bits}).f;
}

INLINE uint64_t double_bits(double x) {
    return ((reg64){.f = x}).u;
}

/* Every NaN that a float32 instruction of a GPU makes has the same bits. */
INLINE float one_nan(float x) {
    return x == x ? x : bits_to_float(0x7fffffffu);
}

/* .ftz: subnormal numbers are zeros. */
INLINE float flush(float x) {
    return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x;
}

INLINE double flush_double(double x) {
    return __builtin_fabs(x) < 0x1p-1022 ? __builtin_copysign(0, x) : x;
}

/* .sat: between 0 and 1; 0 for NaN. */
#define SATURATE(x) ({ __auto_type x_ = (x); x_ > 0 ? (x_ < 1 ? x_ : 1) : 0; })

/* min and max take the number where the other operand is NaN, and -0 is less than +0. */
#define MINIMUM(x, y)                                                                              \
    ({                                                                                             \
        __auto_type x_ = (x);                                                                      \
        __auto_type y_ = (y);                                                                      \
        x_ != x_ || y_ < x_ || (x_ == y_ && __builtin_signbit(y_)) ? y_ : x_;                      \
    })
#define MAXIMUM(x, y)                                                                              \
    ({                                                                                             \
        __auto_type x_ = (x);                                                                      \
        __auto_type y_ = (y);                                                                      \
        x_ != x_ || y_ > x_ || (x_ == y_ && __builtin_signbit(x_)) ? y_ : x_;                      \
    })
/* The other rounding modes. The volatile copies keep the expression between the two changes. */
enum { ROUND_DOWN = 0x2000, ROUND_UP = 0x4000, ROUND_TO_ZERO = 0x6000 };
#define ROUNDED(mode, kind, result, expression, a, b, c)                                           \
    ({                                                                                             \
        volatile kind x = (a), y = (b), z = (c);                                                   \
        uint32_t saved_ = __builtin_ia32_stmxcsr();                                                \
        __builtin_ia32_ldmxcsr((saved_ & ~0x6000u) | mode);                                        \
        volatile result rounded_ = (expression);                                                   \
        __builtin_ia32_ldmxcsr(saved_);                                                            \
        rounded_;                                                                                  \
    })

/* An .approx instruction is the host's function. */

/* rcp and rsqrt of float64: they read and write the upper half of a number. */
INLINE double upper_half(double x) {
    return bits_to_double(double_bits(flush_double(x)) & 0xffffffff00000000ull);
}

/* --- conversions of floats to integers: the nearest that there is ------------------------------ */

INLINE int64_t to_signed(double x, double limit, int64_t of_nan) {
    if (x != x) return of_nan;
    if (x >= limit) return (int64_t)((uint64_t)limit - 1);
    return x <= -limit ? (int64_t)(0 - (uint64_t)limit) : (int64_t)x;
}

INLINE uint64_t to_unsigned(double x, double limit, uint64_t of_nan) {
    if (x != x) return of_nan;
    if (x >= limit) return limit == 0x1p64 ? ~0ull : (uint64_t)limit - 1;
    return x <= 0 ? 0 : (uint64_t)x;
}

/* --- integers ---------------------------------------------------------------------------------- */

/* A division by zero gives all ones. The quotient of the least number and -1 wraps around. */
#define DIVIDE(x, y)                                                                               \
    ({                                                                                             \
        __auto_type x_ = (x);                                                                      \
        __auto_type y_ = (y);                                                                      \
        !y_ ? -1 : y_ + 1 == 0 && -1 < (__typeof__(y_))0 ? 0 - (uint64_t)x_ : x_ / y_;             \
    })
#define REMAINDER(x, y)                                                                            \
    ({                                                                                             \
        __auto_type x_ = (x);                                                                      \
        __auto_type y_ = (y);                                                                      \
        !y_ ? x_ : y_ + 1 == 0 && -1 < (__typeof__(y_))0 ? 0 : x_ % y_;                            \
    })

/* `length` bits of x in the place of those of y from `begin` on. */
INLINE uint64_t insert_bits(uint64_t x, uint64_t y, uint32_t begin, uint32_t length,
                            uint32_t width) {
    begin &= 255, length &= 255;
    if (begin >= width || !length) return y;
    uint64_t mask = (length < 64 ? (1ull << length) - 1 : ~0ull) << begin;
    return (y & ~mask) | (x << begin & mask);
}
