"""What servers log of sockets, without what nobody may read there."""

from __future__ import annotations

import logging
import re

_QUERY = re.compile(r"\?\S*")


class WithoutQuery(logging.Filter):
    """Cuts the query string off every address in a line: that of a socket holds its token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_QUERY.sub("?...", each) if isinstance(each, str) else each for each in record.args)
        return True
