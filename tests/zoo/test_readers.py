"""Who reads sees one moment of the registry, and whole weights, whatever the others do."""

import threading
import time

from sqlalchemy import func, select
from test_registry import new_run, state

from zoo.registry import tables
from zoo.registry.records import Batch
from zoo.registry.upkeep import collect, verify

PUBLICATIONS = 25


def test_a_reader_sees_one_moment_while_others_write(places):
    count = select(func.count()).select_from(tables.run)
    with places.open() as reader, places.open() as writer:
        with reader.database.read() as connection:
            assert connection.scalar(count) == 0
            writer.add([new_run()])
            assert connection.scalar(count) == 0
        assert len(reader.runs()) == 1


def test_weights_that_are_replaced_and_collected_meanwhile_are_whole(places):
    """A writer replaces weights, a collector takes all that nothing refers to: of any age."""
    with places.open() as writer, places.open() as reader:
        (run,) = writer.add([new_run()])
        writer.claim([run.id])
        over, seen, failed = threading.Event(), [], []

        def collecting():
            try:
                with places.open() as collector:
                    while not over.is_set():
                        collect(collector, grace_s=-60.0)
            except BaseException as error:
                failed.append(error)
                raise

        def write(value):
            kept = writer.put(run.id, state(value), kind="last", epoch=1, metrics={"v": value})
            time.sleep(0.01)  # in which it is there and nothing refers to it
            writer.write(Batch(checkpoints=[kept]))

        write(0.0)
        thread = threading.Thread(target=collecting)
        thread.start()
        try:
            for number in range(1, PUBLICATIONS):
                (kept,) = reader.checkpoints(run.id)
                write(float(number))
                found = reader.content(kept, "what was there when the reader looked")
                assert len(found) == kept.size
                seen.append(int(reader.load(run.id, "last")["weight"][0, 0]))
        finally:
            over.set()
            thread.join()
        assert failed == []
        assert seen == list(range(1, PUBLICATIONS))
        assert verify(writer).faults == []
        writer.finish(run.id, "failed")
        assert len(collect(writer, grace_s=-60.0)) == PUBLICATIONS - 1
        assert verify(writer).faults == []
