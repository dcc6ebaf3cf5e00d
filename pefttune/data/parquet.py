"""Rows out of Parquet, and into it, where a column has one type: which one is known when the last row has come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pefttune.data.example import Row
from pefttune.data.faults import BadRow, check_names
from pefttune.data.hints import shortened
from pefttune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_ROWS = 1024  # read or written at once


def read_parquet(path: Path, _: Sequence[str] | None) -> Iterator[Row | BadRow]:
    """A row of each, of which a value that cannot be read takes no other one with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in _values(batch):
                    number += 1
                    origin = f"{path.name}:{number}"
                    yield Row(values, origin) if isinstance(values, dict) else BadRow(origin, *values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: broken Parquet after row {number}: {error}") from error


def _values(batch: pa.RecordBatch) -> list[Any]:
    """Of each row its columns, or the one that cannot be read and why."""
    try:
        rows: list[Any] = batch.to_pylist()
    except (ValueError, OverflowError):  # so that one value does not take its neighbours with it
        rows = [_row_values(batch.slice(index, 1)) for index in range(len(batch))]
    return rows


def _row_values(row: pa.RecordBatch) -> dict[str, Any] | tuple[str, str]:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            (values[name],) = column.to_pylist()
        except (ValueError, OverflowError) as error:
            return name, f"holds a {column.type} that cannot be read: {error}"
    return values


def write_parquet(file: BinaryIO, rows: Iterator[Mapping[str, Any]], spool: BinaryIO) -> None:
    """Write rows, which all have the same columns, by way of `spool`, which is written and read again.

    Integers among fractions become fractions, and a key that an object lacks is null. Raises DataError, with row and
    column, for values that have no type in common or would lose something in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = pa.schema([]), 0
    while batch := list(islice(rows, PARQUET_ROWS)):
        table = pa.table({name: _array(name, [row[name] for row in batch], schema, count) for name in batch[0]})
        with pa.ipc.new_stream(spool, table.schema) as stream:
            stream.write(table)
        schema, count = _unified(schema, table.schema), count + len(batch)
    spool.seek(0)
    try:
        with pq.ParquetWriter(file, schema) as writer:
            for before in range(0, count, PARQUET_ROWS):
                with pa.ipc.open_stream(spool) as stream:
                    writer.write(_cast(stream.read_all(), schema, before))
    except pa.ArrowException as error:
        raise DataError(f"{error}: write JSONL") from error


def _unified(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.unify_schemas([one, other], promote_options="permissive")


def _array(name: str, values: list[Any], schema: pa.Schema, before: int) -> pa.Array:
    """A column's values, in a type that goes with the one of the `before` rows before them."""
    import pyarrow as pa

    def array(count: int) -> pa.Array:
        found = pa.array(values[:count])
        _unified(schema, pa.schema({name: found.type}))
        _refuse_text_as_bytes(values[:count], found.type)
        return found

    def fails(count: int) -> bool:
        try:
            array(count)
        except (pa.ArrowException, OverflowError):
            return True
        return False

    try:
        return array(len(values))
    except (pa.ArrowException, OverflowError) as error:
        index = bisect_left(range(1, len(values)), True, key=fails)
        value = shortened(values[index])
        told = f"{value} cannot be written to Parquet"
        if _goes_alone(values[index]):
            told = f"Parquet cannot hold {value} there, as a column has one type"
        raise DataError(f"Row {before + index + 1}, column `{name}`: {told} ({error}): write JSONL") from error


def _goes_alone(value: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value])
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _refuse_text_as_bytes(values: list[Any], type: pa.DataType) -> None:
    """Raise ArrowInvalid for text among bytes, which Arrow encodes without a word."""
    import pyarrow as pa

    if "binary" in str(type) and _has_text(values, pa.list_(type)):
        raise pa.ArrowInvalid("text among bytes")


def _has_text(value: Any, type: pa.DataType) -> bool:
    """Whether there is text where the type has bytes."""
    import pyarrow.types as types

    if value is None:
        return False
    if types.is_list(type):
        return any(_has_text(item, type.value_type) for item in value)
    if types.is_struct(type):
        return any(_has_text(value.get(field.name), field.type) for field in type)
    return types.is_binary(type) and isinstance(value, str)


def _cast(table: pa.Table, schema: pa.Schema, before: int) -> pa.Table:
    import pyarrow as pa

    columns = {}
    for field in schema:
        try:
            column = table[field.name]
            if column.type != field.type:
                _refuse_text_as_bytes(column.to_pylist(), field.type)
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            rows = f"Row {before + 1}" if len(table) == 1 else f"Rows {before + 1} to {before + len(table)}"
            raise DataError(f"{rows}, column `{field.name}`: {error}: write JSONL") from error
    return pa.table(columns, schema=schema)
