"""What stands inside envelopes: authentication, registration, batches, acknowledgements, answers, errors.

Each `read_...` takes the envelope's payload text and raises EnvelopeInvalid, which names the member.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from aegis.errors import EnvelopeInvalid
from aegis.model.block import BOOT_ID_BYTES, BlockClass, Loss
from aegis.protocol import base64text, v1
from aegis.protocol.depth import is_deeper
from aegis.protocol.envelope import Instant

_T = TypeVar("_T")

Sequence63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Short = Annotated[str, Meta(max_length=256)]
_Sentence = Annotated[str, Meta(max_length=8192)]
_NULL = Raw(b"null")
_KIND_FIRST = re.compile(rb'\{"kind":"([a-z]+)",')

REGISTRATION_BYTES = 64 * 1024
TOLD_BYTES = 4096  # of each object an agent tells of itself, as compact JSON
ANSWER_BYTES = 512 * 1024

encode = msgspec.json.Encoder().encode


class AuthRequest(msgspec.Struct, frozen=True):
    """Every member as its text is signed; base64 is not decoded here."""

    agent_id: _Short
    public_key: _Short
    timestamp: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    nonce: Annotated[str, Meta(min_length=1, max_length=256)]
    signature: _Short


class AuthResponse(msgspec.Struct, frozen=True):
    """`aegis` says that the gateway is ours: `Mark`. Empty and 0 where `success` is false."""

    success: bool
    backend_key: _Short = ""
    session_token: Annotated[str, Meta(max_length=8192)] = ""
    expires_at: Instant | None = None
    message: _Sentence = ""
    aegis: Raw = _NULL

    def __repr__(self) -> str:  # tokens are no text for a log
        return f"AuthResponse(success={self.success}, expires_at={self.expires_at})"


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What our gateway says of itself. `registered`: whether it knows the key that authenticated.

    `shared`: items of a batch may name members they have in common.
    """

    v: int
    batches: bool = False
    shared: bool = False
    registered: bool | None = None


class RegistrationInit(msgspec.Struct, frozen=True, omit_defaults=True):
    """`agent_pubkey`, or `public_key` of the design document. Capabilities are an object; some documents have a list."""

    agent_pubkey: _Short | None = None
    public_key: _Short | None = None
    host_id: Annotated[str, Meta(max_length=v1.HOST_ID_LENGTH)] = ""
    org_id: _Short = ""
    agent_version: _Short = ""
    machine_id_hash: _Short = ""
    capabilities: dict[str, Any] | list[Any] | None = None
    platform: dict[str, Any] | None = None
    network: dict[str, Any] | None = None

    @property
    def key_text(self) -> str:
        return self.agent_pubkey or self.public_key or ""

    @property
    def is_ours(self) -> bool:
        """Whether the agent says that it is one of ours."""
        said = self.capabilities.get("aegis") if isinstance(self.capabilities, dict) else None
        return isinstance(said, dict) and said.get("v") == 1 and not isinstance(said["v"], bool)


class RegistrationOffer(msgspec.Struct, frozen=True):
    """The gateway's answer to a registration that begins: what is to be signed."""

    registration_id: Annotated[str, Meta(min_length=1, max_length=128)]
    nonce: _Short
    server_time: Annotated[str, Meta(max_length=64)]


class RegistrationCompletion(msgspec.Struct, frozen=True):
    registration_id: Annotated[str, Meta(min_length=1, max_length=128)]
    host_id: Annotated[str, Meta(min_length=1, max_length=v1.HOST_ID_LENGTH)]
    signature: Annotated[str, Meta(min_length=1, max_length=256)]


class RegistrationReply(msgspec.Struct, frozen=True):
    agent_uid: _Short
    bootstrap_token: Annotated[str, Meta(max_length=8192)] = ""

    def __repr__(self) -> str:
        return f"RegistrationReply(agent_uid={self.agent_uid!r})"


class Batch(msgspec.Struct, frozen=True):
    """Items `first`, `first` + 1... of one class of one stream, each a JSON object that nobody has decoded.

    `boot_id` is hex. `losses` are those of the block, (stage, kind, reason, count). `shared` are what `shared_items`
    tells of; whether all that is named is there has not been looked at.
    """

    kind: _Short
    stream: Sequence63
    first: Sequence63
    boot_id: _Short
    items: Annotated[list[Raw], Meta(max_length=v1.BATCH_ITEMS)]
    losses: Annotated[list[tuple[_Short, _Short, _Short, Sequence63]], Meta(max_length=v1.BATCH_ITEMS)] = []
    shared: Annotated[list[Raw], Meta(max_length=v1.BATCH_SHARED)] = []

    @property
    def boot(self) -> bytes:
        return bytes.fromhex(self.boot_id)


class Answer(msgspec.Struct, frozen=True):
    """To one order, after the thing happened."""

    in_reply_to: _Short
    ok: bool
    code: _Short = ""
    text: _Sentence = ""
    state: Any = None
    kind: str = "answer"


class State(msgspec.Struct, frozen=True):
    """A change of state or a condition, told unasked."""

    state: dict[str, Any]
    kind: str = "state"


class Ack(msgspec.Struct, frozen=True, kw_only=True, rename={"cls": "class", "next_": "next"}):
    """Everything of the class in the stream before `next_` is durable."""

    type: str
    cls: BlockClass
    stream: Sequence63
    next_: Sequence63


class ErrorBody(msgspec.Struct, frozen=True):
    error: str
    message: str
    code: int = v1.ERROR_CODE
    retry_after: int = v1.ERROR_RETRY_S


class _Kind(msgspec.Struct, frozen=True):
    kind: _Short | None = None


_read_auth = msgspec.json.Decoder(AuthRequest)
_read_auth_response = msgspec.json.Decoder(AuthResponse)
_read_mark = msgspec.json.Decoder(Mark)
_read_init = msgspec.json.Decoder(RegistrationInit)
_read_offer = msgspec.json.Decoder(RegistrationOffer)
_read_completion = msgspec.json.Decoder(RegistrationCompletion)
_read_reply = msgspec.json.Decoder(RegistrationReply)
_read_batch = msgspec.json.Decoder(Batch)
_read_answer = msgspec.json.Decoder(Answer)
_read_state = msgspec.json.Decoder(State)
_read_kind = msgspec.json.Decoder(_Kind)
_read_any = msgspec.json.Decoder()
_read_ack = msgspec.json.Decoder(Ack)


def parse(data: bytes, decoder: msgspec.json.Decoder[_T], name: str) -> _T:
    """JSON of the decoder's type. Raises EnvelopeInvalid that begins with `name`."""
    try:
        if is_deeper(data, v1.JSON_DEPTH):
            raise EnvelopeInvalid(f"{name}: is nested deeper than {v1.JSON_DEPTH}")
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise EnvelopeInvalid(f"{name}: {error}") from None


def packed(content: object) -> str:
    """Payload text of most messages: base64 of the JSON."""
    return base64text.encode(encode(content))


def unpacked(payload: str, name: str, most_bytes: int) -> bytes:
    """The JSON text inside a base64 payload."""
    if len(payload) > most_bytes * 4 // 3 + 4:
        raise EnvelopeInvalid(f"{name}: is larger than {most_bytes} bytes")
    return base64text.decode(payload, name)


def unpacked_or_raw(payload: str, name: str, most_bytes: int) -> bytes:
    """As `unpacked`; or the payload itself, where it is an object as it stands."""
    if payload.lstrip(" \t\r\n").startswith("{"):
        try:
            return payload.encode()
        except UnicodeEncodeError:
            raise EnvelopeInvalid(f"{name}: holds half of a surrogate pair") from None
    return unpacked(payload, name, most_bytes)


def read_auth(payload: str) -> AuthRequest:
    return parse(unpacked(payload, "auth", v1.FRAME_BYTES_BEFORE), _read_auth, "auth")


def read_auth_response(payload: str) -> tuple[AuthResponse, Mark | None]:
    """And what our gateway says of itself; None of a gateway that is not ours."""
    response = parse(unpacked_or_raw(payload, "auth", v1.FRAME_BYTES_BEFORE), _read_auth_response, "auth")
    try:
        mark = _read_mark.decode(response.aegis)
    except (msgspec.DecodeError, RecursionError):
        return response, None
    return response, mark if mark.v == 1 else None


def read_init(payload: str | bytes) -> RegistrationInit:
    """Text is the payload on the socket, bytes the body over HTTP."""
    data = unpacked(payload, "registration", REGISTRATION_BYTES) if isinstance(payload, str) else payload
    if len(data) > REGISTRATION_BYTES:
        raise EnvelopeInvalid(f"registration: is larger than {REGISTRATION_BYTES} bytes")
    init = parse(data, _read_init, "registration")
    if len(data) > TOLD_BYTES // 4:  # 1e15 becomes four times as long
        for name in ("capabilities", "platform", "network"):
            if len(encode(getattr(init, name))) > TOLD_BYTES:
                raise EnvelopeInvalid(f"registration: {name} is larger than {TOLD_BYTES} bytes")
    return init


def kept_init(data: bytes) -> RegistrationInit:
    """What `encode` made of a RegistrationInit."""
    return _read_init.decode(data)


def read_completion(payload: str | bytes) -> RegistrationCompletion:
    """As `read_init`."""
    data = unpacked(payload, "completion", REGISTRATION_BYTES) if isinstance(payload, str) else payload
    if len(data) > REGISTRATION_BYTES:
        raise EnvelopeInvalid(f"completion: is larger than {REGISTRATION_BYTES} bytes")
    return parse(data, _read_completion, "completion")


def read_offer(payload: str) -> RegistrationOffer:
    """Raw JSON as deployed gateways send it, or base64 of it as documents say."""
    return parse(unpacked_or_raw(payload, "registration", REGISTRATION_BYTES), _read_offer, "registration")


def read_reply(payload: str) -> RegistrationReply:
    """As `read_offer`."""
    return parse(unpacked_or_raw(payload, "completion", REGISTRATION_BYTES), _read_reply, "completion")


def read_kind(payload: str) -> tuple[str | None, bytes]:
    """The `kind` of a message on one of the six channels, None where it has none, and its JSON."""
    data = unpacked(payload, "payload", ANSWER_BYTES)
    # Ours begin with it; the whole is read where what it is for is read.
    match = _KIND_FIRST.match(data)
    return (match[1].decode() if match else parse(data, _read_kind, "payload").kind), data


def read_batch(data: bytes, kind: str) -> Batch:
    """A batch of that kind. Items are objects, at most 512 of them and 128 KiB; they are checked and not decoded."""
    if len(data) > v1.BATCH_BYTES + v1.BATCH_ROOM:
        raise EnvelopeInvalid(f"batch: is larger than {v1.BATCH_BYTES} bytes")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise EnvelopeInvalid(f"batch: is not UTF-8: {error.reason}") from None
    try:
        batch = _read_batch.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeInvalid(f"batch: {error}") from None
    if batch.kind != kind:  # a second member of that name
        raise EnvelopeInvalid(f"batch: kind is not {kind}")
    _objects("items", batch.items)
    _objects("shared", batch.shared)
    if batch.first + len(batch.items) >= 1 << 63:
        raise EnvelopeInvalid("batch: first is beyond every sequence")
    _boot_id(batch.boot_id)
    return batch


def _objects(name: str, found: list[Raw]) -> None:
    for place, each in enumerate(found):
        if memoryview(each)[0] != 0x7B:
            raise EnvelopeInvalid(f"batch: {name}[{place}] is no object")
        # The batch's object and array are two more. One by one: few items have brackets enough to be looked into.
        if is_deeper(bytes(each), v1.JSON_DEPTH - 2):
            raise EnvelopeInvalid(f"batch: {name}[{place}] is nested deeper than {v1.JSON_DEPTH}")


def _boot_id(text: str) -> None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != BOOT_ID_BYTES or len(text) != 2 * BOOT_ID_BYTES:
        raise EnvelopeInvalid(f"batch: boot_id is not {BOOT_ID_BYTES} bytes in hex")


def batch_content(
    kind: str,
    stream: int,
    first: int,
    boot_id: bytes,
    items_json: bytes,
    losses: tuple[Loss, ...] = (),
    shared_json: bytes = b"",
) -> bytes:
    """What the payload of a batch holds; `items_json` and, where they name something, `shared_json` are JSON arrays as they go."""
    head = f'{{"kind":"{kind}","stream":{stream},"first":{first},"boot_id":"{boot_id.hex()}"'.encode()
    tail = b',"losses":' + encode(losses) + b"}" if losses else b"}"
    shared = b',"shared":' + shared_json if shared_json else b""
    return b"".join((head, shared, b',"items":', items_json, tail))


def read_answer(data: bytes) -> Answer:
    return parse(data, _read_answer, "answer")


def read_state(data: bytes) -> State:
    return parse(data, _read_state, "state")


def read_ack(data: bytes) -> Ack:
    ack = parse(data, _read_ack, "ack")
    if ack.type != "ack":
        raise EnvelopeInvalid("ack: type is not ack")
    return ack


def read_push_text(text: bytes) -> bytes:
    """The JSON inside an opened push: base64 of it as deployed gateways seal it, or itself."""
    if text.lstrip(b" \t\r\n").startswith(b"{"):
        return text
    try:
        return base64text.decode(text.decode("ascii"), "push")
    except UnicodeDecodeError:
        raise EnvelopeInvalid("push: is neither base64 nor a JSON object") from None


def read_push(text: bytes) -> dict[str, Any]:
    """The object inside an opened push."""
    body = parse(read_push_text(text), _read_any, "push")
    if not isinstance(body, dict):
        raise EnvelopeInvalid("push: is no object")
    return body


def read_error(payload: str) -> str:
    """The message of an error frame, whatever was sent: deployed gateways splice text into JSON unescaped."""
    for data in _candidates(payload):
        try:
            body = _read_any.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            continue
        if isinstance(body, dict) and isinstance(body.get("message"), str):
            return _one_line(body["message"])
    # What is left of JSON that is none: the text between the two members around it.
    text = payload
    start = text.find('"message"')
    if start >= 0:
        text = text[start + len('"message"') :].lstrip(' :"')
        end = text.rfind('"code"')
        text = (text[:end] if end >= 0 else text).rstrip(' ,"\r\n')
    return _one_line(text)


def _candidates(payload: str) -> list[bytes]:
    found = []
    try:
        found.append(payload.encode())
        found.append(base64text.decode(payload, "error"))
    except (EnvelopeInvalid, UnicodeEncodeError):
        pass
    return found


def _one_line(text: str) -> str:
    """Printable, one line, at most 512 characters: what a peer wrote goes to logs and terminals."""
    shown = "".join(each if each.isprintable() else " " for each in text[:2048])
    return " ".join(shown.split())[:512]
