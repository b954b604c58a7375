// What all kernels here share: types, how long L2 keeps what is read, conversions, the wait for the kernel ahead.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

constexpr u64 READ_ONCE = 0x12F0000000000000ull;
constexpr u64 READ_OFTEN = 0x14F0000000000000ull;

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 both;
#if BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
  return both;
}
__device__ __forceinline__ float low_of(u32 both) {
#if BF16
  return __uint_as_float(both << 16);
#else
  float value;
  asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %1;\ncvt.f32.f16 %0, lo;\n}" : "=f"(value) : "r"(both));
  return value;
#endif
}
__device__ __forceinline__ float high_of(u32 both) {
#if BF16
  return __uint_as_float(both & 0xFFFF0000u);
#else
  float value;
  asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %1;\ncvt.f32.f16 %0, hi;\n}" : "=f"(value) : "r"(both));
  return value;
#endif
}
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
__device__ __forceinline__ void launch_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
