"""The legacy profile as data: words, sizes and oddities of the deployed peers. No code here.

Upper-case or repeated JSON keys: deployed peers write each key once and in lower case; of a repeated key the last
counts, as there, and another case is another key. `\\r` and `\\n` inside base64 are skipped, as there.
"""

from __future__ import annotations

import re

# ---- the upgrade

PATH = "/ws/agent"
USER_AGENT = "Aegis-Agent/1.0"
HEADER_ID = "X-Agent-ID"
HEADER_KEY = "X-Agent-Public-Key"
# Names of the design document that mean the same; in lower case, as header names are compared.
HEADER_ID_NAMES = ("x-agent-id", "agentid")
HEADER_KEY_NAMES = ("x-agent-public-key", "publickey")

# Texts of refusals before the upgrade; text/plain, a newline behind each.
MISSING_HEADERS = "Missing required headers: X-Agent-ID and X-Agent-Public-Key"
INVALID_USER_AGENT = "Invalid user agent"
INVALID_KEY = "Invalid public key format"
INVALID_ID = "Invalid agent ID"
AT_CAPACITY = "Maximum connections reached"
TEXT_PLAIN = "text/plain; charset=utf-8"

# ---- names

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # agent ids and uids: no dot, which would part a channel
UID_PREFIX = "agent-"
UID_DIGITS = 16  # hex, of SHA-256 of the raw key
HOST_ID_LENGTH = 255
# RFC 3339; strict, so that nothing chosen by the peer can look like the text of an authentication.
SERVER_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)

# ---- the envelope

TYPE_REQUEST = "request"
TYPE_RESPONSE = "response"
TYPE_EVENT = "event"
TYPE_HEARTBEAT = "heartbeat"
FRAME_BYTES_BEFORE = 64 * 1024  # before authentication
FRAME_BYTES_AFTER = 1024 * 1024
JSON_DEPTH = 32
ENVELOPE_ID_LENGTH = 128
CHANNEL_LENGTH = 256
NONCE_LENGTH = 256  # as text; the 15- and 16-character nonces of deployed peers fit
SIGNATURE_LENGTH = 256
HEADERS = 16
NONCE_BYTES = 12  # of every frame to an agent: a deployed one dies of any other length
OWN_NONCE_BYTES = 16
# The text that is signed beside a message reads like that of an authentication. So nonces of our agent's messages begin
# with three bytes, and an authentication with such a nonce, or with one of the two of deployed agents, is refused.
MESSAGE_NONCE = b"msg"
MESSAGE_NONCES = ("bXNn", "aGVhcnRiZWF0X25vbmNl", "bWVzc2FnZV9ub25j")  # texts they begin with

# ---- authentication

NO_SIGNED_WORDS = ":::"  # id, type and channel are empty in the text the gateway signs
SKEW_S = 300
REPLAY_S = 600
SESSION_S = 24 * 3600
TOKEN_LENGTH = 20  # a deployed agent cuts tokens at 20 characters, and dies of shorter ones
AUTH_OK = "Authentication successful"
AUTH_BAD_KEY = INVALID_KEY
AUTH_OTHER_KEY = "Public key mismatch"
AUTH_BAD_SIGNATURE = "Invalid signature"
AUTH_BAD_ID = "Invalid agent id"
AUTH_SKEW = "Timestamp outside the window"
AUTH_REPLAY = "Nonce used before"
AUTH_REFUSED = "Authentication refused"

# ---- registration

REGISTRATION_NONCE_BYTES = frozenset({16, 32})
DEFAULT_ORG = "default-org"
DEFAULT_VERSION = "1.0.0"
UNKNOWN_HOST = "unknown-host"
PENDING_S = 60  # a deployed gateway keeps what was begun for ever

# ---- errors on the socket

ERROR_WORD = "message_processing_error"
ERROR_CODE = 4002
ERROR_RETRY_S = 1
NOT_AUTHENTICATED = "agent not authenticated"
NOT_REGISTERED = "agent not registered"
NO_HANDLER = "no handler for channel: "

# ---- rhythm, in seconds

HEARTBEAT_S = 20.0
HANDSHAKE_S = 10.0  # for each answer, at the agent
FIRST_MESSAGE_S = 5.0  # from upgrade to authentication, at our gateway; a deployed one waits 5 minutes
IDLE_S = 60.0  # without a frame, at the gateway

# ---- batches

BATCH_ITEMS = 512
BATCH_BYTES = 128 * 1024  # of items, and of what they share
BATCH_SHARED = 1024  # objects that items have in common
BATCH_EXPANDED_BYTES = 1024 * 1024  # of items, each with the objects it names
BATCH_ROOM = 16 * 1024  # for the members around them: 64 losses of three words of 64 characters
