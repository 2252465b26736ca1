// What every kernel uses. The same text is compiled by NVRTC on the GPU machine, by nvcc in scripts/cuda-kernels, and by a
// C++ compiler for the tests without a GPU (emulator/shim.hpp). No header is included, so that NVRTC needs none.

typedef unsigned int u32;
typedef unsigned long long u64;

// bfloat16 as its bits: no header, and no need of an architecture that has it.
struct bf16 {
    unsigned short bits;
};

__device__ inline float wide(float x) { return x; }

__device__ inline float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <class T> __device__ inline T narrow(float x);

template <> __device__ inline float narrow<float>(float x) { return x; }

// To nearest, ties to even.
template <> __device__ inline bf16 narrow<bf16>(float x) {
    u32 bits = __float_as_uint(x);
    bf16 y;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        y.bits = (unsigned short)((bits >> 16) | 0x40u);
    } else {
        y.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
    return y;
}

// V values that are read or written at once.
template <class T, int V> struct alignas(V * sizeof(T)) Pack {
    T v[V];
};

template <class T, int V> __device__ inline void load(const T *p, float *out) {
    Pack<T, V> pack = *reinterpret_cast<const Pack<T, V> *>(p);
#pragma unroll
    for (int i = 0; i < V; i++) {
        out[i] = wide(pack.v[i]);
    }
}

template <class T, int V> __device__ inline void store(T *p, const float *x) {
    Pack<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; i++) {
        pack.v[i] = narrow<T>(x[i]);
    }
    *reinterpret_cast<Pack<T, V> *>(p) = pack;
}

// What NVRTC has no name for without a header.
#define FLOAT_INFINITY __uint_as_float(0x7f800000u)
#define FLOAT_NAN __uint_as_float(0x7fc00000u)

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// The sum over the block, in every thread. The block has whole warps, and scratch a float for each. The order of the sum is
// fixed, so its bits are.
__device__ inline float block_sum(float x, float *scratch) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
        x += __shfl_xor_sync(0xffffffffu, x, mask);
    }
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / 32; i++) {
        sum += scratch[i];
    }
    // The scratch may be used again at once.
    __syncthreads();
    return sum;
}

// The maximum over the block, in every thread. NaN is passed over: whoever needs it must look for it elsewhere.
__device__ inline float block_max(float x, float *scratch) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    }
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float top = scratch[0];
    for (u32 i = 1; i < blockDim.x / 32; i++) {
        top = fmaxf(top, scratch[i]);
    }
    __syncthreads();
    return top;
}
