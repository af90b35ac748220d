"""Errors keep their type and context wherever they travel: through pickle, through JSON, to another process."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards import errors, executor
from imageshards.errors import (
    Check,
    ConfigError,
    ImageShardsError,
    ObjectExistsError,
    ObjectMissingError,
    RejectReason,
    SampleError,
    SourceError,
    StoreError,
    TransientError,
    ValidationError,
    error_from_dict,
)

CHECKS = (
    Check("row-count", False, "3 rows", "2 rows", ("beagle_1", "pug_2")),
    Check("schema", True, "the schema", "so"),
)
ERRORS = [
    ImageShardsError("base", attempt=3, share=0.5, name=None, found=["a", {"b": 1}]),
    ConfigError("no such recipe", key="fit"),
    SourceError("wrong checksum", expected="ab", found="cd"),
    StoreError("denied", uri="s3://bucket/key"),
    ObjectMissingError("gone", key="x"),
    ObjectExistsError("there already", key="x"),
    TransientError("throttled", code=503),
    SampleError("cut off", reason=RejectReason.TRUNCATED, image_id="beagle_116"),
    SampleError("undecodable"),
    ValidationError("two rows are missing", checks=CHECKS, resolution=224),
    executor.WorkerLostError("killed", unit="test 0/1"),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
contexts = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name not in {"message", "self", "reason", "checks"}), json_values
)


def all_classes(cls: type[ImageShardsError] = ImageShardsError) -> set[type[ImageShardsError]]:
    ours = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("imageshards.")]
    return {cls}.union(*(all_classes(sub) for sub in ours))


def assert_same(found: BaseException, error: ImageShardsError) -> None:
    assert type(found) is type(error)
    assert vars(found) == vars(error)
    assert str(found) == str(error) == error.message


def test_every_class_is_among_the_examples():
    assert {type(error) for error in ERRORS} == all_classes()


def test_the_tree_at_the_top_of_the_file_is_the_tree():
    named = re.findall(r"[├└]─ (\w+)", errors.__doc__ or "")
    assert {cls.__name__ for cls in ImageShardsError.__subclasses__()} == set(named)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error, protocol):
    assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_survives_being_copied_and_pickled_twice(error):
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)
    assert_same(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error)))), error)


def test_errors_go_to_another_process_and_come_back():
    echo = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(pickle.loads(sys.stdin.buffer.read())))"
    done = subprocess.run([sys.executable, "-c", echo], input=pickle.dumps(ERRORS), capture_output=True, check=True)
    for found, error in zip(pickle.loads(done.stdout), ERRORS, strict=True):
        assert_same(found, error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_survives_json(error):
    assert_same(error_from_dict(json.loads(json.dumps(error.to_dict()))), error)


@given(st.sampled_from([type(error) for error in ERRORS]), st.text(), contexts)
def test_any_message_and_context_survive(cls, message, context):
    error = cls(message, **context)
    assert_same(pickle.loads(pickle.dumps(error)), error)
    assert_same(error_from_dict(json.loads(json.dumps(error.to_dict()))), error)


def test_an_unknown_type_becomes_the_base_class():
    assert_same(error_from_dict({"type": "Later", "message": "m", "context": {"a": 1}}), ImageShardsError("m", a=1))
    assert_same(error_from_dict({}), ImageShardsError("unknown error"))


def test_only_transient_errors_are_retried():
    assert {cls for cls in all_classes() if issubclass(cls, TransientError)} == {
        TransientError,
        executor.WorkerLostError,
    }
    assert not issubclass(TransientError, StoreError)


def test_missing_and_existing_objects_are_store_errors():
    assert issubclass(ObjectMissingError, StoreError)
    assert issubclass(ObjectExistsError, StoreError)


def test_a_reason_outside_of_the_closed_list_is_refused():
    with pytest.raises(ValueError, match="ugly"):
        SampleError("m", reason="ugly")


@pytest.mark.parametrize("reason", RejectReason)
def test_each_reason_is_kept_as_plain_text_in_the_context(reason):
    error = SampleError("m", reason=reason)
    assert error.reason is reason
    assert type(error.context["reason"]) is str


def test_a_check_says_itself_in_one_sentence():
    assert CHECKS[0].sentence() == "row-count: expected 3 rows, found 2 rows (beagle_1, pug_2)"
    assert CHECKS[1].sentence() == "schema: expected the schema, found so"


def test_a_validation_error_names_what_failed_and_keeps_what_passed():
    error = ValidationError.of("oxford-iiit-pet at 224 px", CHECKS, resolution=224)
    assert "row-count: expected 3 rows, found 2 rows" in error.message
    assert "schema" not in error.message
    assert error.checks == CHECKS
    assert error.context["resolution"] == 224
