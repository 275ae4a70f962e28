"""Sleeps that end on time: never early, in order, several at once."""

from __future__ import annotations

import asyncio
import threading

from rowcast.drivers.sockets.alarm import FINE_S, Alarm


def run(body):
    """Run a coroutine function of (loop, alarm) on a loop of its own."""
    loop = asyncio.new_event_loop()
    alarm = Alarm(loop)
    try:
        return loop.run_until_complete(asyncio.wait_for(body(loop, alarm), 30))
    finally:
        alarm.close()
        loop.close()


def test_no_sleep_ends_early_and_the_shorter_ends_first():
    async def body(loop, alarm):
        ended = []

        async def sleeper(seconds):
            begun = loop.time()
            await alarm.sleep(seconds)
            ended.append((seconds, loop.time() - begun))

        await asyncio.gather(*map(sleeper, (8 * FINE_S, 0.0, FINE_S / 4, 4 * FINE_S)))
        return ended

    ended = run(body)
    assert [seconds for seconds, _ in ended] == sorted(seconds for seconds, _ in ended)
    assert all(passed >= seconds for seconds, passed in ended)


def test_who_is_cancelled_in_his_sleep_disturbs_nobody():
    async def body(loop, alarm):
        cancelled = loop.create_task(alarm.sleep(FINE_S))
        other = loop.create_task(alarm.sleep(FINE_S))
        await asyncio.sleep(0)
        cancelled.cancel()
        await other
        return cancelled.cancelled() or cancelled.cancelling() > 0

    assert run(body)


def test_its_thread_ends():
    before = threading.active_count()
    run(lambda loop, alarm: alarm.sleep(0.0))
    assert threading.active_count() == before
