"""How strictly a request is read: media types, names of parameters, JSON bodies.

A body is decoded once, straight into the type its handler declares, with JSON's own types only ("5" is no number).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import ParameterKwarg

from aegis.gateway.api.gate import OPERATOR
from aegis.gateway.api.problems import FieldProblem, Refusal

MOST_BODY_BYTES = 1 << 20
DEEPEST = 32  # levels of lists and objects in a body
NDJSON = "application/x-ndjson"
JSON = "application/json"
_NOT_QUERY = frozenset({"request", "data", "state", "hub", "headers", "scope", "body", "place"})


class ApiRequest(Request[Any, Any, Any]):
    """A request whose JSON body becomes what its handler asks for, or is refused with the place that is wrong."""

    async def json(self) -> Any:
        """Raises Refusal 400 for what is no JSON, 422 for JSON of another shape."""
        body = await self.body()
        try:
            found = _decoder(self.route_handler).decode(body)
        except msgspec.ValidationError as error:
            said, _, at = str(error).partition(" - at ")
            where = FieldProblem(at=at.strip("`") or "$", detail=said)
            raise Refusal(422, "body_invalid", str(error), errors=(where,)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(400, "json_invalid", f"the body is not JSON: {error}") from None
        except RecursionError:
            raise _too_deep() from None
        if body.count(b"[") + body.count(b"{") > DEEPEST and _depth_over(found, DEEPEST):
            raise _too_deep()
        return found


def _too_deep() -> Refusal:
    return Refusal(422, "body_invalid", f"the body has over {DEEPEST} levels")


def _depth_over(value: object, most: int) -> bool:
    """Whether lists and objects are nested deeper than that."""
    level = [value]
    for _ in range(most):
        level = [
            inner for outer in level for inner in _inside(outer) if not isinstance(inner, str | int | float)
        ]
        if not any(isinstance(one, list | dict | tuple | msgspec.Struct) for one in level):
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    """The members of a list, an object or a body."""
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


@lru_cache(maxsize=64)
def _decoder(handler: HTTPRouteHandler) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(handler.parsed_fn_signature.parameters["data"].annotation)


class Parameter(NamedTuple):
    """One parameter of a query: whether it may be repeated, and whether any text may be its value."""

    repeated: bool
    text: bool


@lru_cache(maxsize=64)
def _query_of(handler: HTTPRouteHandler) -> dict[str, Parameter]:
    """The parameters a handler takes from the query, by name."""
    found = {}
    fields = dict(handler.parsed_fn_signature.parameters)
    # Those that several handlers have in common too.
    for name, provided in handler.resolve_dependencies().items():
        if fields.pop(name, None) is not None:
            fields.update(provided.parsed_fn_signature.parameters)
    for name, field in fields.items():
        if name in _NOT_QUERY or name in _PATH_NAMES:
            continue
        kwarg = field.kwarg_definition
        alias = kwarg.name if isinstance(kwarg, ParameterKwarg) and kwarg.name else name
        kinds = (field, *field.inner_types)
        found[alias] = Parameter(
            repeated=any(one.is_non_string_collection for one in kinds),
            text=any(one.annotation is str for one in kinds),
        )
    return found


_PATH_NAMES = frozenset({"uid", "message_id"})


async def check(request: Request[Any, Any, Any]) -> None:
    """Before anything of a request is parsed: media types and the names in the query. Raises Refusal."""
    handler = request.route_handler
    if request.method in {"POST", "PUT"} and "data" in handler.parsed_fn_signature.parameters:
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != JSON:
            raise Refusal(
                415, "media_type_unsupported", "the body must be JSON", hint=f"send Content-Type: {JSON}"
            )
    offered = cast(tuple[str, ...], handler.opt.get("offers", (JSON,)))
    if not any(accepts(request, one) for one in offered):
        raise Refusal(406, "not_acceptable", f"this answers with {' or '.join(offered)}")
    known = _query_of(handler)
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise Refusal(400, "query_invalid", f"unknown parameter {name[:80]!r}; known: {listed}")
        if name in seen and not known[name].repeated:
            raise Refusal(400, "query_invalid", f"parameter {name} is given twice")
        if not known[name].text and value.lower() == "null":  # which msgspec would take for an absent one
            raise Refusal(400, "query_invalid", f"parameter {name} cannot be null: leave it out")
        seen.add(name)


def accepts(request: Request[Any, Any, Any], media_type: str) -> bool:
    """Whether the request's Accept lets the answer be of that type (RFC 9110 12.5.1; weights other than 0 are alike)."""
    header = request.headers.get("accept")
    if header is None or not header.strip():
        return True
    main = media_type.partition("/")[0]
    weights: dict[str, bool] = {}
    for part in header.split(","):
        wanted, *parameters = (piece.strip().lower() for piece in part.split(";"))
        refused = any(piece.replace(" ", "") in {"q=0", "q=0.0", "q=0.00", "q=0.000"} for piece in parameters)
        weights[wanted] = not refused
    for pattern in (media_type, f"{main}/*", "*/*"):
        if pattern in weights:
            return weights[pattern]
    return False


def prefers_ndjson(request: Request[Any, Any, Any]) -> bool:
    """Whether newline-delimited JSON is asked for by its own name."""
    return NDJSON in request.headers.get("accept", "").lower() and accepts(request, NDJSON)


def is_operator(request: Request[Any, Any, Any]) -> bool:
    """Whether the gate saw the operator's token."""
    return bool(request.scope.get("state", {}).get(OPERATOR))
