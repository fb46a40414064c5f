"""Static files as a package has them: compressed, and under names that say what is in them."""

from __future__ import annotations

from whitenoise.storage import CompressedManifestStaticFilesStorage  # type: ignore[import-untyped]

#: Where our own modules lie.
FOLDERS = ("console", "realtime")
_IMPORT = r'(?P<matched>from "(?P<url>\.[^"]+)";)'


class HashedFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Our modules import each other by their hashed names too: under others they are not there.

    Django can do so for every script, with support_js_module_import_aggregation, but then fails at what htmx's
    extensions have in their comments.
    """

    patterns = (
        *CompressedManifestStaticFilesStorage.patterns,
        *((f"{folder}/*.js", ((_IMPORT, 'from "%(url)s";'),)) for folder in FOLDERS),
    )
