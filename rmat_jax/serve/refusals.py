"""Refusals of requests: a status and a message, in OpenAI's form."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from rmat_jax.errors import UserError

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Messages quote bad values, which may be as long as a body.
MOST_CHARACTERS = 500


class Json(JSONResponse):
    """Writes JSON in ASCII, which also spells characters of a request that UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:
        """Returns the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Refusal(Exception):
    """Ends a request with a status and a message for its sender."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        """Args: param: the field that is wrong; code: a word for programs, as OpenAI uses it."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    def content(self) -> dict:
        """Returns the error as OpenAI writes it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": shortened(f"{self}"),
            "type": KINDS.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> Json:
        """Returns the answer to the request."""
        return Json(self.content(), self.status, headers=self.headers)


def of_user_error(error: UserError) -> Refusal:
    """Turns bad input into a refusal with status 400. The message begins with the field's name."""
    name = f"{error}".partition("=")[0]
    return Refusal(400, f"{error}", param=name if name.isidentifier() else None)


def ending() -> Refusal:
    """Makes the refusal of a request while the server ends."""
    return Refusal(503, "the server is ending; try again later", headers={"Retry-After": "10"})


def shortened(text: str) -> str:
    """Cuts a long message in the middle, where the long value stands."""
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
