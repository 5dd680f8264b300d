"""Keys of samples and findings, from the fields of their records."""

from aegis._native.json_values cimport work

# Each begins with a comma unless it has nothing to say, and False means a fault.
cdef bint sample_keys(work *w) noexcept nogil
cdef bint finding_keys(work *w) noexcept nogil
