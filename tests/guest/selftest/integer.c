// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Integer arithmetic as compilers use it, and the instructions that they seldom emit, by hand.
#include "selftest.h"

#define ROUNDS 60000

// Results that C gives the compiler a free hand to reach: multiply, divide, shift, select, extend, bitfields.
static void plain(u64 a, u64 b)
{
    s64 sa = (s64)a, sb = (s64)b;
    u32 wa = (u32)a, wb = (u32)b;
    s32 swa = (s32)wa, swb = (s32)wb;

    mix(a + b); mix(a - b); mix(wa + wb); mix(wa - wb);
    mix(a * b); mix(a * b + wa); mix(wb - a * b); mix((u64)wa * wb + a); mix((u64)((s64)swa * swb) - b);
    mix((u64)((unsigned __int128)a * b >> 64)); mix((u64)((__int128)sa * sb >> 64));
    mix(a / (b | 1)); mix(wa / (wb | 1)); mix(a % (b | 1));
    // The two quotients that overflow are undefined in C: kept out by forcing the divisor positive.
    mix((u32)(swa / ((swb & 0x7fffffff) | 1))); mix((u64)(sa % ((sb & 0x7fffffffffffffffL) | 1)));
    mix(a << (b & 63)); mix(a >> (b & 63)); mix((u64)(sa >> (b & 63)));
    mix(wa << (wb & 31)); mix(wa >> (wb & 31)); mix((u32)(swa >> (wb & 31)));
    mix(a >> (b & 63) | a << (-b & 63)); mix(wa >> (wb & 31) | wa << (-wb & 31));
    mix((u64)(s64)(s8)a); mix((u64)(s64)(s16)b); mix((u64)(s64)(s32)a); mix((u8)(a >> 9)); mix((u16)(b >> 21));
    mix(a & 0xff00ff00ff00ff00UL); mix(b | 0x3fffc0000UL); mix(a ^ 0x5555555555555555UL); mix(a & ~b); mix(a | ~b);
    mix((a >> 13 & 0x7ff) | (b & 0x1ff) << 20); mix((wa & ~0x3f0u) | (wb & 0x3f) << 4);
    mix(a < b); mix(sa < sb); mix(wa <= wb); mix(swa > swb); mix(a == (b & a)); mix(swa < swb && sa > sb);
    mix(wa > wb || swa == swb ? a : ~b); mix(sa < 0 ? -a : a); mix(a > b ? a + 1 : b);
    mix((u64)__builtin_clzl(a | 1)); mix((u64)__builtin_clz(wa | 1)); mix((u64)__builtin_clrsbl(sa));
    mix((u64)__builtin_ctzl(a | 1UL << 63)); mix(__builtin_bswap64(a)); mix(__builtin_bswap32(wa));
    mix(__builtin_bswap16((u16)b));
    unsigned __int128 wide = ((unsigned __int128)a << 64 | b) + ((unsigned __int128)b << 64 | a);
    mix((u64)(wide >> 64)); mix((u64)wide);
}

#define ONE(name, instruction)                                                \
    static u64 name(u64 a)                                                    \
    {                                                                         \
        u64 result;                                                           \
        __asm__(instruction : "=r"(result) : "r"(a));                         \
        return result;                                                        \
    }
#define TWO(name, instruction)                                                \
    static u64 name(u64 a, u64 b)                                             \
    {                                                                         \
        u64 result;                                                           \
        __asm__(instruction : "=r"(result) : "r"(a), "r"(b) : "cc");          \
        return result;                                                        \
    }

ONE(reverse_bits, "rbit %0, %1")
ONE(reverse_bits_w, "rbit %w0, %w1")
ONE(reverse_16, "rev16 %0, %1")
ONE(reverse_32, "rev32 %0, %1")
ONE(leading_sign_w, "cls %w0, %w1")
ONE(leading_zeros_zero, "and %0, %1, #1\n clz %0, %0")
ONE(insert_field, "mov %0, #-1\n bfi %0, %1, #7, #23")
ONE(insert_low_field, "mov %0, #-1\n bfxil %0, %1, #31, #17")
ONE(signed_field, "sbfx %0, %1, #11, #29")
ONE(move_keep, "mov %0, %1\n movk %0, #0xbeef, lsl #32")
TWO(extract, "extr %0, %1, %2, #19")
TWO(extract_w, "extr %w0, %w1, %w2, #27")
TWO(divide_signed, "sdiv %0, %1, %2")
TWO(divide_unsigned_by_zero, "and %0, %2, #1\n udiv %0, %1, %0")
TWO(divide_lowest_by_minus_one, "mov %0, #-1\n lsl %0, %0, #63\n mov x9, #-1\n sdiv %0, %0, x9")
TWO(add_extended, "add %0, %1, %w2, sxtb #3")
TWO(subtract_extended, "sub %0, %1, %w2, uxth #2")
TWO(add_shifted_w, "add %w0, %w1, %w2, asr #9")
TWO(multiply_long_add, "smaddl %0, %w1, %w2, %1")
TWO(multiply_long_subtract, "umsubl %0, %w1, %w2, %2")
// Flags of each kind, read back whole.
TWO(flags_add, "adds xzr, %1, %2\n mrs %0, nzcv")
TWO(flags_subtract_w, "subs wzr, %w1, %w2\n mrs %0, nzcv")
TWO(flags_and, "tst %1, %2\n mrs %0, nzcv")
TWO(carry_chain, "adds xzr, %1, %2\n adcs %0, %1, xzr\n sbcs %0, %0, %2\n ngc %0, %0")
TWO(conditional_compare, "cmp %1, %2\n ccmp %2, #21, #6, lt\n ccmn %w1, #3, #9, ne\n mrs %0, nzcv")
TWO(conditional_select, "cmp %1, %2\n csinv %0, %1, %2, hi\n csneg %0, %0, %1, vs\n csinc %0, %0, %2, le")

static void by_hand(u64 a, u64 b)
{
    mix(reverse_bits(a)); mix(reverse_bits_w(a)); mix(reverse_16(a)); mix(reverse_32(a)); mix(leading_sign_w(a));
    mix(leading_zeros_zero(a)); mix(insert_field(a)); mix(insert_low_field(a)); mix(signed_field(a));
    mix(move_keep(a)); mix(extract(a, b)); mix(extract_w(a, b)); mix(divide_signed(a, b >> 40));
    mix(divide_unsigned_by_zero(a, b)); mix(divide_lowest_by_minus_one(a, b)); mix(add_extended(a, b));
    mix(subtract_extended(a, b)); mix(add_shifted_w(a, b)); mix(multiply_long_add(a, b));
    mix(multiply_long_subtract(a, b)); mix(flags_add(a, b)); mix(flags_subtract_w(a, b)); mix(flags_and(a, b));
    mix(carry_chain(a, b)); mix(conditional_compare(a, b)); mix(conditional_select(a, b));
}

void integer_part(void)
{
    static const u64 edges[] = { 0, 1, 2, 0x7f, 0x80, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
                                 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff };
    for (u32 i = 0; i < sizeof edges / sizeof edges[0]; i++)
        for (u32 j = 0; j < sizeof edges / sizeof edges[0]; j++) {
            plain(edges[i], edges[j] & 0x7fffffffffffffff);
            by_hand(edges[i], edges[j]);
        }
    for (int i = 0; i < ROUNDS; i++) {
        u64 a = random_number();
        u64 b = random_number() >> (random_number() & 63);
        plain(a, b);
        by_hand(a, b);
    }
}
