// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Floating point and vectors: the scalar operations of IEEE 754 with its special values, and the vector
// instructions that string functions, checksums and compilers' loops are made of.
#include <arm_neon.h>

#include "selftest.h"

static const u64 special_doubles[] = {
    0, 0x8000000000000000, 1, 0x8000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x3fe0000000000000,
    0x3ff0000000000000, 0xbff0000000000000, 0x3ff8000000000000, 0x4004000000000000, 0x41dfffffffc00000,
    0x41e0000000000000, 0x43e0000000000000, 0xc3e0000000000000, 0x7fefffffffffffff, 0x7ff0000000000000,
    0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 0xfff8000000001234,
};
#define SPECIALS (sizeof special_doubles / sizeof special_doubles[0])

static inline u64 bits(double value) { u64 out; __builtin_memcpy(&out, &value, 8); return out; }
static inline u32 bits_s(float value) { u32 out; __builtin_memcpy(&out, &value, 4); return out; }
static inline double from_bits(u64 value) { double out; __builtin_memcpy(&out, &value, 8); return out; }
static inline float from_bits_s(u32 value) { float out; __builtin_memcpy(&out, &value, 4); return out; }

#define DOUBLE_1(op, a) ({ double r; __asm__(op " %d0, %d1" : "=w"(r) : "w"(a)); bits(r); })
#define DOUBLE_2(op, a, b) ({ double r; __asm__(op " %d0, %d1, %d2" : "=w"(r) : "w"(a), "w"(b)); bits(r); })
#define SINGLE_1(op, a) ({ float r; __asm__(op " %s0, %s1" : "=w"(r) : "w"(a)); bits_s(r); })
#define SINGLE_2(op, a, b) ({ float r; __asm__(op " %s0, %s1, %s2" : "=w"(r) : "w"(a), "w"(b)); bits_s(r); })
#define TO_INT(op, a) ({ u64 r; __asm__(op " %0, %d1" : "=r"(r) : "w"(a)); r; })
#define TO_INT_W(op, a) ({ u64 r; __asm__(op " %w0, %d1" : "=r"(r) : "w"(a)); r; })

static void doubles(double a, double b, double c)
{
    mix(DOUBLE_2("fadd", a, b)); mix(DOUBLE_2("fsub", a, b)); mix(DOUBLE_2("fmul", a, b)); mix(DOUBLE_2("fdiv", a, b));
    mix(DOUBLE_2("fnmul", a, b)); mix(DOUBLE_2("fmax", a, b)); mix(DOUBLE_2("fmin", a, b));
    mix(DOUBLE_2("fmaxnm", a, b)); mix(DOUBLE_2("fminnm", a, b)); mix(DOUBLE_1("fsqrt", a)); mix(DOUBLE_1("fabs", a));
    mix(DOUBLE_1("fneg", a)); mix(DOUBLE_1("frintn", a)); mix(DOUBLE_1("frintz", a)); mix(DOUBLE_1("frintp", a));
    mix(DOUBLE_1("frintm", a)); mix(DOUBLE_1("frinta", a)); mix(DOUBLE_1("frintx", a));
    double fused, fused_negative;
    __asm__("fmadd %d0, %d2, %d3, %d4\n fnmsub %d1, %d2, %d3, %d4" : "=&w"(fused), "=&w"(fused_negative) : "w"(a), "w"(b), "w"(c));
    mix(bits(fused)); mix(bits(fused_negative));
    mix(TO_INT("fcvtzs", a)); mix(TO_INT("fcvtzu", a)); mix(TO_INT("fcvtns", a)); mix(TO_INT("fcvtms", a));
    mix(TO_INT("fcvtpu", a)); mix(TO_INT_W("fcvtas", a)); mix(TO_INT_W("fcvtzu", a));
    float narrow;
    double wide;
    __asm__("fcvt %s0, %d2\n fcvt %d1, %s0" : "=&w"(narrow), "=&w"(wide) : "w"(a));
    mix(bits_s(narrow)); mix(bits(wide));
    u64 flags, flags_zero;
    __asm__("fcmp %d2, %d3\n mrs %0, nzcv\n fcmpe %d2, #0.0\n mrs %1, nzcv" : "=&r"(flags), "=&r"(flags_zero) : "w"(a), "w"(b) : "cc");
    mix(flags); mix(flags_zero);
    mix(bits(a < b ? a : c)); mix(bits(a >= c ? b : c));
}

static void singles(float a, float b)
{
    mix(SINGLE_2("fadd", a, b)); mix(SINGLE_2("fsub", a, b)); mix(SINGLE_2("fmul", a, b)); mix(SINGLE_2("fdiv", a, b));
    mix(SINGLE_1("fsqrt", a)); mix(SINGLE_1("frintz", a)); mix(SINGLE_2("fmaxnm", a, b)); mix(SINGLE_2("fmin", a, b));
}

static void integers(u64 a)
{
    mix(bits((double)a)); mix(bits((double)(s64)a)); mix(bits((double)(u32)a)); mix(bits((double)(s32)a));
    mix(bits_s((float)a)); mix(bits_s((float)(s64)a)); mix(bits_s((float)(s32)a));
}

void float_part(void)
{
    for (u32 i = 0; i < SPECIALS; i++)
        for (u32 j = 0; j < SPECIALS; j++) {
            doubles(from_bits(special_doubles[i]), from_bits(special_doubles[j]), from_bits(special_doubles[(i + j) % SPECIALS]));
            singles(from_bits_s((u32)(special_doubles[i] >> 32)), from_bits_s((u32)(special_doubles[j] >> 32)));
        }
    for (int i = 0; i < 20000; i++) {
        u64 a = random_number(), b = random_number(), c = random_number();
        doubles(from_bits(a), from_bits(b), from_bits(c));
        // Numbers of like size: most random pairs are too far apart to exercise rounding.
        doubles((double)(s64)a, (double)(s64)(b >> (c & 63)), (double)(s64)c);
        singles(from_bits_s((u32)a), from_bits_s((u32)b));
        singles((float)(s32)a, (float)(s32)b);
        integers(a >> (b & 63));
    }
    // The cumulative exception flags: every one of them has been raised by now.
    u64 raised;
    __asm__ volatile("mrs %0, fpsr" : "=r"(raised));
    mix(raised & 0x1f);
}

static void mix_vector(uint8x16_t vector)
{
    uint64x2_t halves = vreinterpretq_u64_u8(vector);
    mix(vgetq_lane_u64(halves, 0)); mix(vgetq_lane_u64(halves, 1));
}

// How a C library measures strings: compare, narrow to a mask, count; on every alignment.
static void strings(u8 *buffer)
{
    for (u64 start = 0; start < 16; start++)
        for (u64 len = 0; len < 48; len++) {
            buffer[start + len] = 0;
            u64 found = 0;
            for (;; found += 16) {
                uint8x16_t zero = vceqzq_u8(vld1q_u8(buffer + start + found));
                u64 mask = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(zero), 4)), 0);
                mix_vector(vpmaxq_u8(zero, zero));
                if (mask) {
                    found += (u64)__builtin_ctzl(mask) / 4;
                    break;
                }
            }
            mix(found);
            buffer[start + len] = (u8)(start * 7 + len * 3 + 1) | 1;
        }
}

static void lanes(uint8x16_t a, uint8x16_t b)
{
    uint16x8_t a16 = vreinterpretq_u16_u8(a), b16 = vreinterpretq_u16_u8(b);
    uint32x4_t a32 = vreinterpretq_u32_u8(a), b32 = vreinterpretq_u32_u8(b);
    uint64x2_t a64 = vreinterpretq_u64_u8(a), b64 = vreinterpretq_u64_u8(b);
    mix_vector(vaddq_u8(a, b)); mix_vector(vsubq_u8(a, b)); mix_vector(vandq_u8(a, b)); mix_vector(vorrq_u8(a, b));
    mix_vector(veorq_u8(a, b)); mix_vector(vbicq_u8(a, b)); mix_vector(vbslq_u8(a, b, vmvnq_u8(a)));
    mix_vector(vceqq_u8(a, b)); mix_vector(vcgtq_u8(a, b)); mix_vector(vcgeq_u8(a, b)); mix_vector(vmaxq_u8(a, b));
    mix_vector(vminq_u8(a, b)); mix_vector(vextq_u8(a, b, 5)); mix_vector(vzip1q_u8(a, b)); mix_vector(vuzp2q_u8(a, b));
    mix_vector(vtrn1q_u8(a, b)); mix_vector(vrev64q_u8(a)); mix_vector(vqtbl1q_u8(a, vandq_u8(b, vdupq_n_u8(0x1f))));
    mix_vector(vreinterpretq_u8_u16(vaddq_u16(a16, b16))); mix_vector(vreinterpretq_u8_u16(vmulq_u16(a16, b16)));
    mix_vector(vreinterpretq_u8_u16(vshlq_n_u16(a16, 3))); mix_vector(vreinterpretq_u8_u16(vaddl_u8(vget_low_u8(a), vget_high_u8(b))));
    mix_vector(vreinterpretq_u8_u32(vmlaq_u32(a32, b32, a32))); mix_vector(vreinterpretq_u8_u32(vshrq_n_u32(b32, 9)));
    mix_vector(vreinterpretq_u8_u32(vsraq_n_u32(a32, b32, 7))); mix_vector(vreinterpretq_u8_u32(vpaddq_u32(a32, b32)));
    mix_vector(vreinterpretq_u8_u64(vaddq_u64(a64, b64))); mix_vector(vreinterpretq_u8_u64(vshrq_n_u64(a64, 17)));
    mix_vector(vreinterpretq_u8_u64(vmull_u32(vget_low_u32(a32), vget_high_u32(b32))));
    mix_vector(vreinterpretq_u8_u64(vpaddlq_u32(a32))); mix_vector(vcombine_u8(vmovn_u16(a16), vmovn_u16(b16)));
    mix(vaddvq_u8(a)); mix(vmaxvq_u8(b)); mix(vminvq_u8(a)); mix(vaddlvq_u8(b)); mix(vaddvq_u32(a32));
    mix_vector(vcntq_u8(a)); mix_vector(vreinterpretq_u8_s32(vmovl_s16(vreinterpret_s16_u8(vget_low_u8(b)))));
    mix_vector(vdupq_laneq_u8(a, 11)); mix_vector(vsetq_lane_u8((u8)vgetq_lane_u16(b16, 3), a, 6));
}

static void vector_floats(u64 a, u64 b)
{
    // Whole numbers of modest size, so that each lane's result is exact or correctly rounded, never NaN.
    float64x2_t x = { (double)(s32)a, (double)(s32)(a >> 32) }, y = { (double)(s32)b + 0.5, (double)(s32)(b >> 32) + 0.25 };
    mix_vector(vreinterpretq_u8_f64(vaddq_f64(x, y))); mix_vector(vreinterpretq_u8_f64(vmulq_f64(x, y)));
    mix_vector(vreinterpretq_u8_f64(vdivq_f64(x, y))); mix_vector(vreinterpretq_u8_f64(vsubq_f64(x, y)));
}

void vector_part(void)
{
    u8 *buffer = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (u64 i = 0; i < 512; i++)
        buffer[i] = (u8)random_number() | 1;
    strings(buffer);
    for (u64 i = 0; i < PAGE; i += 8)
        *(u64 *)(buffer + i) = random_number();
    for (u64 round = 0; round < 4000; round++) {
        u64 at = random_number();
        lanes(vld1q_u8(buffer + at % (PAGE - 32)), vld1q_u8(buffer + (at >> 32) % (PAGE - 32)));
        vst1q_u8(buffer + at % 999, vaddq_u8(vld1q_u8(buffer + 2048), vdupq_n_u8((u8)at)));
        vector_floats(random_number(), random_number());
    }
    for (u64 i = 0; i < PAGE; i += 8)
        mix(*(u64 *)(buffer + i));
}
