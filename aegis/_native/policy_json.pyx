"""Reads JSON into the tree of `aegis.model.document`: strictly, with lines, counting first."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8

import msgspec


class Refused(Exception):
    """What is not taken. Arguments: line, reason; `path` are keys and indexes from the outside in."""

    def __init__(self, line, reason):
        super().__init__(line, reason)
        self.line, self.reason = line, reason
        self.path = []


def elements(bytes data, int depth):
    """Elements of the lists that lie in `depth` others, lists and mappings; and the line of the last one.

    Reads the brackets and commas only; of what is no JSON it says something, and ends.
    """
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef const unsigned char *end = at + PyBytes_GET_SIZE(data)
    cdef Py_ssize_t count = 0, line = 1, last = 1
    cdef int level = 0
    cdef bint listing = False, empty = True
    while at < end:
        if at[0] == 0x22:  # a string
            at += 1
            while at < end and at[0] != 0x22:
                at += 2 if at[0] == 0x5C else 1
            empty = False
        elif at[0] == 0x0A:
            line += 1
        elif at[0] == 0x5B or at[0] == 0x7B:  # [ {
            if level == depth and listing and empty:
                count += 1
                last = line
            empty = False
            level += 1
            if level == depth:
                listing = at[0] == 0x5B
                empty = True
        elif at[0] == 0x5D or at[0] == 0x7D:  # ] }
            if level == depth:
                listing = False
            level -= 1
        elif at[0] == 0x2C:  # ,
            if level == depth and listing:
                count += 1
                last = line
        at += 1
    return count, last


cdef class Reader:
    """One reading. `kinds` are the classes of a scalar, a list, a member and a mapping."""

    cdef const unsigned char *at
    cdef const unsigned char *end
    cdef Py_ssize_t line, nodes, most_nodes
    cdef int most_depth
    cdef object scalar, items, member, mapping
    cdef dict keys
    cdef bytes data

    def __init__(self, bytes data, kinds, int most_depth, Py_ssize_t most_nodes):
        self.data = data
        self.at = <const unsigned char *>PyBytes_AS_STRING(data)
        self.end = self.at + PyBytes_GET_SIZE(data)
        self.line = 1
        self.most_depth, self.most_nodes = most_depth, most_nodes
        self.scalar, self.items, self.member, self.mapping = kinds
        self.keys = {}

    def document(self):
        """The tree. Raises Refused."""
        cdef object root
        self.skip()
        root = self.value(0)
        self.skip()
        if self.at != self.end:
            raise Refused(self.line, "there is something behind the document")
        return root

    cdef void skip(self) noexcept:
        """Go to the next character that says something."""
        while self.at < self.end:
            if self.at[0] == 0x0A:
                self.line += 1
            elif self.at[0] != 0x20 and self.at[0] != 0x09 and self.at[0] != 0x0D:
                return
            self.at += 1

    cdef object value(self, int depth):
        self.nodes += 1
        if self.nodes > self.most_nodes:
            raise Refused(self.line, f"holds more than {self.most_nodes} values")
        if self.at == self.end:
            raise Refused(self.line, "ends where a value is to come")
        if self.at[0] == 0x22:
            return self.scalar(line=self.line, value=self.text())
        if self.at[0] == 0x7B or self.at[0] == 0x5B:
            if depth == self.most_depth:
                raise Refused(self.line, f"is nested deeper than {self.most_depth}")
            return self.members(depth) if self.at[0] == 0x7B else self.list_of(depth)
        if self.word(b"true"):
            return self.scalar(line=self.line, value=True)
        if self.word(b"false"):
            return self.scalar(line=self.line, value=False)
        if self.word(b"null"):
            return self.scalar(line=self.line, value=None)
        return self.scalar(line=self.line, value=self.number())

    cdef object list_of(self, int depth):
        cdef Py_ssize_t line = self.line
        cdef list found = []
        self.at += 1
        self.skip()
        if self.at < self.end and self.at[0] == 0x5D:
            self.at += 1
            return self.items(line=line, items=())
        while True:
            try:
                found.append(self.value(depth + 1))
            except Refused as error:
                error.path.insert(0, len(found))
                raise
            self.skip()
            if self.at < self.end and self.at[0] == 0x5D:
                self.at += 1
                return self.items(line=line, items=tuple(found))
            self.expect(0x2C, "',' or ']'")
            self.skip()

    cdef object members(self, int depth):
        cdef Py_ssize_t line = self.line, key_line
        cdef list found = []
        cdef set seen = set()
        cdef object key
        self.at += 1
        self.skip()
        if self.at < self.end and self.at[0] == 0x7D:
            self.at += 1
            return self.mapping(line=line, members=())
        while True:
            key_line = self.line
            if self.at == self.end or self.at[0] != 0x22:
                raise Refused(self.line, "a key must be text")
            key = self.text()
            key = self.keys.setdefault(key, key)
            if key in seen:
                error = Refused(key_line, "is given twice")
                error.path.append(key)
                raise error
            seen.add(key)
            self.skip()
            self.expect(0x3A, "':'")
            self.skip()
            try:
                found.append(self.member(key, key_line, self.value(depth + 1)))
            except Refused as error:
                error.path.insert(0, key)
                raise
            self.skip()
            if self.at < self.end and self.at[0] == 0x7D:
                self.at += 1
                return self.mapping(line=line, members=tuple(found))
            self.expect(0x2C, "',' or '}'")
            self.skip()

    cdef int expect(self, int character, str wanted) except -1:
        if self.at == self.end or self.at[0] != character:
            raise Refused(self.line, f"{wanted} is to come")
        self.at += 1
        return 0

    cdef bint word(self, bytes wanted):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(wanted)
        cdef Py_ssize_t place
        if self.end - self.at < size:
            return False
        for place in range(size):
            if self.at[place] != <unsigned char>PyBytes_AS_STRING(wanted)[place]:
                return False
        self.at += size
        return True

    cdef object text(self):
        """A string. It begins at the present quote."""
        cdef const unsigned char *start = self.at + 1
        cdef bint escaped = False
        self.at += 1
        while self.at < self.end and self.at[0] != 0x22:
            if self.at[0] < 0x20:
                raise Refused(self.line, "text holds a control character")
            if self.at[0] == 0x5C:
                escaped = True
                self.at += 1
            self.at += 1
        if self.at >= self.end:
            self.at = self.end
            raise Refused(self.line, "text has no end")
        self.at += 1
        if not escaped:
            return PyUnicode_DecodeUTF8(<const char *>start, self.at - start - 1, NULL)
        try:
            return msgspec.json.decode((<const char *>start)[-1 : self.at - start], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused(self.line, "text holds an escape that means nothing") from None

    cdef object number(self):
        cdef const unsigned char *start = self.at
        cdef bint whole = True
        cdef bytes shown
        while self.at < self.end and (
            0x30 <= self.at[0] <= 0x39 or self.at[0] in (0x2B, 0x2D, 0x2E, 0x45, 0x65)
        ):
            whole = whole and self.at[0] not in (0x2E, 0x45, 0x65)
            self.at += 1
        shown = (<const char *>start)[: self.at - start]
        if len(shown) > 40:
            raise Refused(self.line, "a number has more than 40 characters")
        try:
            msgspec.json.decode(shown, type=msgspec.Raw)
            return int(shown) if whole else float(shown)
        except (msgspec.DecodeError, ValueError):
            raise Refused(self.line, "no value begins so") from None
