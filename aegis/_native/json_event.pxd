"""Keys of events and flows, from the fields of their records."""

from aegis._native.json_values cimport work

# Each begins with a comma, and False means a fault.
cdef bint exit_keys(work *w) noexcept nogil
cdef bint socket_keys(work *w, bint connects, bint listens) noexcept nogil
cdef bint verdict_keys(work *w) noexcept nogil
cdef bint loss_keys(work *w) noexcept nogil
cdef bint flow_keys(work *w) noexcept nogil
