"""Foreign declarations: libsodium's functions and the way to find them in PyNaCl's own copy."""

from aegis._native.buffers cimport byte

ctypedef int (*init_fn)() noexcept nogil
ctypedef void *(*malloc_fn)(size_t size) noexcept nogil
ctypedef void (*free_fn)(void *pointer) noexcept nogil
ctypedef int (*protect_fn)(void *pointer) noexcept nogil
ctypedef void (*zero_fn)(void *pointer, size_t size) noexcept nogil
ctypedef int (*hchacha_fn)(
    byte *out, const byte *source, const byte *key, const byte *constant
) noexcept nogil
ctypedef int (*encrypt_fn)(
    byte *c, unsigned long long *clen, const byte *m, unsigned long long mlen, const byte *ad,
    unsigned long long adlen, const byte *nsec, const byte *npub, const byte *key
) noexcept nogil
ctypedef int (*decrypt_fn)(
    byte *m, unsigned long long *mlen, byte *nsec, const byte *c, unsigned long long clen, const byte *ad,
    unsigned long long adlen, const byte *npub, const byte *key
) noexcept nogil


cdef extern from "<dlfcn.h>" nogil:
    int RTLD_LAZY
    int RTLD_NOLOAD
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)


cdef extern from *:
    """
    /* A vector register that held the key would be saved on the stack by whoever saves registers next. */
    static void aegis_copy_by_byte(unsigned char *to, const unsigned char *from, size_t size)
    {
        for (volatile unsigned char *out = to; size; size--)
            *out++ = *from++;
    }
    """
    void aegis_copy_by_byte(byte *to, const byte *source, size_t size) noexcept nogil
