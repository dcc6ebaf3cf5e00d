"""`pefttune embed`: a data set's texts as vectors, to train anything on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pefttune.cli.output import counted, err
from pefttune.cli.predicted import check_file
from pefttune.errors import DataError, InputError

TAKEN = ("embedding", "tokens", "truncated")
"""The columns that it adds."""


def embed(
    source: Annotated[Path, typer.Argument(help="A file of rows: .jsonl, .json, .csv, .tsv or .parquet.")],
    output_file: Annotated[Path, typer.Option("--output", help="Rows with vectors: .parquet or .jsonl.")],
    base: Annotated[str, typer.Option("--base", help="A base, as `base.source` in a recipe.")] = "minilm-l6",
    text_column: Annotated[str, typer.Option("--text-column", help="Column of the text.")] = "text",
    pooling: Annotated[
        Literal["mean", "first", "last", "none"],
        typer.Option("--pooling", help="One vector for a text, of its tokens; or none: one for each token."),
    ] = "mean",
    max_length: Annotated[int, typer.Option("--max-length", min=3, help="Tokens that are read of a text.")] = 256,
    quantization: Annotated[
        Literal["nf4", "fp4", "int8", "none"],
        typer.Option("--quantization", help="As `base.quantization` in a recipe."),
    ] = "nf4",
) -> None:
    """Write the frozen model's outputs for every row of a file: input features for whatever is trained on them."""
    from pefttune.data import Row, read_rows, write_rows
    from pefttune.data.readers import format_of
    from pefttune.tasks.checks import checked_row_text

    if format_of(output_file) not in ("parquet", "jsonl"):
        raise InputError(f"--output {output_file}: vectors go into .parquet or .jsonl")
    check_file(output_file)
    found = read_rows(source)  # what is wrong with the file's name is told before a base is read

    from pefttune import bases
    from pefttune.inference import Session, extract
    from pefttune.recipe import schema

    session = Session(bases.load(schema.Base(source=base, quantization=quantization)))
    kept: list[Row] = []

    def texts() -> Iterator[Row]:
        for row in found:
            if taken := [name for name in TAKEN if name in row.values]:
                raise DataError(f"{row.origin}: the column {taken[0]!r} would be overwritten; rename it")
            kept.append(row)
            yield Row({"text": checked_row_text(row, text_column)}, row.origin)

    def embedded() -> Iterator[dict[str, Any]]:
        for features in extract(session, texts(), pooling, max_length):
            vectors = features.vectors.tolist()
            own = (
                {"embedding": vectors, "tokens": list(features.tokens)}
                if pooling == "none"
                else {"embedding": vectors[0]}
            )
            yield {**kept.pop(0).values, **own, "truncated": features.truncated}

    write_rows(output_file, counted(embedded()))
    err.print(f"written: {output_file}", soft_wrap=True)
