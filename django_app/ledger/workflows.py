"""Chords, counted by the identity of their parts, under the lock of the chord's row."""

from __future__ import annotations

from django.db.models import F
from django.utils import timezone

from django_app.ledger.models import Chord, ChordPart, SavedGroup


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


def return_part(group_id: str, part_id: str, position: int | None, result: str) -> Chord | None:
    """Count a part. The chord, if this was its last one: then the caller sends the callback, in the same transaction.

    Call it in a transaction: until its end others that return parts of this chord wait.
    """
    chord = Chord.objects.select_for_update().filter(group_id=group_id, finished_at=None).first()
    if chord is None:
        return None
    _, is_new = ChordPart.objects.get_or_create(
        chord=chord, part_id=part_id, defaults={"position": position, "result": result}
    )
    if not is_new:
        return None
    chord.done += 1
    is_last = chord.size is not None and chord.done >= chord.size
    if is_last:
        chord.finished_at = timezone.now()
    chord.save(update_fields=["done", "finished_at"])
    return chord if is_last else None


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
