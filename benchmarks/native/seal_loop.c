/* The limit sealing is measured against: the same libsodium functions with a counter nonce, in plain C. */
#include <stdint.h>
#include <string.h>

typedef int (*encrypt_fn)(unsigned char *, unsigned long long *, const unsigned char *, unsigned long long,
                          const unsigned char *, unsigned long long, const unsigned char *,
                          const unsigned char *, const unsigned char *);
typedef int (*decrypt_fn)(unsigned char *, unsigned long long *, unsigned char *, const unsigned char *,
                          unsigned long long, const unsigned char *, unsigned long long,
                          const unsigned char *, const unsigned char *);

/* Seal `count` messages of `size` bytes lying one after the other. */
void seal_loop_seal(void *encrypt, const unsigned char *key, const unsigned char *messages, uint64_t size,
                    uint64_t count, unsigned char *out)
{
    unsigned char nonce[12] = {0};

    for (uint64_t counter = 0; counter < count; counter++) {
        memcpy(nonce + 4, &counter, sizeof(counter));
        ((encrypt_fn)encrypt)(out, NULL, messages, size, NULL, 0, NULL, nonce, key);
        messages += size;
        out += size + 16;
    }
}

/* Open what seal_loop_seal made; how many verified. */
uint64_t seal_loop_open(void *decrypt, const unsigned char *key, const unsigned char *messages, uint64_t size,
                        uint64_t count, unsigned char *out)
{
    unsigned char nonce[12] = {0};
    uint64_t verified = 0;

    for (uint64_t counter = 0; counter < count; counter++) {
        memcpy(nonce + 4, &counter, sizeof(counter));
        verified += ((decrypt_fn)decrypt)(out, NULL, NULL, messages, size + 16, NULL, 0, nonce, key) == 0;
        messages += size + 16;
        out += size;
    }
    return verified;
}
