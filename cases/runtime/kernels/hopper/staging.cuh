// From accumulators to memory: by a tile [token][feature] in shared memory, so that rows are written whole.
struct Problem {
  void* out;  // [count][features]; with EPILOGUE 1 added to
  int count, features, k_blocks;
};

// Registers to the staging tile [token][feature].
__device__ __forceinline__ void stage_half(float (&d)[TOKENS / 2], u32 base) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp * 16 >= USED) return;
  if constexpr (EPILOGUE == 2) {
    const u32 at = base + 2 * ((lane & 7) * HALF_PITCH + warp * 8);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j += 4) {
      u32 v[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (j + i < TOKENS / 8) {
          const float* q = d + 4 * (j + i);
          v[i] = pack(silu(q[0]) * q[2], silu(q[1]) * q[3]);
        }
      const u32 here = at + 2 * 8 * (j + lane / 8) * HALF_PITCH;
      if (j + 4 <= TOKENS / 8) store_4(here, v[0], v[1], v[2], v[3]);
      else
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (j + i < TOKENS / 8) store_1(at + 2 * 8 * (j + i) * HALF_PITCH, v[i]);
    }
  } else {
    const u32 at = base + 2 * ((lane & 7) * HALF_PITCH + warp * 16 + ((lane / 8) & 1) * 8);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j += 2) {
      const float* q = d + 4 * j;
      if (j + 2 <= TOKENS / 8)
        store_4(at + 2 * 8 * (j + lane / 16) * HALF_PITCH, pack(q[0], q[1]), pack(q[2], q[3]), pack(q[4], q[5]), pack(q[6], q[7]));
      else
        store_2(at + 2 * 8 * j * HALF_PITCH, pack(q[0], q[1]), pack(q[2], q[3]));
    }
  }
}
__device__ __forceinline__ void put(u32 at, float value) {
  asm volatile("st.shared::cta.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
__device__ __forceinline__ void put_there(u32 at, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
// Octets FROM to TO of the accumulators as float32 [token][feature] at `base`, here or in the other block's memory.
template <int FROM, int TO, bool THERE>
__device__ __forceinline__ void stage_float(float (&d)[TOKENS / 2], u32 base) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp * 16 >= USED) return;
  const u32 at = base + 4 * (2 * (lane & 3) * FLOAT_PITCH + warp * 16 + lane / 4);
#pragma unroll
  for (int j = FROM; j < TO; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 here = at + 4 * (8 * (j - FROM) * FLOAT_PITCH + (i & 1) * FLOAT_PITCH + (i >> 1) * 8);
      if constexpr (THERE) put_there(here, d[4 * j + i]);
      else put(here, d[4 * j + i]);
    }
}
__device__ __forceinline__ float4 get(u32 at) {
  float4 v;
  asm volatile("ld.shared::cta.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at));
  return v;
}
__device__ __forceinline__ uint4 get_words(u32 at) {
  uint4 v;
  asm volatile("ld.shared::cta.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}
__device__ __forceinline__ u32 there(u32 at, u32 cta) {
  u32 address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(at), "r"(cta));
  return address;
}

// From the staging tile to memory, 16 bytes a thread and turn.
constexpr int CHUNKS = FEATURES / 8;
constexpr int TURNS = (8 * FIRST * CHUNKS + CONSUMERS - 1) / CONSUMERS;
__device__ __forceinline__ uint4* target(const Problem& p, int turn, int token_0, int tokens, int feature_0) {
  const int i = threadIdx.x + turn * CONSUMERS, token = i / CHUNKS, feature = feature_0 + 8 * (i % CHUNKS);
  if (token >= tokens || feature >= p.features) return nullptr;
  return reinterpret_cast<uint4*>((u16*)p.out + (size_t)(token_0 + token) * p.features + feature);
}
__device__ __forceinline__ void write_half(u32 base, const Problem& p, int token_0, int feature_0) {
  const int tokens = min(TOKENS, p.count - token_0);
#pragma unroll 4
  for (int turn = 0; turn < TURNS; turn++) {
    const int i = threadIdx.x + turn * CONSUMERS;
    if (uint4* to = target(p, turn, token_0, tokens, feature_0))
      *to = get_words(base + 2 * ((i / CHUNKS) * HALF_PITCH + 8 * (i % CHUNKS)));
  }
}
__device__ __forceinline__ u32 add(u32 both, float low, float high) { return pack(low_of(both) + low, high_of(both) + high); }
__device__ __forceinline__ void read_residual(uint4 (&r)[TURNS], const Problem& p, int token_0, int tokens, int feature_0) {
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++)
    if (uint4* from = target(p, turn, token_0, tokens, feature_0)) r[turn] = *from;
}
__device__ __forceinline__ void write_sum(uint4 (&r)[TURNS], u32 mine, u32 sent, const Problem& p, int token_0, int tokens, int feature_0) {
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    const int i = threadIdx.x + turn * CONSUMERS;
    const u32 at = 4 * ((i / CHUNKS) * FLOAT_PITCH + 8 * (i % CHUNKS));
    if (uint4* to = target(p, turn, token_0, tokens, feature_0)) {
      float4 a = get(mine + at), b = get(mine + at + 16);
      if constexpr (SPLIT == 2) {
        const float4 c = get(sent + at), e = get(sent + at + 16);
        a.x += c.x, a.y += c.y, a.z += c.z, a.w += c.w, b.x += e.x, b.y += e.y, b.z += e.z, b.w += e.w;
      }
      uint4 v = r[turn];
      v.x = add(v.x, a.x, a.y), v.y = add(v.y, a.z, a.w), v.z = add(v.z, b.x, b.y), v.w = add(v.w, b.z, b.w);
      *to = v;
    }
  }
}
