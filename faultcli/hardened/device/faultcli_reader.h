/* Reads hardened weights: corrects flipped bits, and gives the values bit for bit as faultcli reads them in Python.
 *
 * C99 without the C library: no allocation, no recursion, no global state. Up to 3 KB of stack, 2 KB where words have 32
 * bits at the most. Any byte order. Compile with -ffp-contract=off and without -ffast-math: every product and
 * quotient is rounded by itself.
 *
 *     float row[64];
 *     faultcli_status status = {0, 0, 0};
 *     if (faultcli_read_float(&tensor, memory, first, 64, row, &status) != FAULTCLI_OK) ...
 *     if (status.lost != 0) ...       some of these values may not be what was written
 *
 * Memory. A tensor's regions lie at byte offsets from one base address, its words first to last:
 *   words of 8, 16, 32 or 64 bits    unsigned integers, least significant byte first
 *   9..15, 17..31, 33..63 bits       the same in the next wider integer; the upper bits are ignored
 *   fewer than 8 bits                packed, the first word in the least significant bits of the first byte
 * Check words lie in the same way by their own width. Nothing has to be aligned.
 */
#ifndef FAULTCLI_READER_H
#define FAULTCLI_READER_H

#include <stddef.h>
#include <stdint.h>

#include "faultcli_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return. */
enum {
    FAULTCLI_OK = 0,
    FAULTCLI_OUT_OF_RANGE = 1, /* the tensor has fewer values */
    FAULTCLI_WRONG_TYPE = 2,   /* double values asked for as float, or integers as numbers */
    FAULTCLI_LEFT_OUT = 3      /* faultcli_config.h leaves out what the tensor needs */
};

/* What a word stands for. */
enum {
    FAULTCLI_INTEGER = 0, /* an integer that is stored as it is: read its words */
    FAULTCLI_FLOAT = 1,   /* sign, exponent, mantissa */
    FAULTCLI_FIXED = 2,   /* two's complement, in units of 2^-fraction_bits */
    FAULTCLI_LEVELS = 3,  /* a place in `levels` */
    FAULTCLI_POWER = 4    /* e8m0: 2^(word - 127), 255 is NaN */
};

/* Which codes of a float are not finite. */
enum {
    FAULTCLI_IEEE = 0,   /* exponent all ones: infinities and NaN */
    FAULTCLI_FN = 1,     /* exponent and mantissa all ones: NaN */
    FAULTCLI_FINITE = 2  /* none */
};

/* What the redundancy is, of a word or its block, and in memory of its own. */
enum { FAULTCLI_PLAIN = 0, FAULTCLI_MSET = 1, FAULTCLI_CEP = 2, FAULTCLI_INPLACE = 3 };
enum { FAULTCLI_UNCHECKED = 0, FAULTCLI_PARITY = 1, FAULTCLI_TMR = 2, FAULTCLI_SECDED_CODE = 3 };
enum { FAULTCLI_NO_GUARD = 0, FAULTCLI_GUARD_ZERO = 1, FAULTCLI_GUARD_CLAMP = 2 };

/* The number format that a value is rounded into when it has been read: that of the checkpoint. */
enum {
    FAULTCLI_F64 = 0,
    FAULTCLI_F32 = 1,
    FAULTCLI_F16 = 2,
    FAULTCLI_BF16 = 3,
    FAULTCLI_F8_E4M3 = 4,
    FAULTCLI_F8_E5M2 = 5,
    FAULTCLI_NO_NUMBER = 6
};

/* What reading has found. Functions add to it, so that one status may cover many reads. */
typedef struct {
    uint32_t corrected; /* flips that were corrected, those of check bits included */
    uint32_t lost;      /* blocks, words or chunks of words known to be wrong, but not how; parts that follow a link
                           which corrects them are not counted */
    uint32_t replaced;  /* values that a guard replaced: none of this size was ever written */
} faultcli_status;

/* How one tensor lies in the memory and how it is read. Written by the exporter; `0` stands for what is not there. */
typedef struct faultcli_tensor {
    const char *name;
    size_t elements;   /* values */
    size_t padding;    /* words in memory that fill the last block */
    size_t words_at;   /* byte offsets of the regions: the words, */
    size_t padding_at; /* the padding, */
    size_t checks_at;  /* and the check words */

    uint8_t bits;   /* of a word, 2 to 64 */
    uint8_t number; /* FAULTCLI_INTEGER .. FAULTCLI_POWER */
    uint8_t exponent_bits;
    uint8_t mantissa_bits;
    uint8_t specials; /* FAULTCLI_IEEE .. FAULTCLI_FINITE */
    uint8_t fraction_bits;
    uint8_t wide;     /* whether values are computed in double precision */
    uint8_t reads_as; /* FAULTCLI_F64 .. FAULTCLI_NO_NUMBER */
    int32_t bias;     /* of the exponent */
    const float *levels;

    /* value = number * scale of its group. Rows of `row_words` values are cut into groups of `group` (0: whole). */
    const struct faultcli_tensor *scales; /* scales that lie in the memory */
    const float *scale_values;            /* scales that lie beside it */
    size_t row_words;
    size_t group;
    size_t row_groups; /* groups of a row */

    /* Output channels whose rows do not follow each other: values lie as [..][outer][channels][inner], and rows, groups
     * and constants count them as [..][channels][outer][inner]. `channels` 0: they follow each other. */
    size_t outer;
    size_t channels;
    size_t inner;

    /* Constants per `..._words` values; 0: one for all. */
    const float *factors; /* values are divided by them */
    size_t factor_words;
    const float *bounds; /* largest magnitudes that were written; */
    const double *wide_bounds; /* for `wide` tensors */
    size_t bound_words;
    const float *posterior; /* tables of the posterior mean, 2^(bits - posterior_dropped) entries each; */
    const double *wide_posterior; /* where float would round twice */
    const uint16_t *classes; /* which table; 0: the first */
    size_t class_words;
    uint8_t posterior_dropped; /* low bits that the table does not look at */
    uint8_t guard;             /* FAULTCLI_NO_GUARD .. FAULTCLI_GUARD_CLAMP */

    uint8_t link;         /* FAULTCLI_PLAIN .. FAULTCLI_INPLACE */
    uint8_t mset_bit;     /* the bit that is stored three times */
    uint8_t cep_data;     /* bits of a chunk */
    uint8_t bch_t;        /* flips that are corrected per block of 256 bits */
    uint8_t bch_checks;   /* check bits of a block */
    uint8_t check;        /* FAULTCLI_UNCHECKED .. FAULTCLI_SECDED_CODE */
    uint8_t check_bits;   /* of a check word */
    uint8_t secded_block; /* words that a check word is for */
    uint8_t secded_keeps; /* what cannot be corrected is left to the link before; otherwise it reads as `zero` */
    uint64_t zero;        /* the word of 0 */
    const uint64_t *bch_table;    /* [words][nibbles of a word][16][(t + 7) / 8], see `bch_syndrome` */
    const uint8_t *lost_table;    /* what the top 8 bits of words of a lost block are taken for */
    const uint16_t *secded_table; /* [words][nibbles of a word][16] */
} faultcli_tensor;

/* Read `count` values from value `first` on; any run, whole blocks or not. Blocks that the run touches are corrected,
 * on the way: the memory is not changed. `memory`: the base address of the regions. Returns FAULTCLI_OK or what is
 * wrong with the request. */
int faultcli_read_float(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, float *values,
                        faultcli_status *status);

/* The same for tensors of any floating dtype; those whose `reads_as` is FAULTCLI_F64 need it. */
#if FAULTCLI_DOUBLE
int faultcli_read_double(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, double *values,
                         faultcli_status *status);
#endif

/* The same for words as they were written, check bits in them 0: an array of uint8_t, uint16_t, uint32_t or uint64_t,
 * whichever is the first that holds `bits` bits. Integer tensors have no other values. */
int faultcli_read_words(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count, void *words,
                        faultcli_status *status);

/* Look for flips, and read nothing. */
int faultcli_check(const faultcli_tensor *tensor, const void *memory, size_t first, size_t count,
                   faultcli_status *status);

/* Values that are corrected together; reads that start at multiples of it do nothing twice. */
size_t faultcli_block(const faultcli_tensor *tensor);

#ifdef __cplusplus
}
#endif

#endif
