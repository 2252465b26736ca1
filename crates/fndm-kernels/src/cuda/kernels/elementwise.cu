// Operations that only move memory, in one pass each.

// `count` packs of V values.
template <class T, int V> __device__ inline void silu(const T *x, T *y, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        float v[V];
        load<T, V>(x + i * V, v);
        for (int k = 0; k < V; k++) {
            v[k] *= sigmoid(v[k]);
        }
        store<T, V>(y + i * V, v);
    }
}

template <class T, int V> __device__ inline void silu_grad(const T *x, const T *dy, T *dx, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        float v[V], d[V];
        load<T, V>(x + i * V, v);
        load<T, V>(dy + i * V, d);
        for (int k = 0; k < V; k++) {
            float s = sigmoid(v[k]);
            v[k] = d[k] * s * (1.0f + v[k] * (1.0f - s));
        }
        store<T, V>(dx + i * V, v);
    }
}

template <class T, int V> __device__ inline void add_scaled(const T *x, float c, u64 i, float *sum) {
    float v[V];
    load<T, V>(x + i * V, v);
    for (int k = 0; k < V; k++) {
        sum[k] += c * v[k];
    }
}

// The sum of c * x over the first `terms` of four.
template <class T, int V>
__device__ inline void combine(
    const T *a, const T *b, const T *c, const T *d, float ca, float cb, float cc, float cd, T *y, u64 count, u32 terms
) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        float sum[V];
        load<T, V>(a + i * V, sum);
        for (int k = 0; k < V; k++) {
            sum[k] *= ca;
        }
        if (terms > 1) {
            add_scaled<T, V>(b, cb, i, sum);
        }
        if (terms > 2) {
            add_scaled<T, V>(c, cc, i, sum);
        }
        if (terms > 3) {
            add_scaled<T, V>(d, cd, i, sum);
        }
        store<T, V>(y + i * V, sum);
    }
}

// Each of `count` values, in rows of w, times scale, to 2x2 values of an image of twice the size.
template <class T> __device__ inline void expand(const T *x, T *y, u64 count, u32 w, float scale) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        u64 row = i / w;
        u32 column = (u32)(i - row * w);
        float v = wide(x[i]) * scale;
        float pair[2] = {v, v};
        T *out = y + row * 4 * w + 2 * column;
        store<T, 2>(out, pair);
        store<T, 2>(out + 2 * w, pair);
    }
}

// The sum of each 2x2 block, times scale: `count` values in rows of w.
template <class T> __device__ inline void reduce(const T *x, T *y, u64 count, u32 w, float scale) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        u64 row = i / w;
        u32 column = (u32)(i - row * w);
        const T *in = x + row * 4 * w + 2 * column;
        float top[2], bottom[2];
        load<T, 2>(in, top);
        load<T, 2>(in + 2 * w, bottom);
        y[i] = narrow<T>(((top[0] + top[1]) + (bottom[0] + bottom[1])) * scale);
    }
}

// `n` packs per image, from images of `from` packs to images of `to` packs.
template <class T, int V> __device__ inline void copy_images(const T *x, T *y, u64 count, u32 n, u32 from, u32 to) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        u64 image = i / n;
        u64 at = i - image * n;
        *reinterpret_cast<Pack<T, V> *>(y + (image * to + at) * V) =
            *reinterpret_cast<const Pack<T, V> *>(x + (image * from + at) * V);
    }
}

// y += bias of the channel; `pixels` packs per channel, and `channels` is that of the bias (B C for one per image).
template <class T, int V> __device__ inline void add_bias(T *y, const T *bias, u64 count, u32 pixels, u32 channels) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        float b = wide(bias[(i / pixels) % channels]);
        float v[V];
        load<T, V>(y + i * V, v);
        for (int k = 0; k < V; k++) {
            v[k] += b;
        }
        store<T, V>(y + i * V, v);
    }
}

// The sum of each plane of `pixels` packs: one block per plane.
template <class T, int V> __device__ inline void plane_sums(const T *x, float *sums, u32 pixels) {
    __shared__ float scratch[32];
    const T *plane = x + (u64)blockIdx.x * pixels * V;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < pixels; i += blockDim.x) {
        float v[V];
        load<T, V>(plane + (u64)i * V, v);
        for (int k = 0; k < V; k++) {
            sum += v[k];
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// The sum over `rows` rows of n values.
template <class T> __device__ inline void sum_rows(const float *x, T *y, u32 rows, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float sum = 0.0f;
        for (u32 row = 0; row < rows; row++) {
            sum += x[(u64)row * n + i];
        }
        y[i] = narrow<T>(sum);
    }
}

#define PACKED_KERNELS(T, V, NAME)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) silu_##NAME(const T *x, T *y, u64 count) {                       \
        silu<T, V>(x, y, count);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) silu_grad_##NAME(const T *x, const T *dy, T *dx, u64 count) {    \
        silu_grad<T, V>(x, dy, dx, count);                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) combine_##NAME(                                                  \
        const T *a, const T *b, const T *c, const T *d, float ca, float cb, float cc, float cd, T *y, u64 count,       \
        u32 terms                                                                                                      \
    ) {                                                                                                                \
        combine<T, V>(a, b, c, d, ca, cb, cc, cd, y, count, terms);                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        copy_images_##NAME(const T *x, T *y, u64 count, u32 n, u32 from, u32 to) {                                     \
        copy_images<T, V>(x, y, count, n, from, to);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        add_bias_##NAME(T *y, const T *bias, u64 count, u32 pixels, u32 channels) {                                    \
        add_bias<T, V>(y, bias, count, pixels, channels);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) plane_sums_##NAME(const T *x, float *sums, u32 pixels) {         \
        plane_sums<T, V>(x, sums, pixels);                                                                             \
    }

#define PLAIN_KERNELS(T, NAME)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) expand_##NAME(const T *x, T *y, u64 count, u32 w, float scale) { \
        expand<T>(x, y, count, w, scale);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) reduce_##NAME(const T *x, T *y, u64 count, u32 w, float scale) { \
        reduce<T>(x, y, count, w, scale);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) sum_rows_##NAME(const float *x, T *y, u32 rows, u32 n) {         \
        sum_rows<T>(x, y, rows, n);                                                                                    \
    }

PACKED_KERNELS(float, 1, f32_1)
PACKED_KERNELS(float, 4, f32_4)
PACKED_KERNELS(bf16, 1, bf16_1)
PACKED_KERNELS(bf16, 4, bf16_4)
PLAIN_KERNELS(float, f32)
PLAIN_KERNELS(bf16, bf16)
