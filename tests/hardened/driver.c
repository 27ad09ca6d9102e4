/* Runs the reader for tests: requests come on the standard input, answers go to the standard output. Everything that a
 * request brings lies in memory of exactly its size, so that a sanitizer sees every byte too many. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "faultcli_reader.h"

enum { TENSORS = 64, TABLES = 64 * 16 };

static faultcli_tensor *tensors[TENSORS];
static void *tables[TABLES];
static size_t tensor_count, table_count;
static uint8_t *memory;

static void take(void *to, size_t size)
{
    if (size != 0 && fread(to, 1, size, stdin) != size)
        exit(3);
}

static uint64_t number(void)
{
    uint64_t value;
    if (fread(&value, 1, sizeof value, stdin) != sizeof value)
        exit(0); /* no more requests */
    return value;
}

static void *block(size_t size)
{
    void *made = malloc(size != 0 ? size : 1);
    if (made == 0)
        exit(4);
    take(made, size);
    return made;
}

static void forget(void)
{
    while (tensor_count > 0)
        free(tensors[--tensor_count]);
    while (table_count > 0)
        free(tables[--table_count]);
}

static void define(void)
{
    size_t pointers;
    faultcli_tensor *made = block(number());
    for (pointers = number(); pointers > 0; --pointers) {
        const uint64_t offset = number(), size = number();
        const void *where;
        if (size == UINT64_MAX)
            where = tensors[number()];
        else
            where = tables[table_count++] = block(size);
        memcpy((uint8_t *)made + offset, &where, sizeof where);
    }
    tensors[tensor_count++] = made;
}

static void read_values(void)
{
    const faultcli_tensor *tensor = tensors[number()];
    const uint64_t what = number(), first = number(), count = number(), size = number();
    void *values = calloc(count != 0 ? count : 1, size);
    faultcli_status status = {0, 0, 0};
    int wrong = -1;
    uint32_t answer[4];
    if (values == 0)
        exit(4);
    if (what == 0)
        wrong = faultcli_check(tensor, memory, first, count, &status);
    else if (what == 1)
        wrong = faultcli_read_words(tensor, memory, first, count, values, &status);
    else if (what == 2)
        wrong = faultcli_read_float(tensor, memory, first, count, values, &status);
    else
        wrong = faultcli_read_double(tensor, memory, first, count, values, &status);
    answer[0] = (uint32_t)wrong;
    answer[1] = status.corrected;
    answer[2] = status.lost;
    answer[3] = status.replaced;
    fwrite(answer, sizeof answer, 1, stdout);
    fwrite(values, size, count, stdout);
    fflush(stdout);
    free(values);
}

int main(void)
{
    for (;;) {
        const uint64_t request = number();
        if (request == 0)
            forget();
        else if (request == 1)
            define();
        else if (request == 2) {
            free(memory);
            memory = block(number());
        } else
            read_values();
    }
}
