"""What the Azure SDK raises, as errors of ours: which kind, whether another try may help, and no word of a secret.

The text of what it raises is not passed on: that of a connection that failed holds the URL, and so a SAS.
"""

from __future__ import annotations

import datetime
import email.utils
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)

from secondsite.engine import errors
from secondsite.engine.store.base import Absent, Changed, Denied, Exists, Failed, Fenced, Held, Rejected

# Asking again may help: the service is busy, or something between it and us is ill.
_AGAIN = {408, 429, 500, 502, 503, 504}
_BUSY = {408, 429, 503, 504}
# A signature counts for so long: a host whose clock is further off cannot sign.
_SKEW_SECONDS = 300
_LEASE_LOST = {
    "LeaseIdMissing", "LeaseIdMismatchWithBlobOperation", "LeaseNotPresentWithBlobOperation", "LeaseLost",
    "LeaseIdMismatchWithLeaseOperation", "LeaseNotPresentWithLeaseOperation", "LeaseIsBrokenAndCannotBeRenewed",
}  # fmt: skip

# Of premium accounts.
_SNAPSHOTS: dict[str, tuple[type[errors.Error], str]] = {
    "SnapshotOperationRateExceeded": (errors.Busy, "the account takes one snapshot of a blob in ten minutes"),
    "SnapshotCountExceeded": (Rejected, "the account keeps no more snapshots of a blob; --snapshots N keeps fewer"),
}


@contextmanager
def told(path: str, *, exists: bool = False, held: type[errors.Error] = Held) -> Iterator[None]:
    """What the block raises of the SDK is raised as ours. `exists`: a precondition that fails means that the object is
    there; `held`: what a lease that another has means.
    """
    try:
        yield
    except AzureError as error:
        raise made(error, path, exists=exists, held=held) from None
    except OSError as error:
        raise Failed(f"no answer: {_reason(error)}", path=path, busy=isinstance(error, TimeoutError)) from None
    except ValueError as error:
        raise Rejected(f"the SDK does not do this ({error.__class__.__name__})", path=path) from None


def made(error: AzureError, path: str, *, exists: bool, held: type[errors.Error]) -> errors.Error:
    """The error of ours that says the same."""
    if not isinstance(error, HttpResponseError) or error.status_code is None:
        return _unanswered(error, path)
    code, status = _code(error), error.status_code
    if status == 404:
        if code == "ContainerNotFound":
            return Denied("there is no such container", path=path)
        return Absent("there is no such object", path=path)
    if code in _SNAPSHOTS:
        return _SNAPSHOTS[code][0](_SNAPSHOTS[code][1], path=path)
    if code == "LeaseAlreadyPresent":
        return held("somebody else holds it, or was cut off within the last minute", path=path)
    if code in _LEASE_LOST:
        return Fenced(f"the lease was lost or is another's ({code})", path=path)
    if code == "BlobAlreadyExists" or (status == 412 and exists):
        return Exists("it is there already", path=path)
    if status == 412:
        return Changed("somebody else changed it", path=path)
    if status in (401, 403) or code == "InvalidAuthenticationInfo":
        return Denied(f"the store refuses the credentials: {code}{_expired(error) or _skew(error)}", path=path)
    if status in _AGAIN or code in ("Md5Mismatch", "InvalidBlockList"):
        return Failed(f"{status} {code}", path=path, busy=status in _BUSY, after=_after(error))
    return Rejected(f"{status} {code}", path=path)


def _unanswered(error: AzureError, path: str) -> errors.Error:
    if isinstance(error, ClientAuthenticationError):
        return Denied("no token was to be had for the credentials given", path=path)
    busy = isinstance(error, (ServiceRequestTimeoutError, ServiceResponseTimeoutError))
    cause = _reason(error)
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return Denied(f"the store's certificate does not hold ({cause})", path=path)
    return Failed(f"no answer: {cause}", path=path, busy=busy or "timed out" in cause)


def _code(error: HttpResponseError) -> str:
    """A word of the service; what does not look like one comes from somebody between."""
    said = _header(error, "x-ms-error-code")
    return said if said.isascii() and said.isalnum() and len(said) < 80 else str(error.reason or "")[:40]


def _after(error: HttpResponseError) -> float | None:
    said = _header(error, "Retry-After")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else None


def _skew(error: HttpResponseError) -> str:
    said = _date(error)
    off = time.time() - said if said is not None else 0
    return f" (this host's clock is {abs(off):.0f} s off the store's)" if abs(off) > _SKEW_SECONDS else ""


def _expired(error: HttpResponseError) -> str:
    """Of a SAS that has run out by the store's clock. Nothing else of the request is looked at."""
    try:
        end = parse_qs(urlsplit(str(error.response.request.url)).query)["se"][0]  # type: ignore[union-attr]
        moment = datetime.datetime.fromisoformat(end)
    except (AttributeError, KeyError, ValueError):
        return ""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    now = _date(error)
    if now is None or moment.timestamp() > now:
        return ""
    return f" (the SAS ran out at {moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC)"


def _date(error: HttpResponseError) -> float | None:
    """The store's clock, in seconds since 1970."""
    try:
        return email.utils.parsedate_to_datetime(_header(error, "Date")).timestamp()
    except (ValueError, TypeError):
        return None


def _header(error: HttpResponseError, name: str) -> str:
    headers = getattr(error.response, "headers", {})
    return str(headers.get(name, ""))


def _reason(error: BaseException) -> str:
    """The innermost cause, by its number or class: words of a library may hold a URL."""
    seen: set[int] = set()
    reasons, todo = [error.__class__.__name__], [error]
    while todo:
        at = todo.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, ssl.SSLError) and at.reason:
            reasons.append(at.reason)
        elif isinstance(at, TimeoutError) or "Timeout" in at.__class__.__name__:
            reasons.append("timed out")
        elif "IncompleteRead" in at.__class__.__name__:
            reasons.append("it broke off")
        elif isinstance(at, ConnectionError) and not at.errno:
            reasons.append("the connection was cut")
        elif isinstance(at, OSError) and at.errno and at.strerror:
            reasons.append(at.strerror)
        inside = (getattr(at, "inner_exception", None), getattr(at, "reason", None), *at.args)
        todo += [each for each in (at.__cause__, at.__context__, *inside) if isinstance(each, BaseException)]
    return reasons[-1]
