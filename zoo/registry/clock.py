"""The time by the database's own clock, which all that use it share."""

from typing import Any

from sqlalchemy import Float
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_seconds(FunctionElement[float]):  # noqa: N801  # named as the SQL function it is
    """Seconds since 1970 by the database's clock."""

    type = Float()
    inherit_cache = True


@compiles(database_seconds, "sqlite")
def _sqlite(_element: database_seconds, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_seconds, "postgresql")
def _postgresql(_element: database_seconds, _compiler: Any, **_options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
