// The other side of emulator/mod.rs: memory and launches, asked for on standard input, answered on standard output.

#include "shim.hpp"

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <tuple>
#include <utility>

// The kernels, from a file that the test writes: their text, and a table of their names.
#include "kernels.inc"

namespace {

// Bytes around each buffer that no kernel may write. Read, they are NaN.
constexpr size_t GUARD = 4096;
constexpr unsigned char FILL = 0xff;

struct Buffer {
    std::vector<unsigned char> bytes;
    unsigned char *data() { return bytes.data() + GUARD; }
    size_t size() const { return bytes.size() - 2 * GUARD; }
};

std::map<uint64_t, Buffer> buffers;

void read_exactly(void *p, size_t n) {
    if (n > 0 && fread(p, 1, n, stdin) != n) {
        exit(0);
    }
}

uint64_t number() {
    uint64_t x;
    read_exactly(&x, 8);
    return x;
}

void answer(const std::string &fault) {
    uint64_t n = fault.size();
    fwrite(&n, 8, 1, stdout);
    fwrite(fault.data(), 1, n, stdout);
    fflush(stdout);
}

// Addresses have the number of a buffer above 40 bits of offset.
void *pointer(uint64_t address) {
    if (address == 0) {
        return nullptr;
    }
    auto found = buffers.find(address >> 40);
    if (found == buffers.end()) {
        fprintf(stderr, "no buffer %llu\n", (unsigned long long)(address >> 40));
        exit(1);
    }
    return found->second.data() + (address & ((uint64_t(1) << 40) - 1));
}

std::string broken_guard() {
    for (auto &[id, buffer] : buffers) {
        const unsigned char *all = buffer.bytes.data();
        for (size_t i = 0; i < GUARD; i++) {
            if (all[i] != FILL || all[buffer.bytes.size() - 1 - i] != FILL) {
                return "a write beyond buffer " + std::to_string(id);
            }
        }
    }
    return "";
}

struct Argument {
    char kind;
    uint64_t bits;
};

template <class T> T decode(const Argument &a, std::string &fault) {
    T value{};
    if constexpr (std::is_pointer_v<T>) {
        if (a.kind != 'p') {
            fault = "a number where a pointer is expected";
            return value;
        }
        return (T)pointer(a.bits);
    } else {
        char expected = std::is_same_v<T, float> ? 'f' : sizeof(T) == 8 ? 'l' : 'u';
        if (a.kind != expected) {
            fault = std::string("an argument of kind ") + a.kind + " where " + expected + " is expected";
            return value;
        }
        memcpy(&value, &a.bits, sizeof(T));
        return value;
    }
}

template <class... A, size_t... I>
std::string call(
    void (*kernel)(A...), const std::vector<Argument> &arguments, uint32_t grid, uint32_t threads, uint32_t order,
    std::index_sequence<I...>
) {
    if (arguments.size() != sizeof...(A)) {
        return std::to_string(arguments.size()) + " arguments where " + std::to_string(sizeof...(A)) + " are expected";
    }
    std::string fault;
    std::tuple<A...> values{decode<A>(arguments[I], fault)...};
    if (!fault.empty()) {
        return fault;
    }
    emulator::fault.clear();
    emulator::body = [&] { std::apply(kernel, values); };
    emulator::run(Index{grid, 1, 1}, threads, order);
    return emulator::fault.empty() ? broken_guard() : emulator::fault;
}

using Caller = std::function<std::string(const std::vector<Argument> &, uint32_t, uint32_t, uint32_t)>;

template <class... A> Caller caller(void (*kernel)(A...)) {
    return [kernel](const std::vector<Argument> &arguments, uint32_t grid, uint32_t threads, uint32_t order) {
        return call(kernel, arguments, grid, threads, order, std::index_sequence_for<A...>{});
    };
}

const std::map<std::string, Caller> KERNELS = {
#define KERNEL(name) {#name, caller(name)},
#include "names.inc"
};

float element(const void *p, bool is_bf16, uint64_t i) {
    return is_bf16 ? wide(((const bf16 *)p)[i]) : ((const float *)p)[i];
}

// cuBLAS's gemm, column by column: C (m, n) = alpha op(A) op(B).
std::string gemm() {
    bool ta = number(), tb = number();
    uint64_t m = number(), n = number(), k = number(), batch = number();
    bool narrow_in = number(), narrow_out = number();
    uint64_t bits = number();
    float alpha;
    memcpy(&alpha, &bits, 4);
    uint64_t a = number(), lda = number(), sa = number();
    uint64_t b = number(), ldb = number(), sb = number();
    uint64_t c = number(), ldc = number(), sc = number();
    const void *pa = pointer(a), *pb = pointer(b);
    void *pc = pointer(c);
    for (uint64_t z = 0; z < batch; z++) {
        for (uint64_t j = 0; j < n; j++) {
            for (uint64_t i = 0; i < m; i++) {
                double sum = 0;
                for (uint64_t l = 0; l < k; l++) {
                    float x = element(pa, narrow_in, z * sa + (ta ? i * lda + l : l * lda + i));
                    float y = element(pb, narrow_in, z * sb + (tb ? l * ldb + j : j * ldb + l));
                    sum += (double)x * y;
                }
                uint64_t at = z * sc + j * ldc + i;
                if (narrow_out) {
                    ((bf16 *)pc)[at] = narrow<bf16>((float)(alpha * sum));
                } else {
                    ((float *)pc)[at] = (float)(alpha * sum);
                }
            }
        }
    }
    return broken_guard();
}

std::string launch() {
    std::string name(number(), ' ');
    read_exactly(name.data(), name.size());
    uint32_t grid = number(), threads = number(), order = number();
    std::vector<Argument> arguments(number());
    for (Argument &a : arguments) {
        a.kind = (char)number();
        a.bits = number();
    }
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) {
        return "no kernel " + name;
    }
    std::string fault = found->second(arguments, grid, threads, order);
    return fault.empty() ? fault : name + ": " + fault;
}

} // namespace

int main() {
    for (;;) {
        switch (number()) {
        case 'a': {
            uint64_t id = number(), bytes = number();
            buffers[id].bytes.assign(bytes + 2 * GUARD, FILL);
            break;
        }
        case 'd':
            buffers.erase(number());
            break;
        case 'w': {
            uint64_t id = number(), bytes = number();
            read_exactly(buffers.at(id).data(), bytes);
            break;
        }
        case 'p': {
            // A table of addresses.
            uint64_t id = number(), n = number();
            for (uint64_t i = 0; i < n; i++) {
                void *p = pointer(number());
                memcpy(buffers.at(id).data() + 8 * i, &p, 8);
            }
            break;
        }
        case 'r': {
            uint64_t id = number();
            Buffer &buffer = buffers.at(id);
            fwrite(buffer.data(), 1, buffer.size(), stdout);
            fflush(stdout);
            break;
        }
        case 'l':
            answer(launch());
            break;
        case 'g':
            answer(gemm());
            break;
        default:
            return 1;
        }
    }
}
