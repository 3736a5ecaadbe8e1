"""The tables of the registry, and the version of their layout.

Columns carry the names of the fields of :class:`~zoo.registry.records.Run`, ``Checkpoint`` and of
the history, so that a row becomes a value without a table of translations.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from zoo.registry.values import Figure

SCHEMA = 4  # see zoo.registry.migrations
BIG = BigInteger().with_variant(Integer, "sqlite")  # there an Integer has 64 bits already


metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)

# What all members of a zoo share; the identifier is the SHA-256 of the other columns.
dataset = Table(
    "dataset",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("data_ref", Text, nullable=False),
    Column("data_fingerprint", String(64), nullable=False),
    Column("split_hash", String(64), nullable=False),
    Column("task", String(20), nullable=False),
    Column("classes", JSON, nullable=False),
    Column("preprocessing", JSON, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String(12), nullable=False, unique=True),
    Column("identity", String(64), nullable=False, unique=True),
    Column("dataset_id", ForeignKey("dataset.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("seed", Integer),
    Column("config", JSON, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("varied", JSON, nullable=False),
    Column("status", String(20), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("requested_at", String(40), nullable=False),
    Column("started_at", String(32)),
    Column("finished_at", String(32)),
    Column("best_epoch", Integer),
    Column("epochs", Integer),
    Column("metrics", JSON, nullable=False),
    Column("seconds", Float),
    Column("error", Text),
    Column("environment", JSON, nullable=False),
    # The claim: see zoo.registry.claims; the heartbeat is in seconds since 1970.
    Column("owner", Text),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("heartbeat", Float),
    Index("run_name", "name"),
    Index("run_owner", "owner"),
    Index("run_requested", "requested_at"),
)

parent = Table(
    "parent",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("parent_id", ForeignKey("run.id"), nullable=False),
)

history = Table(
    "history",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("train_loss", Figure),
    Column("train_metric", Figure),
    Column("val_loss", Figure),
    Column("val_metric", Figure),
    Column("lr", Figure),
    Column("grad_norm", Figure),
    Column("seconds", Figure),
    Column("averages", JSON),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BIG, nullable=False),
    Column("epoch", Integer),
    Column("source", String(10), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Index("checkpoint_run", "run_id"),
    Index("checkpoint_content", "sha256"),
)

# How often the test rows that runs share were looked at.
look = Table(
    "look",
    metadata,
    Column("data_fingerprint", String(64), primary_key=True),
    Column("common_split", String(64), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", String(32), nullable=False),
)
