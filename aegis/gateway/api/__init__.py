"""The Actions API: what operators ask of a gateway over HTTP."""

from aegis.gateway.api.app import application

__all__ = ["application"]
