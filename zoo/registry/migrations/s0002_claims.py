"""Schema 2: a run in training is somebody's."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Let runs have an owner, a fence and a heartbeat."""
    op.add_column("run", sa.Column("owner", sa.Text))
    op.add_column("run", sa.Column("fence", sa.Integer, nullable=False, server_default="0"))
    op.add_column("run", sa.Column("heartbeat", sa.Float))
    op.create_index("run_owner", "run", ["owner"])
