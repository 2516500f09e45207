"""One form of errors: ``{"error": {"code", "message", "fields": [{"field", "message"}]}}``."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from monitor.plain import plain
from training_platform.queue.knobs import RefusedRequestError, did_you_mean
from training_platform.queue.request import JobRequest

CODES = {400: "bad_request", 401: "no_token", 403: "forbidden", 404: "not_found", 405: "wrong_method", 413: "too_large"}
log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is not a success.

    Args:
        status: Of HTTP.
        code: For programs.
        message: For people: what is wrong, its value, what to do.
        fields: Field and message, where single fields are wrong.
    """

    def __init__(self, status: int, code: str, message: str, fields: Iterable[tuple[str, str]] = ()):
        self.status, self.code, self.message, self.fields = status, code, message, list(fields)
        super().__init__(message)


def answer(status: int, code: str, message: str, fields: Iterable[tuple[str, str]] = ()) -> JSONResponse:
    """The error as it is sent."""
    shown = [{"field": plain(name)[:200], "message": plain(text)[:1000]} for name, text in list(fields)[:50]]
    error = {"code": code, "message": plain(message)[:2000], "fields": shown}
    return JSONResponse({"error": error}, status)


def install(app: FastAPI) -> None:
    """Has every error answered in this form."""

    @app.exception_handler(ApiError)
    def known(request: Request, error: ApiError) -> JSONResponse:
        return answer(error.status, error.code, error.message, error.fields)

    @app.exception_handler(RefusedRequestError)
    def refused(request: Request, error: RefusedRequestError) -> JSONResponse:
        return answer(422, "invalid", str(error), error.fields)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(request, error.errors())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"{request.method} {request.url.path[:200]}: no such address; /docs lists them"
        elif error.status_code == 405:
            ways = (error.headers or {}).get("Allow", "other methods")
            message = f"{request.method} {request.url.path[:200]}: this address takes {ways}; /docs lists them"
        made = answer(error.status_code, CODES.get(error.status_code, "error"), message)
        made.headers.update(error.headers or {})
        return made

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.OperationalError)
    def disk(request: Request, error: Exception) -> JSONResponse:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error):
            return answer(507, "disk_full", "the disk of the outputs is full; nothing was changed, jobs continue")
        return failed(request, error)

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return answer(500, "internal", f"a fault of the server ({type(error).__name__}); its log has more")


def known_query(request: Request) -> None:
    """Refuses what follows the ``?`` under a name that an address does not have: it would do nothing, in silence.

    Raises:
        ApiError: 422 with the nearest name.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    known = {field.alias for field in get_flat_dependant(dependant).query_params} if dependant else set()
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        said = "there is no such parameter" + did_you_mean(unknown[0], known)
        raise ApiError(422, "invalid", f"{unknown[0][:100]}: {said}", [(unknown[0], said)])


def _invalid(request: Request, errors: Sequence[Any]) -> JSONResponse:
    fields = [_field(error) for error in errors]
    kind = request.headers.get("content-type", "")
    if request.method != "GET" and "json" not in kind:
        message = f"Content-Type is {kind[:100] or 'not given'}; send JSON as application/json (curl --json '...')"
        return answer(422, "invalid", message, fields)
    return answer(422, "invalid", "; ".join(f"{name}: {text}" for name, text in fields[:5]), fields)


def _field(error: dict[str, Any]) -> tuple[str, str]:
    """The field of a pydantic error, and what is wrong with it; what was sent is not sent back."""
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    name = ".".join(place)[:200] or "body"
    if error["type"] == "extra_forbidden":
        return name, "no such field" + did_you_mean(place[-1] if place else "", JobRequest.model_fields)
    if error["type"] == "json_invalid":
        return "body", f"is not JSON: {error.get('ctx', {}).get('error', '')}"
    return name, str(error["msg"]).removeprefix("Value error, ")
