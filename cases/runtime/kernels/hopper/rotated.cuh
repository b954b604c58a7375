// Queries, keys and values from the staging tile to their places: queries to `out`, keys and values to the cache.
// A turn of 16 rows is elements i to i + 7 of a head and i + HEAD / 2 to i + 7 + HEAD / 2, which they are rotated with.
constexpr int TWINS = USED / 16;
constexpr int TWIN_TURNS = (TOKENS * TWINS + CONSUMERS - 1) / CONSUMERS;
constexpr bool EARLY = TOKENS <= 240;  // there are registers for the first angles beside the accumulators

struct Angles { float cosine[8], sine[8]; };

// What a thread writes in its `turn`: both eights of one turn of rows, for one token.
struct Spot {
  int token, twin, head, element;
  __device__ __forceinline__ Spot(int turn, int feature_0) {
    const int i = threadIdx.x + turn * CONSUMERS;
    token = i / TWINS, twin = i % TWINS;
    const int place = feature_0 / 16 + twin;
    head = place / HEAD_TURNS, element = 8 * (place % HEAD_TURNS);
  }
  __device__ __forceinline__ bool rotated(const Cache& c) const { return head >= c.first && head < c.heads + c.kv_heads; }
};

__device__ __forceinline__ int read_position(const Cache& c) {
  int position;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(position) : "l"(c.words) : "memory");
  return position;
}
__device__ __forceinline__ void read_table(float* v, const float* from) {
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "l"(from));
}
// The tables never change while kernels run; `line` is the position of token_0.
__device__ __forceinline__ void read_angles(Angles& a, const Problem& p, int turn, int line, int tokens, int feature_0) {
  const Spot spot(turn, feature_0);
  const bool wanted = spot.token < tokens && spot.rotated(p.cache);
  const size_t from = wanted ? (size_t)(line + spot.token) * (HEAD / 2) + spot.element : 0;
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    read_table(a.cosine + i, p.cache.cosines + from + i);
    read_table(a.sine + i, p.cache.sines + from + i);
  }
}
// Where a thread writes element `spot.element`; the other eight lie HEAD / 2 behind it. Null where there is nothing.
__device__ __forceinline__ u16* target(const Problem& p, const Spot& spot, int token_0, int line, int tokens) {
  const Cache& c = p.cache;
  if (spot.token >= tokens || spot.head >= c.heads + 2 * c.kv_heads) return nullptr;
  if (spot.head < c.heads)
    return (u16*)p.out + ((size_t)(token_0 + spot.token) * c.heads + spot.head) * HEAD + spot.element;
  const int other = spot.head - c.heads;
  const bool value = other >= c.kv_heads;
  const size_t row = (size_t)(value ? other - c.kv_heads : other) * c.capacity + line + spot.token;
  return (u16*)(value ? c.values : c.keys) + row * HEAD + spot.element;
}
// Rounded as `turned` in rowwise.py rounds; Triton negates by subtracting from 0, so zeros have the same sign.
__device__ __forceinline__ float less(float a, float b, float cosine, float sine) {
  return __fmaf_rn(a, cosine, __fmaf_rn(-b, sine, 0.0f));
}
__device__ __forceinline__ float more(float a, float b, float cosine, float sine) {
  return __fmaf_rn(b, cosine, __fmul_rn(a, sine));
}
__device__ __forceinline__ void rotate(u32& one, u32& two, const float* c, const float* s) {
  const float a = low_of(one), b = low_of(two), e = high_of(one), f = high_of(two);
  one = pack(less(a, b, c[0], s[0]), less(e, f, c[1], s[1]));
  two = pack(more(a, b, c[0], s[0]), more(e, f, c[1], s[1]));
}
// `ahead`: the angles of the first turn; those of each next one are on their way while one is written.
__device__ __forceinline__ void write_rotated(Angles& ahead, u32 base, const Problem& p, int position, int token_0, int feature_0) {
  const int tokens = min(TOKENS, p.count - token_0), line = position + token_0;
#pragma unroll
  for (int turn = 0; turn < TWIN_TURNS; turn++) {
    const Angles now = ahead;
    if (turn + 1 < TWIN_TURNS) read_angles(ahead, p, turn + 1, line, tokens, feature_0);
    const Spot spot(turn, feature_0);
    u16* to = target(p, spot, token_0, line, tokens);
    if (!to) continue;
    const u32 at = base + 2 * (spot.token * HALF_PITCH + 8 * spot.twin);
    uint4 one = get_words(at), two = get_words(at + USED);
    if (spot.rotated(p.cache)) {
      rotate(one.x, two.x, now.cosine, now.sine), rotate(one.y, two.y, now.cosine + 2, now.sine + 2);
      rotate(one.z, two.z, now.cosine + 4, now.sine + 4), rotate(one.w, two.w, now.cosine + 6, now.sine + 6);
    }
    *reinterpret_cast<uint4*>(to) = one;
    *reinterpret_cast<uint4*>(to + HEAD / 2) = two;
  }
}
