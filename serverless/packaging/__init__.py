"""The zip that Lambda runs: our files and the locked distributions of the web side, for the runtime's platform.

`make package` builds it; so does `build()`, for tests and for the local Lambda runtime:

    from serverless.packaging import build

    path = build(target="local", output=Path("/tmp/web.zip"))
"""

from serverless.packaging.building import build

__all__ = ["build"]
