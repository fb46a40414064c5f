"""How numeric columns move together: mergeable co-moments of each pair, over the rows where both have a value."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

#: Rows that are related at once, to bound memory.
_BLOCK_ROWS = 1 << 16


@dataclass
class Pairs:
    """For each ordered pair (i, j) of columns, over the rows where both have a number.

    count: rows. mean: of i. squares: of i's deviations. product: of both deviations. Each of shape (n, n).
    """

    columns: tuple[int, ...]
    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    product: np.ndarray

    @classmethod
    def none(cls, columns: tuple[int, ...]) -> Pairs:
        size = len(columns)
        return cls(columns, *(np.zeros((size, size)) for _ in range(4)))

    @classmethod
    def of(cls, frame: pl.DataFrame, columns: tuple[int, ...]) -> Pairs:
        """frame: strings by column number, as parse() returns it. columns: positions of those to relate."""
        whole = cls.none(columns)
        # In blocks, to bound memory.
        for start in range(0, frame.height if len(columns) > 1 else 0, _BLOCK_ROWS):
            whole.merge(cls._of_block(frame[start : start + _BLOCK_ROWS], columns))
        return whole

    @classmethod
    def _of_block(cls, frame: pl.DataFrame, columns: tuple[int, ...]) -> Pairs:
        numbers = np.column_stack(
            [frame[str(at)].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy() for at in columns]
        )
        block = cls.none(columns)
        present = np.isfinite(numbers)
        # Over the very rows of each pair. Columns that lack the same rows, most of them, share the work.
        alike: defaultdict[bytes, list[int]] = defaultdict(list)
        for at in range(len(columns)):
            alike[np.packbits(present[:, at]).tobytes()].append(at)
        for seconds in alike.values():
            kept = present[:, seconds[0]]
            if kept.any():
                block._relate(numbers if kept.all() else numbers[kept], seconds)
        return block

    def _relate(self, rows: np.ndarray, seconds: list[int]) -> None:
        """Fill in the pairs (i, j) for j among `seconds`, all of which have a value in each of these rows."""
        there = np.isfinite(rows)
        complete = there.all()
        count = there.sum(axis=0)
        # Relative to one value of each column: no digits cancel, and one that does not vary has a spread of exactly 0.
        first = np.nan_to_num(rows[there.argmax(axis=0), np.arange(rows.shape[1])])
        # Beyond 1e154 squares overflow; such a pair has no correlation that could be told.
        with np.errstate(over="ignore", invalid="ignore"):
            near = rows - first if complete else np.where(there, rows - first, 0.0)
            offset = near.sum(axis=0) / np.maximum(count, 1)
            near = near - offset if complete else np.where(there, near - offset, 0.0)
            squares = np.einsum("ij,ij->j", near, near)
            product = near.T @ near[:, seconds]
        self.count[:, seconds] = count[:, None]
        self.mean[:, seconds] = (first + offset)[:, None]
        self.squares[:, seconds] = squares[:, None]
        self.product[:, seconds] = product

    def merge(self, other: Pairs) -> None:
        count = self.count + other.count
        weight = self.count * other.count / np.maximum(count, 1)
        difference = other.mean - self.mean
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares += other.squares + difference**2 * weight
            self.product += other.product + difference * difference.T * weight
        # The share first: of an empty summary's merge it is exactly 1, and equal means stay equal.
        self.mean += difference * (other.count / np.maximum(count, 1))
        self.count = count

    def correlation(self, first: int, second: int) -> float | None:
        """Pearson's r of two columns by position in `columns`; None below two rows or where one does not vary."""
        # The roots first: the product of two large sums would overflow.
        spread = math.sqrt(max(self.squares[first, second], 0)) * math.sqrt(max(self.squares[second, first], 0))
        if self.count[first, second] < 2 or not 0 < spread < math.inf:
            return None
        r = self.product[first, second] / spread
        return float(np.clip(r, -1, 1)) if math.isfinite(r) else None

    def as_json(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).tolist() for name in ("count", "mean", "squares", "product")}
        return {"columns": list(self.columns), **arrays}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Pairs:
        columns = tuple(plain["columns"])
        shape = (len(columns), len(columns))
        arrays = (np.array(plain[name], float).reshape(shape) for name in ("count", "mean", "squares", "product"))
        return cls(columns, *arrays)
