/* Reads hardened weights; see faultcli_reader.h. From the memory up: words, check words, links inside words and
 * blocks, values. */
#include "faultcli_reader.h"

#if FAULTCLI_WORD_BITS > 32
typedef uint64_t word_t;
#else
typedef uint32_t word_t;
#endif

enum { CHUNK = 128 }; /* words that are worked on together: no block of any kind is larger */

typedef struct {
    const faultcli_tensor *tensor;
    const uint8_t *memory;
    faultcli_status *status;
    size_t first; /* first block whose faults count: one that was read before counts once */
} reader_t;

/* ---- words ------------------------------------------------------------------------------------------------------ */

static word_t mask_of(unsigned bits)
{
    return bits >= sizeof(word_t) * 8 ? (word_t)~(word_t)0 : ((word_t)1 << bits) - 1;
}

static unsigned ones_of(word_t word)
{
    unsigned ones = 0;
    for (; word != 0; word &= word - 1)
        ++ones;
    return ones;
}

static unsigned parity_of(word_t word)
{
#if FAULTCLI_WORD_BITS > 32
    word ^= word >> 32;
#endif
    word ^= word >> 16;
    word ^= word >> 8;
    word ^= word >> 4;
    return 0x6996u >> (word & 15) & 1;
}

/* Words `first` to `first + count - 1` of a region as they lie in the memory. */
static void load(const uint8_t *region, unsigned bits, size_t first, size_t count, word_t *out)
{
    const word_t mask = mask_of(bits);
    size_t i;
    if (bits < 8) {
        for (i = 0; i < count; ++i) {
            const size_t at = first + i;
            const unsigned start = (unsigned)(at % 8) * bits, shift = start % 8;
            const uint8_t *byte = region + at / 8 * bits + start / 8;
            unsigned word = (unsigned)byte[0] >> shift;
            if (shift + bits > 8)
                word |= (unsigned)byte[1] << (8 - shift);
            out[i] = word & mask;
        }
    } else if (bits == 8) {
        for (i = 0; i < count; ++i)
            out[i] = region[first + i];
    } else if (bits <= 16) {
        region += 2 * first;
        for (i = 0; i < count; ++i)
            out[i] = ((unsigned)region[2 * i] | (unsigned)region[2 * i + 1] << 8) & mask;
    } else if (bits <= 32) {
        region += 4 * first;
        for (i = 0; i < count; ++i) {
            const uint8_t *b = region + 4 * i;
            out[i] = ((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24) & mask;
        }
    }
#if FAULTCLI_WORD_BITS > 32
    else {
        region += 8 * first;
        for (i = 0; i < count; ++i) {
            const uint8_t *b = region + 8 * i;
            const uint32_t low = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
            const uint32_t high = (uint32_t)b[4] | (uint32_t)b[5] << 8 | (uint32_t)b[6] << 16 | (uint32_t)b[7] << 24;
            out[i] = ((uint64_t)high << 32 | low) & mask;
        }
    }
#endif
}

/* The words of a tensor and those that fill its last block: from the memory, or zeros where none lie there. */
static void load_padded(const reader_t *reader, size_t first, size_t count, word_t *out)
{
    const faultcli_tensor *t = reader->tensor;
    size_t own = first < t->elements ? t->elements - first : 0;
    size_t i;
    if (own > count)
        own = count;
    load(reader->memory + t->words_at, t->bits, first, own, out);
    if (own < count) {
        const size_t at = first + own - t->elements;
        if (at + (count - own) <= t->padding)
            load(reader->memory + t->padding_at, t->bits, at, count - own, out + own);
        else
            for (i = own; i < count; ++i)
                out[i] = 0;
    }
}

/* ---- redundancy in memory of its own ---------------------------------------------------------------------------- */

static void read_parity(const reader_t *reader, size_t first, size_t count, word_t *words)
{
    const faultcli_tensor *t = reader->tensor;
    size_t i;
    for (i = 0; i < count; ++i) {
        word_t check;
        load(reader->memory + t->checks_at, 1, first + i, 1, &check);
        if (parity_of(words[i]) != check) {
            words[i] = (word_t)t->zero;
            ++reader->status->lost;
        }
    }
}

static void read_tmr(const reader_t *reader, size_t first, size_t count, word_t *words)
{
    const faultcli_tensor *t = reader->tensor;
    const unsigned shift = t->bits - t->check_bits;
    size_t i;
    for (i = 0; i < count; ++i) {
        word_t copies[2], own = words[i] >> shift, voted;
        load(reader->memory + t->checks_at, t->check_bits, 2 * (first + i), 2, copies);
        if (own == copies[0] && own == copies[1])
            continue;
        voted = (own & copies[0]) | (own & copies[1]) | (copies[0] & copies[1]);
        words[i] = voted << shift | (words[i] & mask_of(shift));
        reader->status->corrected += ones_of((own ^ voted) | (copies[0] ^ voted) | (copies[1] ^ voted));
    }
}

#if FAULTCLI_SECDED
static unsigned secded_nibbles(const uint16_t *table, const word_t *words, size_t count, unsigned nibbles)
{
    unsigned syndrome = 0;
    size_t i;
    unsigned k;
    for (i = 0; i < count; ++i)
        for (k = 0; k < nibbles; ++k, table += 16)
            syndrome ^= table[words[i] >> 4 * k & 15];
    return syndrome;
}

static unsigned secded_syndrome(const uint16_t *table, const word_t *words, size_t count, unsigned bits)
{
    switch (bits) { /* the usual widths, with the inner loop unrolled */
    case 4: return secded_nibbles(table, words, count, 1);
    case 8: return secded_nibbles(table, words, count, 2);
    case 16: return secded_nibbles(table, words, count, 4);
    case 32: return secded_nibbles(table, words, count, 8);
    default: return secded_nibbles(table, words, count, (bits + 3) / 4);
    }
}

/* Correct one block; count what was found there if `counts`. */
static void correct_secded(const reader_t *reader, unsigned check, word_t *words, int counts)
{
    const faultcli_tensor *t = reader->tensor;
    const unsigned block = t->secded_block, nibbles = (t->bits + 3u) / 4;
    const unsigned syndrome = check ^ secded_syndrome(t->secded_table, words, block, t->bits);
    unsigned i, bit;
    if (syndrome == 0)
        return;
    for (i = 0; i < block; ++i)
        for (bit = 0; bit < t->bits; ++bit)
            if (t->secded_table[(i * nibbles + bit / 4) * 16 + (1u << bit % 4)] == syndrome) {
                words[i] ^= (word_t)1 << bit;
                reader->status->corrected += counts != 0;
                return;
            }
    if ((syndrome & (syndrome - 1)) == 0) { /* a check bit */
        reader->status->corrected += counts != 0;
        return;
    }
    if (t->secded_keeps)
        return;
    for (i = 0; i < block; ++i)
        words[i] = (word_t)t->zero;
    reader->status->lost += counts != 0;
}

static void read_secded(const reader_t *reader, size_t first, size_t count, word_t *words)
{
    const faultcli_tensor *t = reader->tensor;
    const size_t block = t->secded_block;
    size_t at = first / block;
    for (; at * block < first + count; ++at) {
        const size_t start = at * block;
        /* A block that reaches beyond the words asked for is read as a whole, and counts where it begins. */
        const int counts = start >= first || first == reader->first;
        word_t check;
        load(reader->memory + t->checks_at, t->check_bits, at, 1, &check);
        if (start >= first && start + block <= first + count) {
            correct_secded(reader, (unsigned)check, words + (start - first), counts);
        } else {
            word_t whole[64];
            size_t i;
            load_padded(reader, start, block, whole);
            correct_secded(reader, (unsigned)check, whole, counts);
            for (i = 0; i < block; ++i)
                if (start + i >= first && start + i < first + count)
                    words[start + i - first] = whole[i];
        }
    }
}
#endif

static void load_checked(const reader_t *reader, size_t first, size_t count, word_t *words)
{
    load_padded(reader, first, count, words);
    switch (reader->tensor->check) {
    case FAULTCLI_PARITY: read_parity(reader, first, count, words); break;
    case FAULTCLI_TMR: read_tmr(reader, first, count, words); break;
#if FAULTCLI_SECDED
    case FAULTCLI_SECDED_CODE: read_secded(reader, first, count, words); break;
#endif
    default: break;
    }
}

/* ---- redundancy in the low bits of blocks: BCH codes of 255 bits and one more parity bit ------------------------ */

#if FAULTCLI_BCH
/* GF(256), bytes modulo x^8 + x^4 + x^3 + x^2 + 1. */
static const uint8_t power_of[255] = { /* of x */
    1, 2, 4, 8, 16, 32, 64, 128, 29, 58, 116, 232, 205, 135, 19, 38, 76, 152, 45, 90, 180, 117, 234, 201,
    143, 3, 6, 12, 24, 48, 96, 192, 157, 39, 78, 156, 37, 74, 148, 53, 106, 212, 181, 119, 238, 193, 159, 35,
    70, 140, 5, 10, 20, 40, 80, 160, 93, 186, 105, 210, 185, 111, 222, 161, 95, 190, 97, 194, 153, 47, 94, 188,
    101, 202, 137, 15, 30, 60, 120, 240, 253, 231, 211, 187, 107, 214, 177, 127, 254, 225, 223, 163, 91, 182, 113, 226,
    217, 175, 67, 134, 17, 34, 68, 136, 13, 26, 52, 104, 208, 189, 103, 206, 129, 31, 62, 124, 248, 237, 199, 147,
    59, 118, 236, 197, 151, 51, 102, 204, 133, 23, 46, 92, 184, 109, 218, 169, 79, 158, 33, 66, 132, 21, 42, 84,
    168, 77, 154, 41, 82, 164, 85, 170, 73, 146, 57, 114, 228, 213, 183, 115, 230, 209, 191, 99, 198, 145, 63, 126,
    252, 229, 215, 179, 123, 246, 241, 255, 227, 219, 171, 75, 150, 49, 98, 196, 149, 55, 110, 220, 165, 87, 174, 65,
    130, 25, 50, 100, 200, 141, 7, 14, 28, 56, 112, 224, 221, 167, 83, 166, 81, 162, 89, 178, 121, 242, 249, 239,
    195, 155, 43, 86, 172, 69, 138, 9, 18, 36, 72, 144, 61, 122, 244, 245, 247, 243, 251, 235, 203, 139, 11, 22,
    44, 88, 176, 125, 250, 233, 207, 131, 27, 54, 108, 216, 173, 71, 142,
};

static const uint8_t log_of[256] = { /* of 0: nothing */
    0, 0, 1, 25, 2, 50, 26, 198, 3, 223, 51, 238, 27, 104, 199, 75, 4, 100, 224, 14, 52, 141, 239, 129,
    28, 193, 105, 248, 200, 8, 76, 113, 5, 138, 101, 47, 225, 36, 15, 33, 53, 147, 142, 218, 240, 18, 130, 69,
    29, 181, 194, 125, 106, 39, 249, 185, 201, 154, 9, 120, 77, 228, 114, 166, 6, 191, 139, 98, 102, 221, 48, 253,
    226, 152, 37, 179, 16, 145, 34, 136, 54, 208, 148, 206, 143, 150, 219, 189, 241, 210, 19, 92, 131, 56, 70, 64,
    30, 66, 182, 163, 195, 72, 126, 110, 107, 58, 40, 84, 250, 133, 186, 61, 202, 94, 155, 159, 10, 21, 121, 43,
    78, 212, 229, 172, 115, 243, 167, 87, 7, 112, 192, 247, 140, 128, 99, 13, 103, 74, 222, 237, 49, 197, 254, 24,
    227, 165, 153, 119, 38, 184, 180, 124, 17, 68, 146, 217, 35, 32, 137, 46, 55, 63, 209, 91, 149, 188, 207, 205,
    144, 135, 151, 178, 220, 252, 190, 97, 242, 86, 211, 171, 20, 42, 93, 158, 132, 60, 57, 83, 71, 109, 65, 162,
    31, 45, 67, 216, 183, 123, 164, 118, 196, 23, 73, 236, 127, 12, 111, 246, 108, 161, 59, 82, 41, 157, 85, 170,
    251, 96, 134, 177, 187, 204, 62, 90, 203, 89, 95, 176, 156, 169, 160, 81, 11, 245, 22, 235, 122, 117, 44, 215,
    79, 174, 213, 233, 230, 231, 173, 232, 116, 214, 244, 234, 168, 80, 88, 175,
};

enum { LANES = (FAULTCLI_BCH + 7) / 8, LENGTH = 255 };

static uint8_t times(uint8_t a, uint8_t b)
{
    unsigned power;
    if (a == 0 || b == 0)
        return 0;
    power = (unsigned)log_of[a] + log_of[b];
    return power_of[power >= LENGTH ? power - LENGTH : power];
}

static uint8_t over(uint8_t a, uint8_t b)
{
    return a == 0 ? 0 : power_of[(LENGTH + (unsigned)log_of[a] - log_of[b]) % LENGTH];
}

/* Odd syndromes of a block as bytes of 64-bit lanes, lowest first. The table says for every nibble of every word what
 * its 16 values add to them. */
static void bch_nibbles(const uint64_t *table, const word_t *words, unsigned count, unsigned nibbles, unsigned lanes,
                        uint64_t *syndrome)
{
    unsigned i, k, lane;
    for (i = 0; i < count; ++i)
        for (k = 0; k < nibbles; ++k, table += 16 * lanes) {
            const uint64_t *row = table + (words[i] >> 4 * k & 15) * lanes;
            for (lane = 0; lane < lanes; ++lane)
                syndrome[lane] ^= row[lane];
        }
}

static uint64_t bch_single(const uint64_t *table, const word_t *words, unsigned count, unsigned nibbles)
{
    uint64_t syndrome = 0;
    unsigned i, k;
    for (i = 0; i < count; ++i)
        for (k = 0; k < nibbles; ++k, table += 16)
            syndrome ^= table[words[i] >> 4 * k & 15];
    return syndrome;
}

static void bch_syndrome(const faultcli_tensor *t, const word_t *words, unsigned count, uint64_t *syndrome)
{
    const unsigned lanes = (t->bch_t + 7u) / 8, nibbles = (t->bits + 3u) / 4;
    if (lanes > 1)
        bch_nibbles(t->bch_table, words, count, nibbles, lanes, syndrome);
    else if (nibbles == 2)
        syndrome[0] = bch_single(t->bch_table, words, count, 2);
    else if (nibbles == 4)
        syndrome[0] = bch_single(t->bch_table, words, count, 4);
    else
        syndrome[0] = bch_single(t->bch_table, words, count, nibbles);
}

/* The polynomial with the inverses of the flips' positions as its roots, lowest power first (Berlekamp and Massey; the
 * even steps of a binary code change nothing). Returns its degree, or -1 if it is more than t. */
static int bch_locator(unsigned t, const uint64_t *odd, uint8_t *locator)
{
    uint8_t syndrome[2 * FAULTCLI_BCH + 1], previous[FAULTCLI_BCH + 1], old[FAULTCLI_BCH + 1];
    uint8_t scale = 1;
    unsigned degree = 0, shift = 1, step, i;
    for (i = 0; i < t; ++i)
        syndrome[2 * i + 1] = (uint8_t)(odd[i / 8] >> 8 * (i % 8));
    for (i = 2; i <= 2 * t; i += 2)
        syndrome[i] = times(syndrome[i / 2], syndrome[i / 2]);
    for (i = 0; i <= t; ++i)
        locator[i] = previous[i] = i == 0;
    for (step = 0; step < 2 * t; step += 2, shift += 2) {
        uint8_t discrepancy = syndrome[step + 1], ratio;
        const int grows = 2 * degree <= step;
        for (i = 1; i <= degree && i <= step; ++i)
            discrepancy ^= times(locator[i], syndrome[step + 1 - i]);
        if (discrepancy == 0)
            continue;
        if (grows && step + 1 - degree > t)
            return -1;
        ratio = over(discrepancy, scale);
        for (i = 0; i <= t; ++i)
            old[i] = locator[i];
        for (i = 0; i + shift <= t; ++i)
            locator[i + shift] ^= times(ratio, previous[i]);
        if (grows) {
            for (i = 0; i <= t; ++i)
                previous[i] = old[i];
            degree = step + 1 - degree;
            scale = discrepancy;
            shift = 0;
        }
    }
    return (int)degree;
}

/* Find the positions, below `length`, of the flips with these odd syndromes; -1 if there are no t or fewer of them. The
 * syndromes of a binary code make the locator one of full degree that has no factor in common with its derivative. */
static int bch_locate(unsigned t, const uint64_t *odd, unsigned length, uint8_t *flips)
{
    uint8_t locator[FAULTCLI_BCH + 1], terms[FAULTCLI_BCH + 1], powers[FAULTCLI_BCH + 1], last;
    const int degree = bch_locator(t, odd, locator);
    int found = 0, count = 0, i;
    unsigned position;
    if (degree <= 0)
        return -1;
    for (i = 1; i <= degree; ++i)
        if (locator[i] != 0) {
            powers[count] = (uint8_t)i;
            terms[count++] = log_of[locator[i]];
        }
    for (position = 0; position < length && found < degree - 1; ++position) {
        uint8_t value = 1;
        for (i = 0; i < count; ++i) {
            value ^= power_of[terms[i]];
            terms[i] = (uint8_t)(terms[i] >= powers[i] ? terms[i] - powers[i] : terms[i] + LENGTH - powers[i]);
        }
        if (value == 0)
            flips[found++] = (uint8_t)position;
    }
    if (found < degree - 1)
        return -1;
    last = locator[1]; /* the sum of all: the one that is left is none of the others, for no root comes twice */
    for (i = 0; i < found; ++i)
        last ^= power_of[flips[i]];
    if (log_of[last] >= length)
        return -1;
    flips[found] = log_of[last];
    return degree;
}

/* Where the bits of a block's code word lie. Its check bits are the lowest bits of the words, `each` of every word and
 * one more of the first `more`; then come the data bits, the top bits of all words first. */
typedef struct {
    unsigned block, bits, checks, each, more;
} bch_places_t;

static void bch_flip(const bch_places_t *p, unsigned position, word_t *words)
{
    unsigned word, bit;
    if (position < p->checks - 1) {
        const unsigned longer = p->more * (p->each + 1);
        if (position < longer) {
            word = position / (p->each + 1);
            bit = position % (p->each + 1);
        } else {
            word = p->more + (position - longer) / p->each;
            bit = (position - longer) % p->each;
        }
    } else { /* the last check bit is in no code word of 255 bits */
        const unsigned data = position - (p->checks - 1), planes = p->bits - 1 - p->each;
        if (data < planes * p->block) {
            word = data % p->block;
            bit = p->bits - 1 - data / p->block;
        } else {
            word = p->more + (data - planes * p->block);
            bit = p->each;
        }
    }
    words[word] ^= (word_t)1 << bit;
}

/* What words of a block that is beyond correction are taken for: by their top bits, what they probably were. */
static void read_lost(const faultcli_tensor *t, unsigned block, word_t *words)
{
    const unsigned low = t->bits > 8 ? t->bits - 8u : 0;
    unsigned i;
    for (i = 0; i < block; ++i)
        words[i] = (word_t)t->lost_table[words[i] >> low] << low | (words[i] & mask_of(low));
}

static void correct_bch(const reader_t *reader, word_t *words)
{
    const faultcli_tensor *t = reader->tensor;
    const unsigned block = 256u / t->bits;
    bch_places_t places;
    uint64_t syndrome[LANES] = {0}, any = 0;
    word_t all = 0;
    unsigned i, odd;
    int lost = 0;
    places.block = block;
    places.bits = t->bits;
    places.checks = t->bch_checks;
    places.each = t->bch_checks / block;
    places.more = t->bch_checks % block;
    bch_syndrome(t, words, block, syndrome);
    for (i = 0; i < LANES; ++i)
        any |= syndrome[i];
    for (i = 0; i < block; ++i)
        all ^= words[i];
    odd = parity_of(all);
    if (any != 0) {
        uint8_t flips[FAULTCLI_BCH];
        const int count = bch_locate(t->bch_t, syndrome, block * t->bits - 1, flips);
        if (count > 0 && (unsigned)count + ((unsigned)count + odd) % 2 <= t->bch_t) {
            for (i = 0; i < (unsigned)count; ++i)
                bch_flip(&places, flips[i], words);
            reader->status->corrected += (unsigned)count + ((unsigned)count + odd) % 2;
        } else {
            lost = 1;
            ++reader->status->lost;
        }
    } else {
        reader->status->corrected += odd;
    }
    for (i = 0; i < block; ++i)
        words[i] &= ~mask_of(places.each + (i < places.more));
    if (lost)
        read_lost(t, block, words);
}
#endif

/* ---- redundancy in the word ------------------------------------------------------------------------------------- */

static void read_mset(const reader_t *reader, size_t count, word_t *words)
{
    const unsigned position = reader->tensor->mset_bit;
    size_t i;
    for (i = 0; i < count; ++i) {
        const unsigned votes =
            (unsigned)(words[i] >> position & 1) + (unsigned)(words[i] & 1) + (unsigned)(words[i] >> 1 & 1);
        reader->status->corrected += votes % 3 != 0;
        words[i] &= ~((word_t)3 | (word_t)1 << position);
        words[i] |= (word_t)(votes >= 2) << position;
    }
}

static void read_cep(const reader_t *reader, size_t count, word_t *words)
{
    const unsigned bits = reader->tensor->bits, data = reader->tensor->cep_data, chunks = bits / (data + 1);
    size_t i;
    unsigned k;
    for (i = 0; i < count; ++i) {
        const word_t word = words[i];
        words[i] &= ~mask_of(chunks);
        for (k = 0; k < chunks; ++k) {
            const word_t mask = mask_of(data) << (bits - data - data * k);
            if (parity_of(word & mask) != (word >> k & 1)) {
                words[i] &= ~mask;
                ++reader->status->lost;
            }
        }
    }
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static float float_of(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } same;
    same.bits = bits;
    return same.value;
}

static uint32_t bits_of(float value)
{
    union {
        uint32_t bits;
        float value;
    } same;
    same.value = value;
    return same.bits;
}

static int32_t signed_of(word_t word, unsigned bits)
{
    const uint32_t top = (uint32_t)1 << (bits - 1);
    const uint32_t moved = ((uint32_t)word & (top | (top - 1))) ^ top; /* by 2^(bits - 1) upward */
    return moved >= top ? (int32_t)(moved - top) : -(int32_t)(top - 1 - moved) - 1;
}

static float power_of_two(int exponent) /* -126 to 127 */
{
    return float_of((uint32_t)(exponent + 127) << 23);
}

/* A float of fewer than 32 bits, of which only bfloat16 has 8 bits of exponent. */
static float small_float(const faultcli_tensor *t, uint32_t word)
{
    const unsigned e = t->exponent_bits, m = t->mantissa_bits;
    const uint32_t sign = word >> (e + m) << 31, mantissa = word & ((1u << m) - 1);
    const uint32_t exponent = word >> m & ((1u << e) - 1), last = (1u << e) - 1;
    if (e == 8)
        return float_of(word << 16);
    if (exponent == last && t->specials == FAULTCLI_IEEE)
        return float_of(sign | 0x7F800000u | (mantissa != 0 ? 0x400000u : 0));
    if (exponent == last && t->specials == FAULTCLI_FN && mantissa == (1u << m) - 1)
        return float_of(sign | 0x7FC00000u);
    if (exponent == 0)
        return float_of(sign | bits_of((float)mantissa * power_of_two(1 - (int)t->bias - (int)m)));
    return float_of(sign | (exponent + (uint32_t)(127 - t->bias)) << 23 | mantissa << (23 - m));
}

/* What words stand for, before scales. */
static void decode(const faultcli_tensor *t, const word_t *words, size_t count, float *values)
{
    size_t i;
    if (t->number == FAULTCLI_FIXED) {
        const float step = power_of_two(-(int)t->fraction_bits);
        for (i = 0; i < count; ++i)
            values[i] = (float)signed_of(words[i], t->bits) * step;
    } else if (t->number == FAULTCLI_LEVELS) {
        for (i = 0; i < count; ++i)
            values[i] = t->levels[words[i]];
    } else if (t->number == FAULTCLI_POWER) {
        for (i = 0; i < count; ++i) {
            const uint32_t power = (uint32_t)words[i];
            values[i] = float_of(power == 255 ? 0x7FC00000u : power == 0 ? 0x400000u : power << 23);
        }
    } else if (t->bits == 32) {
        for (i = 0; i < count; ++i)
            values[i] = float_of((uint32_t)words[i]);
    } else {
        for (i = 0; i < count; ++i)
            values[i] = small_float(t, (uint32_t)words[i]);
    }
}

/* Round to nearest, ties to even, into a number format of the checkpoint: 1 + e + m bits. */
static float rounded(float value, unsigned reads_as)
{
    static const uint8_t mantissas[] = {0, 23, 10, 7, 3, 2};
    static const uint8_t lowest[] = {0, 1, 113, 1, 121, 113}; /* the smallest normal exponent, as float32 has it */
    static const uint32_t largest[] = {0, 0, 0x477FE000u, 0x7F7F0000u, 0x43E00000u, 0x47600000u};
    const uint32_t bits = bits_of(value), sign = bits & 0x80000000u;
    const unsigned m = mantissas[reads_as], exponent = bits >> 23 & 255;
    const uint32_t beyond = reads_as == FAULTCLI_F8_E4M3 ? 0x43E00000u : 0x7F800000u; /* e4m3 has no infinities */
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (reads_as == FAULTCLI_F32 || magnitude > 0x7F800000u)
        return value;
    if (exponent < lowest[reads_as] && reads_as != FAULTCLI_BF16) {
        const unsigned dropped = 23 - m + (lowest[reads_as] - exponent);
        const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
        uint32_t kept;
        if (exponent == 0 || dropped > 24)
            return float_of(sign);
        kept = mantissa >> dropped;
        if ((mantissa & (((uint32_t)1 << dropped) - 1)) + (kept & 1) > (uint32_t)1 << (dropped - 1))
            ++kept;
        return float_of(sign | bits_of((float)kept * power_of_two((int)lowest[reads_as] - 127 - (int)m)));
    }
    magnitude += (((uint32_t)1 << (22 - m)) - 1) + (magnitude >> (23 - m) & 1);
    magnitude &= ~(((uint32_t)1 << (23 - m)) - 1);
    return float_of(sign | (magnitude > largest[reads_as] ? beyond : magnitude));
}

/* The end of the run of `size` values that value `at` belongs to, `end` at the most; 0: all are one run. */
static size_t run_end(size_t at, size_t size, size_t end)
{
    const size_t left = size == 0 ? end - at : size - at % size;
    return left < end - at ? at + left : end;
}

/* Where value `at` is counted, row after row of the output channels; `end` becomes the end of the values that follow it
 * there, too. */
static size_t counted_at(const faultcli_tensor *t, size_t at, size_t *end)
{
    size_t place, above, group;
    if (t->channels == 0)
        return at;
    place = at % t->inner;
    above = at / t->inner;
    group = above / t->channels;
    if (t->inner - place < *end - at)
        *end = at + t->inner - place;
    return ((group / t->outer * t->channels + above % t->channels) * t->outer + group % t->outer) * t->inner + place;
}

/* The number of the constant that value `at` has, of those for `size` values each (0: one for all); `end` becomes the
 * end of the values that share it. */
static size_t constant_of(const faultcli_tensor *t, size_t at, size_t size, size_t *end)
{
    size_t counted, left;
    if (size == 0)
        return 0;
    counted = counted_at(t, at, end);
    left = run_end(counted, size, counted + (*end - at)) - counted;
    *end = at + left;
    return counted / size;
}

/* Scales, some of which lie in the memory behind check words of their own: read a block at a time. */
typedef struct {
    reader_t reader; /* of the scales; no tensor: they lie beside the memory */
    size_t start, end;
    float values[16];
} scales_t;

static float scale_of(const faultcli_tensor *t, scales_t *scales, size_t group)
{
    const faultcli_tensor *own = scales->reader.tensor;
    if (own == 0)
        return t->scale_values[group];
    if (group < scales->start || group >= scales->end) {
        word_t words[16];
        const size_t block = own->check == FAULTCLI_SECDED_CODE ? own->secded_block : 1;
        scales->start = group / block * block;
        scales->end = scales->start + block;
        scales->reader.first = scales->start;
        load_checked(&scales->reader, scales->start, block, words);
        decode(own, words, block, scales->values);
    }
    return scales->values[group - scales->start];
}

static size_t group_of(const faultcli_tensor *t, size_t at, size_t *end)
{
    const size_t counted = counted_at(t, at, end);
    const size_t row = counted / t->row_words, column = counted % t->row_words;
    const size_t left = run_end(column, t->group, t->row_words) - column;
    if (left < *end - at)
        *end = at + left;
    return t->group == 0 ? row : row * t->row_groups + column / t->group;
}

#if FAULTCLI_POSTERIOR
/* |value / level - 1| <= 2^-6: the low bits refine what the top bits say. */
static double refined(double read, double value, double level)
{
    const double factor = value / level, off = factor - 1.0;
    return off <= 0.015625 && off >= -0.015625 ? read * factor : read;
}

static void level_words(const faultcli_tensor *t, const word_t *words, size_t count, word_t *out)
{
    const word_t low = mask_of(t->posterior_dropped);
    size_t i;
    for (i = 0; i < count; ++i)
        out[i] = words[i] & ~low;
}
#endif

/* Multiply numbers by the scale of their group, and take the posterior mean for them. */
static void estimate(const faultcli_tensor *t, scales_t *scales, size_t first, const word_t *words, size_t count,
                     float *values)
{
    const int scaled = t->row_words != 0;
    size_t i = 0;
#if !FAULTCLI_POSTERIOR
    (void)words;
    if (!scaled)
        return;
#endif
    while (i < count) {
        size_t end = first + count;
        const float scale = scaled ? scale_of(t, scales, group_of(t, first + i, &end)) : 1.0f;
#if FAULTCLI_POSTERIOR
        if (t->posterior != 0 || t->wide_posterior != 0) {
            size_t table;
            const size_t entries = (size_t)1 << (t->bits - t->posterior_dropped);
            table = constant_of(t, first + i, t->class_words, &end);
            table = t->classes == 0 ? 0 : t->classes[table] * entries;
            if (t->posterior != 0)
                for (; first + i < end; ++i)
                    values[i] = t->posterior[table + words[i]];
            else if (t->posterior_dropped != 0)
                for (; first + i < end; ++i) {
                    word_t top;
                    float level;
                    level_words(t, words + i, 1, &top);
                    decode(t, &top, 1, &level);
                    values[i] = (float)refined(t->wide_posterior[table + (words[i] >> t->posterior_dropped)],
                                               (double)values[i], (double)level);
                }
            else
                for (; first + i < end; ++i)
                    values[i] = (float)(t->wide_posterior[table + words[i]] * (double)scale);
            continue;
        }
#endif
        if (!scaled)
            return;
        for (; first + i < end; ++i)
            values[i] *= scale;
    }
}

static void guard(const reader_t *reader, size_t first, size_t count, float *values)
{
    const faultcli_tensor *t = reader->tensor;
    size_t i = 0;
    while (i < count) {
        size_t end = first + count;
        const float bound = t->bounds[constant_of(t, first + i, t->bound_words, &end)];
        for (; first + i < end; ++i)
            if (!(values[i] <= bound && values[i] >= -bound)) { /* so is NaN */
                if (t->guard == FAULTCLI_GUARD_ZERO || values[i] != values[i])
                    values[i] = 0.0f;
                else
                    values[i] = values[i] > bound ? bound : -bound;
                ++reader->status->replaced;
            }
    }
}

/* The values of words as they were written. */
static void read_values(const reader_t *reader, scales_t *scales, size_t first, const word_t *words, size_t count,
                        float *values)
{
    const faultcli_tensor *t = reader->tensor;
    size_t i = 0;
    decode(t, words, count, values);
    estimate(t, scales, first, words, count, values);
    if (t->guard != FAULTCLI_NO_GUARD)
        guard(reader, first, count, values);
    while (t->factors != 0 && i < count) {
        size_t end = first + count;
        const float factor = t->factors[constant_of(t, first + i, t->factor_words, &end)];
        for (; first + i < end; ++i)
            values[i] = values[i] / factor;
    }
    if (t->reads_as != FAULTCLI_F32 && t->reads_as != FAULTCLI_F64)
        for (i = 0; i < count; ++i)
            values[i] = rounded(values[i], t->reads_as);
}

#if FAULTCLI_DOUBLE
static double wide_number(const faultcli_tensor *t, word_t word)
{
    union {
        uint64_t bits;
        double value;
    } same;
    if (t->number == FAULTCLI_FIXED)
        return (double)signed_of(word, t->bits) * (double)power_of_two(-(int)t->fraction_bits);
    same.bits = word;
    return same.value;
}

/* The value of one word of a tensor that is computed in double precision. */
static double wide_value(const reader_t *reader, size_t at, word_t word)
{
    const faultcli_tensor *t = reader->tensor;
    double value = wide_number(t, word);
    size_t end = at + 1;
#if FAULTCLI_POSTERIOR
    if (t->wide_posterior != 0) {
        const size_t entries = (size_t)1 << (t->bits - t->posterior_dropped);
        const size_t table = t->classes == 0 ? 0 : t->classes[constant_of(t, at, t->class_words, &end)] * entries;
        word_t top;
        level_words(t, &word, 1, &top);
        value = refined(t->wide_posterior[table + (word >> t->posterior_dropped)], value, wide_number(t, top));
    }
#endif
    if (t->guard != FAULTCLI_NO_GUARD) {
        const double bound = t->wide_bounds[constant_of(t, at, t->bound_words, &end)];
        if (!(value <= bound && value >= -bound)) {
            if (t->guard == FAULTCLI_GUARD_ZERO || value != value)
                value = 0.0;
            else
                value = value > bound ? bound : -bound;
            ++reader->status->replaced;
        }
    }
    if (t->factors != 0)
        value = value / (double)t->factors[constant_of(t, at, t->factor_words, &end)];
    return value;
}
#endif

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef enum { NOTHING, WORDS, FLOATS, DOUBLES } what_t;

static void give_words(const word_t *words, unsigned bits, size_t at, size_t count, void *out)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        if (bits <= 8)
            ((uint8_t *)out)[at + i] = (uint8_t)words[i];
        else if (bits <= 16)
            ((uint16_t *)out)[at + i] = (uint16_t)words[i];
        else if (bits <= 32)
            ((uint32_t *)out)[at + i] = (uint32_t)words[i];
        else
            ((uint64_t *)out)[at + i] = (uint64_t)words[i];
    }
}

static void give(const reader_t *reader, scales_t *scales, size_t first, const word_t *words, size_t count, what_t what,
                 void *out, size_t at)
{
    const faultcli_tensor *t = reader->tensor;
#if FAULTCLI_DOUBLE
    size_t i;
    if (what >= FLOATS && t->wide) {
        for (i = 0; i < count; ++i) {
            const double value = wide_value(reader, first + i, words[i]);
            if (t->reads_as == FAULTCLI_F64)
                ((double *)out)[at + i] = value;
            else if (what == DOUBLES)
                ((double *)out)[at + i] = (double)rounded((float)value, t->reads_as);
            else
                ((float *)out)[at + i] = rounded((float)value, t->reads_as);
        }
        return;
    }
    if (what == DOUBLES) {
        float values[CHUNK];
        read_values(reader, scales, first, words, count, values);
        for (i = 0; i < count; ++i)
            ((double *)out)[at + i] = (double)values[i];
        return;
    }
#endif
    if (what == FLOATS)
        read_values(reader, scales, first, words, count, (float *)out + at);
    else if (what == WORDS)
        give_words(words, t->bits, at, count, out);
    else if (scales->reader.tensor != 0) { /* scales are looked at, too */
        size_t next = first, end;
        for (; next < first + count; next = end) {
            end = first + count;
            (void)scale_of(t, scales, group_of(t, next, &end));
        }
    }
}

size_t faultcli_block(const faultcli_tensor *t)
{
    if (t->link == FAULTCLI_INPLACE)
        return 256u / t->bits;
    return t->check == FAULTCLI_SECDED_CODE ? t->secded_block : 1;
}

static int supported(const faultcli_tensor *t, what_t what)
{
    if (what >= FLOATS && t->number == FAULTCLI_INTEGER)
        return FAULTCLI_WRONG_TYPE;
    if (what == FLOATS && t->reads_as == FAULTCLI_F64)
        return FAULTCLI_WRONG_TYPE;
    if (t->bits > FAULTCLI_WORD_BITS || (t->link == FAULTCLI_INPLACE && t->bch_t > FAULTCLI_BCH) ||
        (!FAULTCLI_SECDED && t->check == FAULTCLI_SECDED_CODE) || (!FAULTCLI_DOUBLE && what >= FLOATS && t->wide) ||
        (!FAULTCLI_POSTERIOR && (t->posterior != 0 || t->wide_posterior != 0)))
        return FAULTCLI_LEFT_OUT;
    return FAULTCLI_OK;
}

static int read_run(const faultcli_tensor *t, const void *memory, size_t first, size_t count, what_t what, void *out,
                    faultcli_status *status)
{
    const size_t block = faultcli_block(t), end = first + count, start = first / block * block;
    const int own = supported(t, what), wrong = own == FAULTCLI_OK && t->scales != 0 ? supported(t->scales, NOTHING) : own;
    const size_t chunk = t->link == FAULTCLI_INPLACE ? block : CHUNK / block * block;
    reader_t reader;
    scales_t scales;
    size_t at;
    if (wrong != FAULTCLI_OK)
        return wrong;
    if (first > t->elements || count > t->elements - first)
        return FAULTCLI_OUT_OF_RANGE;
    reader.tensor = t;
    reader.memory = (const uint8_t *)memory;
    reader.status = status;
    reader.first = start;
    scales.reader = reader;
    scales.reader.tensor = t->scales;
    scales.start = scales.end = 0;
    for (at = start; at < end;) { /* whole blocks, of which the values asked for are given */
        word_t words[CHUNK];
        const size_t blocks = (end - at + block - 1) / block * block, size = blocks < chunk ? blocks : chunk;
        const size_t from = at < first ? first - at : 0, left = end - at, to = size < left ? size : left;
        load_checked(&reader, at, size, words);
        switch (t->link) {
        case FAULTCLI_MSET: read_mset(&reader, to - from, words + from); break;
        case FAULTCLI_CEP: read_cep(&reader, to - from, words + from); break;
#if FAULTCLI_BCH
        case FAULTCLI_INPLACE: correct_bch(&reader, words); break;
#endif
        default: break;
        }
        give(&reader, &scales, at + from, words + from, to - from, what, out, at + from - first);
        at += size;
    }
    return FAULTCLI_OK;
}

int faultcli_read_float(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, float *values,
                        faultcli_status *status)
{
    return read_run(tensor, memory, first, count, FLOATS, values, status);
}

#if FAULTCLI_DOUBLE
int faultcli_read_double(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, double *values,
                         faultcli_status *status)
{
    return read_run(tensor, memory, first, count, DOUBLES, values, status);
}
#endif

int faultcli_read_words(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, void *words,
                        faultcli_status *status)
{
    return read_run(tensor, memory, first, count, WORDS, words, status);
}

int faultcli_check(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count,
                   faultcli_status *status)
{
    return read_run(tensor, memory, first, count, NOTHING, 0, status);
}
