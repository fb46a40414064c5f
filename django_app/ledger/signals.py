"""What the ledger tells whoever listens in this process. Sent after the commit; a receiver that raises is logged."""

from __future__ import annotations

from django.dispatch import Signal

#: Runs that somebody watches have changed; with run_ids and the state that they have now.
run_changed = Signal()
#: Runs have changed, and somebody watches the console; with topics.
console_changed = Signal()
