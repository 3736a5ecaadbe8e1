"""Schema 3: the latest request is found at once."""

from alembic import op


def upgrade() -> None:
    """Sort runs by the time at which they were asked for."""
    op.create_index("run_requested", "run", ["requested_at"])
