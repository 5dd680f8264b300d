"""Foreign declarations: libbpf's ring consumer, and the two barriers the armed word needs."""


cdef extern from "<bpf/libbpf.h>" nogil:
    struct ring_buffer:
        pass

    ctypedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size) noexcept nogil

    # Sets errno and returns NULL on failure.
    ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample_cb, void *ctx, const void *opts)
    void ring_buffer__free(ring_buffer *rb)
    int ring_buffer__consume(ring_buffer *rb)
    int ring_buffer__epoll_fd(const ring_buffer *rb)


cdef extern from * nogil:
    """
    #define aegis_store_seq(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_SEQ_CST)
    #define aegis_load_seq(pointer) __atomic_load_n((pointer), __ATOMIC_SEQ_CST)
    #define aegis_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void aegis_store_seq(unsigned int *pointer, unsigned int value)
    unsigned int aegis_load_seq(unsigned int *pointer)
    void aegis_fence()
