"""The layouts of the tables, each made from the one before it by a step of this folder.

A change of ``tables.py`` comes with a new step and a higher ``SCHEMA``; a step that was released
is never edited.  ``meta`` holds the version that a database has, so Alembic, which runs the steps,
is imported only when there is one to run.
"""

from importlib import import_module

from sqlalchemy import Connection, delete, insert

from zoo.registry.tables import SCHEMA, meta

STEPS = ("s0001_runs", "s0002_claims", "s0003_requests", "s0004_looks")


def upgrade(connection: Connection, found: int) -> None:
    """Bring tables from schema ``found`` (0: there are none) to ours, within a transaction."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    with Operations.context(MigrationContext.configure(connection)):
        for name in STEPS[found:]:
            import_module(f"{__name__}.{name}").upgrade()
    connection.execute(delete(meta).where(meta.c.key == "schema"))
    connection.execute(insert(meta).values(key="schema", value=str(SCHEMA)))
