"""Chords, counted by the identity of their parts, under the lock of the chord's row."""

from __future__ import annotations

from django.db.models import F
from django.utils import timezone

from django_app.ledger.models import Chord, ChordPart, SavedGroup
from django_app.ledger.statements import NOW, Statement


def begin_chord(group_id: str, header: str) -> None:
    """A chord's header is about to be enqueued. header: its nested result as JSON, or ""."""
    Chord.objects.update_or_create(
        group_id=group_id, defaults={"header": header}, create_defaults={"header": header, "created_at": timezone.now()}
    )


def set_chord_size(group_id: str, size: int) -> None:
    """All parts are enqueued. A chord that is applied once more begins anew."""
    ChordPart.objects.filter(chord_id=group_id).delete()
    fields = {"size": size, "done": 0, "finished_at": None}
    Chord.objects.update_or_create(
        group_id=group_id, defaults=fields, create_defaults={**fields, "created_at": timezone.now()}
    )


def add_to_chord(group_id: str, more: int = 1) -> bool:
    """A part adds others. False where the chord is unknown."""
    return bool(Chord.objects.filter(group_id=group_id).update(size=F("size") + more))


_RETURN = Statement(
    """
    INSERT INTO ledger_chordpart (chord_id, part_id, position, result)
    SELECT group_id, %s, %s, %s FROM ledger_chord WHERE group_id = %s AND finished_at IS NULL {locked}
    ON CONFLICT DO NOTHING
    """,
    # Whoever waits for the lock sees then whether the chord is over. SQLite's writers queue anyway.
    postgresql={"locked": "FOR NO KEY UPDATE"},
    sqlite={"locked": ""},
)
_COUNT = Statement(
    """
    UPDATE ledger_chord SET done = done + 1, finished_at = CASE WHEN done + 1 >= size THEN {now} END
    WHERE group_id = %s AND finished_at IS NULL RETURNING finished_at
    """,
    **NOW,
)


def return_part(group_id: str, part_id: str, position: int | None, result: str) -> Chord | None:
    """Count a part. The chord, if this was its last one: then the caller sends the callback, in the same transaction.

    Call it in a transaction: until its end others that return parts of this chord wait.
    """
    if not _RETURN.count([part_id, position, result, group_id]):
        # It has been counted, or the chord is over, or unknown.
        return None
    is_last = any(finished_at is not None for (finished_at,) in _COUNT.rows([group_id]))
    return Chord.objects.get(pk=group_id) if is_last else None


def part_results(chord: Chord) -> list[tuple[str, str]]:
    """(id, what it returned, encoded) of each part, in the header's order."""
    parts = ChordPart.objects.filter(chord=chord).order_by(F("position").asc(nulls_last=True), "id")
    return list(parts.values_list("part_id", "result"))


def forget_parts(chord: Chord) -> None:
    """The callback has them now."""
    ChordPart.objects.filter(chord=chord).delete()


def save_group(group_id: str, result: str) -> None:
    SavedGroup.objects.update_or_create(group_id=group_id, defaults={"result": result, "created_at": timezone.now()})


def restore_group(group_id: str) -> str | None:
    return SavedGroup.objects.filter(group_id=group_id).values_list("result", flat=True).first()


def delete_group(group_id: str) -> None:
    SavedGroup.objects.filter(group_id=group_id).delete()
