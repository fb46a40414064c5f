"""How numeric columns move together: mergeable co-moments of each pair, over the rows where both have a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl


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
        if not columns or not frame.height:
            return cls.none(columns)
        numbers = np.column_stack(
            [frame[str(at)].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy() for at in columns]
        )
        present = np.isfinite(numbers)
        seen = present.sum(axis=0)
        # Relative to each column's own mean, so that large offsets cost no digits.
        offset = np.where(present, numbers, 0.0).sum(axis=0) / np.maximum(seen, 1)
        there = present.astype(float)
        count = there.T @ there
        safe = np.maximum(count, 1)
        # Beyond 1e154 squares overflow; such a pair has no correlation that could be told.
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.where(present, numbers - offset, 0.0)
            sums = near.T @ there
            squares = (near**2).T @ there - sums**2 / safe
            product = near.T @ near - sums * sums.T / safe
        return cls(columns, count, offset[:, None] + sums / safe, squares, product)

    def merge(self, other: Pairs) -> None:
        count = self.count + other.count
        weight = self.count * other.count / np.maximum(count, 1)
        difference = other.mean - self.mean
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares += other.squares + difference**2 * weight
            self.product += other.product + difference * difference.T * weight
        self.mean += difference * other.count / np.maximum(count, 1)
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
