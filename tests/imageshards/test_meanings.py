"""Everything that a report can name has a sentence that says what it means."""

from imageshards.decoded import Repair
from imageshards.errors import RejectReason
from imageshards.index import NO_SPLIT_RULE, TOO_LARGE_RULE
from imageshards.meanings import LEFT_OUT, REJECTS, REPAIRS


def test_each_repair_is_explained() -> None:
    assert set(REPAIRS) == set(Repair)


def test_each_reason_of_a_reject_is_explained() -> None:
    assert set(REJECTS) == set(RejectReason)


def test_each_rule_that_leaves_images_out_is_explained() -> None:
    assert set(LEFT_OUT) == {NO_SPLIT_RULE, TOO_LARGE_RULE}
