"""The options `outbox.*`, as the outbox reads them; the rows are in the runtime's table."""

from __future__ import annotations

from aegis.runtime.outbox_options import OPTIONS, PERCENT

__all__ = ["OPTIONS", "PERCENT"]
