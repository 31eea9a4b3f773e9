"""Errors of a personal NDIF server."""

from __future__ import annotations

from remote_mi.common.errors import RemoteMIError


class ServerError(RemoteMIError):
    """The personal server could not do what was requested; the message says why."""

    exit_code = 5


class ServerUnavailable(ServerError):
    """This machine lacks something the server needs; the message says what to install."""


class ServerRunning(ServerError):
    """A server is already running in this state folder."""

    exit_code = 2


class ServerNotRunning(ServerError):
    """No server is running in this state folder."""


class ServerStartFailed(ServerError):
    """A service died or did not answer in time; the message ends in the tail of its log."""

    exit_code = 1
