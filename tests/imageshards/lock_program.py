"""A process that wants a writer lock: `lock_program.py ARGUMENTS`, a JSON object with the fields of `Wish`.

Its lines on stdout: `waiting …` while another run holds the lock, `held` when it has it, `lost: …` or `kept` after a
check, `interrupted` when SIGINT ended it.
"""

from __future__ import annotations

import sys
import time
import uuid

from pydantic import BaseModel

from imageshards.errors import StoreError
from imageshards.lease import Holder, LeasePolicy
from imageshards.store import Store, StoreSpec, open_store
from imageshards.writer_lock import writer_lock

DATASET = "pets"
COUNTER = "counter"


class Wish(BaseModel):
    """What the process is to do.

    Attributes:
        store: Where the lock lies; the keys to it are in the environment.
        increments: How often to read a counter and write it back, greater by one, under the lock; 0 to take the lock
            once, and to check it at each line of stdin.
        policy: The times of the lease.
    """

    store: StoreSpec
    increments: int = 0
    policy: LeasePolicy = LeasePolicy()


def main() -> None:
    wish = Wish.model_validate_json(sys.argv[1])
    store = open_store(wish.store)
    if wish.increments:
        count(store, wish)
    else:
        hold(store, wish)


def count(store: Store, wish: Wish) -> None:
    for _ in range(wish.increments):
        with writer_lock(
            store, DATASET, holder=Holder(run_id=uuid.uuid4().hex, name="counting"), policy=wish.policy
        ) as lock:
            number = int(store.get(COUNTER))
            time.sleep(0.005)
            store.put(COUNTER, b"%d" % (number + 1))
            lock.check()


def hold(store: Store, wish: Wish) -> None:
    holder = Holder(run_id=uuid.uuid4().hex, name="holding")
    try:
        with writer_lock(store, DATASET, holder=holder, on_wait=say, policy=wish.policy) as lock:
            say("held")
            for _ in sys.stdin:
                try:
                    lock.check()
                    say("kept")
                except StoreError as error:
                    say(f"lost: {error}")
    except KeyboardInterrupt:
        say("interrupted")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
