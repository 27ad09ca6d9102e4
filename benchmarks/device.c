/* Times the reader of an exported folder against a CRC-32 of the same bytes, both looked up byte by byte.
 *
 *     device weights.bin FLIPS...
 *
 * prints a line `name seconds` for each: crc, words (clean blocks read as they were written), check (and read as
 * nothing), float; and for every number of flips `flips-N`, a check of blocks of 32 bytes that have so many each.
 * Seconds are the median of several takes, in which all take turns. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "weights.h"

enum { TAKES = 9, MOST = 16, BLOCK = 32 };

static uint8_t memory[WEIGHTS_BYTES], damaged[WEIGHTS_BYTES];
static uint32_t crc_table[256];
static float floats[WEIGHTS_BYTES];
static uint8_t words[WEIGHTS_BYTES];
static volatile uint32_t sink;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void crc(void)
{
    uint32_t sum = 0xFFFFFFFFu;
    size_t i;
    for (i = 0; i < WEIGHTS_BYTES; ++i)
        sum = sum >> 8 ^ crc_table[(sum ^ memory[i]) & 255];
    sink = sum;
}

static void run(int what, faultcli_status *status)
{
    const faultcli_tensor *tensor = weights_tensors[0];
    if (what == 0)
        crc();
    else if (what == 1)
        faultcli_read_words(tensor, memory, 0, tensor->elements, words, status);
    else if (what == 2)
        faultcli_check(tensor, memory, 0, tensor->elements, status);
    else if (what == 3)
        faultcli_read_float(tensor, memory, 0, tensor->elements, floats, status);
    else
        faultcli_check(tensor, damaged, 0, tensor->elements, status);
}

static int ascending(const void *one, const void *other)
{
    const double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static void flip(unsigned count)
{
    uint32_t random = 1;
    size_t start;
    memcpy(damaged, memory, sizeof memory);
    for (start = 0; start + BLOCK <= weights_tensors[0]->elements; start += BLOCK) {
        unsigned done = 0;
        while (done < count) {
            uint8_t *byte, bit;
            random = random * 1664525u + 1013904223u;
            byte = damaged + start + (random >> 27);
            bit = (uint8_t)(1u << (random >> 24 & 7));
            if (((*byte ^ memory[byte - damaged]) & bit) == 0) {
                *byte ^= bit;
                ++done;
            }
        }
    }
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"crc", "words", "check", "float"};
    const int count = 4 + argc - 2;
    double seconds[MOST][TAKES];
    faultcli_status status = {0, 0, 0};
    FILE *file = argc > 1 && count <= MOST ? fopen(argv[1], "rb") : 0;
    int take, what;
    unsigned i, bit;
    if (file == 0 || fread(memory, 1, sizeof memory, file) != sizeof memory)
        return 2;
    for (i = 0; i < 256; ++i)
        for (crc_table[i] = i, bit = 0; bit < 8; ++bit)
            crc_table[i] = crc_table[i] >> 1 ^ (crc_table[i] & 1 ? 0xEDB88320u : 0);
    for (take = -1; take < TAKES; ++take)
        for (what = 0; what < count; ++what) {
            double start;
            if (what >= 4)
                flip((unsigned)atoi(argv[2 + what - 4]));
            start = now();
            run(what, &status);
            if (take >= 0)
                seconds[what][take] = now() - start;
        }
    for (what = 0; what < count; ++what) {
        qsort(seconds[what], TAKES, sizeof(double), ascending);
        if (what < 4)
            printf("%s %.9f\n", names[what], seconds[what][TAKES / 2]);
        else
            printf("flips-%s %.9f\n", argv[2 + what - 4], seconds[what][TAKES / 2]);
    }
    return 0;
}
