"""Schema 4: looks at test rows are counted."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Make the table of counts."""
    op.create_table(
        "look",
        sa.Column("data_fingerprint", sa.String(64), primary_key=True),
        sa.Column("common_split", sa.String(64), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("last_at", sa.String(32), nullable=False),
    )
