// Group normalisation fused with SiLU, forward and backward.
//
// A group of one image is `count` values in a row, channel after channel. Blocks of NORM_THREADS threads take NORM_CHUNK of
// them each, and hold them in registers: mean and sum of squares about it are those of two passes, at the cost of one.
// Chunks are joined by Chan's formula (Chan, Golub and LeVeque 1983).

#define NORM_THREADS 256
#define NORM_ITEMS 16
#define NORM_CHUNK (NORM_THREADS * NORM_ITEMS)

// Where a block works, and what of.
struct Place {
    u32 group; // image * groups + group
    u32 chunk;
    u32 first; // in the group
    u32 n;
};

__device__ inline Place place(u32 count, u32 chunks) {
    Place at;
    at.group = blockIdx.x / chunks;
    at.chunk = blockIdx.x % chunks;
    at.first = at.chunk * NORM_CHUNK;
    at.n = min((u32)NORM_CHUNK, count - at.first);
    return at;
}

// The index of pack j of this thread within the chunk.
template <int V> __device__ inline u32 index_of(int j) { return (j * NORM_THREADS + threadIdx.x) * V; }

// Mean, and the sum of squares about it, of the block's values; `v` are zero past the end.
template <class T, int V> __device__ inline float2 chunk_moments(const T *x, u32 n, float *v, float *scratch) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < NORM_ITEMS / V; j++) {
        u32 i = index_of<V>(j);
        if (i < n) {
            load<T, V>(x + i, v + j * V);
        } else {
            for (int k = 0; k < V; k++) {
                v[j * V + k] = 0.0f;
            }
        }
        for (int k = 0; k < V; k++) {
            sum += v[j * V + k];
        }
    }
    float mean = block_sum(sum, scratch) / (float)n;
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < NORM_ITEMS / V; j++) {
        if (index_of<V>(j) < n) {
            for (int k = 0; k < V; k++) {
                float d = v[j * V + k] - mean;
                squares += d * d;
            }
        }
    }
    return make_float2(mean, block_sum(squares, scratch));
}

// 1 / standard deviation. A variance that overflows would divide everything to zero, and leave the bias alone: it gives NaN.
__device__ inline float reciprocal_deviation(float variance, float eps) {
    float sum = variance + eps;
    return sum < FLOAT_INFINITY ? 1.0f / sqrtf(sum) : FLOAT_NAN;
}

// Mean and 1 / standard deviation of a group from the moments of its chunks.
__device__ inline float2 join(const float2 *moments, u32 count, u32 chunks, float eps, float *scratch) {
    float sum = 0.0f;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < chunks; i += blockDim.x) {
        float n = (float)min((u32)NORM_CHUNK, count - i * NORM_CHUNK);
        sum += moments[i].x * (n / (float)count);
    }
    float mean = block_sum(sum, scratch);
    float squares = 0.0f;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < chunks; i += blockDim.x) {
        float n = (float)min((u32)NORM_CHUNK, count - i * NORM_CHUNK);
        float d = moments[i].x - mean;
        squares += moments[i].y + n * d * d;
    }
    float variance = block_sum(squares, scratch) / (float)count;
    return make_float2(mean, reciprocal_deviation(variance, eps));
}

// Where the values of a group begin in factor and offset.
__device__ inline u32 small_of(u32 group, u32 groups, u32 channels, u32 per_image) {
    u32 at = group % groups * (channels / groups);
    return per_image ? group / groups * channels + at : at;
}

__device__ inline float normalised(float x, float2 m, float factor, float offset, u32 activate) {
    float u = (x - m.x) * (m.y * factor) + offset;
    return activate ? u * sigmoid(u) : u;
}

template <class T, int V>
__device__ inline void norm_moments(const T *x, u32 count, u32 chunks, float2 *moments) {
    __shared__ float scratch[NORM_THREADS / 32];
    Place at = place(count, chunks);
    float v[NORM_ITEMS];
    float2 m = chunk_moments<T, V>(x + (u64)at.group * count + at.first, at.n, v, scratch);
    if (threadIdx.x == 0) {
        moments[blockIdx.x] = m;
    }
}

template <class T, int V>
__device__ inline void norm_apply(
    const T *x, const float2 *moments, const float *factor, const float *offset, T *y, u32 count, u32 chunks,
    u32 pixels, u32 channels, u32 groups, u32 per_image, float eps, u32 activate
) {
    __shared__ float scratch[NORM_THREADS / 32];
    Place at = place(count, chunks);
    float2 m = join(moments + (u64)at.group * chunks, count, chunks, eps, scratch);
    u32 small = small_of(at.group, groups, channels, per_image);
    u64 base = (u64)at.group * count + at.first;
#pragma unroll 4
    for (int j = 0; j < NORM_ITEMS / V; j++) {
        u32 i = index_of<V>(j);
        if (i < at.n) {
            float v[V];
            load<T, V>(x + base + i, v);
            // The values of a pack are of one channel.
            u32 c = small + (at.first + i) / pixels;
            float f = factor[c], o = offset[c];
            for (int k = 0; k < V; k++) {
                v[k] = normalised(v[k], m, f, o, activate);
            }
            store<T, V>(y + base + i, v);
        }
    }
}

// A group of one chunk in one launch.
template <class T, int V>
__device__ inline void norm_small(
    const T *x, const float *factor, const float *offset, T *y, float2 *moments, u32 count, u32 pixels, u32 channels,
    u32 groups, u32 per_image, float eps, u32 activate
) {
    __shared__ float scratch[NORM_THREADS / 32];
    u32 group = blockIdx.x;
    u64 base = (u64)group * count;
    float v[NORM_ITEMS];
    float2 m = chunk_moments<T, V>(x + base, count, v, scratch);
    if (threadIdx.x == 0) {
        moments[group] = m;
    }
    m.y = reciprocal_deviation(m.y / (float)count, eps);
    u32 small = small_of(group, groups, channels, per_image);
#pragma unroll
    for (int j = 0; j < NORM_ITEMS / V; j++) {
        u32 i = index_of<V>(j);
        if (i < count) {
            u32 c = small + i / pixels;
            float f = factor[c], o = offset[c];
            for (int k = 0; k < V; k++) {
                v[j * V + k] = normalised(v[j * V + k], m, f, o, activate);
            }
            store<T, V>(y + base + i, v + j * V);
        }
    }
}

// The gradient before the activation. d silu(u) = s (1 + u (1 - s)).
__device__ inline float before_activation(float dy, float normal, float factor, float offset, u32 activate) {
    if (!activate) {
        return dy;
    }
    float u = normal * factor + offset;
    float s = sigmoid(u);
    return dy * s * (1.0f + u * (1.0f - s));
}

// One channel of one image per block: the gradients of its offset and its factor.
template <class T, int V>
__device__ inline void norm_grad_sums(
    const T *x, const T *dy, const float2 *moments, const float *factor, const float *offset, float *doffset,
    float *dfactor, u32 count, u32 chunks, u32 pixels, u32 channels, u32 groups, u32 per_image, float eps, u32 activate
) {
    __shared__ float scratch[NORM_THREADS / 32];
    u32 per_group = channels / groups;
    u32 group = blockIdx.x / per_group;
    float2 m = join(moments + (u64)group * chunks, count, chunks, eps, scratch);
    u32 c = small_of(group, groups, channels, per_image) + blockIdx.x % per_group;
    float f = factor[c], o = offset[c];
    u64 base = (u64)blockIdx.x * pixels;
    float sum = 0.0f, product = 0.0f;
    for (u32 i = threadIdx.x * V; i < pixels; i += blockDim.x * V) {
        float v[V], d[V];
        load<T, V>(x + base + i, v);
        load<T, V>(dy + base + i, d);
        for (int k = 0; k < V; k++) {
            float normal = (v[k] - m.x) * m.y;
            float du = before_activation(d[k], normal, f, o, activate);
            sum += du;
            product += du * normal;
        }
    }
    sum = block_sum(sum, scratch);
    product = block_sum(product, scratch);
    if (threadIdx.x == 0) {
        doffset[blockIdx.x] = sum;
        dfactor[blockIdx.x] = product;
    }
}

// dx = (f du - mean(f du) - normal mean(f du normal)) / deviation
template <class T, int V>
__device__ inline void norm_grad_input(
    const T *x, const T *dy, const float2 *moments, const float *factor, const float *offset, const float *doffset,
    const float *dfactor, T *dx, u32 count, u32 chunks, u32 pixels, u32 channels, u32 groups, u32 per_image, float eps,
    u32 activate
) {
    __shared__ float scratch[NORM_THREADS / 32];
    Place at = place(count, chunks);
    float2 m = join(moments + (u64)at.group * chunks, count, chunks, eps, scratch);
    u32 small = small_of(at.group, groups, channels, per_image);
    u32 per_group = channels / groups;
    float sum = 0.0f, product = 0.0f;
    for (u32 c = threadIdx.x; c < per_group; c += blockDim.x) {
        sum += factor[small + c] * doffset[at.group * per_group + c];
        product += factor[small + c] * dfactor[at.group * per_group + c];
    }
    sum = block_sum(sum, scratch) / (float)count;
    product = block_sum(product, scratch) / (float)count;
    u64 base = (u64)at.group * count + at.first;
#pragma unroll 4
    for (int j = 0; j < NORM_ITEMS / V; j++) {
        u32 i = index_of<V>(j);
        if (i < at.n) {
            float v[V], d[V];
            load<T, V>(x + base + i, v);
            load<T, V>(dy + base + i, d);
            u32 c = small + (at.first + i) / pixels;
            float f = factor[c], o = offset[c];
            for (int k = 0; k < V; k++) {
                float normal = (v[k] - m.x) * m.y;
                float du = before_activation(d[k], normal, f, o, activate);
                v[k] = m.y * (f * du - sum - normal * product);
            }
            store<T, V>(dx + base + i, v);
        }
    }
}

// factor = weight (1 + scale), offset = bias (1 + scale) + shift; `n` values of (B, C).
extern "C" __global__ void __launch_bounds__(256) norm_scale_shift(
    const float *weight, const float *bias, const float *scale, const float *shift, float *factor, float *offset, u32 n,
    u32 channels
) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        u32 c = i % channels;
        float s = 1.0f + scale[i];
        factor[i] = weight[c] * s;
        offset[i] = bias[c] * s + shift[i];
    }
}

#define NORM_KERNELS(T, V, NAME)                                                                                       \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                                         \
        norm_moments_##NAME(const T *x, float2 *moments, u32 count, u32 chunks) {                                      \
        norm_moments<T, V>(x, count, chunks, moments);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_apply_##NAME(                                      \
        const T *x, const float2 *moments, const float *factor, const float *offset, T *y, u32 count, u32 chunks,      \
        u32 pixels, u32 channels, u32 groups, u32 per_image, float eps, u32 activate                                   \
    ) {                                                                                                                \
        norm_apply<T, V>(                                                                                              \
            x, moments, factor, offset, y, count, chunks, pixels, channels, groups, per_image, eps, activate           \
        );                                                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_small_##NAME(                                      \
        const T *x, const float *factor, const float *offset, T *y, float2 *moments, u32 count, u32 pixels,            \
        u32 channels, u32 groups, u32 per_image, float eps, u32 activate                                               \
    ) {                                                                                                                \
        norm_small<T, V>(x, factor, offset, y, moments, count, pixels, channels, groups, per_image, eps, activate);    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_grad_sums_##NAME(                                  \
        const T *x, const T *dy, const float2 *moments, const float *factor, const float *offset, float *doffset,      \
        float *dfactor, u32 count, u32 chunks, u32 pixels, u32 channels, u32 groups, u32 per_image, float eps,         \
        u32 activate                                                                                                   \
    ) {                                                                                                                \
        norm_grad_sums<T, V>(                                                                                          \
            x, dy, moments, factor, offset, doffset, dfactor, count, chunks, pixels, channels, groups, per_image, eps, \
            activate                                                                                                   \
        );                                                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_grad_input_##NAME(                                 \
        const T *x, const T *dy, const float2 *moments, const float *factor, const float *offset,                      \
        const float *doffset, const float *dfactor, T *dx, u32 count, u32 chunks, u32 pixels, u32 channels,            \
        u32 groups, u32 per_image, float eps, u32 activate                                                             \
    ) {                                                                                                                \
        norm_grad_input<T, V>(                                                                                         \
            x, dy, moments, factor, offset, doffset, dfactor, dx, count, chunks, pixels, channels, groups, per_image,  \
            eps, activate                                                                                              \
        );                                                                                                             \
    }

NORM_KERNELS(float, 1, f32_1)
NORM_KERNELS(float, 4, f32_4)
NORM_KERNELS(bf16, 1, bf16_1)
NORM_KERNELS(bf16, 4, bf16_4)
