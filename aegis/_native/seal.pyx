"""ChaCha20-Poly1305 (RFC 8439) and XChaCha20-Poly1305 for batches, with counter nonces."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from aegis._native.buffers cimport Pieces, Room, byte, companions, piece
from aegis._native.sodium cimport (
    RTLD_LAZY,
    RTLD_NOLOAD,
    aegis_copy_by_byte,
    decrypt_fn,
    dlopen,
    dlsym,
    encrypt_fn,
    free_fn,
    hchacha_fn,
    init_fn,
    malloc_fn,
    protect_fn,
    zero_fn,
)

import os

import nacl._sodium

cdef enum:
    KEY = 32
    TAG = 16
    NONCE = 12
    COUNTER_AT = 4
    PREFIX_IETF = 4
    PREFIX_X = 16
    GIL_BYTES = 65536  # above this the work is long enough to let another thread run

cdef uint64_t LONGEST = 1 << 36  # libsodium aborts the process above 2**38 - 64
cdef uint64_t forks = 0

KEY_BYTES = KEY
TAG_BYTES = TAG


class SealError(ValueError):
    """Base of what sealing and opening can say no to."""


class SealBroken(SealError):
    """A message did not verify: altered, of another key, or not the next. `index`: its place in the batch."""

    def __init__(self, int index):
        super().__init__(f"message {index} of the batch does not verify")
        self.index = index


class NonceExhausted(SealError):
    """The batch would pass the last counter this key may use. Nothing was sealed or opened."""


cdef void *library = NULL


cdef void *symbol(const char *name) except NULL:
    cdef void *found = dlsym(library, name)
    if found == NULL:
        raise ImportError(f"PyNaCl's libsodium does not show {name.decode()}")
    return found


# The extension module of PyNaCl carries libsodium or is linked to it, so its handle finds every function of
# the one libsodium in the process. (cffi's addressof gives the encrypting ones too, behind a trampoline, but
# not sodium_malloc.)
library = dlopen(os.fsencode(nacl._sodium.__file__), RTLD_LAZY | RTLD_NOLOAD)
if library == NULL:
    raise ImportError("PyNaCl's extension module cannot be opened by its own path")

cdef malloc_fn sodium_malloc = <malloc_fn>symbol(b"sodium_malloc")
cdef free_fn sodium_free = <free_fn>symbol(b"sodium_free")
cdef protect_fn sodium_readonly = <protect_fn>symbol(b"sodium_mprotect_readonly")
cdef zero_fn sodium_zero = <zero_fn>symbol(b"sodium_memzero")
cdef hchacha_fn hchacha20 = <hchacha_fn>symbol(b"crypto_core_hchacha20")
cdef encrypt_fn encrypt = <encrypt_fn>symbol(b"crypto_aead_chacha20poly1305_ietf_encrypt")
cdef decrypt_fn decrypt = <decrypt_fn>symbol(b"crypto_aead_chacha20poly1305_ietf_decrypt")

# Picks the fast implementations of this processor; harmless when PyNaCl did it before.
if (<init_fn>symbol(b"sodium_init"))() < 0:
    raise ImportError("libsodium cannot be initialised")


cdef bint rehearse() noexcept nogil:
    """Use every function once, on nothing secret.

    The dynamic linker resolves a function at its first call and saves the vector registers on the stack
    meanwhile. Were that call one with a key, the key would stay there.
    """
    cdef byte *room = <byte *>sodium_malloc(KEY)
    cdef byte nonce[NONCE]
    cdef byte sealed[1 + TAG]
    cdef byte opened[1]
    cdef bint works
    if room == NULL:
        return False
    memset(room, 0, KEY)
    memset(nonce, 0, NONCE)
    opened[0] = 7
    hchacha20(room, room, room, NULL)
    sodium_readonly(room)
    encrypt(sealed, NULL, opened, 1, NULL, 0, NULL, nonce, room)
    sodium_zero(opened, 1)
    works = decrypt(opened, NULL, NULL, sealed, 1 + TAG, NULL, 0, nonce, room) == 0 and opened[0] == 7
    sealed[0] ^= 1
    works = works and decrypt(opened, NULL, NULL, sealed, 1 + TAG, NULL, 0, nonce, room) != 0
    sodium_free(room)
    return works


if not rehearse():
    raise ImportError("libsodium does not open what it sealed")


def _count_fork():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_count_fork)


cdef piece NOTHING = piece(NULL, 0)


cdef inline const piece *ad_of(Pieces ads, Py_ssize_t index) noexcept nogil:
    return &ads.at[index] if ads is not None else &NOTHING


cdef class Seal:
    """One key with two counters: of the next message to seal and of the next to open.

    A prefix of 4 bytes means ChaCha20-Poly1305-IETF, one of 16 bytes XChaCha20-Poly1305; the nonce is the
    prefix and the counter as 8 bytes little-endian. `limit` is the first counter never used. Key and prefix
    together must be unique to this object: that, and counters that only grow, is why no nonce is used twice.
    In a forked child sealing is refused.
    """

    cdef byte *key
    cdef byte nonce[NONCE]
    cdef uint64_t born
    cdef int busy
    cdef readonly uint64_t sealed
    cdef readonly uint64_t opened
    cdef readonly uint64_t limit

    def __cinit__(
        self, key, prefix=b"\0\0\0\0", *, uint64_t sealed=0, uint64_t opened=0, uint64_t limit=1 << 48
    ):
        cdef Pieces given = Pieces((key, prefix))
        cdef byte *secret
        if given.at[0].size != KEY:
            raise SealError(f"a key has {KEY} bytes, not {given.at[0].size}")
        if given.at[1].size not in (PREFIX_IETF, PREFIX_X):
            raise SealError(f"a prefix has 4 or 16 bytes, not {given.at[1].size}")
        self.sealed, self.opened, self.limit = sealed, opened, limit
        self.born = forks
        secret = <byte *>sodium_malloc(KEY)
        if secret == NULL:
            raise MemoryError
        self.key = secret
        if given.at[1].size == PREFIX_IETF:
            aegis_copy_by_byte(secret, given.at[0].data, KEY)
            memcpy(self.nonce, given.at[1].data, PREFIX_IETF)
        else:
            # XChaCha20 is ChaCha20 under a key made of the key and the nonce's first 16 bytes, which never
            # change here.
            hchacha20(secret, given.at[1].data, given.at[0].data, NULL)
        sodium_readonly(secret)

    def __dealloc__(self):
        self.wipe()

    cdef void wipe(self) noexcept:
        if self.key != NULL:
            sodium_free(self.key)  # zeroes, then unmaps
            self.key = NULL

    def close(self):
        """Zero and free the key. Twice is harmless."""
        if self.busy:
            raise SealError("the seal is at work in another thread")
        self.wipe()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<Seal sealed={self.sealed} opened={self.opened}>"

    cdef int enter(self) except -1:
        """Keep the key while `busy`: the Python code of an argument or of a finalizer may call close()."""
        if self.key == NULL:
            raise SealError("the seal is closed")
        self.busy += 1
        return 0

    cdef uint64_t claim(self, Pieces messages) except? 0:
        """First of the sealing counters of these messages, which from here on are spent, whatever happens."""
        cdef uint64_t first = self.sealed
        if self.born != forks:
            raise SealError("a seal does not cross a fork: parent and child would use the same nonces")
        self.admit(messages, first)
        self.sealed += messages.count
        return first

    cdef int admit(self, Pieces messages, uint64_t first) except -1:
        cdef Py_ssize_t index
        if <uint64_t>messages.count > self.limit or first > self.limit - messages.count:
            raise NonceExhausted(f"{messages.count} messages from counter {first} would pass {self.limit}")
        for index in range(messages.count):
            if messages.at[index].size > LONGEST:
                raise SealError(f"message {index} of the batch is too long")
        return 0

    cdef uint64_t expect(self, Pieces messages) except? 0:
        """Counter the first of these messages must have."""
        cdef Py_ssize_t index
        cdef uint64_t first = self.opened
        self.admit(messages, first)
        for index in range(messages.count):
            if messages.at[index].size < TAG:
                raise SealBroken(index)
        return first

    cdef int advance(self, uint64_t first, Py_ssize_t count) except -1:
        """Count what was opened; SealBroken when another thread opened the same counters meanwhile."""
        if self.opened != first:
            raise SealBroken(0)
        self.opened += count
        return 0

    cdef void encrypt_one(
        self, byte *out, const piece *message, const piece *ad, uint64_t counter
    ) noexcept nogil:
        cdef byte nonce[NONCE]
        compose(nonce, self.nonce, counter)
        encrypt(out, NULL, message.data, message.size, ad.data, ad.size, NULL, nonce, self.key)

    cdef bint decrypt_one(
        self, byte *out, const piece *message, const piece *ad, uint64_t counter
    ) noexcept nogil:
        cdef byte nonce[NONCE]
        compose(nonce, self.nonce, counter)
        return decrypt(
            out, NULL, NULL, message.data, message.size, ad.data, ad.size, nonce, self.key,
        ) == 0

    cdef void encrypt_all(self, byte *out, Pieces messages, Pieces ads, uint64_t first) noexcept nogil:
        cdef Py_ssize_t index
        for index in range(messages.count):
            self.encrypt_one(out, &messages.at[index], ad_of(ads, index), first + index)
            out += messages.at[index].size + TAG

    cdef Py_ssize_t decrypt_all(self, byte *out, Pieces messages, Pieces ads, uint64_t first) noexcept nogil:
        """Index of the first message that does not verify, or -1."""
        cdef Py_ssize_t index
        for index in range(messages.count):
            if not self.decrypt_one(out, &messages.at[index], ad_of(ads, index), first + index):
                return index
            out += messages.at[index].size - TAG
        return -1

    def seal_many(self, messages, ads=None):
        """Ciphertext and tag of each message, under the next counters. `ads`: associated data of each."""
        cdef Pieces plain, extra
        cdef list sealed = []
        cdef bytes one
        cdef Py_ssize_t index
        cdef uint64_t first
        self.enter()
        try:
            plain = Pieces(messages)
            extra = companions(plain, ads)
            first = self.claim(plain)
            for index in range(plain.count):
                one = PyBytes_FromStringAndSize(NULL, plain.at[index].size + TAG)
                self.encrypt_one(
                    <byte *>PyBytes_AS_STRING(one), &plain.at[index], ad_of(extra, index), first + index
                )
                sealed.append(one)
            return sealed
        finally:
            self.busy -= 1

    def seal_into(self, messages, out, ads=None):
        """As seal_many, one after the other into the writable buffer `out`; number of bytes written there.

        Message i takes its own length and TAG_BYTES. `out` must not overlap a message.
        """
        cdef Pieces plain, extra
        cdef Room room
        cdef uint64_t size, first
        self.enter()
        try:
            plain = Pieces(messages)
            extra = companions(plain, ads)
            size = plain.total + <uint64_t>TAG * plain.count
            room = Room(out, size, plain)
            first = self.claim(plain)
            if size < GIL_BYTES:
                self.encrypt_all(room.data, plain, extra, first)
            else:
                with nogil:
                    self.encrypt_all(room.data, plain, extra, first)
            return size
        finally:
            self.busy -= 1

    def open_many(self, messages, ads=None):
        """Plaintext of each message, exactly the next ones expected. SealBroken: none counts as opened."""
        cdef Pieces closed, extra
        cdef list opened = []
        cdef bytes one
        cdef Py_ssize_t index
        cdef uint64_t first
        self.enter()
        try:
            closed = Pieces(messages)
            extra = companions(closed, ads)
            first = self.expect(closed)
            for index in range(closed.count):
                one = PyBytes_FromStringAndSize(NULL, closed.at[index].size - TAG)
                if not self.decrypt_one(
                    <byte *>PyBytes_AS_STRING(one), &closed.at[index], ad_of(extra, index), first + index
                ):
                    raise SealBroken(index)
                opened.append(one)
            self.advance(first, closed.count)
            return opened
        finally:
            self.busy -= 1

    def open_into(self, messages, out, ads=None):
        """As open_many, but into `out`; number of bytes written. SealBroken: what was written is zeroed."""
        cdef Pieces closed, extra
        cdef Room room
        cdef Py_ssize_t broken
        cdef uint64_t size, first
        self.enter()
        try:
            closed = Pieces(messages)
            extra = companions(closed, ads)
            first = self.expect(closed)
            size = closed.total - <uint64_t>TAG * closed.count
            room = Room(out, size, closed)
            if size < GIL_BYTES:
                broken = self.decrypt_all(room.data, closed, extra, first)
            else:
                with nogil:
                    broken = self.decrypt_all(room.data, closed, extra, first)
            if broken >= 0:
                sodium_zero(room.data, size)
                raise SealBroken(broken)
            self.advance(first, closed.count)
            return size
        finally:
            self.busy -= 1


cdef inline void compose(byte *nonce, const byte *prefix, uint64_t counter) noexcept nogil:
    cdef int index
    memcpy(nonce, prefix, PREFIX_IETF)
    for index in range(8):
        nonce[COUNTER_AT + index] = <byte>(counter >> (8 * index))
