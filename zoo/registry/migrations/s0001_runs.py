"""Schema 1: runs, what they share, their histories and their checkpoints."""

import sqlalchemy as sa
from alembic import op

# SQLite's integers have 64 bits whatever they are called.
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "meta",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("data_ref", sa.Text, nullable=False),
        sa.Column("data_fingerprint", sa.String(64), nullable=False),
        sa.Column("split_hash", sa.String(64), nullable=False),
        sa.Column("task", sa.String(20), nullable=False),
        sa.Column("classes", sa.JSON, nullable=False),
        sa.Column("preprocessing", sa.JSON, nullable=False),
    )
    op.create_table(
        "run",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(12), nullable=False, unique=True),
        sa.Column("identity", sa.String(64), nullable=False, unique=True),
        sa.Column("dataset_id", sa.String(64), sa.ForeignKey("dataset.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("seed", sa.Integer),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("config_hash", sa.String(64), nullable=False),
        sa.Column("varied", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("requested_at", sa.String(40), nullable=False),
        sa.Column("started_at", sa.String(32)),
        sa.Column("finished_at", sa.String(32)),
        sa.Column("best_epoch", sa.Integer),
        sa.Column("epochs", sa.Integer),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("error", sa.Text),
        sa.Column("environment", sa.JSON, nullable=False),
    )
    op.create_index("run_name", "run", ["name"])
    op.create_table(
        "parent",
        sa.Column("run_id", sa.String(12), sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.String(12), sa.ForeignKey("run.id"), nullable=False),
    )
    op.create_table(
        "history",
        sa.Column("run_id", sa.String(12), sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("train_loss", sa.Float),
        sa.Column("train_metric", sa.Float),
        sa.Column("val_loss", sa.Float),
        sa.Column("val_metric", sa.Float),
        sa.Column("lr", sa.Float),
        sa.Column("grad_norm", sa.Float),
        sa.Column("seconds", sa.Float),
        sa.Column("averages", sa.JSON),
    )
    op.create_table(
        "checkpoint",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String(12), sa.ForeignKey("run.id"), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index("checkpoint_run", "checkpoint", ["run_id"])
    op.create_index("checkpoint_content", "checkpoint", ["sha256"])
