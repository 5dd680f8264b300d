"""A condition: a named fact about the agent's health that holds now."""

from __future__ import annotations

import msgspec


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What is missing or wrong, what it means, and what to do about it.

    `code` is stable and snake_case. `source` is who raised it: a module's name, or `agent`. `since_ns` is the wall
    clock when it began to hold; raising it again changes the text, not the instant.
    """

    code: str
    source: str
    since_ns: int
    text: str
    hint: str
