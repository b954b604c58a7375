// From accumulators to memory: by a tile [token][feature] in shared memory, so that rows are written whole.
struct Cache {  // with EPILOGUE 3
  void *keys, *values;                   // [kv_heads][capacity][HEAD]
  const long long* words;                // the first is the position of the first token
  const float *cosines, *sines;          // [capacity][HEAD / 2]
  int heads, kv_heads, capacity, first;  // heads before `first` are not rotated
};
struct Problem {
  void* out;  // [count][features]; with EPILOGUE 1 added to; with EPILOGUE 3 the queries, [count][heads][HEAD]
  int count, features, k_blocks;
  Cache cache;
};

// Which 16 rows of the tile this warp's accumulators hold.
__device__ __forceinline__ int sixteen(int part) { return (threadIdx.x / 128 * TALL + part) * 4 + threadIdx.x / 32 % 4; }

// Registers to the staging tile [token][feature]; with EPILOGUE 3 the first eights of all turns, then the second ones.
__device__ __forceinline__ void stage_half(float (&d)[TALL][TOKENS / 2], u32 base) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int part = 0; part < TALL; part++) {
    const int rows = sixteen(part);
    if (rows * 16 >= USED) return;
    if constexpr (EPILOGUE == 2) {
      const u32 at = base + 2 * ((lane & 7) * HALF_PITCH + rows * 8);
#pragma unroll
      for (int j = 0; j < OCTETS; j += 4) {
        u32 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (j + i < OCTETS) {
            const float* q = d[part] + 4 * (j + i);
            v[i] = pack(silu(q[0]) * q[2], silu(q[1]) * q[3]);
          }
        const u32 here = at + 2 * 8 * (j + lane / 8) * HALF_PITCH;
        if (j + 4 <= OCTETS) store_4(here, v[0], v[1], v[2], v[3]);
        else
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (j + i < OCTETS) store_1(at + 2 * 8 * (j + i) * HALF_PITCH, v[i]);
      }
    } else {
      const int second = (lane / 8) & 1, feature = EPILOGUE == 3 ? rows * 8 + second * (USED / 2) : rows * 16 + second * 8;
      const u32 at = base + 2 * ((lane & 7) * HALF_PITCH + feature);
#pragma unroll
      for (int j = 0; j < OCTETS; j += 2) {
        const float* q = d[part] + 4 * j;
        if (j + 2 <= OCTETS)
          store_4(at + 2 * 8 * (j + lane / 16) * HALF_PITCH, pack(q[0], q[1]), pack(q[2], q[3]), pack(q[4], q[5]), pack(q[6], q[7]));
        else
          store_2(at + 2 * 8 * j * HALF_PITCH, pack(q[0], q[1]), pack(q[2], q[3]));
      }
    }
  }
}
__device__ __forceinline__ void put(u32 at, float value) {
  asm volatile("st.shared::cta.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
// Octets FROM to TO of the accumulators as float32 [token][feature] at `base`.
template <int FROM, int TO>
__device__ __forceinline__ void stage_float(float (&d)[TALL][TOKENS / 2], u32 base) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int part = 0; part < TALL; part++) {
    const int rows = sixteen(part);
    if (rows * 16 >= USED) return;
    const u32 at = base + 4 * (2 * (lane & 3) * FLOAT_PITCH + rows * 16 + lane / 4);
#pragma unroll
    for (int j = FROM; j < TO; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        put(at + 4 * (8 * (j - FROM) * FLOAT_PITCH + (i & 1) * FLOAT_PITCH + (i >> 1) * 8), d[part][4 * j + i]);
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
// Octets FROM to TO of the accumulators for the same thread of the other block, 16 bytes a thread and octet.
template <int FROM, int TO>
__device__ __forceinline__ void send(float (&d)[TALL][TOKENS / 2], u32 at) {
#pragma unroll
  for (int part = 0; part < TALL; part++)
#pragma unroll
    for (int j = FROM; j < TO; j++) {
      const float* q = d[part] + 4 * j;
      asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at + 16 * CONSUMERS * (FIRST * part + j - FROM)),
                   "f"(q[0]), "f"(q[1]), "f"(q[2]), "f"(q[3])
                   : "memory");
    }
}
template <int FROM, int TO>
__device__ __forceinline__ void receive(float (&d)[TALL][TOKENS / 2], u32 at) {
#pragma unroll
  for (int part = 0; part < TALL; part++)
#pragma unroll
    for (int j = FROM; j < TO; j++) {
      const float4 v = get(at + 16 * CONSUMERS * (FIRST * part + j - FROM));
      float* q = d[part] + 4 * j;
      q[0] += v.x, q[1] += v.y, q[2] += v.z, q[3] += v.w;
    }
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
__device__ __forceinline__ void write_sum(uint4 (&r)[TURNS], u32 base, const Problem& p, int token_0, int tokens, int feature_0) {
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    const int i = threadIdx.x + turn * CONSUMERS;
    const u32 at = base + 4 * ((i / CHUNKS) * FLOAT_PITCH + 8 * (i % CHUNKS));
    if (uint4* to = target(p, turn, token_0, tokens, feature_0)) {
      const float4 a = get(at), b = get(at + 16);
      uint4 v = r[turn];
      v.x = add(v.x, a.x, a.y), v.y = add(v.y, a.z, a.w), v.z = add(v.z, b.x, b.y), v.w = add(v.w, b.z, b.w);
      *to = v;
    }
  }
}
// The sum over both halves of k: each block of the pair sends what the other finishes, then finishes its own tokens.
__device__ __forceinline__ void add_halves(float (&d)[TALL][TOKENS / 2], u32 base, u32 rank, const Problem& p, int token_0, int feature_0) {
  const u32 sent = base + 8 * FIRST * FLOAT_PITCH * 4 + 16 * threadIdx.x;
  const int begin = token_0 + (rank ? 8 * FIRST : 0);
  const int tokens = min(rank ? TOKENS - 8 * FIRST : 8 * FIRST, p.count - begin);
  uint4 r[TURNS];
  read_residual(r, p, begin, tokens, feature_0);
  cluster_sync();  // both have read all of their stages
  if (rank == 0) send<FIRST, OCTETS>(d, there(sent, 1));
  else send<0, FIRST>(d, there(sent, 0));
  cluster_sync();
  if (rank == 0) receive<0, FIRST>(d, sent), stage_float<0, FIRST>(d, base);
  else receive<FIRST, OCTETS>(d, sent), stage_float<FIRST, OCTETS>(d, base);
  consumers_sync();
  write_sum(r, base, p, begin, tokens, feature_0);
}
