/* Holds the reader to what faultcli read on the machine that wrote this folder: every tensor, then blocks with flips. */
#include <stdio.h>
#include <string.h>

#include "golden.h"
#include "weights.h"

static uint8_t memory[WEIGHTS_BYTES != 0 ? WEIGHTS_BYTES : 1]; /* flips need memory that can be written */
static unsigned wrong;

/* Read values as bits; NaN is the positive quiet one. */
static int read_bits(const golden_tensor *golden, size_t first, size_t count, uint64_t *bits, faultcli_status *status)
{
    size_t i;
    int result;
    if (golden->tensor->number == FAULTCLI_INTEGER) {
        uint64_t words[GOLDEN_RUN];
        result = faultcli_read_words(golden->tensor, memory, first, count, words, status);
        for (i = 0; i < count; ++i)
            switch (golden->size) {
            case 1: bits[i] = ((uint8_t *)words)[i]; break;
            case 2: { uint16_t word; memcpy(&word, (uint8_t *)words + 2 * i, 2); bits[i] = word; break; }
            case 4: { uint32_t word; memcpy(&word, (uint8_t *)words + 4 * i, 4); bits[i] = word; break; }
            default: bits[i] = words[i]; break;
            }
    } else if (golden->size == 4) {
        float values[GOLDEN_RUN];
        result = faultcli_read_float(golden->tensor, memory, first, count, values, status);
        for (i = 0; i < count; ++i) {
            uint32_t word;
            memcpy(&word, &values[i], sizeof word);
            bits[i] = values[i] != values[i] ? 0x7FC00000u : word;
        }
    } else {
#if FAULTCLI_DOUBLE
        double values[GOLDEN_RUN];
        result = faultcli_read_double(golden->tensor, memory, first, count, values, status);
        for (i = 0; i < count; ++i) {
            uint64_t word;
            memcpy(&word, &values[i], sizeof word);
            bits[i] = values[i] != values[i] ? (uint64_t)0x7FF8u << 48 : word;
        }
#else
        result = FAULTCLI_LEFT_OUT;
#endif
    }
    return result;
}

static uint32_t crc_of(uint32_t crc, uint64_t bits, unsigned size)
{
    unsigned bit;
    for (; size > 0; --size, bits >>= 8) {
        crc ^= (uint32_t)(bits & 255);
        for (bit = 0; bit < 8; ++bit)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return crc;
}

static void complain(const golden_tensor *golden, const char *what)
{
    printf("%s: %s\n", golden->tensor->name, what);
    ++wrong;
}

static void test_clean(const golden_tensor *golden)
{
    faultcli_status status = {0, 0, 0};
    uint32_t crc = 0xFFFFFFFFu;
    size_t first, i;
    for (first = 0; first < golden->tensor->elements; first += GOLDEN_RUN) {
        uint64_t bits[GOLDEN_RUN];
        size_t count = golden->tensor->elements - first;
        if (count > GOLDEN_RUN)
            count = GOLDEN_RUN;
        if (read_bits(golden, first, count, bits, &status) != FAULTCLI_OK) {
            complain(golden, "cannot be read");
            return;
        }
        for (i = 0; i < count; ++i) {
            crc = crc_of(crc, bits[i], golden->size);
            if (first + i < golden->first_count && bits[i] != golden->first[i])
                complain(golden, "one of the first values is another");
        }
    }
    if ((crc ^ 0xFFFFFFFFu) != golden->crc)
        complain(golden, "values are not those that were written");
    if (status.corrected != 0 || status.lost != 0)
        complain(golden, "faults in memory that has none");
}

static void test_damaged(const golden_run *run)
{
    faultcli_status status = {0, 0, 0};
    uint64_t bits[GOLDEN_RUN];
    size_t i;
    for (i = 0; i < run->flip_count; ++i)
        memory[run->flips[i].at] ^= run->flips[i].mask;
    if (read_bits(run->golden, run->first, run->count, bits, &status) != FAULTCLI_OK)
        complain(run->golden, "cannot be read");
    else if (memcmp(bits, run->bits, run->count * sizeof *bits) != 0)
        complain(run->golden, "a damaged block reads differently");
    else if (status.corrected != run->corrected || status.lost != run->lost)
        complain(run->golden, "a damaged block counts differently");
    for (i = 0; i < run->flip_count; ++i)
        memory[run->flips[i].at] ^= run->flips[i].mask;
}

int main(void)
{
    const size_t runs = GOLDEN_RUNS; /* may be 0 */
    size_t i;
    memcpy(memory, weights_data, WEIGHTS_BYTES);
    for (i = 0; i < GOLDEN_TENSORS; ++i)
        test_clean(&golden_tensors[i]);
    for (i = 0; i < runs; ++i)
        test_damaged(&golden_runs[i]);
    if (wrong == 0)
        printf("ok: %u tensors, %u damaged blocks\n", (unsigned)GOLDEN_TENSORS, (unsigned)GOLDEN_RUNS);
    return wrong != 0;
}
