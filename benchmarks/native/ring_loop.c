/* The limit the ring reader is measured against: libbpf's consumer, a check of the header and an open hash,
 * in plain C. Same records, same ring and as many slots as aegis/_native/tally.pxd makes for the same number
 * of keys. */
#include <stdint.h>
#include <stdlib.h>
#include <bpf/libbpf.h>
#include "aegis/abi.h"

struct slot {
    uint64_t key;
    uint64_t count;
    uint64_t total;
};

struct loop {
    struct ring_buffer *ring;
    struct slot *slots;
    uint64_t mask;
    uint64_t used;
    uint64_t read;
    unsigned shift;
};

static int take(void *context, void *data, size_t size)
{
    struct loop *loop = context;
    const struct aegis_synthetic *record = data;

    loop->read++;
    if (size != sizeof(*record) || record->header.size != size || record->header.kind != AEGIS_KIND_SYNTHETIC)
        return 0;
    uint64_t index = (record->key * 0x9e3779b97f4a7c15ULL) >> loop->shift;
    struct slot *slot = &loop->slots[index];
    while (slot->count && slot->key != record->key) {
        index = (index + 1) & loop->mask;
        slot = &loop->slots[index];
    }
    if (!slot->count) {
        slot->key = record->key;
        loop->used++;
    }
    slot->count++;
    slot->total += record->value;
    return 0;
}

struct loop *ring_loop_new(int map_fd, uint64_t keys)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    uint64_t slots = 16;
    unsigned bits = 4;

    while (slots < 2 * keys) {
        slots *= 2;
        bits++;
    }
    loop->mask = slots - 1;
    loop->shift = 64 - bits;
    loop->slots = calloc(slots, sizeof(*loop->slots));
    loop->ring = ring_buffer__new(map_fd, take, loop, NULL);
    return loop;
}

int ring_loop_drain(struct loop *loop)
{
    return ring_buffer__consume(loop->ring);
}

uint64_t ring_loop_read(const struct loop *loop)
{
    return loop->read;
}

uint64_t ring_loop_keys(const struct loop *loop)
{
    return loop->used;
}

void ring_loop_free(struct loop *loop)
{
    ring_buffer__free(loop->ring);
    free(loop->slots);
    free(loop);
}
