"""Signals that come while a thread holds the locks that a handler would want."""

import os
import signal

from scheduler.cli.interrupts import Interrupts


def test_a_signal_is_counted_and_sets_the_event():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.stop.wait(10)
        assert interrupts.count == 1
        assert not interrupts.hurried


def test_a_signal_while_the_event_is_being_waited_for_never_waits_for_itself():
    with Interrupts() as interrupts:
        # Given the one who waits has just taken the event's lock, or is just giving it back
        with interrupts.stop._cond:
            # When two signals come
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            # Then their handlers return, and count both
            assert interrupts.hurried
        # And the event is set when its lock is free
        assert interrupts.stop.wait(10)


def test_handlers_are_put_back_and_nothing_is_set_at_the_end():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    assert not interrupts.stop.is_set()
