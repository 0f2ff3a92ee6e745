// Matrix fragments: how the elements of a tile are spread over the 32 lanes of a warp (PTX ISA, "Matrix Fragments for
// mma.m16n8k16" and "ldmatrix"), and the 16-bit floating-point types they are made of.
#pragma once
#include "memory.hpp"
#include "warp.hpp"

namespace emulator {

// ---- 16-bit types ---------------------------------------------------------------------------------------------------

inline u32 bits_of(float value) {
  u32 bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline float float_of(u32 bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline float from_bf16(u16 x) { return float_of(u32(x) << 16); }

inline float from_f16(u16 x) {
  const u32 sign = u32(x & 0x8000) << 16, rest = u32(x & 0x7fff) << 13;
  const float scaled = float_of(rest) * 0x1p112f;  // moves the exponent's bias from 15 to 127; exact for subnormals too
  return float_of(sign | ((x & 0x7c00) == 0x7c00 ? rest | 0x7f800000 : bits_of(scaled)));
}

// cvt.rn: to nearest, ties to even, too large to infinity; NaN becomes the canonical one.
inline u16 to_bf16(float value) {
  const u32 bits = bits_of(value);
  if (value != value) return 0x7fff;
  return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline u16 to_f16(float value) {
  const u32 bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (value != value) return 0x7fff;
  if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);  // 65520 and up
  if (magnitude < 0x38800000)                              // below 2⁻¹⁴: subnormal; the addition rounds to a multiple of 2⁻²⁴
    return u16(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
  const u32 rebiased = magnitude - (112u << 23);
  return u16(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

u32 pack(Element type, float low, float high) {
  return type == Element::bf16 ? to_bf16(low) | u32(to_bf16(high)) << 16 : to_f16(low) | u32(to_f16(high)) << 16;
}

// ---- ldmatrix -------------------------------------------------------------------------------------------------------

struct LoadOperand {
  u32* r;
  u32 row_address;
};

// Row i of matrix m is at the address that lane 8m + i gives; more lanes' addresses are not looked at. Of it, lane 4i + c gets elements 2c and 2c + 1 in r[m];
// transposed, element c of row i goes to lane 4c + i/2, in the half of r[m] that i's parity says.
void ldmatrix(int matrices, bool transposed, u32* r, u32 row_address, Source source) {
  LoadOperand mine = {r, row_address};
  const char* op = transposed ? "ldmatrix.trans" : "ldmatrix";
  meet(op, FULL_MASK, &mine, source, [=](Warp& warp) {
    if (warp.lanes != FULL_MASK) fail_here("divergence", format("executes %s in a warp of fewer than 32 lanes", op));
    Site* site = count_collective(op, source, FULL_MASK);
    const auto operand = [&](int lane) { return static_cast<LoadOperand*>(warp.operand[lane]); };
    u32 addresses[32] = {};
    Thread* const last = current;
    for (int lane = 0; lane < 8 * matrices; lane++) {
      addresses[lane] = operand(lane)->row_address;
      current = &threads[last->warp * 32 + lane];  // its address is the one to blame
      check_shared(addresses[lane], 16, op);
      check_read(*current, addresses[lane], 16, true);
    }
    current = last;
    for (int m = 0; m < matrices; m++)
      for (int row = 0; row < 8; row++) {
        u16 elements[8];
        memcpy(elements, shared_memory + addresses[8 * m + row], 16);
        for (int c = 0; c < 8; c++) {
          const int lane = transposed ? 4 * c + row / 2 : 4 * row + c / 2, half = (transposed ? row : c) % 2;
          u32& to = operand(lane)->r[m];
          to = half ? (to & 0xffff) | u32(elements[c]) << 16 : (to & 0xffff0000) | elements[c];
        }
      }
    if (site) count_shared(*site, last->warp, addresses, FULL_MASK >> (32 - 8 * matrices), 16);
  });
}

// ---- mma ------------------------------------------------------------------------------------------------------------

struct MmaOperand {
  float* d;
  const u32* a;
  u32 b0, b1;
};

template <float (*convert)(u16)>
inline void mma_m16n8k16(Warp& warp) {
  u16 A_bits[16][16], B_bits[16][8];
  float A[16][16], B[16][8], D[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const auto& o = *static_cast<MmaOperand*>(warp.operand[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int r = 0; r < 4; r++) {  // a[0], a[1]: rows `group` and `group + 8` of the left half; a[2], a[3]: of the right
      const int row = group + r % 2 * 8, k = pair + r / 2 * 8;
      A_bits[row][k] = u16(o.a[r]);
      A_bits[row][k + 1] = u16(o.a[r] >> 16);
    }
    B_bits[pair][group] = u16(o.b0);
    B_bits[pair + 1][group] = u16(o.b0 >> 16);
    B_bits[pair + 8][group] = u16(o.b1);
    B_bits[pair + 9][group] = u16(o.b1 >> 16);
    for (int i = 0; i < 4; i++) D[group + i / 2 * 8][pair + i % 2] = o.d[i];
  }
  for (int i = 0; i < 256; i++) (&A[0][0])[i] = convert((&A_bits[0][0])[i]);
  for (int i = 0; i < 128; i++) (&B[0][0])[i] = convert((&B_bits[0][0])[i]);
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
  for (int lane = 0; lane < 32; lane++) {
    float* d = static_cast<MmaOperand*>(warp.operand[lane])->d;
    for (int i = 0; i < 4; i++) d[i] = D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

void mma_m16n8k16(Element type, float* d, const u32* a, u32 b0, u32 b1, Source source) {
  MmaOperand mine = {d, a, b0, b1};
  meet("mma", FULL_MASK, &mine, source, [=](Warp& warp) {
    if (warp.lanes != FULL_MASK) fail_here("divergence", "executes mma in a warp of fewer than 32 lanes");
    count_collective("mma", source, FULL_MASK);
    type == Element::bf16 ? mma_m16n8k16<from_bf16>(warp) : mma_m16n8k16<from_f16>(warp);
  });
}

}  // namespace emulator

// ex2.approx.ftz: subnormals count as zero, going in and coming out.
float ptx::ex2(float x) {
  return emulator::flushed(exp2f(emulator::flushed(x)));
}
