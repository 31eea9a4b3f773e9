"""Code of others cannot end the program, whatever it raises or calls."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from remote_mi.common.authors_code import ProcessEnded, contained, describe_error


class Odd(BaseException):
    """What no handler is meant to catch."""


def throw(error: BaseException) -> NoReturn:
    raise error


ENDS = {
    "sys.exit() would": lambda: sys.exit(),
    "sys.exit(0) would": lambda: sys.exit(0),
    "sys.exit('so') would": lambda: sys.exit("so"),
    "os._exit(0) would": lambda: os._exit(0),
    "GeneratorExit is not": lambda: throw(GeneratorExit()),
    "Odd is not": lambda: throw(Odd("hm")),
}


@pytest.mark.parametrize("said", ENDS)
def test_an_attempt_to_end_the_process_is_an_exception(said):
    leave = os._exit
    with pytest.raises(ProcessEnded) as caught, contained(), contained():
        ENDS[said]()
    assert str(caught.value).startswith(said)
    assert describe_error(caught.value) == str(caught.value)  # without the name of the class
    assert os._exit is leave


@pytest.mark.parametrize("error", [ValueError("as ever"), KeyboardInterrupt()])
def test_errors_and_ctrl_c_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, contained():
        raise error
    assert caught.value is error


def test_a_thread_that_the_code_starts_is_contained_too():
    raised: list[BaseException] = []

    def leave() -> None:
        try:
            os._exit(0)
        except BaseException as error:
            raised.append(error)

    with contained():
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    assert len(raised) == 1


def returns() -> None:
    pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("leave", "status"),
    [
        (returns, 0),
        (lambda: sys.exit(3), 3),
        (lambda: os._exit(4), 4),
        (lambda: throw(ValueError("in the child")), 1),
    ],
)
def test_a_forked_child_ends_where_the_code_of_others_does(
    leave: Callable[[], Any], status: int
) -> None:
    child, mine = 0, os.getpid()
    try:
        with contained():
            child = os.fork()
            if child == 0:
                leave()
    finally:
        if os.getpid() != mine:  # it must not get here: it would run the tests a second time
            os.kill(os.getpid(), 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
