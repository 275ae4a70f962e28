"""The version of the package, from its metadata."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]


def _version() -> str:
    """That of the distribution which is installed: the whole, or the server alone; neither in a bare source tree."""
    for name in ("rowcast", "rowcast-server"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "0+unknown"


__version__ = _version()
