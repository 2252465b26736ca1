// A GPU's blocks and threads on a CPU, for the tests of the kernels: the same kernel text as on the GPU, compiled by a C++
// compiler. The threads of a block are fibres that take turns; a barrier or a warp's exchange hands on to the next.
//
// What this finds beside wrong results: threads of a block at different barriers, a thread that leaves before a barrier, and,
// since blocks, warps and threads run in an order that the test chooses, results that depend on the order (a missing barrier).
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using std::min;

#define __global__
#define __device__
#define __launch_bounds__(...)
// Blocks run one after the other, so one copy serves each of them.
#define __shared__ static

struct float2 {
    float x, y;
};

inline float2 make_float2(float x, float y) { return float2{x, y}; }

struct Index {
    uint32_t x, y, z;
};

inline Index threadIdx, blockIdx, blockDim, gridDim;

inline float __uint_as_float(uint32_t x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}

inline uint32_t __float_as_uint(float x) {
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}

inline float __expf(float x) { return expf(x); }

inline float __fdividef(float x, float y) { return x / y; }

namespace emulator {

constexpr size_t STACK = 64 << 10;

// What the fibres of one block, or of one warp, wait at.
struct Barrier {
    uint32_t members = 0, arrived = 0;
    uint64_t round = 0;
    int line = 0;
};

struct Fibre {
    std::unique_ptr<char[]> stack{new char[STACK]};
    jmp_buf at;
    bool started, finished;
    Barrier *waits;
    uint64_t round;
};

inline std::vector<Fibre> fibres;
inline std::vector<Barrier> warps;
inline std::vector<uint64_t> slots;
inline Barrier block;
inline uint32_t current;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::string fault;

inline void wait(Barrier &barrier, int line) {
    if (barrier.arrived == 0) {
        barrier.line = line;
    } else if (barrier.line != line && fault.empty()) {
        fault = "threads at two barriers, lines " + std::to_string(barrier.line) + " and " + std::to_string(line);
    }
    Fibre &fibre = fibres[current];
    fibre.waits = &barrier;
    fibre.round = barrier.round;
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        barrier.round++;
    }
    if (!_setjmp(fibre.at)) {
        _longjmp(scheduler, 1);
    }
}

template <class T> T exchange(T value, uint32_t mask, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint32_t self = current;
    memcpy(&slots[self], &value, sizeof(T));
    wait(warps[self / 32], line);
    T other;
    memcpy(&other, &slots[self ^ mask], sizeof(T));
    // No one overwrites a slot before all have read.
    wait(warps[self / 32], -line);
    return other;
}

inline void entry() {
    body();
    fibres[current].finished = true;
    _longjmp(scheduler, 1);
}

// An order of n things: 0 forwards, 1 backwards, else mixed.
inline std::vector<uint32_t> order(uint32_t n, uint32_t kind) {
    std::vector<uint32_t> all(n);
    for (uint32_t i = 0; i < n; i++) {
        all[i] = kind == 1 ? n - 1 - i : i;
    }
    if (kind > 1) {
        uint64_t state = kind;
        for (uint32_t i = n; i > 1; i--) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            std::swap(all[i - 1], all[(state >> 33) % i]);
        }
    }
    return all;
}

inline void enter(Fibre &fibre, uint32_t thread) {
    current = thread;
    threadIdx = Index{thread, 0, 0};
    if (fibre.started) {
        _longjmp(fibre.at, 1);
    }
    fibre.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibre.stack.get();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
    setcontext(&context);
}

inline void run_block(uint32_t threads, uint32_t kind) {
    if (fibres.size() < threads) {
        fibres.resize(threads);
    }
    slots.assign(threads, 0);
    warps.assign((threads + 31) / 32, Barrier{});
    for (uint32_t i = 0; i < threads; i++) {
        warps[i / 32].members++;
        fibres[i].started = fibres[i].finished = false;
        fibres[i].waits = nullptr;
    }
    block = Barrier{};
    block.members = threads;
    // Static, since their values must outlast the jumps.
    static std::vector<uint32_t> warp_turns, turns;
    static uint32_t left, warp, next;
    static bool moved, again;
    static Fibre *fibre;
    warp_turns = order((uint32_t)warps.size(), kind);
    left = threads;
    while (left > 0) {
        moved = false;
        for (warp = 0; warp < warps.size(); warp++) {
            uint32_t first = 32 * warp_turns[warp];
            turns = order(min(32u, threads - first), kind);
            for (uint32_t &turn : turns) {
                turn += first;
            }
            // A warp goes as far as it can before the next one moves, so that none is in step with another by chance.
            do {
                again = false;
                for (next = 0; next < turns.size(); next++) {
                    fibre = &fibres[turns[next]];
                    if (fibre->finished || (fibre->waits && fibre->waits->round == fibre->round)) {
                        continue;
                    }
                    fibre->waits = nullptr;
                    again = moved = true;
                    if (!_setjmp(scheduler)) {
                        enter(*fibre, turns[next]);
                    }
                    if (fibre->finished) {
                        left--;
                    }
                }
            } while (again);
        }
        if (!moved) {
            fault = "a thread left before a barrier that others wait at";
            return;
        }
        if (!fault.empty()) {
            return;
        }
    }
}

inline void run(Index grid, uint32_t threads, uint32_t kind) {
    blockDim = Index{threads, 1, 1};
    gridDim = grid;
    for (uint32_t i : order(grid.x, kind)) {
        blockIdx = Index{i, 0, 0};
        run_block(threads, kind);
        if (!fault.empty()) {
            return;
        }
    }
}

} // namespace emulator

#define __syncthreads() emulator::wait(emulator::block, __LINE__)
#define __shfl_xor_sync(members, value, mask) emulator::exchange(value, mask, __LINE__)
