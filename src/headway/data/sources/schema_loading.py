"""A client's own file under the schema of a federation: the one way from a path to data of one client."""

from __future__ import annotations

from pathlib import Path

from headway.core.errors import ConfigError
from headway.data.dataset.federated import FederatedData
from headway.data.sources.array_schema import ArraySchema
from headway.data.sources.data_schema import DataSchema
from headway.data.sources.schema_arrays import schema_arrays, schema_folders
from headway.data.sources.schema_table import FileForm, schema_pool
from headway.data.sources.table_schema import TableSchema
from headway.numerics.keys import Key

TABLES = (".csv", ".tsv", ".parquet")


def load_with_schema(
    path: Path, schema: DataSchema, client: str, *, key: Key | int = 0, form: FileForm | None = None
) -> FederatedData:
    """The data of one client, with the features, classes and split that the schema states.

    key: of the split; a seed stands for the key that a run of that seed draws its data by.

    Raises:
        ConfigError: the file is of another kind than the schema.
        DataError: the file cannot be read, or does not fit the schema; see `schema_pool` and `schema_arrays`.
    """
    suffix = path.suffix.lower()
    if isinstance(schema, TableSchema):
        if suffix not in TABLES:
            raise ConfigError(
                f"the schema of the federation is of tables ({', '.join(TABLES)}), but {path} has the suffix "
                f"{suffix!r}."
            )
        pool = schema_pool(path, schema, client, form)
    elif isinstance(schema, ArraySchema):
        if suffix != ".npz" and not path.is_dir():
            raise ConfigError(
                f"the schema of the federation is of arrays (.npz, or a folder of pictures), but {path} is neither."
            )
        if form is not None and form != FileForm():
            raise ConfigError(f"{path} holds arrays, which have no columns, separator, decimal, encoding or values.")
        pool = schema_folders(path, schema, client) if path.is_dir() else schema_arrays(path, schema, client)
    else:
        raise ConfigError(f"the schema of the federation is of a packaged source, but {path} is a file.")
    tested_by_file = pool.tested is not None
    return pool.divide(key=key, test_share=schema.test_share, split=None if tested_by_file else schema.split)
