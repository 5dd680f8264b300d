"""Who an event or a flow belongs to, from the fragment of a record into JSON keys."""

from aegis._native.json_values cimport work

# Both write their keys with a comma before each, and False means a fault.
cdef bint event_owner(work *w) noexcept nogil
cdef bint flow_owner(work *w) noexcept nogil
